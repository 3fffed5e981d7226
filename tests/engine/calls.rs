//! What a caller gets, and when.

use multidb::engine::backend::ServerState;
use multidb::engine::run::{Limits, RunError};
use multidb::testing::scripted::{Act, OnCall, ScriptError, Work};
use multidb::{Class, Doubt, ErrorKind, Event, Fault, FaultKind, Reason, Refusal, Status, Verdict};
use tokio::time::Instant;

use super::*;

// === deadlines ===

#[tokio::test(start_paused = true)]
async fn with_every_database_down_a_call_ends_at_its_deadline() {
    let (client, east, west) = pair().await;
    east.kill();
    west.kill();
    let start = Instant::now();
    let error = ours(call(&client, Work::new("a")).await);
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retry_safe() && error.is_temporary());
    let took = start.elapsed();
    assert!(took >= secs(5) && took <= secs(5) + ms(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn with_every_database_hung_a_read_ends_at_its_deadline() {
    let (client, east, west) = pair().await;
    east.hang();
    west.hang();
    let start = Instant::now();
    let error = ours(call(&client, Work::read("a")).await);
    let took = start.elapsed();
    assert!(
        took >= secs(5) - ms(5) && took <= secs(5) + ms(10),
        "{took:?}"
    );
    assert!(
        matches!(error.kind(), ErrorKind::OutcomeUnknown(_)),
        "{error:?}"
    );
    assert!(error.attempts() > 1, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_database_may_have_a_response_timeout_of_its_own() {
    // One alone: there is no standby that a silence could be compared with.
    let alone = async |database| serving(builder().database(database)).await;
    let script = Script::new();
    let far = alone(database("far", &script, 1.0).response_timeout(secs(2))).await;
    let near = alone(database("near", &script, 1.0)).await;
    let took = async |client: &MultiDbClient<Scripted>, timeout: Option<Duration>| {
        let mut router = client.router();
        if let Some(response_timeout) = timeout {
            let limits = router.limits();
            router.set_limits(Limits {
                response_timeout,
                ..limits
            });
        }
        let start = Instant::now();
        let error = ours(router.run(&Work::new("a")).await);
        // The connection is given up just before its caller is.
        assert!(
            matches!(error.kind(), ErrorKind::OutcomeUnknown(_)),
            "{error:?}"
        );
        start.elapsed()
    };
    let about = |time: Duration| time - ms(10)..=time + ms(10);
    for (client, own, expected) in [
        (&near, None, ms(500)),
        (&far, None, secs(2)),
        // A handle's own counts everywhere.
        (&far, Some(ms(300)), ms(300)),
    ] {
        script.next_call(OnCall::RunInSilence);
        let took = took(client, own).await;
        assert!(
            about(expected).contains(&took),
            "{took:?}, not {expected:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_without_a_reply_ends_at_the_response_timeout_and_is_never_repeated() {
    let (client, east, west) = pair().await;
    east.hang();
    west.hang();
    let start = Instant::now();
    let error = ours(call(&client, Work::new("a")).await);
    let took = start.elapsed();
    assert!(took >= ms(500) && took <= ms(510), "{took:?}");
    assert_eq!(*error.kind(), ErrorKind::OutcomeUnknown(Doubt::TimedOut));
    assert_eq!(error.database().unwrap(), &"east");
    assert!(!error.is_retry_safe());
    assert_eq!((east.called().len(), west.called().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn every_response_timeout_and_deadline_holds_to_ten_milliseconds() {
    for (timeout, deadline) in [(1, 5000), (37, 5000), (500, 60), (3000, 1200), (5, 5)] {
        let (client, east, west) = pair().await;
        east.hang();
        west.hang();
        let mut router = client.router();
        router.set_limits(multidb::engine::run::Limits {
            response_timeout: ms(timeout),
            deadline: ms(deadline),
        });
        let expected = ms(timeout.min(deadline));
        let start = Instant::now();
        assert!(router.run(&Work::new("a")).await.is_err());
        let took = start.elapsed();
        assert!(
            took >= expected && took <= expected + ms(10),
            "{took:?} {expected:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_is_served_as_soon_as_a_database_is_back() {
    let (client, east, west) = pair().await;
    east.kill();
    west.kill();
    tokio::time::sleep(ms(50)).await;
    let waiting = begin(&client, Work::new("a")).await;
    tokio::time::sleep(secs(1)).await;
    west.heal();
    let start = Instant::now();
    assert_eq!(waiting.await.unwrap().unwrap(), "west");
    // The last resort is looked at in growing steps, but never less than every 5 s.
    assert!(start.elapsed() <= secs(2), "{:?}", start.elapsed());
    assert_eq!(west.executed(), ["a"]);
}

// === what is repeated ===

#[tokio::test(start_paused = true)]
async fn what_was_proven_not_sent_runs_once_and_the_caller_sees_nothing() {
    let (client, east, west) = pair().await;
    east.next_call(OnCall::Lose {
        sent: false,
        ran: false,
    });
    assert!(call(&client, Work::new("a")).await.is_ok());
    let ran = [east.executed(), west.executed()].concat();
    assert_eq!(ran, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_to_a_dead_database_runs_on_the_other() {
    let (client, east, west) = pair().await;
    let refused = Fault::new(FaultKind::Unreachable, "connection refused");
    east.on_connect(Act::Answer(Err(refused)));
    east.next_call(OnCall::Lose {
        sent: false,
        ran: false,
    });
    let start = Instant::now();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
    assert!(start.elapsed() <= ms(10), "{:?}", start.elapsed());
    assert!(east.executed().is_empty());
    assert_eq!(west.executed(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_run_is_told_so_and_never_repeated() {
    for ran in [false, true] {
        let (client, east, west) = pair().await;
        east.next_call(OnCall::Lose { sent: true, ran });
        let error = ours(call(&client, Work::new("a")).await);
        assert_eq!(*error.kind(), ErrorKind::OutcomeUnknown(Doubt::Lost));
        assert_eq!(error.database().unwrap(), &"east");
        assert_eq!((error.generation(), error.attempts()), (1, 1));
        tokio::time::sleep(secs(10)).await;
        assert_eq!(east.executed().len(), usize::from(ran));
        assert_eq!((east.called().len(), west.called().len()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn reads_and_declared_writes_are_repeated_and_nobody_notices() {
    for work in [Work::read("a"), Work::repeatable("a")] {
        let (client, east, _west) = pair().await;
        east.next_call(OnCall::Lose {
            sent: true,
            ran: true,
        });
        assert!(call(&client, work.clone()).await.is_ok(), "{work:?}");
        east.next_call(OnCall::RunInSilence);
        assert!(call(&client, work.clone()).await.is_ok(), "{work:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_on_a_lost_database_end_with_it_not_at_their_own_timeout() {
    let (client, east, west) = pair().await;
    east.on_call(OnCall::Hang);
    let mut calls = Vec::new();
    for n in 0..20 {
        calls.push(begin(&client, Work::new(format!("w{n}"))).await);
        calls.push(begin(&client, Work::read(format!("r{n}"))).await);
    }
    tokio::time::sleep(ms(20)).await;
    let start = Instant::now();
    east.kill();
    for (n, call) in calls.into_iter().enumerate() {
        match (n % 2, call.await.unwrap()) {
            (0, outcome) => assert_eq!(kind(outcome), ErrorKind::OutcomeUnknown(Doubt::Lost)),
            (_, outcome) => assert_eq!(outcome.unwrap(), "west"),
        }
    }
    assert!(start.elapsed() <= ms(10), "{:?}", start.elapsed());
    assert_eq!(west.executed().len(), 20, "the reads, and nothing else");
}

#[tokio::test(start_paused = true)]
async fn an_error_reply_to_what_ran_is_handed_over_as_it_is() {
    let (client, east, _west) = pair().await;
    for class in [
        Class::Executed,
        Class::NotExecuted(Refusal::Caller),
        Class::NotExecuted(Refusal::Denied),
        Class::NotSent(multidb::NotSent::Local),
    ] {
        east.next_call(OnCall::Answer(class.clone()));
        let outcome = call(&client, Work::read("a")).await;
        match outcome {
            Err(RunError::Driver(ScriptError::Refused(told))) => assert_eq!(told, class),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(east.called().len(), 4, "none was repeated");
    assert_eq!(active(&client), "east");
}

// === refused by the server's state ===

fn refused(code: &'static str, at_once: bool) -> OnCall {
    OnCall::Answer(Class::NotExecuted(Refusal::State(ServerState {
        code,
        at_once,
        elsewhere: true,
    })))
}

#[tokio::test(start_paused = true)]
async fn calls_refused_by_a_loading_server_wait_for_the_switch_and_run_elsewhere() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    west.latency(ms(30));
    east.on_call(refused("LOADING", true));
    let mut calls = Vec::new();
    for n in 0..10 {
        calls.push(begin(&client, Work::new(format!("{n}"))).await);
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "west");
    }
    let (_, _, reason) = next(&mut events, switched).await;
    assert_eq!(reason, Reason::ServerState);
    assert_eq!(west.executed().len(), 10);
    assert!(east.executed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_full_memory_reply_is_not_enough_three_are() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    east.next_call(refused("OOM", false));
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    tokio::time::sleep(secs(2)).await;
    assert_eq!(switches(&drain(&mut events).await), 0);

    east.on_call(refused("OOM", false));
    assert_eq!(call(&client, Work::new("b")).await.unwrap(), "west");
    assert_eq!(west.executed(), ["b"]);
    assert_eq!(
        east.called().len(),
        2 + 3,
        "three refusals, then the verdict"
    );
}

#[tokio::test(start_paused = true)]
async fn with_nowhere_to_go_the_server_is_kept_and_its_refusal_handed_over() {
    let (client, east, west) = pair().await;
    west.kill();
    until(&client, |s| !s.member("west").unwrap().obstacles.is_empty()).await;
    let mut events = client.events();
    east.on_call(refused("READONLY", true));
    let start = Instant::now();
    for n in 0..20 {
        match call(&client, Work::new(format!("{n}"))).await {
            Err(RunError::Driver(ScriptError::Refused(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(start.elapsed() <= ms(50), "{:?}", start.elapsed());
    let said = drain(&mut events).await;
    let nowhere = said
        .iter()
        .filter(|e| matches!(e, Event::NowhereToGo { .. }));
    assert_eq!(nowhere.count(), 1, "said once: {said:?}");
    assert_eq!(switches(&said), 0);
    // The reads of a lone read-only database live on.
    east.on_call(OnCall::Run);
    assert_eq!(call(&client, Work::read("r")).await.unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn after_a_state_verdict_a_ping_is_no_proof_of_recovery() {
    let (east, west) = scripts();
    let client = serving(over(&east, &west).grace_period(secs(1))).await;
    east.on_call(refused("READONLY", true));
    let readonly = Fault::new(FaultKind::State, "READONLY");
    east.on_serving_check(Act::Answer(Verdict::Unhealthy(readonly)));
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
    tokio::time::sleep(secs(120)).await;
    assert_eq!(active(&client), "west", "it still refuses writes");
    east.heal();
    until_active(&client, "east").await;
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_told_at_once_and_open_the_circuit() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    let denied = Fault::new(FaultKind::Denied, "credentials refused");
    east.on_connect(Act::Answer(Err(denied)));
    east.on_call(OnCall::Answer(Class::NotExecuted(Refusal::Denied)));
    let start = Instant::now();
    let outcome = call(&client, Work::new("a")).await;
    assert!(matches!(outcome, Err(RunError::Driver(_))), "{outcome:?}");
    assert_eq!(start.elapsed(), ms(0));
    let (_, to, _) = next(&mut events, switched).await;
    assert_eq!(to, "west");
    assert_eq!(east.called(), ["a"], "no retry storm");
}

// === storms and crowds ===

#[tokio::test(start_paused = true)]
async fn retries_stay_within_their_budget() {
    let (client, east, _west) = pair().await;
    east.on_call(OnCall::Answer(Class::SessionInvalid));
    let mut calls = Vec::new();
    for n in 0..500 {
        calls.push(begin(&client, Work::new(format!("{n}"))).await);
    }
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    let retries = east.called().len() - 500;
    // Ten seconds of the floor are saved up, and ten a second are added for at most 5 s.
    assert!((100..=160).contains(&retries), "{retries} retries");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_beyond_the_limit_is_turned_away_at_once() {
    let (east, west) = scripts();
    let mut config = multidb::Config::default();
    config.calls.max_waiting = 3;
    let client = serving(over(&east, &west).config(config)).await;
    east.kill();
    west.kill();
    until(&client, |s| s.status == Status::Waiting).await;
    let start = Instant::now();
    let mut calls = Vec::new();
    for n in 0..5 {
        calls.push(begin(&client, Work::new(format!("{n}"))).await);
    }
    for (call, wait) in calls.into_iter().rev().zip([0, 0, 5, 5, 5]) {
        assert_eq!(kind(call.await.unwrap()), ErrorKind::Unavailable);
        assert_eq!(start.elapsed(), secs(wait));
    }
    // The places are free again.
    west.heal();
    assert_eq!(call(&client, Work::new("later")).await.unwrap(), "west");
}

#[tokio::test(start_paused = true)]
async fn after_the_failover_budget_calls_fail_at_once_until_a_database_recovers() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    let start = Instant::now();
    east.kill();
    west.kill();
    let gave_up = next(&mut events, |event| match event {
        Event::AllUnavailable { attempt, gave_up } => gave_up.then_some(*attempt),
        _ => None,
    });
    assert_eq!(gave_up.await, 10);
    let took = start.elapsed();
    assert!(took >= secs(120) && took <= secs(121), "{took:?}");
    assert_eq!(client.snapshot().status, Status::GaveUp);
    let start = Instant::now();
    assert_eq!(
        kind(call(&client, Work::new("a")).await),
        ErrorKind::NoHealthyDatabase
    );
    assert_eq!(start.elapsed(), ms(0));

    east.heal();
    until(&client, |s| s.status == Status::Serving).await;
    assert_eq!(call(&client, Work::new("b")).await.unwrap(), "east");
    assert!(east.executed() == ["b"] && west.executed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_pauses_between_attempts_are_the_users_to_choose_and_to_end() {
    let (east, west) = scripts();
    let client = over(&east, &west).backoff(|| vec![ms(10), ms(10)].into_iter());
    let client = serving(client).await;
    east.on_call(OnCall::Answer(Class::SessionInvalid));
    let start = Instant::now();
    assert!(call(&client, Work::new("a")).await.is_err());
    assert_eq!(east.called().len(), 3);
    assert!(start.elapsed() <= ms(25), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_database_left_are_not_charged_to_the_one_switched_to() {
    let (east, west) = scripts();
    let mut config = multidb::Config::default();
    config.detector.consecutive_failures = 3;
    let client = serving(over(&east, &west).config(config)).await;
    let mut events = client.events();
    east.on_call(OnCall::Hang);
    let mut calls = Vec::new();
    for n in 0..50 {
        calls.push(begin(&client, Work::new(format!("{n}"))).await);
    }
    client.switch_to("west").await.unwrap();
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    tokio::time::sleep(secs(1)).await;
    let told = drain(&mut events).await;
    let west_suffers = |event: &&Event| match event {
        Event::CircuitChanged { database, .. } => *database == "west",
        _ => false,
    };
    assert_eq!(told.iter().filter(west_suffers).count(), 0, "{told:?}");
    assert_eq!(active(&client), "west");
}

#[tokio::test(start_paused = true)]
async fn a_lone_database_that_drops_its_connections_is_kept_and_calls_wait_for_it() {
    let lone = multidb::testing::scripted::Script::new();
    let client = serving(builder().database(database("lone", &lone, 1.0))).await;
    lone.latency(ms(20));
    lone.cut();
    let start = Instant::now();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "lone");
    assert!(start.elapsed() <= ms(100), "{:?}", start.elapsed());
    assert_eq!(lone.executed(), ["a"]);
}
