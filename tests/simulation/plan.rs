//! What will happen in a simulated disaster, drawn from a seed.

use std::time::Duration;

use fastrand::Rng;
use multidb::{Config, Sensitivity};

/// A whole disaster: who is there, what breaks when, what the operator does meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) callers: usize,
    pub(crate) config: Config,
    /// By time.
    pub(crate) steps: Vec<Step>,
    /// When everything is healed.
    pub(crate) heal_at: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) weight: f64,
    /// Nothing is ever done to it: whatever the client holds against it is an error of the client's.
    pub(crate) innocent: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Break(usize, Fault),
    Mend(usize, Fault),
    Operate(usize, Order),
}

/// What can be done to a database or to the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process is gone: connections are reset and refused. Its data stays.
    Kill,
    /// The process is stopped: it accepts, and says nothing.
    Hang,
    Loading,
    ReadOnly,
    OutOfMemory,
    Misconf,
    /// Nothing passes, in either direction.
    Partition,
    /// Nothing reaches the database; what it says still arrives.
    LoseRequests,
    /// Commands run and nobody hears of it.
    LoseReplies,
    /// What was sent is kept and delivered later, though its sender may be gone by then.
    Hold,
    /// So many milliseconds more, each way.
    Slow(u64),
    /// Every connection is reset, once.
    Reset,
    /// A reply is cut in half and its connection reset, once.
    CutReply(usize),
    /// The callers' connections fall silent for good; probes go on to say that all is well.
    Deafen,
    /// Up and down several times a second.
    Flap,
}

/// What an operator can do to a database.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Order {
    Weigh(f64),
    SwitchTo,
    Unpin,
    Disable,
    Enable,
    Remove,
    Add,
    /// For so many milliseconds.
    Force(u64),
    ForceOpen,
    Reset,
    PauseFallback,
    ResumeFallback,
}

impl Fault {
    /// Over as soon as it has happened.
    pub(crate) fn is_instant(self) -> bool {
        matches!(self, Self::Reset | Self::CutReply(_) | Self::Deafen)
    }
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let heal_at = secs(rng.u64(8..16));
        let mut members: Vec<_> = NAMES[..rng.usize(2..=NAMES.len())]
            .iter()
            .map(|name| Member {
                name,
                weight: rng.u32(1..100).into(),
                innocent: rng.u8(..3) == 0,
            })
            .collect();
        if members.iter().all(|member| member.innocent) {
            members[0].innocent = false;
        }
        let mut steps = Vec::new();
        for (index, member) in members.iter().enumerate() {
            if !member.innocent {
                break_often(&mut rng, index, heal_at, &mut steps);
            }
        }
        if rng.bool() {
            operate(&mut rng, members.len(), heal_at, &mut steps);
        }
        steps.sort_by_key(|step| step.at);
        Self {
            seed,
            callers: rng.usize(2..8),
            config: config(&mut rng),
            members,
            steps,
            heal_at,
        }
    }

    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name == name)
    }
}

const NAMES: [&str; 4] = ["east", "north", "south", "west"];

/// Faults of one member, one after the other, ended before the healing.
fn break_often(rng: &mut Rng, member: usize, heal_at: Duration, steps: &mut Vec<Step>) {
    let mut at = ms(rng.u64(200..3000));
    loop {
        let fault = fault(rng);
        // As often short as long.
        let lasts = ms([10, 100, 1000][rng.usize(..3)] * rng.u64(1..6));
        if at + lasts >= heal_at {
            return;
        }
        let act = Act::Break(member, fault);
        steps.push(Step { at, act });
        if !fault.is_instant() {
            let act = Act::Mend(member, fault);
            steps.push(Step {
                at: at + lasts,
                act,
            });
        }
        at += lasts + ms(rng.u64(1..4000));
    }
}

fn fault(rng: &mut Rng) -> Fault {
    match rng.u8(..17) {
        0..=2 => Fault::Kill,
        3 | 4 => Fault::Hang,
        5 => Fault::Loading,
        6 => Fault::ReadOnly,
        7 => Fault::OutOfMemory,
        8 => Fault::Misconf,
        9 => Fault::Partition,
        10 => Fault::LoseRequests,
        11 => Fault::LoseReplies,
        12 => Fault::Hold,
        13 => Fault::Slow(rng.u64(1..60)),
        14 => Fault::Reset,
        15 => Fault::CutReply(rng.usize(..12)),
        16 => match rng.bool() {
            true => Fault::Deafen,
            false => Fault::Flap,
        },
        _ => unreachable!("drawn below 17"),
    }
}

fn operate(rng: &mut Rng, members: usize, heal_at: Duration, steps: &mut Vec<Step>) {
    let mut at = ms(rng.u64(500..4000));
    while at < heal_at {
        let order = match rng.u8(..13) {
            0 | 1 => Order::Weigh(rng.u32(..100).into()),
            2 | 3 => Order::SwitchTo,
            4 => Order::Unpin,
            5 => Order::Disable,
            6 => Order::Enable,
            7 => Order::Remove,
            8 => Order::Add,
            9 => Order::Force(rng.u64(100..2000)),
            10 => Order::ForceOpen,
            11 => Order::Reset,
            _ => match rng.bool() {
                true => Order::PauseFallback,
                false => Order::ResumeFallback,
            },
        };
        let act = Act::Operate(rng.usize(..members), order);
        steps.push(Step { at, act });
        at += ms(rng.u64(50..3000));
    }
}

/// Short enough that a quarter of a minute sees many dwells, rounds and fallbacks.
fn config(rng: &mut Rng) -> Config {
    let mut config = Config::default();
    config.sensitivity = [
        Sensitivity::Fast,
        Sensitivity::Balanced,
        Sensitivity::Conservative,
    ][rng.usize(..3)];
    config.calls.deadline = ms(rng.u64(800..5000));
    config.calls.response_timeout = ms(rng.u64(100..700));
    config.calls.connect_timeout = ms(rng.u64(200..1000));
    config.health.interval = ms(rng.u64(300..2000));
    config.health.timeout = ms(rng.u64(300..1500));
    config.health.delay = ms(rng.u64(50..300));
    config.health.max_backoff = secs(2);
    config.circuit.grace_period = ms(rng.u64(200..3000));
    config.circuit.max_grace_period = secs(4);
    config.failover.fallback_interval = ms(rng.u64(1000..4000));
    config.failover.last_resort_max = secs(1);
    config.failover.delay = ms(rng.u64(500..3000));
    config
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
