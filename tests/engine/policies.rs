//! Policies of the user's own: they are heeded, and what they do wrong harms nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::engine::detector::Observed;
use multidb::testing::scripted::{OnCall, Script, ScriptHandle, Scripted, Work};
use multidb::{
    Candidate, Class, Config, Database, Doubt, Event, FailoverStrategy, FailureDetector, Fault,
    FaultKind, HealthCheck, Reason, Status, Verdict,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;

/// What the check of the user's does at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    Sick,
    Hangs,
    Panics,
}

/// A check that has one mood for every database.
struct Moody(watch::Receiver<Mood>, Arc<AtomicUsize>);

impl HealthCheck<Scripted> for Moody {
    fn name(&self) -> &str {
        "moody"
    }

    fn check<'a>(&'a self, _: &'a Database<Script>, _: &'a ScriptHandle) -> BoxFuture<'a, Verdict> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let mood = *self.0.borrow();
        async move {
            match mood {
                Mood::Well => Verdict::Healthy,
                Mood::Sick => Verdict::Unhealthy(Fault::new(FaultKind::Other, "sick")),
                Mood::Hangs => std::future::pending().await,
                Mood::Panics => panic!("on purpose"),
            }
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn f21_a_check_that_hangs_or_panics_is_an_unhealthy_database_and_is_asked_again() {
    for mood in [Mood::Sick, Mood::Hangs, Mood::Panics] {
        let (set, moods) = watch::channel(Mood::Well);
        let asked = Arc::new(AtomicUsize::new(0));
        let (east, west) = scripts();
        let client = over(&east, &west).health_check(Moody(moods, asked.clone()));
        let client = serving(client).await;
        let mut events = client.events();
        set.send_replace(mood);
        let unhealthy = next(&mut events, |event| match event {
            Event::HealthChanged {
                verdict: Verdict::Unhealthy(fault),
                ..
            } => Some(fault.clone()),
            _ => None,
        });
        let fault = unhealthy.await;
        if mood != Mood::Sick {
            assert!(fault.what.starts_with("moody: "), "{fault}");
        }
        let before = asked.load(Ordering::Relaxed);
        tokio::time::sleep(secs(60)).await;
        assert!(
            asked.load(Ordering::Relaxed) > before + 5,
            "the schedule lives on"
        );
        set.send_replace(Mood::Well);
        // It had struck both, so whichever is back first serves.
        until(&client, |s| s.status == Status::Serving).await;
        assert!(call(&client, Work::new("a")).await.is_ok(), "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_adds_to_the_backends_own_and_does_not_replace_it() {
    let (_set, moods) = watch::channel(Mood::Well);
    let (east, west) = scripts();
    let client = over(&east, &west).health_check(Moody(moods, Arc::default()));
    let client = serving(client).await;
    east.kill();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
}

struct Choose(fn(&[Candidate<'_>]) -> Option<usize>);

impl FailoverStrategy for Choose {
    fn choose(&self, candidates: &[Candidate<'_>]) -> Option<usize> {
        (self.0)(candidates)
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_of_the_users_decides() {
    let (east, west) = scripts();
    let lightest = Choose(|all| {
        let weight = |i: &usize| all[*i].weight.value();
        (0..all.len()).min_by(|a, b| weight(a).total_cmp(&weight(b)))
    });
    let client = serving(over(&east, &west).strategy(lightest)).await;
    until_active(&client, "west").await;
    client.set_weight("east", 0.2).await.unwrap();
    until_active(&client, "east").await;
}

#[tokio::test(start_paused = true)]
async fn a_strategy_that_panics_or_points_nowhere_falls_back_to_the_weights_and_says_so() {
    for bad in [
        Choose(|_| panic!("on purpose")),
        Choose(|all| Some(all.len())),
    ] {
        let (east, west) = scripts();
        let client = over(&east, &west).strategy(bad).connect_lazy().unwrap();
        let mut events = client.events();
        assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
        let policy = next(&mut events, |event| match event {
            Event::PolicyPanicked { policy } => Some(*policy),
            _ => None,
        });
        assert_eq!(policy.await, "failover strategy");
        east.kill();
        assert_eq!(call(&client, Work::new("b")).await.unwrap(), "west");
    }
}

struct Touchy;

impl FailureDetector for Touchy {
    fn observe(&mut self, _: Instant, seen: Observed) -> bool {
        seen.failed > 0
    }

    fn reset(&mut self) {}
}

struct Broken;

impl FailureDetector for Broken {
    fn observe(&mut self, _: Instant, _: Observed) -> bool {
        panic!("on purpose")
    }

    fn reset(&mut self) {
        panic!("on purpose")
    }
}

#[tokio::test(start_paused = true)]
async fn a_detector_of_the_users_decides() {
    let (east, west) = scripts();
    let client = serving(over(&east, &west).failure_detector(|_| Touchy)).await;
    let mut events = client.events();
    east.next_call(OnCall::Answer(Class::Unknown(Doubt::Protocol)));
    assert!(call(&client, Work::new("a")).await.is_err());
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("west", Reason::FailureDetector));
}

#[tokio::test(start_paused = true)]
async fn a_detector_that_panics_is_replaced_by_the_default() {
    let (east, west) = scripts();
    let client = serving(over(&east, &west).failure_detector(|_| Broken)).await;
    let mut events = client.events();
    east.on_call(OnCall::Answer(Class::Unknown(Doubt::Protocol)));
    for n in 0..25 {
        let _ = call(&client, Work::new(format!("{n}"))).await;
        tokio::time::sleep(ms(1)).await;
    }
    let told = drain(&mut events).await;
    let panics = told
        .iter()
        .filter(|e| matches!(e, Event::PolicyPanicked { .. }));
    assert!(panics.count() >= 1, "{told:?}");
    assert_eq!(
        active(&client),
        "west",
        "twenty in a row are enough for the default"
    );
    assert_eq!(switches(&told), 1);
}

#[tokio::test(start_paused = true)]
async fn a_backoff_that_panics_is_replaced_by_the_default() {
    let (east, west) = scripts();
    let client = over(&east, &west).backoff(|| std::iter::repeat_with(|| panic!("on purpose")));
    let client = serving(client).await;
    let mut events = client.events();
    east.next_call(OnCall::Answer(Class::SessionInvalid));
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    assert_eq!(
        events.next().await,
        Some(Event::PolicyPanicked { policy: "backoff" })
    );
}

#[tokio::test(start_paused = true)]
async fn the_probe_policy_says_how_many_attempts_decide() {
    use multidb::ProbePolicy::{All, Any, Majority};
    for (policy, failures, left) in [(All, 1, true), (Majority, 1, false), (Any, 2, false)] {
        let (east, west) = scripts();
        let (set, moods) = watch::channel(0);
        let mut config = Config::default();
        config.health.policy = policy;
        let client = over(&east, &west).config(config);
        let client = serving(client.health_check(FailsOnEast(set.clone(), moods))).await;
        set.send_replace(failures);
        tokio::time::sleep(secs(20)).await;
        assert_eq!(active(&client) == "west", left, "{policy:?}");
        drop(set);
    }
}

/// Fails the first attempts of every three on the heavier database once the start is over.
struct FailsOnEast(watch::Sender<u32>, watch::Receiver<u32>);

impl HealthCheck<Scripted> for FailsOnEast {
    fn name(&self) -> &str {
        "first attempts"
    }

    fn check<'a>(
        &'a self,
        _: &'a Database<Script>,
        handle: &'a ScriptHandle,
    ) -> BoxFuture<'a, Verdict> {
        // Of the active database, the second connection carries the health rounds.
        let of_rounds = handle.number() == 2;
        let failing = of_rounds && *self.1.borrow() > 0;
        if failing {
            self.0.send_modify(|left| *left -= 1);
        }
        let sick = Fault::new(FaultKind::Other, "sick");
        let verdict = if failing {
            Verdict::Unhealthy(sick)
        } else {
            Verdict::Healthy
        };
        std::future::ready(verdict).boxed()
    }
}
