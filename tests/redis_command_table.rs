//! The command table against the one a real server has of itself.
#![cfg(all(feature = "redis", feature = "testing"))]

use std::collections::{HashMap, HashSet};

use multidb::command_table::{first_key_at, is_read_only, is_special};
use redis::{Cmd, Value};

mod support;
use support::redis_server::RedisServer;

#[tokio::test]
async fn what_we_repeat_the_server_calls_readonly() {
    let allowed: HashSet<_> = CHANGE_NOTHING.iter().copied().collect();
    let commands = commands().await;
    let mut used = HashSet::new();
    for (name, flags) in &commands {
        for cmd in in_both_cases(name) {
            if is_read_only(&cmd) && !flags.contains("readonly") {
                assert!(
                    allowed.contains(name.as_str()),
                    "{name} is flagged {flags:?}"
                );
                used.insert(name.as_str());
            }
            if flags.contains("write") {
                assert!(!is_read_only(&cmd), "{name} writes");
            }
        }
    }
    for name in allowed.difference(&used) {
        assert!(!commands.contains_key(*name), "{name} needs no exception");
    }
}

#[tokio::test]
async fn what_the_server_calls_readonly_we_repeat() {
    for (name, flags) in &commands().await {
        for cmd in in_both_cases(name) {
            assert!(is_read_only(&cmd) || !flags.contains("readonly"), "{name}");
        }
    }
}

/// Blocking, publish/subscribe and what a script may not call: commands with a tie to their
/// connection have one of these flags, so each that we treat as plain has a reason here.
#[tokio::test]
async fn what_is_tied_to_a_connection_is_special() {
    let plain: HashSet<_> = PLAIN
        .iter()
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    let commands = commands().await;
    let mut used = HashSet::new();
    for (name, flags) in &commands {
        let tied = ["blocking", "pubsub", "noscript"]
            .iter()
            .any(|flag| flags.contains(*flag));
        for cmd in in_both_cases(name) {
            if tied && !is_special(&cmd) {
                assert!(plain.contains(name.as_str()), "{name} is flagged {flags:?}");
                used.insert(name.as_str());
            }
        }
    }
    for name in plain.difference(&used) {
        assert!(!commands.contains_key(*name), "{name} needs no reason");
    }
}

/// By the place of a key that the server names, and by asking it where it names none.
#[tokio::test]
async fn a_command_goes_to_the_node_of_the_key_that_the_server_sees_first() {
    let server = RedisServer::start().await;
    let mut con = server.admin().await.expect("a connection");
    let (mut seen, mut wrong) = (0, Vec::new());
    for entry in server.cmd::<Vec<Value>>(&["COMMAND"]).await {
        let fields: Vec<Value> = redis::from_redis_value(entry).expect("an entry");
        let name: String = redis::from_redis_value_ref(&fields[0]).expect("a name");
        let arity: i64 = redis::from_redis_value_ref(&fields[1]).expect("an arity");
        let flags: HashSet<String> = redis::from_redis_value_ref(&fields[2]).expect("flags");
        let first: usize = redis::from_redis_value_ref(&fields[3]).expect("a place");
        let subcommands: Vec<Value> = redis::from_redis_value_ref(&fields[9]).expect("a list");
        if !subcommands.is_empty() {
            continue;
        }
        let mut cmd = redis::cmd(&name);
        for word in arguments(&name, arity.unsigned_abs() as usize) {
            cmd.arg(word);
        }
        // Channels are no keys to the server, and belong to a node all the same.
        let expected = match flags.contains("movablekeys") {
            false if name == "spublish" => Some(1),
            false => (first > 0).then_some(first),
            true => {
                let mut asked = redis::cmd("COMMAND");
                asked.arg("GETKEYS");
                for arg in cmd.args_iter() {
                    if let redis::Arg::Simple(word) = arg {
                        asked.arg(word);
                    }
                }
                let keys: Vec<Vec<u8>> =
                    asked.query_async(&mut con).await.unwrap_or_else(|error| {
                        panic!("{name}: {error}");
                    });
                let words = cmd.args_iter().skip(1);
                let at = words.into_iter().position(
                    |arg| matches!(arg, redis::Arg::Simple(word) if word == keys[0].as_slice()),
                );
                at.map(|at| at + 1)
            }
        };
        // Refused before a node is chosen.
        if is_special(&cmd) && matches!(name.as_str(), "ssubscribe" | "sunsubscribe") {
            continue;
        }
        if first_key_at(&cmd) != expected {
            wrong.push((name, first_key_at(&cmd), expected));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "ours, the server's: {wrong:?}");
    assert!(seen > 200, "{seen} commands");
}

/// Words that make a valid command, in which each key is called differently.
fn arguments(name: &str, arity: usize) -> Vec<String> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    match name {
        "eval" | "evalsha" | "eval_ro" | "evalsha_ro" | "fcall" | "fcall_ro" => words("f 2 k1 k2"),
        "xread" => words("COUNT 2 STREAMS k1 k2 0 0"),
        "xreadgroup" => words("GROUP g c STREAMS k1 >"),
        "blmpop" => words("0 2 k1 k2 LEFT"),
        "bzmpop" => words("0 2 k1 k2 MIN"),
        "lmpop" => words("2 k1 k2 LEFT"),
        "zmpop" => words("2 k1 k2 MIN"),
        "sintercard" | "zintercard" | "zunion" | "zinter" | "zdiff" => words("2 k1 k2"),
        "zunionstore" | "zinterstore" | "zdiffstore" => words("d 2 k1 k2"),
        "sort" | "sort_ro" => words("k1 BY nosort"),
        "georadius" => words("k1 0 0 1 m"),
        "georadiusbymember" => words("k1 m 1 m"),
        "migrate" => words("host 1 k1 0 1"),
        _ => (1..arity.max(2)).map(|n| format!("w{n}")).collect(),
    }
}

/// Commands and subcommands (`config|get`) with their flags.
async fn commands() -> HashMap<String, HashSet<String>> {
    let server = RedisServer::start().await;
    let mut found = HashMap::new();
    collect(server.cmd(&["COMMAND"]).await, &mut found);
    assert!(found.len() > 300, "{} commands", found.len());
    found
}

fn collect(entries: Vec<Value>, found: &mut HashMap<String, HashSet<String>>) {
    for entry in entries {
        let fields: Vec<Value> = redis::from_redis_value(entry).expect("an entry");
        let [name, _, flags, .., subcommands] = fields.as_slice() else {
            panic!("an entry without subcommands: {fields:?}");
        };
        let name = redis::from_redis_value_ref(name).expect("a name");
        let flags = redis::from_redis_value_ref(flags).expect("flags");
        found.insert(name, flags);
        collect(
            redis::from_redis_value_ref(subcommands).expect("subcommands"),
            found,
        );
    }
}

fn in_both_cases(name: &str) -> [Cmd; 2] {
    [name.to_ascii_lowercase(), name.to_ascii_uppercase()].map(|name| {
        let mut cmd = Cmd::new();
        for word in name.split('|') {
            cmd.arg(word);
        }
        // These block only if they are told to.
        if name.eq_ignore_ascii_case("xread") {
            cmd.arg(&["BLOCK", "0", "STREAMS", "s", "$"]);
        } else if name.eq_ignore_ascii_case("xreadgroup") {
            cmd.arg(&["GROUP", "g", "c", "BLOCK", "0", "STREAMS", "s", ">"]);
        }
        cmd
    })
}

/// Read no key, so that the server has no reason to flag them, and change nothing.
#[rustfmt::skip]
const CHANGE_NOTHING: &[&str] = &[
    "ping", "echo", "time", "info", "role", "lastsave",
    // Questions about the server's configuration, users, clients, code and statistics.
    "acl|cat", "acl|dryrun", "acl|genpass", "acl|getuser", "acl|list", "acl|users", "acl|whoami",
    "client|getname", "client|getredir", "client|id", "client|info", "client|list",
    "client|trackinginfo",
    "cluster|count-failure-reports", "cluster|countkeysinslot", "cluster|getkeysinslot",
    "cluster|info", "cluster|keyslot", "cluster|links", "cluster|myid",
    "cluster|myshardid", "cluster|nodes", "cluster|replicas", "cluster|shards", "cluster|slaves",
    "cluster|slot-stats", "cluster|slots",
    "command", "command|count", "command|docs", "command|getkeys", "command|getkeysandflags",
    "command|info", "command|list",
    "config|get",
    "function|dump", "function|list", "function|stats",
    "latency|doctor", "latency|graph", "latency|histogram", "latency|history", "latency|latest",
    "memory|doctor", "memory|malloc-stats", "memory|stats",
    "module|list",
    "pubsub|channels", "pubsub|numpat", "pubsub|numsub", "pubsub|shardchannels",
    "pubsub|shardnumsub",
    "script|exists", "script|show",
    "slowlog|get", "slowlog|len", "commandlog|get", "commandlog|len",
    // Texts for people.
    "acl|help", "client|help", "cluster|help", "command|help", "config|help", "function|help",
    "latency|help", "memory|help", "module|help", "object|help", "pubsub|help", "script|help",
    "slowlog|help", "commandlog|help", "xgroup|help", "xinfo|help",
];

/// Plain although the server flags them, with the reason.
#[rustfmt::skip]
const PLAIN: &[(&str, &[&str])] = &[
    (
        "about the server as a whole, whatever connection they come by",
        &[
            "acl|cat", "acl|deluser", "acl|dryrun", "acl|genpass", "acl|getuser", "acl|list",
            "acl|load", "acl|log", "acl|save", "acl|setuser", "acl|users",
            "bgrewriteaof", "bgsave", "save", "shutdown", "failover", "replicaof", "slaveof", "role",
            "cluster|reset", "config|get", "config|resetstat", "config|rewrite", "config|set",
            "debug",
            "latency|doctor", "latency|graph", "latency|histogram", "latency|history",
            "latency|latest", "latency|reset",
            "module|list", "module|load", "module|loadex", "module|unload",
        ],
    ),
    (
        "about other clients, or a question about this connection that all may ask",
        &[
            "acl|whoami", "client|getname", "client|getredir", "client|id", "client|info",
            "client|kill", "client|list", "client|pause", "client|trackinginfo", "client|unblock",
            "client|unpause",
        ],
    ),
    (
        "scripts, which may not call scripts; their code belongs to the server",
        &[
            "eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro", "function|delete",
            "function|dump", "function|flush", "function|kill", "function|list", "function|load",
            "function|restore", "function|stats", "script|exists", "script|flush", "script|kill",
            "script|load", "script|show",
        ],
    ),
    (
        "about publishing: they do not turn the connection into a subscriber",
        &[
            "publish", "spublish", "pubsub|channels", "pubsub|numpat", "pubsub|numsub",
            "pubsub|shardchannels", "pubsub|shardnumsub",
        ],
    ),
];
