//! What operators, servers and topologies order.

use std::time::Duration;

use super::members::Member;
use super::routing::{Order, OrderKind, Plan};
use super::trouble::Sign;
use super::{Described, Effect, Machine, MemberKey, Slot, Ticket, Verb, guarded};
use crate::engine::backend::Verdict;
use crate::engine::database::{DatabaseId, Weight};
use crate::engine::error::{Error, ErrorKind};
use crate::engine::event::{Event, Reason};

impl Machine {
    pub(super) fn obey(&mut self, ticket: Ticket, verb: Verb) {
        let result = match verb {
            Verb::Add { member, verify } => self.add(ticket, member, verify),
            Verb::Remove(id) => self.remove(ticket, &id),
            Verb::SetWeight(id, weight) => self.set_weight(&id, weight).map(Some),
            Verb::SetEnabled(id, enabled) => self.set_enabled(&id, enabled).map(Some),
            Verb::SwitchTo(id) => self.switch_to(ticket, &id),
            Verb::Force(id, time) => self.force(&id, time).map(Some),
            Verb::Unpin => {
                self.order = None;
                self.give_up_wish();
                self.out.publish = true;
                Ok(Some(()))
            }
            Verb::SetAutoFallback(on) => {
                self.auto_fallback = on;
                Ok(Some(()))
            }
            Verb::Reset(id) => self.reset(&id).map(Some),
            Verb::ForceOpen(id) => self.force_open(&id).map(Some),
            Verb::Direct {
                to,
                observed,
                cause,
            } => self.direct(ticket, &to, observed, cause),
            Verb::StandDown {
                database,
                observed,
                what,
            } => self.stood_down(&database, observed, what).map(Some),
            Verb::Topology { epoch, members } => self.topology(epoch, members).map(Some),
        };
        match result {
            Ok(Some(())) => self.answer(ticket, Ok(())),
            // Answered when it has come out.
            Ok(None) => {}
            Err(error) => self.answer(ticket, Err(error)),
        }
    }

    /// A database that is still being verified is no member yet.
    pub(super) fn find(&self, id: &DatabaseId) -> Result<MemberKey, Error> {
        match self.by_id(id).filter(|m| m.joining.is_none()) {
            Some(member) => Ok(member.key),
            None => Err(Error::new(ErrorKind::UnknownDatabase).about(id)),
        }
    }

    fn add(
        &mut self,
        ticket: Ticket,
        described: Described,
        verify: bool,
    ) -> Result<Option<()>, Error> {
        let id = described.id.clone();
        if self.by_id(&id).is_some() {
            return Err(Error::new(ErrorKind::DuplicateDatabase).about(&id));
        }
        let key = self.join(described);
        if verify {
            if let Some(member) = self.member_mut(key) {
                member.joining = Some(ticket);
            }
        } else {
            self.announce(key);
        }
        self.attempt(key, Slot::Traffic, Reason::HealthCheck);
        Ok((!verify).then_some(()))
    }

    fn announce(&mut self, key: MemberKey) {
        self.wanted = true;
        if let Some(member) = self.member(key) {
            let (database, weight) = (member.id.clone(), member.weight);
            self.emit(Event::Added { database, weight });
        }
    }

    pub(super) fn joined(&mut self, key: MemberKey, ticket: Ticket) {
        self.announce(key);
        self.answer(ticket, Ok(()));
    }

    pub(super) fn refuse_joining(&mut self, key: MemberKey, ticket: Ticket, verdict: &Verdict) {
        let Some(member) = self.member(key) else {
            return;
        };
        let mut error = Error::new(ErrorKind::Unhealthy).about(&member.id);
        if let Verdict::Unhealthy(fault) = verdict {
            error = error.caused_by(fault.clone());
        }
        self.forget(key);
        self.answer(ticket, Err(error));
    }

    fn remove(&mut self, ticket: Ticket, id: &DatabaseId) -> Result<Option<()>, Error> {
        let key = self.find(id)?;
        let staying = |m: &Member| m.key != key && m.removing.is_none() && m.joining.is_none();
        if !self.members.iter().any(staying) {
            return Err(Error::new(ErrorKind::LastDatabase).about(id));
        }
        if self.active != Some(key) {
            self.retire(key);
            return Ok(Some(()));
        }
        if let Some(waiting) = self.member_mut(key).and_then(|m| m.removing.as_mut()) {
            waiting.push(ticket);
            return Ok(None);
        }
        if !self.may_serve(key) {
            // There is nothing to be handed over.
            self.vacate(key);
            return Ok(Some(()));
        }
        let heirs = |m: &Member| m.key != key && self.is_selectable(m);
        if !self.members.iter().any(heirs) {
            // Removing the only one that serves would be an outage by order.
            return Err(Error::new(ErrorKind::Unhealthy).about(id));
        }
        if let Some(member) = self.member_mut(key) {
            member.removing = Some(vec![ticket]);
        }
        self.lose_order(key);
        if matches!(
            self.order,
            Some(Order { kind: OrderKind::Forced { .. }, target }) if target == key
        ) {
            self.order = None;
        }
        Ok(None)
    }

    /// The active member has changed; was the old one to be removed?
    pub(super) fn finish_removal(&mut self, key: MemberKey) {
        if self.member(key).is_some_and(|m| m.removing.is_some()) {
            self.retire(key);
        }
    }

    /// The active member is gone at once, and nobody is in its place.
    pub(super) fn vacate(&mut self, key: MemberKey) {
        self.retire(key);
        self.active = None;
        self.raise(Sign::Down, Reason::Removed, "it is no longer a member");
    }

    fn retire(&mut self, key: MemberKey) {
        let Some(database) = self.member(key).map(|m| m.id.clone()) else {
            return;
        };
        self.forget(key);
        self.emit(Event::Removed { database });
    }

    fn forget(&mut self, key: MemberKey) {
        if self.order.as_ref().is_some_and(|o| o.target == key) {
            self.order = None;
        }
        let Some(index) = self.members.iter().position(|m| m.key == key) else {
            return;
        };
        let gone = self.members.remove(index);
        for ticket in gone.removing.into_iter().flatten() {
            self.answer(ticket, Ok(()));
        }
        if let Some(ticket) = gone.joining {
            let error = Error::new(ErrorKind::Superseded).about(&gone.id);
            self.answer(ticket, Err(error));
        }
        if !self.members.iter().any(|m| m.domain == gone.domain) {
            self.domains.remove(&gone.domain);
        }
        self.flights.retain(|_, f| f.member != key);
        self.out.probes.retain(|p| p.member != key);
        self.out.publish = true;
        self.out.others.push(Effect::Forget { member: key });
    }

    fn set_weight(&mut self, id: &DatabaseId, weight: Weight) -> Result<(), Error> {
        let key = self.find(id)?;
        let Some(member) = self.member_mut(key) else {
            return Ok(());
        };
        let from = std::mem::replace(&mut member.weight, weight);
        if from != weight {
            let database = member.id.clone();
            self.wanted = true;
            self.emit(Event::WeightChanged {
                database,
                from,
                to: weight,
            });
        }
        Ok(())
    }

    fn set_enabled(&mut self, id: &DatabaseId, enabled: bool) -> Result<(), Error> {
        let key = self.find(id)?;
        let Some(member) = self.member_mut(key) else {
            return Ok(());
        };
        if std::mem::replace(&mut member.enabled, enabled) != enabled {
            let database = member.id.clone();
            self.wanted = true;
            self.emit(Event::EnabledChanged { database, enabled });
        }
        if !enabled && self.order.as_ref().is_some_and(|o| o.target == key) {
            self.order = None;
        }
        Ok(())
    }

    fn switch_to(&mut self, ticket: Ticket, id: &DatabaseId) -> Result<Option<()>, Error> {
        let key = self.find(id)?;
        self.intend(
            ticket,
            key,
            OrderKind::Pin,
            Reason::Manual,
            "ordered".to_owned(),
        )
    }

    /// Prove it, switch to it, and let `then` stand.
    pub(super) fn intend(
        &mut self,
        ticket: Ticket,
        goal: MemberKey,
        then: OrderKind,
        reason: Reason,
        cause: String,
    ) -> Result<Option<()>, Error> {
        if self.plan.as_ref().is_some_and(|p| p.goal != goal) {
            self.drop_plan(ErrorKind::Superseded);
        }
        // Whoever asked for the same goal gets it, and what proved it for them proves it for this.
        let (since, mut tickets) = match self.plan.take() {
            Some(plan) => (plan.since, plan.tickets),
            None => (self.now, Vec::new()),
        };
        tickets.push(ticket);
        self.plan = Some(Plan {
            goal,
            since,
            reason,
            cause,
            then: Some(then),
            tickets,
        });
        Ok(None)
    }

    fn force(&mut self, id: &DatabaseId, time: Option<std::time::Duration>) -> Result<(), Error> {
        let key = self.find(id)?;
        if self
            .member(key)
            .is_some_and(|m| !m.enabled || m.removing.is_some())
        {
            return Err(Error::new(ErrorKind::Unhealthy).about(id));
        }
        // Longer than time itself is until it is unpinned.
        let until = time.and_then(|time| self.now.checked_add(time));
        self.order = Some(Order {
            kind: OrderKind::Forced { until },
            target: key,
        });
        self.out.publish = true;
        Ok(())
    }

    fn reset(&mut self, id: &DatabaseId) -> Result<(), Error> {
        let key = self.find(id)?;
        let now = self.now;
        let Some(domain) = self.member(key).map(|m| m.domain.clone()) else {
            return Ok(());
        };
        let Some(entry) = self.domains.get_mut(&domain) else {
            return Ok(());
        };
        let from = entry.circuit.state();
        if entry.circuit.reset(now) {
            self.circuit_changed(&domain, from, Reason::Manual, "reset");
        }
        if let Some(entry) = self.domains.get_mut(&domain) {
            entry.refusals.clear();
            if guarded(|| entry.detector.reset()).is_none() {
                self.replace_detector(&domain);
            }
        }
        for member in self.members.iter_mut().filter(|m| m.domain == domain) {
            // What was found before is forgiven with the rest.
            if matches!(member.health, Some(Verdict::Unhealthy(_))) {
                member.health = None;
            }
            member.next_suspicion = now;
            member.reconnect.last_loss = None;
            member.reconnect.pause = Duration::ZERO;
        }
        if self.active_domain().as_ref() == Some(&domain) {
            self.trouble = None;
        }
        self.out.publish = true;
        Ok(())
    }

    fn force_open(&mut self, id: &DatabaseId) -> Result<(), Error> {
        let key = self.find(id)?;
        let now = self.now;
        let Some(domain) = self.member(key).map(|m| m.domain.clone()) else {
            return Ok(());
        };
        let Some(entry) = self.domains.get_mut(&domain) else {
            return Ok(());
        };
        let from = entry.circuit.state();
        if entry.circuit.hold_open(now) {
            self.circuit_changed(&domain, from, Reason::Manual, "forced open");
            self.opened(
                &domain,
                false,
                Reason::Manual,
                "its circuit was forced open",
            );
        }
        self.out.publish = true;
        Ok(())
    }

    fn topology(&mut self, epoch: u64, described: Vec<Described>) -> Result<(), Error> {
        if epoch <= self.topology_epoch {
            return Err(Error::new(ErrorKind::Superseded));
        }
        if described.is_empty() {
            return Err(Error::new(ErrorKind::LastDatabase));
        }
        for (index, new) in described.iter().enumerate() {
            if described[..index].iter().any(|d| d.id == new.id) {
                return Err(Error::new(ErrorKind::DuplicateDatabase).about(&new.id));
            }
        }
        self.topology_epoch = epoch;
        let gone: Vec<_> = self
            .members
            .iter()
            .filter(|m| !described.iter().any(|d| d.id == m.id))
            .map(|m| m.key)
            .collect();
        for new in described {
            match self.by_id(&new.id).map(|m| m.key) {
                Some(key) => {
                    if let Some(ticket) = self.member_mut(key).and_then(|m| m.joining.take()) {
                        // The topology vouches for it.
                        self.joined(key, ticket);
                    }
                    let leaving = self.member_mut(key).and_then(|m| m.removing.take());
                    for ticket in leaving.into_iter().flatten() {
                        let error = Error::new(ErrorKind::Superseded).about(&new.id);
                        self.answer(ticket, Err(error));
                    }
                    self.set_weight(&new.id, new.weight)?;
                    self.set_enabled(&new.id, new.enabled)?;
                    if let Some(member) = self.member_mut(key)
                        && member.role != new.role
                    {
                        member.role = new.role;
                        self.wanted = true;
                        self.out.publish = true;
                    }
                }
                None => {
                    let key = self.join(new);
                    self.announce(key);
                    self.attempt(key, Slot::Traffic, Reason::HealthCheck);
                }
            }
        }
        for key in gone {
            if self.active == Some(key) {
                // A topology states what is; there is no old place left to serve from meanwhile.
                self.vacate(key);
            } else if self.member(key).is_some_and(|m| m.joining.is_some()) {
                self.forget(key);
            } else {
                self.retire(key);
            }
        }
        Ok(())
    }
}
