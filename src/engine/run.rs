//! A call's way: handle -> driver -> classify -> book -> (retry) -> caller.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backend::{Backend, Class, NotSent, NotServing, Phase, Refusal, ServerState};
use super::calls::{Calls, TICK_US};
use super::client::{Lease, MultiDbClient};
use super::config::CallConfig;
use super::database::{Database, DatabaseId};
use super::error::{Error, ErrorKind};
use super::event::Event;
use super::live::{Core, Live, Mail, Routing, STALE, VerbDraft, WATCH_WRITES, micros};
use super::machine::Verb;
use super::retry::{self, Next};
use super::snapshot::Status;

/// One unit of work for a backend: a command, a pipeline, a transaction.
///
/// The engine runs it at most once, except where [`Operation::classify`] proves that an attempt did
/// not run it or [`Operation::is_repeatable`] says that running it twice does no harm.
pub trait Operation<B: Backend>: Send + Sync {
    /// What a driver returns when it worked.
    type Output: Send;
    /// What a failed call returns: [`RunError`], or a driver's error that can carry ours inside.
    type Error: From<RunError<B::Error>> + Send;

    /// Hands the work to the driver, without any timeout of the driver's own.
    ///
    /// The future is dropped at the response timeout, the deadline and when the caller gives up.
    fn attempt(
        &self,
        handle: &mut B::Handle,
    ) -> impl Future<Output = Result<Self::Output, B::Error>> + Send;

    /// The quick test on the command path: plainly executed, and nothing else to be said of it.
    fn is_clean(&self, result: &Result<Self::Output, B::Error>) -> bool;

    /// Whether the driver's error says that the connection has ended.
    fn is_loss(&self, error: &B::Error) -> bool;

    /// What became of an attempt that was not clean. Total.
    fn classify(&self, phase: Phase, result: Option<&Result<Self::Output, B::Error>>) -> Class;

    /// A server's word on its own state inside an answer that says, for the rest, that the operation
    /// ran: one refused element of a pipeline, a script that met it. Evidence, no reason to retry.
    fn complaint(&self, result: &Result<Self::Output, B::Error>) -> Option<ServerState> {
        let _ = result;
        None
    }

    /// Whether an answer that ends the call counts as a failure of the database all the same, for the failure
    /// detector: an error that may as well be the caller's as the server's.
    fn is_failure(&self, error: &B::Error) -> bool {
        let _ = error;
        false
    }

    /// Whether running it twice does no harm: it only reads, or the caller said so.
    fn is_repeatable(&self) -> bool;

    /// Whether it changes data, as far as is known.
    fn is_write(&self) -> bool;

    /// Whether it may run on this database. A refusal ends the call: [`ErrorKind::CursorMoved`].
    fn fits(&self, database: &DatabaseId) -> bool {
        let _ = database;
        true
    }

    /// Whether an answer counts as a success of the database; false for work that is never answered.
    fn is_answered(&self) -> bool {
        true
    }
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One attempt.
    pub response_timeout: Duration,
    /// The whole call.
    pub deadline: Duration,
}

/// A year: as good as forever, and no sum of it with any time overflows.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Why a call failed: the driver's word, or ours.
#[derive(Debug)]
pub enum RunError<E> {
    /// What the driver returned.
    Driver(E),
    /// What the engine found.
    Engine(Error),
}

/// A handle for calls. Keeps its own clone of the active connection, so that a call costs no shared
/// access beyond one flag.
pub struct Router<B: Backend> {
    client: MultiDbClient<B>,
    live: Option<(Arc<Live<B>>, B::Handle)>,
    timeout_us: u64,
    limits: Limits,
}

/// How an attempt ended, and on what.
struct Ended<T, E> {
    /// `None`: out of time.
    result: Option<Result<T, E>>,
    /// Bytes written before it was handed over.
    written: u64,
    /// When it began to wait, by the coarse clock, if it had to wait at all.
    begun: Option<u64>,
    /// Out of time, and the connection has given no byte since it began.
    silent: bool,
}

// === impl Limits ===

impl Limits {
    /// What they come to on this database: its own response timeout stands in for the client's, and not
    /// for one that the handle was given.
    pub(crate) fn on<E>(self, client: &CallConfig, database: &Database<E>) -> Self {
        match self.response_timeout == client.response_timeout {
            true => Self {
                response_timeout: database.response_timeout_or(client.response_timeout),
                ..self
            },
            false => self,
        }
    }
}

// === impl Router ===

impl<B: Backend> Router<B> {
    pub(crate) fn new(client: MultiDbClient<B>) -> Self {
        let calls = &client.core().config.calls;
        let limits = Limits {
            response_timeout: calls.response_timeout,
            deadline: calls.deadline,
        };
        let live = active(&client);
        let known = live.as_ref().map(|(live, _)| live);
        Self {
            timeout_us: timeout_us(client.core(), limits, known),
            live,
            client,
            limits,
        }
    }

    /// The client it belongs to.
    #[must_use]
    pub fn client(&self) -> &MultiDbClient<B> {
        &self.client
    }

    /// The database that the last call was sent to; before the first call, where it would be sent.
    #[must_use]
    pub fn last_database(&self) -> Option<&DatabaseId> {
        self.live.as_ref().map(|(live, _)| &live.conn.id)
    }

    /// How long its calls may take.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Changes how long its calls may take; other handles keep theirs.
    pub fn set_limits(&mut self, limits: Limits) {
        let limits = Limits {
            response_timeout: limits.response_timeout.min(LONGEST),
            deadline: limits.deadline.min(LONGEST),
        };
        let live = self.live.as_ref().map(|(live, _)| live);
        self.timeout_us = timeout_us(self.client.core(), limits, live);
        self.limits = limits;
    }

    /// Runs an operation on the active database; repeats it where that is safe, within the deadline.
    ///
    /// Dropping the future ends the call with an unknown outcome; nothing else is affected.
    ///
    /// # Errors
    /// What the driver returned where the operation ran or can never run; otherwise an [`Error`].
    pub async fn run<O: Operation<B>>(&mut self, op: &O) -> Result<O::Output, O::Error> {
        // One block and one way out of it, so that the future keeps nothing of it for what follows.
        let first = 'quick: {
            let Some((live, handle)) = &mut self.live else {
                break 'quick None;
            };
            let flags = live.flags();
            if flags & STALE != 0 || !op.fits(&live.conn.id) {
                break 'quick None;
            }
            let mut attempt = Attempt::new(&live.conn.calls, self.timeout_us);
            let result = {
                let mut work = pin!(op.attempt(handle));
                poll_fn(|cx| attempt.poll(cx, op, work.as_mut())).await
            };
            match result {
                Some(result) if op.is_clean(&result) => {
                    if flags != 0 {
                        note_success(live, op);
                    }
                    return result.map_err(|error| RunError::Driver(error).into());
                }
                result => Some(attempt.ended(result)),
            }
        };
        self.run_slowly(op, first, None).await
    }

    /// As [`Router::run`], for a call that has spent a part of its time already.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "for backends"))]
    pub(crate) async fn run_until<O: Operation<B>>(
        &mut self,
        op: &O,
        deadline: Instant,
    ) -> Result<O::Output, O::Error> {
        self.run_slowly(op, None, Some(deadline)).await
    }

    /// Everything but the first clean attempt, boxed so that the command path's future stays small.
    #[cold]
    fn run_slowly<'a, O: Operation<B>>(
        &'a mut self,
        op: &'a O,
        first: Option<Ended<O::Output, B::Error>>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'a, Result<O::Output, O::Error>> {
        Box::pin(async move {
            let live = self.live.as_ref().map(|(live, _)| live.clone());
            let first = live.zip(first);
            let core = self.client.core().clone();
            // No clock was read before the first attempt; the coarse one knows well enough.
            let spent = first.as_ref().map_or(Duration::ZERO, |(live, ended)| {
                let now = live.conn.calls.clock.now();
                Duration::from_micros(now.saturating_sub(ended.begun.unwrap_or(now)))
            });
            let deadline = deadline
                .unwrap_or_else(|| Instant::now() + self.limits.deadline.saturating_sub(spent));
            let mut call = Call::new(&core, self.limits, deadline);
            let mut ended = first;
            loop {
                if let Some((live, ended)) = ended.take()
                    && let Some(result) = call.conclude(op, &live, ended).await
                {
                    return result.map_err(O::Error::from);
                }
                let live = call.acquire().await.map_err(RunError::Engine)?;
                let handle = match &mut self.live {
                    Some((known, handle)) if Arc::ptr_eq(known, &live) => handle,
                    other => {
                        let handle = live.conn.handle.clone();
                        self.timeout_us = timeout_us(&core, self.limits, Some(&live));
                        &mut other.insert((live.clone(), handle)).1
                    }
                };
                if !op.fits(&live.conn.id) {
                    let error = Error::new(ErrorKind::CursorMoved);
                    let error = error.on(&live.conn.id, live.generation);
                    return Err(RunError::Engine(error).into());
                }
                let mut attempt = Attempt::new(&live.conn.calls, call.attempt_timeout(&live));
                let mut work = pin!(op.attempt(handle));
                let result = poll_fn(|cx| attempt.poll(cx, op, work.as_mut())).await;
                let end = attempt.ended(result);
                ended = Some((live, end));
            }
        })
    }
}

impl<B: Backend> Clone for Router<B> {
    fn clone(&self) -> Self {
        // A handle kept only to be cloned for every request never gets to know of a switch.
        let live = match &self.live {
            Some((live, _)) if live.flags() & STALE == 0 => self.live.clone(),
            _ => active(&self.client),
        };
        let known = live.as_ref().map(|(live, _)| live);
        Self {
            timeout_us: timeout_us(self.client.core(), self.limits, known),
            client: self.client.clone(),
            live,
            limits: self.limits,
        }
    }
}

impl<E: std::fmt::Display> std::fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Driver(error) => error.fmt(f),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for RunError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Driver(error) => error.source(),
            Self::Engine(error) => error.source(),
        }
    }
}

/// How long an attempt may wait on this connection, in microseconds.
fn timeout_us<B: Backend>(core: &Core<B>, limits: Limits, live: Option<&Arc<Live<B>>>) -> u64 {
    let limits = live.map_or(limits, |live| {
        limits.on(&core.config.calls, &live.conn.database)
    });
    micros(limits.response_timeout.min(limits.deadline))
}

/// The active connection, if there is one at the moment.
fn active<B: Backend>(client: &MultiDbClient<B>) -> Option<(Arc<Live<B>>, B::Handle)> {
    let routing = client.core().current();
    let live = routing.live.as_ref()?;
    Some((live.clone(), live.conn.handle.clone()))
}

// === pinned work ===

impl<B: Backend> Router<B> {
    /// As [`Router::run`], for the beginning of work that must stay where it began: pins the connection
    /// on which the operation ran.
    ///
    /// # Errors
    /// As [`Router::run`].
    pub async fn begin<O: Operation<B>>(
        &mut self,
        op: &O,
    ) -> Result<(O::Output, Lease<B>), O::Error> {
        let output = self.run(op).await?;
        match &self.live {
            Some((live, _)) => Ok((output, Lease::pin(self.client.core(), live.clone()))),
            // Whatever has run has run somewhere.
            None => Err(RunError::Engine(Error::new(ErrorKind::Closed)).into()),
        }
    }
}

impl<B: Backend> Lease<B> {
    /// Runs an operation on the pinned connection, once: there is nowhere else to go with it. What becomes
    /// of it is evidence like any other call's.
    ///
    /// # Errors
    /// What the driver returned, or an [`Error`], as by [`Router::run`].
    pub async fn run<O: Operation<B>>(
        &self,
        op: &O,
        limits: Limits,
    ) -> Result<O::Output, O::Error> {
        self.run_once(self.handle().clone(), true, op, limits).await
    }

    /// As [`Lease::run`], over another connection to the same database: for work that outlives one. That
    /// nothing was sent is never proven there.
    #[cfg_attr(not(feature = "e6data"), expect(dead_code, reason = "for backends"))]
    pub(crate) async fn run_over<O: Operation<B>>(
        &self,
        handle: B::Handle,
        op: &O,
        limits: Limits,
    ) -> Result<O::Output, O::Error> {
        self.run_once(handle, false, op, limits).await
    }

    /// `own`: over the lease's connection, whose bytes are counted.
    async fn run_once<O: Operation<B>>(
        &self,
        mut handle: B::Handle,
        own: bool,
        op: &O,
        limits: Limits,
    ) -> Result<O::Output, O::Error> {
        let live = self.live();
        let limits = limits.on(&self.core().config.calls, &live.conn.database);
        let timeout = micros(limits.response_timeout.min(limits.deadline).min(LONGEST));
        let ended = {
            let mut attempt = Attempt::new(&live.conn.calls, timeout);
            let mut work = pin!(op.attempt(&mut handle));
            let result = poll_fn(|cx| attempt.poll(cx, op, work.as_mut())).await;
            attempt.ended(result)
        };
        let booked = match book(op, live, own, ended) {
            Ok(clean) => return clean.map_err(|error| RunError::Driver(error).into()),
            Err(booked) => booked,
        };
        if let Class::NotServing(what) = booked.class {
            drop(post(self.core(), stand_down(live, what)));
        }
        let error = Error::from_class(&booked.class).on(&live.conn.id, live.generation);
        let result = hand_over(&booked.class, booked.result, error.after(1));
        result.map_err(O::Error::from)
    }
}

// === one attempt ===

/// An attempt on a connection: booked there however it ends, by being dropped too.
struct Attempt<'a> {
    calls: &'a Calls,
    timeout_us: u64,
    written: u64,
    due: Option<u64>,
    /// Its number among the calls in flight, while it waits.
    waiting: Option<u64>,
}

impl<'a> Attempt<'a> {
    fn new(calls: &'a Calls, timeout_us: u64) -> Self {
        Self {
            calls,
            timeout_us,
            written: calls.meter.written(),
            due: None,
            waiting: None,
        }
    }

    /// Polls the driver's future against the clock; `None` is out of time.
    ///
    /// A hand-written race: a `select!` with a timer would arm that timer for every command.
    #[inline(always)]
    fn poll<B: Backend, O: Operation<B>>(
        &mut self,
        cx: &mut Context<'_>,
        op: &O,
        work: Pin<&mut impl Future<Output = Result<O::Output, B::Error>>>,
    ) -> Poll<Option<Result<O::Output, B::Error>>> {
        if let Poll::Ready(result) = work.poll(cx) {
            let succeeded = result.is_ok() && op.is_answered();
            match self.waiting.take() {
                Some(number) => self.calls.finish(number, succeeded),
                None => self.calls.finish_unregistered(succeeded),
            }
            return Poll::Ready(Some(result));
        }
        match (self.waiting, self.due) {
            (Some(_), Some(due)) if self.calls.clock.now() >= due => return Poll::Ready(None),
            (Some(number), _) => self.calls.rewake(number, cx.waker()),
            (None, _) => {
                let (number, due) = self.calls.begin(self.timeout_us, cx.waker().clone());
                self.waiting = Some(number);
                self.due = Some(due);
            }
        }
        Poll::Pending
    }

    fn ended<T, E>(self, result: Option<Result<T, E>>) -> Ended<T, E> {
        let waits = self.waiting.filter(|_| result.is_none());
        Ended {
            result,
            silent: waits.is_some_and(|number| self.calls.is_silent(number)),
            written: self.written,
            begun: self.due.map(|due| due - self.timeout_us - TICK_US),
        }
    }
}

impl Drop for Attempt<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(number) = self.waiting {
            self.calls.abandon(number);
        }
    }
}

#[cold]
fn note_success<B: Backend, O: Operation<B>>(live: &Live<B>, op: &O) {
    if live.flags() & WATCH_WRITES != 0 && op.is_write() {
        live.tally.wrote();
        live.clear_flag(WATCH_WRITES);
    }
}

// === a call over several attempts ===

/// What a call remembers between its attempts.
struct Call<'a, B: Backend> {
    core: &'a Arc<Core<B>>,
    limits: Limits,
    deadline: Instant,
    attempts: u32,
    pauses: Option<retry::Pauses>,
    /// The connection that the last attempt ended on, if that has ended too.
    dead: Option<u64>,
    /// An earlier attempt may have run: whatever ends the call must not deny it.
    doubt: Option<Error>,
}

type Concluded<O, B> = Option<Result<<O as Operation<B>>::Output, RunError<<B as Backend>::Error>>>;

impl<'a, B: Backend> Call<'a, B> {
    fn new(core: &'a Arc<Core<B>>, limits: Limits, deadline: Instant) -> Self {
        Self {
            core,
            limits,
            deadline,
            attempts: 0,
            pauses: None,
            dead: None,
            doubt: None,
        }
    }

    fn attempt_timeout(&self, live: &Live<B>) -> u64 {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limits = self.limits.on(&self.core.config.calls, &live.conn.database);
        micros(limits.response_timeout.min(left))
    }

    /// Classifies and books an attempt. `Some` ends the call; `None`: try again now.
    async fn conclude<O: Operation<B>>(
        &mut self,
        op: &O,
        live: &Arc<Live<B>>,
        ended: Ended<O::Output, B::Error>,
    ) -> Concluded<O, B> {
        self.attempts += 1;
        let Booked {
            result,
            phase,
            class,
            number,
        } = match book(op, live, true, ended) {
            Ok(clean) => return Some(clean.map_err(RunError::Driver)),
            Err(booked) => booked,
        };
        let error = Error::from_class(&class)
            .on(&live.conn.id, live.generation)
            .after(self.attempts);
        if matches!(class, Class::Unknown(_)) {
            self.doubt = Some(error.clone());
        }
        let again = match retry::next(&class, op.is_repeatable()) {
            Next::Return | Next::Doubt => false,
            Next::Again if matches!(phase, Phase::Lost { .. }) => {
                // Another connection, or none: waiting for it is pause enough.
                self.dead = Some(live.conn.incarnation);
                true
            }
            Next::Again => self.pause(live).await,
            Next::AfterVerdict => self.await_verdict(live, number).await,
            Next::Follow(to) => {
                let verb = Verb::Direct {
                    to,
                    observed: live.generation,
                    cause: format!("{} said so", live.conn.id),
                };
                self.tell(verb).await;
                self.pause(live).await
            }
            Next::Leave(what) => {
                self.tell(stand_down(live, what)).await;
                self.pause(live).await
            }
        };
        if again && Instant::now() < self.deadline {
            return None;
        }
        // An earlier attempt may have run; that this one did not is no proof for the call.
        if class.is_retry_safe()
            && let Some(doubt) = self.doubt.take()
        {
            return Some(Err(RunError::Engine(doubt)));
        }
        Some(hand_over(&class, result, error))
    }

    /// The bound of the next pause. A backoff of the user's that panics is replaced by the default.
    fn next_pause(&mut self) -> Option<Duration> {
        let (pauses, core) = (&mut self.pauses, self.core);
        let next = AssertUnwindSafe(|| pauses.get_or_insert_with(|| (core.backoff)()).next());
        catch_unwind(next).unwrap_or_else(|_| {
            let _ = core
                .events
                .send(Event::PolicyPanicked { policy: "backoff" });
            let default = retry::default_backoff(&core.config.calls)();
            self.pauses.insert(default).next()
        })
    }

    /// Waits until the client has moved on, or for a backoff that the retry budget grants.
    async fn pause(&mut self, live: &Arc<Live<B>>) -> bool {
        if moved(&self.core.current(), live) {
            return true;
        }
        let succeeded = live.conn.calls.succeeded();
        if !self.core.budget.withdraw(Instant::now(), succeeded) {
            return false;
        }
        let Some(bound) = self.next_pause() else {
            return false;
        };
        let until = (Instant::now() + self.core.pause(bound)).min(self.deadline);
        let moved = (self.core.routing).wait_for(|routing| moved(routing, live));
        let _ = tokio::time::timeout_at(until, moved).await;
        true
    }

    /// A refusal by state waits for the decision whether this database is left.
    async fn await_verdict(&mut self, live: &Arc<Live<B>>, number: Option<u64>) -> bool {
        is_worth_repeating(self.core, live, number, self.deadline).await && self.pause(live).await
    }

    /// What the server says of who serves is the machine's business. Waits for what it makes of it: until
    /// then every attempt would be turned away again, at the cost of the retry budget.
    async fn tell(&mut self, verb: Verb) {
        let answered = post(self.core, verb);
        let _ = tokio::time::timeout_at(self.deadline, answered).await;
    }

    /// A connection that may be used now; waits for one within the deadline.
    async fn acquire(&mut self) -> Result<Arc<Live<B>>, Error> {
        let found = acquire(self.core, self.deadline, self.dead).await;
        found.map_err(|error| self.doubt.take().unwrap_or(error.after(self.attempts)))
    }
}

/// An attempt that was not plainly executed, once it is booked.
struct Booked<T, E> {
    result: Option<Result<T, E>>,
    phase: Phase,
    class: Class,
    /// The number of a refusal by state, to wait for its verdict.
    number: Option<u64>,
}

/// `Ok`: it was plainly executed.
type Booking<T, E> = Result<Result<T, E>, Booked<T, E>>;

/// What became of an attempt, counted and booked to the failure domain and episode that it ran in. `own`: over
/// the connection of `live`, whose bytes are counted.
fn book<B: Backend, O: Operation<B>>(
    op: &O,
    live: &Live<B>,
    own: bool,
    ended: Ended<O::Output, B::Error>,
) -> Booking<O::Output, B::Error> {
    let result = match ended.result {
        Some(clean) if op.is_clean(&clean) => {
            note_success(live, op);
            return Ok(clean);
        }
        result => result,
    };
    let meter = &live.conn.calls.meter;
    let phase = match &result {
        None => Phase::TimedOut,
        Some(Err(error)) if op.is_loss(error) => Phase::Lost {
            sent: !own || !meter.is_armed() || meter.written() != ended.written,
        },
        Some(_) => Phase::Answered,
    };
    let class = op.classify(phase, result.as_ref());
    (live.conn.calls.counters).count(&class, matches!(result, Some(Ok(_))));
    let complaint = match (&class, &result) {
        (Class::Executed, Some(result)) => op.complaint(result),
        _ => None,
    };
    let number = match complaint {
        Some(state) => {
            let refused = Class::NotExecuted(Refusal::State(state));
            live.tally.book(live.episode, &refused)
        }
        None if ended.silent => {
            live.tally.book_silence(live.episode);
            None
        }
        None if matches!((&class, &result), (Class::Executed, Some(Err(error))) if op.is_failure(error)) =>
        {
            live.tally.book_failure(live.episode);
            None
        }
        None => live.tally.book(live.episode, &class),
    };
    if number.is_some() {
        live.set_flag(WATCH_WRITES);
    }
    Err(Booked {
        result,
        phase,
        class,
        number,
    })
}

/// What the caller gets: the driver's word where it is the whole truth, or else ours.
fn hand_over<T, E: std::error::Error + Send + Sync + 'static>(
    class: &Class,
    result: Option<Result<T, E>>,
    error: Error,
) -> Result<T, RunError<E>> {
    match result {
        Some(Ok(output)) => Ok(output),
        Some(Err(driver)) => Err(match class {
            Class::Unknown(_) | Class::NotSent(NotSent::Connect | NotSent::Lost) => {
                RunError::Engine(error.caused_by(driver))
            }
            _ => RunError::Driver(driver),
        }),
        None => Err(RunError::Engine(error)),
    }
}

/// Hands a verb to the supervisor; the receiver gets its answer.
fn post<B: Backend>(core: &Core<B>, verb: Verb) -> oneshot::Receiver<Result<(), Error>> {
    let (answer, answered) = oneshot::channel();
    let _ = core.mailbox.send(Mail::Order {
        database: None,
        verb: VerbDraft::Ready(verb),
        answer,
    });
    answered
}

fn stand_down<B: Backend>(live: &Live<B>, what: NotServing) -> Verb {
    Verb::StandDown {
        database: live.conn.id.clone(),
        observed: live.generation,
        what,
    }
}

/// Waits until it is decided whether a database that refused by its state is left. False: the client
/// stays on it, since there is no other, or the time is up.
pub(crate) async fn is_worth_repeating<B: Backend>(
    core: &Core<B>,
    live: &Arc<Live<B>>,
    number: Option<u64>,
    deadline: Instant,
) -> bool {
    let Some(number) = number else {
        // Of another episode: that is decided already.
        return true;
    };
    let moved_on = core.routing.wait_for(|routing| moved(routing, live));
    let decided = (live.tally.judged).wait_for(|judged| judged.refusals >= number);
    let cornered = tokio::select! {
        biased;
        _ = moved_on => return true,
        decided = decided => decided.cornered,
        () = tokio::time::sleep_until(deadline) => return false,
    };
    !cornered || moved(&core.current(), live)
}

/// Whether calls go elsewhere, or nowhere, now.
fn moved<B: Backend>(routing: &Routing<B>, from: &Arc<Live<B>>) -> bool {
    match &routing.live {
        Some(live) => !Arc::ptr_eq(&live.conn, &from.conn),
        None => routing.status != Status::Serving,
    }
}

/// The active connection, unless it is the one known to be dead; waits for one until `deadline`.
pub(crate) async fn acquire<B: Backend>(
    core: &Arc<Core<B>>,
    deadline: Instant,
    dead: Option<u64>,
) -> Result<Arc<Live<B>>, Error> {
    core.start_lazily();
    if let Some(found) = usable(&core.current(), dead) {
        return found;
    }
    let _place = Place::take(core)?;
    let mut found = None;
    let waiting = core.routing.wait_for(|routing| {
        found = usable(routing, dead);
        found.is_some()
    });
    if tokio::time::timeout_at(deadline, waiting).await.is_ok()
        && let Some(found) = found
    {
        return found;
    }
    let error = Error::new(ErrorKind::Unavailable);
    let snapshot = &core.current().snapshot;
    Err(match &snapshot.active {
        Some(id) => error.on(id, snapshot.generation),
        None => error,
    })
}

/// The connection to be used, or why there will be none; `None`: not yet.
fn usable<B: Backend>(
    routing: &Routing<B>,
    dead: Option<u64>,
) -> Option<Result<Arc<Live<B>>, Error>> {
    match routing.status {
        Status::Closed => return Some(Err(Error::new(ErrorKind::Closed))),
        Status::GaveUp => return Some(Err(Error::new(ErrorKind::NoHealthyDatabase))),
        Status::Starting | Status::Serving | Status::Waiting => {}
    }
    let live = routing.live.as_ref()?;
    let stands = Some(live.conn.incarnation) != dead && !live.conn.lost.is_lost();
    stands.then(|| Ok(live.clone()))
}

/// A place among the calls that wait; there are only so many.
struct Place<'a, B: Backend>(&'a Core<B>);

impl<'a, B: Backend> Place<'a, B> {
    fn take(core: &'a Core<B>) -> Result<Self, Error> {
        if core.waiting.fetch_add(1, Ordering::AcqRel) >= core.config.calls.max_waiting {
            core.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::new(ErrorKind::Unavailable));
        }
        Ok(Self(core))
    }
}

impl<B: Backend> Drop for Place<'_, B> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
