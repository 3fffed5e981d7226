//! Health checks: what they gate, when they are asked, and that they come and go at runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::engine::backend::{Depth, Purpose};
use multidb::engine::health::PING;
use multidb::testing::scripted::{Act, Script, ScriptHandle, Scripted, Work};
use multidb::{
    CircuitState, Database, ErrorKind, Event, Fault, FaultKind, HealthCheck, Obstacle, Reason,
    Verdict,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;

/// Says of each database what a test wants it to say; healthy by default.
#[derive(Clone, Default)]
struct Says {
    verdicts: watch::Sender<BTreeMap<String, Verdict>>,
    asked: Arc<AtomicUsize>,
    takes: Duration,
    urgent: bool,
}

impl Says {
    fn of(&self, id: &str, verdict: Verdict) {
        self.verdicts.send_modify(|verdicts| {
            verdicts.insert(id.to_owned(), verdict);
        });
    }
}

impl HealthCheck<Scripted> for Says {
    fn name(&self) -> &str {
        "says"
    }

    fn check<'a>(
        &'a self,
        database: &'a Database<Script>,
        _: &'a ScriptHandle,
    ) -> BoxFuture<'a, Verdict> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(self.takes).await;
            let verdict = self.verdicts.borrow().get(database.id().as_str()).cloned();
            verdict.unwrap_or(Verdict::Healthy)
        }
        .boxed()
    }

    fn is_urgent(&self) -> bool {
        self.urgent
    }
}

/// The same, but it asks somebody other than the database.
struct Elsewhere(Says);

impl HealthCheck<Scripted> for Elsewhere {
    fn name(&self) -> &str {
        "elsewhere"
    }

    fn check<'a>(
        &'a self,
        database: &'a Database<Script>,
        handle: &'a ScriptHandle,
    ) -> BoxFuture<'a, Verdict> {
        self.0.check(database, handle)
    }

    fn is_advisory(&self) -> bool {
        true
    }
}

fn lagging() -> Verdict {
    Verdict::Degraded(Fault::new(FaultKind::Other, "lag 7 s"))
}

// --- reservations ---

#[tokio::test(start_paused = true)]
async fn s22_the_active_one_is_not_left_for_a_reservation() {
    let says = Says::default();
    let (east, west) = scripts();
    let client = serving(over(&east, &west).health_check(says.clone())).await;
    says.of("east", lagging());
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(client.snapshot().generation, 1);
    let east = client.snapshot().member("east").unwrap().clone();
    assert_eq!(
        (east.verdict, east.circuit),
        (Some(lagging()), CircuitState::Closed)
    );
    assert!(east.obstacles.is_empty());
}

#[tokio::test(start_paused = true)]
async fn s22_a_reservation_holds_the_fallback_back_until_it_is_gone() {
    let says = Says::default();
    let (east, west) = scripts();
    let client = serving(over(&east, &west).health_check(says.clone())).await;
    says.of("east", lagging());
    east.kill();
    until_active(&client, "west").await;
    east.heal();
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(active(&client), "west");
    let cause = "lag 7 s".to_owned();
    let obstacles = client.snapshot().member("east").unwrap().obstacles.clone();
    assert_eq!(obstacles, [Obstacle::Degraded { cause }]);
    assert!(client.explain().contains("degraded (lag 7 s)"));

    says.of("east", Verdict::Healthy);
    let start = Instant::now();
    until_active(&client, "east").await;
    assert!(start.elapsed() <= secs(6), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn in_a_failover_a_database_without_a_reservation_goes_first() {
    let says = Says::default();
    let (east, west) = scripts();
    let south = Script::new();
    let builder = over(&east, &west).database(database("south", &south, 0.1));
    let client = serving(builder.health_check(says.clone())).await;
    let mut events = client.events();
    says.of("west", lagging());
    tokio::time::sleep(secs(6)).await;
    east.kill();
    until_active(&client, "south").await;
    south.kill();
    let told = next(&mut events, |event| match event {
        Event::ChosenDegraded { database, cause } => Some((database.clone(), cause.clone())),
        _ => None,
    });
    let (database, cause) = told.await;
    assert_eq!((database.as_str(), cause.as_str()), ("west", "lag 7 s"));
    assert_eq!(active(&client), "west");
}

/// Naive: it takes the time of the checks behind it, and the database its place.
#[tokio::test(start_paused = true)]
async fn a_check_that_asks_somebody_else_is_asked_last_and_its_silence_is_a_reservation() {
    let (hangs, says) = (
        Elsewhere(Says {
            takes: secs(3600),
            ..Says::default()
        }),
        Says {
            takes: ms(100),
            ..Says::default()
        },
    );
    let (east, west) = scripts();
    let builder = over(&east, &west).health_check(hangs);
    let client = serving(builder.health_check(says.clone())).await;
    tokio::time::sleep(secs(600)).await;
    let snapshot = client.snapshot();
    assert_eq!((active(&client).as_str(), snapshot.generation), ("east", 1));
    for member in &snapshot.members {
        let silent = matches!(&member.verdict, Some(Verdict::Degraded(fault))
            if fault.kind == FaultKind::Silent && fault.what.starts_with("elsewhere: "));
        assert!(silent, "{:?}", member.verdict);
        assert_eq!(member.circuit, CircuitState::Closed);
    }
    says.of(
        "east",
        Verdict::Unhealthy(Fault::new(FaultKind::Other, "not today")),
    );
    until_active(&client, "west").await;
}

// --- urgency ---

#[tokio::test(start_paused = true)]
async fn a_slow_check_does_not_make_a_failover_slow_unless_it_asks_to() {
    for urgent in [false, true] {
        let says = Says {
            takes: secs(1),
            urgent,
            ..Says::default()
        };
        let (east, west) = scripts();
        let client = serving(over(&east, &west).health_check(says.clone())).await;
        tokio::time::sleep(secs(8)).await;
        east.kill();
        let start = Instant::now();
        assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
        assert_eq!(start.elapsed() >= secs(1), urgent, "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_recovers_is_asked_thoroughly_before_it_is_returned_to() {
    let says = Says::default();
    let (east, west) = scripts();
    let client = serving(over(&east, &west).health_check(says.clone())).await;
    let mut events = client.events();
    east.kill();
    until_active(&client, "west").await;
    says.of("east", lagging());
    east.heal();
    next(&mut events, |event| match event {
        Event::CircuitChanged {
            to: CircuitState::Closed,
            ..
        } => Some(()),
        _ => None,
    })
    .await;
    tokio::time::sleep(ms(1)).await;
    assert_eq!(
        active(&client),
        "west",
        "at no moment it is thought to be without"
    );
    tokio::time::sleep(secs(600)).await;
    assert_eq!(active(&client), "west");
}

// --- coming and going ---

#[tokio::test(start_paused = true)]
async fn checks_come_and_go_at_runtime() {
    let (client, _east, _west) = pair().await;
    let mut events = client.events();
    let says = Says::default();
    says.of(
        "east",
        Verdict::Unhealthy(Fault::new(FaultKind::Other, "not today")),
    );
    client.add_health_check(says.clone()).unwrap();
    let again = client.add_health_check(Says::default()).unwrap_err();
    assert!(matches!(again.kind(), ErrorKind::Invalid(_)));
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("west", Reason::HealthCheck));
    client.remove_health_check("says").unwrap();
    until_active(&client, "east").await;
    let asked = says.asked.load(Ordering::Relaxed);
    tokio::time::sleep(secs(600)).await;
    assert_eq!(says.asked.load(Ordering::Relaxed), asked);
    let unknown = client.remove_health_check("says").unwrap_err();
    assert!(matches!(unknown.kind(), ErrorKind::Invalid(_)));
}

/// Some proxies know no PING.
#[tokio::test(start_paused = true)]
async fn the_ping_goes_by_its_name_and_is_asked_only_where_silence_is_the_question() {
    let (east, west) = scripts();
    let builder = over(&east, &west).health_check(Says::default());
    let client = serving(builder.without_ping()).await;
    let pings = |script: &Script| script.checks(Depth::Alive);
    let before = pings(&west);
    tokio::time::sleep(secs(600)).await;
    assert_eq!(pings(&west), before, "rounds of a standby");
    let gone = client.remove_health_check(PING).unwrap_err();
    assert!(matches!(gone.kind(), ErrorKind::Invalid(_)));
    east.kill();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
    assert!(pings(&west) > before, "a failover's proof");
    client.close().await;

    let (client, east, _west) = pair().await;
    client.remove_health_check(PING).unwrap();
    let before = pings(&east);
    tokio::time::sleep(secs(60)).await;
    assert!(pings(&east) > before, "the last check stays");
}

#[tokio::test(start_paused = true)]
async fn two_checks_of_one_name_are_refused() {
    let (east, west) = scripts();
    let builder = over(&east, &west).health_check(Says::default());
    let error = builder.health_check(Says::default()).connect().await;
    assert!(
        matches!(error.unwrap_err().kind(), ErrorKind::Invalid(e) if e.field() == "health_check")
    );
}

// --- another connection ---

/// A changed password does not show on a connection that stands, nor does a lost SYN.
#[tokio::test(start_paused = true)]
async fn a_database_that_takes_no_new_connection_is_told_of_and_returned_to_last() {
    let (east, west) = scripts();
    let client = serving(over(&east, &west)).await;
    let mut events = client.events();
    let denied = Fault::new(FaultKind::Denied, "credentials refused");
    east.on_connect(Act::Answer(Err(denied.clone())));
    let start = Instant::now();
    let verdict = next(&mut events, |event| match event {
        Event::HealthChanged { database, verdict } if *database == *"east" => Some(verdict.clone()),
        _ => None,
    });
    let Verdict::Degraded(fault) = verdict.await else {
        panic!("no reservation");
    };
    assert_eq!(fault.kind, FaultKind::Denied);
    assert_eq!(fault.what, "no new connection: credentials refused");
    assert!(start.elapsed() <= secs(70), "{:?}", start.elapsed());
    assert_eq!(client.snapshot().generation, 1, "what stands goes on");
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");

    client.switch_to("west").await.unwrap();
    client.unpin().await.unwrap();
    tokio::time::sleep(secs(600)).await;
    assert_eq!(active(&client), "west");
    let before = east.connects(Purpose::Traffic);
    east.heal();
    until_active(&client, "east").await;
    assert_eq!(
        east.connects(Purpose::Traffic),
        before,
        "the one that stood"
    );
}
