//! Whether, when and how often an operation is tried again. Pure functions of what is known.

// Taken on the failure path only.
use std::sync::Arc;
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use backon::BackoffBuilder;
use tokio::time::Instant;

use super::backend::{Class, NotSent, NotServing, Refusal};
use super::config::CallConfig;
use super::database::DatabaseId;
use super::run::LONGEST;

/// Bounds of the pauses between attempts: each bound is one item, the pause is drawn below it.
pub type Pauses = Box<dyn Iterator<Item = Duration> + Send>;

/// Makes the pauses of one call; called when its first attempt has failed.
pub type Backoff = Arc<dyn Fn() -> Pauses + Send + Sync>;

/// What to do after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Hand what the driver returned to the caller.
    Return,
    /// Not known to have run or not, and not harmless to repeat: say so.
    Doubt,
    /// Try again, here or elsewhere.
    Again,
    /// Try again once it is decided whether this database is left.
    AfterVerdict,
    /// Tell the machine where the server points, then try again.
    Follow(DatabaseId),
    /// Tell the machine that this one does not serve, then try again.
    Leave(NotServing),
}

/// The rule: nothing that may have run is run again, unless running it twice does no harm.
pub(crate) fn next(class: &Class, repeatable: bool) -> Next {
    match class {
        Class::Executed => Next::Return,
        Class::NotSent(NotSent::Local) => Next::Return,
        Class::NotSent(NotSent::Connect | NotSent::Lost) => Next::Again,
        Class::NotExecuted(Refusal::State(state)) if state.elsewhere => Next::AfterVerdict,
        Class::NotExecuted(Refusal::State(_) | Refusal::Caller | Refusal::Denied) => Next::Return,
        Class::Unknown(_) if repeatable => Next::Again,
        Class::Unknown(_) => Next::Doubt,
        Class::Redirect { to } => Next::Follow(to.clone()),
        Class::NotServing(what) => Next::Leave(*what),
        Class::SessionInvalid => Next::Again,
    }
}

/// Doubling bounds from `backoff_min` to `backoff_max`, without end: the deadline ends them.
pub(crate) fn default_backoff(config: &CallConfig) -> Backoff {
    let builder = backon::ExponentialBuilder::default()
        .with_factor(2.0)
        .with_min_delay(config.backoff_min)
        .with_max_delay(config.backoff_max)
        .without_max_times();
    Arc::new(move || Box::new(builder.build()))
}

/// Full jitter: anywhere between nothing and the bound, so that callers do not come back in step.
pub(crate) fn pause(bound: Duration, rng: &mut fastrand::Rng) -> Duration {
    bound.min(LONGEST).mul_f64(rng.f64())
}

/// Keeps retries a fraction of the calls, so that they cannot become the load that keeps a database down.
pub(crate) struct Budget {
    ratio: f64,
    floor: f64,
    #[allow(clippy::disallowed_types)]
    state: Mutex<BudgetState>,
}

struct BudgetState {
    tokens: f64,
    at: Instant,
    calls: u64,
}

/// So many seconds of the floor can be saved up.
const SAVED_SECONDS: f64 = 10.0;

impl Budget {
    #[allow(clippy::disallowed_types)]
    pub(crate) fn new(config: &CallConfig, now: Instant) -> Self {
        let floor = f64::from(config.retry_floor);
        Self {
            ratio: config.retry_ratio,
            floor,
            state: Mutex::new(BudgetState {
                tokens: floor * SAVED_SECONDS,
                at: now,
                calls: 0,
            }),
        }
    }

    /// Takes one retry; `calls` is the number of calls that have succeeded on the connection so far.
    pub(crate) fn withdraw(&self, now: Instant, calls: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(state.at).as_secs_f64();
        // Another connection starts counting at 0.
        let made = calls.saturating_sub(state.calls) as f64;
        let cap = (self.floor * SAVED_SECONDS)
            .max(made * self.ratio)
            .max(state.tokens);
        state.tokens = (state.tokens + elapsed * self.floor + made * self.ratio).min(cap);
        state.at = now;
        state.calls = calls;
        if state.tokens < 1.0 {
            return false;
        }
        state.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::backend::{Doubt, ServerState};

    #[test]
    fn what_may_have_run_is_repeated_only_when_that_is_harmless() {
        for doubt in [
            Doubt::TimedOut,
            Doubt::Lost,
            Doubt::Protocol,
            Doubt::Cancelled,
        ] {
            assert_eq!(next(&Class::Unknown(doubt), false), Next::Doubt);
            assert_eq!(next(&Class::Unknown(doubt), true), Next::Again);
        }
        assert_eq!(next(&Class::Executed, true), Next::Return);
    }

    #[test]
    fn what_certainly_did_not_run_is_tried_again_unless_it_never_can() {
        assert_eq!(next(&Class::NotSent(NotSent::Lost), false), Next::Again);
        assert_eq!(next(&Class::NotSent(NotSent::Local), false), Next::Return);
        let state = |elsewhere| {
            Class::NotExecuted(Refusal::State(ServerState {
                code: "LOADING",
                at_once: true,
                elsewhere,
            }))
        };
        assert_eq!(next(&state(true), false), Next::AfterVerdict);
        assert_eq!(next(&state(false), false), Next::Return);
        assert_eq!(
            next(&Class::NotExecuted(Refusal::Caller), true),
            Next::Return
        );
        assert_eq!(
            next(&Class::NotExecuted(Refusal::Denied), true),
            Next::Return
        );
    }

    #[test]
    fn the_bounds_double_up_to_the_maximum_and_never_end() {
        let bounds: Vec<_> = default_backoff(&CallConfig::default())().take(9).collect();
        // They are doubled as floating-point numbers: 40 ms may miss a nanosecond.
        let ms: Vec<_> = bounds
            .iter()
            .map(|bound| (bound.as_secs_f64() * 1000.0).round())
            .collect();
        let doubled = [20., 40., 80., 160., 320., 640., 1000., 1000., 1000.];
        assert_eq!(ms, doubled);
    }

    #[test]
    fn retries_stay_a_fraction_of_the_calls() {
        let start = Instant::now();
        let budget = Budget::new(&CallConfig::default(), start);
        let granted = (0..1000).filter(|_| budget.withdraw(start, 0)).count();
        assert_eq!(granted, 100, "ten seconds of the floor are saved up");
        let granted = (0..1000).filter(|_| budget.withdraw(start, 500)).count();
        assert_eq!(granted, 50, "a tenth of the calls made since");
        let later = start + Duration::from_secs(2);
        let granted = (0..1000).filter(|_| budget.withdraw(later, 500)).count();
        assert_eq!(granted, 20, "ten a second");
    }
}
