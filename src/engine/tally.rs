//! What callers saw of one failure domain, until the supervisor takes it.

// Taken on the failure path only, for a few instructions.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use super::backend::{Class, Doubt, NotSent, Refusal, ServerState};
use super::detector::Observed;
use super::machine::Evidence;
use super::published::Published;

/// Counts what went wrong on one failure domain.
pub(crate) struct Tally {
    domain: Arc<str>,
    /// The current episode; outcomes of another one are dropped.
    episode: AtomicU64,
    #[allow(clippy::disallowed_types)]
    pending: Mutex<Pending>,
    pub(crate) judged: Published<Judged>,
    news: Arc<Notify>,
}

#[derive(Default)]
struct Pending {
    succeeded: u64,
    failed: u64,
    at_once: Option<&'static str>,
    repeated: u32,
    repeated_code: Option<&'static str>,
    wrote: bool,
    silent: bool,
    denied: bool,
    refusals: u64,
    changed: bool,
}

/// How far refused calls have been considered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) refusals: u64,
    pub(crate) cornered: bool,
}

impl Tally {
    #[allow(clippy::disallowed_types)]
    pub(crate) fn new(domain: Arc<str>, news: Arc<Notify>) -> Self {
        Self {
            domain,
            episode: AtomicU64::new(0),
            pending: Mutex::default(),
            judged: Published::new(Judged::default()),
            news,
        }
    }

    pub(crate) fn set_episode(&self, episode: u64) {
        if self.episode.swap(episode, Ordering::AcqRel) != episode {
            let mut pending = self.lock();
            *pending = Pending {
                refusals: pending.refusals,
                // Whoever waits for a verdict on the old episode must not wait for the next refusal.
                changed: pending.refusals > 0,
                ..Pending::default()
            };
        }
    }

    /// Books how an attempt ended. For a refusal by state: the number to wait for in `judged`.
    ///
    /// A connection that ended is booked once, by the supervisor, however many calls were on it.
    pub(crate) fn book(&self, episode: u64, class: &Class) -> Option<u64> {
        let mut number = None;
        {
            let mut pending = self.lock_in(episode)?;
            match class {
                Class::Unknown(Doubt::TimedOut | Doubt::Protocol)
                | Class::NotSent(NotSent::Connect) => pending.failed += 1,
                Class::NotExecuted(Refusal::State(state)) => number = Some(pending.refuse(*state)),
                Class::NotExecuted(Refusal::Denied) => pending.denied = true,
                Class::Unknown(Doubt::Lost | Doubt::Cancelled)
                | Class::NotSent(NotSent::Local | NotSent::Lost)
                | Class::NotExecuted(Refusal::Caller)
                | Class::Executed
                | Class::Redirect { .. }
                | Class::NotServing(_)
                | Class::SessionInvalid => return None,
            }
            pending.changed = true;
        }
        self.news.notify_one();
        number
    }

    /// A call timed out on a connection that has given no byte since it began.
    pub(crate) fn book_silence(&self, episode: u64) {
        self.book_as(episode, |pending| pending.silent = true);
    }

    /// A call was answered by what counts as a failure.
    pub(crate) fn book_failure(&self, episode: u64) {
        self.book_as(episode, |pending| pending.failed += 1);
    }

    fn book_as(&self, episode: u64, change: impl FnOnce(&mut Pending)) {
        if let Some(mut pending) = self.lock_in(episode) {
            change(&mut pending);
            pending.changed = true;
            drop(pending);
            self.news.notify_one();
        }
    }

    /// A write went through: what was refused before it does not persist.
    pub(crate) fn wrote(&self) {
        let mut pending = self.lock();
        pending.wrote = true;
        pending.repeated = 0;
    }

    pub(crate) fn judge(&self, refusals: u64, cornered: bool) {
        self.judged.set(Judged { refusals, cornered });
    }

    /// So many calls have succeeded. Their connection counts them; nobody need be told.
    pub(crate) fn succeeded(&self, calls: u64) {
        if calls > 0 {
            self.lock().succeeded += calls;
        }
    }

    /// What happened since the last time, if anything did.
    pub(crate) fn take(&self) -> Option<Evidence> {
        let mut pending = self.lock();
        let succeeded = std::mem::take(&mut pending.succeeded);
        if !std::mem::take(&mut pending.changed) && succeeded == 0 {
            return None;
        }
        Some(Evidence {
            domain: self.domain.clone(),
            episode: self.episode.load(Ordering::Acquire),
            seen: Observed::new(succeeded, std::mem::take(&mut pending.failed)),
            at_once: pending.at_once.take(),
            repeated: std::mem::take(&mut pending.repeated),
            repeated_code: pending.repeated_code.take(),
            wrote: std::mem::take(&mut pending.wrote),
            silent: std::mem::take(&mut pending.silent),
            denied: std::mem::take(&mut pending.denied),
            refusals: pending.refusals,
        })
    }

    /// `None` in another episode. Asked under the lock: an episode that begins meanwhile begins with
    /// nothing of the one before.
    #[allow(clippy::disallowed_types)]
    fn lock_in(&self, episode: u64) -> Option<std::sync::MutexGuard<'_, Pending>> {
        let pending = self.lock();
        (self.episode.load(Ordering::Acquire) == episode).then_some(pending)
    }

    #[allow(clippy::disallowed_types)]
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn refuse(&mut self, state: ServerState) -> u64 {
        if state.at_once {
            self.at_once = Some(state.code);
        } else {
            self.repeated += 1;
            self.repeated_code = Some(state.code);
        }
        self.failed += 1;
        self.refusals += 1;
        self.refusals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_after_its_episode_is_charged_to_none() {
        let tally = Tally::new("db".into(), Arc::default());
        tally.set_episode(1);
        let refused = Class::NotExecuted(Refusal::State(ServerState {
            code: "READONLY",
            at_once: true,
            elsewhere: true,
        }));
        tally.book(1, &refused);
        tally.set_episode(2);
        // The refusal is forgotten, and that it is decided is news.
        let rest = tally.take().expect("whoever waits for a verdict is told");
        assert_eq!((rest.episode, rest.at_once), (2, None));

        assert_eq!(tally.book(1, &refused), None);
        tally.book(1, &Class::Unknown(Doubt::TimedOut));
        tally.book_silence(1);
        tally.book_failure(1);
        assert!(tally.take().is_none());

        tally.book_failure(2);
        let seen = tally.take().expect("a failure of this episode");
        assert_eq!(seen.seen, Observed::new(0, 1));
    }
}
