//! Who serves: leaving the active member, finding a proven other one, switching, and having nobody.

use tokio::time::Instant;

use super::members::Member;
use super::trouble::{Sign, Trouble};
use super::{Effect, Machine, MemberKey, Phase, Slot, Ticket, guarded};
use crate::engine::backend::Verdict;
use crate::engine::database::Role;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::event::{Event, Reason};
use crate::engine::strategy::{Candidate, FailoverStrategy, HighestWeight};

/// A standing order about who serves. Forced outranks the circuit; a directive and a pin do not.
pub(super) struct Order {
    pub(super) kind: OrderKind,
    pub(super) target: MemberKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrderKind {
    Forced { until: Option<Instant> },
    Directive,
    Pin,
}

/// A move away from a member that is well.
pub(super) struct Plan {
    pub(super) goal: MemberKey,
    pub(super) since: Instant,
    pub(super) reason: Reason,
    pub(super) cause: String,
    /// What stands once the goal is reached; `None` for a fallback.
    pub(super) then: Option<OrderKind>,
    /// Who waits for it.
    pub(super) tickets: Vec<Ticket>,
}

impl Machine {
    // --- who could ---

    pub(super) fn fits_role(&self, member: &Member) -> bool {
        match self.required_role {
            Role::Primary => member.role == Role::Primary,
            Role::Replica => true,
        }
    }

    /// What it last said of itself does not keep it from serving.
    ///
    /// A fault is for its circuit to judge, and the active one stays until that has. Any other whose
    /// circuit is closed nevertheless, because its neighbour is well, is asked again by its rounds:
    /// asking it for a proof would go on without end.
    ///
    /// One that stands by is asked anew once the active one does: somebody serves.
    pub(super) fn is_ready(&self, member: &Member) -> bool {
        match member.health {
            Some(Verdict::Healthy | Verdict::Degraded(_)) | None => true,
            Some(Verdict::Unhealthy(_)) => self.active == Some(member.key),
            Some(Verdict::Standby | Verdict::Suspended) => {
                let turned = self.turned.is_some_and(|turned| member.health_at < turned);
                turned && self.active != Some(member.key)
            }
        }
    }

    /// Alive and of use, wanted or not.
    fn is_sound(&self, member: &Member) -> bool {
        self.domain_of(member).circuit.is_closed()
            && self.is_ready(member)
            && self.fits_role(member)
    }

    pub(super) fn is_wanted(member: &Member) -> bool {
        member.enabled && member.removing.is_none() && member.joining.is_none()
    }

    /// It may serve if it is proven. Weight is another matter.
    fn is_fit(&self, member: &Member) -> bool {
        Self::is_wanted(member) && self.is_sound(member)
    }

    pub(super) fn is_selectable(&self, member: &Member) -> bool {
        self.is_fit(member) && !member.weight.is_zero()
    }

    /// An order is put to the test: what the member said of itself `before` is not held against it.
    fn may_be_ordered(&self, member: &Member, before: Instant) -> bool {
        Self::is_wanted(member)
            && self.domain_of(member).circuit.is_closed()
            && self.fits_role(member)
            && (self.is_ready(member) || member.health_at < before)
    }

    /// Who serves by force.
    pub(super) fn forced(&self) -> Option<MemberKey> {
        let order = self.order.as_ref()?;
        matches!(order.kind, OrderKind::Forced { .. }).then_some(order.target)
    }

    /// Whether calls may be sent to it as the active one.
    ///
    /// A member being removed or disabled goes on serving until its successor is proven, so that a
    /// planned change costs nobody a call.
    pub(super) fn may_serve(&self, key: MemberKey) -> bool {
        let Some(member) = self.member(key) else {
            return false;
        };
        if self.forced() == Some(key) || self.is_fit(member) {
            return true;
        }
        let leaving = !member.enabled || member.removing.is_some();
        leaving && self.is_sound(member) && self.others().next().is_some()
    }

    pub(super) fn others(&self) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(|m| Some(m.key) != self.active && self.is_selectable(m))
    }

    /// The one to serve from among these members, given in the order in which they joined.
    pub(super) fn choose(&mut self, among: &[MemberKey]) -> Option<MemberKey> {
        if among.is_empty() {
            return None;
        }
        // The active one is not left for what is said against it.
        let reserved = |key: &MemberKey| {
            let member = self.member(*key);
            Some(*key) != self.active && member.is_some_and(|m| m.reservation().is_some())
        };
        let mut without = Vec::new();
        if among.iter().any(reserved) {
            without.extend(among.iter().copied().filter(|key| !reserved(key)));
        }
        let among = match without.is_empty() {
            true => among,
            false => &without,
        };
        let candidates: Vec<_> = among
            .iter()
            .filter_map(|&key| self.member(key))
            .map(|m| Candidate {
                id: &m.id,
                weight: m.weight,
                role: m.role,
                active: self.active == Some(m.key),
            })
            .collect();
        let (index, panicked) = match guarded(|| self.strategy.choose(&candidates)) {
            Some(None) => return None,
            Some(Some(index)) if index < candidates.len() => (index, false),
            Some(Some(_)) | None => (HighestWeight.choose(&candidates)?, true),
        };
        if panicked {
            self.complain("failover strategy");
        }
        Some(among[index])
    }

    // --- time ---

    pub(super) fn expire_routing(&mut self) {
        let now = self.now;
        if let Some(Order {
            kind: OrderKind::Forced { until: Some(until) },
            ..
        }) = &self.order
            && *until <= now
        {
            self.order = None;
            self.out.publish = true;
        }
        if self.verdict_ends().is_some_and(|at| at <= now) {
            self.trouble = None;
        }
    }

    pub(super) fn routing_deadline(&self) -> Option<Instant> {
        let forced = match self.order.as_ref().map(|order| order.kind) {
            Some(OrderKind::Forced { until }) => until,
            Some(OrderKind::Directive | OrderKind::Pin) | None => None,
        };
        let sign = match self.trouble.as_ref().map(|trouble| &trouble.sign) {
            Some(Sign::Stall { confirm_at, .. }) => Some(*confirm_at),
            Some(Sign::Verdict { .. }) => self.verdict_ends(),
            Some(Sign::Suspicion | Sign::Down) | None => None,
        };
        let confirm = self.config.sensitivity.confirm();
        let proof = self.first_proof.map(|first| first + confirm);
        let preparation = self.preparation_ends();
        let say = self.outage.as_ref().map(|outage| self.next_say(outage));
        let resorts = self.outage.iter().flat_map(|_| {
            let last = self.members.iter().filter(|m| self.is_resort(m));
            last.map(|m| m.last_resort.next)
        });
        [
            Some(self.next_fallback),
            forced,
            sign,
            proof,
            preparation,
            say,
            self.wish_due(),
        ]
        .into_iter()
        .flatten()
        .chain(resorts)
        // A time that has passed and was not acted upon would make the supervisor spin.
        .filter(|&at| at > self.now)
        .min()
    }

    // --- deciding ---

    pub(super) fn route(&mut self) {
        if let Some(target) = self.forced() {
            if self.active != Some(target) {
                self.switch(target, Reason::Forced, "ordered".to_owned(), self.now);
            }
            self.trouble = None;
            self.answer_plan(target);
        } else {
            self.check_active();
            self.follow_wish();
            if self.is_ordered() {
                self.follow_plan();
            }
            if self.trouble.is_some() {
                self.flee();
            } else if !self.is_ordered() {
                self.improve();
            }
        }
        if self.trouble.is_none() {
            self.first_proof = None;
            if self.plan.is_none() {
                self.forget_preparation();
            }
        }
        self.judge();
    }

    /// A switch was ordered, which outranks what the weights say.
    pub(super) fn is_ordered(&self) -> bool {
        self.plan.as_ref().is_some_and(|p| p.then.is_some())
    }

    /// The active member may have become unable to serve without a circuit having opened.
    fn check_active(&mut self) {
        let Some(key) = self.active else {
            if self.trouble.is_none() {
                self.raise(Sign::Down, Reason::Initial, "start");
                // What was proven by the attempts of the start counts.
                let first = self.flights.values().map(|f| f.started);
                let proven = self.members.iter().filter_map(|m| m.proven);
                if let (Some(first), Some(trouble)) =
                    (first.chain(proven).min(), self.trouble.as_mut())
                {
                    (trouble.since, trouble.proof) = (first, first);
                }
            }
            return;
        };
        let Some(member) = self.member(key) else {
            return;
        };
        if self.is_fit(member) {
            if matches!(
                self.trouble,
                Some(Trouble {
                    sign: Sign::Down,
                    ..
                })
            ) {
                self.trouble = None;
            }
            return;
        }
        let (reason, cause) = if member.removing.is_some() {
            (Reason::Removed, "removed")
        } else if !member.enabled {
            (Reason::Disabled, "disabled")
        } else if !self.is_ready(member) {
            (Reason::Standby, "it says that it does not serve")
        } else if !self.fits_role(member) {
            (Reason::HealthCheck, "its role has changed")
        } else {
            (Reason::HealthCheck, "its circuit is open")
        };
        self.down(reason, cause);
        if reason == Reason::Standby {
            self.trust_the_others();
        }
    }

    /// Away from an active member in trouble, to whoever is proven.
    fn flee(&mut self) {
        let Some(trouble) = &self.trouble else { return };
        let since = trouble.proof;
        // Told to leave one that is well, such as one that is disabled: others may go ahead.
        let planned = matches!(trouble.sign, Sign::Down) && self.serving().is_some();
        // What shows the active one bad shows its failure domain bad; what it was told to do does not.
        let bad = match trouble.sign {
            Sign::Down => None,
            Sign::Suspicion | Sign::Stall { .. } | Sign::Verdict { .. } => self.active_domain(),
        };
        let others: Vec<_> = self
            .others()
            .filter(|m| Some(&m.domain) != bad.as_ref())
            .map(|m| m.key)
            .collect();
        for &key in &others {
            self.prove(key, since);
        }
        let ready = match &self.trouble.as_ref().map(|t| &t.sign) {
            Some(Sign::Down | Sign::Verdict { .. }) => true,
            Some(Sign::Stall { .. }) => self.stall_is_certain(),
            Some(Sign::Suspicion) | None => false,
        };
        if !ready {
            return;
        }
        if let Some(target) = self.pick(&others, since) {
            // Somebody's order has its own target, and is under way.
            if !planned || (!self.is_ordered() && self.is_prepared(target)) {
                self.leave_for(target);
            }
        } else if !others.iter().any(|&key| self.is_proving(key)) {
            self.corner();
        }
    }

    /// The best of the proven, unless a better one may still answer in time.
    fn pick(&mut self, candidates: &[MemberKey], since: Instant) -> Option<MemberKey> {
        let hint = self.hint.as_ref().filter(|_| self.generation == 0);
        let first = hint.and_then(|id| Some(self.by_id(id)?.key));
        let first = first.filter(|key| candidates.contains(key));
        let top = match first {
            Some(key) => key,
            None => self.choose(candidates)?,
        };
        let proven: Vec<_> = candidates
            .iter()
            .copied()
            .filter(|&key| self.member(key).is_some_and(|m| m.proven_since(since)))
            .collect();
        if proven.contains(&top) {
            return Some(top);
        }
        let best = self.choose(&proven)?;
        let first = *self.first_proof.get_or_insert(self.now);
        let waited = self.now.duration_since(first) >= self.config.sensitivity.confirm()
            || matches!(self.phase, Phase::Choosing(until) if self.now >= until);
        let better_is_coming = candidates
            .iter()
            .any(|&key| !proven.contains(&key) && self.is_proving(key));
        (waited || !better_is_coming).then_some(best)
    }

    fn leave_for(&mut self, target: MemberKey) {
        let Some(Trouble {
            since,
            proof: _,
            sign,
            reason,
            cause,
        }) = self.trouble.take()
        else {
            return;
        };
        if let Some(left) = self.active {
            self.lose_order(left);
        }
        if let Some(domain) = self.active_domain() {
            match sign {
                Sign::Stall { .. } => self.trip(&domain, true, reason, &cause),
                Sign::Verdict { .. } => self.trip(&domain, false, reason, &cause),
                Sign::Suspicion | Sign::Down => {}
            }
        }
        self.switch(target, reason, cause, since);
    }

    /// In trouble, and nobody to go to.
    fn corner(&mut self) {
        if let Some(member) = self.active.and_then(|key| self.member(key))
            && member.removing.is_some()
        {
            return self.keep_or_lose(member.key);
        }
        let Some(Trouble {
            sign: Sign::Verdict { cornered, .. },
            cause,
            ..
        }) = &mut self.trouble
        else {
            return;
        };
        if std::mem::replace(cornered, true) {
            return;
        }
        let cause = cause.clone();
        if let Some(member) = self.active.and_then(|key| self.member(key)) {
            let database = member.id.clone();
            self.emit(Event::NowhereToGo { database, cause });
        }
    }

    /// It was to be removed, and nobody can take its place.
    fn keep_or_lose(&mut self, key: MemberKey) {
        let Some(member) = self.member(key) else {
            return;
        };
        if !member.enabled || !self.is_sound(member) {
            return self.vacate(key);
        }
        // It goes on serving: nothing has changed.
        let error = Error::new(ErrorKind::Unhealthy).about(&member.id);
        self.trouble = None;
        self.out.publish = true;
        let tickets = self.member_mut(key).and_then(|m| m.removing.take());
        for ticket in tickets.into_iter().flatten() {
            self.answer(ticket, Err(error.clone()));
        }
    }

    /// Calls that a server's state refused have waited for this.
    fn judge(&mut self) {
        let deciding = matches!(
            &self.trouble,
            Some(Trouble {
                sign: Sign::Verdict {
                    cornered: false,
                    ..
                },
                ..
            })
        );
        // Whatever a forced one says, it stays.
        let cornered = self.forced().is_some()
            || matches!(
                &self.trouble,
                Some(Trouble {
                    sign: Sign::Verdict { cornered: true, .. },
                    ..
                })
            );
        let active = self.active_domain();
        for (name, domain) in &mut self.domains {
            let is_active = active.as_ref() == Some(name);
            if is_active && deciding {
                continue;
            }
            if let Some(refusals) = domain.unjudged.take() {
                self.out.others.push(Effect::Judged {
                    domain: name.clone(),
                    refusals,
                    cornered: is_active && cornered,
                });
            }
        }
    }

    /// All is well: is another one wanted more?
    fn improve(&mut self) {
        let Some(active) = self.active else { return };
        let goal = match &self.order {
            Some(order)
                if self
                    .member(order.target)
                    .is_some_and(|member| self.is_fit(member)) =>
            {
                Some(order.target)
            }
            _ if self.auto_fallback || self.wanted => {
                let all: Vec<_> = self
                    .members
                    .iter()
                    .filter(|m| self.is_selectable(m))
                    .map(|m| m.key)
                    .collect();
                self.choose(&all)
            }
            _ => Some(active),
        };
        match goal {
            Some(goal) if goal != active => {
                if self.plan.as_ref().is_none_or(|p| p.goal != goal) {
                    self.drop_plan(ErrorKind::Superseded);
                    self.plan = Some(Plan {
                        goal,
                        since: self.now,
                        reason: Reason::Fallback,
                        cause: "it is wanted more".to_owned(),
                        then: None,
                        tickets: Vec::new(),
                    });
                }
                self.follow_plan();
            }
            _ => {
                self.wanted = false;
                if self.plan.as_ref().is_some_and(|p| p.then.is_none()) {
                    self.plan = None;
                }
            }
        }
    }

    fn follow_plan(&mut self) {
        let Some(plan) = &self.plan else { return };
        let (goal, since, reason, manual) =
            (plan.goal, plan.since, plan.reason, plan.then.is_some());
        let fit = self.member(goal).is_some_and(|m| {
            if manual {
                self.may_be_ordered(m, since)
            } else {
                self.is_selectable(m)
            }
        });
        if !fit {
            if plan.then == Some(OrderKind::Directive) {
                let cause = plan.cause.clone();
                self.wish_for(goal, &cause);
            }
            self.drop_plan(ErrorKind::Unhealthy);
            return;
        }
        if self.serving() != Some(goal) {
            self.prove(goal, since);
            if !self.member(goal).is_some_and(|m| m.proven_since(since)) {
                return;
            }
        }
        if self.active == Some(goal) {
            self.answer_plan(goal);
            return;
        }
        if !self.is_prepared(goal) {
            return;
        }
        let cause = self
            .plan
            .as_ref()
            .map_or_else(String::new, |p| p.cause.clone());
        self.switch(goal, reason, cause, since);
    }

    pub(super) fn drop_plan(&mut self, kind: ErrorKind) {
        let Some(plan) = self.plan.take() else { return };
        let mut error = Error::new(kind);
        if let Some(member) = self.member(plan.goal) {
            error = error.about(&member.id);
            if let Some(Verdict::Unhealthy(fault)) = &member.health {
                error = error.caused_by(fault.clone());
            }
        }
        for ticket in plan.tickets {
            self.answer(ticket, Err(error.clone()));
        }
    }

    /// Whoever waited for a switch hears how it came out.
    fn answer_plan(&mut self, now_active: MemberKey) {
        if self.plan.as_ref().is_some_and(|p| p.goal != now_active) {
            self.drop_plan(ErrorKind::Superseded);
            return;
        }
        let Some(plan) = self.plan.take() else { return };
        if let Some(kind) = plan.then
            && self.forced().is_none()
        {
            self.order = Some(Order {
                kind,
                target: now_active,
            });
            self.out.publish = true;
        }
        for ticket in plan.tickets {
            self.answer(ticket, Ok(()));
        }
    }

    pub(super) fn answer(&mut self, ticket: Ticket, result: Result<(), Error>) {
        self.out.answers.push(Effect::Answer { ticket, result });
    }

    pub(super) fn switch(
        &mut self,
        target: MemberKey,
        reason: Reason,
        cause: String,
        since: Instant,
    ) {
        let Some(to) = self.member(target).map(|m| m.id.clone()) else {
            return;
        };
        let from = self.active.replace(target);
        let left = self.announced.replace(to.clone());
        self.generation += 1;
        self.trouble = None;
        self.preparation = None;
        self.first_proof = None;
        self.wanted = false;
        // Said of another one than the one that is active now.
        self.wish = None;
        self.turned = None;
        let event = Event::ActiveChanged {
            generation: self.generation,
            from: left,
            to,
            reason,
            cause,
            since_detection: self.now.saturating_duration_since(since),
            in_flight: 0,
        };
        self.emit(event);
        let reserved = self.member(target).and_then(Member::reservation);
        if let Some(cause) = reserved.map(|fault| fault.what.clone()) {
            let database = self.announced.clone();
            if let Some(database) = database {
                self.emit(Event::ChosenDegraded { database, cause });
            }
        }
        self.answer_plan(target);
        if let Some(from) = from {
            // It stands by from now on: one connection, which carries its own probes.
            self.out.aborts.push(Effect::Abort {
                member: from,
                slot: Slot::Probe,
            });
            self.flights
                .retain(|_, f| f.member != from || f.slot != Slot::Probe);
            self.out
                .probes
                .retain(|p| p.member != from || p.slot != Slot::Probe);
            if self.member(from).is_some_and(|m| m.traffic) {
                self.out.others.push(Effect::Drain {
                    member: from,
                    how: self.config.failover.drain,
                });
            }
            self.finish_removal(from);
        }
        // The new one gets its probe connection before it is needed.
        self.attempt(target, Slot::Probe, Reason::HealthCheck);
        if let Some(member) = self.member_mut(target)
            && !member.traffic
        {
            member.reconnect.at = Some(member.reconnect.at.unwrap_or(since));
        }
    }
}
