//! Servers that never stop, and servers that hardly begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use multidb::ErrorKind;
use tokio::time::{Instant, sleep};

use super::*;
use crate::peer::{Say, bytes};

const PUSH: &str = ">3\r\n+message\r\n+channel\r\n+0123456789012345678901234567890123456789\r\n";

fn pushes(first: &str) -> Say {
    Say::Stream(first.into(), PUSH.into(), usize::MAX)
}

/// A write that waits ends by its timeout, and the database is left for one that answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_a_flood_of_pushes_in_place_of_a_reply_is_left_in_time_and_not_kept() {
    let name = "floods::f22_a_flood_of_pushes_in_place_of_a_reply_is_left_in_time_and_not_kept";
    if !is_by_itself(name).await {
        return;
    }
    let peer = Peer::resp3(|request| match request[0].as_str() {
        "INCR" => pushes(""),
        _ => Say::AsUsual,
    })
    .await;
    let (client, server) = beside(&peer).await;
    let mut con = client.connection();
    let (before, _) = memory();
    let (began, mut unknown) = (Instant::now(), 0);
    loop {
        let asked = Instant::now();
        let result = ask::<i64>(&mut con, &["INCR", "k"]).await;
        assert!(asked.elapsed() < DEADLINE + SLACK, "{:?}", asked.elapsed());
        match result {
            Ok(n) => break assert_eq!(n, 1),
            Err(error) => {
                let kind = ours(&error).kind().clone();
                assert!(matches!(kind, ErrorKind::OutcomeUnknown(_)), "{error}");
                unknown += 1;
            }
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it is never left"
        );
    }
    let took = began.elapsed();
    println!("left after {took:?} and {unknown} calls");
    assert_eq!(server.storage().counter("k"), Some(1));
    let (_, most) = memory();
    assert!(most - before <= 64, "{} MiB", most - before);
    client.close().await;
}

/// Nobody waits, nobody reads: what comes is thrown away, and calls are answered in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_a_flood_that_nobody_waits_for_is_thrown_away() {
    let name = "floods::f22_a_flood_that_nobody_waits_for_is_thrown_away";
    if !is_by_itself(name).await {
        return;
    }
    // From the first answer on; the peer reads nothing any more.
    let peer = Peer::resp3(|request| match request[0].as_str() {
        "INCR" => pushes(":1\r\n"),
        _ => Say::AsUsual,
    })
    .await;
    let (client, _server) = beside(&peer).await;
    let mut con = client.connection();
    let (before, _) = memory();
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    sleep(Duration::from_secs(3)).await;
    let (_, most) = memory();
    println!("{} MiB in 3 s", most - before);
    assert!(most - before <= 64, "{} MiB", most - before);
    client.close().await;
}

/// The same in the older protocol, where nothing comes unasked.
#[tokio::test]
async fn a_flood_of_replies_that_nobody_asked_for_ends_the_connection() {
    let peer = Peer::resp2(|request| match request[0].as_str() {
        "INCR" => Say::Stream(":1\r\n".into(), "+more\r\n".into(), usize::MAX),
        _ => Say::AsUsual,
    })
    .await;
    let client = alone(&peer).await;
    let mut con = client.connection();
    for n in 0..5 {
        let asked = Instant::now();
        let answer = ask::<i64>(&mut con, &["INCR", "k"]).await;
        if let Err(error) = &answer {
            let kind = ours(error).kind().clone();
            assert!(matches!(kind, ErrorKind::OutcomeUnknown(_)), "{error}");
        }
        assert!(answer.is_err() || answer.unwrap() == 1, "{n}");
        assert!(asked.elapsed() < DEADLINE + SLACK, "{:?}", asked.elapsed());
    }
    client.close().await;
}

/// A byte every 100 ms is a sign of life, and no reply: the call ends, the database is left.
#[tokio::test]
async fn f22_a_reply_that_trickles_in_costs_the_timeout_and_its_database_the_place() {
    let slow = Arc::new(AtomicBool::new(true));
    let trickles = slow.clone();
    let peer = Peer::resp2(move |request| match request[0].as_str() {
        "INCR" if trickles.load(Ordering::Relaxed) => {
            let digits = format!(":{}1\r\n", "0".repeat(600));
            Say::Drip(digits.into_bytes(), Duration::from_millis(100))
        }
        _ => Say::AsUsual,
    })
    .await;
    let (client, server) = beside(&peer).await;
    let mut con = client.connection();
    let began = Instant::now();
    let served = loop {
        let asked = Instant::now();
        let result = ask::<i64>(&mut con, &["INCR", "k"]).await;
        assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
        match result {
            Ok(n) => break n,
            Err(error) => {
                let kind = ours(&error).kind().clone();
                assert!(matches!(kind, ErrorKind::OutcomeUnknown(_)), "{error}");
            }
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it is never left"
        );
    };
    println!("left after {:?}", began.elapsed());
    assert_eq!((served, server.storage().counter("k")), (1, Some(1)));
    client.close().await;
}

/// A greeting that trickles in is given up by the connect timeout, and starts nothing.
#[tokio::test]
async fn a_greeting_that_trickles_in_is_given_up_in_time() {
    let peer = Peer::resp3(|request| match request[0].as_str() {
        "HELLO" => Say::Drip(vec![b'+'; 600], Duration::from_millis(100)),
        _ => bytes("+OK\r\n"),
    })
    .await;
    let mut config = multidb::Config::default();
    config.calls.connect_timeout = TIMEOUT;
    let asked = Instant::now();
    let builder = MultiDbClient::builder().config(config);
    let started = builder.url(peer.url(), 1.0).connect().await;
    assert_eq!(started.unwrap_err().kind(), &ErrorKind::NotStarted);
    assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
}
