//! Moving on purpose: nobody sees an error, and what was begun ends where it was begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use multidb::engine::run::{Operation, RunError};
use multidb::testing::scripted::{Act, OnCall, ScriptError, Work};
use multidb::{Class, Config, DatabaseId, Doubt, Drain, ErrorKind, Event, Reason};
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn calls_in_flight_end_where_they_were_begun_and_new_ones_go_to_the_target() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    east.latency(ms(200));
    let mut calls = Vec::new();
    for n in 0..10 {
        calls.push(begin(&client, Work::new(format!("{n}"))).await);
    }
    let start = Instant::now();
    client.switch_to("west").await.unwrap();
    assert_eq!(start.elapsed(), ms(0), "a planned switch waits for nobody");
    assert_eq!(call(&client, Work::new("new")).await.unwrap(), "west");
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "east");
    }
    assert_eq!(start.elapsed(), ms(200));
    tokio::time::sleep(ms(20)).await;
    let told = drain(&mut events).await;
    match &told[..] {
        [
            Event::ActiveChanged {
                reason,
                in_flight,
                generation,
                ..
            },
            Event::Draining {
                database,
                in_flight: left,
            },
            Event::Drained { database: drained },
        ] => {
            assert_eq!((*reason, *in_flight, *generation), (Reason::Manual, 10, 2));
            assert_eq!(
                (database.as_str(), *left, drained.as_str()),
                ("east", 10, "east")
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((east.executed().len(), west.executed().len()), (10, 1));
}

#[tokio::test(start_paused = true)]
async fn switching_to_and_fro_under_load_costs_no_caller_an_error() {
    let (client, east, west) = pair().await;
    east.latency(ms(3));
    west.latency(ms(7));
    let (going, failed, done) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let workers: Vec<_> = (0..20)
        .map(|worker| {
            let mut router = client.router();
            let (going, failed, done) = (going.clone(), failed.clone(), done.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while going.load(Ordering::Relaxed) {
                    n += 1;
                    let outcome = router.run(&Work::new(format!("{worker}-{n}"))).await;
                    let counter = if outcome.is_ok() { &done } else { &failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..25 {
        client.switch_to("west").await.unwrap();
        tokio::time::sleep(ms(11)).await;
        client.switch_to("east").await.unwrap();
        tokio::time::sleep(ms(13)).await;
    }
    going.store(false, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    let mut ran = [east.executed(), west.executed()].concat();
    assert_eq!(ran.len(), done.load(Ordering::Relaxed));
    ran.sort();
    ran.dedup();
    assert_eq!(ran.len(), done.load(Ordering::Relaxed), "each of them once");
    assert_eq!(client.snapshot().generation, 51);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_after_the_drain_time_is_cut_off_and_its_outcome_unknown() {
    let (east, west) = scripts();
    let mut config = Config::default();
    config.failover.drain = Drain::Cancel(ms(50));
    let client = serving(over(&east, &west).config(config)).await;
    let mut events = client.events();
    east.latency(ms(40));
    let quick = begin(&client, Work::new("quick")).await;
    east.latency(ms(400));
    let slow = begin(&client, Work::new("slow")).await;
    let start = Instant::now();
    client.switch_to("west").await.unwrap();
    assert_eq!(quick.await.unwrap().unwrap(), "east");
    assert_eq!(
        kind(slow.await.unwrap()),
        ErrorKind::OutcomeUnknown(Doubt::Lost)
    );
    let took = start.elapsed();
    assert!(took >= ms(50) && took <= ms(60), "{took:?}");
    let cut = next(&mut events, |event| match event {
        Event::DrainTimeout { database, cut } => Some((database.clone(), *cut)),
        _ => None,
    });
    assert_eq!(cut.await, (DatabaseId::new("east").unwrap(), 1));
    // It stands by again, over a new connection.
    east.heal();
    tokio::time::sleep(ms(500)).await;
    assert!(client.snapshot().member("east").unwrap().connected);
    client.switch_to("east").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_keeps_its_connection_through_a_switch_and_counts_as_draining() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    let lease = client.lease().await.unwrap();
    assert_eq!((lease.database().as_str(), lease.generation()), ("east", 1));
    client.switch_to("west").await.unwrap();
    let draining = next(&mut events, |event| match event {
        Event::Draining { in_flight, .. } => Some(*in_flight),
        _ => None,
    });
    assert_eq!(draining.await, 1);
    // For as long as it likes: a cursor may be read for minutes.
    for _ in 0..10 {
        tokio::time::sleep(secs(30)).await;
        let mut handle = lease.handle().clone();
        let page = Work::read("page").attempt(&mut handle).await;
        assert_eq!(page.unwrap(), "east");
        assert!(!lease.is_lost());
    }
    assert!(
        !drain(&mut events)
            .await
            .iter()
            .any(|e| matches!(e, Event::Drained { .. }))
    );
    assert_eq!(active(&client), "west");
    let incarnation = lease.incarnation();
    drop(lease);
    next(&mut events, |e| {
        matches!(e, Event::Drained { .. }).then_some(())
    })
    .await;

    client.switch_to("east").await.unwrap();
    let again = client.lease().await.unwrap();
    assert_eq!(
        again.incarnation(),
        incarnation,
        "the connection has been kept all along"
    );
    assert_eq!(again.generation(), 3);
    east.kill();
    tokio::time::sleep(ms(1)).await;
    assert!(again.is_lost());
}

#[tokio::test(start_paused = true)]
async fn a_lease_waits_for_a_database_within_the_deadline() {
    let (client, east, west) = pair().await;
    east.kill();
    west.kill();
    tokio::time::sleep(ms(10)).await;
    let start = Instant::now();
    let error = client.lease().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert_eq!(start.elapsed(), secs(5));
}

#[tokio::test(start_paused = true)]
async fn any_number_of_callers_with_the_same_news_make_one_switch() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    let to = DatabaseId::new("west").unwrap();
    east.on_call(OnCall::Answer(Class::Redirect { to }));
    east.on_check(Act::Answer(multidb::Verdict::Standby));
    west.latency(ms(20));
    let mut calls = Vec::new();
    for n in 0..50 {
        calls.push(begin(&client, Work::new(format!("{n}"))).await);
    }
    let start = Instant::now();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "west");
    }
    assert!(start.elapsed() <= ms(60), "{:?}", start.elapsed());
    let told = drain(&mut events).await;
    let made: Vec<_> = told.iter().filter_map(switched).collect();
    assert_eq!(made.len(), 1, "{told:?}");
    assert_eq!(made[0].2, Reason::Directed);
    assert!(
        !told
            .iter()
            .any(|e| matches!(e, Event::CircuitChanged { .. })),
        "{told:?}"
    );
    assert_eq!(west.executed().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn news_of_an_unknown_database_ends_as_the_servers_refusal() {
    let (client, east, _west) = pair().await;
    let to = DatabaseId::new("nowhere").unwrap();
    east.on_call(OnCall::Answer(Class::Redirect { to: to.clone() }));
    let start = Instant::now();
    match call(&client, Work::new("a")).await {
        Err(RunError::Driver(ScriptError::Refused(class))) => {
            assert_eq!(class, Class::Redirect { to });
        }
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() <= secs(5) + ms(10), "{:?}", start.elapsed());
    assert_eq!(
        (active(&client).as_str(), client.snapshot().generation),
        ("east", 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_directive_outranks_weights_and_stale_news_is_refused() {
    let (client, _east, _west) = pair().await;
    client.direct("west", 1, "it said so").await.unwrap();
    assert_eq!(
        (active(&client).as_str(), client.snapshot().generation),
        ("west", 2)
    );
    // The same news again changes nothing; older news is refused.
    client.direct("west", 1, "it said so").await.unwrap();
    let stale = client.direct("east", 1, "it said so").await.unwrap_err();
    assert_eq!(*stale.kind(), ErrorKind::Superseded);
    tokio::time::sleep(secs(600)).await;
    assert_eq!(
        (active(&client).as_str(), client.snapshot().generation),
        ("west", 2)
    );
    client.direct("east", 2, "and back").await.unwrap();
    assert_eq!(active(&client), "east");
}

#[tokio::test(start_paused = true)]
async fn an_unfit_target_is_refused_and_nothing_has_changed() {
    let (client, _east, west) = pair().await;
    let mut events = client.events();
    west.hang();
    let start = Instant::now();
    let error = client.switch_to("west").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unhealthy);
    assert!(start.elapsed() <= secs(3) + ms(10), "{:?}", start.elapsed());
    assert_eq!(
        (active(&client).as_str(), client.snapshot().generation),
        ("east", 1)
    );
    assert_eq!(switches(&drain(&mut events).await), 0);
    // While it was asked, calls went on.
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn a_pin_holds_against_weights_and_ends_with_the_failure_of_its_target() {
    let (client, _east, west) = pair().await;
    client.switch_to("west").await.unwrap();
    tokio::time::sleep(secs(600)).await;
    assert_eq!(active(&client), "west");
    west.kill();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    west.heal();
    tokio::time::sleep(secs(600)).await;
    assert_eq!(active(&client), "east", "the pin is gone for good");

    client.switch_to("west").await.unwrap();
    client.unpin().await.unwrap();
    until_active(&client, "east").await;
}

#[tokio::test(start_paused = true)]
async fn forcing_ignores_the_circuit_and_ends_by_the_clock() {
    let (client, _east, west) = pair().await;
    client.force_open_circuit("west").await.unwrap();
    let start = Instant::now();
    client.force_active("west", Some(secs(30))).await.unwrap();
    assert_eq!(active(&client), "west");
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
    until_active(&client, "east").await;
    assert_eq!(start.elapsed().as_secs(), 30);

    // Without a time it holds, however bad the target is.
    client.force_active("west", None).await.unwrap();
    west.kill();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(active(&client), "west");
    assert_eq!(
        kind(call(&client, Work::new("b")).await),
        ErrorKind::Unavailable
    );
    client.unpin().await.unwrap();
    assert_eq!(call(&client, Work::new("c")).await.unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn fallback_waits_for_the_dwell_can_be_paused_and_resumes_at_once() {
    let (client, east, _west) = pair().await;
    client.pause_fallback().await.unwrap();
    east.kill();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
    east.heal();
    tokio::time::sleep(secs(600)).await;
    assert_eq!(active(&client), "west");
    client.resume_fallback().await.unwrap();
    tokio::time::sleep(ms(1)).await;
    assert_eq!(active(&client), "east");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_frees_its_place_and_a_drain_does_not_wait_for_it() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.on_call(OnCall::Hang);
    let call = begin(&client, Work::new("a")).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    client.switch_to("west").await.unwrap();
    let in_flight = next(&mut events, |event| match event {
        Event::ActiveChanged { in_flight, .. } => Some(*in_flight),
        _ => None,
    });
    assert_eq!(in_flight.await, 0);
}
