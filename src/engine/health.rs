//! Looking at a database: one attempt, and a round of them.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::backend::{Backend, Depth, Fault, FaultKind, Verdict};
use super::config::{HealthConfig, ProbePolicy};

/// Decides from a live connection that a database is fit to serve.
///
/// Checks are added to the backend's own; all must agree. A check that panics, or does not end
/// within `health.timeout`, finds the database unhealthy, and is asked again in the next round.
/// The future is dropped when the time is up, so it must be cancel-safe.
pub trait HealthCheck<B: Backend>: Send + Sync + 'static {
    /// What the check is called in faults.
    fn name(&self) -> &str;
    /// One look.
    fn check<'a>(&'a self, handle: &'a B::Handle) -> BoxFuture<'a, Verdict>;
}

pub(crate) type Checks<B> = Arc<[Arc<dyn HealthCheck<B>>]>;

/// The backend's own check and then the user's, until one finds something.
pub(crate) async fn look<B: Backend>(
    backend: &B,
    checks: &Checks<B>,
    handle: &B::Handle,
    depth: Depth,
    timeout: Duration,
) -> Verdict {
    let verdict = guarded(None, timeout, backend.check(handle, depth)).await;
    if verdict != Verdict::Healthy {
        return verdict;
    }
    for check in checks.iter() {
        let verdict = guarded(Some(check.name()), timeout, check.check(handle)).await;
        if verdict != Verdict::Healthy {
            return verdict;
        }
    }
    Verdict::Healthy
}

/// Neither a panic nor a hang of a check may stop the schedule.
async fn guarded(
    name: Option<&str>,
    timeout: Duration,
    check: impl Future<Output = Verdict>,
) -> Verdict {
    let prefix = name.map_or_else(String::new, |name| format!("{name}: "));
    let fault = |kind, what: String| Verdict::Unhealthy(Fault::new(kind, what));
    match tokio::time::timeout(timeout, AssertUnwindSafe(check).catch_unwind()).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => fault(FaultKind::Other, format!("{prefix}the check panicked")),
        Err(_) => {
            let silent = format!("{prefix}no answer within {} ms", timeout.as_millis());
            fault(FaultKind::Silent, silent)
        }
    }
}

/// A round: attempts until the policy is certain. `attempt` is called with the number of the attempt.
pub(crate) async fn round<F, Fut>(config: &HealthConfig, mut attempt: F) -> Verdict
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Verdict>,
{
    let mut tally = Round::new(config.policy, config.probes);
    loop {
        let verdict = attempt().await;
        let bad = matches!(verdict, Verdict::Unhealthy(_));
        if let Some(verdict) = tally.add(verdict) {
            return verdict;
        }
        if bad {
            tokio::time::sleep(config.delay).await;
        }
    }
}

/// Counts attempts until the verdict is certain.
struct Round {
    policy: ProbePolicy,
    left: u32,
    needed: u32,
    healthy: u32,
}

impl Round {
    fn new(policy: ProbePolicy, probes: u32) -> Self {
        let needed = match policy {
            ProbePolicy::All => probes,
            ProbePolicy::Majority => probes / 2 + 1,
            ProbePolicy::Any => 1,
        };
        Self {
            policy,
            left: probes,
            needed,
            healthy: 0,
        }
    }

    fn add(&mut self, verdict: Verdict) -> Option<Verdict> {
        self.left -= 1;
        match verdict {
            // What a server says of its role is not a matter of votes.
            Verdict::Standby | Verdict::Suspended => return Some(verdict),
            Verdict::Healthy => self.healthy += 1,
            Verdict::Unhealthy(_)
                if self.policy == ProbePolicy::All || self.healthy + self.left < self.needed =>
            {
                return Some(verdict);
            }
            Verdict::Unhealthy(_) => {}
        }
        (self.healthy >= self.needed).then_some(Verdict::Healthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad() -> Verdict {
        Verdict::Unhealthy(Fault::new(FaultKind::Silent, "silent"))
    }

    fn run(policy: ProbePolicy, verdicts: &[bool]) -> (usize, Option<bool>) {
        let mut round = Round::new(policy, 3);
        for (index, &healthy) in verdicts.iter().enumerate() {
            let verdict = if healthy { Verdict::Healthy } else { bad() };
            if let Some(decided) = round.add(verdict) {
                return (index + 1, Some(decided == Verdict::Healthy));
            }
        }
        (verdicts.len(), None)
    }

    #[test]
    fn a_round_is_decided_as_early_as_it_is_certain() {
        use ProbePolicy::{All, Any, Majority};
        assert_eq!(run(All, &[true, true, true]), (3, Some(true)));
        assert_eq!(run(All, &[false]), (1, Some(false)));
        assert_eq!(run(Majority, &[true, true]), (2, Some(true)));
        assert_eq!(run(Majority, &[false, true]), (2, None));
        assert_eq!(run(Majority, &[false, false]), (2, Some(false)));
        assert_eq!(run(Any, &[false, false, true]), (3, Some(true)));
        assert_eq!(run(Any, &[false, false, false]), (3, Some(false)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_or_panics_is_unhealthy() {
        let timeout = Duration::from_secs(3);
        let hang = guarded(Some("mine"), timeout, std::future::pending()).await;
        assert!(
            matches!(&hang, Verdict::Unhealthy(f) if f.kind == FaultKind::Silent && f.what.starts_with("mine: "))
        );
        let panics = guarded(None, timeout, async { panic!("on purpose") }).await;
        assert!(matches!(panics, Verdict::Unhealthy(f) if f.kind == FaultKind::Other));
    }

    #[tokio::test(start_paused = true)]
    async fn the_delay_is_waited_only_after_a_failed_attempt() {
        let start = tokio::time::Instant::now();
        let config = HealthConfig {
            policy: ProbePolicy::Any,
            ..HealthConfig::default()
        };
        let mut verdicts = [bad(), Verdict::Healthy].into_iter();
        let verdict = round(&config, || std::future::ready(verdicts.next().unwrap())).await;
        assert_eq!(verdict, Verdict::Healthy);
        assert_eq!(start.elapsed(), config.delay);
    }
}
