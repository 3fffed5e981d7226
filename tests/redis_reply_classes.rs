//! What the backend reads from a real server's replies: did the command run, or a script start?
#![cfg(all(feature = "redis", feature = "testing"))]

use std::time::Duration;

use multidb::command_table::{class_of, class_of_pipeline};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline};

mod support;
use support::eventually;
use support::redis_server::RedisServer;

#[tokio::test]
async fn a_replica_refuses_before_declared_scripts_and_inside_the_others() {
    let server = RedisServer::start().await;
    let mut con = scripts(&server).await;
    let () = server.cmd(&["REPLICAOF", "127.0.0.1", "1"]).await;
    refused_by(&mut con, "READONLY").await;

    // While it has no data to serve, scripts that declare nothing do not start either.
    let () = server
        .cmd(&["CONFIG", "SET", "replica-serve-stale-data", "no"])
        .await;
    assert_refused(&mut con, &["GET", "k"], "MASTERDOWN").await;
    assert_refused(&mut con, &["EVAL", PLAIN, "0"], "MASTERDOWN").await;
    assert_refused(&mut con, &["EVAL", CAUGHT, "0"], "MASTERDOWN").await;
}

#[tokio::test]
async fn a_full_server_refuses_before_declared_scripts_and_inside_the_others() {
    let server = RedisServer::start().await;
    let mut con = scripts(&server).await;
    let () = server.cmd(&["CONFIG", "SET", "maxmemory", "1"]).await;
    refused_by(&mut con, "OOM").await;
}

#[tokio::test]
async fn a_server_without_replicas_proves_nothing_for_scripts() {
    let server = RedisServer::start().await;
    let mut con = scripts(&server).await;
    let () = server
        .cmd(&["CONFIG", "SET", "min-replicas-to-write", "1"])
        .await;
    assert_refused(&mut con, &["SET", "k", "1"], "NOREPLICAS").await;
    for words in [
        &["EVAL", PLAIN, "0"],
        &["EVAL", CAUGHT, "0"],
        &["FCALL", "f", "0"],
    ] {
        assert_eq!(class(&mut con, words).await, "Executed", "{words:?}");
    }
}

#[tokio::test]
async fn a_busy_server_starts_no_other_script() {
    let server = RedisServer::start().await;
    let mut con = scripts(&server).await;
    let () = server
        .cmd(&["CONFIG", "SET", "busy-reply-threshold", "10"])
        .await;
    let mut other = server.admin().await.unwrap();
    let endless = tokio::spawn(async move {
        class(
            &mut other,
            &["EVAL", "redis.call('get','k') while true do end", "0"],
        )
        .await
    });
    eventually(LIMIT, "the server is busy", async || {
        class(&mut con, &["GET", "k"]).await.contains("BUSY")
    })
    .await;
    assert_refused(&mut con, &["SET", "k", "1"], "BUSY").await;
    assert_refused(&mut con, &["EVAL", PLAIN, "0"], "BUSY").await;
    assert_refused(&mut con, &["FCALL", "f", "0"], "BUSY").await;
    assert!(transaction(&mut con).await.contains("\"BUSY\""));

    let _: String = command(&["SCRIPT", "KILL"])
        .query_async(&mut con)
        .await
        .unwrap();
    assert_eq!(
        endless.await.unwrap(),
        "Executed",
        "a script that was killed had started"
    );
}

#[tokio::test]
async fn a_server_that_loads_starts_nothing() {
    let server = RedisServer::builder()
        // Long enough to be seen, and not deaf meanwhile.
        .config("key-load-delay", "500")
        .config("loading-process-events-interval-bytes", "1024")
        .start()
        .await;
    let mut con = scripts(&server).await;
    let () = server.cmd(&["DEBUG", "POPULATE", "20000"]).await;
    let mut other = server.admin().await.unwrap();
    let reload = tokio::spawn(async move { class(&mut other, &["DEBUG", "RELOAD"]).await });
    eventually(LIMIT, "the server loads", async || {
        class(&mut con, &["GET", "k"]).await.contains("LOADING")
    })
    .await;
    assert_refused(&mut con, &["EVAL", PLAIN, "0"], "LOADING").await;
    assert_refused(&mut con, &["FCALL", "f", "0"], "LOADING").await;
    assert!(transaction(&mut con).await.starts_with(&state("LOADING")));
    reload.abort();
}

#[tokio::test]
async fn a_blocked_client_is_let_go_when_its_server_becomes_a_replica() {
    let server = RedisServer::start().await;
    let mut waiting = server.admin().await.unwrap();
    let blocked = tokio::spawn(async move { class(&mut waiting, &["BLPOP", "list", "4"]).await });
    eventually(LIMIT, "a client is blocked", async || {
        let info: String = server.cmd(&["INFO", "clients"]).await;
        info.contains("blocked_clients:1")
    })
    .await;
    let () = server.cmd(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert!(blocked.await.unwrap().contains("\"UNBLOCKED\""));
}

#[tokio::test]
async fn who_asks_and_what_is_asked() {
    let server = RedisServer::start().await;
    let mut con = scripts(&server).await;
    let missing = "f".repeat(40);
    for words in [
        &["EVALSHA", &missing, "0"][..],
        &["NOSUCH", "a"],
        &["SET", "k"],
        &["SET", "k", "v", "bogus"],
        &["CONFIG", "NOSUCH"],
        &["EVAL"],
    ] {
        assert_eq!(
            class(&mut con, words).await,
            "NotExecuted(Caller)",
            "{words:?}"
        );
    }
    for words in [
        &["SADD", "set", "a"][..],
        &["INCR", "set"],
        &["GET", "nothing"],
        &["EVAL", "return redis.call('incr','set')", "0"],
        &[
            "EVAL",
            "return redis.error_reply('BUSY the lock is held')",
            "0",
        ],
        &["EVAL", "return redis.call('nosuch')", "0"],
    ] {
        assert_eq!(class(&mut con, words).await, "Executed", "{words:?}");
    }

    let () = server
        .cmd(&[
            "ACL",
            "SETUSER",
            "default",
            "-del",
            "-eval",
            "resetkeys",
            "~a*",
        ])
        .await;
    for words in [&["DEL", "a"][..], &["GET", "b"], &["EVAL", PLAIN, "0"]] {
        assert_eq!(
            class(&mut con, words).await,
            "NotExecuted(Caller)",
            "{words:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_never_said_the_password_is_denied() {
    let server = RedisServer::start().await;
    let () = server
        .cmd(&["CONFIG", "SET", "requirepass", "secret"])
        .await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut con = client.get_multiplexed_async_connection().await.unwrap();
    for words in [&["GET", "k"][..], &["EVAL", PLAIN, "0"]] {
        assert_eq!(
            class(&mut con, words).await,
            "NotExecuted(Denied)",
            "{words:?}"
        );
    }
}

/// All that a server refuses with a code that a script may also meet on its way.
async fn refused_by(con: &mut MultiplexedConnection, code: &str) {
    assert_refused(con, &["SET", "k", "1"], code).await;
    assert_refused(con, &["EVAL", DECLARED, "0"], code).await;
    assert_refused(con, &["FCALL", "f", "0"], code).await;
    let refused = transaction(con).await;
    assert!(refused.starts_with(&state(code)), "{refused}");
    for script in [PLAIN, CAUGHT] {
        assert_eq!(class(con, &["EVAL", script, "0"]).await, "Executed");
    }
    let mut mixed = Pipeline::new();
    mixed.cmd("GET").arg("k").cmd("SET").arg("k").arg(1);
    let replies = con.req_packed_commands(&mixed, 0, 2).await;
    assert_eq!(class_of_pipeline(&mixed, &replies), "Executed");
}

async fn transaction(con: &mut MultiplexedConnection) -> String {
    let mut transaction = Pipeline::new();
    transaction.atomic().cmd("SET").arg("k").arg(1);
    let replies = con.req_packed_commands(&transaction, 2, 1).await;
    class_of_pipeline(&transaction, &replies)
}

async fn assert_refused(con: &mut MultiplexedConnection, words: &[&str], code: &str) {
    let class = class(con, words).await;
    assert!(class.starts_with(&state(code)), "{words:?}: {class}");
}

fn state(code: &str) -> String {
    format!("NotExecuted(State(ServerState {{ code: \"{code}\"")
}

async fn class(con: &mut MultiplexedConnection, words: &[&str]) -> String {
    let cmd = command(words);
    let reply = con.req_packed_command(&cmd).await;
    class_of(&cmd, &reply)
}

fn command(words: &[&str]) -> Cmd {
    let mut cmd = Cmd::new();
    cmd.arg(words);
    cmd
}

/// A connection to a server that knows the function `f`, which writes.
async fn scripts(server: &RedisServer) -> MultiplexedConnection {
    let code = "#!lua name=lib\nredis.register_function('f', function()\n\
                return redis.pcall('set', 'k', '1') end)";
    let () = server.cmd(&["FUNCTION", "LOAD", code]).await;
    server.admin().await.unwrap()
}

const PLAIN: &str = "return redis.call('set', 'k', '1')";
const CAUGHT: &str = "return redis.pcall('set', 'k', '1')";
const DECLARED: &str = "#!lua\nreturn redis.call('set', 'k', '1')";
const LIMIT: Duration = Duration::from_secs(5);
