//! What can happen.

use std::time::Duration;

use multidb::engine::backend::{Fault, FaultKind, NotServing, Verdict};
use multidb::engine::config::{Config, Sensitivity, StartPolicy};
use multidb::engine::database::Role;
use proptest::collection::vec;
use proptest::prelude::*;

/// Where a case begins.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub config: Config,
    pub seed: u64,
    pub lazy: bool,
    /// Nobody ever answers a preparation.
    pub stuck_followers: bool,
    pub members: Vec<Part>,
}

/// A database to be.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// One of [`NAMES`].
    pub name: usize,
    pub weight: u8,
    /// Shares the failure domain of all others that do.
    pub shares: bool,
    pub enabled: bool,
    pub role: Role,
    pub grace: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// One of the outstanding probes is answered.
    Answer {
        which: usize,
        verdict: Verdict,
        /// The connection it came over ends at the same moment.
        cut: bool,
    },
    /// All of them are, each as its database feels, and so is whatever is asked then.
    Everybody(Vec<Verdict>),
    /// One that had been answered already is answered once more.
    Again {
        which: usize,
        verdict: Verdict,
    },
    /// One that was never asked is answered.
    Stray {
        probe: u64,
        verdict: Verdict,
    },
    Lost {
        who: usize,
        traffic: bool,
    },
    Stalled {
        who: usize,
        age: Duration,
        overdue: bool,
    },
    Overrun,
    Evidence {
        who: usize,
        /// Of the episode so many before the current one.
        behind: u64,
        what: Seen,
    },
    Order(Wish),
    /// Time passes, and every deadline is kept.
    Wait(Duration),
    /// Time passes, and nobody is woken until the end of it.
    Jump(Duration),
}

#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Calls { succeeded: u64, failed: u64 },
    AtOnce,
    Repeated(u32),
    Wrote,
    Denied,
}

/// An operator's, a server's or a topology's.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Add(Part, bool),
    Remove(usize),
    SetWeight(usize, u8),
    SetEnabled(usize, bool),
    SwitchTo(usize),
    Force(usize, Option<Duration>),
    Unpin,
    SetAutoFallback(bool),
    Reset(usize),
    ForceOpen(usize),
    /// Learnt so many generations ago.
    Direct(usize, u64),
    /// Said so many generations ago, by whoever is active now or by another one.
    StandDown(Option<usize>, u64, NotServing),
    Topology {
        newer: bool,
        members: Vec<Part>,
    },
}

pub(crate) const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

pub(crate) fn setup() -> impl Strategy<Value = Setup> {
    let members = vec(part(), 1..=5).prop_map(|mut members| {
        let mut seen = [false; NAMES.len()];
        members.retain(|m| !std::mem::replace(&mut seen[m.name], true));
        members
    });
    (
        config(),
        any::<u64>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
        members,
    )
        .prop_map(|(config, seed, lazy, stuck_followers, members)| Setup {
            config,
            seed,
            lazy,
            stuck_followers,
            members,
        })
}

/// Times are short, so that a case reaches the end of them.
fn config() -> impl Strategy<Value = Config> {
    let start = prop_oneof![
        4 => Just(StartPolicy::One),
        1 => Just(StartPolicy::Majority),
        1 => Just(StartPolicy::All),
    ];
    let sensitivity = prop_oneof![
        Just(Sensitivity::Fast),
        Just(Sensitivity::Balanced),
        Just(Sensitivity::Conservative),
    ];
    (
        start,
        sensitivity,
        1..=3u32,
        1..=4u64,
        prop::bool::weighted(0.9),
    )
        .prop_map(
            |(start, sensitivity, recovery_probes, grace, auto_fallback)| {
                let mut config = Config::default();
                config.start.policy = start;
                config.sensitivity = sensitivity;
                config.circuit.recovery_probes = recovery_probes;
                config.circuit.grace_period = Duration::from_secs(grace);
                config.circuit.max_grace_period = Duration::from_secs(8);
                config.circuit.stability_window = Duration::from_secs(20);
                config.failover.attempts = 3;
                config.failover.delay = Duration::from_secs(2);
                config.failover.auto_fallback = auto_fallback;
                config
            },
        )
}

fn part() -> impl Strategy<Value = Part> {
    let grace = prop_oneof![
        9 => Just(None),
        1 => (1..=6u64).prop_map(|secs| Some(Duration::from_secs(secs))),
    ];
    let role = prop_oneof![12 => Just(Role::Primary), 1 => Just(Role::Replica)];
    (
        0..NAMES.len(),
        0..=4u8,
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.9),
        role,
        grace,
    )
        .prop_map(|(name, weight, shares, enabled, role, grace)| Part {
            name,
            weight,
            shares,
            enabled,
            role,
            grace,
        })
}

pub(crate) fn faults() -> impl Strategy<Value = Vec<Step>> {
    vec(fault(), 0..100)
}

pub(crate) fn faults_and_orders() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => fault(),
        1 => wish().prop_map(Step::Order),
    ];
    vec(step, 0..100)
}

fn fault() -> impl Strategy<Value = Step> {
    let who = 0..NAMES.len();
    prop_oneof![
        30 => (0..8usize, verdict(), prop::bool::weighted(0.05))
            .prop_map(|(which, verdict, cut)| Step::Answer { which, verdict, cut }),
        10 => Just(Step::Everybody(vec![Verdict::Healthy; NAMES.len()])),
        5 => vec(verdict(), NAMES.len()).prop_map(Step::Everybody),
        2 => (0..8usize, verdict()).prop_map(|(which, verdict)| Step::Again { which, verdict }),
        1 => (0..500u64, verdict()).prop_map(|(probe, verdict)| Step::Stray { probe, verdict }),
        8 => (who.clone(), prop::bool::weighted(0.8))
            .prop_map(|(who, traffic)| Step::Lost { who, traffic }),
        5 => (who.clone(), 0..2_000u64, any::<bool>()).prop_map(|(who, age, overdue)| {
            Step::Stalled { who, age: Duration::from_millis(age), overdue }
        }),
        1 => Just(Step::Overrun),
        8 => (who, prop_oneof![4 => Just(0u64), 1 => 1..4u64], seen())
            .prop_map(|(who, behind, what)| Step::Evidence { who, behind, what }),
        12 => time().prop_map(Step::Wait),
        3 => time().prop_map(Step::Jump),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let fault = |kind| Verdict::Unhealthy(Fault::new(kind, "as the case has it"));
    prop_oneof![
        14 => Just(Verdict::Healthy),
        2 => Just(Verdict::Degraded(Fault::new(FaultKind::Other, "as the case has it"))),
        1 => Just(Verdict::Standby),
        1 => Just(Verdict::Suspended),
        3 => Just(fault(FaultKind::Unreachable)),
        1 => Just(fault(FaultKind::Lost)),
        2 => Just(fault(FaultKind::Silent)),
        1 => Just(fault(FaultKind::Denied)),
        1 => Just(fault(FaultKind::Local)),
        3 => Just(fault(FaultKind::State)),
        1 => Just(fault(FaultKind::Other)),
    ]
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![
        4 => (0..3u64, 0..25u64)
            .prop_map(|(succeeded, failed)| Seen::Calls { succeeded, failed }),
        2 => Just(Seen::AtOnce),
        2 => (1..4u32).prop_map(Seen::Repeated),
        1 => Just(Seen::Wrote),
        1 => Just(Seen::Denied),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    let who = 0..NAMES.len();
    let lasting = prop_oneof![
        1 => Just(None),
        3 => (0..10_000u64).prop_map(|ms| Some(Duration::from_millis(ms))),
    ];
    prop_oneof![
        3 => (part(), any::<bool>()).prop_map(|(part, verify)| Wish::Add(part, verify)),
        4 => who.clone().prop_map(Wish::Remove),
        3 => (who.clone(), 0..=4u8).prop_map(|(who, weight)| Wish::SetWeight(who, weight)),
        3 => (who.clone(), prop::bool::weighted(0.6))
            .prop_map(|(who, enabled)| Wish::SetEnabled(who, enabled)),
        4 => who.clone().prop_map(Wish::SwitchTo),
        2 => (who.clone(), lasting).prop_map(|(who, time)| Wish::Force(who, time)),
        2 => Just(Wish::Unpin),
        1 => any::<bool>().prop_map(Wish::SetAutoFallback),
        2 => who.clone().prop_map(Wish::Reset),
        2 => who.clone().prop_map(Wish::ForceOpen),
        4 => (who, prop_oneof![5 => Just(0u64), 1 => 1..3u64])
            .prop_map(|(who, ago)| Wish::Direct(who, ago)),
        4 => (
            prop_oneof![5 => Just(None), 1 => (0..NAMES.len()).prop_map(Some)],
            prop_oneof![5 => Just(0u64), 1 => 1..3u64],
            prop_oneof![4 => Just(NotServing::Standby), 1 => Just(NotServing::Suspended)],
        )
            .prop_map(|(who, ago, what)| Wish::StandDown(who, ago, what)),
        1 => (prop::bool::weighted(0.8), vec(part(), 0..5))
            .prop_map(|(newer, members)| Wish::Topology { newer, members }),
    ]
}

/// From nothing to hours; mostly what matters to some timer.
fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        1 => Just(Duration::ZERO),
        4 => (1..200u64).prop_map(Duration::from_millis),
        4 => (200..2_000u64).prop_map(Duration::from_millis),
        3 => (2..20u64).prop_map(Duration::from_secs),
        1 => (20..20_000u64).prop_map(Duration::from_secs),
    ]
}
