//! What is told, in which order, and that listeners harm nobody but themselves.

use std::sync::mpsc;
use std::time::Duration;

use multidb::testing::scripted::{Act, OnCall, Script, Scripted, Work};
use multidb::{CircuitState, Config, Event, Fault, FaultKind, MultiDbClient, Reason, Verdict};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_failover_and_its_return_are_told_once_each_and_in_order() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.kill();
    call(&client, Work::new("a")).await.unwrap();
    east.heal();
    until_active(&client, "east").await;
    tokio::time::sleep(secs(1)).await;
    let told: Vec<String> = drain(&mut events).await.iter().map(summary).collect();
    assert_eq!(
        told,
        [
            "health east Unhealthy",
            "circuit east Closed Open",
            "switch 2 west ConnectionLost",
            "health east Healthy",
            "circuit east Open HalfOpen",
            "circuit east HalfOpen Closed",
            "switch 3 east Fallback",
        ]
    );
}

fn summary(event: &Event) -> String {
    match event {
        Event::HealthChanged { database, verdict } => {
            let verdict = format!("{verdict:?}");
            let name = verdict.split('(').next().unwrap_or_default();
            format!("health {database} {name}")
        }
        Event::CircuitChanged {
            database, from, to, ..
        } => {
            format!("circuit {database} {from:?} {to:?}")
        }
        Event::ActiveChanged {
            generation,
            to,
            reason,
            ..
        } => {
            format!("switch {generation} {to} {reason:?}")
        }
        other => format!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_shows_it_before_it_is_told() {
    let (client, _east, _west) = pair().await;
    let mut events = client.events();
    let watcher = {
        let client = client.clone();
        tokio::spawn(async move {
            let mut seen = 0;
            while let Some(event) = events.next().await {
                let snapshot = client.snapshot();
                match event {
                    Event::ActiveChanged { generation, .. } => {
                        assert!(snapshot.generation >= generation);
                        seen += 1;
                    }
                    Event::CircuitChanged {
                        to: CircuitState::Open,
                        failure_domain,
                        ..
                    } => {
                        let view = snapshot.member(&failure_domain).unwrap();
                        assert!(view.circuit == CircuitState::Open);
                        seen += 1;
                    }
                    _ => {}
                }
            }
            seen
        })
    };
    client.force_open_circuit("east").await.unwrap();
    tokio::time::sleep(ms(1)).await;
    client.reset_circuit("east").await.unwrap();
    tokio::time::sleep(ms(1)).await;
    client.close().await;
    assert_eq!(watcher.await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn switches_are_counted_without_a_gap() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    for _ in 0..8 {
        client.switch_to("west").await.unwrap();
        client.switch_to("east").await.unwrap();
        east.cut();
        west.cut();
    }
    let told = drain(&mut events).await;
    let generations: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            Event::ActiveChanged { generation, .. } => Some(*generation),
            _ => None,
        })
        .collect();
    assert_eq!(generations, (2..=17).collect::<Vec<u64>>());
    assert_eq!(client.snapshot().generation, 17);
}

#[tokio::test(start_paused = true)]
async fn a_failover_says_how_long_it_took_and_what_was_in_flight() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.on_call(OnCall::Hang);
    let _calls = [
        begin(&client, Work::new("a")).await,
        begin(&client, Work::new("b")).await,
    ];
    east.hang();
    let told = next(&mut events, |event| match event {
        Event::ActiveChanged {
            since_detection,
            in_flight,
            cause,
            reason,
            ..
        } => Some((*since_detection, *in_flight, cause.clone(), *reason)),
        _ => None,
    });
    let (since, in_flight, cause, reason) = told.await;
    assert_eq!(reason, Reason::Stalled);
    assert!(
        since >= ms(150) && since <= ms(160),
        "from the first sign on: {since:?}"
    );
    assert_eq!(in_flight, 2);
    assert!(cause.contains("no answer for 15"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_listener_is_told_how_much_it_missed_and_gets_the_rest() {
    let (client, _east, _west) = pair().await;
    let mut slow = client.events();
    for round in 0..1500 {
        let weight = if round % 2 == 0 { 0.3 } else { 0.4 };
        client.set_weight("west", weight).await.unwrap();
    }
    let first = slow.next().await.unwrap();
    let Event::Lagged { missed } = first else {
        panic!("{first:?}");
    };
    let rest = drain(&mut slow).await;
    assert_eq!(missed as usize + rest.len(), 1500);
    assert_eq!(rest.len(), 1024);
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_its_subscription_and_ends_with_the_client() {
    let (client, _east, _west) = pair().await;
    client.switch_to("west").await.unwrap();
    let mut late = client.events();
    assert!(drain(&mut late).await.is_empty());
    client.close().await;
    assert_eq!(late.next().await, Some(Event::Closed));
    assert_eq!(late.next().await, None);
    let mut too_late = client.events();
    assert_eq!(too_late.next().await, Some(Event::Closed));
    assert_eq!(too_late.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_stays_the_same_is_told_once() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    east.on_check(Act::Answer(Verdict::Unhealthy(Fault::new(
        FaultKind::Other,
        "sick",
    ))));
    tokio::time::sleep(secs(50)).await;
    let told = drain(&mut events).await;
    let health = told
        .iter()
        .filter(|e| matches!(e, Event::HealthChanged { .. }));
    assert_eq!(health.count(), 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_step_by_step_and_its_end_once() {
    let (east, west) = scripts();
    let mut config = Config::default();
    config.failover.attempts = 3;
    config.failover.delay = secs(2);
    let client = serving(over(&east, &west).config(config)).await;
    let mut events = client.events();
    east.kill();
    west.kill();
    tokio::time::sleep(secs(60)).await;
    west.heal();
    until_active(&client, "west").await;
    tokio::time::sleep(ms(1)).await;
    let told = drain(&mut events).await;
    let steps: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            Event::AllUnavailable { attempt, gave_up } => Some((*attempt, *gave_up)),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [(1, false), (2, false), (3, false), (3, true)]);
    let recovered = told.iter().filter(|e| matches!(e, Event::Recovered { .. }));
    assert_eq!(recovered.count(), 1);
}

// === listeners, on real time: they run on threads of their own ===

async fn real(builder: multidb::Builder<Scripted>) -> MultiDbClient<Scripted> {
    builder.connect().await.unwrap()
}

fn wait<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver
        .recv_timeout(Duration::from_secs(20))
        .expect("told in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn f20_a_listener_that_panics_or_blocks_delays_nobody() {
    let (east, west) = (Script::new(), Script::new());
    let (tell, told) = mpsc::channel();
    let (_never, blocked) = mpsc::channel::<()>();
    let client = over(&east, &west)
        .on_event(|_| panic!("on purpose"))
        .on_event(move |_| {
            let _ = blocked.recv();
        })
        .on_event(move |event| {
            let _ = tell.send(event.clone());
        });
    let client = real(client).await;
    client.switch_to("west").await.unwrap();
    client.switch_to("east").await.unwrap();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    let mut generations = Vec::new();
    while generations.len() < 3 {
        if let Event::ActiveChanged { generation, .. } = wait(&told) {
            generations.push(generation);
        }
    }
    assert_eq!(generations, [1, 2, 3]);
    let closed = tokio::time::timeout(Duration::from_secs(10), client.close()).await;
    closed.expect("a blocked listener held it up");
    while wait(&told) != Event::Closed {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_listener_may_call_the_client_it_listens_to() {
    let (east, west) = (Script::new(), Script::new());
    let (give, given) = mpsc::channel::<(MultiDbClient<Scripted>, tokio::runtime::Handle)>();
    let (tell, told) = mpsc::channel();
    let mut inside = None;
    let client = over(&east, &west).on_event(move |event| {
        if let Event::WeightChanged { .. } = event {
            let (client, runtime) = inside.get_or_insert_with(|| given.recv().unwrap());
            // Reading is free, and ordering works from here, too.
            let before = client.active();
            runtime.block_on(client.switch_to("west")).unwrap();
            tell.send((before, client.active())).unwrap();
            inside = None;
        }
    });
    let client = real(client).await;
    give.send((client.clone(), tokio::runtime::Handle::current()))
        .unwrap();
    client.set_weight("west", 0.6).await.unwrap();
    let seen = tokio::task::spawn_blocking(move || wait(&told))
        .await
        .unwrap();
    assert_eq!(
        (seen.0.unwrap().as_str(), seen.1.unwrap().as_str()),
        ("east", "west")
    );
    client.close().await;
}
