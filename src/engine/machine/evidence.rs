//! What the callers' traffic shows of a failure domain.

use std::sync::Arc;
use std::time::Duration;

use super::members::Suspicion;
use super::probing::Kind;
use super::trouble::FoundBy;
use super::{Evidence, Machine, MemberKey, Slot, guarded};
use crate::engine::event::Reason;

/// Three replies that say "not now" within this time are a verdict.
const REFUSAL_WINDOW: Duration = Duration::from_secs(1);
const REFUSALS: usize = 3;
/// Failing calls ask for an attempt at most this often.
const SUSPICION_PAUSE: Duration = Duration::from_millis(100);

impl Machine {
    /// Whether anything may follow from it. As long as all calls succeed, nothing does, five times a
    /// second.
    pub(super) fn evidence(&mut self, evidence: &Evidence) -> bool {
        let now = self.now;
        let Some(domain) = self.domains.get_mut(&evidence.domain) else {
            return false;
        };
        if evidence.refusals > 0 {
            domain.unjudged = Some(evidence.refusals);
        }
        let unjudged = domain.unjudged.is_some();
        if domain.circuit.episode() != evidence.episode || !domain.circuit.is_closed() {
            return unjudged;
        }
        if evidence.wrote {
            domain.refusals.clear();
        }
        for _ in 0..evidence.repeated.min(REFUSALS as u32) {
            domain.refusals.push_back(now);
        }
        while domain
            .refusals
            .front()
            .is_some_and(|&at| now.duration_since(at) > REFUSAL_WINDOW)
        {
            domain.refusals.pop_front();
        }
        let persistent = domain.refusals.len() >= REFUSALS;
        domain.refusals.truncate(REFUSALS);
        let mut bad = guarded(|| domain.detector.observe(now, evidence.seen));
        let name = evidence.domain.clone();
        let refused = evidence.at_once.is_some() || evidence.repeated > 0;
        if evidence.wrote
            && !refused
            && self.active_domain().as_ref() == Some(&name)
            && self.absolve(FoundBy::Refusals, now)
            && let Some(domain) = self.domains.get_mut(&name)
        {
            // The refusals in its window are of the state that is over.
            bad = guarded(|| domain.detector.reset()).map(|()| false);
        }
        if bad.is_none() {
            self.replace_detector(&name);
        }
        if let Some(code) = evidence.at_once {
            self.bad(&name, FoundBy::Refusals, code);
        } else if persistent {
            let code = evidence.repeated_code.unwrap_or("refused");
            self.bad(&name, FoundBy::Refusals, code);
        } else if bad == Some(true) {
            self.bad(&name, FoundBy::Detector, "too many calls failed");
        }
        let failing = evidence.seen.failed > 0 || evidence.silent || evidence.denied;
        if failing {
            self.suspicion(&name, evidence.denied);
        }
        failing || unjudged || persistent || evidence.at_once.is_some() || bad != Some(false)
    }

    fn bad(&mut self, domain: &Arc<str>, by: FoundBy, cause: &str) {
        if self.active_domain().as_ref() == Some(domain) {
            self.verdict(by, cause);
        } else {
            self.trip(domain, false, by.reason(), cause);
        }
    }

    /// Failing calls wake a probe; they need not wait for a round.
    fn suspicion(&mut self, domain: &Arc<str>, denied: bool) {
        let active = self.active.and_then(|key| self.member(key));
        let Some(member) = active.filter(|m| m.domain == *domain) else {
            return;
        };
        let reason = if member.traffic || denied {
            Reason::HealthCheck
        } else {
            Reason::ConnectionLost
        };
        // An old connection keeps its rights after a password has changed; a new one tells.
        self.wake_probe(member.key, reason, denied);
    }

    /// One attempt over the probe connection, at most so often.
    pub(super) fn wake_probe(&mut self, key: MemberKey, reason: Reason, fresh: bool) {
        let now = self.now;
        let Some(member) = self.member_mut(key) else {
            return;
        };
        if member.next_suspicion > now {
            // Not dropped: the attempt under way may have been answered before the calls failed.
            let fresh = fresh || member.postponed.is_some_and(|known| known.fresh);
            member.postponed = Some(Suspicion { reason, fresh });
            return;
        }
        member.next_suspicion = now + SUSPICION_PAUSE;
        if fresh || !self.in_flight(key, |f| f.slot == Slot::Probe && f.kind == Kind::Attempt) {
            self.ask(key, Slot::Probe, Kind::Attempt, reason, fresh);
        } else if let Some(member) = self.member_mut(key) {
            // It may take longer than the pause, and was begun before this came.
            member.postponed = Some(Suspicion { reason, fresh });
        }
    }
}
