//! Commands that would change a connection which others share are refused, and nothing is sent.

use multidb::testing::server::Server;
use multidb::{ErrorKind, MultiDbClient};
use redis::aio::ConnectionLike;
use redis::{AsyncCommands, Cmd, ErrorKind as DriverKind, Value, cmd, pipe};

use crate::{Databases, kind};

/// What is refused as a command of its own, with arguments that a server would accept.
const REFUSED: &[&[&str]] = &[
    &["ASKING"],
    &["AUTH", "user", "password"],
    &["CLIENT CACHING", "YES"],
    &["CLIENT CAPA", "redirect"],
    &["CLIENT IMPORT-SOURCE", "ON"],
    &["CLIENT NO-EVICT", "ON"],
    &["CLIENT NO-TOUCH", "ON"],
    &["CLIENT REPLY", "OFF"],
    &["CLIENT SETINFO", "LIB-NAME", "mine"],
    &["CLIENT SETNAME", "mine"],
    &["CLIENT TRACKING", "ON"],
    &["DISCARD"],
    &["EXEC"],
    &["HELLO", "3"],
    &["MONITOR"],
    &["MULTI"],
    &["PSUBSCRIBE", "*"],
    &["PSYNC", "?", "-1"],
    &["PUNSUBSCRIBE"],
    &["QUIT"],
    &["READONLY"],
    &["READWRITE"],
    &["REPLCONF", "ACK", "0"],
    &["RESET"],
    &["SCRIPT DEBUG", "NO"],
    &["SELECT", "1"],
    &["SSUBSCRIBE", "channel"],
    &["SUBSCRIBE", "channel"],
    &["SUNSUBSCRIBE"],
    &["SYNC"],
    &["UNSUBSCRIBE"],
    &["WAIT", "0", "0"],
    &["WAITAOF", "0", "0", "0"],
];

/// Welcome alone, impossible inside a pipeline.
const REFUSED_INSIDE: &[&[&str]] = &[&["WATCH", "key"], &["UNWATCH"]];

/// Naive: they are sent, and everybody who shares the connection is on another database, without
/// replies, inside somebody's transaction, or without a connection.
#[tokio::test]
async fn what_would_change_a_shared_connection_is_refused_and_never_sent() {
    let server = Server::start().await.unwrap();
    let client = MultiDbClient::builder()
        .url(server.url(), 1.0)
        .connect()
        .await
        .unwrap();
    let mut con = client.connection();
    server.record(true);
    for words in REFUSED {
        for spelling in [str::to_owned, |word: &str| word.to_lowercase()] {
            let command = command(words, spelling);
            refused(words[0], con.req_packed_command(&command).await);
            refused(
                words[0],
                pipe()
                    .add_command(command.clone())
                    .exec_async(&mut con)
                    .await,
            );
            let mut batch = pipe();
            batch.atomic().set("key", 1).add_command(command);
            // Behind a write of a plain pipeline WAIT has a meaning; inside a transaction, too.
            if words[0] != "WAIT" && words[0] != "WAITAOF" {
                refused(words[0], batch.exec_async(&mut con).await);
            }
        }
    }
    for words in REFUSED_INSIDE {
        for atomic in [false, true] {
            let mut batch = pipe();
            if atomic {
                batch.atomic();
            }
            batch
                .set("key", 1)
                .add_command(command(words, str::to_owned));
            refused(words[0], batch.exec_async(&mut con).await);
        }
    }
    let mut batch = pipe();
    batch.cmd("SCAN").arg(0).cmd("BLPOP").arg("queue").arg(1);
    refused(
        "SCAN beside a blocking command",
        batch.exec_async(&mut con).await,
    );

    let sent = server.log();
    let probes = |sent: &Vec<Vec<u8>>| sent[0].eq_ignore_ascii_case(b"PING");
    assert!(sent.iter().all(probes), "{sent:?}");
    assert!(!server.storage().contains("key"));
    let echo: String = cmd("ECHO")
        .arg("it goes on")
        .query_async(&mut con)
        .await
        .unwrap();
    assert_eq!(echo, "it goes on");
    client.close().await;
}

fn command(words: &[&str], spelling: impl Fn(&str) -> String) -> Cmd {
    let mut command = Cmd::new();
    for word in words[0].split(' ') {
        command.arg(spelling(word));
    }
    command.arg(&words[1..]);
    command
}

fn refused<T: std::fmt::Debug>(command: &str, result: redis::RedisResult<T>) {
    let error = result.expect_err(command);
    match kind(&error) {
        ErrorKind::Unsupported { command: named } => assert_eq!(named, command),
        other => panic!("{command}: {other:?}"),
    }
    let ours = multidb::redis::from_redis(&error).unwrap();
    assert!(ours.is_retry_safe() && !ours.is_temporary(), "{command}");
    assert_eq!(error.kind(), DriverKind::InvalidClientConfig, "{command}");
    assert!(
        !error.is_connection_dropped() && !error.is_timeout(),
        "{command}"
    );
    assert!(error.to_string().contains(command), "{error}");
}

/// Naive: a server says nothing to a command without words, and every later caller on the connection
/// gets the reply to somebody else's command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_shift_the_replies_of_others_is_refused() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    let () = con.set("a", "of a").await.unwrap();

    let empty = con.send_packed_command(&Cmd::new()).await.unwrap_err();
    assert_eq!(empty.kind(), DriverKind::Client);
    for atomic in [false, true] {
        let mut pipeline = redis::pipe();
        if atomic {
            pipeline.atomic();
        }
        pipeline.add_command(Cmd::new()).get("a");
        let refused = pipeline.query_async::<Value>(&mut con).await.unwrap_err();
        assert_eq!(refused.kind(), DriverKind::Client);
    }
    let mut pipeline = redis::pipe();
    pipeline.get("a").get("a");
    for (offset, count) in [(0, 1), (0, 3), (1, 2), (usize::MAX, 3)] {
        let refused = con.send_packed_commands(&pipeline, offset, count).await;
        assert_eq!(refused.unwrap_err().kind(), DriverKind::Client);
    }
    assert_eq!(
        con.send_packed_commands(&pipeline, 1, 1)
            .await
            .unwrap()
            .len(),
        1
    );
    for _ in 0..3 {
        assert_eq!(con.get::<_, String>("a").await.unwrap(), "of a");
    }
    client.close().await;
}
