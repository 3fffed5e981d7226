//! Waking a suspended cluster, once for everybody who waits for it.

use std::fmt;
// Held for one instruction.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::stack::Stack;
use super::wire::Method;

/// How far a suspended cluster has been resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResumeState {
    /// Nothing is being resumed.
    Idle,
    /// It was asked to resume, and has not come back yet.
    Resuming {
        /// What the cluster service said last, such as `resuming`.
        status: String,
        /// Looks so far.
        looks: u32,
    },
    /// It has come back.
    Resumed,
    /// It has not: the time was up, or the service said so.
    Failed {
        /// Why, for people.
        why: String,
    },
}

/// Resumes the cluster of one client.
pub(super) struct Resumer {
    state: watch::Sender<ResumeState>,
    running: AtomicBool,
    /// After a failure, when it may be tried again.
    #[allow(clippy::disallowed_types)]
    again: Mutex<Option<Instant>>,
    stop: CancellationToken,
    limit: Duration,
}

/// The peer's own pace is 1 s in its younger client, 5 s in the older one.
const PACE: Duration = Duration::from_secs(1);
/// A cluster that failed to resume is left in peace for so long.
const REST: Duration = Duration::from_secs(10);
/// The longest word of a service that is repeated.
const LONGEST_STATUS: usize = 64;

impl Resumer {
    pub(super) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(ResumeState::Idle),
            running: AtomicBool::new(false),
            again: Default::default(),
            stop: CancellationToken::new(),
            limit,
        })
    }

    pub(super) fn progress(&self) -> watch::Receiver<ResumeState> {
        self.state.subscribe()
    }

    /// Begins, unless it is under way. Does not wait.
    pub(super) fn resume(self: &Arc<Self>, stack: &Stack) {
        let rests = self.lock().is_some_and(|again| Instant::now() < again);
        if rests || self.stop.is_cancelled() || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let (resumer, stack) = (self.clone(), stack.clone());
        tokio::spawn(async move {
            let work = resumer.work(&stack);
            if let Some(state) = resumer.stop.run_until_cancelled(work).await {
                let failed = matches!(state, ResumeState::Failed { .. });
                *resumer.lock() = failed.then(|| Instant::now() + REST);
                resumer.state.send_replace(state);
            }
            resumer.running.store(false, Ordering::Release);
        });
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    #[allow(clippy::disallowed_types)]
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it came to.
    async fn work(&self, stack: &Stack) -> ResumeState {
        let began = Instant::now();
        let mut ask = Method::ClusterStatus;
        for looks in 1.. {
            if stack.line.is_over() {
                // The next connection will find the cluster suspended, and begin anew.
                return ResumeState::Idle;
            }
            // A service that is silent for a moment is asked again: the cluster is what is waited for.
            let status = stack.cluster(ask).await;
            ask = match status.as_deref() {
                Ok("active") => return ResumeState::Resumed,
                Ok("failed") => return failed("the cluster service says that it failed"),
                Ok("suspended") if ask == Method::ClusterStatus => Method::Resume,
                Ok(_) | Err(_) => Method::ClusterStatus,
            };
            let status = match status {
                Ok(status) => status.chars().take(LONGEST_STATUS).collect(),
                Err(status) => format!("no answer ({:?})", status.code()),
            };
            self.state
                .send_replace(ResumeState::Resuming { status, looks });
            if began.elapsed() >= self.limit {
                break;
            }
            if ask != Method::Resume {
                sleep(PACE.min(self.limit)).await;
            }
        }
        failed("it did not come back in time")
    }
}

fn failed(why: &str) -> ResumeState {
    ResumeState::Failed {
        why: why.to_owned(),
    }
}

impl fmt::Display for ResumeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("not suspended"),
            Self::Resuming { status, looks } => write!(f, "resuming: {status} (look {looks})"),
            Self::Resumed => f.write_str("resumed"),
            Self::Failed { why } => write!(f, "not resumed: {why}"),
        }
    }
}
