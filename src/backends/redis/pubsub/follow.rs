//! The single owner of a subscriber's table: makes the active database agree with it.
//!
//! ```text
//! sinks ── orders ──> Follow ── changes ──> link to the active database ──┐
//!                       ^  └─── changes ──> link to the upcoming one ─────┼─> messages ──> stream
//!                       └────── reports ─── link to the one just left ────┘
//! ```
//!
//! A link keeps one database subscribed; this decides which databases there are links to. The old
//! link goes only after the new one holds, and after a planned switch only once nothing more can
//! come on it: what is published over this client reaches a subscriber of it once.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::redis::{ErrorKind as RedisErrorKind, RedisError, RedisResult, Value};
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::link::{Heard, Link, LinkOrder, Report, Reports};
use super::names::{Change, Kind, Name, Verb};
use super::spread::Spread;
use super::{Item, Notification, Overlap};
use crate::backends::redis::endpoint::RedisEndpoint;
use crate::backends::redis::endpoint::place::Place;
use crate::backends::redis::error::to_redis;
use crate::backends::redis::handle::Redis;
use crate::engine::backend::{Fault, FaultKind};
use crate::engine::circuit::CircuitState;
use crate::engine::database::Database;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::event::Event;
use crate::engine::followers::Follower;
use crate::engine::live::{Conn, Core, Live, Routing};
use crate::engine::machine::MemberKey;

/// A subscriber's table and its links; runs in a task of its own.
pub(super) struct Follow {
    core: Arc<Core<Redis>>,
    follower: Follower,
    orders: mpsc::UnboundedReceiver<Order>,
    out: mpsc::UnboundedSender<Item>,
    reports: Reports,
    overlap: Overlap,
    wanted: BTreeSet<Name>,
    /// The number of the last change to what is wanted.
    version: u64,
    waiting: Vec<Waiting>,
    links: Vec<Known>,
    next_link: u64,
    /// The callers' connection that the client was last seen on.
    origin: Arc<Conn<Redis>>,
    upcoming: Option<MemberKey>,
    /// Since when messages may be missed.
    missing_since: Option<Instant>,
    last_fault: Option<Fault>,
    /// It has been subscribed once: from now on, again is news.
    begun: bool,
}

/// What a sink wants.
pub(super) enum Order {
    Change {
        verb: Verb,
        what: What,
        answer: Answer,
        deadline: Instant,
    },
    /// To know when all that is wanted so far holds.
    Hold {
        answer: Answer,
        deadline: Instant,
    },
    Ping {
        message: Option<Vec<u8>>,
        answer: oneshot::Sender<RedisResult<Value>>,
    },
    Overlap(Overlap),
}

pub(super) enum What {
    Names(Vec<Name>),
    All(Kind),
}

type Answer = oneshot::Sender<RedisResult<()>>;

/// Somebody who waits for a version to hold.
struct Waiting {
    version: u64,
    names: Vec<Name>,
    answer: Answer,
    deadline: Instant,
}

/// A link as it is known here.
struct Known {
    number: u64,
    member: MemberKey,
    orders: mpsc::UnboundedSender<LinkOrder>,
    heard: Heard,
    role: Role,
    /// The version it is subscribed to now, if it is.
    confirmed: Option<u64>,
    /// What its database would not let us subscribe to, and nobody has been told of yet.
    refused: Vec<(Name, RedisError)>,
    _task: AbortOnDropHandle<Option<()>>,
}

enum Role {
    /// To the active database or to the upcoming one.
    Wanted,
    /// Its database has been left according to plan: it leaves once another link holds.
    Left(Arc<Conn<Redis>>),
    /// Its database has failed: it is dropped once another link holds.
    Failed,
    /// It has been told to leave.
    Leaving,
}

impl Follow {
    pub(super) fn new(
        core: Arc<Core<Redis>>,
        origin: &Live<Redis>,
        orders: mpsc::UnboundedReceiver<Order>,
        out: mpsc::UnboundedSender<Item>,
    ) -> Self {
        let follower = core.followers.join();
        Self {
            core,
            follower,
            orders,
            out,
            reports: mpsc::unbounded_channel(),
            overlap: Overlap::default(),
            wanted: BTreeSet::new(),
            version: 0,
            waiting: Vec::new(),
            links: Vec::new(),
            next_link: 0,
            origin: origin.conn.clone(),
            upcoming: None,
            missing_since: None,
            last_fault: None,
            begun: false,
        }
    }

    /// Runs until the stream is dropped or the client is closed.
    pub(super) async fn run(mut self) {
        let core = self.core.clone();
        self.link_to(self.origin.member, self.origin.database.clone());
        let mut seen = core.current();
        loop {
            self.look(&seen);
            let changed = core.routing.wait_for(|now| !Arc::ptr_eq(now, &seen));
            let overdue = self.waiting.iter().map(|waiting| waiting.deadline).min();
            let overdue = async {
                match overdue {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = core.stop.cancelled() => break,
                () = self.out.closed() => break,
                routing = changed => seen = routing,
                Some((number, report)) = self.reports.1.recv() => self.hear(number, report),
                Some(order) = self.orders.recv() => self.obey(order),
                () = overdue => self.give_up(Instant::now()),
            }
        }
        for waiting in self.waiting.drain(..) {
            let closed = to_redis(Error::new(ErrorKind::Closed));
            let _ = waiting.answer.send(Err(closed));
        }
    }

    // --- where the client is ---

    fn look(&mut self, routing: &Routing<Redis>) {
        if let Some(live) = &routing.live {
            match live.conn.member == self.origin.member {
                // Made anew perhaps.
                true => self.origin = live.conn.clone(),
                false => self.follow(live, routing),
            }
        }
        let upcoming = routing.upcoming.as_ref();
        self.upcoming = upcoming.map(|upcoming| upcoming.member);
        if let Some(upcoming) = upcoming {
            match self.overlap {
                Overlap::Both => self.link_to(upcoming.member, upcoming.database.clone()),
                Overlap::Cut => self.follower.is_ready_on(upcoming.member),
            }
            self.tell_ready();
        }
        let wanted = [Some(self.origin.member), self.upcoming];
        self.links.retain(|link| match link.role {
            Role::Wanted => wanted.contains(&Some(link.member)),
            Role::Left(_) | Role::Failed | Role::Leaving => true,
        });
    }

    fn follow(&mut self, live: &Live<Redis>, routing: &Routing<Redis>) {
        let from = std::mem::replace(&mut self.origin, live.conn.clone());
        let mut members = routing.snapshot.members.iter();
        // One that has been removed is well, too: it was left for no fault of its own.
        let well = members
            .find(|member| member.id == from.id)
            .is_none_or(|member| member.circuit == CircuitState::Closed);
        let planned = well && !from.lost.is_lost();
        let mut since = Instant::now();
        if let Some(old) = self.links.iter_mut().find(|l| l.member == from.member) {
            if planned {
                old.role = Role::Left(from);
            } else {
                old.role = Role::Failed;
                since = old.heard.last();
            }
        }
        let overlaps = self.overlap == Overlap::Both;
        if !overlaps {
            self.links.clear();
        }
        self.link_to(self.origin.member, self.origin.database.clone());
        let holds = self.holds();
        if !(planned && holds && overlaps) {
            self.missing_since.get_or_insert(since);
        }
        if holds {
            self.arrived();
        }
    }

    /// A link to this member, subscribed to everything: the one there is, or a new one.
    fn link_to(&mut self, member: MemberKey, database: Arc<Database<RedisEndpoint>>) {
        if let Some(at) = self.links.iter().position(|link| link.member == member) {
            let link = &mut self.links[at];
            let back = match std::mem::replace(&mut link.role, Role::Wanted) {
                Role::Leaving => link.orders.send(LinkOrder::Stay).is_ok(),
                Role::Wanted | Role::Left(_) | Role::Failed => true,
            };
            if back {
                return;
            }
            self.links.remove(at);
        }
        self.next_link += 1;
        let (orders, receiver) = mpsc::unbounded_channel();
        let heard = Heard::now();
        let link = Link {
            number: self.next_link,
            core: self.core.clone(),
            database: database.clone(),
            node: None,
            orders: receiver,
            reports: self.reports.0.clone(),
            out: self.out.clone(),
            heard: heard.clone(),
            wanted: self.wanted.clone(),
            version: self.version,
        };
        let running = match database.endpoint().place() {
            Place::Cluster(seeds) => Spread::new(link, seeds.clone()).run().boxed(),
            Place::At(_) | Place::Sentinel(_) => link.run().boxed(),
        };
        let task = self.core.stop.clone().run_until_cancelled_owned(running);
        self.links.push(Known {
            number: self.next_link,
            member,
            orders,
            heard,
            role: Role::Wanted,
            confirmed: None,
            refused: Vec::new(),
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        });
    }

    /// Whether the link to the active database is subscribed to everything.
    fn holds(&self) -> bool {
        self.active()
            .is_some_and(|link| link.confirmed == Some(self.version))
    }

    fn active(&self) -> Option<&Known> {
        self.links
            .iter()
            .find(|link| link.member == self.origin.member)
    }

    /// The active database has everything: those that were left can go.
    fn arrived(&mut self) {
        self.links.retain_mut(
            |link| match std::mem::replace(&mut link.role, Role::Leaving) {
                Role::Left(conn) => link.orders.send(LinkOrder::Leave(conn)).is_ok(),
                Role::Failed => false,
                Role::Leaving => true,
                Role::Wanted => {
                    link.role = Role::Wanted;
                    true
                }
            },
        );
        let gap = self.missing_since.take().map(|since| since.elapsed());
        if std::mem::replace(&mut self.begun, true) {
            let database = self.origin.id.clone();
            let _ = self.core.events.send(Event::Resubscribed {
                database: database.clone(),
                gap,
            });
            self.tell(Notification::Resubscribed { database, gap });
        }
    }

    fn tell_ready(&self) {
        let Some(upcoming) = self.upcoming else {
            return;
        };
        let link = self.links.iter().find(|link| link.member == upcoming);
        if link.is_some_and(|link| link.confirmed == Some(self.version)) {
            self.follower.is_ready_on(upcoming);
        }
    }

    fn tell(&self, notice: Notification) {
        let _ = self.out.send(Item::Notice(notice));
    }

    // --- what links say ---

    fn hear(&mut self, number: u64, report: Report) {
        let Some(at) = self.links.iter().position(|link| link.number == number) else {
            return;
        };
        let link = &mut self.links[at];
        let wanted = matches!(link.role, Role::Wanted);
        let active = link.member == self.origin.member;
        match report {
            Report::Confirmed { version, refused } => {
                link.confirmed = Some(version);
                link.refused.extend(refused);
                if active {
                    self.confirmed(version);
                }
            }
            Report::Lost { since } => {
                link.confirmed = None;
                // One that has failed is known to miss something since it was left.
                let was_read = !matches!(link.role, Role::Failed);
                if !wanted {
                    self.links.remove(at);
                }
                if was_read && (active || !wanted) {
                    self.missing_since.get_or_insert(since);
                    // One that was on its way out may have taken messages with it.
                    if self.holds() {
                        self.arrived();
                    }
                }
            }
            Report::Failed(fault) if wanted && active => {
                if fault.kind == FaultKind::Denied {
                    self.fail_waiting(&fault);
                }
                self.last_fault = Some(fault);
            }
            Report::Failed(_) if wanted => {}
            Report::Failed(_) => {
                self.links.remove(at);
            }
            // Said of one node, and to the link to its cluster.
            Report::Moved { .. } => {}
            Report::Left => {
                let link = self.links.remove(at);
                if wanted && active {
                    // It had left when it was told to stay.
                    self.missing_since.get_or_insert(link.heard.last());
                    self.link_to(self.origin.member, self.origin.database.clone());
                }
            }
        }
    }

    /// The active database is subscribed to what was wanted as of `version`.
    fn confirmed(&mut self, version: u64) {
        self.last_fault = None;
        let active = self.origin.member;
        let refused = self
            .links
            .iter_mut()
            .filter(|link| link.member == active)
            .flat_map(|link| std::mem::take(&mut link.refused))
            .collect::<Vec<_>>();
        for (name, error) in refused {
            self.refused(name, error);
        }
        let done = self
            .waiting
            .extract_if(.., |waiting| waiting.version <= version);
        for waiting in done {
            let _ = waiting.answer.send(Ok(()));
        }
        if self.holds() && (self.missing_since.is_some() || !self.begun) {
            self.arrived();
        }
    }

    /// Whoever has just asked for it hears so, and it is wanted no longer. Otherwise it was granted
    /// elsewhere, and goes on being tried.
    fn refused(&mut self, name: Name, error: RedisError) {
        let asked = self.waiting.iter().position(|w| w.names.contains(&name));
        match asked {
            Some(at) => {
                let waiting = self.waiting.remove(at);
                let _ = waiting.answer.send(Err(error));
                self.change(Verb::Remove, vec![name]);
            }
            None => self.tell(Notification::Refused {
                kind: name.kind,
                name: name.bytes.to_vec(),
                error,
            }),
        }
    }

    // --- what sinks want ---

    fn obey(&mut self, order: Order) {
        match order {
            Order::Change {
                verb,
                what,
                answer,
                deadline,
            } => {
                let names = match what {
                    What::Names(names) => names,
                    What::All(kind) => {
                        let all = self.wanted.iter().filter(|name| name.kind == kind);
                        all.cloned().collect()
                    }
                };
                if names.is_empty() {
                    let _ = answer.send(match verb {
                        Verb::Add => Err(nothing_named()),
                        Verb::Remove => Ok(()),
                    });
                    return;
                }
                self.change(verb, names.clone());
                self.wait(names, answer, deadline);
            }
            Order::Hold { answer, deadline } => self.wait(Vec::new(), answer, deadline),
            Order::Ping { message, answer } => {
                let Some(link) = self.active() else {
                    let error = Error::new(ErrorKind::Unavailable);
                    let _ = answer.send(Err(to_redis(error)));
                    return;
                };
                let _ = link.orders.send(LinkOrder::Ping { message, answer });
            }
            Order::Overlap(overlap) => self.overlap = overlap,
        }
    }

    fn change(&mut self, verb: Verb, names: Vec<Name>) {
        self.version += 1;
        for name in &names {
            match verb {
                Verb::Add => self.wanted.insert(name.clone()),
                Verb::Remove => self.wanted.remove(name),
            };
        }
        let changes: Vec<_> = names
            .into_iter()
            .map(|name| Change { verb, name })
            .collect();
        for link in &self.links {
            let _ = link.orders.send(LinkOrder::Change {
                version: self.version,
                changes: changes.clone(),
            });
        }
    }

    fn wait(&mut self, names: Vec<Name>, answer: Answer, deadline: Instant) {
        if self.holds() {
            let _ = answer.send(Ok(()));
            return;
        }
        self.waiting.push(Waiting {
            version: self.version,
            names,
            answer,
            deadline,
        });
    }

    fn give_up(&mut self, now: Instant) {
        let overdue = self
            .waiting
            .extract_if(.., |waiting| waiting.deadline <= now);
        for waiting in overdue {
            let mut error = Error::new(ErrorKind::Unavailable).about(&self.origin.id);
            if let Some(fault) = &self.last_fault {
                error = error.caused_by(fault.clone());
            }
            let _ = waiting.answer.send(Err(to_redis(error)));
        }
    }

    fn fail_waiting(&mut self, fault: &Fault) {
        for waiting in self.waiting.drain(..) {
            let error = Error::new(ErrorKind::NotExecuted).about(&self.origin.id);
            let error = error.caused_by(fault.clone());
            let _ = waiting.answer.send(Err(to_redis(error)));
        }
    }
}

fn nothing_named() -> RedisError {
    (RedisErrorKind::Client, "nothing to subscribe to was named").into()
}
