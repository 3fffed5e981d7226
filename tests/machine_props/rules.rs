//! The promises, checked after every input.

use std::sync::Arc;
use std::time::Duration;

use multidb::engine::backend::{FaultKind, Verdict};
use multidb::engine::circuit::CircuitState;
use multidb::engine::database::{DatabaseId, Role, Weight};
use multidb::engine::event::{Event, Reason};
use multidb::engine::machine::{Effect, Input, Machine, MemberKey, Verb};
use multidb::engine::snapshot::MemberView;

use crate::model::{Answered, Known, Model, Shot};

impl Model {
    pub(crate) fn check(
        &mut self,
        input: &Input,
        answered: Option<&Answered>,
        effects: &[Effect],
        next: &Shot,
        machine: &Machine,
    ) {
        self.shown_before_told(effects);
        self.only_members_are_spoken_of(effects);
        self.follows_switches(effects, next);
        self.follows_circuits(input, answered, effects, next);
        self.believes_hard_verdicts(answered, next);
        self.stale_answers_change_nothing(answered, effects, next);
        self.shows_what_was_ordered(next);
        self.serves_only_who_may(next);
        self.follows_outages(effects, next);
        self.events_are_changes(effects);
        self.wakes_up_in_time(next, machine);
    }

    // --- effects ---

    fn shown_before_told(&self, effects: &[Effect]) {
        let rank = |effect: &Effect| match effect {
            Effect::Publish => 0,
            Effect::Abort { .. } => 1,
            Effect::Emit(_) => 2,
            Effect::Judged { .. }
            | Effect::Prepare { .. }
            | Effect::Drain { .. }
            | Effect::Forget { .. }
            | Effect::Started(_) => 3,
            Effect::Probe(_) => 4,
            Effect::Answer { .. } => 5,
        };
        let ranks: Vec<_> = effects.iter().map(rank).collect();
        assert!(ranks.is_sorted(), "{effects:?}");
        if ranks.contains(&2) {
            assert_eq!(ranks[0], 0, "told and not shown: {effects:?}");
        }
    }

    /// I11: after its `Forget` a member is never heard of again.
    fn only_members_are_spoken_of(&self, effects: &[Effect]) {
        let mut gone = self.gone.clone();
        for effect in effects {
            let (member, last_words) = match effect {
                Effect::Abort { member, .. }
                | Effect::Prepare { member }
                | Effect::Drain { member, .. } => (*member, false),
                Effect::Probe(probe) => (probe.member, false),
                Effect::Forget { member } => (*member, true),
                _ => continue,
            };
            assert!(
                !gone.contains(&member),
                "{effect:?} of a member that is gone"
            );
            if last_words {
                gone.insert(member);
            }
        }
    }

    fn wakes_up_in_time(&self, next: &Shot, machine: &Machine) {
        let deadline = machine.deadline().expect("it has started");
        assert!(deadline > self.now, "a deadline that has passed");
        for view in &next.views {
            if view.circuit == CircuitState::Open && !self.held.contains(&*view.failure_domain) {
                let until = view.circuit_opens_until.expect("a dwell without an end");
                assert!(deadline <= until, "the end of a dwell would be missed");
            }
        }
    }

    // --- who serves ---

    /// I4: totally ordered, each told once, each to the best that is proven.
    fn follows_switches(&mut self, effects: &[Effect], next: &Shot) {
        let mut generation = self.last.generation;
        let mut left = self.last.active;
        for event in events(effects) {
            let Event::ActiveChanged {
                generation: this,
                from,
                to,
                reason,
                since_detection,
                ..
            } = event
            else {
                continue;
            };
            generation += 1;
            assert_eq!(*this, generation);
            assert_eq!(*from, self.announced, "a gap between two switches");
            self.announced = Some(to.clone());
            let target = self.known(to).expect("a switch to a stranger").member.key;
            assert_ne!(left, Some(target), "a switch to where it was");
            if *reason != Reason::Forced {
                self.switch_is_sound(target, left, *reason, *since_detection, next);
            }
            left = Some(target);
        }
        assert_eq!(next.generation, generation);
        let vacated = |key: MemberKey| self.by_key(key).is_none();
        match (next.active, left) {
            (now, expected) if now == expected => {}
            (None, Some(key)) if vacated(key) => {}
            (now, expected) => panic!("{now:?} is active without a word, instead of {expected:?}"),
        }
    }

    fn switch_is_sound(
        &self,
        target: MemberKey,
        left: Option<MemberKey>,
        reason: Reason,
        since_detection: Duration,
        next: &Shot,
    ) {
        // One that says itself that it does not serve has not failed: whoever was well stays so.
        let since = match reason {
            Reason::Standby => self.began,
            _ => self.now - since_detection,
        };
        let proof = self.proofs.get(&target);
        assert!(
            proof.is_some_and(|began| *began >= since),
            "{target:?} was switched to ({reason:?}) without a proof since {since_detection:?}: {:?}",
            proof.map(|began| self.now - *began),
        );
        let ordered = matches!(reason, Reason::Manual | Reason::Directed);
        let chosen = self.by_key(target).expect("a member");
        let chosen_view = next.view(&chosen.member.id).expect("a member");
        assert!(
            self.may_serve(chosen, chosen_view),
            "an unfit target: {chosen_view:?}"
        );
        if ordered {
            return;
        }
        assert!(!is_zero(chosen.member.weight), "weight 0 was chosen");
        for (place, other) in self.members.iter().enumerate() {
            let key = other.member.key;
            let Some(view) = next.view(&other.member.id) else {
                continue;
            };
            let in_question = match reason {
                // All is well: whoever may serve could be proven.
                Reason::Fallback => true,
                _ => left != Some(key) && self.proofs.get(&key).is_some_and(|p| *p >= since),
            };
            if key == target || !in_question || !self.may_be_chosen(other, view) {
                continue;
            }
            // What is said against the active one does not count.
            let reserved = |key, view: &MemberView| {
                left != Some(key) && matches!(view.verdict, Some(Verdict::Degraded(_)))
            };
            match (reserved(target, chosen_view), reserved(key, view)) {
                (false, true) => continue,
                (true, false) => panic!("{key:?} could be chosen without a reservation"),
                (true, true) | (false, false) => {}
            }
            let ours = chosen.member.weight;
            let better = other.member.weight > ours;
            let tie = other.member.weight == ours;
            let first = self.members.iter().position(|k| k.member.key == target);
            assert!(
                !better,
                "{key:?} is heavier and proven ({reason:?}): {:?}",
                next.views
            );
            assert!(
                !(tie && Some(place) < first),
                "{key:?} was first among equals"
            );
            assert!(!(tie && left == Some(key)), "it left for an equal");
        }
    }

    fn may_be_chosen(&self, known: &Known, view: &MemberView) -> bool {
        self.may_serve(known, view) && !is_zero(known.member.weight)
    }

    fn may_serve(&self, known: &Known, view: &MemberView) -> bool {
        known.member.enabled
            && known.joining.is_none()
            && known.leaving.is_empty()
            && known.member.role == Role::Primary
            && view.circuit == CircuitState::Closed
            && match view.verdict {
                Some(Verdict::Healthy | Verdict::Degraded(_)) | None => true,
                Some(Verdict::Unhealthy(_)) => view.active,
                Some(_) => false,
            }
    }

    /// I3: calls go to a closed circuit, or where force sends them.
    fn serves_only_who_may(&self, next: &Shot) {
        let Some(key) = next.serving else { return };
        assert_eq!(next.active, Some(key), "one that is not active serves");
        let known = self.by_key(key).expect("a stranger serves");
        if self.forced.is_some_and(|(forced, _)| forced == key) {
            return;
        }
        let view = next.view(&known.member.id).expect("a member");
        assert_eq!(view.circuit, CircuitState::Closed, "an open circuit serves");
        assert!(known.joining.is_none(), "it has not joined yet");
        assert_eq!(known.member.role, Role::Primary);
        let stands_by = matches!(view.verdict, Some(Verdict::Standby | Verdict::Suspended));
        assert!(!stands_by, "it says that another one serves");
        if !known.member.enabled {
            let heir = |k: &Known| {
                let view = next.view(&k.member.id);
                k.member.key != key && view.is_some_and(|view| self.may_be_chosen(k, view))
            };
            assert!(
                self.members.iter().any(heir),
                "disabled, and without a successor"
            );
        }
    }

    // --- circuits ---

    /// I9: a circuit moves only for what happened in its own domain and episode.
    fn follows_circuits(
        &mut self,
        input: &Input,
        answered: Option<&Answered>,
        effects: &[Effect],
        next: &Shot,
    ) {
        let ordered_open = match input {
            Input::Order {
                verb: Verb::ForceOpen(id),
                ..
            } => self.last.view(id).map(|view| view.failure_domain.clone()),
            _ => None,
        };
        for event in events(effects) {
            let Event::CircuitChanged {
                failure_domain,
                from,
                to,
                reason,
                dwell,
                ..
            } = event
            else {
                continue;
            };
            let domain: Arc<str> = failure_domain.as_str().into();
            // A domain whose last member left in the same step has nothing left to check.
            let Some(known) = self.circuits.insert(domain.clone(), *to) else {
                self.circuits.remove(&domain);
                continue;
            };
            assert_eq!(known, *from, "{event:?}");
            assert_ne!(from, to, "a change that is none");
            let lawful = match to {
                CircuitState::HalfOpen => self.may_half_open(&domain, *reason, answered),
                CircuitState::Closed => self.may_close(&domain, *reason, input, answered),
                CircuitState::Open => {
                    ordered_open.as_deref() == Some(&*domain)
                        || self.may_open(&domain, *reason, input, answered, effects)
                }
            };
            assert!(lawful, "{event:?} because of {input:?}");
            if *to == CircuitState::Open {
                self.dwells(&domain, *dwell);
            }
        }
        for view in &next.views {
            let told = self.circuits.get(&*view.failure_domain);
            assert_eq!(told, Some(&view.circuit), "a circuit moved in silence");
        }
    }

    /// Only the end of the dwell, or an answer when nothing else is left.
    fn may_half_open(
        &self,
        domain: &Arc<str>,
        reason: Reason,
        answered: Option<&Answered>,
    ) -> bool {
        let (_, until) = self
            .last
            .circuit(domain)
            .unwrap_or((CircuitState::Open, None));
        match reason {
            Reason::LastResort => {
                let nobody = self.last.serving.is_none();
                nobody && answered.is_some_and(|a| self.is_proof_of(a, domain, true))
            }
            _ => until.is_some_and(|until| until <= self.now),
        }
    }

    fn may_close(
        &self,
        domain: &Arc<str>,
        reason: Reason,
        input: &Input,
        answered: Option<&Answered>,
    ) -> bool {
        if let Input::Order {
            verb: Verb::Reset(id),
            ..
        } = input
        {
            return self.known(id).is_some_and(|k| k.member.domain == *domain);
        }
        answered.is_some_and(|a| self.is_proof_of(a, domain, reason == Reason::LastResort))
    }

    fn is_proof_of(&self, answered: &Answered, domain: &Arc<str>, last_resort: bool) -> bool {
        let wanted = |known: &Known| {
            let member = &known.member;
            member.enabled && !is_zero(member.weight) && known.leaving.is_empty()
        };
        let resort = || {
            let known = self.by_key(answered.asked.probe.member);
            known.is_some_and(wanted) && !self.held.contains(domain)
        };
        answered.asked.domain.as_ref() == Some(domain)
            && !answered.stale
            && !answered.asked.idle
            && !matches!(answered.verdict, Verdict::Unhealthy(_))
            && (!last_resort || resort())
    }

    fn may_open(
        &self,
        domain: &Arc<str>,
        reason: Reason,
        input: &Input,
        answered: Option<&Answered>,
        effects: &[Effect],
    ) -> bool {
        let active = self.last.active.and_then(|key| self.domain_of(key));
        let is_active = active.as_ref() == Some(domain);
        let soft = matches!(reason, Reason::ServerState | Reason::FailureDetector);
        if is_active && (soft || reason == Reason::Stalled) && self.leaves(effects) {
            // Another one is proven, which is checked with the switch.
            return self.accused.contains(domain);
        }
        match input {
            Input::Probed { .. } => answered.is_some_and(|a| {
                let of_it = a.asked.domain.as_ref() == Some(domain);
                let closed = self
                    .last
                    .circuit(domain)
                    .is_some_and(|c| c.0 == CircuitState::Closed);
                let bad = match &a.verdict {
                    // The active one is left for its state only when another one is proven.
                    Verdict::Unhealthy(f) if f.kind == FaultKind::Local => !closed,
                    Verdict::Unhealthy(f) => f.kind != FaultKind::State || !(is_active && closed),
                    _ => false,
                };
                of_it && bad && !a.stale && !a.asked.idle
            }),
            Input::Evidence(evidence) => {
                let current = self.episode_of(domain) == Some(evidence.episode);
                evidence.domain == *domain && current && !is_active
            }
            Input::Lost { member, .. } => {
                self.domain_of(*member).as_ref() == Some(domain) && !is_active
            }
            _ => false,
        }
    }

    fn leaves(&self, effects: &[Effect]) -> bool {
        let mut events = events(effects);
        events.any(|event| matches!(event, Event::ActiveChanged { .. }))
    }

    fn dwells(&self, domain: &Arc<str>, dwell: Option<Duration>) {
        let config = &self.config.circuit;
        let members = self.members.iter().filter(|k| k.member.domain == *domain);
        let own = members.filter_map(|k| k.member.grace_period).min();
        let least = own.unwrap_or(config.grace_period).min(config.grace_period);
        match dwell {
            None => assert!(self.held.contains(domain), "a dwell without an end"),
            Some(dwell) => {
                // A member with a grace period of its own may have left the domain meanwhile.
                assert!(
                    dwell >= least.min(Duration::from_secs(1)).mul_f64(0.89),
                    "{dwell:?}"
                );
                assert!(dwell <= config.max_grace_period.mul_f64(1.11), "{dwell:?}");
            }
        }
    }

    /// Connectivity is not a matter of opinion: such a verdict always opens.
    fn believes_hard_verdicts(&self, answered: Option<&Answered>, next: &Shot) {
        let Some(answered) = answered.filter(|a| !a.stale && !a.asked.idle) else {
            return;
        };
        let Verdict::Unhealthy(fault) = &answered.verdict else {
            return;
        };
        let Some(known) = self.by_key(answered.asked.probe.member) else {
            return;
        };
        // What has just ended its dwell was told so before the verdict came.
        let closed = |domain: &str| {
            self.last
                .circuit(domain)
                .is_none_or(|c| c.0 == CircuitState::Closed)
        };
        let ours = fault.kind == FaultKind::Local && closed(&known.member.domain);
        if fault.kind != FaultKind::State && !ours && known.joining.is_none() {
            let (state, _) = next.circuit(&known.member.domain).expect("a member");
            let over = self.last.circuit(&known.member.domain);
            let over = over
                .and_then(|c| c.1)
                .is_some_and(|until| until <= self.now);
            assert!(
                state == CircuitState::Open || over,
                "a failure was not believed"
            );
        }
    }

    fn stale_answers_change_nothing(
        &self,
        answered: Option<&Answered>,
        effects: &[Effect],
        next: &Shot,
    ) {
        let Some(answered) = answered.filter(|a| a.stale) else {
            return;
        };
        let Some(known) = self.by_key(answered.asked.probe.member) else {
            return;
        };
        let id = &known.member.id;
        if let (Some(before), Some(after)) = (self.last.view(id), next.view(id)) {
            assert_eq!(before.verdict, after.verdict, "a stale verdict was noted");
        }
        let noted =
            |e: &Event| matches!(e, Event::HealthChanged { database, .. } if database == id);
        assert!(!events(effects).any(noted), "a stale verdict was told");
    }

    // --- what was ordered ---

    /// A refused order has changed nothing, and an accepted one what it said.
    fn shows_what_was_ordered(&self, next: &Shot) {
        let ids = |views: &[MemberView]| -> Vec<DatabaseId> {
            views.iter().map(|v| v.id.clone()).collect()
        };
        let known: Vec<_> = self.members.iter().map(|k| k.member.id.clone()).collect();
        assert_eq!(ids(&next.views), known);
        let settled = self.members.iter().any(|k| k.joining.is_none());
        assert!(settled, "the last one was removed");
        for (view, known) in next.views.iter().zip(&self.members) {
            let member = &known.member;
            assert_eq!(view.weight, member.weight, "{}", member.id);
            assert_eq!(view.enabled, member.enabled, "{}", member.id);
            assert_eq!(view.role, member.role, "{}", member.id);
            assert_eq!(view.failure_domain, *member.domain, "{}", member.id);
            assert_eq!(
                view.active,
                next.active == Some(member.key),
                "{}",
                member.id
            );
        }
        if let Some((key, _)) = self.forced
            && next.generation > 0
        {
            let waiting = next.active.is_none();
            assert!(waiting || next.active == Some(key), "force was not with it");
        }
    }

    // --- events ---

    fn follows_outages(&mut self, effects: &[Effect], next: &Shot) {
        for event in events(effects) {
            match event {
                Event::AllUnavailable { attempt, gave_up } => {
                    let (said, over) = self.outage.unwrap_or((0, false));
                    assert!(!over, "said after it had given up");
                    assert!(*attempt > said || *gave_up, "said twice");
                    assert!(*attempt <= self.config.failover.attempts);
                    self.outage = Some((*attempt, *gave_up));
                }
                Event::Recovered { database, .. } => {
                    assert!(self.outage.take().is_some(), "recovered from nothing");
                    let serving = next.serving.and_then(|key| self.by_key(key));
                    assert_eq!(serving.map(|k| &k.member.id), Some(database));
                }
                _ => {}
            }
        }
        if self.outage.is_some() {
            assert_eq!(next.serving, None, "an outage that is none");
        }
    }

    /// No event without a change.
    fn events_are_changes(&self, effects: &[Effect]) {
        for event in events(effects) {
            match event {
                Event::WeightChanged { from, to, .. } => assert_ne!(from, to),
                Event::EnabledChanged { database, enabled } => {
                    if let Some(before) = self.last.view(database) {
                        assert_ne!(before.enabled, *enabled);
                    }
                }
                Event::HealthChanged { database, verdict } => {
                    if let Some(before) = self.last.view(database) {
                        assert_ne!(before.verdict.as_ref(), Some(verdict), "{database}");
                    }
                }
                Event::NowhereToGo { database, .. } => {
                    let active = self.last.active.and_then(|key| self.by_key(key));
                    assert_eq!(active.map(|k| &k.member.id), Some(database));
                }
                _ => {}
            }
        }
    }
}

fn events(effects: &[Effect]) -> impl Iterator<Item = &Event> {
    effects.iter().filter_map(|effect| match effect {
        Effect::Emit(event) => Some(event),
        _ => None,
    })
}

fn is_zero(weight: Weight) -> bool {
    weight == Weight::ZERO
}
