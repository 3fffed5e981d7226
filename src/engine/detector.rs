//! Deciding from the callers' own traffic that a database is bad.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::config::DetectorConfig;

/// Decides from observed calls that a failure domain is bad.
///
/// One per failure domain, owned by the machine; it is given the time and never asks for it.
/// A panic falls back to the default [`SlidingWindow`].
pub trait FailureDetector: Send + 'static {
    /// Takes what happened since the last observation; true means bad.
    fn observe(&mut self, now: Instant, seen: Observed) -> bool;
    /// Forgets everything: the circuit has changed.
    fn reset(&mut self);
}

/// A failure policy of the crate [`failsafe`], as a failure detector: for those who have tuned one.
///
/// The times that a policy wants a database to be left alone for are not heeded: the dwell of a circuit
/// is `circuit.grace_period`. Its own windows follow the real clock, not a paused one. A busy database
/// costs it a step per call, where [`SlidingWindow`] takes thousands in one.
///
/// ```
/// use std::time::Duration;
/// use failsafe::{backoff, failure_policy};
/// use multidb::FailsafePolicy;
/// # use multidb::engine::builder::Builder;
/// # fn example<B: multidb::engine::backend::Backend>(builder: Builder<B>) -> Builder<B> {
/// builder.failure_detector(|_| {
///     let pause = backoff::constant(Duration::from_secs(60));
///     FailsafePolicy::new(failure_policy::consecutive_failures(5, pause))
/// })
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FailsafePolicy<P>(P);

/// Calls that ended since the last observation. One attempt is one; so is a pipeline or transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observed {
    /// Calls that were answered by a database doing its work.
    pub succeeded: u64,
    /// Calls that are evidence against the database.
    pub failed: u64,
}

/// A true sliding window over time: old calls leave it one bucket at a time.
#[derive(Clone, Debug)]
pub struct SlidingWindow {
    config: DetectorConfig,
    /// Oldest first; each holds the calls of one bucket of time.
    buckets: VecDeque<Bucket>,
    total: Observed,
    in_a_row: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    start: Instant,
    seen: Observed,
}

/// More buckets make the edge of the window sharper and cost memory; ten err by a tenth.
const BUCKETS: u32 = 10;

// === impl Observed ===

impl Observed {
    /// Calls that ended well and badly.
    #[must_use]
    pub fn new(succeeded: u64, failed: u64) -> Self {
        Self { succeeded, failed }
    }
}

// === impl FailsafePolicy ===

impl<P: failsafe::FailurePolicy + Send + 'static> FailsafePolicy<P> {
    /// Decides by this policy.
    #[must_use]
    pub fn new(policy: P) -> Self {
        Self(policy)
    }
}

impl<P: failsafe::FailurePolicy + Send + 'static> FailureDetector for FailsafePolicy<P> {
    /// Which of the calls came first is not known; failures are taken to be the latest.
    fn observe(&mut self, _: Instant, seen: Observed) -> bool {
        for _ in 0..seen.succeeded {
            self.0.record_success();
        }
        let mut bad = false;
        for _ in 0..seen.failed {
            bad |= self.0.mark_dead_on_failure().is_some();
        }
        bad
    }

    fn reset(&mut self) {
        self.0.revived();
    }
}

// === impl SlidingWindow ===

impl SlidingWindow {
    /// A window with these thresholds.
    #[must_use]
    pub fn new(config: DetectorConfig) -> Self {
        Self {
            config,
            buckets: VecDeque::with_capacity(BUCKETS as usize + 1),
            total: Observed::default(),
            in_a_row: 0,
        }
    }

    /// The thresholds of redis-py, Jedis, Lettuce and StackExchange.Redis: 1000 failures and 10 %
    /// of the calls within 2 s, never by failures in a row.
    #[must_use]
    pub fn peers() -> DetectorConfig {
        DetectorConfig {
            window: Duration::from_secs(2),
            min_failures: 1000,
            failure_rate: 0.1,
            consecutive_failures: u64::MAX,
        }
    }

    fn roll(&mut self, now: Instant) {
        while let Some(oldest) = self.buckets.front() {
            // A bucket leaves when its last moment is out of the window.
            if now.duration_since(oldest.start) < self.config.window + self.bucket_length() {
                break;
            }
            self.total.succeeded -= oldest.seen.succeeded;
            self.total.failed -= oldest.seen.failed;
            self.buckets.pop_front();
        }
    }

    fn bucket_length(&self) -> Duration {
        self.config.window / BUCKETS
    }
}

impl FailureDetector for SlidingWindow {
    fn observe(&mut self, now: Instant, seen: Observed) -> bool {
        self.roll(now);
        let length = self.bucket_length();
        match self.buckets.back_mut() {
            Some(bucket) if now.duration_since(bucket.start) < length => {
                bucket.seen.succeeded += seen.succeeded;
                bucket.seen.failed += seen.failed;
            }
            _ => self.buckets.push_back(Bucket { start: now, seen }),
        }
        self.total.succeeded += seen.succeeded;
        self.total.failed += seen.failed;
        // A success somewhere between the failures breaks the row; where exactly is not known, so
        // the failures beside it are not counted either.
        self.in_a_row = if seen.succeeded > 0 {
            0
        } else {
            self.in_a_row + seen.failed
        };

        let Observed { succeeded, failed } = self.total;
        let rate = failed as f64 / (succeeded + failed).max(1) as f64;
        (failed >= self.config.min_failures && rate >= self.config.failure_rate)
            || self.in_a_row >= self.config.consecutive_failures
    }

    fn reset(&mut self) {
        self.buckets.clear();
        self.total = Observed::default();
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_failsafes_decides() {
        let pause = failsafe::backoff::constant(Duration::from_secs(1));
        let policy = failsafe::failure_policy::consecutive_failures(3, pause);
        let mut detector = FailsafePolicy::new(policy);
        let now = Instant::now();
        assert!(!detector.observe(now, Observed::new(0, 2)));
        assert!(!detector.observe(now, Observed::new(1, 2)), "not in a row");
        assert!(detector.observe(now, Observed::new(0, 1)));
        detector.reset();
        assert!(!detector.observe(now, Observed::new(0, 2)));
    }

    fn window() -> (SlidingWindow, Instant) {
        (
            SlidingWindow::new(DetectorConfig::default()),
            Instant::now(),
        )
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_number_and_a_share_must_both_fail() {
        let (mut w, t) = window();
        assert!(!w.observe(t, Observed::new(1, 19)));
        assert!(w.observe(t + ms(1), Observed::new(1, 1)));

        let (mut w, t) = window();
        assert!(!w.observe(t, Observed::new(1000, 100)), "9 % is not 10 %");
        assert!(w.observe(t, Observed::new(1, 20)));
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let (mut w, t) = window();
        assert!(!w.observe(t, Observed::new(1, 19)));
        // Still inside at 2 s; gone once the whole bucket is outside.
        assert!(w.clone().observe(t + ms(2000), Observed::new(1, 1)));
        assert!(!w.observe(t + ms(2200), Observed::new(1, 1)));
    }

    #[test]
    fn old_successes_do_not_outvote_new_failures() {
        let (mut w, t) = window();
        for i in 0..20 {
            assert!(!w.observe(t + ms(i * 100), Observed::new(100_000, 0)));
        }
        assert!(w.observe(t + ms(4300), Observed::new(10, 20)));
    }

    #[test]
    fn failures_in_a_row_are_enough_without_a_window() {
        let (mut w, t) = window();
        for i in 0..19 {
            assert!(!w.observe(t + ms(i * 3000), Observed::new(0, 1)));
        }
        assert!(w.observe(t + ms(60_000), Observed::new(0, 1)));
    }

    #[test]
    fn a_success_breaks_the_row() {
        let (mut w, t) = window();
        w.observe(t, Observed::new(0, 19));
        assert!(!w.observe(t + ms(3000), Observed::new(1, 0)));
        assert!(!w.observe(t + ms(6000), Observed::new(0, 19)));
    }

    #[test]
    fn a_reset_forgets() {
        let (mut w, t) = window();
        w.observe(t, Observed::new(0, 19));
        w.reset();
        assert!(!w.observe(t, Observed::new(0, 19)));
    }

    #[test]
    fn the_peers_need_a_thousand() {
        let mut w = SlidingWindow::new(SlidingWindow::peers());
        let t = Instant::now();
        assert!(!w.observe(t, Observed::new(0, 999)));
        assert!(w.observe(t, Observed::new(0, 1)));
    }
}
