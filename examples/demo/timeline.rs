//! What was measured, moment by moment: for the live view and for the picture.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use multidb::MultiDbClient;
use multidb::redis::Redis;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::load::{Counts, Meter};

/// What happened between two looks.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// Since the show began.
    pub(crate) at: Duration,
    pub(crate) lasted: Duration,
    pub(crate) counts: Counts,
    /// Of the calls that were acknowledged meanwhile; zero if there were none.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) in_flight: u64,
    /// The database that calls were sent to at the end of it, if there was one.
    pub(crate) active: Option<String>,
}

impl Moment {
    /// Acknowledged calls per second.
    pub(crate) fn rate(&self) -> f64 {
        self.counts.acked as f64 / self.lasted.as_secs_f64()
    }
}

/// How often is looked. Fine enough to show an outage of a third of a second as what it is.
const BEAT: Duration = Duration::from_millis(25);

/// Looks until the client is closed; gives each moment to `tell` and returns them all.
pub(crate) fn record(
    began: Instant,
    client: MultiDbClient<Redis>,
    meter: Arc<Meter>,
    tell: impl Fn(&Moment) + Send + 'static,
) -> JoinHandle<Vec<Moment>> {
    tokio::spawn(async move {
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        // A late look is shown as what it is: a longer time.
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut moments = Vec::new();
        let (mut counts, mut latencies) = (meter.counts(), meter.latencies.counts());
        let mut last = Instant::now();
        loop {
            tokio::select! {
                biased;
                _ = client.wait_for(|now| now.status == multidb::Status::Closed) => return moments,
                _ = beat.tick() => {}
            }
            let now = Instant::now();
            let (so_far, timed) = (meter.counts(), meter.latencies.counts());
            let percentiles = timed.since(&latencies);
            let moment = Moment {
                at: now - began,
                lasted: now - last,
                counts: so_far.since(&counts),
                p50: percentiles.at(0.5),
                p99: percentiles.at(0.99),
                in_flight: meter.in_flight(),
                active: client.active().map(|id| id.to_string()),
            };
            tell(&moment);
            moments.push(moment);
            (counts, latencies, last) = (so_far, timed, now);
        }
    })
}

/// Counts latencies in buckets that are a tenth wider each than the one before.
#[derive(Debug)]
pub(crate) struct Latencies([AtomicU64; BUCKETS]);

/// The counts of [`Latencies`] at one moment, or between two.
#[derive(Clone, Debug)]
pub(crate) struct Timed(BTreeMap<usize, u64>);

const BUCKETS: usize = 140;
const FIRST: f64 = 10e-6;
const WIDER: f64 = 1.1;

impl Latencies {
    pub(crate) fn add(&self, took: Duration) {
        let bucket = (took.as_secs_f64() / FIRST).max(1.0).log(WIDER) as usize;
        self.0[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> Timed {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Timed(counts.enumerate().filter(|(_, count)| *count > 0).collect())
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Timed {
    fn since(&self, earlier: &Self) -> Self {
        let before = |bucket| earlier.0.get(bucket).copied().unwrap_or_default();
        let counts = self
            .0
            .iter()
            .map(|(bucket, n)| (*bucket, n - before(bucket)));
        Self(counts.filter(|(_, n)| *n > 0).collect())
    }

    /// The upper end of the bucket that this share of the calls stays below.
    fn at(&self, share: f64) -> Duration {
        let all: u64 = self.0.values().sum();
        let wanted = (all as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return Duration::from_secs_f64(FIRST * WIDER.powi(*bucket as i32 + 1));
            }
        }
        Duration::ZERO
    }
}
