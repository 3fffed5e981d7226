//! The test rig itself: real servers and the proxy before them do what the other tests rely on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use multidb::testing::history::{Ledger, Outcome};
use multidb::testing::proxy::FaultProxy;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisResult};
use socket2::{Domain, Socket, Type};

mod support;
use support::eventually;
use support::redis_server::RedisServer;

#[tokio::test]
async fn a_durable_server_keeps_its_data_port_and_password_through_a_kill() {
    let mut server = RedisServer::builder()
        .durable()
        .password("open sesame")
        .start()
        .await;
    let (addr, pid) = (server.addr(), server.pid());
    let plain = redis::Client::open(format!("redis://{addr}/")).unwrap();
    assert!(
        ping(plain.get_multiplexed_async_connection().await)
            .await
            .is_err()
    );

    for n in 1..=5 {
        let pushed: i64 = server.cmd(&["RPUSH", "list", &n.to_string()]).await;
        assert_eq!(pushed, n);
        server.kill();
        server.kill();
        assert!(server.try_cmd::<()>(&["PING"]).await.is_err());
        server.restart().await;
    }
    assert_eq!(server.list("list").await, ["1", "2", "3", "4", "5"]);
    assert_eq!(server.addr(), addr);
    assert_ne!(server.pid(), pid);
}

#[tokio::test]
async fn a_stopped_server_answers_when_it_goes_on() {
    let server = RedisServer::start().await;
    let mut con = server.admin().await.unwrap();
    server.stop().await;
    con.set_response_timeout(Duration::from_millis(50));
    let timed_out = redis::cmd("INCR")
        .arg("n")
        .query_async::<i64>(&mut con)
        .await;
    assert!(timed_out.unwrap_err().is_timeout());
    server.cont();
    eventually(LIMIT, "the queued command runs", async || {
        server.cmd::<Option<i64>>(&["GET", "n"]).await == Some(1)
    })
    .await;
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_server_however_it_was() {
    for state in ["running", "stopped", "killed", "panicking"] {
        let mut server = RedisServer::start().await;
        let process = format!("/proc/{}", server.pid());
        let dir = server
            .cmd::<Vec<String>>(&["CONFIG", "GET", "dir"])
            .await
            .remove(1);
        assert!(Path::new(&process).exists() && Path::new(&dir).exists());
        match state {
            "stopped" => server.stop().await,
            "killed" => server.kill(),
            "panicking" => {
                let test = tokio::spawn(async move {
                    assert!(server.addr().port() == 0, "a failing test");
                });
                assert!(test.await.unwrap_err().is_panic());
                assert!(!Path::new(&process).exists() && !Path::new(&dir).exists());
                continue;
            }
            _ => {}
        }
        drop(server);
        assert!(!Path::new(&process).exists(), "{state}");
        assert!(!Path::new(&dir).exists(), "{state}");
    }
}

#[tokio::test]
async fn a_port_stays_ours_while_its_server_is_dead() {
    let mut server = RedisServer::start().await;
    server.kill();
    let thief = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let taken = thief.bind(&server.addr().into()).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    let refused = std::net::TcpStream::connect(server.addr()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
#[should_panic(expected = "Bad directive")]
async fn a_server_that_exits_says_why() {
    RedisServer::builder()
        .config("no-such-directive", "1")
        .start()
        .await;
}

#[tokio::test]
async fn clients_are_counted_without_the_admins() {
    let server = RedisServer::start().await;
    let _admin = server.admin().await.unwrap();
    let con = client(&server.url()).await.unwrap();
    assert_eq!(server.connected_clients().await, 1);
    drop(con);
    eventually(LIMIT, "the client is gone", async || {
        server.connected_clients().await == 0
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "not within 20ms: pigs fly")]
async fn what_never_holds_fails_in_time() {
    eventually(Duration::from_millis(20), "pigs fly", async || {
        std::future::pending().await
    })
    .await;
}

#[tokio::test]
async fn the_proxy_sees_what_the_server_runs() {
    let (server, proxy) = behind_proxy().await;
    let mut con = client(&proxy.url()).await.unwrap();
    let before = proxy.counts().commands;
    proxy.log_commands(10);
    let mut pipe = redis::pipe();
    for n in 0..100 {
        pipe.rpush("list", n).ignore();
    }
    let () = pipe.query_async(&mut con).await.unwrap();
    assert_eq!(proxy.counts().commands - before, 100);
    let seen = proxy.commands();
    assert_eq!(seen.len(), 10);
    assert_eq!(seen[9].args, [&b"RPUSH"[..], b"list", b"9"]);
    assert_eq!(server.cmd::<i64>(&["LLEN", "list"]).await, 100);
}

/// What a client is told, and what really happened, in one run of every fault.
#[tokio::test]
async fn faults_mean_on_a_real_server_what_they_say() {
    let (server, proxy) = behind_proxy().await;
    let ledger = Ledger::new();
    let push = async |token: &str| {
        let mut con = client(&proxy.url()).await?;
        ledger.attempt(token);
        redis::cmd("RPUSH")
            .arg(&["list", token])
            .query_async::<i64>(&mut con)
            .await
    };
    // Under a fault the connection has to be made before it.
    let push_under = async |token: &str, fault: &dyn Fn()| {
        let mut con = client(&proxy.url()).await.unwrap();
        ledger.attempt(token);
        fault();
        redis::cmd("RPUSH")
            .arg(&["list", token])
            .query_async::<i64>(&mut con)
            .await
    };
    let there = async |token: &str| server.list("list").await.contains(&token.to_owned());

    push("passed").await.unwrap();
    ledger.record(
        "passed",
        Outcome::Acked {
            database: "a".into(),
        },
    );

    let lost = push_under("reply lost", &|| proxy.lose_replies()).await;
    assert!(lost.unwrap_err().is_timeout());
    ledger.record("reply lost", Outcome::Unknown);
    assert!(there("reply lost").await);
    proxy.pass();

    let cut = push_under("reply cut", &|| proxy.cut_replies_after(2)).await;
    assert_eq!(cut.unwrap_err().kind(), ErrorKind::Io);
    ledger.record("reply cut", Outcome::Unknown);
    assert!(there("reply cut").await);

    let hung = push_under("black hole", &|| proxy.black_hole()).await;
    assert!(hung.unwrap_err().is_timeout());
    ledger.record("black hole", Outcome::NotExecuted);
    proxy.pass();

    let lost = push_under("request lost", &|| proxy.lose_requests()).await;
    assert!(lost.unwrap_err().is_timeout());
    ledger.record("request lost", Outcome::NotExecuted);
    proxy.pass();

    let cut = push_under("request cut", &|| proxy.cut_requests_after(20)).await;
    assert_eq!(cut.unwrap_err().kind(), ErrorKind::Io);
    ledger.record("request cut", Outcome::NotExecuted);

    let held = push_under("zombie", &|| proxy.hold()).await;
    assert!(held.unwrap_err().is_timeout());
    ledger.record("zombie", Outcome::Unknown);
    assert!(!there("zombie").await);
    proxy.release();
    eventually(LIMIT, "the zombie runs", async || there("zombie").await).await;

    proxy.accept_and_hang();
    assert!(push("hung").await.is_err());
    proxy.refuse();
    assert!(push("refused").await.unwrap_err().is_connection_refusal());
    proxy.pass();
    push("healed").await.unwrap();
    ledger.record(
        "healed",
        Outcome::Acked {
            database: "a".into(),
        },
    );

    let found = BTreeMap::from([("a".to_owned(), server.list("list").await)]);
    let report = ledger.check(&found);
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (
            report.attempted,
            report.told.acked,
            report.unpromised_applied
        ),
        (8, 2, 3)
    );
}

#[tokio::test]
async fn a_killed_server_is_a_reset_through_the_proxy() {
    let (mut server, proxy) = behind_proxy().await;
    let mut con = client(&proxy.url()).await.unwrap();
    server.kill();
    assert!(
        redis::cmd("PING")
            .query_async::<()>(&mut con)
            .await
            .is_err()
    );
    assert!(client(&proxy.url()).await.is_err());
    server.restart().await;
    ping(client(&proxy.url()).await).await.unwrap();
}

async fn behind_proxy() -> (RedisServer, FaultProxy) {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await.unwrap();
    (server, proxy)
}

/// A plain connection that gives up soon.
async fn client(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SOON))
        .set_response_timeout(Some(SOON));
    redis::Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

async fn ping(con: RedisResult<MultiplexedConnection>) -> RedisResult<()> {
    redis::cmd("PING").query_async(&mut con?).await
}

const SOON: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(5);
