//! Every default in one place.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::ConfigError;

/// How a client watches, switches, waits and retries.
///
/// Plain data: change the fields you care about and hand it to a builder, which validates it.
/// With the feature `serde` it can be read from TOML or JSON; durations are text such as `"500ms"`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Config {
    /// How long a call may take, and how it is repeated.
    pub calls: CallConfig,
    /// How fast a hang is believed.
    pub sensitivity: Sensitivity,
    /// When and how databases are probed.
    pub health: HealthConfig,
    /// When failing calls alone are enough to call a database bad.
    pub detector: DetectorConfig,
    /// How long a bad database stays out.
    pub circuit: CircuitConfig,
    /// How the client behaves while nothing is left, and how it returns.
    pub failover: FailoverConfig,
    /// What `connect()` waits for.
    pub start: StartConfig,
}

/// How long a call may take, and how it is repeated.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct CallConfig {
    /// The whole budget of a call: attempts, backoff and waiting for a database. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub deadline: Duration,
    /// How long one attempt may wait for its reply. Default 500 ms, as in redis-rs.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub response_timeout: Duration,
    /// How long opening a connection may take, handshake included. Default 1 s, as in redis-rs.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connect_timeout: Duration,
    /// The first pause before an operation is tried again. Default 20 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub backoff_min: Duration,
    /// The longest pause; each is drawn between 0 and a bound that doubles up to this. Default 1 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub backoff_max: Duration,
    /// Retries allowed per call made, so that retries cannot become a storm. Default 0.1.
    pub retry_ratio: f64,
    /// Retries allowed per second beside `retry_ratio`. Default 10.
    pub retry_floor: u32,
    /// Calls that may wait for a database at the same time; more are refused at once. Default 10 000.
    pub max_waiting: usize,
}

/// How long silence must last before it is believed to be a hang.
///
/// Redis runs one command at a time, so a long script *is* a hang to every client: the tolerance
/// must exceed the longest honest one. Half of it passes before anything is asked, half while the
/// suspect and a standby are being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Sensitivity {
    /// 1 s.
    Conservative,
    /// 300 ms: survives hiccups of 200 ms. The default.
    #[default]
    Balanced,
    /// 40 ms: for servers that never run anything slow.
    Fast,
    /// A tolerance of your own, 10 ms to 60 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    Custom(Duration),
}

/// When and how databases are probed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct HealthConfig {
    /// The pause between two rounds of a database, jittered by 10 %. Default 5 s (redis-py, StackExchange.Redis).
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub interval: Duration,
    /// Attempts per round and check. Default 3.
    pub probes: u32,
    /// The pause after a failed attempt of a round. Default 500 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub delay: Duration,
    /// How long one attempt may take. Default 3 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub timeout: Duration,
    /// How the attempts of a round make one verdict. Default `All`.
    pub policy: ProbePolicy,
    /// Every so many rounds it is looked, too, whether another connection can be made: a password that
    /// was changed and a lost SYN do not show on one that stands. Default 12, once a minute; 0: never.
    pub fresh_every: u32,
    /// The longest pause between two looks at a database that stays down. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_backoff: Duration,
}

/// How the attempts of a health round make one verdict. Decided as early as it is certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum ProbePolicy {
    /// Every attempt must be healthy. The default.
    #[default]
    All,
    /// More than half must be healthy.
    Majority,
    /// One healthy attempt is enough.
    Any,
}

/// When failing calls alone are enough to call a database bad.
///
/// Both a number and a share of calls must fail within the window, or a number in a row.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct DetectorConfig {
    /// What is looked at. Default 2 s (the peers' window).
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub window: Duration,
    /// The least number of failed calls in the window. Default 20 (the peers ask for 1000).
    pub min_failures: u64,
    /// The least share of failed calls in the window, 0 to 1. Default 0.1.
    pub failure_rate: f64,
    /// So many failures without one success are enough by themselves. Default 20.
    pub consecutive_failures: u64,
}

/// How long a bad database stays out.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct CircuitConfig {
    /// The first dwell of an open circuit; healthy probes do not shorten it. Default 60 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub grace_period: Duration,
    /// The dwell doubles with each reopening within the stability window, up to this. Default 10 min.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_grace_period: Duration,
    /// A circuit that stayed closed for so long starts with `grace_period` again. Default 10 min.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub stability_window: Duration,
    /// Healthy attempts in a row that close a half-open circuit. Default 2.
    pub recovery_probes: u32,
}

/// How the client behaves while nothing is left, and how it returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct FailoverConfig {
    /// While no database is usable: how often that is said before the client gives up. Default 10.
    pub attempts: u32,
    /// The time between two of them. Default 12 s; with `attempts` calls fail at once after 2 min.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub delay: Duration,
    /// Whether the client returns by itself to a heavier database that has recovered. Default true.
    pub auto_fallback: bool,
    /// How often that is looked at, besides at every recovery; jittered by 10 %. Default 120 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub fallback_interval: Duration,
    /// The first pause between two proofs of a database in its dwell while nothing else is left. Default 100 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub last_resort_min: Duration,
    /// The longest such pause. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub last_resort_max: Duration,
    /// What a planned switch does to the calls in flight on the old database. Default `Leave`.
    pub drain: Drain,
}

/// What a planned switch does to the calls in flight on the database it leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Drain {
    /// They end where they are, by their own deadline. No caller sees an error. The default.
    #[default]
    Leave,
    /// What is left after this time is cut off; its outcome is then unknown.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    Cancel(Duration),
}

/// What `connect()` waits for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct StartConfig {
    /// How many databases must answer. Default `One`: a restart during an outage must work.
    pub policy: StartPolicy,
    /// The bound on waiting. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub deadline: Duration,
}

/// How many databases must answer before a client starts. Decided as early as it is certain.
// Two functions that compare unequal although they do the same cost nobody anything here.
#[allow(unpredictable_function_pointer_comparisons)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum StartPolicy {
    /// Every one.
    All,
    /// More than half.
    Majority,
    /// At least one. The default.
    #[default]
    One,
    /// What a function of the counts says; see [`StartCounts`].
    #[cfg_attr(feature = "serde", serde(skip))]
    Custom(fn(StartCounts) -> Option<bool>),
}

/// How far the first look at all databases has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartCounts {
    /// Databases that answered and are healthy.
    pub available: usize,
    /// Databases that failed.
    pub failed: usize,
    /// Databases still being asked. 0 in the end: then `None` counts as a no.
    pub pending: usize,
}

// === defaults ===

impl Default for CallConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            response_timeout: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            retry_ratio: 0.1,
            retry_floor: 10,
            max_waiting: 10_000,
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            probes: 3,
            delay: Duration::from_millis(500),
            timeout: Duration::from_secs(3),
            policy: ProbePolicy::All,
            fresh_every: 12,
            max_backoff: Duration::from_secs(10),
        }
    }
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(2),
            min_failures: 20,
            failure_rate: 0.1,
            consecutive_failures: 20,
        }
    }
}

impl Default for CircuitConfig {
    fn default() -> Self {
        Self {
            grace_period: Duration::from_secs(60),
            max_grace_period: Duration::from_secs(600),
            stability_window: Duration::from_secs(600),
            recovery_probes: 2,
        }
    }
}

impl Default for FailoverConfig {
    fn default() -> Self {
        Self {
            attempts: 10,
            delay: Duration::from_secs(12),
            auto_fallback: true,
            fallback_interval: Duration::from_secs(120),
            last_resort_min: Duration::from_millis(100),
            last_resort_max: Duration::from_secs(5),
            drain: Drain::Leave,
        }
    }
}

impl Default for StartConfig {
    fn default() -> Self {
        Self {
            policy: StartPolicy::One,
            deadline: Duration::from_secs(5),
        }
    }
}

// === impl Sensitivity ===

impl Sensitivity {
    /// How long silence may last at most before a hang is believed, given that a standby answers.
    #[must_use]
    pub fn tolerance(self) -> Duration {
        match self {
            Self::Conservative => Duration::from_secs(1),
            Self::Balanced => Duration::from_millis(300),
            Self::Fast => Duration::from_millis(40),
            Self::Custom(tolerance) => tolerance,
        }
    }

    /// The age of the oldest unanswered command at which the suspect is asked.
    pub(crate) fn age(self) -> Duration {
        self.tolerance() / 2
    }

    /// How long the suspect may stay silent then.
    pub(crate) fn confirm(self) -> Duration {
        self.tolerance() / 2
    }
}

// === impl StartPolicy ===

impl StartPolicy {
    /// `Some` as soon as it is certain.
    pub(crate) fn decide(self, counts: StartCounts) -> Option<bool> {
        let StartCounts {
            available,
            failed,
            pending,
        } = counts;
        let total = available + failed + pending;
        let needed = match self {
            Self::All => total,
            Self::Majority => total / 2 + 1,
            Self::One => 1,
            Self::Custom(decide) => {
                return match decide(counts) {
                    None if pending == 0 => Some(false),
                    decided => decided,
                };
            }
        };
        if available >= needed {
            Some(true)
        } else if available + pending < needed {
            Some(false)
        } else {
            None
        }
    }
}

// === validation ===

impl Config {
    /// Checks every field, without any I/O.
    ///
    /// # Errors
    /// [`ConfigError`] with the path of the first field that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let calls = &self.calls;
        duration("calls.deadline", calls.deadline, TIMES)?;
        duration("calls.response_timeout", calls.response_timeout, TIMES)?;
        duration("calls.connect_timeout", calls.connect_timeout, TIMES)?;
        duration("calls.backoff_min", calls.backoff_min, TIMES)?;
        duration("calls.backoff_max", calls.backoff_max, TIMES)?;
        ordered("calls.backoff_max", calls.backoff_min, calls.backoff_max)?;
        ratio("calls.retry_ratio", calls.retry_ratio)?;
        count("calls.retry_floor", calls.retry_floor.into(), 0..=1_000_000)?;
        count("calls.max_waiting", calls.max_waiting as u64, 1..=1_000_000)?;

        let tolerance = Duration::from_millis(10)..=Duration::from_secs(60);
        duration("sensitivity", self.sensitivity.tolerance(), tolerance)?;

        let health = &self.health;
        duration("health.interval", health.interval, TIMES)?;
        count("health.probes", health.probes.into(), 1..=100)?;
        duration("health.delay", health.delay, Duration::ZERO..=*TIMES.end())?;
        duration("health.timeout", health.timeout, TIMES)?;
        duration("health.max_backoff", health.max_backoff, TIMES)?;

        let detector = &self.detector;
        duration("detector.window", detector.window, TIMES)?;
        count("detector.min_failures", detector.min_failures, COUNTS)?;
        ratio("detector.failure_rate", detector.failure_rate)?;
        count(
            "detector.consecutive_failures",
            detector.consecutive_failures,
            COUNTS,
        )?;

        let circuit = &self.circuit;
        duration("circuit.grace_period", circuit.grace_period, TIMES)?;
        duration("circuit.max_grace_period", circuit.max_grace_period, TIMES)?;
        ordered(
            "circuit.max_grace_period",
            circuit.grace_period,
            circuit.max_grace_period,
        )?;
        duration("circuit.stability_window", circuit.stability_window, TIMES)?;
        count(
            "circuit.recovery_probes",
            circuit.recovery_probes.into(),
            1..=100,
        )?;

        let failover = &self.failover;
        count("failover.attempts", failover.attempts.into(), 1..=10_000)?;
        duration("failover.delay", failover.delay, TIMES)?;
        duration(
            "failover.fallback_interval",
            failover.fallback_interval,
            TIMES,
        )?;
        duration("failover.last_resort_min", failover.last_resort_min, TIMES)?;
        duration("failover.last_resort_max", failover.last_resort_max, TIMES)?;
        ordered(
            "failover.last_resort_max",
            failover.last_resort_min,
            failover.last_resort_max,
        )?;
        if let Drain::Cancel(after) = failover.drain {
            duration("failover.drain", after, Duration::ZERO..=*TIMES.end())?;
        }
        duration("start.deadline", self.start.deadline, TIMES)
    }
}

/// Durations that make sense: anything outside is a slip of the pen, such as seconds for milliseconds.
pub(crate) const TIMES: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(86_400);
const COUNTS: RangeInclusive<u64> = 1..=u64::MAX;

pub(crate) fn duration(
    field: &str,
    value: Duration,
    allowed: RangeInclusive<Duration>,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (min, max) = (allowed.start(), allowed.end());
    Err(ConfigError::new(
        field,
        format!("{value:?} is not between {min:?} and {max:?}"),
    ))
}

fn count(field: &str, value: u64, allowed: RangeInclusive<u64>) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (min, max) = (allowed.start(), allowed.end());
    Err(ConfigError::new(
        field,
        format!("{value} is not between {min} and {max}"),
    ))
}

fn ratio(field: &str, value: f64) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(
        field,
        format!("{value} is not between 0 and 1"),
    ))
}

fn ordered(field: &str, min: Duration, max: Duration) -> Result<(), ConfigError> {
    if min <= max {
        return Ok(());
    }
    Err(ConfigError::new(
        field,
        format!("{max:?} is less than the minimum, {min:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    fn field_of(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.validate().unwrap_err().field().to_owned()
    }

    #[test]
    fn a_value_that_cannot_work_is_named_by_its_path() {
        let zero = Duration::ZERO;
        assert_eq!(field_of(|c| c.calls.deadline = zero), "calls.deadline");
        assert_eq!(
            field_of(|c| c.calls.response_timeout = Duration::MAX),
            "calls.response_timeout"
        );
        assert_eq!(
            field_of(|c| c.calls.backoff_max = Duration::from_millis(1)),
            "calls.backoff_max"
        );
        assert_eq!(
            field_of(|c| c.calls.retry_ratio = f64::NAN),
            "calls.retry_ratio"
        );
        assert_eq!(
            field_of(|c| c.sensitivity = Sensitivity::Custom(Duration::from_millis(1))),
            "sensitivity"
        );
        assert_eq!(field_of(|c| c.health.probes = 0), "health.probes");
        assert_eq!(
            field_of(|c| c.detector.failure_rate = -0.1),
            "detector.failure_rate"
        );
        assert_eq!(
            field_of(|c| c.circuit.max_grace_period = Duration::from_secs(1)),
            "circuit.max_grace_period"
        );
        assert_eq!(field_of(|c| c.failover.attempts = 0), "failover.attempts");
        assert_eq!(field_of(|c| c.start.deadline = zero), "start.deadline");
    }

    #[test]
    fn start_policies_decide_as_soon_as_it_is_certain() {
        let counts = |available, failed, pending| StartCounts {
            available,
            failed,
            pending,
        };
        assert_eq!(StartPolicy::One.decide(counts(0, 1, 1)), None);
        assert_eq!(StartPolicy::One.decide(counts(1, 0, 1)), Some(true));
        assert_eq!(StartPolicy::One.decide(counts(0, 2, 0)), Some(false));
        assert_eq!(StartPolicy::All.decide(counts(1, 1, 5)), Some(false));
        assert_eq!(StartPolicy::Majority.decide(counts(2, 0, 1)), Some(true));
        assert_eq!(StartPolicy::Majority.decide(counts(1, 0, 1)), None);
        assert_eq!(
            StartPolicy::Custom(|_| None).decide(counts(1, 1, 0)),
            Some(false)
        );
    }
}
