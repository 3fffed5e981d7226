//! Which node of a cluster each name is subscribed to on. Decides, and does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::redis::RedisError;
use tokio::time::Instant;

use crate::backends::redis::cluster::{Layout, slot};
use crate::backends::redis::endpoint::place::Address;
use crate::backends::redis::pubsub::link::Report;
use crate::backends::redis::pubsub::names::{Change, Kind, Name, Verb};
use crate::engine::backend::Fault;

/// What is wanted, and where it is.
pub(super) struct Table {
    /// Shard channels are on the nodes of their slots; without, they are where all others are.
    shards: bool,
    wanted: BTreeMap<Name, Seat>,
    /// The number of the last change to what is wanted.
    version: u64,
    layout: Option<Layout>,
    /// What has been heard since the layout was: it knows better.
    moved: BTreeMap<u16, Address>,
    /// Where everything is that may be anywhere.
    home: Option<Address>,
    branches: BTreeMap<Address, Branch>,
    next_number: u64,
    looking: bool,
    /// Who is to be asked first.
    ask: Option<Address>,
    look_at: Instant,
    look_pause: Duration,
    /// How often each was sent on since all held last.
    sent_on: BTreeMap<Name, u32>,
    refused: Vec<(Name, RedisError)>,
    /// It has been told that all holds, and it does.
    holds: bool,
    leaving: bool,
    /// Since when a link has left that was told to.
    left: Option<Instant>,
    steps: Vec<Step>,
}

/// Where a name is.
enum Seat {
    On(Address),
    /// Nowhere, and not to be tried before.
    Nowhere(Instant),
}

/// A link to a node.
struct Branch {
    number: u64,
    names: BTreeSet<Name>,
    /// To be told next.
    changes: Vec<Change>,
    told: u64,
    confirmed: Option<u64>,
    /// It has held once: what was there is missed now.
    has_held: bool,
    is_open: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Step {
    /// See who serves what, by the word of this one if it answers.
    Look {
        ask: Option<Address>,
    },
    /// A link to a node, with these names.
    Open {
        number: u64,
        at: Address,
        names: BTreeSet<Name>,
    },
    Tell {
        number: u64,
        version: u64,
        changes: Vec<Change>,
    },
    Close {
        number: u64,
    },
    Report(Report),
}

/// Before something is tried once more.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Table {
    pub(super) fn new(shards: bool, wanted: BTreeSet<Name>, version: u64, now: Instant) -> Self {
        let nowhere = |name| (name, Seat::Nowhere(now));
        Self {
            shards,
            wanted: wanted.into_iter().map(nowhere).collect(),
            version,
            layout: None,
            moved: BTreeMap::new(),
            home: None,
            branches: BTreeMap::new(),
            next_number: 0,
            looking: false,
            ask: None,
            look_at: now,
            look_pause: PAUSE,
            sent_on: BTreeMap::new(),
            refused: Vec::new(),
            holds: false,
            leaving: false,
            left: None,
            steps: Vec::new(),
        }
    }

    // --- what is heard ---

    pub(super) fn want(&mut self, version: u64, changes: Vec<Change>, now: Instant) {
        self.version = version;
        self.holds = false;
        for change in changes {
            let seat = self.wanted.get(&change.name);
            let branch = match seat {
                Some(Seat::On(at)) => self.branches.get_mut(at),
                Some(Seat::Nowhere(_)) | None => None,
            };
            match (change.verb, branch) {
                // Refused there before, perhaps.
                (Verb::Add, Some(branch)) => branch.changes.push(change),
                (Verb::Add, None) => {
                    self.wanted.insert(change.name, Seat::Nowhere(now));
                }
                (Verb::Remove, branch) => {
                    self.wanted.remove(&change.name);
                    self.sent_on.remove(&change.name);
                    self.refused.retain(|(name, _)| *name != change.name);
                    if let Some(branch) = branch {
                        branch.names.remove(&change.name);
                        branch.changes.push(change);
                    }
                }
            }
        }
    }

    pub(super) fn looked(&mut self, found: Result<(Address, Layout), Fault>) {
        self.looking = false;
        match found {
            Ok((address, layout)) => {
                self.layout = Some(layout);
                self.moved.clear();
                self.home.get_or_insert(address);
            }
            Err(fault) => self.steps.push(Step::Report(Report::Failed(fault))),
        }
    }

    pub(super) fn hear(&mut self, number: u64, report: Report, now: Instant) {
        let mut branches = self.branches.iter_mut();
        let Some((at, branch)) = branches.find(|(_, branch)| branch.number == number) else {
            return;
        };
        let at = at.clone();
        match report {
            Report::Confirmed { version, refused } => {
                branch.confirmed = Some(version);
                branch.has_held = true;
                let ours = refused.into_iter();
                let ours = ours.filter(|(name, _)| branch.names.contains(name));
                self.refused.extend(ours);
            }
            Report::Moved { name, to, since } => {
                if branch.names.remove(&name) {
                    self.holds = false;
                    self.send_on(name, to, at, now);
                    if let Some(since) = since {
                        self.lose(since);
                    }
                }
            }
            Report::Lost { since } => {
                if self.drop_branch(&at, now) {
                    self.lose(since);
                }
            }
            Report::Failed(fault) => {
                if self.drop_branch(&at, now) {
                    self.lose(now);
                }
                self.steps.push(Step::Report(Report::Failed(fault)));
            }
            Report::Left => {
                if self.drop_branch(&at, now) {
                    self.left.get_or_insert(now);
                }
            }
        }
    }

    /// All links have been told to leave; what is not subscribed to by now is not any more.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
    }

    /// It is wanted again after all.
    pub(super) fn stay(&mut self) {
        self.leaving = false;
        if let Some(since) = self.left.take() {
            self.lose(since);
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    pub(super) fn home(&self) -> Option<u64> {
        let home = self.branches.get(self.home.as_ref()?)?;
        Some(home.number)
    }

    /// True: something was subscribed to there.
    fn drop_branch(&mut self, at: &Address, now: Instant) -> bool {
        let Some(branch) = self.branches.remove(at) else {
            return false;
        };
        for name in branch.names {
            self.wanted.insert(name, Seat::Nowhere(now));
        }
        if self.home.as_ref() == Some(at) {
            self.home = None;
        }
        self.steps.push(Step::Close {
            number: branch.number,
        });
        self.forget_layout(None);
        branch.has_held
    }

    fn send_on(&mut self, name: Name, to: Option<Address>, from: Address, now: Instant) {
        let times = self.sent_on.entry(name.clone()).or_default();
        // Two nodes may send it to each other until they have heard of a move.
        let pause = match times.checked_sub(1) {
            None => Duration::ZERO,
            Some(before) => PAUSE * 2u32.pow(before.min(10)),
        };
        *times += 1;
        match to {
            Some(to) => _ = self.moved.insert(slot(&name.bytes), to),
            None => self.forget_layout(Some(from)),
        }
        let not_before = now + pause.min(LONGEST_PAUSE);
        self.wanted.insert(name, Seat::Nowhere(not_before));
    }

    fn forget_layout(&mut self, ask: Option<Address>) {
        self.layout = None;
        self.moved.clear();
        self.ask = ask;
    }

    fn lose(&mut self, since: Instant) {
        self.holds = false;
        self.steps.push(Step::Report(Report::Lost { since }));
    }

    // --- what follows ---

    /// What is to be done now.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<Step> {
        if self.leaving {
            self.tell();
            if self.branches.is_empty() {
                self.steps.push(Step::Report(Report::Left));
            }
            return std::mem::take(&mut self.steps);
        }
        self.place(now);
        self.look(now);
        self.open_home();
        self.tell();
        self.close_idle();
        self.tell_whether_all_holds(now);
        std::mem::take(&mut self.steps)
    }

    /// When there is something to do without anything being heard.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.leaving {
            return None;
        }
        let look = (self.wants_to_look() && !self.looking).then_some(self.look_at);
        let resting = self.wanted.values().filter_map(|seat| match seat {
            Seat::Nowhere(not_before) if !self.wants_to_look() => Some(*not_before),
            Seat::Nowhere(_) | Seat::On(_) => None,
        });
        resting.chain(look).min()
    }

    fn wants_to_look(&self) -> bool {
        self.layout.is_none() || self.home.is_none()
    }

    fn look(&mut self, now: Instant) {
        if !self.wants_to_look() || self.looking || now < self.look_at {
            return;
        }
        self.looking = true;
        self.look_at = now + self.look_pause;
        self.look_pause = (self.look_pause * 2).min(LONGEST_PAUSE);
        let ask = self.ask.take();
        self.steps.push(Step::Look { ask });
    }

    fn place(&mut self, now: Instant) {
        let due = self.wanted.iter().filter_map(|(name, seat)| match seat {
            Seat::Nowhere(not_before) if *not_before <= now => Some(name.clone()),
            Seat::Nowhere(_) | Seat::On(_) => None,
        });
        for name in due.collect::<Vec<_>>() {
            let (Some(layout), Some(home)) = (&self.layout, &self.home) else {
                return;
            };
            let at = match name.kind {
                Kind::ShardChannel if self.shards => {
                    let slot = slot(&name.bytes);
                    self.moved.get(&slot).or_else(|| layout.owner(slot))
                }
                Kind::ShardChannel | Kind::Channel | Kind::Pattern => Some(home),
            };
            let Some(at) = at.cloned() else {
                // Nobody has its slot, by this word.
                self.forget_layout(None);
                return;
            };
            let branch = self.branch(&at);
            branch.names.insert(name.clone());
            branch.changes.push(Change {
                verb: Verb::Add,
                name: name.clone(),
            });
            self.wanted.insert(name, Seat::On(at));
        }
    }

    fn branch(&mut self, at: &Address) -> &mut Branch {
        let next = &mut self.next_number;
        self.branches.entry(at.clone()).or_insert_with(|| {
            *next += 1;
            Branch {
                number: *next,
                names: BTreeSet::new(),
                changes: Vec::new(),
                told: 0,
                confirmed: None,
                has_held: false,
                is_open: false,
            }
        })
    }

    fn open_home(&mut self) {
        if let Some(home) = self.home.clone() {
            self.branch(&home);
        }
    }

    fn tell(&mut self) {
        for (at, branch) in &mut self.branches {
            let changes = std::mem::take(&mut branch.changes);
            if !std::mem::replace(&mut branch.is_open, true) {
                self.steps.push(Step::Open {
                    number: branch.number,
                    at: at.clone(),
                    names: branch.names.clone(),
                });
            } else if !changes.is_empty() {
                branch.told += 1;
                self.steps.push(Step::Tell {
                    number: branch.number,
                    version: branch.told,
                    changes,
                });
            }
        }
    }

    fn close_idle(&mut self) {
        let home = self.home.as_ref();
        let steps = &mut self.steps;
        self.branches.retain(|at, branch| {
            let idle = Some(at) != home && branch.names.is_empty() && branch.is_confirmed();
            if idle {
                let number = branch.number;
                steps.push(Step::Close { number });
            }
            !idle
        });
    }

    fn tell_whether_all_holds(&mut self, now: Instant) {
        let seated = self.wanted.values().all(|seat| matches!(seat, Seat::On(_)));
        let all = self.home.is_some() && seated && self.branches.values().all(Branch::is_confirmed);
        if !all || (self.holds && self.refused.is_empty()) {
            return;
        }
        self.holds = true;
        self.sent_on.clear();
        (self.look_at, self.look_pause) = (now, PAUSE);
        self.steps.push(Step::Report(Report::Confirmed {
            version: self.version,
            refused: std::mem::take(&mut self.refused),
        }));
    }
}

impl Branch {
    fn is_confirmed(&self) -> bool {
        self.changes.is_empty() && self.confirmed == Some(self.told)
    }
}

#[cfg(test)]
mod tests;
