//! Calls in flight on one connection: their deadlines, their wakers, and how long the oldest waits.
//!
//! A driver that arms a timer per command spends an eighth to a sixth of its instructions on it. Here a
//! call registers its waker and reads a coarse clock instead; one sweep for all wakes those whose
//! time is up. Measured, that is what makes a guarded call cheaper than a bare one.

use std::collections::VecDeque;
// Held for a few dozen instructions, never across an await or a foreign call.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use super::backend::Meter;
use super::machine::MemberKey;
use super::statistics::Counters;
use super::sweep::{Clock, Swept, TICK};

/// The calls in flight on one connection, as its callers and the sweep see them.
pub(crate) struct Calls {
    pub(crate) member: MemberKey,
    pub(crate) meter: Arc<Meter>,
    pub(crate) clock: Arc<Clock>,
    /// The sweep reports its silence: it is the active traffic connection.
    pub(crate) watched: AtomicBool,
    /// It is in the sweep's list: there is something on it, or there was at the last look.
    swept: AtomicBool,
    sweep: Weak<Swept>,
    this: Weak<Self>,
    pub(crate) counters: Arc<Counters>,
    pinned: AtomicU64,
    #[allow(clippy::disallowed_types)]
    ring: Mutex<Ring>,
}

/// In the order in which they were begun, which is the order in which a connection answers.
struct Ring {
    slots: VecDeque<Slot>,
    /// The number of the first slot.
    first: u64,
    waiting: usize,
    /// No call is due before this; may be too early, never too late.
    earliest: u64,
    succeeded: u64,
    /// Bytes read when the sweep last looked, and when it last saw them grow.
    read: u64,
    progress_at: u64,
    reported_at: u64,
    /// The beginning of the silence that was last told to be overdue.
    overdue_since: Option<u64>,
    /// The last thing told was a silence.
    silent: bool,
}

struct Slot {
    started: u64,
    deadline: u64,
    /// Bytes read from the connection before it was begun: none of them are its answer.
    read: u64,
    state: State,
}

enum State {
    Waiting(Waker),
    /// Its caller gave up; the connection still owes the answer.
    Abandoned,
    Answered,
}

/// What the sweep found on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Silence {
    /// Zero: a silence that had been told is over.
    pub(crate) age: Duration,
    pub(crate) overdue: bool,
}

// === impl Calls ===

impl Calls {
    pub(crate) fn new(
        member: MemberKey,
        meter: Arc<Meter>,
        clock: Arc<Clock>,
        sweep: &Arc<Swept>,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let now = clock.now();
        Arc::new_cyclic(|this| Self {
            counters,
            member,
            clock,
            watched: AtomicBool::new(false),
            swept: AtomicBool::new(false),
            sweep: Arc::downgrade(sweep),
            this: this.clone(),
            pinned: AtomicU64::new(0),
            #[allow(clippy::disallowed_types)]
            ring: Mutex::new(Ring {
                slots: VecDeque::new(),
                first: 0,
                waiting: 0,
                earliest: u64::MAX,
                succeeded: 0,
                read: meter.read(),
                progress_at: now,
                reported_at: now,
                overdue_since: None,
                silent: false,
            }),
            meter,
        })
    }

    /// Registers a call that has been handed to the driver; returns its number and its deadline.
    pub(crate) fn begin(&self, timeout_us: u64, waker: Waker) -> (u64, u64) {
        let started = self.clock.now();
        // The clock is at most one tick behind: one more, so that no call ends early.
        let deadline = started + timeout_us + TICK_US;
        let number = {
            let mut ring = self.ring();
            ring.waiting += 1;
            ring.earliest = ring.earliest.min(deadline);
            ring.slots.push_back(Slot {
                started,
                deadline,
                read: self.meter.read(),
                state: State::Waiting(waker),
            });
            ring.first + ring.slots.len() as u64 - 1
        };
        // After the lock: a sweep that saw no call has taken it off its list before this.
        if !self.swept.load(Ordering::Acquire) {
            self.enlist();
        }
        // After the lock: a sweep that saw no calls fell asleep before this, and is seen asleep here.
        self.clock.rouse();
        (number, deadline)
    }

    #[cold]
    fn enlist(&self) {
        if let (Some(sweep), Some(this)) = (self.sweep.upgrade(), self.this.upgrade())
            && !self.swept.swap(true, Ordering::AcqRel)
        {
            sweep.add(this);
        }
    }

    /// The sweep need not look at it any more; false if a call has begun just now.
    pub(crate) fn retire(&self) -> bool {
        self.swept.store(false, Ordering::Release);
        // Whoever begins a call after this look finds the flag down, by way of the lock.
        let idle = self.ring().slots.is_empty();
        // Else it is back on the list by itself, or is to stay on it.
        idle || self.swept.swap(true, Ordering::AcqRel)
    }

    /// The task that waits for the call has changed.
    pub(crate) fn rewake(&self, number: u64, waker: &Waker) {
        let mut ring = self.ring();
        if let Some(Slot {
            state: State::Waiting(known),
            ..
        }) = ring.slot(number)
            && !known.will_wake(waker)
        {
            known.clone_from(waker);
        }
    }

    /// The call has been answered.
    pub(crate) fn finish(&self, number: u64, succeeded: bool) {
        self.meter.replied();
        let mut ring = self.ring();
        ring.waiting -= 1;
        ring.succeeded += u64::from(succeeded);
        if number == ring.first {
            // In order, as nearly always.
            ring.pop();
        } else if let Some(slot) = ring.slot(number) {
            slot.state = State::Answered;
        }
        // A connection answers in order: what was abandoned before this call has been answered, too.
        while let Some(front) = ring.slots.front() {
            match front.state {
                State::Answered => {}
                State::Abandoned if ring.first < number => {}
                State::Abandoned | State::Waiting(_) => break,
            }
            ring.pop();
        }
    }

    /// A call that was answered at once has never been registered.
    pub(crate) fn finish_unregistered(&self, succeeded: bool) {
        self.ring().succeeded += u64::from(succeeded);
    }

    /// The caller gave up, or the call's time is over.
    pub(crate) fn abandon(&self, number: u64) {
        let mut ring = self.ring();
        ring.waiting -= 1;
        if let Some(slot) = ring.slot(number) {
            slot.state = State::Abandoned;
        }
    }

    /// Whether not one byte has come since the call began.
    pub(crate) fn is_silent(&self, number: u64) -> bool {
        let read = self.meter.read();
        self.ring()
            .slot(number)
            .is_some_and(|slot| slot.read == read)
    }

    /// Calls that have succeeded so far.
    pub(crate) fn succeeded(&self) -> u64 {
        self.ring().succeeded
    }

    /// Calls and leases that keep the connection in use.
    pub(crate) fn in_flight(&self) -> usize {
        self.ring().waiting + self.pinned.load(Ordering::Acquire) as usize
    }

    pub(crate) fn pin(&self) {
        self.pinned.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn unpin(&self) {
        self.pinned.fetch_sub(1, Ordering::AcqRel);
    }

    /// Wakes the calls whose time is up and tells of a silence of at least `threshold`.
    ///
    /// `due` is scratch space: waking happens outside the lock. Returns whether the connection owes
    /// anybody an answer.
    pub(crate) fn sweep(
        &self,
        now: u64,
        threshold: Duration,
        due: &mut Vec<Waker>,
    ) -> (bool, Option<Silence>) {
        let read = self.meter.read();
        let mut ring = self.ring();
        if read != ring.read {
            ring.read = read;
            ring.progress_at = now;
        }
        if ring.earliest <= now {
            ring.earliest = u64::MAX;
            let mut earliest = u64::MAX;
            for slot in &ring.slots {
                if let State::Waiting(waker) = &slot.state {
                    if slot.deadline <= now {
                        due.push(waker.clone());
                    }
                    // Again at the next tick, should its task have changed hands just now.
                    earliest = earliest.min(slot.deadline.max(now + TICK_US));
                }
            }
            ring.earliest = earliest;
        }
        // Abandoned calls from before the last sign of life have been answered or were never sent.
        // Told by bytes, not by the clock: it is too coarse for one that came just before the call.
        while let Some(front) = ring.slots.front() {
            match front.state {
                State::Answered => {}
                State::Abandoned if front.read != read => {}
                State::Abandoned | State::Waiting(_) => break,
            }
            ring.pop();
        }
        let over = ring.progress_at == now && std::mem::take(&mut ring.silent);
        let silence = match over {
            true => Some(Silence::OVER),
            false => ring.silence(now, threshold),
        };
        (!ring.slots.is_empty(), silence)
    }

    #[allow(clippy::disallowed_types)]
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic inside cannot happen between two related writes that matter to anybody.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was answered here is kept with the database.
impl Drop for Calls {
    fn drop(&mut self) {
        let answered = self.ring().succeeded;
        self.counters.answered(answered);
    }
}

impl Silence {
    const OVER: Self = Self {
        age: Duration::ZERO,
        overdue: false,
    };
}

impl Ring {
    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let index = number.checked_sub(self.first)?;
        self.slots.get_mut(usize::try_from(index).ok()?)
    }

    fn pop(&mut self) {
        self.slots.pop_front();
        self.first += 1;
    }

    fn silence(&mut self, now: u64, threshold: Duration) -> Option<Silence> {
        let front = self.slots.front()?;
        let since = front.started.max(self.progress_at);
        let age = Duration::from_micros(now.saturating_sub(since));
        if age < threshold {
            return None;
        }
        // A tick before its caller is woken: a connection that is given up then is given up before
        // anybody begins another call on it.
        let overdue = match front.state {
            State::Waiting(_) => front.deadline <= now + TICK_US,
            State::Abandoned | State::Answered => true,
        };
        let news = overdue && self.overdue_since != Some(since);
        // Again only after another quarter of the threshold; each report may cost two pings.
        let again = threshold.as_micros() as u64 / 4;
        if !news && self.reported_at > since && now.saturating_sub(self.reported_at) < again {
            return None;
        }
        if overdue {
            self.overdue_since = Some(since);
        }
        self.reported_at = now;
        self.silent = true;
        Some(Silence { age, overdue })
    }
}

pub(crate) const TICK_US: u64 = TICK.as_micros() as u64;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    const MS: u64 = 1_000;

    fn calls() -> Arc<Calls> {
        let (clock, sweep) = (Arc::new(Clock::for_task()), Swept::new(Arc::default()));
        Calls::new(MemberKey(1), Arc::default(), clock, &sweep, Arc::default())
    }

    fn sweep(calls: &Calls, now: u64) -> (usize, bool, Option<Silence>) {
        let mut due = Vec::new();
        let (owes, silence) = calls.sweep(now, Duration::from_millis(100), &mut due);
        (due.len(), owes, silence)
    }

    #[test]
    fn a_call_is_woken_once_its_time_is_up_and_never_early() {
        let calls = calls();
        let (number, deadline) = calls.begin(500 * MS, noop_waker());
        assert_eq!(deadline, 505 * MS);
        assert_eq!(sweep(&calls, 504 * MS).0, 0);
        assert_eq!(sweep(&calls, 505 * MS).0, 1);
        calls.abandon(number);
        assert_eq!(calls.in_flight(), 0);
    }

    #[test]
    fn answers_in_order_free_what_was_abandoned_before() {
        let calls = calls();
        let (a, _) = calls.begin(MS, noop_waker());
        let (b, _) = calls.begin(MS, noop_waker());
        calls.abandon(a);
        assert_eq!(calls.in_flight(), 1);
        calls.finish(b, true);
        assert!(!sweep(&calls, MS).1, "nothing is owed any more");
        assert_eq!(calls.succeeded(), 1);
    }

    #[test]
    fn silence_is_told_even_when_every_caller_gave_up() {
        let calls = calls();
        let (a, _) = calls.begin(500 * MS, noop_waker());
        calls.abandon(a);
        assert_eq!(sweep(&calls, 99 * MS).2, None);
        let (_, owes, silence) = sweep(&calls, 100 * MS);
        assert!(owes);
        assert_eq!(silence.unwrap().age, Duration::from_millis(100));
        assert_eq!(sweep(&calls, 110 * MS).2, None, "not again at once");
        assert!(sweep(&calls, 126 * MS).2.is_some());
    }

    #[test]
    fn a_silence_is_told_anew_just_before_the_first_caller_gives_up() {
        let calls = calls();
        calls.begin(500 * MS, noop_waker());
        let overdue = |now| sweep(&calls, now).2.map(|silence| silence.overdue);
        assert_eq!(overdue(490 * MS), Some(false));
        assert_eq!(overdue(495 * MS), None, "told a moment ago");
        assert_eq!(overdue(500 * MS), Some(true), "woken at 505");
        assert_eq!(overdue(505 * MS), None);
    }

    #[test]
    fn the_end_of_a_silence_is_told_once() {
        let calls = calls();
        let (a, _) = calls.begin(500 * MS, noop_waker());
        assert!(sweep(&calls, 100 * MS).2.is_some());
        calls.meter.got(1);
        calls.finish(a, true);
        assert_eq!(sweep(&calls, 105 * MS).2, Some(Silence::OVER));
        calls.meter.got(1);
        assert_eq!(sweep(&calls, 110 * MS).2, None);
    }

    #[test]
    fn bytes_that_came_before_a_call_are_no_answer_to_it() {
        let calls = calls();
        calls.meter.got(1);
        let (a, _) = calls.begin(50 * MS, noop_waker());
        sweep(&calls, 5 * MS);
        calls.abandon(a);
        assert!(sweep(&calls, 10 * MS).1, "it is owed still");
        calls.meter.got(1);
        assert!(!sweep(&calls, 15 * MS).1);
    }

    #[test]
    fn bytes_that_arrive_are_a_sign_of_life() {
        let calls = calls();
        calls.begin(500 * MS, noop_waker());
        sweep(&calls, 90 * MS);
        calls.meter.got(1);
        assert_eq!(sweep(&calls, 95 * MS).2, None);
        assert_eq!(sweep(&calls, 194 * MS).2, None);
        assert!(sweep(&calls, 195 * MS).2.is_some());
    }
}
