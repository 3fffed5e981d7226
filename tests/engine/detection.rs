//! How soon a bad database is known to be bad, and what is not mistaken for one.

use multidb::engine::backend::{Depth, Purpose};
use multidb::testing::scripted::{Act, Asked, OnCall, Script, Work};
use multidb::{
    CircuitState, Class, Doubt, ErrorKind, Event, Fault, FaultKind, Reason, Sensitivity, Verdict,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;

// === hangs ===

#[tokio::test(start_paused = true)]
async fn a_hang_is_believed_after_the_tolerance_and_no_later() {
    for sensitivity in [
        Sensitivity::Conservative,
        Sensitivity::Balanced,
        Sensitivity::Fast,
        Sensitivity::Custom(ms(100)),
    ] {
        for (timeout, what) in [(5000, "patient"), (500, "usual"), (60, "impatient")] {
            let (east, west) = scripts();
            let mut config = multidb::Config::default();
            // Timeouts alone are another reason to leave.
            config.detector.min_failures = 1_000_000;
            config.detector.consecutive_failures = 1_000_000;
            config.calls.response_timeout = ms(timeout);
            config.sensitivity = sensitivity;
            let client = serving(over(&east, &west).config(config)).await;
            let mut events = client.events();
            assert!(call(&client, Work::new("warm")).await.is_ok());
            // An odd phase against the sweep.
            tokio::time::sleep(ms(13)).await;
            east.hang();
            let start = Instant::now();
            let reads = readers(&client, 3);
            let (_, to, reason) = next(&mut events, switched).await;
            let took = start.elapsed();
            let tolerance = sensitivity.tolerance();
            assert_eq!((to.as_str(), reason), ("west", Reason::Stalled), "{what}");
            // Ages are measured by a clock that is up to a tick behind.
            let (least, bound) = (tolerance - ms(5), tolerance + ms(20));
            assert!(
                took >= least && took <= bound,
                "{sensitivity:?}, {what}: {took:?}"
            );
            stop(reads);
            // The writes in flight were released with it.
            assert_eq!(call(&client, Work::new("after")).await.unwrap(), "west");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_stuck_in_a_hang_end_with_the_switch() {
    let (client, east, west) = pair().await;
    east.hang();
    let start = Instant::now();
    let write = begin(&client, Work::new("w")).await;
    let read = begin(&client, Work::read("r")).await;
    assert_eq!(
        kind(write.await.unwrap()),
        ErrorKind::OutcomeUnknown(Doubt::Lost)
    );
    assert_eq!(read.await.unwrap().unwrap(), "west");
    assert!(start.elapsed() <= ms(320), "{:?}", start.elapsed());
    // What the hung server still has is never run: its connection is gone.
    east.heal();
    tokio::time::sleep(secs(1)).await;
    assert!(east.executed().is_empty(), "{:?}", east.executed());
    assert_eq!(west.executed(), ["r"]);
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_shorter_than_the_tolerance_costs_nobody_anything() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    for hiccup in [50, 140, 200, 280] {
        east.hang();
        let stuck = begin(&client, Work::new(format!("{hiccup}"))).await;
        tokio::time::sleep(ms(hiccup)).await;
        east.heal();
        assert_eq!(stuck.await.unwrap().unwrap(), "east");
        tokio::time::sleep(ms(500)).await;
    }
    let told = drain(&mut events).await;
    assert!(told.is_empty(), "{told:?}");
    assert!(west.executed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_standby_that_answers_a_hang_is_no_reason_to_leave() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    east.hang();
    west.hang();
    let reads = readers(&client, 3);
    tokio::time::sleep(ms(900)).await;
    assert_eq!(switches(&drain(&mut events).await), 0);
    assert_eq!(active(&client), "east");
    east.heal();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    stop(reads);
}

#[tokio::test(start_paused = true)]
async fn a_hung_member_never_delays_the_switch_to_another() {
    let (east, mid, west) = (Script::new(), Script::new(), Script::new());
    let client = builder()
        .database(database("east", &east, 1.0))
        .database(database("mid", &mid, 0.8))
        .database(database("west", &west, 0.5));
    let client = serving(client).await;
    mid.hang();
    east.kill();
    let start = Instant::now();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
    // The heavier one is waited for once a lighter one has answered, for half the tolerance.
    assert!(start.elapsed() <= ms(160), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hung_member_never_delays_the_probes_of_another() {
    let (client, east, west) = pair().await;
    west.hang();
    east.forget();
    tokio::time::sleep(secs(60)).await;
    // Twelve rounds of three attempts.
    let checks = east.checks(Depth::Alive);
    assert!((33..=60).contains(&checks), "{checks}");
    assert_eq!(active(&client), "east");
}

// === losses ===

#[tokio::test(start_paused = true)]
async fn an_idle_client_leaves_a_dead_database_at_once() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    tokio::time::sleep(secs(1)).await;
    let start = Instant::now();
    east.kill();
    let (from, to, reason) = next(&mut events, switched).await;
    assert_eq!((from.unwrap().as_str(), to.as_str()), ("east", "west"));
    assert_eq!(reason, Reason::ConnectionLost);
    assert!(start.elapsed() <= ms(5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_dropped_connection_is_not_a_failover() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    for purpose in [Purpose::Traffic, Purpose::Probe, Purpose::Traffic] {
        east.cut_for(purpose);
        tokio::time::sleep(secs(7)).await;
        assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    }
    let told = drain(&mut events).await;
    assert_eq!(switches(&told), 0, "{told:?}");
    let replaced = |event: &&Event| matches!(event, Event::ConnectionReplaced { .. });
    assert_eq!(told.iter().filter(replaced).count(), 2, "{told:?}");
    assert_eq!(told.len(), 2, "and nothing else: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_database_that_drops_every_connection_is_not_reconnected_in_a_tight_loop() {
    let lone = Script::new();
    let client = serving(builder().database(database("lone", &lone, 1.0))).await;
    lone.forget();
    let start = Instant::now();
    while start.elapsed() < secs(10) {
        lone.cut_for(Purpose::Traffic);
        tokio::time::sleep(ms(1)).await;
    }
    let connects = lone.connects(Purpose::Traffic);
    // Pauses double from 10 ms to 1 s, and are as long as that after a second.
    assert!((5..=60).contains(&connects), "{connects} connects in 10 s");
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_to_a_healthy_database_is_replaced() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.mute(Purpose::Traffic);
    let start = Instant::now();
    let write = begin(&client, Work::new("w")).await;
    let read = begin(&client, Work::read("r")).await;
    let replaced = next(&mut events, |event| match event {
        Event::ConnectionReplaced { database, .. } => Some(database.clone()),
        _ => None,
    });
    assert_eq!(replaced.await, "east");
    // The calls' own timeout, and that of a ping over the same connection.
    assert!(start.elapsed() <= ms(1050), "{:?}", start.elapsed());
    assert!(matches!(
        kind(write.await.unwrap()),
        ErrorKind::OutcomeUnknown(_)
    ));
    assert_eq!(read.await.unwrap().unwrap(), "east");
    let told = drain(&mut events).await;
    assert_eq!(switches(&told), 0, "{told:?}");
    assert_eq!(
        client.snapshot().member("east").unwrap().circuit,
        CircuitState::Closed
    );
}

/// Whenever the silence begins, and however far the asking about it has got by then.
#[tokio::test(start_paused = true)]
async fn nobody_begins_a_second_call_on_a_connection_whose_silence_is_overdue() {
    for phase in 0..40 {
        let (client, east, _west) = pair().await;
        // Answers that take a moment leave a suspicion pending for as long.
        east.latency(ms(2));
        tokio::time::sleep(ms(phase)).await;
        east.mute(Purpose::Traffic);
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let mut router = client.router();
                tokio::spawn(async move {
                    tokio::time::sleep(ms(caller * 9)).await;
                    let mut unknown = 0;
                    for call in 0..40 {
                        let work = Work::new(format!("{caller}:{call}"));
                        unknown += u32::from(router.run(&work).await.is_err());
                    }
                    unknown
                })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 1, "phase {phase}");
        }
        assert_eq!(active(&client), "east", "phase {phase}");
        client.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_found_without_any_traffic() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.mute(Purpose::Traffic);
    let start = Instant::now();
    next(&mut events, |e| {
        matches!(e, Event::ConnectionReplaced { .. }).then_some(())
    })
    .await;
    assert!(start.elapsed() <= secs(7), "{:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    assert_eq!(start.elapsed(), ms(0));
}

// === verdicts ===

#[tokio::test(start_paused = true)]
async fn an_unhealthy_round_opens_the_circuit_and_the_dwell_is_a_real_one() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    let sick = Fault::new(FaultKind::Other, "sick");
    east.on_check(Act::Answer(Verdict::Unhealthy(sick)));
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("west", Reason::HealthCheck));
    let opened = Instant::now();
    // Green again at once; it stays out for its dwell all the same.
    east.heal();
    tokio::time::sleep(secs(50)).await;
    assert_eq!(active(&client), "west");
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("east", Reason::Fallback));
    let dwell = opened.elapsed();
    assert!(dwell >= secs(54) && dwell <= secs(67), "{dwell:?}");
}

#[tokio::test(start_paused = true)]
async fn a_database_that_answers_pings_and_fails_calls_is_left_by_their_rate() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    east.on_call(OnCall::Answer(Class::Unknown(Doubt::Protocol)));
    let mut failed = 0;
    while active(&client) == "east" {
        if call(&client, Work::new("a")).await.is_err() {
            failed += 1;
        }
        tokio::time::sleep(ms(1)).await;
        assert!(failed < 100, "never left");
    }
    assert!((20..=22).contains(&failed), "{failed}");
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("west", Reason::FailureDetector));
    assert!(west.executed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_standby_is_not_served_from_and_its_circuit_stays_closed() {
    for verdict in [Verdict::Standby, Verdict::Suspended] {
        let (client, east, _west) = pair().await;
        let mut events = client.events();
        east.on_check(Act::Answer(verdict.clone()));
        let (_, to, _) = next(&mut events, switched).await;
        assert_eq!(to, "west");
        let view = client.snapshot().member("east").unwrap().clone();
        assert_eq!(
            (view.circuit, view.verdict),
            (CircuitState::Closed, Some(verdict))
        );
        east.heal();
        let (_, to, _) = next(&mut events, switched).await;
        assert_eq!(to, "east", "no dwell: it was never at fault");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_call_asks_for_a_look_at_once_and_not_more_than_ten_a_second() {
    let (east, west) = scripts();
    let mut config = multidb::Config::default();
    config.detector.min_failures = 1_000_000;
    config.detector.consecutive_failures = 1_000_000;
    let client = serving(over(&east, &west).config(config)).await;
    east.on_call(OnCall::Answer(Class::Unknown(Doubt::Protocol)));
    east.forget();
    let start = Instant::now();
    while start.elapsed() < secs(2) {
        assert!(call(&client, Work::new("a")).await.is_err());
        tokio::time::sleep(ms(1)).await;
    }
    let looks = east.checks(Depth::Alive);
    assert!((15..=30).contains(&looks), "{looks}");
    assert_eq!(active(&client), "east");
}

#[tokio::test(start_paused = true)]
async fn the_old_connections_of_a_lost_database_are_fenced_before_it_serves_again() {
    let (client, east, _west) = pair().await;
    let first = traffic_of(&east);
    east.on_call(OnCall::Hang);
    let _stuck = begin(&client, Work::new("a")).await;
    east.kill();
    until_active(&client, "west").await;
    east.forget();
    east.heal();
    until_active(&client, "east").await;
    call(&client, Work::new("b")).await.unwrap();
    let log = east.log();
    let place = |what: &Asked| log.iter().position(|entry| entry.what == *what);
    let fence = place(&Asked::Fence(vec![first])).expect("fenced");
    assert!(
        fence < place(&Asked::Ran("b".to_owned())).unwrap(),
        "{log:?}"
    );
    assert!(
        fence < place(&Asked::Check(Depth::Alive)).unwrap(),
        "{log:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_database_that_cannot_be_fenced_serves_again_and_says_so() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.on_fence(Act::Answer(Err(Fault::new(FaultKind::Other, "NOPERM"))));
    east.cut_for(Purpose::Traffic);
    let unfenced = next(&mut events, |event| match event {
        Event::Unfenced { database, cause } => Some((database.clone(), cause.clone())),
        _ => None,
    });
    let (database, cause) = unfenced.await;
    assert_eq!((database.as_str(), cause.as_str()), ("east", "NOPERM"));
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_panics_is_an_unhealthy_database() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.on_check(Act::Panic);
    let (_, to, _) = next(&mut events, switched).await;
    assert_eq!(to, "west");
    let (client, east, _west) = pair().await;
    east.on_connect(Act::Panic);
    east.cut();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
}

/// Readers without a pause.
fn readers(
    client: &multidb::MultiDbClient<multidb::testing::scripted::Scripted>,
    n: usize,
) -> Vec<JoinHandle<()>> {
    let spawn = |_| {
        let mut router = client.router();
        tokio::spawn(async move {
            loop {
                let _ = router.run(&Work::read("r")).await;
                tokio::time::sleep(ms(1)).await;
            }
        })
    };
    (0..n).map(spawn).collect()
}

fn stop(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        task.abort();
    }
}

/// The number of the first connection made for traffic.
fn traffic_of(script: &Script) -> u64 {
    let log = script.log();
    let made = log
        .iter()
        .find(|entry| entry.what == Asked::Connect(Purpose::Traffic));
    made.unwrap().connection
}
