//! The single writer: owns the machine, the connections, the probes and the timers.
//!
//! Its only await is its `select!`. Slow work is spawned and comes back as an input.

mod drain;
mod probe;
mod publish;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backend::{Backend, Fault, FaultKind, Mark, Verdict};
use super::client::validate;
use super::database::Database;
use super::error::Error;
use super::event::Event;
use super::live::{Conn, Core, Live, Mail, VerbDraft};
use super::machine::{
    Described, Effect, Evidence, Input, Machine, MemberKey, Probe, Slot, Ticket, Verb,
};
use super::membership::Membership;
use super::statistics::Counters;
use super::tally::Tally;

use probe::{Fence, ProbeTask};

/// What the supervisor is made of, until it runs.
pub(crate) struct Supervisor<B: Backend> {
    core: Arc<Core<B>>,
    machine: Machine,
    mailbox: mpsc::UnboundedReceiver<Mail<B>>,
    membership: Option<Box<dyn Membership<B::Endpoint>>>,
    members: BTreeMap<MemberKey, Place<B>>,
    /// Connections of members that have left, until their last call has ended.
    leaving: BTreeMap<u64, Arc<Conn<B>>>,
    tallies: BTreeMap<Arc<str>, Arc<Tally>>,
    answers: BTreeMap<Ticket, oneshot::Sender<Result<(), Error>>>,
    starting: Vec<oneshot::Sender<Result<(), Error>>>,
    tasks: JoinSet<Done<B>>,
    next_key: u64,
    next_ticket: u64,
    next_incarnation: u64,
    /// Where all followers already are, for the machine's next input.
    prepared: Option<MemberKey>,
    /// What is published, so that only a change is.
    live: Option<Arc<Live<B>>>,
    /// Scratch space: callers are listened to often, and mostly have nothing to say.
    seen: Vec<Evidence>,
    /// Last, so that it speaks when all the rest is gone: by a close, by a panic of the machine, or
    /// with a runtime that never ran this.
    _epitaph: Epitaph<B>,
}

/// Where a member is, and its connections.
struct Place<B: Backend> {
    database: Arc<Database<B::Endpoint>>,
    counters: Arc<Counters>,
    traffic: Option<Link<B>>,
    probe: Option<Link<B>>,
    /// Connections that have ended and whose commands may still run at the server.
    marks: Vec<Mark>,
    /// More than can be remembered: not all of them will be fenced.
    forgotten: bool,
    /// Calls that were in flight when the last traffic connection was ended.
    cut: usize,
}

struct Link<B: Backend> {
    conn: Arc<Conn<B>>,
    /// Successes already reported to the machine.
    reported: u64,
}

/// What a spawned task comes back with.
enum Done<B: Backend> {
    Probed {
        probe: Probe,
        verdict: Verdict,
        rtt: Option<Duration>,
        fresh: Option<Arc<Conn<B>>>,
        fence: Fence,
    },
    Lost {
        member: MemberKey,
        slot: Slot,
        incarnation: u64,
    },
    /// Every follower is on this member; `None`: they did not get there in time.
    Prepared(Option<MemberKey>),
    Drained {
        event: Option<Event>,
        /// To be ended: its member has left, or its time was up.
        end: Option<Arc<Conn<B>>>,
    },
    Topology(
        Box<dyn Membership<B::Endpoint>>,
        Option<super::membership::Topology<B::Endpoint>>,
    ),
}

/// How long the end waits for tasks that have been aborted.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long followers are watched on their way. The machine waits no longer than this.
const FOLLOWING: Duration = Duration::from_secs(1);

/// At most so many ended connections of a member are remembered for fencing.
const MARKS: usize = 256;

impl<B: Backend> Supervisor<B> {
    pub(crate) fn new(
        core: Arc<Core<B>>,
        machine: Machine,
        mailbox: mpsc::UnboundedReceiver<Mail<B>>,
        membership: Option<Box<dyn Membership<B::Endpoint>>>,
        databases: Vec<Database<B::Endpoint>>,
    ) -> Self {
        let epitaph = Epitaph(core.clone());
        let mut supervisor = Self {
            core,
            machine,
            mailbox,
            membership,
            members: BTreeMap::new(),
            leaving: BTreeMap::new(),
            tallies: BTreeMap::new(),
            answers: BTreeMap::new(),
            starting: Vec::new(),
            tasks: JoinSet::new(),
            next_key: 0,
            next_ticket: 0,
            next_incarnation: 0,
            prepared: None,
            live: None,
            seen: Vec::new(),
            _epitaph: epitaph,
        };
        for database in databases {
            let described = supervisor.admit(database);
            supervisor.machine.seed_member(described);
        }
        supervisor
    }

    /// Runs until the client is closed, then ends everything it owns.
    pub(crate) async fn run(mut self) {
        if let Some(membership) = self.membership.take() {
            self.watch_membership(membership);
        }
        let stop = self.core.stop.clone();
        let news = self.core.news.clone();
        loop {
            let deadline = (self.core.swept).defer(&self.core.clock, self.machine.deadline());
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(mail) = self.mailbox.recv() => self.read(mail),
                Some(done) = self.tasks.join_next() => {
                    if let Ok(done) = done {
                        self.done(done);
                    }
                }
                () = news.notified() => self.listen(),
                () = timer => self.feed(Input::Tick),
            }
        }
        self.shut_down().await;
    }

    // --- inputs ---

    fn read(&mut self, mail: Mail<B>) {
        match mail {
            Mail::Start { lazy, answer } => {
                self.starting.extend(answer);
                self.feed(Input::Start { lazy });
            }
            Mail::Order {
                database,
                verb,
                answer,
            } => {
                let verb = match (verb, database) {
                    (VerbDraft::Ready(verb), _) => verb,
                    (VerbDraft::Add { verify }, Some(database)) => Verb::Add {
                        member: self.admit(database),
                        verify,
                    },
                    (VerbDraft::Add { .. }, None) => return,
                };
                let added = match &verb {
                    Verb::Add { member, .. } => Some(member.key),
                    _ => None,
                };
                let ticket = self.ticket(Some(answer));
                self.feed(Input::Order { ticket, verb });
                self.dismiss_unless_member(added);
            }
            Mail::Bury { member, mark } => {
                if let Some(place) = self.members.get_mut(&member) {
                    place.remember(mark);
                }
            }
            Mail::Topology {
                epoch,
                databases,
                answer,
            } => self.topology(epoch, databases, answer),
        }
    }

    fn topology(
        &mut self,
        epoch: u64,
        databases: Vec<Database<B::Endpoint>>,
        answer: Option<oneshot::Sender<Result<(), Error>>>,
    ) {
        let members: Vec<_> = databases.into_iter().map(|d| self.admit(d)).collect();
        let keys: Vec<_> = members.iter().map(|m| m.key).collect();
        let ticket = self.ticket(answer);
        self.feed(Input::Order {
            ticket,
            verb: Verb::Topology { epoch, members },
        });
        for key in keys {
            self.dismiss_unless_member(Some(key));
        }
    }

    fn ticket(&mut self, answer: Option<oneshot::Sender<Result<(), Error>>>) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        if let Some(answer) = answer {
            self.answers.insert(ticket, answer);
        }
        ticket
    }

    /// Gives a database its key and its place. The machine decides whether it becomes a member.
    fn admit(&mut self, database: Database<B::Endpoint>) -> Described {
        self.next_key += 1;
        let key = MemberKey(self.next_key);
        let described = Described {
            key,
            id: database.id.clone(),
            weight: database.weight,
            domain: database.failure_domain.clone(),
            enabled: database.enabled,
            role: database.role,
            grace_period: database.grace_period,
        };
        self.members.insert(
            key,
            Place {
                database: Arc::new(database),
                counters: Arc::default(),
                traffic: None,
                probe: None,
                marks: Vec::new(),
                forgotten: false,
                cut: 0,
            },
        );
        described
    }

    fn dismiss_unless_member(&mut self, key: Option<MemberKey>) {
        if let Some(key) = key
            && self.machine.episode(key).is_none()
        {
            self.members.remove(&key);
        }
    }

    /// Callers and the sweep have something to say.
    fn listen(&mut self) {
        if self.core.swept.take_overrun() {
            self.feed(Input::Overrun);
        }
        for place in self.members.values_mut() {
            if let Some(link) = &mut place.traffic
                && let Some(tally) = self.tallies.get(&place.database.failure_domain)
            {
                let total = link.conn.calls.succeeded();
                tally.succeeded(total - std::mem::replace(&mut link.reported, total));
            }
        }
        let mut seen = std::mem::take(&mut self.seen);
        seen.extend(self.tallies.values().filter_map(|tally| tally.take()));
        for evidence in seen.drain(..) {
            self.feed(Input::Evidence(evidence));
        }
        self.seen = seen;
        if let Some((member, silence)) = self.core.swept.take_stalled() {
            self.feed(Input::Stalled {
                member,
                age: silence.age,
                overdue: silence.overdue,
            });
        }
    }

    fn done(&mut self, done: Done<B>) {
        match done {
            Done::Probed {
                probe,
                verdict,
                rtt,
                fresh,
                fence,
            } => {
                let installed = fresh.is_some_and(|conn| {
                    let alive = !matches!(verdict, Verdict::Unhealthy(_));
                    self.install(conn, &probe, alive, fence)
                });
                let place = self.members.get_mut(&probe.member);
                if let Some(place) = &place {
                    place.counters.probed(rtt);
                }
                let link = place.and_then(|place| place.slot(probe.slot).as_ref());
                let connected = link.is_some_and(|link| !link.conn.lost.is_lost());
                self.feed(Input::Probed {
                    probe: probe.id,
                    verdict,
                    rtt,
                    connected,
                });
                if installed && self.machine.serving() == Some(probe.member) {
                    // Another connection of the same member: nothing for the machine to decide.
                    self.publish();
                }
            }
            Done::Lost {
                member,
                slot,
                incarnation,
            } => {
                let Some(place) = self.members.get_mut(&member) else {
                    return;
                };
                let link = place.slot(slot);
                if link
                    .as_ref()
                    .is_none_or(|link| link.conn.incarnation != incarnation)
                {
                    return;
                }
                if let Some(link) = link.take() {
                    place.bury(&link.conn, slot);
                    link.conn.end(&self.core.backend);
                }
                self.feed(Input::Lost { member, slot });
            }
            Done::Prepared(member) => {
                if let Some(member) = member {
                    self.feed(Input::Prepared { member });
                }
            }
            Done::Drained { event, end } => {
                if let Some(conn) = end {
                    self.leaving.remove(&conn.incarnation);
                    if let Some(place) = self.members.get_mut(&conn.member) {
                        place.bury(&conn, Slot::Traffic);
                    }
                    conn.end(&self.core.backend);
                }
                if let Some(event) = event {
                    let _ = self.core.events.send(event);
                }
            }
            Done::Topology(membership, topology) => {
                // A membership is the user's: what cannot be is dropped as a whole, as an old epoch is.
                let valid = |t: &super::membership::Topology<_>| validate(&t.databases).is_ok();
                if let Some(topology) = topology {
                    if !valid(&topology) {
                        return self.watch_membership(membership);
                    }
                    self.topology(topology.epoch, topology.databases, None);
                    self.watch_membership(membership);
                }
            }
        }
    }

    /// Gives a fresh connection its slot; false if it is not wanted there.
    fn install(&mut self, conn: Arc<Conn<B>>, probe: &Probe, alive: bool, fence: Fence) -> bool {
        let backend = &self.core.backend;
        let Some(place) = self.members.get_mut(&probe.member).filter(|_| alive) else {
            conn.end(backend);
            return false;
        };
        if probe.slot == Slot::Probe && self.machine.active() != Some(probe.member) {
            // Left meanwhile: a standby has one connection.
            conn.end(backend);
            return false;
        }
        let slot = place.slot(probe.slot);
        let taken = slot.as_ref().is_some_and(|link| !link.conn.lost.is_lost());
        if taken && !probe.fresh {
            // Somebody else connected meanwhile, and callers may be on that one.
            conn.end(backend);
            return false;
        }
        let (member, slot_name, incarnation) = (probe.member, probe.slot, conn.incarnation);
        let lost = conn.lost.clone();
        let old = slot.replace(Link { conn, reported: 0 });
        // What was buried since the probe began waits for the next fence.
        place.marks.drain(..fence.marks.min(place.marks.len()));
        let forgotten = std::mem::take(&mut place.forgotten)
            .then(|| Fault::new(FaultKind::Other, "too many connections to fence them all"));
        if let Some(fault) = fence.fault.or(forgotten) {
            let _ = self.core.events.send(Event::Unfenced {
                database: place.database.id.clone(),
                cause: fault.what,
            });
        }
        if let Some(old) = old {
            place.bury(&old.conn, slot_name);
            old.conn.end(backend);
        }
        self.tasks.spawn(async move {
            lost.wait().await;
            Done::Lost {
                member,
                slot: slot_name,
                incarnation,
            }
        });
        true
    }

    // --- effects ---

    fn feed(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            for effect in self.machine.handle(Instant::now(), input) {
                self.apply(effect);
            }
            let prepared = self.prepared.take();
            next = prepared.map(|member| Input::Prepared { member });
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Publish => self.publish(),
            Effect::Abort { member, slot } => self.abort(member, slot),
            Effect::Emit(mut event) => {
                self.count_in_flight(&mut event);
                let _ = self.core.events.send(event);
            }
            Effect::Probe(probe) => self.probe(probe),
            Effect::Judged {
                domain,
                refusals,
                cornered,
            } => {
                if let Some(tally) = self.tallies.get(&domain) {
                    tally.judge(refusals, cornered);
                }
            }
            Effect::Prepare { member } => self.prepare(member),
            Effect::Drain { member, how } => self.drain(member, how),
            Effect::Forget { member } => self.forget(member),
            Effect::Answer { ticket, result } => {
                if let Some(answer) = self.answers.remove(&ticket) {
                    let _ = answer.send(result);
                }
            }
            Effect::Started(result) => {
                for answer in self.starting.drain(..) {
                    let _ = answer.send(result.clone());
                }
            }
        }
    }

    fn prepare(&mut self, member: MemberKey) {
        if self.core.followers.are_on(member) {
            self.prepared = Some(member);
            return;
        }
        let followers = self.core.followers.clone();
        self.tasks.spawn(async move {
            let there = followers.wait_for(member);
            let arrived = tokio::time::timeout(FOLLOWING, there).await;
            Done::Prepared(arrived.is_ok().then_some(member))
        });
    }

    fn abort(&mut self, member: MemberKey, slot: Slot) {
        let Some(place) = self.members.get_mut(&member) else {
            return;
        };
        if let Some(link) = place.slot(slot).take() {
            place.bury(&link.conn, slot);
            link.conn.end(&self.core.backend);
        }
    }

    /// Only the supervisor can count what is in flight on the database that was left.
    fn count_in_flight(&self, event: &mut Event) {
        if let Event::ActiveChanged {
            from: Some(from),
            in_flight,
            ..
        } = event
        {
            *in_flight = self
                .members
                .values()
                .find(|place| place.database.id == *from)
                .map_or(0, |place| match &place.traffic {
                    Some(link) => link.conn.calls.in_flight(),
                    // A failover ends the connection before it is told.
                    None => place.cut,
                });
        }
    }

    // --- probes ---

    fn probe(&mut self, probe: Probe) {
        let Some(place) = self.members.get_mut(&probe.member) else {
            return;
        };
        let existing = place
            .slot(probe.slot)
            .as_ref()
            .map(|link| link.conn.clone())
            .filter(|conn| !conn.lost.is_lost() && !probe.fresh);
        let marks = match probe.slot {
            Slot::Traffic => place.marks.clone(),
            Slot::Probe => Vec::new(),
        };
        self.next_incarnation += 2;
        let task = ProbeTask {
            core: self.core.clone(),
            checks: self.core.checks.list(),
            database: place.database.clone(),
            counters: place.counters.clone(),
            probe: probe.clone(),
            marks,
            conn: existing,
            spare: (probe.slot == Slot::Probe)
                .then(|| place.traffic.as_ref().map(|link| link.conn.clone()))
                .flatten(),
            fresh: None,
            fence: Fence::default(),
            rtt: None,
            incarnation: self.next_incarnation,
        };
        self.tasks.spawn(async move {
            let done = AssertUnwindSafe(task.run()).catch_unwind().await;
            done.unwrap_or_else(|_| Done::Probed {
                probe,
                verdict: Verdict::Unhealthy(Fault::new(FaultKind::Other, "the backend panicked")),
                rtt: None,
                fresh: None,
                fence: Fence::default(),
            })
        });
    }

    fn watch_membership(&mut self, mut membership: Box<dyn Membership<B::Endpoint>>) {
        self.tasks.spawn(async move {
            let topology = membership.next().await;
            Done::Topology(membership, topology)
        });
    }

    // --- the end ---

    async fn shut_down(&mut self) {
        self.core.say_closed();
        self.core.backend.close();
        for place in self.members.values_mut() {
            for link in [place.traffic.take(), place.probe.take()]
                .into_iter()
                .flatten()
            {
                link.conn.end(&self.core.backend);
            }
        }
        for conn in std::mem::take(&mut self.leaving).into_values() {
            conn.end(&self.core.backend);
        }
        self.tasks.abort_all();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // A check of the user's that blocks its thread cannot be ended; nobody waits for it.
        let _ = tokio::time::timeout(PATIENCE, ended).await;
    }
}

impl<B: Backend> Place<B> {
    fn slot(&mut self, slot: Slot) -> &mut Option<Link<B>> {
        match slot {
            Slot::Traffic => &mut self.traffic,
            Slot::Probe => &mut self.probe,
        }
    }

    /// Remembers an ended connection of the callers', to be fenced before the next one is used.
    fn bury(&mut self, conn: &Conn<B>, slot: Slot) {
        if slot == Slot::Traffic {
            self.cut = conn.calls.in_flight();
            if let Some(mark) = &conn.mark {
                self.remember(mark.clone());
            }
        }
    }

    fn remember(&mut self, mark: Mark) {
        self.marks.push(mark);
        if self.marks.len() > MARKS {
            self.marks.remove(0);
            self.forgotten = true;
        }
    }
}

/// Says that nothing more will come, however the supervisor ended.
struct Epitaph<B: Backend>(Arc<Core<B>>);

impl<B: Backend> Drop for Epitaph<B> {
    fn drop(&mut self) {
        self.0.stop.cancel();
        self.0.say_closed();
        // In this order: whoever subscribes too late for the event sees that it is over.
        self.0.ended.cancel();
        let _ = self.0.events.send(Event::Closed);
    }
}
