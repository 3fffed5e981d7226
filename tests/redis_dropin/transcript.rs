//! One program, written against redis-rs alone, that notes every result it sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use futures_util::StreamExt;
use redis::aio::{ConnectionLike, transaction_async};
use redis::streams::{StreamRangeReply, StreamReadOptions, StreamReadReply};
use redis::{Cmd, FromRedisValue, RedisResult, Script, Value, cmd, pipe};

/// A result and the step it belongs to, as text.
pub(crate) type Transcript = Vec<String>;

/// What an application can do with a connection. Needs an empty database.
///
/// Knows nothing of the type it is given: this is the code that must not change.
pub(crate) async fn record<C>(con: C) -> Transcript
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let mut notes = Transcript::new();
    commands(con.clone(), &mut notes).await;
    typed_commands(con.clone(), &mut notes).await;
    raw_values(con.clone(), &mut notes).await;
    pipelines(con.clone(), &mut notes).await;
    scripts(con.clone(), &mut notes).await;
    transactions(con.clone(), &mut notes).await;
    iterators(con.clone(), &mut notes).await;
    streams(con.clone(), &mut notes).await;
    blocking(con.clone(), &mut notes).await;
    errors(con.clone(), &mut notes).await;
    notes.push(format!("db: {}", con.get_db()));
    notes
}

fn note(notes: &mut Transcript, step: &str, result: impl Debug) {
    notes.push(format!("{step}: {result:?}"));
}

async fn commands<C: ConnectionLike + Send + Sync>(mut con: C, notes: &mut Transcript) {
    use redis::AsyncCommands;
    note(notes, "ping", con.ping::<String>().await);
    note(notes, "set", con.set::<_, _, ()>("text", "grün").await);
    note(notes, "get", con.get::<_, String>("text").await);
    note(
        notes,
        "get nothing",
        con.get::<_, Option<String>>("no").await,
    );
    note(notes, "incr", con.incr::<_, _, i64>("n", 41).await);
    note(notes, "incr float", con.incr::<_, _, f64>("f", 0.5).await);
    note(
        notes,
        "mset",
        con.mset::<_, _, ()>(&[("a", 1), ("b", 2)]).await,
    );
    let many: RedisResult<(i32, Option<i32>, i32)> = con.mget(&["a", "no", "b"]).await;
    note(notes, "mget", many);
    note(
        notes,
        "rpush",
        con.rpush::<_, _, i64>("l", &[1, 2, 3]).await,
    );
    note(notes, "lrange", con.lrange::<_, Vec<i32>>("l", 0, -1).await);
    note(notes, "hset", con.hset::<_, _, _, i64>("h", "k", "v").await);
    let hash: RedisResult<BTreeMap<String, String>> = con.hgetall("h").await;
    note(notes, "hgetall", hash);
    note(notes, "sadd", con.sadd::<_, _, i64>("s", &["x", "y"]).await);
    note(
        notes,
        "smembers",
        con.smembers::<_, BTreeSet<String>>("s").await,
    );
    note(notes, "zadd", con.zadd::<_, _, _, i64>("z", "m", 1.5).await);
    let scores: RedisResult<Vec<(String, f64)>> = con.zrange_withscores("z", 0, -1).await;
    note(notes, "zrange", scores);
    note(notes, "exists", con.exists::<_, bool>("n").await);
    note(notes, "del", con.del::<_, i64>(&["a", "b", "no"]).await);
    note(notes, "type", con.key_type::<_, String>("z").await);
    note(notes, "ttl", con.ttl::<_, i64>("z").await);

    let binary: Vec<u8> = (0..=255).chain(*b"\r\n$-1\r\n\0").collect();
    note(
        notes,
        "set binary",
        con.set::<_, _, ()>(&binary, &binary).await,
    );
    note(notes, "get binary", con.get::<_, Vec<u8>>(&binary).await);
    let big = vec![0xA5_u8; 1 << 20];
    note(notes, "set 1 MiB", con.set::<_, _, ()>("big", &big).await);
    let read = con.get::<_, Vec<u8>>("big").await;
    note(notes, "get 1 MiB", read.map(|read| read == big));
    let half = con.getrange::<_, Vec<u8>>("big", 0, (1 << 19) - 1).await;
    note(notes, "getrange", half.map(|half| half.len()));
    note(notes, "empty value", con.set::<_, _, ()>("e", "").await);
    note(
        notes,
        "empty read",
        con.get::<_, Option<Vec<u8>>>("e").await,
    );
}

async fn typed_commands<C: ConnectionLike + Send + Sync>(mut con: C, notes: &mut Transcript) {
    use redis::AsyncTypedCommands;
    note(notes, "typed set", con.set("t", 7).await);
    note(notes, "typed get", con.get("t").await);
    note(notes, "typed get int", con.get_int("t").await);
    note(notes, "typed get nothing", con.get("no").await);
    note(notes, "typed exists", con.exists("t").await);
    note(notes, "typed rpush", con.rpush("tl", &["a", "b"]).await);
    note(
        notes,
        "typed lpop",
        con.lpop::<Option<String>, _>("tl", None).await,
    );
    note(notes, "typed hset", con.hset("th", "k", 1).await);
    note(notes, "typed hgetall", con.hgetall("th").await);
    note(notes, "typed del", con.del("t").await);
}

/// The level at which redis-rs hands replies over: server errors are values here.
async fn raw_values<C: ConnectionLike + Send>(mut con: C, notes: &mut Transcript) {
    let commands: [&[&str]; 8] = [
        &["GET", "no"],
        &["HGETALL", "h"],
        &["ZSCORE", "z", "m"],
        &["SMISMEMBER", "s", "x", "q"],
        &["LPOP", "text"],
        &["NOSUCHCOMMAND"],
        &["CONFIG", "GET", "maxmemory"],
        &["OBJECT", "ENCODING", "n"],
    ];
    for words in commands {
        let mut command = Cmd::new();
        command.arg(words);
        let reply = con.req_packed_command(&command).await;
        note(notes, &format!("raw {words:?}"), reply);
    }
    let mut unheard = cmd("SET");
    unheard.arg("unheard").arg(1).set_no_response(true);
    note(notes, "no response", con.req_packed_command(&unheard).await);
    let after: RedisResult<i32> = cmd("GET").arg("unheard").query_async(&mut con).await;
    note(notes, "its effect", after);
}

async fn pipelines<C: ConnectionLike + Send>(mut con: C, notes: &mut Transcript) {
    let plain: RedisResult<(i32, Option<String>, Vec<i32>)> = pipe()
        .cmd("SET")
        .arg("p")
        .arg(1)
        .ignore()
        .cmd("INCR")
        .arg("p")
        .cmd("GET")
        .arg("no")
        .cmd("LRANGE")
        .arg("l")
        .arg(0)
        .arg(-1)
        .query_async(&mut con)
        .await;
    note(notes, "pipeline", plain);
    let atomic: RedisResult<(i32, i32)> = pipe()
        .atomic()
        .cmd("INCR")
        .arg("p")
        .cmd("SET")
        .arg("q")
        .arg(2)
        .ignore()
        .cmd("INCRBY")
        .arg("p")
        .arg(10)
        .query_async(&mut con)
        .await;
    note(notes, "atomic pipeline", atomic);
    let empty: RedisResult<()> = pipe().query_async(&mut con).await;
    note(notes, "empty pipeline", empty);
    let empty: RedisResult<Value> = pipe().atomic().query_async(&mut con).await;
    note(notes, "empty transaction", empty);
    let failing: RedisResult<(i32, i32)> = pipe()
        .cmd("INCR")
        .arg("p")
        .cmd("INCR")
        .arg("text")
        .query_async(&mut con)
        .await;
    note(notes, "failing element", failing);
    let mut lenient = pipe();
    lenient.ignore_errors();
    lenient.cmd("INCR").arg("p").cmd("INCR").arg("text");
    let lenient: RedisResult<Vec<RedisResult<i32>>> = lenient.query_async(&mut con).await;
    note(notes, "errors as elements", lenient);
    let failing: RedisResult<(i32, i32)> = pipe()
        .atomic()
        .cmd("INCR")
        .arg("p")
        .cmd("LPUSH")
        .arg("p")
        .arg(1)
        .query_async(&mut con)
        .await;
    note(notes, "failing element of a transaction", failing);
    let aborted: RedisResult<()> = pipe()
        .atomic()
        .cmd("INCR")
        .arg("p")
        .cmd("NOSUCHCOMMAND")
        .query_async(&mut con)
        .await;
    note(notes, "aborted transaction", aborted);
    note(
        notes,
        "what is left",
        cmd("GET").arg("p").query_async::<i32>(&mut con).await,
    );

    let mut long = pipe();
    for n in 0..1000 {
        long.cmd("SET").arg(format!("many:{n}")).arg(n).ignore();
    }
    long.cmd("MGET").arg(&["many:0", "many:999"]);
    note(
        notes,
        "a thousand",
        long.query_async::<Vec<(i32, i32)>>(&mut con).await,
    );
}

async fn scripts<C: ConnectionLike + Send>(mut con: C, notes: &mut Transcript) {
    let script =
        Script::new("return {KEYS[1], tonumber(ARGV[1]) * 2, redis.call('INCR', KEYS[1])}");
    for _ in 0..2 {
        let answer: RedisResult<(String, i32, i32)> =
            script.key("runs").arg(21).invoke_async(&mut con).await;
        note(notes, "script", answer);
    }
    let _: RedisResult<()> = cmd("SCRIPT").arg("FLUSH").query_async(&mut con).await;
    let again: RedisResult<(String, i32, i32)> =
        script.key("runs").arg(4).invoke_async(&mut con).await;
    note(notes, "script reloaded", again);
    let failing = Script::new("redis.call('SET', 'half', 1) return redis.call('INCR', 'text')");
    note(
        notes,
        "failing script",
        failing.invoke_async::<_, i32>(&mut con).await,
    );
    let _: RedisResult<()> = cmd("SCRIPT").arg("FLUSH").query_async(&mut con).await;
    let missing: RedisResult<(i32, i32)> = pipe()
        .cmd("INCR")
        .arg("p")
        .cmd("EVALSHA")
        .arg(script.get_hash())
        .arg(0)
        .query_async(&mut con)
        .await;
    note(notes, "NOSCRIPT in a pipeline", missing);
}

async fn transactions<C>(mut con: C, notes: &mut Transcript)
where
    C: ConnectionLike + Clone + Send + Sync,
{
    use redis::AsyncCommands;
    let _: RedisResult<()> = con.set("balance", 10).await;
    let mut tries = 0;
    let rival = con.clone();
    let spent: RedisResult<(i32,)> =
        transaction_async(con.clone(), &["balance"], |mut con, mut pipe| {
            tries += 1;
            let mut rival = (tries == 1).then(|| rival.clone());
            async move {
                let balance: i32 = con.get("balance").await?;
                if let Some(rival) = &mut rival {
                    let _: i32 = rival.incr("balance", 100).await?;
                }
                pipe.set("balance", balance - 3)
                    .ignore()
                    .get("balance")
                    .query_async(&mut con)
                    .await
            }
        })
        .await;
    note(notes, "transaction", (spent, tries));
    let refused: RedisResult<()> =
        transaction_async(con.clone(), &["balance"], |mut con, _| async move {
            con.lpush("balance", 1).await
        })
        .await;
    note(notes, "failing transaction", refused);
    let none: [&str; 0] = [];
    let keyless: RedisResult<()> =
        transaction_async(con.clone(), &none, |_, _| async { Ok(Some(())) }).await;
    note(notes, "transaction without keys", keyless);

    note(
        notes,
        "watch",
        cmd("WATCH").arg("w").query_async::<Value>(&mut con).await,
    );
    let _: RedisResult<()> = con.set("w", 1).await;
    let mut exec = pipe();
    exec.atomic().incr("w", 1);
    note(notes, "touched", exec.query_async::<Value>(&mut con).await);
    note(
        notes,
        "afterwards",
        exec.query_async::<Value>(&mut con).await,
    );
    note(
        notes,
        "watch",
        cmd("WATCH").arg("w").query_async::<Value>(&mut con).await,
    );
    let _: RedisResult<()> = con.set("w", 5).await;
    note(
        notes,
        "unwatch",
        cmd("UNWATCH").query_async::<Value>(&mut con).await,
    );
    note(
        notes,
        "unwatched",
        exec.query_async::<Value>(&mut con).await,
    );
}

async fn iterators<C: ConnectionLike + Send + Sync>(mut con: C, notes: &mut Transcript) {
    use redis::AsyncCommands;
    let mut fill = pipe();
    for n in 0..2000 {
        let member = format!("m{n}");
        fill.sadd("set", &member).ignore();
        fill.hset("hash", &member, n).ignore();
        fill.zadd("sorted", &member, n).ignore();
    }
    note(notes, "fill", fill.query_async::<()>(&mut con).await);
    let keys: BTreeSet<String> = all(con.scan_match("many:*").await.unwrap()).await;
    note(notes, "scan", keys);
    let set: BTreeSet<String> = all(con.sscan("set").await.unwrap()).await;
    note(notes, "sscan", set);
    let hash: BTreeSet<(String, i32)> = all(con.hscan("hash").await.unwrap()).await;
    note(notes, "hscan", hash);
    let sorted: BTreeSet<(String, u32)> = all(con.zscan("sorted").await.unwrap()).await;
    note(notes, "zscan", sorted);
    let wrong = con.sscan::<_, String>("text").await;
    note(notes, "sscan of a text", wrong.map(|_| ()));

    // By hand, on the same handle, one step per call.
    let (mut cursor, mut seen, mut steps) = (0_u64, BTreeSet::new(), 0);
    loop {
        let step: (u64, Vec<String>) = cmd("SSCAN")
            .arg("set")
            .arg(cursor)
            .arg("COUNT")
            .arg(100)
            .query_async(&mut con)
            .await
            .unwrap();
        seen.extend(step.1);
        steps += 1;
        cursor = step.0;
        if cursor == 0 {
            break;
        }
    }
    note(notes, "sscan by hand", (seen.len(), steps > 1));
}

async fn all<T>(iterator: redis::AsyncIter<'_, T>) -> BTreeSet<T>
where
    T: FromRedisValue + Ord + Unpin + Send,
{
    let items: Vec<RedisResult<T>> = iterator.collect().await;
    items.into_iter().map(Result::unwrap).collect()
}

async fn streams<C: ConnectionLike + Send + Sync>(mut con: C, notes: &mut Transcript) {
    use redis::AsyncCommands;
    for n in 1..=3 {
        let id: RedisResult<String> = con.xadd("st", format!("{n}-1"), &[("n", n)]).await;
        note(notes, "xadd", id);
    }
    note(notes, "xlen", con.xlen::<_, i32>("st").await);
    let range: RedisResult<StreamRangeReply> = con.xrange_all("st").await;
    note(notes, "xrange", range);
    note(
        notes,
        "xgroup",
        con.xgroup_create::<_, _, _, String>("st", "g", "0").await,
    );
    let options = StreamReadOptions::default().group("g", "c").count(2);
    let read: RedisResult<Option<StreamReadReply>> =
        con.xread_options(&["st"], &[">"], &options).await;
    note(notes, "xreadgroup", read);
    note(
        notes,
        "xack",
        con.xack::<_, _, _, i32>("st", "g", &["1-1"]).await,
    );
    let options = StreamReadOptions::default().block(1000).count(1);
    let read: RedisResult<Option<StreamReadReply>> =
        con.xread_options(&["st"], &["2-1"], &options).await;
    note(notes, "xread, blocking", read);
    let options = StreamReadOptions::default().block(20);
    let read: RedisResult<Option<StreamReadReply>> =
        con.xread_options(&["st"], &["$"], &options).await;
    note(notes, "xread, in vain", read);
    let duplicate = con.xgroup_create::<_, _, _, String>("st", "g", "0").await;
    note(notes, "xgroup again", duplicate);
}

async fn blocking<C: ConnectionLike + Send + Sync>(mut con: C, notes: &mut Transcript) {
    use redis::AsyncCommands;
    let _: RedisResult<()> = con.rpush("queue", &["a", "b", "c"]).await;
    let popped: RedisResult<Option<(String, String)>> = con.blpop("queue", 1.0).await;
    note(notes, "blpop", popped);
    let popped: RedisResult<Option<(String, String)>> = con.brpop("queue", 0.0).await;
    note(notes, "brpop", popped);
    let moved: RedisResult<Option<String>> = con.brpoplpush("queue", "done", 1.0).await;
    note(notes, "brpoplpush", moved);
    let nothing: RedisResult<Option<(String, String)>> = con.blpop("queue", 0.05).await;
    note(notes, "blpop in vain", nothing);
    let popped: RedisResult<Option<(String, String, f64)>> = con.bzpopmin("z", 1.0).await;
    note(notes, "bzpopmin", popped);
    let wrong: RedisResult<Value> = con.blpop("text", 1.0).await;
    note(notes, "blpop of a text", wrong);
    let nonsense: RedisResult<Value> = cmd("BLPOP")
        .arg("queue")
        .arg("soon")
        .query_async(&mut con)
        .await;
    note(notes, "blpop until soon", nonsense);
    let batch: RedisResult<Vec<Value>> = pipe()
        .cmd("RPUSH")
        .arg("queue")
        .arg("d")
        .cmd("BLPOP")
        .arg("queue")
        .arg(1)
        .cmd("LLEN")
        .arg("queue")
        .query_async(&mut con)
        .await;
    note(notes, "blpop in a pipeline", batch);
    let atomic: RedisResult<(Value,)> = pipe()
        .atomic()
        .cmd("BLPOP")
        .arg("queue")
        .arg(0)
        .query_async(&mut con)
        .await;
    note(notes, "blpop in a transaction", atomic);
}

async fn errors<C: ConnectionLike + Send + Sync>(mut con: C, notes: &mut Transcript) {
    use redis::AsyncCommands;
    let wrong = con.lpush::<_, _, i32>("text", 1).await.unwrap_err();
    note(notes, "WRONGTYPE", (wrong.kind(), wrong.code(), &wrong));
    let wrong = con.incr::<_, _, i32>("text", 1).await.unwrap_err();
    note(notes, "not a number", (wrong.kind(), &wrong));
    let wrong = con.get::<_, i32>("text").await.unwrap_err();
    note(
        notes,
        "conversion",
        (wrong.kind(), wrong.retry_method(), &wrong),
    );
    let wrong = con.get::<_, String>("no").await.unwrap_err();
    note(notes, "nil as text", (wrong.kind(), &wrong));
    let wrong = cmd("EVALSHA")
        .arg("0".repeat(40))
        .arg(0)
        .query_async::<()>(&mut con)
        .await
        .unwrap_err();
    note(notes, "NOSCRIPT", (wrong.kind(), wrong.code()));
    let wrong = cmd("GET").query_async::<()>(&mut con).await.unwrap_err();
    note(notes, "arity", (wrong.kind(), &wrong));
    note(notes, "it goes on", con.get::<_, String>("text").await);
}
