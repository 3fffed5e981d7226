//! The scenarios that the peers' own suites do not cover, by the numbers of the table in the book
//! (`docs/src/conformance.md`). Those that need a real driver are named alike where they are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use multidb::engine::backend::Purpose;
use multidb::testing::scripted::{Act, Asked, OnCall, Script, Scripted, Work};
use multidb::{
    CircuitState, Class, Doubt, ErrorKind, Event, Fault, FaultKind, MultiDbClient, NotSent, Reason,
    Refusal, Status, Verdict,
};
use tokio::time::{Instant, sleep};

use super::*;

async fn serves(client: &MultiDbClient<Scripted>, id: &str) {
    assert_eq!(call(client, Work::new("serves")).await.unwrap(), *id);
}

/// A standby that is seen down before the active one must not make the last probe die.
#[tokio::test(start_paused = true)]
async fn s01_after_a_total_outage_the_active_one_is_found_when_it_alone_recovers() {
    let (client, east, west) = pair().await;
    west.kill();
    sleep(secs(10)).await;
    east.kill();
    sleep(secs(60)).await;
    assert_eq!(client.snapshot().status, Status::Waiting);
    east.heal();
    until(&client, |s| s.status == Status::Serving).await;
    serves(&client, "east").await;
}

#[tokio::test(start_paused = true)]
async fn s02_after_a_total_outage_the_standby_is_found_when_it_alone_recovers() {
    let (client, east, west) = pair().await;
    east.kill();
    until_active(&client, "west").await;
    west.kill();
    sleep(secs(60)).await;
    assert_eq!(client.snapshot().status, Status::Waiting);
    west.heal();
    until(&client, |s| s.status == Status::Serving).await;
    serves(&client, "west").await;
}

/// On the real clock: a listener has a thread of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s03_a_listener_that_panics_blocks_or_calls_the_client_harms_nobody() {
    let (east, west) = scripts();
    let told = Arc::new(AtomicUsize::new(0));
    let heard = told.clone();
    let (gate, opened) = std::sync::mpsc::channel::<()>();
    let client = over(&east, &west)
        .on_event(|_| std::panic::resume_unwind(Box::new("on purpose")))
        .on_event(move |_| {
            let _ = opened.recv();
        })
        .on_event(move |_| {
            heard.fetch_add(1, Ordering::Relaxed);
        })
        .connect()
        .await
        .unwrap();
    let inside = client.clone();
    let mut events = client.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if switched(&event).is_some_and(|(_, to, _)| to == *"west") {
                inside.set_weight("east", 0.1).await.unwrap();
            }
        }
    });
    let both = client.wait_for(|s| s.members.iter().all(|m| m.connected));
    tokio::time::timeout(secs(10), both).await.unwrap().unwrap();
    client.switch_to("west").await.unwrap();
    serves(&client, "west").await;
    let weighed = client.wait_for(|s| s.member("east").unwrap().weight.value() == 0.1);
    tokio::time::timeout(secs(10), weighed)
        .await
        .unwrap()
        .unwrap();
    drop(gate);
    let limit = Instant::now() + secs(10);
    while told.load(Ordering::Relaxed) < 3 {
        assert!(Instant::now() < limit, "the third listener is cut off");
        sleep(ms(2)).await;
    }
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn s04_green_probes_do_not_shorten_the_grace() {
    let (client, east, _west) = pair().await;
    east.kill();
    until_active(&client, "west").await;
    let left = Instant::now();
    east.heal();
    until_active(&client, "east").await;
    assert!(left.elapsed() >= secs(54), "{:?}", left.elapsed());
}

#[tokio::test(start_paused = true)]
async fn s05_nothing_runs_after_the_close() {
    let (client, east, west) = pair().await;
    client.close().await;
    east.forget();
    west.forget();
    sleep(secs(3600)).await;
    assert!(east.log().is_empty() && west.log().is_empty());
}

/// A pure subscriber: `redis_dropin::pubsub::s06_a_hang_moves_an_idle_subscriber_too`.
#[tokio::test(start_paused = true)]
async fn s06_an_idle_client_fails_over_and_falls_back() {
    let (client, east, _west) = pair().await;
    let start = Instant::now();
    east.kill();
    until_active(&client, "west").await;
    assert!(start.elapsed() <= ms(1), "{:?}", start.elapsed());
    east.heal();
    until_active(&client, "east").await;
}

#[tokio::test(start_paused = true)]
async fn s07_one_that_joined_late_fails_over_like_any_other() {
    let (client, east, _west) = pair().await;
    let late = Script::new();
    client.add(database("late", &late, 5.0)).await.unwrap();
    until_active(&client, "late").await;
    late.kill();
    until_active(&client, "east").await;
    late.heal();
    until_active(&client, "late").await;
    east.kill();
    serves(&client, "late").await;
}

#[tokio::test(start_paused = true)]
async fn s08_one_that_was_down_at_the_start_is_served_from_when_it_is_up() {
    let (east, west) = scripts();
    east.kill();
    let client = over(&east, &west).connect().await.unwrap();
    serves(&client, "west").await;
    east.heal();
    until_active(&client, "east").await;
}

/// Against a reset of the operator's: what was begun before it says nothing of the new episode.
#[tokio::test(start_paused = true)]
async fn s09_late_news_of_an_ended_episode_is_dropped() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    // Enough calls to open a circuit, which will fail after it has been reset.
    east.on_call(OnCall::Hang);
    let mut slow = Vec::new();
    for n in 0..40 {
        slow.push(begin(&client, Work::new(n.to_string())).await);
    }
    client.switch_to("west").await.unwrap();
    client.reset_circuit("east").await.unwrap();
    east.on_call(OnCall::Answer(Class::Unknown(Doubt::Protocol)));
    east.release();
    for call in slow {
        assert!(call.await.unwrap().is_err());
    }
    // And a probe of the standby, which will find fault.
    east.on_check(Act::Hang);
    east.forget();
    let asked = |east: &Script| east.log().iter().any(|e| matches!(e.what, Asked::Check(_)));
    while !asked(&east) {
        sleep(ms(10)).await;
    }
    client.reset_circuit("east").await.unwrap();
    let stale = Fault::new(FaultKind::Other, "stale");
    east.on_check(Act::Answer(Verdict::Unhealthy(stale)));
    east.release();
    sleep(ms(1)).await;
    east.on_check(Act::Answer(Verdict::Healthy));
    sleep(secs(1)).await;
    let told = drain(&mut events).await;
    let opened = |event: &Event| {
        matches!(
            event,
            Event::CircuitChanged {
                to: CircuitState::Open,
                ..
            }
        )
    };
    assert!(!told.iter().any(opened), "{told:?}");
    assert_eq!(active(&client), "west");
}

/// A caller that gives up during recovery takes no permit with it: only our own probes decide there.
#[tokio::test(start_paused = true)]
async fn s10_a_call_dropped_while_a_circuit_recovers_keeps_nobody_out() {
    let (client, east, _west) = pair().await;
    client.force_active("east", None).await.unwrap();
    client.force_open_circuit("east").await.unwrap();
    east.on_call(OnCall::Hang);
    for n in 0..50 {
        begin(&client, Work::new(n.to_string())).await.abort();
    }
    east.heal();
    client.reset_circuit("east").await.unwrap();
    client.unpin().await.unwrap();
    serves(&client, "east").await;
}

#[tokio::test(start_paused = true)]
async fn s11_calls_that_callers_give_up_are_no_evidence() {
    let (client, east, _west) = pair().await;
    east.latency(ms(50));
    for n in 0..500 {
        let call = begin(&client, Work::new(n.to_string())).await;
        sleep(ms(1)).await;
        call.abort();
    }
    sleep(secs(10)).await;
    assert_eq!(client.snapshot().generation, 1);
}

#[tokio::test(start_paused = true)]
async fn s12_equal_weights_are_no_reason_to_move() {
    let (east, west) = scripts();
    let builder = builder()
        .database(database("east", &east, 1.0))
        .database(database("west", &west, 1.0));
    let client = serving(builder).await;
    assert_eq!(active(&client), "east");
    east.kill();
    until_active(&client, "west").await;
    east.heal();
    sleep(secs(3600)).await;
    assert_eq!(active(&client), "west");
    client.set_weight("east", 1.0).await.unwrap();
    sleep(secs(600)).await;
    assert_eq!(
        (active(&client).as_str(), client.snapshot().generation),
        ("west", 2)
    );
}

#[tokio::test(start_paused = true)]
async fn s13_a_weight_that_falls_below_a_standbys_moves_at_once() {
    let (client, _east, _west) = pair().await;
    let start = Instant::now();
    client.set_weight("east", 0.4).await.unwrap();
    until_active(&client, "west").await;
    assert_eq!(start.elapsed(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn s15_one_may_be_removed_while_calls_and_probes_are_under_way() {
    let (client, east, west) = pair().await;
    east.on_call(OnCall::Hang);
    let in_flight = begin(&client, Work::repeatable("in flight")).await;
    east.on_check(Act::Hang);
    west.on_check(Act::Hang);
    sleep(secs(5)).await;
    west.heal();
    let removed = client.remove("east").await;
    assert!(removed.is_ok(), "{removed:?}");
    let _ = in_flight.await.unwrap();
    serves(&client, "west").await;
    assert_eq!(client.snapshot().members.len(), 1);
    east.heal();
    sleep(secs(600)).await;
    assert_eq!(active(&client), "west");
}

#[tokio::test(start_paused = true)]
async fn s16_one_that_is_added_again_is_told_of_once() {
    let (client, _east, west) = pair().await;
    for _ in 0..5 {
        client.remove("west").await.unwrap();
        client.add(database("west", &west, 0.5)).await.unwrap();
    }
    until(&client, |s| s.member("west").is_some_and(|m| m.connected)).await;
    let mut events = client.events();
    client.switch_to("west").await.unwrap();
    let told = drain(&mut events).await;
    assert_eq!(switches(&told), 1, "{told:?}");
    let connected =
        |entry: &multidb::testing::scripted::Entry| entry.what == Asked::Connect(Purpose::Traffic);
    west.forget();
    sleep(secs(60)).await;
    assert_eq!(
        west.log().iter().filter(|entry| connected(entry)).count(),
        0,
        "one set of probes"
    );
}

/// What became of a call, whether another run of it does no harm, and how often it may run then.
#[tokio::test(start_paused = true)]
async fn s19_nothing_is_replayed_that_may_have_run_and_must_not_run_twice() {
    let state = Refusal::State(multidb::engine::backend::ServerState {
        code: "LOADING",
        at_once: true,
        elsewhere: true,
    });
    let lost = |sent, ran| OnCall::Lose { sent, ran };
    let refused = |class| OnCall::Answer(class);
    // What happens on east; whether the call ends well if it may not run twice; and if it may.
    let table = [
        (refused(Class::NotSent(NotSent::Local)), false, false),
        (refused(Class::NotSent(NotSent::Connect)), true, true),
        (lost(false, false), true, true),
        (refused(Class::NotExecuted(state)), true, true),
        (refused(Class::NotExecuted(Refusal::Caller)), false, false),
        (lost(true, false), false, true),
        (lost(true, true), false, true),
        (OnCall::RunInSilence, false, true),
        (refused(Class::Unknown(Doubt::Protocol)), false, true),
        (refused(Class::Executed), false, false),
    ];
    for (fate, plain, idempotent) in table {
        for (declared, ends_well) in [(false, plain), (true, idempotent)] {
            let (client, east, west) = pair().await;
            east.next_call(fate.clone());
            let work = match declared {
                true => Work::repeatable("token"),
                false => Work::new("token"),
            };
            let result = call(&client, work).await;
            let what = format!("{fate:?}, declared {declared}: {result:?}");
            assert_eq!(result.is_ok(), ends_well, "{what}");
            let runs = east.executed().len() + west.executed().len();
            assert!(runs <= if declared { 2 } else { 1 }, "{runs} runs: {what}");
            client.close().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn s20_a_failover_is_fast_and_bounded_though_callers_never_leave() {
    let (client, east, _west) = pair().await;
    east.on_call(OnCall::Hang);
    east.on_check(Act::Hang);
    let start = Instant::now();
    let callers: Vec<_> = (0..64)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, Work::new(n.to_string())).await })
        })
        .collect();
    until_active(&client, "west").await;
    assert!(start.elapsed() <= ms(320), "{:?}", start.elapsed());
    for caller in callers {
        assert!(matches!(
            kind(caller.await.unwrap()),
            ErrorKind::OutcomeUnknown(_)
        ));
    }
    assert!(start.elapsed() <= ms(320), "released with the switch");
}

/// Many clients that fail over at once must not come back at once.
#[tokio::test(start_paused = true)]
async fn s21_many_clients_return_spread_over_time() {
    let (east, west) = scripts();
    let mut clients = Vec::new();
    for seed in 0..40 {
        clients.push(over(&east, &west).seed(seed).connect().await.unwrap());
    }
    sleep(secs(10)).await;
    east.kill();
    for client in &clients {
        until_active(client, "west").await;
    }
    east.heal();
    let start = Instant::now();
    let returning: Vec<_> = clients
        .into_iter()
        .map(|client| {
            tokio::spawn(async move {
                until_active(&client, "east").await;
                start.elapsed().as_millis() / 250
            })
        })
        .collect();
    let mut moments = BTreeSet::new();
    for client in returning {
        moments.insert(client.await.unwrap());
    }
    assert!(moments.len() > 20, "{moments:?}");
}

#[tokio::test(start_paused = true)]
async fn s23_an_outage_that_ends_where_it_began_starts_the_count_anew() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    let attempts = async |events: &mut Events| {
        next(events, |event| match event {
            Event::AllUnavailable { attempt, .. } => Some(*attempt),
            _ => None,
        })
        .await
    };
    for _ in 0..2 {
        east.kill();
        west.kill();
        assert_eq!(attempts(&mut events).await, 1);
        assert_eq!(attempts(&mut events).await, 2);
        east.heal();
        until(&client, |s| s.status == Status::Serving).await;
        west.heal();
        sleep(secs(1200)).await;
        drain(&mut events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn s24_a_call_between_the_verdict_and_the_switch_waits_and_is_served() {
    let (client, east, west) = pair().await;
    // The standby takes a while to be proven.
    west.latency(ms(200));
    east.kill();
    let start = Instant::now();
    serves(&client, "west").await;
    assert!(start.elapsed() >= ms(200) && start.elapsed() < secs(1));
}

#[tokio::test(start_paused = true)]
async fn s25_one_call_a_second_is_enough_to_find_a_hang() {
    let (client, east, _west) = pair().await;
    sleep(ms(1700)).await;
    east.hang();
    sleep(ms(700)).await;
    let start = Instant::now();
    let first = call(&client, Work::new("first")).await;
    assert!(first.is_err(), "its outcome is unknown");
    assert!(start.elapsed() <= ms(320), "{:?}", start.elapsed());
    serves(&client, "west").await;
}

#[tokio::test(start_paused = true)]
async fn s26_a_database_that_answers_pings_and_no_calls_is_left_and_stays_left() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.on_call(OnCall::Answer(Class::Unknown(Doubt::TimedOut)));
    let mut failed = 0;
    while active(&client) == "east" {
        failed += u32::from(call(&client, Work::new("a")).await.is_err());
        sleep(ms(1)).await;
        assert!(failed <= 100, "never left");
    }
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("west", Reason::FailureDetector));
    sleep(secs(50)).await;
    assert_eq!(active(&client), "west", "its pings are as green as ever");
}

#[tokio::test(start_paused = true)]
async fn s29_a_call_whose_time_is_up_during_a_switch_ends_in_time() {
    let (east, west) = scripts();
    let client = serving(over(&east, &west).deadline(ms(150))).await;
    west.on_check(Act::Hang);
    east.kill();
    let start = Instant::now();
    let error = ours(call(&client, Work::new("late")).await);
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retry_safe(), "nothing was sent");
    assert!(start.elapsed() <= ms(160), "{:?}", start.elapsed());
}
