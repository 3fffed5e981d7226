//! The sweep: every 5 ms, while calls are in flight, deadlines and silence are looked at.
//!
//! It runs on a thread of its own, one per process, so that neither a busy runtime nor a slow policy
//! of the user's delays it; measured, the same loop as a tokio task costs up to 11 % of the
//! throughput. Tests on a paused clock let it run as a task instead ([`Clock::for_task`]).

// A lock around a list of clients, touched when a client starts or ends.
use std::panic::AssertUnwindSafe;
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, Weak};
use std::task::Waker;
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::calls::{Calls, Silence};
use super::machine::MemberKey;

/// The precision of deadlines and of silence.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// The sweep goes to sleep after so many ticks without a call.
const IDLE_TICKS: u32 = 20;

/// How often a busy client's counters are looked at.
const SAMPLE: Duration = Duration::from_millis(200);

/// A deadline of the supervisor's that is nearer than this is kept by a timer, to the millisecond.
const NEAR: Duration = Duration::from_millis(50);

/// A coarse clock that stands still while nobody is waiting: microseconds, at most a tick behind.
pub(crate) struct Clock {
    now: AtomicU64,
    asleep: AtomicBool,
    sleeper: Sleeper,
}

enum Sleeper {
    #[allow(clippy::disallowed_types)]
    Thread(Mutex<Option<Thread>>),
    Task(Notify),
}

/// What one client lets the sweep look at, and what the sweep lets it know.
pub(crate) struct Swept {
    #[allow(clippy::disallowed_types)]
    connections: Mutex<Vec<Arc<Calls>>>,
    threshold: AtomicU64,
    sampled: AtomicU64,
    news: Arc<Notify>,
    #[allow(clippy::disallowed_types)]
    stalled: Mutex<Option<(MemberKey, Silence)>>,
    overrun: AtomicBool,
    /// When the supervisor is to be woken.
    #[allow(clippy::disallowed_types)]
    alarm: Mutex<Option<Instant>>,
}

/// Keeps a client in the process's sweep.
pub(crate) struct Registration(Arc<Swept>);

// === impl Clock ===

impl Clock {
    #[allow(clippy::disallowed_types)]
    fn for_thread() -> Self {
        Self::new(Sleeper::Thread(Mutex::new(None)))
    }

    /// A clock driven by [`run_as_task`].
    pub(crate) fn for_task() -> Self {
        Self::new(Sleeper::Task(Notify::new()))
    }

    fn new(sleeper: Sleeper) -> Self {
        Self {
            now: AtomicU64::new(0),
            asleep: AtomicBool::new(true),
            sleeper,
        }
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Wakes the sweep if it sleeps. A load on the command path, more only after a pause.
    #[inline]
    pub(crate) fn rouse(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.unpark();
        }
    }

    /// Lets a sleeping sweep look around.
    fn unpark(&self) {
        match &self.sleeper {
            Sleeper::Thread(thread) => {
                let thread = thread.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(thread) = &*thread {
                    thread.unpark();
                }
            }
            Sleeper::Task(notify) => notify.notify_one(),
        }
    }

    fn advance(&self, by: Duration) -> u64 {
        let by = by.as_micros() as u64;
        self.now.fetch_add(by, Ordering::Relaxed) + by
    }
}

// === impl Swept ===

impl Swept {
    #[allow(clippy::disallowed_types)]
    pub(crate) fn new(news: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            connections: Mutex::new(Vec::new()),
            threshold: AtomicU64::new(u64::MAX),
            sampled: AtomicU64::new(0),
            news,
            stalled: Mutex::new(None),
            overrun: AtomicBool::new(false),
            alarm: Mutex::new(None),
        })
    }

    /// From the next look on. Only connections with something on them are looked at, so that a thousand
    /// standbys cost nothing.
    pub(crate) fn add(&self, calls: Arc<Calls>) {
        self.lock().push(calls);
    }

    /// Silence shorter than this is not told.
    pub(crate) fn set_threshold(&self, threshold: Duration) {
        let us = u64::try_from(threshold.as_micros()).unwrap_or(u64::MAX);
        self.threshold.store(us, Ordering::Relaxed);
    }

    /// A silence that nobody has asked about yet.
    pub(crate) fn take_stalled(&self) -> Option<(MemberKey, Silence)> {
        let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        stalled.take()
    }

    /// Leaves a deadline that is far off to the sweep, which wakes the supervisor shortly before it;
    /// returns what a timer of the runtime has to keep.
    ///
    /// While a runtime has any timer armed, it reads the clock whenever it has nothing to do: one of
    /// ours, armed all the time, costs a lone command 5 %.
    pub(crate) fn defer(&self, clock: &Clock, deadline: Option<Instant>) -> Option<Instant> {
        let is_near = |at: Instant| at.saturating_duration_since(Instant::now()) <= NEAR;
        if matches!(clock.sleeper, Sleeper::Task(_)) || deadline.is_some_and(is_near) {
            return deadline;
        }
        let next = deadline.map(|at| at - NEAR);
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut *alarm, next);
        drop(alarm);
        let is_earlier = next.is_some_and(|next| last.is_none_or(|last| next < last));
        if is_earlier && clock.asleep.load(Ordering::SeqCst) {
            clock.unpark();
        }
        None
    }

    /// Wakes the supervisor if it is time; otherwise says when it will be.
    fn ring(&self, now: Instant) -> Option<Instant> {
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if alarm.is_some_and(|at| at <= now) {
            *alarm = None;
            self.news.notify_one();
        }
        *alarm
    }

    pub(crate) fn take_overrun(&self) -> bool {
        self.overrun.swap(false, Ordering::AcqRel)
    }

    #[allow(clippy::disallowed_types)]
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Calls>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One look at every connection; true while one of them owes an answer.
    fn sweep(&self, now: u64, overran: bool, due: &mut Vec<Waker>) -> bool {
        let threshold = Duration::from_micros(self.threshold.load(Ordering::Relaxed));
        let mut owed = false;
        let mut tell = false;
        self.lock().retain(|calls| {
            let watched = calls.watched.load(Ordering::Acquire);
            let (owes, silence) = calls.sweep(now, threshold, due);
            // What nobody waits for is owed only where silence is a sign.
            owed |= owes && (watched || calls.in_flight() > 0);
            if let Some(silence) = silence
                && watched
            {
                let mut stalled = self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
                *stalled = Some((calls.member, silence));
                tell = true;
            }
            // Nobody else holds it: the connection is gone, and its last call with it.
            let gone = Arc::strong_count(calls) == 1;
            !gone && (watched || owes || !calls.retire())
        });
        for waker in due.drain(..) {
            waker.wake();
        }
        if overran && owed {
            self.overrun.store(true, Ordering::Release);
            tell = true;
        }
        if owed
            && now.saturating_sub(self.sampled.load(Ordering::Relaxed)) >= SAMPLE.as_micros() as u64
        {
            self.sampled.store(now, Ordering::Relaxed);
            tell = true;
        }
        if tell {
            self.news.notify_one();
        }
        owed
    }
}

// === the loop ===

/// Ticks, and when to stop ticking.
struct Loop {
    clock: Arc<Clock>,
    last: Instant,
    idle: u32,
    due: Vec<Waker>,
}

impl Loop {
    fn new(clock: Arc<Clock>) -> Self {
        clock.asleep.store(false, Ordering::SeqCst);
        Self {
            clock,
            last: Instant::now(),
            idle: 0,
            due: Vec::new(),
        }
    }

    /// One tick; false when the loop should sleep until it is roused.
    fn tick<'a>(&mut self, clients: impl Iterator<Item = &'a Arc<Swept>> + Clone) -> bool {
        let now = Instant::now();
        let elapsed = now.duration_since(self.last);
        self.last = now;
        let overran = elapsed > TICK * 2;
        let coarse = self.clock.advance(elapsed);
        let mut owed = false;
        for client in clients.clone() {
            owed |= client.sweep(coarse, overran, &mut self.due);
        }
        self.idle = if owed { 0 } else { self.idle + 1 };
        if self.idle < IDLE_TICKS {
            return true;
        }
        // A call begun before this store is seen below; one begun after it sees us asleep.
        self.clock.asleep.store(true, Ordering::SeqCst);
        for client in clients {
            if client.sweep(coarse, false, &mut self.due) {
                self.clock.asleep.store(false, Ordering::SeqCst);
                return true;
            }
        }
        false
    }

    /// After a sleep. Nobody waited meanwhile, so the clock stood still.
    fn resume(&mut self) {
        self.last = Instant::now();
        // Otherwise it was for an alarm, or a client that came or went.
        if !self.clock.asleep.load(Ordering::SeqCst) {
            self.idle = 0;
        }
    }
}

/// The sweep of one client on the runtime's own, possibly paused, time. Never ends by itself.
pub(crate) async fn run_as_task(clock: Arc<Clock>, swept: Arc<Swept>) {
    let mut round = Loop::new(clock.clone());
    loop {
        if round.tick(std::iter::once(&swept)) {
            tokio::time::sleep(TICK).await;
        } else {
            if let Sleeper::Task(notify) = &clock.sleeper {
                notify.notified().await;
            }
            round.resume();
        }
    }
}

// === the thread ===

struct Process {
    clock: Arc<Clock>,
    #[allow(clippy::disallowed_types)]
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    running: bool,
    list: Vec<Weak<Swept>>,
}

static PROCESS: LazyLock<Process> = LazyLock::new(|| Process {
    clock: Arc::new(Clock::for_thread()),
    #[allow(clippy::disallowed_types)]
    clients: Mutex::new(Clients::default()),
});

/// The clock of the process's sweep.
pub(crate) fn process_clock() -> Arc<Clock> {
    PROCESS.clock.clone()
}

/// Adds a client to the process's sweep; the thread starts with the first and ends after the last.
pub(crate) fn register(swept: Arc<Swept>) -> std::io::Result<Registration> {
    let mut clients = PROCESS
        .clients
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    clients.list.push(Arc::downgrade(&swept));
    if !clients.running {
        let thread = std::thread::Builder::new()
            .name("multidb-sweep".to_owned())
            .spawn(run_as_thread)?;
        if let Sleeper::Thread(slot) = &PROCESS.clock.sleeper {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
        }
        clients.running = true;
    }
    Ok(Registration(swept))
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut clients = PROCESS
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        clients
            .list
            .retain(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(&self.0)));
        drop(clients);
        // So that the thread sees whether it was the last.
        PROCESS.clock.wake();
    }
}

fn run_as_thread() {
    let mut round = Loop::new(PROCESS.clock.clone());
    let mut clients = Vec::new();
    loop {
        {
            let mut known = PROCESS
                .clients
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            known.list.retain(|known| known.strong_count() > 0);
            if known.list.is_empty() {
                PROCESS.clock.asleep.store(true, Ordering::SeqCst);
                known.running = false;
                return;
            }
            clients.extend(known.list.iter().filter_map(Weak::upgrade));
        }
        // A waker that panics must not take everybody's deadlines with it.
        let tick = AssertUnwindSafe(|| round.tick(clients.iter()));
        let awake = std::panic::catch_unwind(tick).unwrap_or(true);
        // Once the sweep sleeps, who sets an earlier alarm unparks it.
        let now = Instant::now();
        let alarm = clients.iter().filter_map(|client| client.ring(now)).min();
        clients.clear();
        if awake {
            std::thread::park_timeout(TICK);
        } else {
            match alarm {
                Some(at) => std::thread::park_timeout(at.saturating_duration_since(now)),
                None => std::thread::park(),
            }
            round.resume();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    #[test]
    fn a_connection_is_looked_at_while_there_is_something_on_it() {
        let (clock, swept) = (Arc::new(Clock::for_task()), Swept::new(Arc::default()));
        let calls = Calls::new(MemberKey(1), Arc::default(), clock, &swept, Arc::default());
        let look = |at| swept.sweep(at, false, &mut Vec::new());
        assert_eq!(swept.lock().len(), 0, "a standby");
        for _ in 0..2 {
            let (first, _) = calls.begin(1, noop_waker());
            let (second, _) = calls.begin(1, noop_waker());
            calls.finish(first, true);
            look(1);
            assert_eq!(swept.lock().len(), 1);
            calls.finish(second, true);
            look(2);
            assert_eq!(swept.lock().len(), 0);
        }
        // The active one stays: the next call on it is a moment away.
        calls.watched.store(true, Ordering::Release);
        let (call, _) = calls.begin(1, noop_waker());
        calls.finish(call, true);
        look(3);
        assert_eq!(swept.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_far_deadline_is_told_shortly_before_it_while_nothing_else_happens() {
        let news = Arc::new(Notify::new());
        let swept = Swept::new(news.clone());
        let _registration = register(swept.clone()).unwrap();
        // Long enough for the sweep to fall asleep first.
        let far = Instant::now() + TICK * IDLE_TICKS * 3;
        assert_eq!(swept.defer(&process_clock(), Some(far)), None);
        let told = tokio::time::timeout_at(far + Duration::from_secs(5), news.notified());
        told.await.expect("the sweep rings");
        assert!(Instant::now() + NEAR >= far, "not early");
    }

    #[tokio::test]
    async fn an_earlier_alarm_reaches_a_sweep_that_sleeps() {
        let news = Arc::new(Notify::new());
        let swept = Swept::new(news.clone());
        let _registration = register(swept.clone()).unwrap();
        let begun = Instant::now();
        let hour = Duration::from_secs(3600);
        assert_eq!(swept.defer(&process_clock(), Some(begun + hour)), None);
        tokio::time::sleep(TICK * IDLE_TICKS * 2).await;
        let soon = Instant::now() + NEAR * 2;
        assert_eq!(swept.defer(&process_clock(), Some(soon)), None);
        let told = tokio::time::timeout(Duration::from_secs(5), news.notified());
        told.await.expect("the sweep rings");
        assert!(Instant::now() + NEAR >= soon, "not early");
    }

    #[tokio::test]
    async fn a_near_deadline_and_a_paused_clock_are_left_to_the_runtime() {
        let swept = Swept::new(Arc::default());
        let near = Some(Instant::now() + NEAR / 2);
        assert_eq!(swept.defer(&Clock::for_thread(), near), near);
        let far = Some(Instant::now() + NEAR * 100);
        assert_eq!(swept.defer(&Clock::for_task(), far), far);
    }
}
