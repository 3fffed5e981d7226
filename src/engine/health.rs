//! Looking at a database: one attempt, and a round of them.

use std::future::Future;
use std::panic::AssertUnwindSafe;
// Taken when a probe begins, and when the checks change.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::backend::{Backend, Depth, Fault, FaultKind, Verdict};
use super::config::{HealthConfig, ProbePolicy};
use super::database::Database;

/// Decides from a live connection that a database is fit to serve.
///
/// Checks are added to the backend's own, the ping; all must agree. A check that panics, or does not
/// end within `health.timeout`, finds the database unhealthy unless it is advisory, and is asked again in
/// the next round.
/// The future is dropped when the time is up, so it must be cancel-safe.
///
/// A check that only says where not to go, such as one for the lag of a replica, answers with
/// [`Verdict::Degraded`]: the active database is not left for it.
pub trait HealthCheck<B: Backend>: Send + Sync + 'static {
    /// What the check is called in faults. Unique within a client.
    fn name(&self) -> &str;

    /// One look.
    fn check<'a>(
        &'a self,
        database: &'a Database<B::Endpoint>,
        handle: &'a B::Handle,
    ) -> BoxFuture<'a, Verdict>;

    /// Whether it is also asked where callers wait for the answer: when the active database is
    /// suspected, and when another one is to take its place. Default: no, so that a slow check does
    /// not make a failover slow; what it said in the last round counts then.
    fn is_urgent(&self) -> bool {
        false
    }

    /// Whether it asks somebody other than the database, whose silence says nothing against it. Such a
    /// check is asked after the others, and one that hangs or panics is a reservation,
    /// [`Verdict::Degraded`]. Default: no.
    fn is_advisory(&self) -> bool {
        false
    }
}

/// The checks of a client; they may change while it runs.
pub(crate) struct Checks<B: Backend> {
    #[allow(clippy::disallowed_types)]
    list: Mutex<List<B>>,
}

/// The checks as they were when a probe began.
pub(crate) struct List<B: Backend> {
    ping: bool,
    checks: Arc<[Arc<dyn HealthCheck<B>>]>,
}

/// The name of the backend's own check.
pub const PING: &str = "ping";

/// One look at a database.
pub(crate) struct Look<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) database: &'a Database<B::Endpoint>,
    pub(crate) handle: &'a B::Handle,
    pub(crate) depth: Depth,
    pub(crate) thorough: bool,
    pub(crate) timeout: Duration,
}

// === impl Checks ===

impl<B: Backend> Checks<B> {
    #[allow(clippy::disallowed_types)]
    pub(crate) fn new(checks: Vec<Arc<dyn HealthCheck<B>>>, ping: bool) -> Self {
        Self {
            list: Mutex::new(List {
                ping,
                checks: checks.into(),
            }),
        }
    }

    pub(crate) fn list(&self) -> List<B> {
        self.lock().clone()
    }

    /// False: there is one of this name already.
    pub(crate) fn add(&self, check: Arc<dyn HealthCheck<B>>) -> bool {
        let mut list = self.lock();
        let taken = list.checks.iter().any(|known| known.name() == check.name());
        if taken || check.name() == PING {
            return false;
        }
        list.checks = list.checks.iter().cloned().chain([check]).collect();
        true
    }

    /// False: there is none of this name.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let mut list = self.lock();
        if name == PING {
            return std::mem::replace(&mut list.ping, false);
        }
        let before = list.checks.len();
        let others = list.checks.iter().filter(|check| check.name() != name);
        list.checks = others.cloned().collect();
        list.checks.len() < before
    }

    #[allow(clippy::disallowed_types)]
    fn lock(&self) -> MutexGuard<'_, List<B>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Clone for List<B> {
    fn clone(&self) -> Self {
        Self {
            ping: self.ping,
            checks: self.checks.clone(),
        }
    }
}

// === impl Look ===

impl<B: Backend> Look<'_, B> {
    /// The backend's own check and then the user's, until one finds it unfit. Also: the time that the
    /// first answer took, if it was well.
    pub(crate) async fn at(self, list: &List<B>) -> (Verdict, Option<Duration>) {
        let started = Instant::now();
        let mut rtt = None;
        // Removed, it is asked all the same where the question is whether anybody answers at all.
        if list.ping || !self.thorough || self.depth != Depth::Alive || list.checks.is_empty() {
            let verdict = self.backend.check(self.handle, self.depth);
            let verdict = guarded(None, Verdict::Unhealthy, self.timeout, verdict).await;
            if verdict != Verdict::Healthy {
                return (verdict, None);
            }
            rtt = Some(started.elapsed());
        }
        let mut reservation = None;
        // One that hangs leaves no time to those behind it.
        let (advisory, decisive): (Vec<_>, Vec<_>) =
            list.checks.iter().partition(|check| check.is_advisory());
        for check in decisive.into_iter().chain(advisory) {
            if !self.thorough && !check.is_urgent() {
                continue;
            }
            let left = self.timeout.saturating_sub(started.elapsed());
            let looking = check.check(self.database, self.handle);
            let unanswered = match check.is_advisory() {
                true => Verdict::Degraded,
                false => Verdict::Unhealthy,
            };
            match guarded(Some(check.name()), unanswered, left, looking).await {
                Verdict::Healthy => {}
                Verdict::Degraded(fault) => {
                    reservation.get_or_insert(fault);
                }
                verdict => return (verdict, None),
            }
        }
        (reservation.map_or(Verdict::Healthy, Verdict::Degraded), rtt)
    }
}

/// Neither a panic nor a hang of a check may stop the schedule.
async fn guarded(
    name: Option<&str>,
    unanswered: fn(Fault) -> Verdict,
    timeout: Duration,
    check: impl Future<Output = Verdict>,
) -> Verdict {
    let prefix = name.map_or_else(String::new, |name| format!("{name}: "));
    let fault = |kind, what: String| unanswered(Fault::new(kind, what));
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
    reservation: Option<Fault>,
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
            reservation: None,
        }
    }

    fn add(&mut self, verdict: Verdict) -> Option<Verdict> {
        self.left -= 1;
        match verdict {
            // What a server says of its role is not a matter of votes.
            Verdict::Standby | Verdict::Suspended => return Some(verdict),
            Verdict::Healthy => self.healthy += 1,
            Verdict::Degraded(fault) => {
                self.healthy += 1;
                self.reservation = Some(fault);
            }
            Verdict::Unhealthy(_)
                if self.policy == ProbePolicy::All || self.healthy + self.left < self.needed =>
            {
                return Some(verdict);
            }
            Verdict::Unhealthy(_) => {}
        }
        let reservation = (self.healthy >= self.needed).then(|| self.reservation.take())?;
        Some(reservation.map_or(Verdict::Healthy, Verdict::Degraded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad() -> Verdict {
        Verdict::Unhealthy(Fault::new(FaultKind::Silent, "silent"))
    }

    #[test]
    fn a_reservation_of_one_attempt_is_one_of_the_round() {
        let reserved = Verdict::Degraded(Fault::new(FaultKind::Other, "lag"));
        let mut round = Round::new(ProbePolicy::Majority, 3);
        assert_eq!(round.add(reserved.clone()), None);
        assert_eq!(round.add(bad()), None);
        assert_eq!(round.add(Verdict::Healthy), Some(reserved));
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
        let bad = Verdict::Unhealthy;
        let hang = guarded(Some("mine"), bad, timeout, std::future::pending()).await;
        assert!(
            matches!(&hang, Verdict::Unhealthy(f) if f.kind == FaultKind::Silent && f.what.starts_with("mine: "))
        );
        let panics = guarded(None, bad, timeout, async { panic!("on purpose") }).await;
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
