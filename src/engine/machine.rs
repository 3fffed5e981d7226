//! Every routing decision, and nothing else: (state, now, input) -> effects.
//!
//! The machine does no I/O, asks for no time and starts no task; its jitter comes from a generator
//! seeded at construction. The same seed and the same inputs give the same effects, so a property
//! test drives it through outages by the thousand.
//!
//! How it thinks, after every input, in this order (`settle`):
//!
//! ```text
//! timers       dwell over -> half-open; forced time over; standing trouble forgotten
//! route        who should serve, is it proven, switch          (machine/routing.rs)
//! outage       nobody can serve: say so, prove the last resorts (machine/routing.rs)
//! probes       recovery attempts, reconnects, rounds that are due (machine/probing.rs)
//! ```
//!
//! It is not `Clone`: a replay rebuilds it from the seed.

mod directives;
mod evidence;
mod members;
mod outage;
mod preparing;
mod probing;
mod routing;
#[cfg(test)]
mod tests;
mod trouble;
mod verbs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backend::{Depth, NotServing, Verdict};
use super::circuit::CircuitState;
use super::config::{Config, DetectorConfig, Drain};
use super::database::{DatabaseId, Role, Weight};
use super::detector::{FailureDetector, Observed, SlidingWindow};
use super::error::{Error, ErrorKind};
use super::event::{Event, Reason};
use super::snapshot::{MemberView, Obstacle, Status};
use super::strategy::FailoverStrategy;

use directives::Wish;
use members::{Domain, Member};
use outage::Outage;
use preparing::Preparation;
use probing::Flight;
use routing::{Order, Plan};
use trouble::Trouble;

/// Names a member for as long as it is one. An id that leaves and comes back is another member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MemberKey(pub u64);

/// Names one probe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ProbeId(pub u64);

/// Names an operator's order that waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// Which connection of a member.
///
/// Every member has one for traffic, kept warm while it stands by. Only the active one has a second
/// one for probes, because a probe must not wait behind the callers' commands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Slot {
    /// The callers' connection.
    Traffic,
    /// The supervisor's own.
    Probe,
}

/// What a member is, without where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// The key given to it by the supervisor.
    pub key: MemberKey,
    /// Its name.
    pub id: DatabaseId,
    /// Its weight.
    pub weight: Weight,
    /// Its failure domain.
    pub domain: Arc<str>,
    /// Whether it may serve at all.
    pub enabled: bool,
    /// What it may be used for.
    pub role: Role,
    /// Its own grace period, if it has one.
    pub grace_period: Option<Duration>,
}

/// What can happen.
#[derive(Clone, Debug)]
pub enum Input {
    /// Look at all members. With `lazy`, nobody waits for the start policy.
    Start {
        /// Start without a policy.
        lazy: bool,
    },
    /// A probe ended.
    Probed {
        /// Which one.
        probe: ProbeId,
        /// What it found.
        verdict: Verdict,
        /// The time a healthy check took, connecting not included.
        rtt: Option<Duration>,
        /// Whether the connection it was asked over stands now.
        connected: bool,
    },
    /// A connection ended by itself.
    Lost {
        /// Whose.
        member: MemberKey,
        /// Which one.
        slot: Slot,
    },
    /// Commands on the member's traffic connection are unanswered.
    Stalled {
        /// Whose.
        member: MemberKey,
        /// No byte has come for so long although an answer is due. Zero: one has come after all.
        age: Duration,
        /// Longer than the oldest of them was willing to wait.
        overdue: bool,
    },
    /// Our own timing cannot be trusted: silence since the last input proves nothing.
    Overrun,
    /// What the callers' traffic showed since the last time.
    Evidence(Evidence),
    /// Everybody who follows the active member is on this one, too. Answers [`Effect::Prepare`].
    Prepared {
        /// Which one.
        member: MemberKey,
    },
    /// An operator, a server's directive or a topology has something to say.
    Order {
        /// Where the answer goes.
        ticket: Ticket,
        /// What.
        verb: Verb,
    },
    /// The time asked for by [`Machine::deadline`] has come.
    Tick,
}

/// What the callers' traffic on one failure domain showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The domain.
    pub domain: Arc<str>,
    /// The episode under which the calls were started; another one's are dropped.
    pub episode: u64,
    /// How calls ended.
    pub seen: Observed,
    /// A reply that says at once that the server does not serve: its code.
    pub at_once: Option<&'static str>,
    /// Replies that say so if they persist: how many, and the last code.
    pub repeated: u32,
    /// The code of the last of them.
    pub repeated_code: Option<&'static str>,
    /// A write succeeded in between.
    pub wrote: bool,
    /// Calls timed out on a connection that gave no byte meanwhile. That speaks of the connection
    /// once, however many calls were on it, and asking tells whether it speaks of the database.
    pub silent: bool,
    /// Credentials were refused.
    pub denied: bool,
    /// Refusals counted so far, of any kind; echoed by [`Effect::Judged`].
    pub refusals: u64,
}

/// What an operator, a server or a topology can order.
#[derive(Clone, Debug)]
pub enum Verb {
    /// Add a member; with `verify`, only if it answers.
    Add {
        /// What it is.
        member: Described,
        /// Prove it first.
        verify: bool,
    },
    /// Remove a member; the active one is left first.
    Remove(DatabaseId),
    /// Change a weight.
    SetWeight(DatabaseId, Weight),
    /// Let a member serve, or stop it from serving.
    SetEnabled(DatabaseId, bool),
    /// Prove, switch and stay.
    SwitchTo(DatabaseId),
    /// Switch now, whatever its circuit says.
    Force(DatabaseId, Option<Duration>),
    /// Forget pins, directives and forcing.
    Unpin,
    /// Return to heavier databases by itself, or not.
    SetAutoFallback(bool),
    /// Close the circuit and forget its history.
    Reset(DatabaseId),
    /// Open the circuit until it is reset.
    ForceOpen(DatabaseId),
    /// The server says who serves. Compare-and-set on the generation.
    Direct {
        /// Who serves.
        to: DatabaseId,
        /// The generation at which the news was learnt.
        observed: u64,
        /// Why, for people.
        cause: String,
    },
    /// The active one says that it does not serve. Compare-and-set on the generation.
    StandDown {
        /// Who says so.
        database: DatabaseId,
        /// The generation at which it was asked.
        observed: u64,
        /// What it says.
        what: NotServing,
    },
    /// A topology replaces the set of members in one step.
    Topology {
        /// Orders topologies; an older one is refused.
        epoch: u64,
        /// All members. Those with a known id keep their state.
        members: Vec<Described>,
    },
}

/// What must be done about it.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Show the new state. First, so that whoever is woken by the rest finds it.
    Publish,
    /// End a connection.
    Abort {
        /// Whose.
        member: MemberKey,
        /// Which one.
        slot: Slot,
    },
    /// Tell the listeners.
    Emit(Event),
    /// Ask a member.
    Probe(Probe),
    /// Calls refused by a server's state need wait no longer.
    Judged {
        /// The domain.
        domain: Arc<str>,
        /// Refusals that were considered.
        refusals: u64,
        /// Nobody else can serve.
        cornered: bool,
    },
    /// A planned switch to this member comes next: let those who follow the active one, such as
    /// subscribers, go ahead. Answered by [`Input::Prepared`]; the switch does not wait for it long.
    Prepare {
        /// Which one.
        member: MemberKey,
    },
    /// A planned switch left this member: see its calls out.
    Drain {
        /// Which one.
        member: MemberKey,
        /// What to do with them.
        how: Drain,
    },
    /// A member is gone for good.
    Forget {
        /// Which one.
        member: MemberKey,
    },
    /// The answer to an order.
    Answer {
        /// Whose.
        ticket: Ticket,
        /// What.
        result: Result<(), Error>,
    },
    /// The start has succeeded or failed.
    Started(Result<(), Error>),
}

/// A probe to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its name.
    pub id: ProbeId,
    /// Whom to ask.
    pub member: MemberKey,
    /// Over which connection; made if there is none.
    pub slot: Slot,
    /// A whole round of attempts instead of one.
    pub round: bool,
    /// How deep to look.
    pub depth: Depth,
    /// All checks, not just whether it answers.
    pub thorough: bool,
    /// Look also whether another connection can be made. That none can is a reservation.
    pub anew: bool,
    /// Over a connection of its own, because the one at hand may be privileged by age.
    pub fresh: bool,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// Makes the detector of a failure domain.
type NewDetector = Box<dyn Fn(&DetectorConfig) -> Box<dyn FailureDetector> + Send>;

/// Decides. See the module.
pub struct Machine {
    config: Config,
    strategy: Arc<dyn FailoverStrategy>,
    /// What was active when another client was last heard of: the first choice, if it serves.
    hint: Option<DatabaseId>,
    detectors: NewDetector,
    required_role: Role,
    rng: fastrand::Rng,

    now: Instant,
    out: Out,

    /// In the order in which they joined, which is that of their keys.
    members: Vec<Member>,
    domains: BTreeMap<Arc<str>, Domain>,
    flights: BTreeMap<ProbeId, Flight>,
    next_probe: u64,
    topology_epoch: u64,

    generation: u64,
    active: Option<MemberKey>,
    /// The last one that was announced as active, a member still or not.
    announced: Option<DatabaseId>,
    order: Option<Order>,
    plan: Option<Plan>,
    wish: Option<Wish>,
    preparation: Option<Preparation>,
    trouble: Option<Trouble>,
    /// When the active one began to say that it does not serve: what others said of that before is history.
    turned: Option<Instant>,
    /// When the first proof of the current search came; a heavier one is waited for from here.
    first_proof: Option<Instant>,
    outage: Option<Outage>,
    phase: Phase,
    auto_fallback: bool,
    /// An operator changed what is wanted: honour it even while auto-fallback is off.
    wanted: bool,
    next_fallback: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// Waiting for the start policy until then.
    Starting(Instant),
    /// The policy is met; the first database is being chosen.
    Choosing(Instant),
    Running,
}

/// Effects in the making; flattened in an order that nobody can get wrong.
#[derive(Default)]
struct Out {
    publish: bool,
    aborts: Vec<Effect>,
    events: Vec<Event>,
    others: Vec<Effect>,
    probes: Vec<Probe>,
    answers: Vec<Effect>,
}

// === impl Machine ===

impl Machine {
    /// A machine without members. `seed` decides every jitter.
    pub fn new(
        config: Config,
        strategy: Arc<dyn FailoverStrategy>,
        detectors: impl Fn(&DetectorConfig) -> Box<dyn FailureDetector> + Send + 'static,
        required_role: Role,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let next_fallback = now + jittered(&mut rng, config.failover.fallback_interval);
        Self {
            auto_fallback: config.failover.auto_fallback,
            config,
            strategy,
            hint: None,
            detectors: Box::new(detectors),
            required_role,
            rng,
            now,
            out: Out::default(),
            members: Vec::new(),
            domains: BTreeMap::new(),
            flights: BTreeMap::new(),
            next_probe: 0,
            topology_epoch: 0,
            generation: 0,
            active: None,
            announced: None,
            order: None,
            plan: None,
            wish: None,
            preparation: None,
            trouble: None,
            turned: None,
            first_proof: None,
            outage: None,
            phase: Phase::Idle,
            wanted: false,
            next_fallback,
        }
    }

    /// A machine with the default policies.
    pub fn with_defaults(config: Config, seed: u64, now: Instant) -> Self {
        Self::new(
            config,
            Arc::new(super::strategy::HighestWeight),
            |config| Box::new(SlidingWindow::new(config.clone())),
            Role::Primary,
            seed,
            now,
        )
    }

    /// Adds a member before the start, without an event.
    pub fn seed_member(&mut self, member: Described) {
        self.join(member);
    }

    /// What is chosen first where several serve, before the start. Without effect afterwards.
    pub fn hint(&mut self, database: Option<DatabaseId>) {
        self.hint = database;
    }

    /// Takes what happened and says what to do about it, in the order in which to do it.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        let now = self.now.max(now);
        // Before time moves on: what is due by then has not been acted upon.
        let is_due =
            matches!(input, Input::Evidence(_)) && self.deadline().is_some_and(|at| at <= now);
        self.now = now;
        match input {
            Input::Start { lazy } => self.start(lazy),
            Input::Probed {
                probe,
                verdict,
                rtt,
                connected,
            } => self.probed(probe, verdict, rtt, connected),
            Input::Lost { member, slot } => self.lost(member, slot),
            Input::Stalled {
                member,
                age,
                overdue,
            } => self.stalled(member, age, overdue),
            Input::Overrun => self.overrun(),
            Input::Evidence(evidence) => {
                let eventful = self.evidence(&evidence);
                if !eventful && !is_due {
                    return Vec::new();
                }
            }
            Input::Prepared { member } => self.prepared(member),
            Input::Order { ticket, verb } => self.obey(ticket, verb),
            Input::Tick => {}
        }
        self.settle();
        self.out.flatten()
    }

    /// When to call [`Machine::handle`] with [`Input::Tick`] at the latest, if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        if self.phase == Phase::Idle {
            return None;
        }
        let start = match self.phase {
            Phase::Starting(until) | Phase::Choosing(until) => Some(until),
            Phase::Idle | Phase::Running => None,
        };
        [start, self.routing_deadline(), self.probing_deadline()]
            .into_iter()
            .flatten()
            .chain(self.domains.values().filter_map(|d| d.circuit.until()))
            .min()
    }

    fn settle(&mut self) {
        if self.phase == Phase::Idle {
            return;
        }
        self.timers();
        self.check_policy();
        if !matches!(self.phase, Phase::Starting(_)) {
            self.route();
            self.watch_outage();
            self.check_chosen();
        }
        self.schedule_probes();
    }

    fn timers(&mut self) {
        let now = self.now;
        let due: Vec<_> = self
            .domains
            .iter()
            .filter(|(_, d)| d.circuit.until().is_some_and(|until| until <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for domain in due {
            self.half_open(&domain, Reason::Recovery, "the dwell is over");
        }
        if now >= self.next_fallback {
            self.next_fallback =
                now + jittered(&mut self.rng, self.config.failover.fallback_interval);
        }
        self.expire_routing();
    }

    // --- starting ---

    fn start(&mut self, lazy: bool) {
        if self.phase != Phase::Idle {
            return;
        }
        self.phase = if lazy {
            Phase::Running
        } else {
            Phase::Starting(self.now + self.config.start.deadline)
        };
        // A lazy client may have slept past the first rounds; the attempts below stand in for them.
        let interval = self.config.health.interval;
        for member in self.members.iter_mut().filter(|m| m.next_round <= self.now) {
            member.next_round = self.now + interval.mul_f64(0.5 + 0.5 * self.rng.f64());
        }
        let keys: Vec<_> = self.members.iter().map(|m| m.key).collect();
        for key in keys {
            self.attempt(key, Slot::Traffic, Reason::HealthCheck);
        }
        self.out.publish = true;
    }

    fn check_policy(&mut self) {
        let Phase::Starting(until) = self.phase else {
            return;
        };
        let mut counts = super::config::StartCounts {
            available: 0,
            failed: 0,
            pending: 0,
        };
        let overdue = self.now >= until;
        for member in self.members.iter().filter(|m| m.joining.is_none()) {
            match &member.health {
                Some(verdict) if verdict.serves() => counts.available += 1,
                Some(_) => counts.failed += 1,
                None if overdue => counts.failed += 1,
                None => counts.pending += 1,
            }
        }
        let policy = self.config.start.policy;
        let decided = guarded(|| policy.decide(counts)).unwrap_or_else(|| {
            self.complain("start policy");
            crate::engine::config::StartPolicy::default().decide(counts)
        });
        match decided {
            Some(true) => self.phase = Phase::Choosing(until),
            Some(false) => {
                let mut error = Error::new(ErrorKind::NotStarted);
                if let Some((id, fault)) = self.members.iter().find_map(|m| match &m.health {
                    Some(Verdict::Unhealthy(fault)) => Some((&m.id, fault.clone())),
                    _ => None,
                }) {
                    error = error.about(id).caused_by(fault);
                }
                self.run(Err(error));
            }
            None => {}
        }
    }

    fn check_chosen(&mut self) {
        let Phase::Choosing(until) = self.phase else {
            return;
        };
        if self.active.is_some() {
            self.run(Ok(()));
        } else if self.now >= until {
            self.run(Err(Error::new(ErrorKind::NotStarted)));
        }
    }

    /// The start is over, which the snapshot shows before anybody is told.
    fn run(&mut self, started: Result<(), Error>) {
        self.phase = Phase::Running;
        self.out.publish = true;
        self.out.others.push(Effect::Started(started));
    }

    // --- what others see ---

    /// How often the active member has changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The member that is served from, or would be if it could.
    pub fn active(&self) -> Option<MemberKey> {
        self.active
    }

    /// The active member, if calls may be sent to it. Its connection may still be missing.
    pub fn serving(&self) -> Option<MemberKey> {
        self.active.filter(|&key| self.may_serve(key))
    }

    /// What a call that finds no connection has to expect.
    pub fn status(&self) -> Status {
        match (&self.outage, self.phase) {
            (_, Phase::Idle | Phase::Starting(_) | Phase::Choosing(_)) => Status::Starting,
            (Some(outage), Phase::Running) if outage.gave_up => Status::GaveUp,
            _ if self.serving().is_some() => Status::Serving,
            _ => Status::Waiting,
        }
    }

    /// The episode of the failure domain of a member.
    pub fn episode(&self, key: MemberKey) -> Option<u64> {
        let member = self.member(key)?;
        Some(self.domain_of(member).circuit.episode())
    }

    /// No byte for so long on a connection that owes an answer is a reason to ask.
    pub fn stall_age(&self) -> Duration {
        let floor = self
            .active
            .and_then(|key| self.member(key))
            .map_or(Duration::ZERO, Member::slow);
        self.config.sensitivity.age().max(floor)
    }

    /// Every member with what keeps it from serving.
    pub fn members(&self) -> Vec<MemberView> {
        self.members
            .iter()
            .map(|member| {
                let circuit = &self.domain_of(member).circuit;
                MemberView {
                    id: member.id.clone(),
                    weight: member.weight,
                    role: member.role,
                    enabled: member.enabled,
                    failure_domain: member.domain.to_string(),
                    active: self.active == Some(member.key),
                    circuit: circuit.state(),
                    circuit_opens_until: circuit.until(),
                    verdict: member.health.clone(),
                    connected: member.traffic,
                    round_trip: member.rtt,
                    obstacles: self.obstacles(member),
                }
            })
            .collect()
    }

    fn obstacles(&self, member: &Member) -> Vec<Obstacle> {
        let circuit = &self.domain_of(member).circuit;
        let mut obstacles = Vec::new();
        if !member.enabled {
            obstacles.push(Obstacle::Disabled);
        }
        if member.removing.is_some() {
            obstacles.push(Obstacle::Leaving);
        }
        if member.joining.is_some() {
            obstacles.push(Obstacle::Joining);
        }
        match (circuit.state(), circuit.until()) {
            (CircuitState::Closed, _) => {}
            (CircuitState::Open, Some(until)) => obstacles.push(Obstacle::CircuitOpen {
                left: Some(until.saturating_duration_since(self.now)),
            }),
            (CircuitState::Open, None) => {
                obstacles.push(Obstacle::CircuitOpen { left: None });
            }
            (CircuitState::HalfOpen, _) => obstacles.push(Obstacle::Recovering),
        }
        match &member.health {
            Some(Verdict::Standby) => obstacles.push(Obstacle::Standby),
            Some(Verdict::Suspended) => obstacles.push(Obstacle::Suspended),
            Some(Verdict::Unhealthy(_)) if circuit.is_closed() && !self.is_ready(member) => {
                obstacles.push(Obstacle::Refusing);
            }
            Some(Verdict::Degraded(fault)) if self.active != Some(member.key) => {
                obstacles.push(Obstacle::Degraded {
                    cause: fault.what.clone(),
                });
            }
            Some(Verdict::Healthy | Verdict::Degraded(_) | Verdict::Unhealthy(_)) | None => {}
        }
        if member.weight.is_zero() {
            obstacles.push(Obstacle::WeightZero);
        }
        if !self.fits_role(member) {
            obstacles.push(Obstacle::Role);
        }
        if let Some(order) = &self.order
            && order.target != member.key
            && let Some(target) = self.member(order.target)
        {
            obstacles.push(Obstacle::Ordered {
                to: target.id.clone(),
            });
        }
        obstacles
    }

    // --- finding things ---

    fn member(&self, key: MemberKey) -> Option<&Member> {
        let index = self.members.binary_search_by_key(&key, |m| m.key).ok()?;
        Some(&self.members[index])
    }

    fn member_mut(&mut self, key: MemberKey) -> Option<&mut Member> {
        let index = self.members.binary_search_by_key(&key, |m| m.key).ok()?;
        Some(&mut self.members[index])
    }

    fn by_id(&self, id: &DatabaseId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == *id)
    }

    fn domain_of(&self, member: &Member) -> &Domain {
        &self.domains[&member.domain]
    }

    fn active_domain(&self) -> Option<Arc<str>> {
        Some(self.member(self.active?)?.domain.clone())
    }

    fn emit(&mut self, event: Event) {
        self.out.publish = true;
        self.out.events.push(event);
    }

    /// Once is enough, however often a policy was asked.
    fn complain(&mut self, policy: &'static str) {
        let event = Event::PolicyPanicked { policy };
        if !self.out.events.contains(&event) {
            self.emit(event);
        }
    }
}

/// A policy of the user's, called so that its panic harms nobody. `None` if it panicked.
fn guarded<T>(policy: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(policy)).ok()
}

/// A span of time within 10 % of the one given.
fn jittered(rng: &mut fastrand::Rng, span: Duration) -> Duration {
    span.mul_f64(0.9 + 0.2 * rng.f64())
}

impl Out {
    fn flatten(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if std::mem::take(&mut self.publish) {
            effects.push(Effect::Publish);
        }
        effects.append(&mut self.aborts);
        effects.extend(self.events.drain(..).map(Effect::Emit));
        effects.append(&mut self.others);
        effects.extend(self.probes.drain(..).map(Effect::Probe));
        effects.append(&mut self.answers);
        effects
    }
}
