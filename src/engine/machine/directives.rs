//! What servers say of who serves: the word for another one, and the word that it is not this one.
//!
//! Neither is a failure. A server's word outranks weights and pins, touches no circuit, and stands until
//! the server says otherwise: a target that does not serve yet is asked again, since an announcement may
//! well run ahead of what it announces.

use std::time::Duration;

use tokio::time::Instant;

use super::members::Member;
use super::routing::{OrderKind, Plan};
use super::{Machine, MemberKey, Ticket};
use crate::engine::backend::{NotServing, Verdict};
use crate::engine::circuit::CircuitState;
use crate::engine::database::DatabaseId;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::event::{Event, Reason};

/// A server named a database that did not serve when it was asked.
pub(super) struct Wish {
    pub(super) target: MemberKey,
    cause: String,
    /// When it is asked again.
    next: Instant,
    pause: Duration,
}

/// The pauses between two looks at a database that will serve by its operator's doing.
const ASK_MIN: Duration = Duration::from_millis(50);
pub(super) const ASK_MAX: Duration = Duration::from_secs(1);

impl Machine {
    /// Who serves, by the word of a server. Compare-and-set on the generation at which it was given.
    pub(super) fn direct(
        &mut self,
        ticket: Ticket,
        id: &DatabaseId,
        observed: u64,
        cause: String,
    ) -> Result<Option<()>, Error> {
        let key = self.find(id)?;
        let superseded = || Err(Error::new(ErrorKind::Superseded).about(id));
        let current = observed == self.generation;
        let (planned, wished) = (self.plan.as_ref(), self.wish.as_ref());
        let same =
            planned.is_some_and(|p| p.goal == key) || wished.is_some_and(|w| w.target == key);
        let other =
            planned.is_some_and(|p| p.goal != key) || wished.is_some_and(|w| w.target != key);
        // Old news of the active one is no news; it takes back nothing that was said since.
        let there = self.active == Some(key) && !other;
        if !current && !same && !there {
            return superseded();
        }
        // It replaces a pin once it is followed; forcing outranks both.
        if self.forced().is_some_and(|target| target != key) {
            return superseded();
        }
        self.wish = None;
        self.out.publish = true;
        self.intend(ticket, key, OrderKind::Directive, Reason::Directed, cause)
    }

    /// The active one says that it does not serve. Compare-and-set, too: one that was left says so of
    /// the past.
    pub(super) fn stood_down(
        &mut self,
        id: &DatabaseId,
        observed: u64,
        what: NotServing,
    ) -> Result<(), Error> {
        let key = self.find(id)?;
        if observed != self.generation || self.active != Some(key) {
            return Err(Error::new(ErrorKind::Superseded).about(id));
        }
        self.note_health(key, &what.verdict());
        self.lose_order(key);
        Ok(())
    }

    /// A plan by a server's word has met a target that does not serve: it is asked again.
    pub(super) fn wish_for(&mut self, goal: MemberKey, cause: &str) {
        let Some(member) = self.member(goal) else {
            return;
        };
        if !self.may_come_to_serve(member) {
            return;
        }
        let database = member.id.clone();
        let known = self.wish.take().filter(|wish| wish.target == goal);
        if known.is_none() {
            let cause = cause.to_owned();
            self.emit(Event::DirectiveRefused { database, cause });
        }
        let pause = known.map_or(ASK_MIN, |wish| (wish.pause * 2).min(ASK_MAX));
        self.wish = Some(Wish {
            target: goal,
            cause: cause.to_owned(),
            next: self.now + pause,
            pause,
        });
    }

    /// It says that it does not serve, and nothing but that keeps it from it.
    pub(super) fn may_come_to_serve(&self, member: &Member) -> bool {
        let rests = matches!(member.health, Some(Verdict::Standby | Verdict::Suspended));
        let closed = self.domain_of(member).circuit.state() == CircuitState::Closed;
        rests && closed && Self::is_wanted(member) && self.fits_role(member)
    }

    /// The wish is tried once more, if nothing stronger is going on.
    pub(super) fn follow_wish(&mut self) {
        let Some(wish) = &self.wish else { return };
        let target = wish.target;
        if !self.member(target).is_some_and(Self::is_wanted) {
            return self.give_up_wish();
        }
        if wish.next > self.now || self.is_ordered() || self.forced().is_some() {
            return;
        }
        let cause = wish.cause.clone();
        self.drop_plan(ErrorKind::Superseded);
        self.plan = Some(Plan {
            goal: target,
            since: self.now,
            reason: Reason::Directed,
            cause,
            then: Some(OrderKind::Directive),
            tickets: Vec::new(),
        });
    }

    pub(super) fn wish_due(&self) -> Option<Instant> {
        Some(self.wish.as_ref()?.next)
    }

    /// Nothing is to come of it any more, though its target may be on the way.
    pub(super) fn give_up_wish(&mut self) {
        let follows = |plan: &mut Plan| plan.then.is_some() && plan.tickets.is_empty();
        self.plan.take_if(follows);
        self.wish = None;
        self.out.publish = true;
    }

    /// The member that a server's word leads to, whether it has been followed or not.
    pub fn directed_to(&self) -> Option<MemberKey> {
        let wished = self.wish.as_ref().map(|wish| wish.target);
        let planned = self
            .plan
            .as_ref()
            .filter(|p| p.then == Some(OrderKind::Directive));
        let ordered = self
            .order
            .as_ref()
            .filter(|o| o.kind == OrderKind::Directive);
        let planned = planned.map(|plan| plan.goal);
        wished.or(planned).or(ordered.map(|order| order.target))
    }

    /// When a member that does not serve is asked again although nothing else is left, if it is one.
    pub(super) fn next_ask(&mut self, key: MemberKey) {
        let now = self.now;
        if let Some(member) = self.member_mut(key) {
            let resort = &mut member.last_resort;
            let rested = now.duration_since(resort.next) > ASK_MAX * 2;
            let pause = if rested {
                ASK_MIN
            } else {
                resort.pause.min(ASK_MAX)
            };
            resort.next = now + pause;
            resort.pause = (pause * 2).min(ASK_MAX);
        }
    }
}
