//! The single writer: owns the machine, the connections, the probes and the timers.
//!
//! Its only await is its `select!`. Slow work is spawned and comes back as an input.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backend::{Backend, Fault, FaultKind, Mark, Purpose, Verdict, Wiring};
use super::calls::Calls;
use super::client::validate;
use super::config::Drain;
use super::database::Database;
use super::error::Error;
use super::event::Event;
use super::health::{self, Checks};
use super::live::{Conn, Core, Live, Mail, Routing, STALE, VerbDraft, connect};
use super::machine::{Described, Effect, Input, Machine, MemberKey, Probe, Slot, Ticket, Verb};
use super::membership::Membership;
use super::snapshot::{Snapshot, Status};
use super::tally::Tally;

/// What the supervisor is made of, until it runs.
pub(crate) struct Supervisor<B: Backend> {
    core: Arc<Core<B>>,
    machine: Machine,
    checks: Checks<B>,
    mailbox: mpsc::UnboundedReceiver<Mail<B>>,
    membership: Option<Box<dyn Membership<B::Endpoint>>>,
    members: HashMap<MemberKey, Place<B>>,
    /// Connections of members that have left, until their last call has ended.
    leaving: HashMap<u64, Arc<Conn<B>>>,
    tallies: HashMap<Arc<str>, Arc<Tally>>,
    answers: HashMap<Ticket, oneshot::Sender<Result<(), Error>>>,
    starting: Vec<oneshot::Sender<Result<(), Error>>>,
    tasks: JoinSet<Done<B>>,
    next_key: u64,
    next_ticket: u64,
    next_incarnation: u64,
    /// What is published, so that only a change is.
    live: Option<Arc<Live<B>>>,
}

/// Where a member is, and its connections.
struct Place<B: Backend> {
    database: Arc<Database<B::Endpoint>>,
    traffic: Option<Link<B>>,
    probe: Option<Link<B>>,
    /// Connections that have ended and whose commands may still run at the server.
    marks: Vec<Mark>,
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

/// What was fenced over a fresh connection before its first use.
#[derive(Default)]
struct Fence {
    marks: usize,
    fault: Option<Fault>,
}

/// At most so many ended connections of a member are remembered for fencing: a server that keeps
/// dropping connections has run what was on the oldest of them long ago.
const MARKS: usize = 16;

/// How often a drain looks whether the last call has ended.
const DRAIN_POLL: Duration = Duration::from_millis(5);

impl<B: Backend> Supervisor<B> {
    pub(crate) fn new(
        core: Arc<Core<B>>,
        machine: Machine,
        checks: Checks<B>,
        mailbox: mpsc::UnboundedReceiver<Mail<B>>,
        membership: Option<Box<dyn Membership<B::Endpoint>>>,
        databases: Vec<Database<B::Endpoint>>,
    ) -> Self {
        let mut supervisor = Self {
            core,
            machine,
            checks,
            mailbox,
            membership,
            members: HashMap::new(),
            leaving: HashMap::new(),
            tallies: HashMap::new(),
            answers: HashMap::new(),
            starting: Vec::new(),
            tasks: JoinSet::new(),
            next_key: 0,
            next_ticket: 0,
            next_incarnation: 0,
            live: None,
        };
        for database in databases {
            let described = supervisor.admit(database);
            supervisor.machine.seed_member(described);
        }
        supervisor
    }

    /// Runs until the client is closed, then ends everything it owns.
    pub(crate) async fn run(mut self) {
        // However this ends, by a panic of the machine too: callers are told, not left hanging.
        let _epitaph = Epitaph(self.core.clone());
        if let Some(membership) = self.membership.take() {
            self.watch_membership(membership);
        }
        let stop = self.core.stop.clone();
        let news = self.core.news.clone();
        loop {
            let deadline = self.machine.deadline();
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
                traffic: None,
                probe: None,
                marks: Vec::new(),
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
        let mut succeeded: HashMap<Arc<str>, u64> = HashMap::new();
        for place in self.members.values_mut() {
            if let Some(link) = &mut place.traffic {
                let total = link.conn.calls.succeeded();
                let since = total - std::mem::replace(&mut link.reported, total);
                *succeeded
                    .entry(place.database.failure_domain.clone())
                    .or_default() += since;
            }
        }
        let evidence: Vec<_> = self
            .tallies
            .iter()
            .filter_map(|(domain, tally)| {
                tally.take(succeeded.get(domain).copied().unwrap_or_default())
            })
            .collect();
        for evidence in evidence {
            self.feed(Input::Evidence(evidence));
        }
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
        let slot = place.slot(probe.slot);
        let taken = slot.as_ref().is_some_and(|link| !link.conn.lost.is_lost());
        if taken && !probe.fresh {
            // Somebody else connected meanwhile, and callers may be on that one.
            conn.end(backend);
            return false;
        }
        let (member, slot_name, incarnation) = (probe.member, probe.slot, conn.incarnation);
        let lost = conn.lost.clone();
        if slot_name == Slot::Traffic {
            self.core.swept.add(conn.calls.clone());
        }
        let old = slot.replace(Link { conn, reported: 0 });
        // What was buried since the probe began waits for the next fence.
        place.marks.drain(..fence.marks.min(place.marks.len()));
        if let Some(fault) = fence.fault {
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
        let effects = self.machine.handle(Instant::now(), input);
        for effect in effects {
            self.apply(effect);
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

    /// Shows what the machine has decided, and marks what it has moved away from.
    fn publish(&mut self) {
        let generation = self.machine.generation();
        let serving = self.machine.serving();
        let next = serving.and_then(|key| {
            let place = self.members.get(&key)?;
            let link = place.traffic.as_ref()?;
            let episode = self.machine.episode(key)?;
            Some((
                link.conn.clone(),
                place.database.failure_domain.clone(),
                episode,
            ))
        });
        for (key, place) in &self.members {
            if let Some(tally) = self.tallies.get(&place.database.failure_domain)
                && let Some(episode) = self.machine.episode(*key)
            {
                tally.set_episode(episode);
            }
        }
        let live = next.map(|(conn, domain, episode)| match &self.live {
            Some(live)
                if Arc::ptr_eq(&live.conn, &conn)
                    && live.episode == episode
                    && live.generation == generation =>
            {
                live.clone()
            }
            _ => {
                let tally = self.tally(&domain);
                tally.set_episode(episode);
                Arc::new(Live::new(conn, tally, episode, generation))
            }
        });
        let unchanged = match (&self.live, &live) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        self.core.swept.set_threshold(self.machine.stall_age());
        let active = self.machine.active();
        let snapshot = Arc::new(Snapshot {
            generation,
            active: active
                .and_then(|key| self.members.get(&key))
                .map(|place| place.database.id.clone()),
            status: self.machine.status(),
            members: self.machine.members(),
        });
        let old = std::mem::replace(&mut self.live, live.clone());
        if let Some(live) = live.as_ref().filter(|_| !unchanged) {
            live.conn.calls.watched.store(true, Ordering::Release);
        }
        self.core.routing.send_replace(Arc::new(Routing {
            live,
            status: snapshot.status,
            snapshot,
        }));
        // After the new one can be found: whoever is turned away by the flag finds it.
        if let Some(old) = old.filter(|_| !unchanged) {
            old.set_flag(STALE);
            let still = self
                .live
                .as_ref()
                .is_some_and(|live| Arc::ptr_eq(&live.conn, &old.conn));
            if !still {
                old.conn.calls.watched.store(false, Ordering::Release);
            }
        }
    }

    fn tally(&mut self, domain: &Arc<str>) -> Arc<Tally> {
        self.tallies
            .entry(domain.clone())
            .or_insert_with(|| Arc::new(Tally::new(domain.clone(), self.core.news.clone())))
            .clone()
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

    fn drain(&mut self, member: MemberKey, how: Drain) {
        let Some(link) = self.members.get(&member).and_then(|p| p.traffic.as_ref()) else {
            return;
        };
        let conn = link.conn.clone();
        let in_flight = conn.calls.in_flight();
        if in_flight == 0 {
            return;
        }
        let database = conn.id.clone();
        let _ = self.core.events.send(Event::Draining {
            database: database.clone(),
            in_flight,
        });
        self.tasks.spawn(async move {
            let limit = match how {
                Drain::Leave => None,
                Drain::Cancel(after) => Some(after),
            };
            match drained(&conn.calls, limit).await {
                Drained::Empty => Done::Drained {
                    event: Some(Event::Drained { database }),
                    end: None,
                },
                Drained::Active => Done::Drained {
                    event: None,
                    end: None,
                },
                Drained::TimedOut => Done::Drained {
                    event: Some(Event::DrainTimeout {
                        database,
                        cut: conn.calls.in_flight(),
                    }),
                    end: Some(conn),
                },
            }
        });
    }

    fn forget(&mut self, member: MemberKey) {
        let Some(mut place) = self.members.remove(&member) else {
            return;
        };
        let domain = &place.database.failure_domain;
        let mut others = self.members.values();
        if !others.any(|other| other.database.failure_domain == *domain) {
            self.tallies.remove(domain);
        }
        if let Some(link) = place.probe.take() {
            link.conn.end(&self.core.backend);
        }
        let Some(link) = place.traffic.take() else {
            return;
        };
        let limit = match self.core.config.failover.drain {
            Drain::Leave => None,
            Drain::Cancel(after) => Some(after),
        };
        let conn = link.conn;
        self.leaving.insert(conn.incarnation, conn.clone());
        // What is in flight ends by its own deadline; the connection goes with the last of it.
        self.tasks.spawn(async move {
            drained(&conn.calls, limit).await;
            Done::Drained {
                event: None,
                end: Some(conn),
            }
        });
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
            checks: self.checks.clone(),
            database: place.database.clone(),
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
        self.core.backend.close();
        for place in self.members.values_mut() {
            for link in [place.traffic.take(), place.probe.take()]
                .into_iter()
                .flatten()
            {
                link.conn.end(&self.core.backend);
            }
        }
        for (_, conn) in self.leaving.drain() {
            conn.end(&self.core.backend);
        }
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
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
        if self.marks.len() == MARKS {
            self.marks.remove(0);
        }
        self.marks.push(mark);
    }
}

/// How a drain ended.
enum Drained {
    /// Nothing is in flight any more.
    Empty,
    /// The client has come back to it: there is nothing to drain.
    Active,
    TimedOut,
}

async fn drained(calls: &Calls, limit: Option<Duration>) -> Drained {
    let until = limit.map(|limit| Instant::now() + limit);
    let mut quiet = 0;
    loop {
        if calls.watched.load(Ordering::Acquire) {
            return Drained::Active;
        }
        quiet = if calls.in_flight() == 0 { quiet + 1 } else { 0 };
        // Twice: a call that chose this connection just before may not have registered at the first look.
        if quiet == 2 {
            return Drained::Empty;
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Drained::TimedOut;
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

/// Says that nothing more will come, however the supervisor ended.
struct Epitaph<B: Backend>(Arc<Core<B>>);

impl<B: Backend> Drop for Epitaph<B> {
    fn drop(&mut self) {
        self.0.stop.cancel();
        let last = self.0.current();
        let mut snapshot = Snapshot::clone(&last.snapshot);
        snapshot.status = Status::Closed;
        self.0.routing.send_replace(Arc::new(Routing {
            live: None,
            status: Status::Closed,
            snapshot: Arc::new(snapshot),
        }));
        if let Some(live) = &last.live {
            live.set_flag(STALE);
            live.conn.end(&self.0.backend);
        }
        // In this order: whoever subscribes too late for the event sees that it is over.
        self.0.ended.cancel();
        let _ = self.0.events.send(Event::Closed);
    }
}

// === one probe ===

struct ProbeTask<B: Backend> {
    core: Arc<Core<B>>,
    checks: Checks<B>,
    database: Arc<Database<B::Endpoint>>,
    probe: Probe,
    marks: Vec<Mark>,
    conn: Option<Arc<Conn<B>>>,
    /// The callers' connection, for a server that takes no other.
    spare: Option<Arc<Conn<B>>>,
    /// A connection made by this probe.
    fresh: Option<Arc<Conn<B>>>,
    fence: Fence,
    rtt: Option<Duration>,
    incarnation: u64,
}

impl<B: Backend> ProbeTask<B> {
    async fn run(mut self) -> Done<B> {
        let verdict = if self.probe.round {
            let config = self.core.config.health.clone();
            // The policy wants a closure; the state moves through it one attempt at a time.
            let state = tokio::sync::Mutex::new(&mut self);
            health::round(&config, || async { state.lock().await.attempt().await }).await
        } else {
            self.attempt().await
        };
        Done::Probed {
            probe: self.probe.clone(),
            verdict,
            rtt: self.rtt,
            fresh: self.fresh.take(),
            fence: std::mem::take(&mut self.fence),
        }
    }

    /// One attempt. A connection that turns out to be lost is made anew once.
    async fn attempt(&mut self) -> Verdict {
        let deadline = Instant::now() + self.probe.timeout;
        if let Some(conn) = self.conn.clone().filter(|conn| !conn.lost.is_lost()) {
            let verdict = self.look(&conn, deadline).await;
            let lost = matches!(&verdict, Verdict::Unhealthy(f) if f.kind == FaultKind::Lost);
            if !lost {
                return verdict;
            }
        }
        match self.connect(deadline).await {
            Ok(conn) => self.look(&conn, deadline).await,
            Err(fault) => match self.spare.clone() {
                // It answered, but gives no second connection: a server at its limit of clients.
                Some(spare)
                    if matches!(fault.kind, FaultKind::Lost | FaultKind::State)
                        && !spare.lost.is_lost() =>
                {
                    self.look(&spare, deadline).await
                }
                _ => Verdict::Unhealthy(fault),
            },
        }
    }

    async fn look(&mut self, conn: &Arc<Conn<B>>, deadline: Instant) -> Verdict {
        let started = Instant::now();
        let timeout = deadline.saturating_duration_since(started);
        let backend = &self.core.backend;
        let verdict = health::look(
            backend,
            &self.checks,
            &conn.handle,
            self.probe.depth,
            timeout,
        )
        .await;
        if verdict == Verdict::Healthy {
            self.rtt = Some(started.elapsed());
        }
        verdict
    }

    async fn connect(&mut self, deadline: Instant) -> Result<Arc<Conn<B>>, Fault> {
        if let Some(stillborn) = self.fresh.take() {
            stillborn.end(&self.core.backend);
        }
        let purpose = match self.probe.slot {
            Slot::Traffic => Purpose::Traffic,
            Slot::Probe => Purpose::Probe,
        };
        let wiring = Wiring::new(purpose);
        self.incarnation += 1;
        let limit = deadline.min(Instant::now() + self.core.config.calls.connect_timeout);
        let handle = connect(&self.core.backend, &self.database, &wiring, limit).await?;
        let calls = Calls::new(self.probe.member, wiring.meter, self.core.clock.clone());
        let conn = Arc::new(Conn {
            member: self.probe.member,
            id: self.database.id.clone(),
            database: self.database.clone(),
            incarnation: self.incarnation,
            mark: self.core.backend.mark(&handle),
            handle,
            calls: Arc::new(calls),
            lost: wiring.lost,
        });
        self.fresh = Some(conn.clone());
        self.conn = Some(conn.clone());
        if !self.marks.is_empty() {
            let fence = self.core.backend.fence(&conn.handle, self.marks.clone());
            self.fence.marks = self.marks.len();
            self.fence.fault = match tokio::time::timeout_at(deadline, fence).await {
                Ok(Ok(())) => None,
                Ok(Err(fault)) => Some(fault),
                Err(_) => return Err(Fault::new(FaultKind::Silent, "no answer to the fence")),
            };
        }
        Ok(conn)
    }
}
