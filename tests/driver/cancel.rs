//! A call dropped at any moment harms nobody: no reply goes to the wrong caller, nothing is taken
//! for nobody, and no place stays occupied.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use futures_util::poll;
use multidb::Event;
use redis::AsyncCommands;

use super::*;

/// Polls a call `polls` times, letting everybody else have a turn in between, and drops it.
async fn dropped_after<F: Future>(polls: usize, call: F) -> Option<F::Output> {
    let mut call = pin!(call);
    for _ in 0..polls {
        if let Poll::Ready(output) = poll!(call.as_mut()) {
            return Some(output);
        }
        turn().await;
    }
    None
}

/// Runs a test as a task among others: the root of a runtime has its turns before all of them.
async fn turn_by_turn(test: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(test).await.unwrap();
}

/// Lets every other task have one turn. (`yield_now` lets them have as many as they want.)
async fn turn() {
    let mut over = false;
    poll_fn(|cx| match std::mem::replace(&mut over, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Replies match their commands, over every kind of way they travel.
async fn replies_match(con: &mut MultiDbConnection, round: usize) {
    for n in 0..5 {
        let token = format!("{round}-{n}");
        let echoed: String = ask(con, &["ECHO", &token]).await.unwrap();
        assert_eq!(echoed, token);
    }
    let mut pipeline = redis::pipe();
    for n in 0..5 {
        pipeline.cmd("ECHO").arg(format!("{round}-{n}"));
    }
    let echoed: Vec<String> = pipeline.query_async(con).await.unwrap();
    let sent: Vec<_> = (0..5).map(|n| format!("{round}-{n}")).collect();
    assert_eq!(echoed, sent);
}

/// Nothing is in flight on the active database: a switch away from it says so.
async fn nothing_in_flight(client: &MultiDbClient<Redis>) {
    let mut events = client.events();
    client.switch_to("west:6379").await.unwrap();
    let in_flight = drain(&mut events)
        .await
        .into_iter()
        .find_map(|event| match event {
            Event::ActiveChanged { in_flight, .. } => Some(in_flight),
            _ => None,
        });
    assert_eq!(in_flight, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_single_command_may_be_dropped_at_every_point() {
    turn_by_turn(async {
        let rig = rig().await;
        let mut con = rig.client.connection();
        let (mut completed, mut round) = (0, 0);
        while completed < 3 {
            round += 1;
            assert!(round < 200, "it never completes");
            let call = ask::<i64>(&mut con, &["INCR", "k"]);
            if let Some(outcome) = dropped_after(round, call).await {
                outcome.unwrap();
                completed += 1;
            }
            replies_match(&mut con.clone(), round).await;
        }
        assert!(round > 4, "too few points: {round}");
        let ran = rig.east.storage().counter("k").unwrap();
        assert!(ran >= 3 && ran <= round as i64, "{ran} of {round}");
        nothing_in_flight(&rig.client).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_and_a_transaction_may_be_dropped_at_every_point() {
    turn_by_turn(async {
        for atomic in [false, true] {
            let rig = rig().await;
            let mut con = rig.client.connection();
            let (mut completed, mut round) = (0, 0);
            while completed < 3 {
                round += 1;
                assert!(round < 200, "it never completes");
                let mut pipeline = redis::pipe();
                if atomic {
                    pipeline.atomic();
                }
                pipeline
                    .cmd("INCR")
                    .arg("a")
                    .cmd("INCR")
                    .arg("b")
                    .cmd("INCR")
                    .arg("c");
                let call = pipeline.query_async::<Vec<i64>>(&mut con);
                if let Some(outcome) = dropped_after(round, call).await {
                    assert_eq!(outcome.unwrap().len(), 3);
                    completed += 1;
                }
                replies_match(&mut con.clone(), round).await;
            }
            let count = |key| rig.east.storage().counter(key).unwrap();
            assert!(
                count("a") == count("b") && count("b") == count("c"),
                "all or nothing"
            );
            nothing_in_flight(&rig.client).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_dropped_while_the_server_hangs_leave_no_reply_for_others() {
    turn_by_turn(async {
        let rig = rig_with(|b| b.sensitivity(multidb::Sensitivity::Conservative)).await;
        let con = rig.client.connection();
        for round in 0..10 {
            rig.east.hang();
            let mut calls: Vec<_> = (0..20)
                .map(|n| {
                    let mut con = con.clone();
                    tokio::spawn(async move {
                        let token = n.to_string();
                        (ask::<String>(&mut con, &["ECHO", &token]).await, token)
                    })
                })
                .collect();
            tokio::time::sleep(ms(20)).await;
            // Every other one gives up.
            let mut kept = Vec::new();
            for (n, call) in calls.drain(..).enumerate() {
                if n % 2 == 0 {
                    call.abort();
                } else {
                    kept.push(call);
                }
            }
            tokio::time::sleep(ms(20)).await;
            rig.east.resume();
            for call in kept {
                let (echoed, token) = call.await.unwrap();
                assert_eq!(echoed.unwrap(), token);
            }
            replies_match(&mut con.clone(), round).await;
        }
        nothing_in_flight(&rig.client).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watched_transaction_may_be_dropped_at_every_point() {
    turn_by_turn(async {
        let rig = rig().await;
        let con = rig.client.connection();
        let mut plain = rig.client.connection();
        ask::<()>(&mut plain, &["SET", "k", "0"]).await.unwrap();
        let (mut completed, mut round) = (0, 0);
        while completed < 3 {
            round += 1;
            assert!(round < 400, "it never completes");
            let call =
                redis::aio::transaction_async(con.clone(), &["k"], async |mut con, mut pipe| {
                    let value: i64 = con.get("k").await?;
                    pipe.set("k", value + 1).ignore().get("k");
                    pipe.query_async::<Option<(i64,)>>(&mut con).await
                });
            let before: i64 = plain.get("k").await.unwrap();
            let outcome = dropped_after(round, call).await;
            tokio::time::sleep(ms(1)).await;
            let after: i64 = plain.get("k").await.unwrap();
            match outcome {
                Some(outcome) => {
                    assert_eq!(outcome.unwrap(), (before + 1,));
                    assert_eq!(after, before + 1);
                    completed += 1;
                }
                None => assert!(after == before || after == before + 1, "{before} {after}"),
            }
            replies_match(&mut con.clone(), round).await;
            // A watch left behind by the dropped one binds nobody.
            let mut pipeline = redis::pipe();
            pipeline.atomic().cmd("INCR").arg("other");
            assert!(
                pipeline
                    .query_async::<(i64,)>(&mut con.clone())
                    .await
                    .is_ok()
            );
        }
        assert!(round > 8, "too few points: {round}");
        tokio::time::sleep(ms(10)).await;
        // Traffic, probe, and spare lanes: those of dropped calls are gone.
        assert!(
            rig.east.connections() <= 2 + 8,
            "{} connections",
            rig.east.connections()
        );
        nothing_in_flight(&rig.client).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_blocking_command_may_be_dropped_at_every_point_and_swallows_nothing() {
    turn_by_turn(async {
        let rig = rig().await;
        let mut con = rig.client.connection();
        let mut pushed = 0;
        let mut received = 0;
        for round in 1..60 {
            // Nothing to pop: it waits, and is dropped.
            let call = ask::<Option<(String, String)>>(&mut con, &["BLPOP", "queue", "30"]);
            assert!(dropped_after(round, call).await.is_none());
            tokio::time::sleep(ms(1)).await;
            let element = round.to_string();
            ask::<()>(&mut con.clone(), &["RPUSH", "queue", &element])
                .await
                .unwrap();
            pushed += 1;
            tokio::time::sleep(ms(1)).await;
            let popped: Option<(String, String)> = ask(&mut con.clone(), &["BLPOP", "queue", "1"])
                .await
                .unwrap();
            assert_eq!(popped.expect("swallowed").1, element);
            received += 1;
            replies_match(&mut con.clone(), round).await;
        }
        assert_eq!(received, pushed);
        assert!(rig.east.storage().list("queue").is_empty());
        tokio::time::sleep(ms(10)).await;
        assert!(
            rig.east.connections() <= 2 + 8,
            "{} connections",
            rig.east.connections()
        );
        nothing_in_flight(&rig.client).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_in_the_middle_of_a_failover_is_forgotten() {
    turn_by_turn(async {
        for polls in 1..40 {
            let rig = rig().await;
            let mut con = rig.client.connection();
            ask::<()>(&mut con, &["PING"]).await.unwrap();
            rig.east.kill();
            let call = ask::<i64>(&mut con, &["INCR", "k"]);
            let done = dropped_after(polls, call).await.is_some();
            replies_match(&mut con.clone(), polls).await;
            tokio::time::sleep(ms(50)).await;
            let ran = rig.west.storage().counter("k").unwrap_or(0);
            assert!(ran <= 1 && (ran == 1 || !done), "{polls}: {ran}");
            assert_eq!(active(&rig.client), "west:6379");
        }
    })
    .await;
}
