//! Two stacks of which the servers say who serves: refusals, announcements, and work that stays where it began.

use multidb::engine::backend::NotServing;
use multidb::engine::run::Limits;
use multidb::testing::scripted::{Act, OnCall, ScriptError, Work};
use multidb::{Class, Drain, ErrorKind, Event, Reason, Verdict};
use tokio::time::Instant;

use super::*;

/// It stands by: whoever asks is told so.
fn stands_by(script: &Script) {
    script.on_check(Act::Answer(Verdict::Standby));
    script.on_call(OnCall::Answer(Class::NotServing(NotServing::Standby)));
}

/// Blue serves, green stands by, both behind one endpoint.
async fn stacks() -> (MultiDbClient<Scripted>, Script, Script) {
    let (blue, green) = scripts();
    stands_by(&green);
    let behind = |id, script, weight| {
        let database = database(id, script, weight);
        database.failure_domain("endpoint").unwrap()
    };
    let builder = builder()
        .database(behind("blue", &blue, 1.0))
        .database(behind("green", &green, 0.5));
    (serving(builder).await, blue, green)
}

fn flip(from: &Script, to: &Script) {
    stands_by(from);
    to.heal();
}

const LIMITS: Limits = Limits {
    response_timeout: Duration::from_millis(500),
    deadline: Duration::from_secs(5),
};

#[tokio::test(start_paused = true)]
async fn sixty_four_calls_refused_at_once_make_one_switch_and_no_error() {
    let (client, blue, green) = stacks().await;
    let mut events = client.events();
    flip(&blue, &green);
    blue.latency(ms(20));
    green.latency(ms(20));
    let start = Instant::now();
    let mut calls = Vec::new();
    for n in 0..64 {
        calls.push(begin(&client, Work::new(format!("{n}"))).await);
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "green");
    }
    assert_eq!(start.elapsed(), ms(60), "refused, green asked, run");
    let told = drain(&mut events).await;
    assert_eq!(switches(&told), 1, "{told:?}");
    assert!(
        told.iter()
            .any(|e| matches!(switched(e), Some((_, _, Reason::Standby))))
    );
    let moved = |e: &Event| matches!(e, Event::CircuitChanged { .. });
    assert!(!told.iter().any(moved), "no evidence against anybody");
    assert_eq!((blue.executed().len(), green.executed().len()), (0, 64));
}

#[tokio::test(start_paused = true)]
async fn a_warm_standby_costs_a_refused_call_one_round_trip_more() {
    let (client, blue, green) = stacks().await;
    green.heal();
    // A round finds out that both serve for now; the heavier one stays.
    tokio::time::sleep(secs(6)).await;
    assert_eq!(active(&client), "blue");
    flip(&blue, &green);
    blue.latency(ms(20));
    green.latency(ms(20));
    let start = Instant::now();
    assert_eq!(call(&client, Work::new("1")).await.unwrap(), "green");
    assert_eq!(start.elapsed(), ms(40));
}

#[tokio::test(start_paused = true)]
async fn a_flip_that_refuses_both_for_a_moment_costs_time_and_no_error() {
    let (client, blue, green) = stacks().await;
    stands_by(&blue);
    let waiting = begin(&client, Work::new("1")).await;
    tokio::time::sleep(ms(700)).await;
    assert!(!waiting.is_finished());
    green.heal();
    let healed = Instant::now();
    assert_eq!(waiting.await.unwrap().unwrap(), "green");
    assert!(healed.elapsed() <= ms(1_000), "{:?}", healed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn where_both_refuse_a_call_ends_within_its_deadline_and_says_that_it_never_ran() {
    let (client, blue, _green) = stacks().await;
    stands_by(&blue);
    let start = Instant::now();
    let error = ours(call(&client, Work::new("1")).await);
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retry_safe());
    assert_eq!(start.elapsed(), secs(5));
    assert!(
        blue.checks(multidb::engine::backend::Depth::Alive) > 5,
        "it is asked on and on"
    );
}

#[tokio::test(start_paused = true)]
async fn work_that_began_before_a_directed_switch_ends_where_it_began() {
    let (client, blue, green) = stacks().await;
    let mut events = client.events();
    let mut router = client.router();
    let (ran_on, lease) = router.begin(&Work::new("prepare")).await.unwrap();
    assert_eq!(
        (ran_on.as_str(), lease.database().as_str()),
        ("blue", "blue")
    );
    green.heal();
    client
        .direct("green", lease.generation(), "blue said so")
        .await
        .unwrap();
    assert_eq!(router.run(&Work::new("new")).await.unwrap(), "green");
    for n in 0..3 {
        let outcome = lease.run(&Work::new(format!("fetch {n}")), LIMITS).await;
        assert_eq!(outcome.unwrap(), "blue");
        tokio::time::sleep(secs(10)).await;
    }
    let drained = |e: &Event| matches!(e, Event::Drained { .. });
    assert!(!drain(&mut events).await.iter().any(drained));
    drop(lease);
    tokio::time::sleep(ms(20)).await;
    assert!(drain(&mut events).await.iter().any(drained));
    assert_eq!(
        blue.executed(),
        ["prepare", "fetch 0", "fetch 1", "fetch 2"]
    );
}

#[tokio::test(start_paused = true)]
async fn pinned_work_that_is_refused_says_so_and_moves_what_comes_after_it() {
    let (client, blue, green) = stacks().await;
    let (_, lease) = client.router().begin(&Work::new("prepare")).await.unwrap();
    flip(&blue, &green);
    let refused = Class::NotServing(NotServing::Standby);
    let outcome = lease.run(&Work::new("fetch"), LIMITS).await;
    match outcome {
        Err(RunError::Driver(ScriptError::Refused(class))) => assert_eq!(class, refused),
        other => panic!("{other:?}"),
    }
    until_active(&client, "green").await;
    assert_eq!(lease.database(), "blue");
}

#[tokio::test(start_paused = true)]
async fn pinned_work_is_bounded_and_its_silence_is_evidence() {
    let (client, blue, _green) = stacks().await;
    let (_, lease) = client.router().begin(&Work::new("prepare")).await.unwrap();
    blue.hang();
    let start = Instant::now();
    let error = ours(lease.run(&Work::new("fetch"), LIMITS).await);
    assert!(
        matches!(error.kind(), ErrorKind::OutcomeUnknown(_)),
        "{error}"
    );
    assert!(start.elapsed() <= ms(510), "{:?}", start.elapsed());
    until(&client, |s| {
        s.status != multidb::engine::snapshot::Status::Serving
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_cut_off_ends_pinned_work() {
    let (blue, green) = scripts();
    let mut config = multidb::Config::default();
    config.failover.drain = Drain::Cancel(ms(50));
    let client = serving(over(&blue, &green).config(config)).await;
    let (_, lease) = client.router().begin(&Work::new("prepare")).await.unwrap();
    client
        .direct("west", lease.generation(), "east said so")
        .await
        .unwrap();
    tokio::time::sleep(ms(60)).await;
    assert!(lease.is_lost());
    let error = ours(lease.run(&Work::new("fetch"), LIMITS).await);
    assert!(error.is_retry_safe(), "{error}");
}

/// A million of them leave nothing behind.
#[tokio::test(start_paused = true)]
async fn leases_that_are_dropped_leave_nothing() {
    let (client, blue, green) = stacks().await;
    let mut events = client.events();
    let kept = client.lease().await.unwrap();
    for _ in 0..1_000_000 {
        drop(client.lease().await.unwrap());
    }
    green.heal();
    client
        .direct("green", kept.generation(), "blue said so")
        .await
        .unwrap();
    let told = drain(&mut events).await;
    let left = told.iter().find_map(|e| match e {
        Event::Draining { in_flight, .. } => Some(*in_flight),
        _ => None,
    });
    assert_eq!(left, Some(1), "the one that is held");
    drop(kept);
    tokio::time::sleep(ms(20)).await;
    let drained = |e: &Event| matches!(e, Event::Drained { .. });
    assert!(drain(&mut events).await.iter().any(drained));
    assert!(blue.open() <= 2, "{}", blue.open());
}
