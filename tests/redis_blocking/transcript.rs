//! One synchronous program, written against redis-rs alone, that notes every result it sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use redis::streams::{StreamRangeReply, StreamReadOptions, StreamReadReply};
use redis::{
    Cmd, ConnectionLike, FromRedisValue, Iter, RedisResult, Script, Value, cmd, pipe, transaction,
};

/// A result and the step it belongs to, as text.
pub(crate) type Transcript = Vec<String>;

/// What an application can do with a connection. Needs an empty database.
///
/// Knows nothing of the type it is given: this is the code that must not change.
pub(crate) fn record<C: ConnectionLike>(connect: impl Fn() -> C) -> Transcript {
    let mut con = connect();
    let mut notes = record_stateless(connect());
    transactions(&mut con, &mut connect(), &mut notes);
    watches(&mut con, &mut notes);
    notes
}

/// What needs no memory between two calls.
pub(crate) fn record_stateless<C: ConnectionLike>(mut con: C) -> Transcript {
    let mut notes = Transcript::new();
    commands(&mut con, &mut notes);
    typed_commands(&mut con, &mut notes);
    raw_values(&mut con, &mut notes);
    pipelines(&mut con, &mut notes);
    packed(&mut con, &mut notes);
    scripts(&mut con, &mut notes);
    iterators(&mut con, &mut notes);
    streams(&mut con, &mut notes);
    blocking(&mut con, &mut notes);
    errors(&mut con, &mut notes);
    note(&mut notes, "db", con.get_db());
    note(&mut notes, "pipelining", con.supports_pipelining());
    note(&mut notes, "check", (con.check_connection(), con.is_open()));
    notes
}

fn note(notes: &mut Transcript, step: &str, result: impl Debug) {
    notes.push(format!("{step}: {result:?}"));
}

fn commands<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    use redis::Commands;
    note(notes, "ping", con.ping::<String>());
    note(notes, "set", con.set::<_, _, ()>("text", "grün"));
    note(notes, "get", con.get::<_, String>("text"));
    note(notes, "get nothing", con.get::<_, Option<String>>("no"));
    note(notes, "incr", con.incr::<_, _, i64>("n", 41));
    note(notes, "incr float", con.incr::<_, _, f64>("f", 0.5));
    note(notes, "mset", con.mset::<_, _, ()>(&[("a", 1), ("b", 2)]));
    let many: RedisResult<(i32, Option<i32>, i32)> = con.mget(&["a", "no", "b"]);
    note(notes, "mget", many);
    note(notes, "rpush", con.rpush::<_, _, i64>("l", &[1, 2, 3]));
    note(notes, "lrange", con.lrange::<_, Vec<i32>>("l", 0, -1));
    note(notes, "hset", con.hset::<_, _, _, i64>("h", "k", "v"));
    let hash: RedisResult<BTreeMap<String, String>> = con.hgetall("h");
    note(notes, "hgetall", hash);
    note(notes, "sadd", con.sadd::<_, _, i64>("s", &["x", "y"]));
    note(notes, "zadd", con.zadd::<_, _, _, i64>("z", "m", 1.5));
    let scores: RedisResult<Vec<(String, f64)>> = con.zrange_withscores("z", 0, -1);
    note(notes, "zrange", scores);
    note(notes, "del", con.del::<_, i64>(&["a", "b", "no"]));
    note(notes, "ttl", con.ttl::<_, i64>("z"));

    let binary: Vec<u8> = (0..=255).chain(*b"\r\n$-1\r\n\0").collect();
    note(notes, "set binary", con.set::<_, _, ()>(&binary, &binary));
    note(notes, "get binary", con.get::<_, Vec<u8>>(&binary));
    let big = vec![0xA5_u8; 1 << 20];
    note(notes, "set 1 MiB", con.set::<_, _, ()>("big", &big));
    let read = con.get::<_, Vec<u8>>("big");
    note(notes, "get 1 MiB", read.map(|read| read == big));
    note(notes, "empty value", con.set::<_, _, ()>("e", ""));
    note(notes, "empty read", con.get::<_, Option<Vec<u8>>>("e"));
}

fn typed_commands<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    use redis::TypedCommands;
    note(notes, "typed set", con.set("t", 7));
    note(notes, "typed get", con.get("t"));
    note(notes, "typed get int", con.get_int("t"));
    note(notes, "typed get nothing", con.get("no"));
    note(notes, "typed exists", con.exists("t"));
    note(notes, "typed rpush", con.rpush("tl", &["a", "b"]));
    note(
        notes,
        "typed lpop",
        con.lpop::<Option<String>, _>("tl", None),
    );
    note(notes, "typed hset", con.hset("th", "k", 1));
    note(notes, "typed hgetall", con.hgetall("th"));
    note(notes, "typed del", con.del("t"));
}

/// The level at which redis-rs hands replies over: server errors are values here.
fn raw_values<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    let commands: [&[&str]; 7] = [
        &["GET", "no"],
        &["HGETALL", "h"],
        &["ZSCORE", "z", "m"],
        &["LPOP", "text"],
        &["NOSUCHCOMMAND"],
        &["CONFIG", "GET", "maxmemory"],
        &["OBJECT", "ENCODING", "n"],
    ];
    for words in commands {
        let mut command = Cmd::new();
        command.arg(words);
        let reply = con.req_command(&command);
        note(notes, &format!("raw {words:?}"), reply);
        let reply = con.req_packed_command(&command.get_packed_command());
        note(notes, &format!("packed {words:?}"), reply);
    }
}

fn pipelines<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    let plain: RedisResult<(i32, Option<String>, Vec<i32>)> = pipe()
        .set("p", 1)
        .ignore()
        .incr("p", 1)
        .get("no")
        .lrange("l", 0, -1)
        .query(con);
    note(notes, "pipeline", plain);
    let atomic: RedisResult<(i32, i32)> = pipe()
        .atomic()
        .incr("p", 1)
        .set("q", 2)
        .ignore()
        .incr("p", 10)
        .query(con);
    note(notes, "atomic pipeline", atomic);
    note(notes, "empty pipeline", pipe().query::<()>(con));
    note(
        notes,
        "empty transaction",
        pipe().atomic().query::<Value>(con),
    );
    let failing: RedisResult<(i32, i32)> = pipe().incr("p", 1).incr("text", 1).query(con);
    note(notes, "failing element", failing);
    let lenient: RedisResult<Vec<RedisResult<i32>>> = pipe()
        .ignore_errors()
        .incr("p", 1)
        .incr("text", 1)
        .query(con);
    note(notes, "errors as elements", lenient);
    let failing: RedisResult<(i32, i32)> = pipe().atomic().incr("p", 1).lpush("p", 1).query(con);
    note(notes, "failing element of a transaction", failing);
    let aborted: RedisResult<()> = pipe().atomic().incr("p", 1).cmd("NOSUCHCOMMAND").query(con);
    note(notes, "aborted transaction", aborted);
    note(notes, "what is left", cmd("GET").arg("p").query::<i32>(con));

    let mut long = pipe();
    for n in 0..1000 {
        long.set(format!("many:{n}"), n).ignore();
    }
    long.mget(&["many:0", "many:999"]);
    note(notes, "a thousand", long.query::<Vec<(i32, i32)>>(con));
}

/// As a layer does that packs by itself.
fn packed<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    let mut plain = pipe();
    plain.incr("p", 1).get("no").incr("text", 1);
    let replies = con.req_packed_commands(&plain.get_packed_pipeline(), 0, 3);
    note(notes, "packed pipeline", replies);
    let mut atomic = pipe();
    atomic.atomic().incr("p", 1).get("no");
    let replies = con.req_packed_commands(&atomic.get_packed_pipeline(), 3, 1);
    note(notes, "packed transaction", replies);
    let replies = con.req_packed_commands(&atomic.get_packed_pipeline(), 0, 4);
    note(notes, "all its replies", replies);
    let replies = con.req_packed_commands(&atomic.get_packed_pipeline(), 1, 3);
    note(notes, "all but the first", replies);
    let by_hand: RedisResult<(String, String, Vec<i32>)> =
        pipe().cmd("MULTI").incr("p", 1).cmd("EXEC").query(con);
    note(notes, "a transaction by hand", by_hand);
}

fn scripts<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    let script =
        Script::new("return {KEYS[1], tonumber(ARGV[1]) * 2, redis.call('INCR', KEYS[1])}");
    for _ in 0..2 {
        let answer: RedisResult<(String, i32, i32)> = script.key("runs").arg(21).invoke(con);
        note(notes, "script", answer);
    }
    let _: RedisResult<()> = cmd("SCRIPT").arg("FLUSH").query(con);
    let again: RedisResult<(String, i32, i32)> = script.key("runs").arg(4).invoke(con);
    note(notes, "script reloaded", again);
    let failing = Script::new("redis.call('SET', 'half', 1) return redis.call('INCR', 'text')");
    note(notes, "failing script", failing.invoke::<i32>(con));
}

fn transactions<C: ConnectionLike>(con: &mut C, rival: &mut C, notes: &mut Transcript) {
    use redis::Commands;
    let _: RedisResult<()> = con.set("balance", 10);
    let mut tries = 0;
    let spent: RedisResult<(i32,)> = transaction(con, &["balance"], |con, pipe| {
        tries += 1;
        let balance: i32 = con.get("balance")?;
        if tries == 1 {
            let _: i32 = rival.incr("balance", 100)?;
        }
        pipe.set("balance", balance - 3)
            .ignore()
            .get("balance")
            .query(con)
    });
    note(notes, "transaction", (spent, tries));
    let refused: RedisResult<()> = transaction(con, &["balance"], |con, _| con.lpush("balance", 1));
    note(notes, "failing transaction", refused);
    let none: [&str; 0] = [];
    let keyless: RedisResult<()> = transaction(con, &none, |_, _| Ok(Some(())));
    note(notes, "transaction without keys", keyless);
}

fn watches<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    use redis::Commands;
    let mut exec = pipe();
    exec.atomic().incr("w", 1);
    note(notes, "watch", cmd("WATCH").arg("w").query::<Value>(con));
    let _: RedisResult<()> = con.set("w", 1);
    note(notes, "touched", exec.query::<Value>(con));
    note(notes, "afterwards", exec.query::<Value>(con));
    note(notes, "watch", cmd("WATCH").arg("w").query::<Value>(con));
    let _: RedisResult<()> = con.set("w", 5);
    note(notes, "unwatch", cmd("UNWATCH").query::<Value>(con));
    note(notes, "unwatched", exec.query::<Value>(con));
}

fn iterators<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    use redis::Commands;
    let mut fill = pipe();
    for n in 0..2000 {
        let member = format!("m{n}");
        fill.sadd("set", &member).ignore();
        fill.hset("hash", &member, n).ignore();
        fill.zadd("sorted", &member, n).ignore();
    }
    note(notes, "fill", fill.query::<()>(con));
    let keys: BTreeSet<String> = all(con.scan_match("many:*").unwrap());
    note(notes, "scan", keys);
    let set: BTreeSet<String> = all(con.sscan("set").unwrap());
    note(notes, "sscan", set);
    let hash: BTreeSet<(String, i32)> = all(con.hscan("hash").unwrap());
    note(notes, "hscan", hash);
    let sorted: BTreeSet<(String, u32)> = all(con.zscan("sorted").unwrap());
    note(notes, "zscan", sorted);
    let wrong = con.sscan::<_, String>("text");
    note(notes, "sscan of a text", wrong.map(|_| ()));
}

fn all<T: FromRedisValue + Ord>(iterator: Iter<'_, T>) -> BTreeSet<T> {
    iterator.map(Result::unwrap).collect()
}

fn streams<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    use redis::Commands;
    for n in 1..=3 {
        let id: RedisResult<String> = con.xadd("st", format!("{n}-1"), &[("n", n)]);
        note(notes, "xadd", id);
    }
    let range: RedisResult<StreamRangeReply> = con.xrange_all("st");
    note(notes, "xrange", range);
    let options = StreamReadOptions::default().block(1000).count(1);
    let read: RedisResult<Option<StreamReadReply>> = con.xread_options(&["st"], &["2-1"], &options);
    note(notes, "xread, blocking", read);
    let options = StreamReadOptions::default().block(20);
    let read: RedisResult<Option<StreamReadReply>> = con.xread_options(&["st"], &["$"], &options);
    note(notes, "xread, in vain", read);
}

fn blocking<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    use redis::Commands;
    let _: RedisResult<()> = con.rpush("queue", &["a", "b", "c"]);
    let popped: RedisResult<Option<(String, String)>> = con.blpop("queue", 1.0);
    note(notes, "blpop", popped);
    let popped: RedisResult<Option<(String, String)>> = con.brpop("queue", 0.0);
    note(notes, "brpop", popped);
    let moved: RedisResult<Option<String>> = con.brpoplpush("queue", "done", 1.0);
    note(notes, "brpoplpush", moved);
    let nothing: RedisResult<Option<(String, String)>> = con.blpop("queue", 0.05);
    note(notes, "blpop in vain", nothing);
    let wrong: RedisResult<Value> = con.blpop("text", 1.0);
    note(notes, "blpop of a text", wrong);
    let batch: RedisResult<Vec<Value>> = pipe()
        .rpush("queue", "d")
        .blpop("queue", 1.0)
        .llen("queue")
        .query(con);
    note(notes, "blpop in a pipeline", batch);
}

fn errors<C: ConnectionLike>(con: &mut C, notes: &mut Transcript) {
    use redis::Commands;
    let wrong = con.lpush::<_, _, i32>("text", 1).unwrap_err();
    note(notes, "WRONGTYPE", (wrong.kind(), wrong.code(), &wrong));
    let wrong = con.get::<_, i32>("text").unwrap_err();
    note(
        notes,
        "conversion",
        (wrong.kind(), wrong.retry_method(), &wrong),
    );
    let wrong = con.get::<_, String>("no").unwrap_err();
    note(notes, "nil as text", (wrong.kind(), &wrong));
    let wrong = cmd("GET").query::<()>(con).unwrap_err();
    note(notes, "arity", (wrong.kind(), &wrong));
    note(notes, "it goes on", con.get::<_, String>("text"));
}
