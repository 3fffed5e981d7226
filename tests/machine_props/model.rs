//! What an observer knows who sees inputs, effects and the published state, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use multidb::engine::backend::Verdict;
use multidb::engine::circuit::CircuitState;
use multidb::engine::config::Config;
use multidb::engine::database::{DatabaseId, Role};
use multidb::engine::event::Event;
use multidb::engine::machine::{
    Described, Effect, Input, Machine, MemberKey, Probe, ProbeId, Slot, Ticket, Verb,
};
use multidb::engine::snapshot::MemberView;
use tokio::time::Instant;

/// How things stand between two inputs.
pub(crate) struct Shot {
    pub views: Vec<MemberView>,
    pub active: Option<MemberKey>,
    pub serving: Option<MemberKey>,
    pub generation: u64,
    episodes: HashMap<MemberKey, u64>,
}

pub(crate) struct Known {
    pub member: Described,
    /// The order that waits for its verification.
    pub joining: Option<Ticket>,
    /// The orders that wait for its removal.
    pub leaving: BTreeSet<Ticket>,
}

pub(crate) struct Asked {
    pub probe: Probe,
    pub at: Instant,
    pub domain: Option<Arc<str>>,
    pub episode: Option<u64>,
    /// Speaks of a connection, not of a database.
    pub idle: bool,
}

/// An answer that has just come.
pub(crate) struct Answered {
    pub asked: Asked,
    pub verdict: Verdict,
    /// Another episode has begun since it was asked, or its member has gone.
    pub stale: bool,
}

pub(crate) struct Model {
    pub config: Config,
    pub now: Instant,
    pub last: Shot,
    pub members: Vec<Known>,
    pub gone: BTreeSet<MemberKey>,
    /// The target of the last `ActiveChanged`.
    pub announced: Option<DatabaseId>,
    /// When the case began.
    pub began: Instant,
    pub circuits: BTreeMap<Arc<str>, CircuitState>,
    pub held: BTreeSet<Arc<str>>,
    /// Failure domains that something has been said against since their circuit last moved.
    pub accused: BTreeSet<Arc<str>>,
    pub forced: Option<(MemberKey, Option<Instant>)>,
    /// When the latest attempt began that came out healthy, if its connection still stands and
    /// nothing bad has been heard since.
    pub proofs: HashMap<MemberKey, Instant>,
    asked: HashMap<ProbeId, Asked>,
    orders: BTreeMap<Ticket, Verb>,
    /// How often an outage has been said, and whether it was given up.
    pub outage: Option<(u32, bool)>,
}

impl Model {
    pub(crate) fn new(config: &Config, machine: &Machine, now: Instant) -> Self {
        Self {
            config: config.clone(),
            now,
            last: Shot::of(machine),
            members: Vec::new(),
            gone: BTreeSet::new(),
            announced: None,
            began: now,
            circuits: BTreeMap::new(),
            held: BTreeSet::new(),
            accused: BTreeSet::new(),
            forced: None,
            proofs: HashMap::new(),
            asked: HashMap::new(),
            orders: BTreeMap::new(),
            outage: None,
        }
    }

    pub(crate) fn join(&mut self, member: &Described) {
        self.circuits
            .entry(member.domain.clone())
            .or_insert(CircuitState::Closed);
        self.members.push(Known {
            member: member.clone(),
            joining: None,
            leaving: BTreeSet::new(),
        });
    }

    /// Takes what happened and what the machine did about it, and holds it to its promises.
    pub(crate) fn watch(
        &mut self,
        now: Instant,
        input: &Input,
        effects: &[Effect],
        machine: &Machine,
    ) {
        self.now = now;
        let next = Shot::of(machine);
        let answered = self.take_answer(input);
        if let Input::Lost { member, slot } = input
            && *slot == Slot::Traffic
        {
            self.proofs.remove(member);
        }
        self.accuse(input, answered.as_ref());
        if let Input::Order { ticket, verb } = input {
            self.orders.insert(*ticket, verb.clone());
            self.intend(*ticket, verb);
        }
        self.settle_orders(input, effects);
        self.expire_force();

        self.check(input, answered.as_ref(), effects, &next, machine);

        for effect in effects {
            match effect {
                Effect::Abort {
                    member,
                    slot: Slot::Traffic,
                } => {
                    self.proofs.remove(member);
                }
                Effect::Emit(Event::CircuitChanged {
                    failure_domain, to, ..
                }) => {
                    self.accused.remove(&**failure_domain);
                    let members = self.members.iter().map(|k| &k.member);
                    let behind = members.filter(|m| *m.domain == **failure_domain);
                    for member in behind.filter(|_| *to == CircuitState::Open) {
                        self.proofs.remove(&member.key);
                    }
                }
                // What was asked over a probe connection that is no more is not waited for.
                Effect::Abort {
                    member,
                    slot: Slot::Probe,
                } => {
                    let over = |p: &Probe| p.member == *member && p.slot == Slot::Probe;
                    self.asked.retain(|_, asked| !over(&asked.probe));
                }
                Effect::Forget { member } => {
                    self.gone.insert(*member);
                    self.proofs.remove(member);
                }
                Effect::Probe(probe) => {
                    let idle = probe.slot == Slot::Traffic
                        && !probe.round
                        && probe.timeout == self.config.calls.response_timeout;
                    let asked = Asked {
                        probe: probe.clone(),
                        at: now,
                        domain: self.domain_of(probe.member),
                        episode: machine.episode(probe.member),
                        idle,
                    };
                    let twice = self.asked.insert(probe.id, asked).is_some();
                    assert!(!twice, "{:?} was asked twice", probe.id);
                }
                _ => {}
            }
        }
        self.last = next;
        let keys = self.members.iter().map(|k| k.member.key);
        let episode = |key| Some((key, machine.episode(key)?));
        self.last.episodes = keys.filter_map(episode).collect();
    }

    fn take_answer(&mut self, input: &Input) -> Option<Answered> {
        let Input::Probed {
            probe,
            verdict,
            connected,
            ..
        } = input
        else {
            return None;
        };
        let asked = self.asked.remove(probe)?;
        let key = asked.probe.member;
        let episode = self.last.episodes.get(&key).copied();
        let stale = episode.is_none() || episode != asked.episode;
        let traffic = asked.probe.slot == Slot::Traffic;
        let bad = !verdict.serves() && !asked.idle && !stale;
        if traffic && !connected || bad {
            self.proofs.remove(&key);
        } else if traffic && verdict.serves() && !asked.idle && !stale {
            let proof = self.proofs.entry(key).or_insert(asked.at);
            *proof = asked.at.max(*proof);
        }
        Some(Answered {
            asked,
            verdict: verdict.clone(),
            stale,
        })
    }

    /// I9: an accusation is booked to the domain and the episode that it speaks of.
    fn accuse(&mut self, input: &Input, answered: Option<&Answered>) {
        let accused = match input {
            Input::Evidence(evidence) => {
                let current = self.episode_of(&evidence.domain) == Some(evidence.episode);
                let bad =
                    evidence.at_once.is_some() || evidence.repeated > 0 || evidence.seen.failed > 0;
                (current && bad).then(|| evidence.domain.clone())
            }
            Input::Lost { member, .. } | Input::Stalled { member, .. } => self.domain_of(*member),
            Input::Probed { .. } => answered
                .filter(|a| !a.stale && matches!(a.verdict, Verdict::Unhealthy(_)))
                .and_then(|a| a.asked.domain.clone()),
            _ => None,
        };
        self.accused.extend(accused);
    }

    // --- who belongs ---

    /// What an order does while it waits for its answer.
    fn intend(&mut self, ticket: Ticket, verb: &Verb) {
        match verb {
            Verb::Add {
                member,
                verify: true,
            } if self.known(&member.id).is_none() => {
                self.join(member);
                if let Some(known) = self.members.last_mut() {
                    known.joining = Some(ticket);
                }
            }
            Verb::Remove(id) => {
                if let Some(known) = self.known_mut(id)
                    && known.joining.is_none()
                {
                    known.leaving.insert(ticket);
                }
            }
            _ => {}
        }
    }

    fn settle_orders(&mut self, input: &Input, effects: &[Effect]) {
        let mut answers = Vec::new();
        for effect in effects {
            if let Effect::Answer { ticket, result } = effect {
                let verb = self.orders.remove(ticket);
                let verb = verb.unwrap_or_else(|| panic!("{ticket:?} is answered without need"));
                answers.push((*ticket, verb, result.is_ok()));
            }
        }
        // A topology speaks of the members after all other answers have made them or unmade them.
        answers.sort_by_key(|(_, verb, _)| matches!(verb, Verb::Topology { .. }));
        for (ticket, verb, well) in answers {
            self.settle_order(ticket, &verb, well);
        }
        // A failure domain may pass from who goes to who comes; only an empty one is forgotten.
        let members = &self.members;
        let lives = |domain: &Arc<str>| members.iter().any(|k| k.member.domain == *domain);
        self.circuits.retain(|domain, _| lives(domain));
        self.held.retain(lives);
        if let Input::Order { ticket, verb } = input
            && matches!(verb, Verb::Add { verify: false, .. })
        {
            assert!(!self.orders.contains_key(ticket), "it waits for nothing");
        }
    }

    fn settle_order(&mut self, ticket: Ticket, verb: &Verb, well: bool) {
        match verb {
            Verb::Add { member, verify } => {
                let joined = self.members.iter().position(|k| k.joining == Some(ticket));
                match joined {
                    Some(place) if well => self.members[place].joining = None,
                    Some(place) => self.leave(place),
                    None if well && !verify => self.join(member),
                    None => assert!(!well, "it had not been asked to wait"),
                }
            }
            Verb::Remove(id) => {
                if let Some(place) = self.members.iter().position(|k| k.member.id == *id) {
                    self.members[place].leaving.remove(&ticket);
                    if well && self.members[place].joining.is_none() {
                        self.leave(place);
                    }
                }
            }
            _ if !well => {}
            Verb::SetWeight(id, weight) => {
                if let Some(known) = self.known_mut(id) {
                    known.member.weight = *weight;
                }
            }
            Verb::SetEnabled(id, enabled) => {
                if let Some(known) = self.known_mut(id) {
                    known.member.enabled = *enabled;
                    let key = known.member.key;
                    self.release(key, !enabled);
                }
            }
            Verb::Force(id, time) => {
                if let Some(key) = self.known(id).map(|k| k.member.key) {
                    self.forced = Some((key, time.map(|time| self.now + time)));
                }
            }
            Verb::Unpin => self.forced = None,
            Verb::Reset(id) => {
                if let Some(domain) = self.known(id).map(|k| k.member.domain.clone()) {
                    self.held.remove(&domain);
                }
            }
            Verb::ForceOpen(id) => {
                if let Some(domain) = self.known(id).map(|k| k.member.domain.clone()) {
                    self.held.insert(domain);
                }
            }
            Verb::Topology { members, .. } => self.replace(members),
            Verb::StandDown { database, .. } => {
                if let Some(key) = self.known(database).map(|k| k.member.key) {
                    self.proofs.remove(&key);
                }
            }
            Verb::SwitchTo(_) | Verb::Direct { .. } | Verb::SetAutoFallback(_) => {}
        }
    }

    fn replace(&mut self, members: &[Described]) {
        for member in members {
            match self.known_mut(&member.id) {
                Some(known) => {
                    known.member.weight = member.weight;
                    known.member.role = member.role;
                    known.member.enabled = member.enabled;
                    let key = known.member.key;
                    self.release(key, !member.enabled);
                }
                None => self.join(member),
            }
        }
        let gone = |known: &Known| !members.iter().any(|m| m.id == known.member.id);
        while let Some(place) = self.members.iter().position(gone) {
            self.leave(place);
        }
    }

    fn leave(&mut self, place: usize) {
        let gone = self.members.remove(place).member;
        self.release(gone.key, true);
    }

    /// Force does not outlive being wanted.
    fn release(&mut self, key: MemberKey, when: bool) {
        if when && self.forced.is_some_and(|(forced, _)| forced == key) {
            self.forced = None;
        }
    }

    fn expire_force(&mut self) {
        let over = |until: Option<Instant>| until.is_some_and(|until| until <= self.now);
        if self.forced.is_some_and(|(_, until)| over(until)) {
            self.forced = None;
        }
        // An order to remove it is stronger, too.
        if let Some((key, _)) = self.forced
            && self.by_key(key).is_some_and(|k| !k.leaving.is_empty())
        {
            self.forced = None;
        }
    }

    pub(crate) fn known(&self, id: &DatabaseId) -> Option<&Known> {
        self.members.iter().find(|k| k.member.id == *id)
    }

    fn known_mut(&mut self, id: &DatabaseId) -> Option<&mut Known> {
        self.members.iter_mut().find(|k| k.member.id == *id)
    }

    pub(crate) fn by_key(&self, key: MemberKey) -> Option<&Known> {
        self.members.iter().find(|k| k.member.key == key)
    }

    // --- what the world asks ---

    pub(crate) fn key_of(&self, name: &str) -> Option<MemberKey> {
        let known = self.members.iter().find(|k| k.member.id == *name)?;
        Some(known.member.key)
    }

    /// The episode of a failure domain before the last input.
    pub(crate) fn episode_of(&self, domain: &str) -> Option<u64> {
        let of_it = |k: &&Known| *k.member.domain == *domain;
        let mut members = self.members.iter().filter(of_it);
        members.find_map(|k| self.last.episodes.get(&k.member.key).copied())
    }

    pub(crate) fn domain_of(&self, key: MemberKey) -> Option<Arc<str>> {
        Some(self.by_key(key)?.member.domain.clone())
    }

    /// One database of each circuit that an operator holds open.
    pub(crate) fn held(&self) -> Vec<DatabaseId> {
        let of = |domain: &Arc<str>| {
            let mut known = self.members.iter();
            known.find(|k| k.member.domain == *domain && k.joining.is_none())
        };
        let held = self.held.iter().filter_map(of);
        held.map(|k| k.member.id.clone()).collect()
    }

    /// Orders that nobody has answered.
    pub(crate) fn unanswered(&self) -> Vec<&Verb> {
        self.orders.values().collect()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.orders.is_empty()
    }

    /// Who may serve once all is well: the heaviest that are wanted.
    pub(crate) fn best(&self) -> Vec<MemberKey> {
        let wanted = |k: &&Known| {
            k.member.enabled && k.member.weight.value() > 0.0 && k.member.role == Role::Primary
        };
        let heaviest = self.members.iter().filter(wanted);
        let heaviest = heaviest
            .map(|k| k.member.weight.value())
            .fold(0.0, f64::max);
        let best = self.members.iter().filter(wanted);
        let best = best.filter(|k| k.member.weight.value() == heaviest);
        best.map(|k| k.member.key).collect()
    }

    /// The longest dwell, the longest pause between two looks, and something to breathe.
    pub(crate) fn longest_recovery(&self) -> Duration {
        self.config.circuit.max_grace_period.mul_f64(1.1)
            + self.config.health.max_backoff
            + self.config.health.interval
    }
}

impl Shot {
    fn of(machine: &Machine) -> Self {
        Self {
            views: machine.members(),
            active: machine.active(),
            serving: machine.serving(),
            generation: machine.generation(),
            episodes: HashMap::new(),
        }
    }

    pub(crate) fn view(&self, id: &DatabaseId) -> Option<&MemberView> {
        self.views.iter().find(|view| view.id == *id)
    }

    /// The circuit of a failure domain and the end of its dwell.
    pub(crate) fn circuit(&self, domain: &str) -> Option<(CircuitState, Option<Instant>)> {
        let view = self.views.iter().find(|v| v.failure_domain == domain)?;
        Some((view.circuit, view.circuit_opens_until))
    }
}
