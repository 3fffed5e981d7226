//! What the machine remembers of a member and of a failure domain.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Described, Machine, MemberKey, Ticket, guarded};
use crate::engine::backend::{Fault, Verdict};
use crate::engine::circuit::Circuit;
use crate::engine::config::CircuitConfig;
use crate::engine::database::{DatabaseId, Role, Weight};
use crate::engine::detector::{FailureDetector, SlidingWindow};
use crate::engine::event::Reason;

pub(super) struct Member {
    pub(super) key: MemberKey,
    pub(super) id: DatabaseId,
    pub(super) weight: Weight,
    pub(super) domain: Arc<str>,
    pub(super) enabled: bool,
    pub(super) role: Role,
    /// The last verdict; `None` before the first.
    pub(super) health: Option<Verdict>,
    /// When that was learnt.
    pub(super) health_at: Instant,
    /// Its traffic connection is up.
    pub(super) traffic: bool,
    /// Its traffic connection ended by itself, and has not been made anew.
    pub(super) lost: bool,
    /// When the last attempt that came out healthy had been started.
    pub(super) proven: Option<Instant>,
    /// Smoothed time of a healthy check.
    pub(super) rtt: Option<Duration>,
    pub(super) next_round: Instant,
    /// Rounds begun.
    pub(super) rounds: u64,
    /// Unhealthy verdicts in a row: how far the back-off has gone.
    pub(super) failures: u32,
    /// When the next suspicion may ask for an attempt.
    pub(super) next_suspicion: Instant,
    /// One that came sooner than that.
    pub(super) postponed: Option<Suspicion>,
    pub(super) reconnect: Reconnect,
    /// When its traffic connection was last found stuck and replaced.
    pub(super) replaced: Vec<Instant>,
    pub(super) last_resort: LastResort,
    /// Being verified before it joins.
    pub(super) joining: Option<Ticket>,
    /// To be removed as soon as it is no longer active.
    pub(super) removing: Option<Vec<Ticket>>,
}

/// Failing calls want an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    /// What a bad verdict will be called.
    pub(super) reason: Reason,
    /// Over a connection of its own.
    pub(super) fresh: bool,
}

/// A connection that ends as soon as it is made must not be remade in a tight loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reconnect {
    /// Due then; `None` while there is nothing to do.
    pub(super) at: Option<Instant>,
    pub(super) last_loss: Option<Instant>,
    pub(super) pause: Duration,
}

/// When a database in its dwell may be tried because nothing else is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastResort {
    pub(super) next: Instant,
    pub(super) pause: Duration,
}

pub(super) struct Domain {
    pub(super) circuit: Circuit,
    pub(super) detector: Box<dyn FailureDetector>,
    /// When the last refusals of the persistent kind came, oldest first.
    pub(super) refusals: VecDeque<Instant>,
    /// Refusals reported by callers and not yet judged.
    pub(super) unjudged: Option<u64>,
}

impl Member {
    pub(super) fn new(described: Described, now: Instant, first_pause: Duration) -> Self {
        let Described {
            key,
            id,
            weight,
            domain,
            enabled,
            role,
            grace_period: _,
        } = described;
        Self {
            key,
            id,
            weight,
            domain,
            enabled,
            role,
            health: None,
            health_at: now,
            traffic: false,
            lost: false,
            proven: None,
            rtt: None,
            next_round: now,
            rounds: 0,
            failures: 0,
            next_suspicion: now,
            postponed: None,
            replaced: Vec::new(),
            reconnect: Reconnect {
                at: None,
                last_loss: None,
                pause: Duration::ZERO,
            },
            last_resort: LastResort {
                next: now,
                pause: first_pause,
            },
            joining: None,
            removing: None,
        }
    }

    /// Four of its usual round trips: silence shorter than this says nothing.
    pub(super) fn slow(&self) -> Duration {
        self.rtt.unwrap_or_default() * 4
    }

    /// An exponentially weighted mean, as TCP smooths its round trips: one slow answer moves it by an eighth.
    pub(super) fn observe_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(match self.rtt {
            None => rtt,
            Some(mean) => (mean * 7 + rtt) / 8,
        });
    }

    /// Answered well at `since` or later, while its traffic connection was up.
    pub(super) fn well_since(&self, since: Instant) -> bool {
        let well = self.health.as_ref().is_some_and(Verdict::serves);
        self.traffic && well && self.health_at >= since
    }

    /// What is to be said against it, though it serves.
    pub(super) fn reservation(&self) -> Option<&Fault> {
        match &self.health {
            Some(Verdict::Degraded(fault)) => Some(fault),
            _ => None,
        }
    }

    /// Proven by an attempt that began at `since` or later, and still connected.
    pub(super) fn proven_since(&self, since: Instant) -> bool {
        self.traffic && self.proven.is_some_and(|started| started >= since)
    }
}

impl Machine {
    pub(super) fn join(&mut self, described: Described) -> MemberKey {
        let now = self.now;
        let key = described.key;
        let mut circuit: CircuitConfig = self.config.circuit.clone();
        if let Some(grace) = described.grace_period {
            circuit.grace_period = grace;
            circuit.max_grace_period = circuit.max_grace_period.max(grace);
        }
        let detector = guarded(|| (self.detectors)(&self.config.detector));
        let detector = detector.unwrap_or_else(|| {
            self.complain("failure detector");
            Box::new(SlidingWindow::new(self.config.detector.clone()))
        });
        self.domains
            .entry(described.domain.clone())
            .and_modify(|domain| {
                if let Some(grace) = described.grace_period {
                    domain.circuit.set_grace_period(grace);
                }
            })
            .or_insert_with(|| Domain {
                circuit: Circuit::new(circuit, now),
                detector,
                refusals: VecDeque::new(),
                unjudged: None,
            });
        let pause = self.config.failover.last_resort_min;
        let mut member = Member::new(described, now, pause);
        // The attempt made on joining stands in for the first round; phases are spread from the start.
        let interval = self.config.health.interval;
        member.next_round = now + interval.mul_f64(0.5 + 0.5 * self.rng.f64());
        self.members.push(member);
        self.out.publish = true;
        key
    }
}
