//! Everything that was seen of a simulated disaster, in the order in which it was.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use multidb::testing::server::Storage;
use multidb::{Event, Snapshot};

use crate::plan::{Act, Plan};
use crate::support::load::{COUNTER, Said, TOKENS};

/// What happened and what is left of it.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) plan: Plan,
    /// Who served at the beginning.
    pub(crate) first: String,
    /// With the time since the beginning at which they were noted.
    pub(crate) entries: Vec<(Duration, Entry)>,
    /// What each database holds in the end, by name.
    pub(crate) found: BTreeMap<String, Found>,
    /// Connections that the client held at the worst moment, and those that were left after its end,
    /// at the databases, too.
    pub(crate) connections: (usize, usize),
    /// Tasks of the runtime that were left, beyond those before the client began.
    pub(crate) tasks_left: usize,
    /// How much later than its time anything may be noticed: the precision of the simulation's clock.
    pub(crate) precision: Duration,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) tokens: Vec<String>,
    pub(crate) counter: i64,
    pub(crate) raised: i64,
    pub(crate) queue: Vec<String>,
}

/// What is raised under a watch.
pub(crate) const RAISED: &str = "raised";
/// What is subscribed to.
pub(crate) const CHANNEL: &str = "channel";
/// What tokens are put into and taken from.
pub(crate) const QUEUE: &str = "queue";

#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A call that has ended.
    Call(Call),
    /// What the client said of itself, and what it showed then.
    Event(Event, Arc<Snapshot>),
    /// What the subscriber read.
    Heard(Heard),
    /// The world or the operator acted; what the operator was answered.
    Acted(Act, Option<String>),
    /// Nothing is broken any more.
    Healed,
    /// The client had the time it needs: from now on every call succeeds. False: it still waits.
    Settled(bool, Arc<Snapshot>),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) caller: usize,
    pub(crate) op: Op,
    pub(crate) began: Duration,
    /// `None`: its caller gave up.
    pub(crate) said: Option<Said>,
}

/// What a subscriber reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Message(String),
    /// It was told that for so long it may have missed some.
    Gap(Option<Duration>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Appends a token, answered by the length of the list.
    Push(String),
    Incr,
    Get,
    /// Both writes in one transaction.
    Both(String),
    /// Answered by what was sent; true if it was.
    Echo(bool),
    /// Reads a number and writes the next one, watched, as often as it takes.
    Raise,
    /// Appends a token to a queue.
    Put(String),
    /// Waits for a token of the queue; which one came, if one did.
    Take(Option<String>),
    /// Answered by the number of those who are subscribed.
    Publish(String),
}

impl Found {
    pub(crate) fn in_storage(storage: &Storage) -> Self {
        let list = |key| {
            let tokens = storage.list(key).into_iter();
            let tokens = tokens.map(|token| String::from_utf8(token).expect("ours"));
            tokens.collect()
        };
        let counter = |key| storage.counter(key).unwrap_or_default();
        Self {
            tokens: list(TOKENS),
            counter: counter(COUNTER),
            raised: counter(RAISED),
            queue: list(QUEUE),
        }
    }
}

impl Op {
    pub(crate) fn token(&self) -> Option<&str> {
        match self {
            Self::Push(token) | Self::Both(token) => Some(token),
            Self::Incr
            | Self::Get
            | Self::Echo(_)
            | Self::Raise
            | Self::Put(_)
            | Self::Take(_)
            | Self::Publish(_) => None,
        }
    }

    pub(crate) fn counts(&self) -> bool {
        matches!(self, Self::Incr | Self::Both(_))
    }
}

impl History {
    pub(crate) fn calls(&self) -> impl Iterator<Item = (Duration, &Call)> {
        self.entries.iter().filter_map(|(at, entry)| match entry {
            Entry::Call(call) => Some((*at, call)),
            _ => None,
        })
    }

    pub(crate) fn heard(&self) -> impl Iterator<Item = (Duration, &Heard)> {
        self.entries.iter().filter_map(|(at, entry)| match entry {
            Entry::Heard(heard) => Some((*at, heard)),
            _ => None,
        })
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = (Duration, &Event, &Snapshot)> {
        self.entries.iter().filter_map(|(at, entry)| match entry {
            Entry::Event(event, shown) => Some((*at, event, &**shown)),
            _ => None,
        })
    }

    /// Where an acknowledged push of `token` with this answer was done: tokens are never removed, so
    /// the length that it was told is its place.
    pub(crate) fn acknowledged_by(&self, token: &str, length: i64) -> Option<&str> {
        let place = usize::try_from(length).ok()?.checked_sub(1)?;
        let at_place = |found: &Found| found.tokens.get(place).is_some_and(|t| t == token);
        let mut found = self.found.iter();
        found
            .find(|(_, found)| at_place(found))
            .map(|(name, _)| name.as_str())
    }
}

/// All of it: two runs of one seed that differ anywhere differ here.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, entry) in &self.entries {
            write!(f, "{:>10.3} ms  ", at.as_secs_f64() * 1e3)?;
            match entry {
                Entry::Call(call) => {
                    let began = call.began.as_secs_f64() * 1e3;
                    write!(f, "caller {} {:?} since {began:.3}: ", call.caller, call.op)?;
                    match &call.said {
                        Some(Said::Done(n)) => writeln!(f, "done, {n}")?,
                        Some(said) => writeln!(f, "{said}")?,
                        None => writeln!(f, "given up")?,
                    }
                }
                Entry::Event(event, shown) => {
                    writeln!(f, "[{}] {event}", shown.generation)?;
                }
                Entry::Acted(Act::Break(member, fault), _) => {
                    writeln!(f, "{}: {fault:?}", self.plan.members[*member].name)?;
                }
                Entry::Acted(Act::Mend(member, fault), _) => {
                    writeln!(f, "{}: {fault:?} is over", self.plan.members[*member].name)?;
                }
                Entry::Acted(Act::Operate(member, order), answer) => {
                    let name = self.plan.members[*member].name;
                    let answer = answer.as_deref().unwrap_or("done");
                    writeln!(f, "operator: {order:?} {name}: {answer}")?;
                }
                Entry::Heard(heard) => writeln!(f, "heard {heard:?}")?,
                Entry::Healed => writeln!(f, "healed")?,
                Entry::Settled(true, _) => writeln!(f, "settled")?,
                Entry::Settled(false, shown) => writeln!(f, "not settled: {shown}")?,
            }
        }
        for (name, found) in &self.found {
            let (tokens, queue) = (found.tokens.len(), found.queue.len());
            let (counter, raised) = (found.counter, found.raised);
            writeln!(
                f,
                "{name}: {tokens} tokens, counted {counter}, raised to {raised}, {queue} in the queue"
            )?;
        }
        let (most, left) = self.connections;
        writeln!(
            f,
            "{most} connections at most, {left} left, {} tasks left",
            self.tasks_left
        )
    }
}

/// Entries in the making, shared by the tasks of one runtime's thread.
#[derive(Clone)]
pub(crate) struct Notes(
    Rc<std::cell::RefCell<Vec<(Duration, Entry)>>>,
    tokio::time::Instant,
);

impl Notes {
    pub(crate) fn begin() -> Self {
        Self(Rc::default(), tokio::time::Instant::now())
    }

    pub(crate) fn now(&self) -> Duration {
        self.1.elapsed()
    }

    pub(crate) fn add(&self, entry: Entry) {
        self.0.borrow_mut().push((self.now(), entry));
    }

    pub(crate) fn take(&self) -> Vec<(Duration, Entry)> {
        self.0.take()
    }
}
