//! The end: within two seconds, with a word to everybody, and nothing of ours afterwards.

use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::Duration;

use multidb::engine::run::RunError;
use multidb::testing::scripted::{OnCall, Script, Scripted, Work};
use multidb::{Doubt, ErrorKind, Event, MultiDbClient, Status};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::*;

/// Tasks of this runtime; the test itself is none.
fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until the tasks that were there before are the only ones left.
async fn settled(before: usize) {
    for _ in 0..2000 {
        if tasks() <= before {
            return;
        }
        tokio::time::sleep(ms(1)).await;
    }
    panic!("{} tasks are left of {before}", tasks());
}

async fn silent(scripts: &[&Script]) {
    for script in scripts {
        assert_eq!(script.open(), 0, "a connection is open");
        script.forget();
    }
    tokio::time::sleep(secs(600)).await;
    for script in scripts {
        assert!(script.log().is_empty(), "{:?}", script.log());
    }
}

#[tokio::test(start_paused = true)]
async fn closing_ends_what_is_in_flight_with_a_class_and_leaves_nothing() {
    let before = tasks();
    let (client, east, west) = pair().await;
    let mut events = client.events();
    east.on_call(OnCall::Hang);
    let mut calls = Vec::new();
    for n in 0..50 {
        calls.push(begin(&client, Work::new(format!("w{n}"))).await);
        calls.push(begin(&client, Work::read(format!("r{n}"))).await);
    }
    let start = Instant::now();
    client.close().await;
    assert!(start.elapsed() <= ms(10), "{:?}", start.elapsed());
    for call in calls {
        let error = ours(call.await.unwrap());
        match error.kind() {
            ErrorKind::OutcomeUnknown(Doubt::Lost) => assert!(!error.is_retry_safe()),
            other => panic!("{other:?}"),
        }
    }
    assert!(start.elapsed() <= ms(10), "{:?}", start.elapsed());
    settled(before).await;
    silent(&[&east, &west]).await;

    assert_eq!(client.snapshot().status, Status::Closed);
    assert_eq!(
        kind(call(&client, Work::new("late")).await),
        ErrorKind::Closed
    );
    assert_eq!(*client.lease().await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(
        *client.switch_to("west").await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    assert_eq!(*client.unpin().await.unwrap_err().kind(), ErrorKind::Closed);
    let told =
        std::iter::from_fn(|| futures_util::FutureExt::now_or_never(events.next()).flatten());
    assert_eq!(told.last(), Some(Event::Closed));
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn closing_ends_calls_that_wait_for_a_database_or_for_their_next_attempt() {
    let before = tasks();
    let (client, east, west) = pair().await;
    east.on_call(OnCall::Answer(multidb::Class::SessionInvalid));
    let retrying = begin(&client, Work::new("a")).await;
    tokio::time::sleep(ms(1)).await;
    east.kill();
    west.kill();
    tokio::time::sleep(ms(10)).await;
    let waiting = begin(&client, Work::new("b")).await;
    let start = Instant::now();
    client.close().await;
    for call in [retrying, waiting] {
        let error = ours(call.await.unwrap());
        assert_eq!(*error.kind(), ErrorKind::Closed);
        assert!(error.is_retry_safe(), "it never ran");
    }
    assert!(start.elapsed() <= ms(10), "{:?}", start.elapsed());
    settled(before).await;
    silent(&[&east, &west]).await;
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_database_that_hangs() {
    let before = tasks();
    let (client, east, west) = pair().await;
    east.hang();
    west.hang();
    tokio::time::sleep(secs(7)).await;
    let start = Instant::now();
    client.close().await;
    assert!(start.elapsed() <= ms(10), "{:?}", start.elapsed());
    settled(before).await;
    silent(&[&east, &west]).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_is_the_end_and_not_one_handle_earlier() {
    let before = tasks();
    let (client, east, west) = pair().await;
    let router = client.router();
    let clone = client.clone();
    drop(client);
    tokio::time::sleep(secs(60)).await;
    drop(clone);
    tokio::time::sleep(secs(60)).await;
    let mut router = router;
    assert_eq!(router.run(&Work::new("a")).await.unwrap(), "east");
    drop(router);
    settled(before).await;
    silent(&[&east, &west]).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_leases_and_streams_of_events() {
    let (client, east, west) = pair().await;
    let lease = client.lease().await.unwrap();
    let mut events = client.events();
    drop(client);
    tokio::time::sleep(ms(10)).await;
    assert!(lease.is_lost());
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    assert_eq!(last, Some(Event::Closed));
    silent(&[&east, &west]).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_closes_first_two_at_once_both_return() {
    let (client, _east, _west) = pair().await;
    let other = client.clone();
    let both = tokio::time::timeout(secs(2), async {
        tokio::join!(client.close(), other.close())
    });
    both.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lazy_client_can_be_closed_without_ever_having_started() {
    let before = tasks();
    let (east, west) = scripts();
    let client = over(&east, &west).connect_lazy().unwrap();
    tokio::time::timeout(secs(2), client.close()).await.unwrap();
    assert_eq!(kind(call(&client, Work::new("a")).await), ErrorKind::Closed);
    settled(before).await;
    silent(&[&east, &west]).await;
}

#[test]
fn a_handle_that_outlives_its_runtime_says_closed() {
    let runtime = current_thread();
    let (client, mut router) = runtime.block_on(async {
        let (client, _east, _west) = pair().await;
        let mut router = client.router();
        router.run(&Work::new("a")).await.unwrap();
        (client, router)
    });
    drop(runtime);
    let start = std::time::Duration::ZERO;
    let other = current_thread();
    other.block_on(async {
        let begun = Instant::now();
        for outcome in [
            router.run(&Work::new("b")).await,
            call(&client, Work::new("c")).await,
        ] {
            match outcome {
                Err(RunError::Engine(error)) => assert_eq!(*error.kind(), ErrorKind::Closed),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(*client.unpin().await.unwrap_err().kind(), ErrorKind::Closed);
        client.close().await;
        assert_eq!(begun.elapsed(), start);
    });
}

#[test]
fn calls_in_flight_when_their_runtime_ends_are_not_left_hanging_on_another() {
    let runtime = current_thread();
    let (client, east) = runtime.block_on(async {
        let (client, east, _west) = pair().await;
        east.on_call(OnCall::Hang);
        (client, east)
    });
    let other = current_thread();
    let call = {
        let client = client.clone();
        other.spawn(async move { call(&client, Work::new("a")).await })
    };
    other.block_on(tokio::task::yield_now());
    assert_eq!(east.called(), ["a"]);
    drop(runtime);
    let ended = other.block_on(async { tokio::time::timeout(secs(10), call).await });
    let error = ours(ended.expect("it hangs").unwrap());
    assert_eq!(*error.kind(), ErrorKind::OutcomeUnknown(Doubt::Lost));
}

fn current_thread() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_thousand_failovers_leave_no_more_behind_than_one() {
    let before = tasks();
    let (east, west) = scripts();
    let client = serving(over(&east, &west).grace_period(ms(20))).await;
    let mut most = 0;
    for round in 0..1000 {
        let (serving, script) = if round % 2 == 0 {
            ("west", &east)
        } else {
            ("east", &west)
        };
        script.kill();
        until_active(&client, serving).await;
        client.reset_circuit("east").await.unwrap();
        client.reset_circuit("west").await.unwrap();
        script.heal();
        let _ = call(&client, Work::new("a")).await;
        until(&client, |s| s.members.iter().all(|m| m.connected)).await;
        if round == 10 {
            most = tasks();
        }
        if client.active().unwrap() != *serving {
            client.switch_to(serving).await.unwrap();
        }
        east.forget();
        west.forget();
    }
    tokio::time::sleep(ms(100)).await;
    assert!(
        tasks() <= most + 5,
        "{} tasks, {most} in the beginning",
        tasks()
    );
    assert!(
        east.open() + west.open() <= 3,
        "{} {}",
        east.open(),
        west.open()
    );
    client.close().await;
    settled(before).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_members_added_and_removed_leave_nothing_behind() {
    let (client, _east, _west) = pair().await;
    let before = tasks();
    let script = Script::new();
    for round in 0..1000 {
        client.add(database("guest", &script, 0.1)).await.unwrap();
        if round % 3 == 0 {
            tokio::time::sleep(ms(1)).await;
        }
        client.remove("guest").await.unwrap();
    }
    tokio::time::sleep(secs(5)).await;
    assert_eq!(script.open(), 0);
    assert!(tasks() <= before + 1, "{} tasks, {before} before", tasks());
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn policies_and_listeners_are_dropped_with_the_client() {
    struct Witness(#[expect(dead_code, reason = "its drop is watched")] Sender<()>);
    impl multidb::FailoverStrategy for Witness {
        fn choose(&self, candidates: &[multidb::Candidate<'_>]) -> Option<usize> {
            multidb::HighestWeight.choose(candidates)
        }
    }
    let (held, let_go) = std::sync::mpsc::channel();
    let (east, west) = scripts();
    let listener = held.clone();
    let client: MultiDbClient<Scripted> = over(&east, &west)
        .strategy(Witness(held))
        .on_event(move |_| drop(listener.clone()))
        .connect()
        .await
        .unwrap();
    client.close().await;
    drop(client);
    // The listener's thread ends on its own time.
    let ended = let_go.recv_timeout(Duration::from_secs(10));
    assert_eq!(ended, Err(RecvTimeoutError::Disconnected), "held still");
}
