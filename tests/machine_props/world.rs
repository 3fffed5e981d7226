//! The world around the machine: connections, outstanding probes, time.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use multidb::engine::backend::{FaultKind, Verdict};
use multidb::engine::database::{DatabaseId, Role, Weight};
use multidb::engine::detector::Observed;
use multidb::engine::machine::{
    Described, Effect, Evidence, Input, Machine, MemberKey, Probe, ProbeId, Slot, Ticket, Verb,
};
use multidb::engine::snapshot::Status;
use tokio::time::Instant;

use crate::model::Model;
use crate::steps::{NAMES, Part, Seen, Setup, Step, Wish};

pub(crate) struct World {
    machine: Machine,
    model: Model,
    now: Instant,
    outstanding: Vec<Probe>,
    answered: Vec<Probe>,
    /// Those whose connection was ended under them: what they find says nothing of the next one.
    cut: HashSet<ProbeId>,
    /// Connections that stand.
    links: HashSet<(MemberKey, Slot)>,
    /// What each name stands for now, or stood for last.
    keys: [Option<MemberKey>; NAMES.len()],
    next_key: u64,
    next_ticket: u64,
    epoch: u64,
    stuck_followers: bool,
    record: Option<String>,
}

/// While every deadline is kept, at most so many in one stretch of waiting: hours of an idle client
/// are all alike.
const TICKS: usize = 30;

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let now = Instant::now();
        let mut machine = Machine::with_defaults(setup.config.clone(), setup.seed, now);
        let mut keys = [None; NAMES.len()];
        for (index, part) in setup.members.iter().enumerate() {
            let described = describe(part, MemberKey(index as u64));
            keys[part.name] = Some(described.key);
            machine.seed_member(described);
        }
        let mut world = Self {
            model: Model::new(&setup.config, &machine, now),
            machine,
            now,
            outstanding: Vec::new(),
            answered: Vec::new(),
            cut: HashSet::new(),
            links: HashSet::new(),
            keys,
            next_key: setup.members.len() as u64,
            next_ticket: 0,
            epoch: 0,
            stuck_followers: setup.stuck_followers,
            record: None,
        };
        for (index, part) in setup.members.iter().enumerate() {
            world.model.join(&describe(part, MemberKey(index as u64)));
        }
        world.tell(Input::Start { lazy: setup.lazy });
        world
    }

    /// Keeps the effects as text.
    pub(crate) fn recorded(mut self) -> Self {
        self.record = Some(String::new());
        self
    }

    pub(crate) fn record(self) -> String {
        self.record.unwrap_or_default()
    }

    pub(crate) fn happen(&mut self, step: &Step) {
        match step {
            Step::Answer {
                which,
                verdict,
                cut,
            } => {
                if let Some(which) = which.checked_rem(self.outstanding.len()) {
                    self.answer(which, verdict.clone(), *cut);
                }
            }
            Step::Everybody(moods) => self.quiet(moods),
            Step::Again { which, verdict } => {
                if let Some(which) = which.checked_rem(self.answered.len()) {
                    let again = self.answered[which].clone();
                    self.probed(&again, verdict.clone(), false);
                }
            }
            Step::Stray { probe, verdict } => {
                let known = self.outstanding.iter().any(|p| p.id.0 == *probe);
                if let (Some(last), false) = (self.answered.last().cloned(), known) {
                    let mut stray = last;
                    stray.id.0 = *probe;
                    self.probed(&stray, verdict.clone(), false);
                }
            }
            Step::Lost { who, traffic } => {
                let slot = if *traffic { Slot::Traffic } else { Slot::Probe };
                if let Some(member) = self.keys[*who] {
                    self.links.remove(&(member, slot));
                    self.tell(Input::Lost { member, slot });
                }
            }
            Step::Stalled { who, age, overdue } => {
                // Mostly the active one; the others have nobody to notice.
                let member = self.machine.active().or(self.keys[*who]);
                if let Some(member) = member {
                    self.tell(Input::Stalled {
                        member,
                        age: *age,
                        overdue: *overdue,
                    });
                }
            }
            Step::Overrun => self.tell(Input::Overrun),
            Step::Evidence { who, behind, what } => self.evidence(*who, *behind, what),
            Step::Order(wish) => self.wish(wish),
            Step::Wait(time) => self.wait(*time),
            Step::Jump(time) => {
                self.now += *time;
                self.tell(Input::Tick);
            }
        }
    }

    /// All faults end. Every order is answered, and once none stands any more, within a dwell and a
    /// round, the heaviest must serve.
    pub(crate) fn heal(&mut self) {
        self.recover_until(|world| world.model.is_settled());
        for verb in [Verb::Unpin, Verb::SetAutoFallback(true)] {
            self.order(verb);
        }
        for id in self.model.held() {
            self.order(Verb::Reset(id));
        }
        self.recover_until(|world| world.model.is_settled() && world.is_well());
    }

    fn recover_until(&mut self, done: impl Fn(&Self) -> bool) {
        let limit = self.now + self.model.longest_recovery();
        self.all_well();
        while !done(self) {
            assert!(
                self.now < limit,
                "all is well, and yet:\n{:#?}\nactive {:?}, {:?}, unanswered {:?}",
                self.machine.members(),
                self.machine.active(),
                self.machine.status(),
                self.model.unanswered(),
            );
            self.now += Duration::from_millis(500);
            self.tell(Input::Tick);
            self.all_well();
        }
    }

    fn is_well(&self) -> bool {
        let best = self.model.best();
        match self.machine.active() {
            _ if best.is_empty() => true,
            Some(active) => {
                best.contains(&active)
                    && self.machine.serving() == Some(active)
                    && self.machine.status() == Status::Serving
            }
            None => false,
        }
    }

    // --- inputs ---

    fn tell(&mut self, input: Input) {
        let effects = self.machine.handle(self.now, input.clone());
        if let Some(record) = &mut self.record {
            let _ = writeln!(record, "{input:?} -> {effects:?}");
        }
        let mut prepared = None;
        for effect in &effects {
            match effect {
                Effect::Prepare { member } => prepared = Some(*member),
                Effect::Probe(probe) => self.outstanding.push(probe.clone()),
                Effect::Abort { member, slot } => {
                    self.links.remove(&(*member, *slot));
                    let over = |p: &&Probe| (p.member, p.slot) == (*member, *slot);
                    let over = self.outstanding.iter().filter(over);
                    self.cut.extend(over.map(|probe| probe.id));
                }
                Effect::Forget { member } => self.links.retain(|link| link.0 != *member),
                _ => {}
            }
        }
        self.model.watch(self.now, &input, &effects, &self.machine);
        if let Some(member) = prepared.filter(|_| !self.stuck_followers) {
            self.tell(Input::Prepared { member });
        }
    }

    fn answer(&mut self, which: usize, verdict: Verdict, cut: bool) {
        let probe = self.outstanding.remove(which);
        self.probed(&probe, verdict, cut);
        self.answered.push(probe);
    }

    fn probed(&mut self, probe: &Probe, verdict: Verdict, cut: bool) {
        let link = (probe.member, probe.slot);
        let unreachable = match &verdict {
            Verdict::Unhealthy(fault) => {
                matches!(fault.kind, FaultKind::Unreachable | FaultKind::Lost)
            }
            _ => {
                self.links.insert(link);
                false
            }
        };
        if cut || unreachable && !self.cut.contains(&probe.id) {
            self.links.remove(&link);
        }
        let rtt = verdict.serves().then_some(Duration::from_millis(1));
        self.tell(Input::Probed {
            probe: probe.id,
            verdict,
            rtt,
            connected: self.links.contains(&link),
        });
    }

    fn evidence(&mut self, who: usize, behind: u64, what: &Seen) {
        let Some((domain, episode)) = self.keys[who].and_then(|key| {
            let domain = self.model.domain_of(key)?;
            Some((domain, self.machine.episode(key)?))
        }) else {
            return;
        };
        let mut evidence = Evidence {
            domain,
            episode: episode.saturating_sub(behind),
            ..Evidence::default()
        };
        match what {
            Seen::Calls { succeeded, failed } => {
                evidence.seen = Observed::new(*succeeded, *failed);
            }
            Seen::AtOnce => {
                evidence.at_once = Some("READONLY");
                evidence.refusals = 1;
            }
            Seen::Repeated(times) => {
                evidence.repeated = *times;
                evidence.repeated_code = Some("OOM");
                evidence.refusals = u64::from(*times);
            }
            Seen::Wrote => evidence.wrote = true,
            Seen::Denied => evidence.denied = true,
        }
        self.tell(Input::Evidence(evidence));
    }

    fn wish(&mut self, wish: &Wish) {
        let id = |who: usize| DatabaseId::new(NAMES[who]).unwrap();
        let verb = match wish {
            Wish::Add(part, verify) => Verb::Add {
                member: self.admit(part),
                verify: *verify,
            },
            Wish::Remove(who) => Verb::Remove(id(*who)),
            Wish::SetWeight(who, heavy) => Verb::SetWeight(id(*who), weight(*heavy)),
            Wish::SetEnabled(who, enabled) => Verb::SetEnabled(id(*who), *enabled),
            Wish::SwitchTo(who) => Verb::SwitchTo(id(*who)),
            Wish::Force(who, time) => Verb::Force(id(*who), *time),
            Wish::Unpin => Verb::Unpin,
            Wish::SetAutoFallback(on) => Verb::SetAutoFallback(*on),
            Wish::Reset(who) => Verb::Reset(id(*who)),
            Wish::ForceOpen(who) => Verb::ForceOpen(id(*who)),
            Wish::Direct(who, ago) => Verb::Direct {
                to: id(*who),
                observed: self.machine.generation().saturating_sub(*ago),
                cause: "the server said so".to_owned(),
            },
            Wish::StandDown(who, ago, what) => {
                let active = self.machine.members().into_iter().find(|view| view.active);
                Verb::StandDown {
                    database: match (who, active) {
                        (None, Some(view)) => view.id,
                        (who, _) => id(who.unwrap_or_default()),
                    },
                    observed: self.machine.generation().saturating_sub(*ago),
                    what: *what,
                }
            }
            Wish::Topology { newer, members } => {
                self.epoch += u64::from(*newer);
                Verb::Topology {
                    epoch: self.epoch,
                    members: members.iter().map(|part| self.admit(part)).collect(),
                }
            }
        };
        self.order(verb);
    }

    /// The key it will have if it becomes a member.
    fn admit(&mut self, part: &Part) -> Described {
        let described = describe(part, MemberKey(self.next_key));
        self.next_key += 1;
        described
    }

    fn order(&mut self, verb: Verb) {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.tell(Input::Order { ticket, verb });
        for (name, key) in NAMES.iter().zip(&mut self.keys) {
            if let Some(current) = self.model.key_of(name) {
                *key = Some(current);
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..TICKS {
            match self.machine.deadline() {
                Some(at) if at <= end => {
                    self.now = at;
                    self.tell(Input::Tick);
                }
                _ => break,
            }
        }
        self.now = end;
        self.tell(Input::Tick);
    }

    /// Everything that is asked is answered, until nothing is asked any more.
    fn quiet(&mut self, moods: &[Verdict]) {
        for _ in 0..self.outstanding.len() + 200 {
            let Some(probe) = self.outstanding.first() else {
                return;
            };
            let name = self.keys.iter().position(|key| *key == Some(probe.member));
            let mood = name.map_or(Verdict::Healthy, |name| moods[name].clone());
            self.answer(0, mood, false);
        }
        panic!("it asks and asks without waiting");
    }

    fn all_well(&mut self) {
        self.quiet(&vec![Verdict::Healthy; NAMES.len()]);
    }
}

fn describe(part: &Part, key: MemberKey) -> Described {
    let name = NAMES[part.name];
    Described {
        key,
        id: DatabaseId::new(name).unwrap(),
        weight: weight(part.weight),
        domain: if part.shares { "shared" } else { name }.into(),
        enabled: part.enabled,
        role: match part.role {
            Role::Replica => Role::Replica,
            _ => Role::Primary,
        },
        grace_period: part.grace,
    }
}

fn weight(weight: u8) -> Weight {
    Weight::new(f64::from(weight)).unwrap()
}
