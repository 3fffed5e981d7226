//! Commands that may be sent again without effect, named as `COMMAND INFO` names them.

/// Upper case, subcommands after a bar, sorted by bytes for a binary search.
///
/// Inside are the commands that Redis 7.0 flags `readonly`; those of 7.2 to 8.4, of Valkey and
/// of the common modules that their servers flag so; and commands that no server flags, because
/// they read no key, but that change nothing either (`PING`, `CONFIG GET`, every `HELP`).
///
/// Judged one by one:
/// * `PFCOUNT` may store the cardinality it computed in the key's header. The answer and the set
///   stay the same, so a second one has no effect. `TOUCH` refreshes an access time, likewise.
/// * `EVAL_RO`, `EVALSHA_RO`, `FCALL_RO`: the server refuses writes and `PUBLISH` in them.
/// * `COMMAND` stands without subcommands: all of them read.
/// * `FT.AGGREGATE ... WITHCURSOR` leaves a cursor behind, which ends by its own idle time.
///
/// Outside, against a first impression:
/// * `SORT`, `GEORADIUS`, `GEORADIUSBYMEMBER` (their `STORE`), `GETEX`, `BITFIELD`: some forms only
///   read, but the server flags the command `write` and this table never contradicts that.
/// * `XREADGROUP` moves the group on; `FT.CURSOR` and `BF.SCANDUMP` belong to an earlier answer.
/// * `ACL LOG`, `DEBUG`, `SLOWLOG RESET`: an argument can make them change something, or they do.
/// * `WAIT`, `WAITAOF`: what they answer depends on the connection that asks.
#[rustfmt::skip]
pub(super) const READ_ONLY: &[&str] = &[
    "ACL|CAT", "ACL|DRYRUN", "ACL|GENPASS", "ACL|GETUSER", "ACL|HELP", "ACL|LIST", "ACL|USERS",
    "ACL|WHOAMI", "BF.CARD", "BF.EXISTS", "BF.INFO", "BF.MEXISTS", "BITCOUNT", "BITFIELD_RO",
    "BITPOS", "CF.COUNT", "CF.EXISTS", "CF.INFO", "CF.MEXISTS", "CLIENT|GETNAME", "CLIENT|GETREDIR",
    "CLIENT|HELP", "CLIENT|ID", "CLIENT|INFO", "CLIENT|LIST", "CLIENT|TRACKINGINFO",
    "CLUSTER|COUNT-FAILURE-REPORTS", "CLUSTER|COUNTKEYSINSLOT", "CLUSTER|GETKEYSINSLOT",
    "CLUSTER|HELP", "CLUSTER|INFO", "CLUSTER|KEYSLOT", "CLUSTER|LINKS", "CLUSTER|MYID",
    "CLUSTER|MYSHARDID", "CLUSTER|NODES", "CLUSTER|REPLICAS", "CLUSTER|SHARDS", "CLUSTER|SLAVES",
    "CLUSTER|SLOT-STATS", "CLUSTER|SLOTS", "CMS.INFO", "CMS.QUERY", "COMMAND", "COMMANDLOG|GET",
    "COMMANDLOG|HELP", "COMMANDLOG|LEN", "CONFIG|GET", "CONFIG|HELP", "DBSIZE", "DIGEST", "DUMP",
    "ECHO", "EVALSHA_RO", "EVAL_RO", "EXISTS", "EXPIRETIME", "FCALL_RO", "FT.AGGREGATE",
    "FT.DICTDUMP", "FT.EXPLAIN", "FT.EXPLAINCLI", "FT.HYBRID", "FT.INFO", "FT.PROFILE", "FT.SEARCH",
    "FT.SPELLCHECK", "FT.SUGGET", "FT.SUGLEN", "FT.SYNDUMP", "FT.TAGVALS", "FT._LIST",
    "FUNCTION|DUMP", "FUNCTION|HELP", "FUNCTION|LIST", "FUNCTION|STATS", "GEODIST", "GEOHASH",
    "GEOPOS", "GEORADIUSBYMEMBER_RO", "GEORADIUS_RO", "GEOSEARCH", "GET", "GETBIT", "GETRANGE",
    "HEXISTS", "HEXPIRETIME", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HPEXPIRETIME", "HPTTL",
    "HRANDFIELD", "HSCAN", "HSTRLEN", "HTTL", "HVALS", "INFO", "JSON.ARRINDEX", "JSON.ARRLEN",
    "JSON.GET", "JSON.MGET", "JSON.OBJKEYS", "JSON.OBJLEN", "JSON.RESP", "JSON.STRLEN", "JSON.TYPE",
    "KEYS", "LASTSAVE", "LATENCY|DOCTOR", "LATENCY|GRAPH", "LATENCY|HELP", "LATENCY|HISTOGRAM",
    "LATENCY|HISTORY", "LATENCY|LATEST", "LCS", "LINDEX", "LLEN", "LOLWUT", "LPOS", "LRANGE",
    "MEMORY|DOCTOR", "MEMORY|HELP", "MEMORY|MALLOC-STATS", "MEMORY|STATS", "MEMORY|USAGE", "MGET",
    "MODULE|HELP", "MODULE|LIST", "OBJECT|ENCODING", "OBJECT|FREQ", "OBJECT|HELP",
    "OBJECT|IDLETIME", "OBJECT|REFCOUNT", "PEXPIRETIME", "PFCOUNT", "PING", "PTTL",
    "PUBSUB|CHANNELS", "PUBSUB|HELP", "PUBSUB|NUMPAT", "PUBSUB|NUMSUB", "PUBSUB|SHARDCHANNELS",
    "PUBSUB|SHARDNUMSUB", "RANDOMKEY", "ROLE", "SCAN", "SCARD", "SCRIPT|EXISTS", "SCRIPT|HELP",
    "SCRIPT|SHOW", "SDIFF", "SINTER", "SINTERCARD", "SISMEMBER", "SLOWLOG|GET", "SLOWLOG|HELP",
    "SLOWLOG|LEN", "SMEMBERS", "SMISMEMBER", "SORT_RO", "SRANDMEMBER", "SSCAN", "STRLEN", "SUBSTR",
    "SUNION", "TDIGEST.BYRANK", "TDIGEST.BYREVRANK", "TDIGEST.CDF", "TDIGEST.INFO", "TDIGEST.MAX",
    "TDIGEST.MIN", "TDIGEST.QUANTILE", "TDIGEST.RANK", "TDIGEST.REVRANK", "TDIGEST.TRIMMED_MEAN",
    "TIME", "TOPK.COUNT", "TOPK.INFO", "TOPK.LIST", "TOPK.QUERY", "TOUCH", "TS.GET", "TS.INFO",
    "TS.MGET", "TS.MRANGE", "TS.MREVRANGE", "TS.QUERYINDEX", "TS.RANGE", "TS.REVRANGE", "TTL",
    "TYPE", "VCARD", "VDIM", "VEMB", "VGETATTR", "VINFO", "VISMEMBER", "VLINKS", "VRANDMEMBER",
    "VRANGE", "VSIM", "XGROUP|HELP", "XINFO|CONSUMERS", "XINFO|GROUPS", "XINFO|HELP",
    "XINFO|STREAM", "XLEN", "XPENDING", "XRANGE", "XREAD", "XREVRANGE", "ZCARD", "ZCOUNT", "ZDIFF",
    "ZINTER", "ZINTERCARD", "ZLEXCOUNT", "ZMSCORE", "ZRANDMEMBER", "ZRANGE", "ZRANGEBYLEX",
    "ZRANGEBYSCORE", "ZRANK", "ZREVRANGE", "ZREVRANGEBYLEX", "ZREVRANGEBYSCORE", "ZREVRANK",
    "ZSCAN", "ZSCORE", "ZUNION",
];
