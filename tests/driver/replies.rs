//! What a reply proves, and against whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use multidb::{CircuitState, ErrorKind, Event};
use redis::{ServerErrorKind, Value};
use tokio::time::Instant;

use super::*;
use crate::peer::{Peer, Say, bytes};

/// A peer that answers `ODD` and `SET` in one way, beside a server that runs everything.
async fn beside(
    reply: &'static str,
    alive: &'static str,
) -> (MultiDbClient<Redis>, MultiDbConnection, Peer, Server) {
    let peer = Peer::new(move |request| match request[0].as_str() {
        "INCR" | "SET" => bytes(reply),
        "PING" if !alive.is_empty() => bytes(alive),
        _ => Say::AsUsual,
    });
    let server = Server::in_memory();
    let network = Network::default();
    network.peer("east", &peer);
    network.server("west", &server);
    let client = builder(&network)
        .url("redis://east", 1.0)
        .url("redis://west", 0.5);
    let client = serving(client).await;
    let con = client.connection();
    (client, con, peer, server)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_it_does_not_serve_is_left_and_the_write_runs_elsewhere() {
    for reply in [
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
        "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        "-CLUSTERDOWN The cluster is down\r\n",
    ] {
        let (client, mut con, peer, server) = beside(reply, "").await;
        let start = Instant::now();
        assert_eq!(
            ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(),
            1,
            "{reply}"
        );
        assert!(start.elapsed() <= ms(10), "{:?}", start.elapsed());
        assert_eq!(server.storage().counter("k"), Some(1));
        assert_eq!(peer.count(&["INCR"]), 1, "one such reply is enough");
        assert_eq!(active(&client), "west:6379");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_full_is_left_when_it_stays_so() {
    for reply in [
        "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        "-MISCONF Redis is configured to save RDB snapshots\r\n",
        "-NOREPLICAS Not enough good replicas to write.\r\n",
        "-BUSY Redis is busy running a script.\r\n",
    ] {
        let (client, mut con, peer, server) = beside(reply, "").await;
        assert_eq!(
            ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(),
            1,
            "{reply}"
        );
        assert_eq!(server.storage().counter("k"), Some(1));
        assert_eq!(peer.count(&["INCR"]), 3, "{reply}");
        assert_eq!(active(&client), "west:6379");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_callers_is_returned_as_it_is_and_no_evidence() {
    for (reply, code) in [
        (
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
            "WRONGTYPE",
        ),
        ("-ERR value is not an integer or out of range\r\n", "ERR"),
        ("-NOPERM this user has no permissions\r\n", "NOPERM"),
        ("-NOSCRIPT No matching script.\r\n", "NOSCRIPT"),
        ("-CUSTOM whatever a module says\r\n", "CUSTOM"),
    ] {
        let (client, mut con, peer, server) = beside(reply, "").await;
        let mut events = client.events();
        for _ in 0..100 {
            let error = ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap_err();
            assert_eq!(error.code(), Some(code));
            assert!(from_redis(&error).is_none(), "the server's own word");
        }
        assert_eq!(peer.count(&["INCR"]), 100, "each sent once");
        assert_eq!(server.storage().counter("k"), None);
        let told = drain(&mut events).await;
        assert!(told.is_empty(), "{reply}: {told:?}");
        assert_eq!(client.snapshot().members[0].circuit, CircuitState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_another_type_than_wanted_is_no_evidence_and_ran_once() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    let mut events = rig.client.events();
    for n in 1..=100 {
        let error = ask::<Vec<String>>(&mut con, &["INCR", "k"]).await;
        assert!(error.is_err());
        assert_eq!(rig.east.storage().counter("k"), Some(n));
    }
    assert!(drain(&mut events).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_single_refused_element_does_not_make_a_pipeline_run_again() {
    let peer = Peer::new(|request| match request[0].as_str() {
        "INCR" => bytes(":1\r\n"),
        "GET" => bytes("-LOADING Redis is loading the dataset in memory\r\n"),
        _ => Say::AsUsual,
    });
    let server = Server::in_memory();
    let network = Network::default();
    network.peer("east", &peer);
    network.server("west", &server);
    let client = builder(&network)
        .url("redis://east", 1.0)
        .url("redis://west", 0.5);
    let client = serving(client).await;
    let mut con = client.connection();
    let mut pipeline = redis::pipe();
    pipeline.cmd("INCR").arg("k").cmd("GET").arg("x");
    let error = pipeline
        .query_async::<Vec<Value>>(&mut con)
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        redis::ErrorKind::Server(ServerErrorKind::BusyLoading),
        "{error:?}"
    );
    assert_eq!(
        (peer.count(&["INCR"]), server.storage().counter("k")),
        (1, None)
    );
    // It is evidence all the same.
    tokio::time::sleep(ms(10)).await;
    assert_eq!(active(&client), "west:6379");

    // Refused as a whole, it runs elsewhere as a whole.
    client.reset_circuit("east:6379").await.unwrap();
    let reads = redis::pipe()
        .cmd("GET")
        .arg("x")
        .cmd("GET")
        .arg("y")
        .to_owned();
    let replies: Vec<Option<String>> = reads.query_async(&mut con).await.unwrap();
    assert_eq!(replies, [None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_password_changed_behind_our_back_is_told_at_once_and_the_database_is_left() {
    let rejecting = Arc::new(AtomicBool::new(false));
    let rejects = rejecting.clone();
    let peer = Peer::new(move |request| match request[0].as_str() {
        _ if !rejects.load(Ordering::Relaxed) => match request[0].as_str() {
            "INCR" => bytes(":1\r\n"),
            _ => Say::AsUsual,
        },
        _ => bytes("-NOAUTH Authentication required.\r\n"),
    });
    let server = Server::in_memory();
    let network = Network::default();
    network.peer("east", &peer);
    network.server("west", &server);
    let client = builder(&network)
        .url("redis://east", 1.0)
        .url("redis://west", 0.5);
    let client = serving(client).await;
    let mut con = client.connection();
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    rejecting.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let error = ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap_err();
    assert_eq!(error.code(), Some("NOAUTH"));
    assert_eq!(start.elapsed(), ms(0));
    tokio::time::sleep(ms(10)).await;
    assert_eq!(active(&client), "west:6379");
    assert_eq!(peer.count(&["INCR"]), 2, "no retry storm");
}

#[tokio::test(start_paused = true)]
async fn commands_that_need_a_session_of_their_own_are_refused_before_anything_is_sent() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    let before = rig.east.commands();
    for words in [
        &["SELECT", "1"][..],
        &["MULTI"],
        &["SUBSCRIBE", "c"],
        &["CLIENT", "REPLY", "OFF"],
    ] {
        let error = ask::<Value>(&mut con, words).await.unwrap_err();
        assert!(
            matches!(ours(&error).kind(), ErrorKind::Unsupported { .. }),
            "{error}"
        );
        assert_eq!(error.kind(), redis::ErrorKind::InvalidClientConfig);
    }
    assert_eq!(rig.east.commands(), before);
}

#[tokio::test(start_paused = true)]
async fn a_ping_that_is_refused_for_want_of_permission_is_a_sign_of_life() {
    let (client, mut con, _peer, _server) = beside(":1\r\n", "-NOPERM no ping for you\r\n").await;
    let mut events = client.events();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    assert_eq!(active(&client), "east:6379");
    let told = drain(&mut events).await;
    assert!(
        !told
            .iter()
            .any(|e| matches!(e, Event::CircuitChanged { .. })),
        "{told:?}"
    );
}
