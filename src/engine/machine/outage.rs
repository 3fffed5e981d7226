//! Nobody can serve: saying so, and trying what is in its dwell.

use tokio::time::Instant;

use super::members::Member;
use super::{Machine, MemberKey, Slot};
use crate::engine::circuit::CircuitState;
use crate::engine::event::{Event, Reason};

/// Nobody can serve.
pub(super) struct Outage {
    since: Instant,
    said: u32,
    pub(super) gave_up: bool,
}

impl Machine {
    /// Whether a member may be tried because nothing else is left.
    pub(super) fn is_last_resort(&self, key: MemberKey) -> bool {
        let Some(member) = self.member(key) else {
            return false;
        };
        let circuit = &self.domain_of(member).circuit;
        self.outage.is_some()
            && member.enabled
            && member.removing.is_none()
            && member.joining.is_none()
            && !member.weight.is_zero()
            && self.fits_role(member)
            && circuit.state() == CircuitState::Open
            && !circuit.is_held()
    }

    /// Whether a member is asked again and again while nobody can serve.
    pub(super) fn is_resort(&self, member: &Member) -> bool {
        self.is_last_resort(member.key) || self.may_come_to_serve(member)
    }

    pub(super) fn watch_outage(&mut self) {
        let now = self.now;
        if let Some(active) = self.serving() {
            if let Some(outage) = self.outage.take()
                && let Some(member) = self.member(active)
            {
                let database = member.id.clone();
                self.emit(Event::Recovered {
                    database,
                    after: now.duration_since(outage.since),
                });
            }
            return;
        }
        let others: Vec<_> = self.others().map(|m| m.key).collect();
        if self.choose(&others).is_some() {
            // Somebody may still prove fit; that is a search, not an outage.
            return;
        }
        let (attempts, delay) = (self.config.failover.attempts, self.config.failover.delay);
        let outage = self.outage.get_or_insert(Outage {
            since: now,
            said: 0,
            gave_up: false,
        });
        // By the clock: what was slept through is not made up for.
        let waited = now.duration_since(outage.since);
        let turn = waited.as_nanos() / delay.as_nanos().max(1);
        let attempt = attempts.min(u32::try_from(turn).unwrap_or(u32::MAX).saturating_add(1));
        let gave_up = waited >= delay * attempts;
        if attempt > outage.said || gave_up != outage.gave_up {
            (outage.said, outage.gave_up) = (attempt, gave_up);
            self.emit(Event::AllUnavailable { attempt, gave_up });
        }
        let tried: Vec<_> = self
            .members
            .iter()
            .filter(|m| m.last_resort.next <= now && self.is_resort(m))
            .filter(|m| !self.in_flight(m.key, |f| f.reason == Reason::LastResort))
            .map(|m| (m.key, self.is_last_resort(m.key)))
            .collect();
        let (min, max) = (
            self.config.failover.last_resort_min,
            self.config.failover.last_resort_max,
        );
        for (key, last) in tried {
            if !last {
                self.next_ask(key);
                if !self.is_proving(key) {
                    self.attempt(key, Slot::Traffic, Reason::HealthCheck);
                }
                continue;
            }
            if let Some(member) = self.member_mut(key) {
                let resort = &mut member.last_resort;
                let rested = now.duration_since(resort.next) > max * 2;
                let pause = if rested { min } else { resort.pause };
                resort.next = now + pause;
                resort.pause = (pause * 2).min(max);
            }
            self.attempt(key, Slot::Traffic, Reason::LastResort);
        }
    }

    pub(super) fn next_say(&self, outage: &Outage) -> Instant {
        outage.since + self.config.failover.delay * outage.said
    }
}
