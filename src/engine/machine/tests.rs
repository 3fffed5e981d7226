//! Stories: what happens to a few databases, told with the time passed in by hand.
//!
//! The world around the machine is a [`Story`]: every database has a mood, in which it answers
//! probes, at once or, if it is silent, when the probe's time is up. Nothing is answered before a
//! story says so, with [`Story::quiet`], [`Story::answer`] or by waiting.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::engine::backend::{Fault, FaultKind};
use crate::engine::config::{Sensitivity, StartPolicy};
use crate::engine::strategy::HighestWeight;

mod choosing;
mod circuits;
mod directives;
mod domains;
mod failing;
mod joining;
mod orders;
mod outages;
mod preparing;
mod stalls;
mod starting;

/// How a database answers.
#[derive(Clone, Debug, PartialEq)]
enum Mood {
    Says(Verdict),
    /// Nothing comes until the time of the probe is up.
    Hangs,
}

struct Asked {
    probe: Probe,
    at: Instant,
}

struct Story {
    machine: Machine,
    now: Instant,
    moods: HashMap<MemberKey, Mood>,
    names: HashMap<MemberKey, &'static str>,
    asked: Vec<Asked>,
    /// Connections that stand.
    links: HashSet<(MemberKey, Slot)>,
    /// Followers that never get anywhere.
    stuck_followers: bool,
    events: Vec<Event>,
    /// Everything but events and probes, since the start.
    effects: Vec<Effect>,
    probes: usize,
    next_key: u64,
    next_ticket: u64,
}

/// Databases with their weights.
type Cast<'a> = &'a [(&'static str, f64)];

const HEALTHY: Mood = Mood::Says(Verdict::Healthy);
const STANDBY: Mood = Mood::Says(Verdict::Standby);
const SUSPENDED: Mood = Mood::Says(Verdict::Suspended);

fn faulty(kind: FaultKind) -> Mood {
    Mood::Says(Verdict::Unhealthy(Fault::new(kind, format!("{kind:?}"))))
}

fn refuses() -> Mood {
    faulty(FaultKind::Unreachable)
}

fn loads() -> Mood {
    faulty(FaultKind::State)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn id(name: &str) -> DatabaseId {
    DatabaseId::new(name).unwrap()
}

fn weight(weight: f64) -> Weight {
    Weight::new(weight).unwrap()
}

fn described(key: u64, name: &str, heavy: f64) -> Described {
    Described {
        key: MemberKey(key),
        id: id(name),
        weight: weight(heavy),
        domain: name.into(),
        enabled: true,
        role: Role::Primary,
        grace_period: None,
    }
}

/// As by default, but jitter stays within what a story can rely on.
fn config() -> Config {
    Config::default()
}

impl Story {
    /// Not started yet.
    fn cast(config: Config, cast: Cast<'_>) -> Self {
        let now = Instant::now();
        Self::around(Machine::with_defaults(config, 7, now), now, cast)
    }

    /// In one failure domain, all of them.
    fn sharing(cast: Cast<'_>) -> Self {
        let now = Instant::now();
        let mut story = Self::around(Machine::with_defaults(config(), 7, now), now, &[]);
        for &(name, heavy) in cast {
            story.seed(name, heavy, |member| member.domain = "shared".into());
        }
        story
    }

    fn around(machine: Machine, now: Instant, cast: Cast<'_>) -> Self {
        let mut story = Self {
            machine,
            now,
            moods: HashMap::new(),
            names: HashMap::new(),
            asked: Vec::new(),
            links: HashSet::new(),
            stuck_followers: false,
            events: Vec::new(),
            effects: Vec::new(),
            probes: 0,
            next_key: 0,
            next_ticket: 0,
        };
        for &(name, heavy) in cast {
            story.seed(name, heavy, |_| {});
        }
        story
    }

    /// Started, everybody healthy, the heaviest serving, nothing left to do.
    fn running(cast: Cast<'_>) -> Self {
        Self::running_with(config(), cast)
    }

    fn running_with(config: Config, cast: Cast<'_>) -> Self {
        Self::cast(config, cast).started()
    }

    fn started(mut self) -> Self {
        self.start();
        self.quiet();
        self.events.clear();
        // What was proven at the start is older than whatever comes.
        self.now += ms(100);
        self
    }

    fn seed(&mut self, name: &'static str, heavy: f64, change: impl FnOnce(&mut Described)) {
        let member = self.describe(name, heavy, change);
        self.machine.seed_member(member);
    }

    fn describe(
        &mut self,
        name: &'static str,
        heavy: f64,
        change: impl FnOnce(&mut Described),
    ) -> Described {
        self.next_key += 1;
        let mut member = described(self.next_key, name, heavy);
        change(&mut member);
        self.names.insert(member.key, name);
        member
    }

    fn start(&mut self) {
        self.tell(Input::Start { lazy: false });
    }

    // --- the world ---

    fn is(&mut self, name: &str, mood: Mood) {
        let key = self.key(name);
        self.moods.insert(key, mood);
    }

    /// The key of the latest member of this name.
    fn key(&self, name: &str) -> MemberKey {
        let named = self.names.iter().filter(|(_, known)| **known == name);
        *named.map(|(key, _)| key).max().unwrap()
    }

    fn tell(&mut self, input: Input) {
        let effects = self.machine.handle(self.now, input);
        let late = self.machine.deadline().is_some_and(|at| at <= self.now);
        assert!(!late, "a deadline has passed and nothing was done about it");
        // Nothing happens at the same time as anything else.
        self.now += Duration::from_nanos(1);
        let published = effects.iter().position(|e| matches!(e, Effect::Publish));
        let told = effects.iter().position(|e| matches!(e, Effect::Emit(_)));
        assert!(told.is_none() || published < told, "told before it shows");
        assert!(published.is_some() || told.is_none(), "told and not shown");
        let mut prepared = None;
        for effect in effects {
            match effect {
                Effect::Emit(event) => self.events.push(event),
                Effect::Prepare { member } => {
                    prepared = Some(member);
                    self.effects.push(effect);
                }
                Effect::Probe(probe) => {
                    self.probes += 1;
                    let at = self.now;
                    self.asked.push(Asked { probe, at });
                }
                Effect::Abort { member, slot } => {
                    self.links.remove(&(member, slot));
                    self.effects.push(effect);
                }
                Effect::Forget { member } => {
                    self.asked.retain(|asked| asked.probe.member != member);
                    self.links.retain(|link| link.0 != member);
                    self.effects.push(effect);
                }
                effect => self.effects.push(effect),
            }
        }
        if let Some(member) = prepared.filter(|_| !self.stuck_followers) {
            self.tell(Input::Prepared { member });
        }
    }

    fn answer_with(&mut self, probe: ProbeId, verdict: Verdict) {
        let place = self.asked.iter().position(|asked| asked.probe.id == probe);
        let asked = place.map(|place| self.asked.remove(place).probe);
        let connected = asked.is_some_and(|p| self.connect(&p, &verdict));
        self.answer_over(probe, verdict, connected);
    }

    fn answer_over(&mut self, probe: ProbeId, verdict: Verdict, connected: bool) {
        let rtt = (verdict == Verdict::Healthy).then_some(Duration::from_micros(100));
        self.tell(Input::Probed {
            probe,
            verdict,
            rtt,
            connected,
        });
    }

    /// Whoever answers has been connected to; whoever cannot be reached has not.
    fn connect(&mut self, probe: &Probe, verdict: &Verdict) -> bool {
        let link = (probe.member, probe.slot);
        match verdict {
            Verdict::Unhealthy(fault) => match fault.kind {
                FaultKind::Unreachable | FaultKind::Lost => {
                    self.links.remove(&link);
                }
                _ => {}
            },
            Verdict::Healthy | Verdict::Degraded(_) | Verdict::Standby | Verdict::Suspended => {
                self.links.insert(link);
            }
        }
        self.links.contains(&link)
    }

    fn mood(&self, key: MemberKey) -> Mood {
        self.moods.get(&key).cloned().unwrap_or(HEALTHY)
    }

    /// The answers that this database owes now, without what follows from them.
    fn answer(&mut self, name: &str) {
        let key = self.key(name);
        let owed = self.asked_of(name);
        let Mood::Says(verdict) = self.mood(key) else {
            return;
        };
        for probe in owed {
            self.answer_with(probe.id, verdict.clone());
        }
    }

    fn asked_of(&self, name: &str) -> Vec<Probe> {
        let key = self.key(name);
        let probes = self.asked.iter().map(|asked| &asked.probe);
        probes.filter(|p| p.member == key).cloned().collect()
    }

    /// Everybody answers, and answers what is asked then, until there is nothing left to answer.
    fn quiet(&mut self) {
        for _ in 0..200 {
            let next = self
                .asked
                .iter()
                .find_map(|asked| match self.mood(asked.probe.member) {
                    Mood::Says(verdict) => Some((asked.probe.id, verdict)),
                    Mood::Hangs if asked.at + asked.probe.timeout <= self.now => {
                        let silent = Fault::new(FaultKind::Silent, "no answer");
                        Some((asked.probe.id, Verdict::Unhealthy(silent)))
                    }
                    Mood::Hangs => None,
                });
            match next {
                Some((probe, verdict)) => self.answer_with(probe, verdict),
                None => return,
            }
        }
        panic!("it asks and asks without waiting");
    }

    /// Everybody answers everything but this.
    fn quiet_but(&mut self, kept: ProbeId) {
        let index = self.asked.iter().position(|a| a.probe.id == kept);
        let kept = self.asked.remove(index.unwrap());
        self.quiet();
        self.asked.push(kept);
    }

    /// Time passes; everybody answers, and every deadline is kept to the nanosecond.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.quiet();
            let silent = self
                .asked
                .iter()
                .map(|asked| asked.at + asked.probe.timeout);
            let next = self.machine.deadline().into_iter().chain(silent).min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            self.tell(Input::Tick);
        }
        self.now = self.now.max(end);
        self.tell(Input::Tick);
        self.quiet();
    }

    fn lose(&mut self, name: &str, slot: Slot) {
        let member = self.key(name);
        self.links.remove(&(member, slot));
        self.tell(Input::Lost { member, slot });
    }

    /// No byte for so long, but the callers still wait.
    fn stall(&mut self, name: &str, age: Duration) {
        let member = self.key(name);
        self.tell(Input::Stalled {
            member,
            age,
            overdue: false,
        });
    }

    fn evidence(&mut self, name: &str, change: impl FnOnce(&mut Evidence)) {
        let mut evidence = Evidence {
            domain: name.into(),
            episode: self.episode(name),
            ..Evidence::default()
        };
        change(&mut evidence);
        self.tell(Input::Evidence(evidence));
    }

    /// So many calls fail.
    fn fail(&mut self, name: &str, failed: u64) {
        self.evidence(name, |e| e.seen = Observed::new(0, failed));
    }

    fn order(&mut self, verb: Verb) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.tell(Input::Order { ticket, verb });
        ticket
    }

    fn direct(&mut self, name: &str, observed: u64) -> Ticket {
        self.order(Verb::Direct {
            to: id(name),
            observed,
            cause: "the server said so".to_owned(),
        })
    }

    fn add(&mut self, name: &'static str, heavy: f64, verify: bool) -> Ticket {
        let member = self.describe(name, heavy, |_| {});
        self.order(Verb::Add { member, verify })
    }

    // --- what can be seen ---

    fn active(&self) -> Option<&'static str> {
        self.machine.active().map(|key| self.names[&key])
    }

    fn serving(&self) -> Option<&'static str> {
        self.machine.serving().map(|key| self.names[&key])
    }

    fn view(&self, name: &str) -> MemberView {
        let members = self.machine.members();
        members.into_iter().find(|m| m.id == *name).unwrap()
    }

    fn circuit(&self, name: &str) -> CircuitState {
        self.view(name).circuit
    }

    fn episode(&self, name: &str) -> u64 {
        let views = self.machine.members();
        let member = views
            .iter()
            .find(|m| m.id == *name || m.failure_domain == name);
        let key = self.key(member.unwrap().id.as_str());
        self.machine.episode(key).unwrap()
    }

    /// The answers to an order; more than one is a bug of its own.
    fn answer_to(&self, ticket: Ticket) -> Option<Result<(), ErrorKind>> {
        let mut answers = self.effects.iter().filter_map(|effect| match effect {
            Effect::Answer { ticket: t, result } if *t == ticket => Some(result),
            _ => None,
        });
        let first = answers.next()?;
        assert!(answers.next().is_none(), "answered twice");
        Some(first.clone().map_err(|error| error.kind().clone()))
    }

    fn switches(&self) -> Vec<(Option<String>, String, Reason)> {
        let switch = |event: &Event| match event {
            Event::ActiveChanged {
                from, to, reason, ..
            } => Some((
                from.as_ref().map(ToString::to_string),
                to.to_string(),
                *reason,
            )),
            _ => None,
        };
        self.events.iter().filter_map(switch).collect()
    }

    /// The one switch there was.
    fn switched(&self, from: &str, to: &str, reason: Reason) {
        let expected = (Some(from.to_owned()), to.to_owned(), reason);
        assert_eq!(self.switches(), [expected]);
    }

    fn stayed(&self) {
        assert_eq!(self.switches(), []);
    }

    fn circuit_changes(&self) -> Vec<(String, CircuitState, Reason)> {
        let change = |event: &Event| match event {
            Event::CircuitChanged {
                failure_domain,
                to,
                reason,
                ..
            } => Some((failure_domain.clone(), *to, *reason)),
            _ => None,
        };
        self.events.iter().filter_map(change).collect()
    }

    fn count(&self, which: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| which(event)).count()
    }

    fn aborted(&self, name: &str, slot: Slot) -> bool {
        let key = self.key(name);
        self.effects
            .iter()
            .any(|e| matches!(e, Effect::Abort { member, slot: s } if *member == key && *s == slot))
    }

    fn started_with(&self) -> Option<Result<(), ErrorKind>> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Started(result) => Some(result.clone().map_err(|e| e.kind().clone())),
            _ => None,
        })
    }
}
