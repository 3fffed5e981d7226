//! How much each database has been asked, what came of it, and how long it was the active one.

// Held for a few instructions: when a connection is made or ends, when the active database changes, and
// when somebody reads.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::backend::{Class, NotSent};
use super::calls::Calls;
use super::database::DatabaseId;

/// What one database has done since it was added. Every number but `in_flight` only grows.
///
/// Attempts are counted, of which a call that is tried again has several; calls that waited in vain for
/// a database have none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Its name.
    pub database: DatabaseId,
    /// Attempts that were answered, `refused` ones included.
    pub answered: u64,
    /// Attempts that it answered by refusing to run them.
    pub refused: u64,
    /// Attempts that certainly did not reach it.
    pub not_sent: u64,
    /// Attempts of which nobody knows whether they ran: no answer in time, or the connection ended.
    pub unknown: u64,
    /// Calls and leases that keep its connections in use at this moment.
    pub in_flight: usize,
    /// Connections for calls that were made.
    pub connections: u64,
    /// Probes that have come to an end.
    pub probes: u64,
    /// How long the last probe that found it well had waited for its first answer.
    pub round_trip: Option<Duration>,
    /// How often it has become the active one.
    pub activations: u64,
    /// How long it has been the active one.
    pub active: Duration,
}

/// Where the numbers of one database are kept, over connection after connection.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    answered: AtomicU64,
    refused: AtomicU64,
    not_sent: AtomicU64,
    unknown: AtomicU64,
    connections: AtomicU64,
    probes: AtomicU64,
    #[allow(clippy::disallowed_types)]
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Of connections that stand, or stood a moment ago.
    calls: Vec<Weak<Calls>>,
    round_trip: Option<Duration>,
    active: Duration,
    active_since: Option<Instant>,
    activations: u64,
}

impl Counters {
    /// A connection that counts its own answers from now on.
    pub(crate) fn connected(&self, calls: Weak<Calls>) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept();
        kept.calls.retain(|calls| calls.strong_count() > 0);
        kept.calls.push(calls);
    }

    /// Answers over a connection that does not count them, or has ended.
    pub(crate) fn answered(&self, attempts: u64) {
        self.answered.fetch_add(attempts, Ordering::Relaxed);
    }

    /// An attempt that was not plainly executed; whether its connection has counted an answer to it.
    pub(crate) fn count(&self, class: &Class, answer_counted: bool) {
        let (answer, other) = match class {
            Class::NotExecuted(_)
            | Class::Redirect { .. }
            | Class::NotServing(_)
            | Class::SessionInvalid => (true, Some(&self.refused)),
            Class::Executed => (true, None),
            Class::NotSent(NotSent::Local) => (false, None),
            Class::NotSent(NotSent::Connect | NotSent::Lost) => (false, Some(&self.not_sent)),
            Class::Unknown(_) => (false, Some(&self.unknown)),
        };
        self.answered(u64::from(answer && !answer_counted));
        if let Some(other) = other {
            other.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn probed(&self, round_trip: Option<Duration>) {
        self.probes.fetch_add(1, Ordering::Relaxed);
        if round_trip.is_some() {
            self.kept().round_trip = round_trip;
        }
    }

    pub(crate) fn set_active(&self, active: bool, now: Instant) {
        let mut kept = self.kept();
        match (active, kept.active_since) {
            (true, None) => {
                kept.active_since = Some(now);
                kept.activations += 1;
            }
            (false, Some(since)) => {
                kept.active += now.saturating_duration_since(since);
                kept.active_since = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    pub(crate) fn read(&self, database: DatabaseId, now: Instant) -> Statistics {
        let kept = self.kept();
        let calls: Vec<_> = kept.calls.iter().filter_map(Weak::upgrade).collect();
        let since = kept.active_since;
        let active = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        Statistics {
            database,
            answered: self.answered.load(Ordering::Relaxed)
                + calls.iter().map(|calls| calls.succeeded()).sum::<u64>(),
            refused: self.refused.load(Ordering::Relaxed),
            not_sent: self.not_sent.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            in_flight: calls.iter().map(|calls| calls.in_flight()).sum(),
            connections: self.connections.load(Ordering::Relaxed),
            probes: self.probes.load(Ordering::Relaxed),
            round_trip: kept.round_trip,
            activations: kept.activations,
            active: kept.active + active,
        }
    }

    #[allow(clippy::disallowed_types)]
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::backend::Doubt;

    #[tokio::test(start_paused = true)]
    async fn the_time_as_the_active_one_is_the_sum_of_its_times() {
        let counters = Counters::default();
        let read = || counters.read(DatabaseId::new("east").unwrap(), Instant::now());
        for _ in 0..2 {
            counters.set_active(true, Instant::now());
            tokio::time::advance(Duration::from_secs(3)).await;
            counters.set_active(true, Instant::now());
            tokio::time::advance(Duration::from_secs(1)).await;
            counters.set_active(false, Instant::now());
            tokio::time::advance(Duration::from_secs(9)).await;
        }
        assert_eq!(
            (read().active, read().activations),
            (Duration::from_secs(8), 2)
        );
        counters.set_active(true, Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            (read().active, read().activations),
            (Duration::from_secs(9), 3)
        );
    }

    #[test]
    fn an_attempt_that_never_left_us_is_none_of_the_databases() {
        let counters = Counters::default();
        counters.count(&Class::NotSent(NotSent::Local), false);
        counters.count(&Class::NotSent(NotSent::Lost), false);
        counters.count(&Class::Unknown(Doubt::TimedOut), false);
        let read = counters.read(DatabaseId::new("east").unwrap(), Instant::now());
        assert_eq!((read.not_sent, read.unknown, read.answered), (1, 1, 0));
    }
}
