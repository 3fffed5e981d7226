//! Signs that something is wrong with the active member, and what it takes to believe them.

use std::time::Duration;

use tokio::time::Instant;

use super::members::Member;
use super::probing::Kind;
use super::routing::OrderKind;
use super::{Machine, MemberKey, ProbeId, Slot};
use crate::engine::backend::Verdict;
use crate::engine::event::Reason;

/// Something is wrong with the active member.
pub(super) struct Trouble {
    /// The first sign.
    pub(super) since: Instant,
    /// A proof of another member must have begun then or later.
    pub(super) proof: Instant,
    pub(super) sign: Sign,
    pub(super) reason: Reason,
    pub(super) cause: String,
}

pub(super) enum Sign {
    /// A lost connection: others are proven in advance, nothing is decided.
    Suspicion,
    /// No byte although an answer is due; the suspect has been asked.
    Stall {
        suspect: Option<ProbeId>,
        confirm_at: Instant,
        /// The time was up once already. Answers that lay in the socket have been read since.
        looked: bool,
    },
    /// It refuses or fails calls. It is left once another one is proven, and only then.
    Verdict {
        /// When it was last confirmed.
        last: Instant,
        /// By what, and so by what it is refuted.
        found: FoundBy,
        /// Nobody can take its place, which has been said.
        cornered: bool,
    },
    /// It cannot serve.
    Down,
}

/// What a verdict on a member that goes on answering rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundBy {
    /// Its answers to callers: a write that succeeds refutes it.
    Refusals,
    /// Its answer to a probe: a healthy one refutes it.
    Probe,
    /// The failure detector, whose window forgets.
    Detector,
    /// Connections that fell silent one after the other.
    Connections,
}

/// What the sweep and the supervisor may be late before their silence stops being evidence.
const OVERRUN: Duration = Duration::from_millis(5);
/// Silence is timed from the sweep that saw its last byte, up to a tick after the call began.
const COARSE: Duration = Duration::from_millis(5);
/// A verdict without news for so long is history.
const VERDICT_MEMORY: Duration = Duration::from_secs(10);
/// Time for answers that wait in the socket to be read before silence is believed.
const LAST_LOOK: Duration = Duration::from_millis(1);

impl FoundBy {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Refusals | Self::Probe => Reason::ServerState,
            Self::Detector | Self::Connections => Reason::FailureDetector,
        }
    }
}

impl Machine {
    pub(super) fn raise(&mut self, sign: Sign, reason: Reason, cause: &str) {
        let now = (self.now, self.now);
        // What was trusted for another reason is not trusted for this one.
        let known = self.trouble.as_ref();
        let (since, proof) = known.map_or(now, |t| (t.since, t.proof.max(t.since)));
        self.trouble = Some(Trouble {
            since,
            proof,
            sign,
            reason,
            cause: cause.to_owned(),
        });
    }

    /// The active member may be in trouble: get proofs of the others, so that they are at hand.
    pub(super) fn suspect(&mut self, reason: Reason, cause: &str) {
        if self.trouble.is_none() {
            self.raise(Sign::Suspicion, reason, cause);
        }
    }

    /// The active member refuses or fails calls.
    pub(super) fn verdict(&mut self, by: FoundBy, cause: &str) {
        let now = self.now;
        match &mut self.trouble {
            Some(Trouble {
                sign: Sign::Verdict { last, found, .. },
                ..
            }) => {
                *last = now;
                *found = by;
            }
            Some(Trouble {
                sign: Sign::Down, ..
            }) => {}
            _ => self.raise(
                Sign::Verdict {
                    last: now,
                    found: by,
                    cornered: false,
                },
                by.reason(),
                cause,
            ),
        }
    }

    /// What was held against the active member up to `asked` is refuted: nobody need flee from it.
    pub(super) fn absolve(&mut self, by: FoundBy, asked: Instant) -> bool {
        let refuted = matches!(
            self.trouble,
            Some(Trouble {
                sign: Sign::Verdict { found, last, .. },
                ..
            }) if found == by && last <= asked
        );
        if refuted {
            self.trouble = None;
        }
        refuted
    }

    /// When the verdict on the active member is history, if there is one.
    pub(super) fn verdict_ends(&self) -> Option<Instant> {
        let Sign::Verdict { last, found, .. } = self.trouble.as_ref()?.sign else {
            return None;
        };
        let memory = match found {
            FoundBy::Detector => self.config.detector.window,
            FoundBy::Refusals | FoundBy::Probe | FoundBy::Connections => VERDICT_MEMORY,
        };
        Some(last + memory)
    }

    /// The active member cannot serve any more.
    pub(super) fn down(&mut self, reason: Reason, cause: &str) {
        if !matches!(
            self.trouble,
            Some(Trouble {
                sign: Sign::Down,
                ..
            })
        ) {
            self.raise(Sign::Down, reason, cause);
        }
    }

    pub(super) fn stalled(&mut self, key: MemberKey, age: Duration, overdue: bool) {
        if age.is_zero() {
            return self.spoke(key);
        }
        if self.serving() != Some(key) || age < self.stall_age() {
            return;
        }
        let asked = match self.trouble {
            None
            | Some(Trouble {
                sign: Sign::Suspicion,
                ..
            }) => false,
            Some(Trouble {
                sign: Sign::Stall { .. },
                ..
            }) => true,
            Some(_) => return,
        };
        // The suspect answered when it was asked about this silence, and a ping over the callers' own
        // connection has not: it is the connection. While it is being asked once more, what it said a
        // moment ago stands: to wait would let callers begin further calls on that connection.
        let patience = if asked { self.confirm().min(age) } else { age };
        let since = self.now.checked_sub(patience).unwrap_or(self.now);
        let well = self.member(key).is_some_and(|m| m.well_since(since));
        // Not for the sake of one handle that has less patience than the others.
        let long = overdue && age + COARSE >= self.config.calls.response_timeout;
        if well && long && self.is_idle_silent(key, self.confirm()) {
            let cause = format!("no answer on it for {} ms", age.as_millis());
            self.replace(key, &cause);
            return;
        }
        if asked {
            return;
        }
        // Who is being asked is not asked again: a forced one that hangs would be, with every report.
        // What it was asked in another episode does not count: that answer will be dropped.
        let episode = self.episode(key);
        let asking = self.flights.iter().find(|(_, flight)| {
            flight.member == key
                && flight.slot == Slot::Probe
                && flight.kind == Kind::Attempt
                && Some(flight.episode) == episode
        });
        let suspect = match asking {
            Some((&id, _)) => Some(id),
            None => self.attempt(key, Slot::Probe, Reason::Stalled),
        };
        let confirm_at = self.now + self.confirm();
        let cause = format!("no answer for {} ms", age.as_millis());
        self.raise(
            Sign::Stall {
                suspect,
                confirm_at,
                looked: false,
            },
            Reason::Stalled,
            &cause,
        );
    }

    /// The suspect could not be asked.
    pub(super) fn drop_suspect(&mut self, id: ProbeId) {
        let asked = |trouble: &mut Trouble| matches!(&trouble.sign, Sign::Stall { suspect, .. } if *suspect == Some(id));
        self.trouble.take_if(asked);
    }

    /// A call was answered while the suspect was being asked: it is slow, and no more than that.
    fn spoke(&mut self, key: MemberKey) {
        let stalled = matches!(
            self.trouble,
            Some(Trouble {
                sign: Sign::Stall { .. },
                ..
            })
        );
        if stalled && self.active == Some(key) {
            self.trouble = None;
        }
    }

    /// We were late, so answers may lie in the socket: they get two sweeps of time that we have watched.
    /// Not the whole time again, which a throttled process would never get to the end of.
    pub(super) fn overrun(&mut self) {
        let watched = self.now + OVERRUN * 2;
        if let Some(Trouble {
            sign: Sign::Stall {
                confirm_at, looked, ..
            },
            ..
        }) = &mut self.trouble
        {
            *confirm_at = watched.max(*confirm_at);
            *looked = false;
        }
    }

    pub(super) fn confirm(&self) -> Duration {
        let floor = self
            .active
            .and_then(|key| self.member(key))
            .map_or(Duration::ZERO, Member::slow);
        self.config.sensitivity.confirm().max(floor)
    }

    /// A member with a closed circuit answered an attempt.
    pub(super) fn cleared(&mut self, id: ProbeId, flight: &super::Flight) {
        if self.active != Some(flight.member) {
            return;
        }
        self.absolve(FoundBy::Probe, flight.started);
        let connected = self.member(flight.member).is_some_and(|m| m.traffic);
        match &self.trouble {
            Some(Trouble {
                sign: Sign::Suspicion,
                since,
                ..
            }) if connected && flight.started >= *since => self.trouble = None,
            Some(Trouble {
                sign: Sign::Stall { suspect, .. },
                ..
            }) if *suspect == Some(id) => {
                self.trouble = None;
                // Then it may be the connection: a ping over it will tell.
                self.ask_idle(flight.member);
            }
            _ => {}
        }
    }

    /// What was in its dwell serves after all.
    pub(super) fn resort(&mut self, cause: &str) {
        if let Some(trouble) = &mut self.trouble {
            trouble.reason = Reason::LastResort;
            trouble.cause = cause.to_owned();
        }
    }

    /// It says that it does not serve, which is no failure: whoever was well a moment ago need not be
    /// asked first. One that is not after all says so without having done any harm.
    pub(super) fn trust_the_others(&mut self) {
        let others = self.others();
        let warm = others.filter(|m| m.traffic && m.health.as_ref().is_some_and(Verdict::serves));
        let first = warm.filter_map(|m| m.proven).min();
        if let (Some(first), Some(trouble)) = (first, &mut self.trouble)
            && trouble.reason == Reason::Standby
        {
            trouble.proof = trouble.proof.min(first);
        }
    }

    /// A pinned or directed member that fails loses that for good.
    pub(super) fn lose_order(&mut self, key: MemberKey) {
        if self
            .order
            .as_ref()
            .is_some_and(|o| o.target == key && !matches!(o.kind, OrderKind::Forced { .. }))
        {
            self.order = None;
        }
    }

    /// The suspect has been silent for long enough, and we were there to notice.
    pub(super) fn stall_is_certain(&mut self) -> bool {
        let now = self.now;
        let Some(Trouble {
            sign: Sign::Stall {
                confirm_at, looked, ..
            },
            ..
        }) = &mut self.trouble
        else {
            return false;
        };
        if now < *confirm_at {
            return false;
        }
        if now.duration_since(*confirm_at) > OVERRUN && !*looked {
            *confirm_at = now + OVERRUN;
            return false;
        }
        if !*looked {
            *looked = true;
            *confirm_at = now + LAST_LOOK;
            return false;
        }
        true
    }
}
