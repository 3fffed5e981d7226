//! Where a connection is lost decides what may be done about the command.

use std::sync::atomic::{AtomicUsize, Ordering};

use multidb::{Doubt, ErrorKind, Event};
use redis::Value;
use tokio::time::Instant;

use super::*;
use crate::peer::{Peer, Say, bytes, last};

fn total(rig: &Rig, key: &str) -> i64 {
    let count = |server: &Server| server.storage().counter(key).unwrap_or(0);
    count(&rig.east) + count(&rig.west)
}

// === before the hand-over ===

#[tokio::test(start_paused = true)]
async fn a_write_of_which_no_byte_left_runs_once_on_the_other_database() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    rig.to_east.hold();
    let (outcome, ()) = tokio::join!(ask::<i64>(&mut con, &["INCR", "k"]), async {
        tokio::time::sleep(ms(20)).await;
        rig.to_east.refuse();
    });
    assert_eq!(outcome.unwrap(), 1);
    assert_eq!(rig.west.storage().counter("k"), Some(1));
    assert_eq!(total(&rig, "k"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_of_which_no_byte_left_runs_once_over_a_new_connection() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    rig.to_east.hold();
    let (outcome, ()) = tokio::join!(ask::<i64>(&mut con, &["INCR", "k"]), async {
        tokio::time::sleep(ms(20)).await;
        rig.to_east.cut();
    });
    assert_eq!(outcome.unwrap(), 1);
    assert_eq!(total(&rig, "k"), 1);
    assert_eq!(
        active(&rig.client),
        "east:6379",
        "no failover for a dropped connection"
    );
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_writes_on_a_dying_connection_runs_each_at_most_once() {
    let rig = rig().await;
    let mut tasks = Vec::new();
    for n in 0..200 {
        let mut con = rig.client.connection();
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(ms(n % 10)).await;
            (
                n,
                ask::<i64>(&mut con, &["RPUSH", "list", &n.to_string()]).await,
            )
        }));
    }
    tokio::time::sleep(ms(5)).await;
    rig.to_east.refuse();
    let mut acknowledged = 0;
    for task in tasks {
        match task.await.unwrap() {
            (_, Ok(_)) => acknowledged += 1,
            (_, Err(error)) => {
                assert!(
                    matches!(ours(&error).kind(), ErrorKind::OutcomeUnknown(_)),
                    "{error}"
                );
            }
        }
    }
    let mut ran = [
        rig.east.storage().list("list"),
        rig.west.storage().list("list"),
    ]
    .concat();
    assert!(ran.len() >= acknowledged);
    let before = ran.len();
    ran.sort();
    ran.dedup();
    assert_eq!(ran.len(), before, "one ran twice");
    assert!(acknowledged >= 190, "{acknowledged}");
}

// === after it ===

#[tokio::test(start_paused = true)]
async fn a_write_lost_after_it_left_is_unknown_and_never_repeated() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    rig.east.latency(ms(100));
    let (outcome, ()) = tokio::join!(ask::<i64>(&mut con, &["INCR", "k"]), async {
        tokio::time::sleep(ms(20)).await;
        rig.to_east.refuse();
    });
    let error = outcome.unwrap_err();
    assert!(error.is_connection_dropped(), "{error:?}");
    assert_eq!(*ours(&error).kind(), ErrorKind::OutcomeUnknown(Doubt::Lost));
    assert!(!ours(&error).is_retry_safe());
    tokio::time::sleep(secs(10)).await;
    assert_eq!(
        total(&rig, "k"),
        1,
        "it ran where it was sent, and nowhere else"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_calls_idempotent_is_repeated_and_reads_are_always() {
    let rig = rig().await;
    let mut con = rig.client.connection().assume_idempotent();
    let mut reader = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    rig.east.latency(ms(100));
    let (write, read, ()) = tokio::join!(
        ask::<i64>(&mut con, &["INCR", "k"]),
        ask::<Option<String>>(&mut reader, &["GET", "other"]),
        async {
            tokio::time::sleep(ms(20)).await;
            rig.to_east.refuse();
        }
    );
    assert_eq!((write.unwrap(), read.unwrap()), (1, None));
    assert_eq!(total(&rig, "k"), 2, "once on each, as declared harmless");
}

#[tokio::test(start_paused = true)]
async fn lost_replies_are_unknown_for_writes_and_invisible_for_reads() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    rig.east.lose_replies(true);
    let mut other = con.clone();
    let (write, read) = tokio::join!(
        ask::<i64>(&mut con, &["INCR", "k"]),
        ask::<Option<i64>>(&mut other, &["GET", "x"]),
    );
    assert!(matches!(
        ours(&write.unwrap_err()).kind(),
        ErrorKind::OutcomeUnknown(_)
    ));
    assert_eq!(read.unwrap(), None);
    assert_eq!(total(&rig, "k"), 1);
    assert_eq!(active(&rig.client), "west:6379");
}

#[tokio::test(start_paused = true)]
async fn half_a_reply_is_no_reply() {
    for cut in 0..5 {
        let rig = rig().await;
        let mut con = rig.client.connection();
        ask::<()>(&mut con, &["PING"]).await.unwrap();
        // `:41\r\n` after so many bytes.
        rig.east.cut_after(cut);
        let error = ask::<i64>(&mut con, &["INCRBY", "k", "41"])
            .await
            .unwrap_err();
        assert!(
            matches!(ours(&error).kind(), ErrorKind::OutcomeUnknown(_)),
            "{cut}: {error}"
        );
        assert_eq!(rig.east.storage().counter("k"), Some(41));
        // The next call finds a new connection and its own reply.
        assert_eq!(
            ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(),
            42,
            "{cut}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_cut_after_some_replies_is_unknown_as_a_whole_and_not_repeated() {
    // Ten replies of four bytes each.
    for cut in [0, 1, 4, 7, 20, 39] {
        let rig = rig().await;
        let mut con = rig.client.connection();
        ask::<()>(&mut con, &["PING"]).await.unwrap();
        rig.east.cut_after(cut);
        let mut pipeline = redis::pipe();
        for n in 0..10 {
            pipeline.cmd("INCR").arg(format!("k{n}"));
        }
        let outcome: RedisResult<Vec<i64>> = pipeline.query_async(&mut con).await;
        let error = outcome.expect_err("cut");
        assert!(
            matches!(ours(&error).kind(), ErrorKind::OutcomeUnknown(_)),
            "{cut}: {error}"
        );
        tokio::time::sleep(secs(1)).await;
        for n in 0..10 {
            assert!(total(&rig, &format!("k{n}")) <= 1, "k{n} ran twice");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_whose_exec_is_unanswered_is_unknown() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    rig.east.lose_replies(true);
    let mut pipeline = redis::pipe();
    pipeline.atomic().cmd("INCR").arg("a").cmd("INCR").arg("b");
    let outcome: RedisResult<Vec<i64>> = pipeline.query_async(&mut con).await;
    assert!(matches!(
        ours(&outcome.unwrap_err()).kind(),
        ErrorKind::OutcomeUnknown(_)
    ));
    assert_eq!((total(&rig, "a"), total(&rig, "b")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_into_a_black_hole_never_runs_later() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    rig.east.black_hole();
    let start = Instant::now();
    let error = ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap_err();
    assert!(
        matches!(ours(&error).kind(), ErrorKind::OutcomeUnknown(_)),
        "{error}"
    );
    assert!(start.elapsed() <= ms(510), "{:?}", start.elapsed());
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    rig.east.heal();
    tokio::time::sleep(secs(120)).await;
    assert_eq!(rig.east.storage().counter("k"), None);
    assert_eq!(active(&rig.client), "east:6379", "and it serves again");
}

#[tokio::test(start_paused = true)]
async fn a_command_without_a_response_is_sent_once_and_claims_nothing() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    let mut silent = cmd("INCR");
    silent.arg("k").set_no_response(true);
    silent.exec_async(&mut con).await.unwrap();
    tokio::time::sleep(ms(10)).await;
    assert_eq!(total(&rig, "k"), 1);
    assert_eq!(
        ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(),
        2,
        "no reply is off by one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_blocking_command_begun_during_a_hang_moves_with_the_switch() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    let mut writer = con.clone();
    rig.east.hang();
    let start = Instant::now();
    let (popped, pushed) = tokio::join!(
        ask::<(String, String)>(&mut con, &["BLPOP", "queue", "10"]),
        async {
            // It is this one that finds the hang; then it is run on the other database.
            let found = ask::<Option<i64>>(&mut writer, &["GET", "x"]).await;
            found.and(ask::<i64>(&mut writer, &["RPUSH", "queue", "e"]).await)
        }
    );
    assert_eq!((popped.unwrap().1.as_str(), pushed.unwrap()), ("e", 1));
    assert!(start.elapsed() <= ms(330), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_the_client_ends_calls_of_every_kind_with_a_class() {
    let rig = rig().await;
    let con = rig.client.connection();
    ask::<()>(&mut con.clone(), &["PING"]).await.unwrap();
    rig.east.latency(ms(100));
    let send = |words: &'static [&'static str]| {
        let mut con = con.clone();
        tokio::spawn(async move { ask::<redis::Value>(&mut con, words).await })
    };
    let calls = [
        send(&["INCR", "k"]),
        send(&["GET", "k"]),
        send(&["BLPOP", "empty", "0"]),
    ];
    let mut watching = con.clone();
    let watch = ask::<()>(&mut watching, &["WATCH", "k"]);
    assert!(tokio::time::timeout(ms(20), watch).await.is_err());
    let start = Instant::now();
    rig.client.close().await;
    for call in calls {
        let error = ours(&call.await.unwrap().unwrap_err());
        let known = [ErrorKind::OutcomeUnknown(Doubt::Lost), ErrorKind::Closed];
        let given_up = ErrorKind::OutcomeUnknown(Doubt::TimedOut);
        assert!(
            known.contains(error.kind()) || *error.kind() == given_up,
            "{error:?}"
        );
    }
    assert!(start.elapsed() <= ms(10), "{:?}", start.elapsed());
    tokio::time::sleep(secs(1)).await;
    assert_eq!(rig.east.connections() + rig.west.connections(), 0);
    let late = ask::<i64>(&mut con.clone(), &["INCR", "k"])
        .await
        .unwrap_err();
    assert_eq!(*ours(&late).kind(), ErrorKind::Closed);
}

// === by hand ===

/// One peer and nobody else: what is left undone cannot be hidden by a failover.
async fn alone(peer: &Peer) -> (MultiDbClient<Redis>, MultiDbConnection) {
    let network = Network::default();
    network.peer("lone", peer);
    let client = serving(builder(&network).url("redis://lone", 1.0)).await;
    let con = client.connection();
    (client, con)
}

#[tokio::test(start_paused = true)]
async fn an_end_of_file_at_every_byte_of_a_reply_is_unknown_and_leads_to_a_new_connection() {
    let whole = "*2\r\n$5\r\nhello\r\n:7\r\n";
    for cut in 0..whole.len() {
        let times = AtomicUsize::new(0);
        let peer = Peer::new(move |request| match request[0].as_str() {
            "ODD" if times.fetch_add(1, Ordering::Relaxed) == 0 => last(&whole[..cut]),
            "ODD" => bytes(whole),
            _ => Say::AsUsual,
        });
        let (client, mut con) = alone(&peer).await;
        let error = ask::<Value>(&mut con, &["ODD"]).await.unwrap_err();
        assert!(
            matches!(ours(&error).kind(), ErrorKind::OutcomeUnknown(_)),
            "{cut}: {error}"
        );
        let reply: (String, i64) = ask(&mut con, &["ODD"]).await.unwrap();
        assert_eq!(reply, ("hello".to_owned(), 7), "{cut}");
        assert_eq!(peer.count(&["ODD"]), 2);
        drop(client);
    }
}

#[tokio::test(start_paused = true)]
async fn f22_garbage_is_unknown_and_its_connection_is_not_used_again() {
    for garbage in [
        "hello\r\n",
        "$x\r\n",
        "*2\r\n:1\r\n!!\r\n",
        "\0\0\0\0",
        "*x\r\n",
        ":\r\n",
    ] {
        let times = AtomicUsize::new(0);
        let peer = Peer::new(move |request| match request[0].as_str() {
            "ODD" if times.fetch_add(1, Ordering::Relaxed) == 0 => bytes(garbage),
            "ODD" => bytes(":1\r\n"),
            _ => Say::AsUsual,
        });
        let (client, mut con) = alone(&peer).await;
        let mut events = client.events();
        let error = ask::<Value>(&mut con, &["ODD"]).await.unwrap_err();
        assert!(
            matches!(ours(&error).kind(), ErrorKind::OutcomeUnknown(_)),
            "{garbage:?}: {error}"
        );
        for _ in 0..3 {
            assert_eq!(
                ask::<i64>(&mut con, &["ODD"]).await.unwrap(),
                1,
                "{garbage:?}"
            );
        }
        let told = drain(&mut events).await;
        let replaced = |event: &&Event| matches!(event, Event::ConnectionReplaced { .. });
        assert_eq!(
            told.iter().filter(replaced).count(),
            1,
            "{garbage:?}: {told:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_greeting_without_end_is_given_up_and_not_kept_in_memory() {
    let endless = format!("${}\r\n{}", 100 << 20, "x".repeat(60 << 10));
    let sent = std::sync::Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let peer = Peer::new(move |request| match request[0].as_str() {
        "CLIENT" => {
            count.fetch_add(1, Ordering::Relaxed);
            Say::Bytes(endless.repeat(4).into_bytes())
        }
        _ => Say::AsUsual,
    });
    let network = Network::default();
    let line = network.peer("lone", &peer);
    let start = Instant::now();
    let error = builder(&network)
        .url("redis://lone", 1.0)
        .connect()
        .await
        .unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotStarted);
    // At once, not after the connect timeout: the cap told.
    assert_eq!(start.elapsed(), ms(0), "{error}");
    assert!(line.opened() >= 1 && sent.load(Ordering::Relaxed) >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_reply_is_no_oversized_one() {
    let large = format!("${}\r\n{}\r\n", 3 << 20, "x".repeat(3 << 20));
    let peer = Peer::new(move |request| match request[0].as_str() {
        "GET" => bytes(&large),
        _ => Say::AsUsual,
    });
    let (_client, mut con) = alone(&peer).await;
    for _ in 0..3 {
        let value: String = ask(&mut con, &["GET", "large"]).await.unwrap();
        assert_eq!(value.len(), 3 << 20);
    }
}
