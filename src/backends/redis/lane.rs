//! The lane: private connections for what must not share one.
//!
//! A blocking command holds back every reply behind it, and a watched key belongs to one connection.
//! Both get a connection of their own, beside the traffic connection of the same database. A lane
//! that is dropped is reset: what blocks on it at the server is released, and swallows nothing.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::redis::{Cmd, RedisError, RedisResult, Value, cmd};
use tokio::time::{Instant, timeout_at};

use super::commands::{timeout, with_timeout};
use super::error::{from_redis, to_redis};
use super::handle::{Blocked, Redis, RedisHandle, Spot};
use super::operation::{Batch, Single};
use crate::engine::backend::{
    Backend, Class, FaultKind, LostSignal, NotSent, Phase, Purpose, Wiring,
};
use crate::engine::error::{Error, ErrorKind};
use crate::engine::live::{Conn, Core, Live, Mail, connect};
use crate::engine::retry::{self, Next};
use crate::engine::run::{LONGEST, Limits, Operation, acquire, is_worth_repeating};
use crate::engine::snapshot::Status;

/// A private connection, and where it leads.
pub(crate) struct Lane {
    pub(super) handle: RedisHandle,
    pub(super) live: Arc<Live<Redis>>,
    lost: LostSignal,
    core: Weak<Core<Redis>>,
    /// Something was sent that has not been answered: it may run after we are gone.
    owing: bool,
}

/// How a call on a lane ended.
pub(super) enum LaneEnd<T> {
    /// The driver returned.
    Answered(RedisResult<T>),
    /// The connection ended.
    Lost {
        /// Whether a byte of the call may have left.
        sent: bool,
        /// What the driver said.
        result: RedisResult<T>,
    },
    /// The time was up, or the client is being closed.
    GivenUp,
}

/// What became of a call on a lane, and what follows from it.
pub(super) struct Concluded<T> {
    pub(super) result: RedisResult<T>,
    pub(super) next: Next,
    /// The number of a refusal by state, to wait for its verdict.
    refusal: Option<u64>,
}

impl Lane {
    /// A private connection to the active database: a spare one, or a new one.
    pub(super) async fn open(core: &Arc<Core<Redis>>, deadline: Instant) -> Result<Self, Error> {
        let mut pause = Duration::from_millis(5);
        loop {
            let live = acquire(core, deadline, None).await?;
            if let Some(mut lane) = core.backend.take_lane(|lane| lane.is_usable(&live)) {
                lane.live = live;
                return Ok(lane);
            }
            let calls = live.conn.database.calls(&core.config.calls);
            let wiring = Wiring::new(Purpose::Lane, calls.response_timeout);
            let limit = deadline.min(Instant::now() + calls.connect_timeout);
            let connecting = connect(&core.backend, &live.conn.database, &wiring, limit);
            let connected = tokio::select! {
                biased;
                connected = connecting => connected,
                // Left meanwhile: the one that serves now is asked instead.
                () = live.conn.lost.wait() => continue,
                () = core.stop.cancelled() => return Err(Error::new(ErrorKind::Closed)),
            };
            match connected {
                Ok(handle) => {
                    return Ok(Self {
                        handle,
                        live,
                        lost: wiring.lost,
                        core: Arc::downgrade(core),
                        owing: false,
                    });
                }
                Err(fault) => {
                    live.tally
                        .book(live.episode, &Class::NotSent(NotSent::Connect));
                    if fault.kind == FaultKind::Denied || Instant::now() + pause >= deadline {
                        let error = Error::new(ErrorKind::NotExecuted).caused_by(fault);
                        return Err(error.on(&live.conn.id, live.generation));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(200));
                }
            }
        }
    }

    fn is_usable(&self, live: &Live<Redis>) -> bool {
        Arc::ptr_eq(&self.live.conn, &live.conn) && !self.lost.is_lost()
    }

    /// Still to the database that is active, over a connection that still stands.
    pub(super) fn is_current(&self, core: &Core<Redis>) -> bool {
        let current = core.current();
        let same = |live: &Arc<Live<Redis>>| live.generation == self.live.generation;
        !self.lost.is_lost() && current.live.as_ref().is_some_and(same)
    }

    /// Lets the next one use it. Only for a lane without any session state left on it.
    pub(super) fn give_back(self, core: &Core<Redis>) {
        if !self.owing && self.is_current(core) {
            core.backend.keep_lane(self);
        }
    }

    /// Runs an operation, for `limit` at most. Cancelled, it leaves the lane fit for dropping only.
    pub(super) async fn run<O: Operation<Redis>>(
        &mut self,
        core: &Core<Redis>,
        op: &O,
        limit: Option<Duration>,
    ) -> LaneEnd<O::Output> {
        self.owing = true;
        let meter = self.handle.meter().clone();
        let written = meter.written();
        let expired = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            biased;
            result = op.attempt(&mut self.handle) => result,
            () = core.stop.cancelled() => return LaneEnd::GivenUp,
            () = expired => return LaneEnd::GivenUp,
        };
        if let Err(error) = &result
            && op.is_loss(error)
        {
            let sent = meter.written() != written;
            return LaneEnd::Lost { sent, result };
        }
        self.owing = false;
        meter.replied();
        LaneEnd::Answered(result)
    }

    /// What became of an operation on this lane, booked where it ran.
    pub(super) fn conclude<O: Operation<Redis>>(
        &self,
        op: &O,
        end: LaneEnd<O::Output>,
    ) -> Concluded<O::Output> {
        let counters = &self.live.conn.calls.counters;
        let (phase, result) = match end {
            LaneEnd::Answered(result) if op.is_clean(&result) => {
                counters.answered(1);
                return Concluded {
                    result,
                    next: Next::Return,
                    refusal: None,
                };
            }
            LaneEnd::Answered(result) => (Phase::Answered, Some(result)),
            LaneEnd::Lost { sent, result } => (Phase::Lost { sent }, Some(result)),
            LaneEnd::GivenUp => (Phase::TimedOut, None),
        };
        let class = op.classify(phase, result.as_ref());
        counters.count(&class, false);
        let refusal = self.live.tally.book(self.live.episode, &class);
        let error = || Error::from_class(&class).on(&self.live.conn.id, self.live.generation);
        let result = match (&class, result) {
            (Class::Unknown(_) | Class::NotSent(NotSent::Lost), Some(Err(driver))) => {
                Err(to_redis(error().caused_by(driver)))
            }
            (_, Some(result)) => result,
            (_, None) => Err(to_redis(error())),
        };
        Concluded {
            result,
            next: retry::next(&class, op.is_repeatable()),
            refusal,
        }
    }

    /// Whether to run an operation once more that was refused by the server's state: once it is
    /// decided whether this database is left.
    pub(super) async fn is_worth_repeating<T>(
        &self,
        core: &Core<Redis>,
        concluded: &Concluded<T>,
        deadline: Instant,
    ) -> bool {
        is_worth_repeating(core, &self.live, concluded.refusal, deadline).await
            && Instant::now() < deadline
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.handle.abort();
        if self.owing
            && let Some(core) = self.core.upgrade()
            && let Some(mark) = core.backend.mark(&self.handle)
        {
            let member = self.live.conn.member;
            let _ = core.mailbox.send(Mail::Bury { member, mark });
        }
    }
}

/// Runs a blocking command on a private connection, and moves it along with the active database.
///
/// Cancel-safe: a dropped call resets its connection, so that no element is taken for nobody.
pub(super) async fn block(
    core: &Arc<Core<Redis>>,
    cmd: &Cmd,
    idempotent: bool,
    limits: Limits,
) -> RedisResult<Value> {
    let patience = timeout(cmd);
    let ends = patience.map(|patience| Instant::now() + patience.min(LONGEST));
    // Since when every database it went to has refused it, and how long to wait before the next try.
    let (mut refused_since, mut pause) = (None, Duration::from_millis(5));
    // What an earlier try may have done: that a later one did nothing does not deny it.
    let mut doubt = None;
    loop {
        let deadline = Instant::now() + limits.deadline;
        let mut lane = match Lane::open(core, deadline).await {
            Ok(lane) => lane,
            Err(error) => return Err(doubt.unwrap_or_else(|| to_redis(error))),
        };
        let limits = limits.on(&core.config.calls, &lane.live.conn.database);
        // Opening took its time, too.
        let current = match ends {
            Some(ends) => with_timeout(cmd, left_until(ends)),
            None => cmd.clone(),
        };
        let op = Single {
            cmd: &current,
            idempotent,
        };
        let limit = ends.map(|ends| left_until(ends) + limits.response_timeout);
        let (end, moved) = run_until_moved(core, &mut lane, &op, limit, limits).await;
        let waited_in_vain = matches!(&end, LaneEnd::Answered(Ok(Value::Nil)));
        let concluded = lane.conclude(&op, end);
        let again = match concluded.next {
            // Released by us with nothing taken: the wait goes on where the client is now.
            Next::Return => moved && waited_in_vain,
            // A reader, or never sent. What another would have taken is not known.
            Next::Again => !core.stop.is_cancelled(),
            Next::AfterVerdict => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                lane.is_worth_repeating(core, &concluded, since + limits.deadline)
                    .await
            }
            Next::Doubt | Next::Follow(_) | Next::Leave(_) => false,
        };
        let retry_safe = |error: &RedisError| from_redis(error).is_some_and(|e| e.is_retry_safe());
        if again && ends.is_none_or(|ends| Instant::now() < ends) {
            if concluded.next == Next::AfterVerdict && lane.is_current(core) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(200));
            }
            doubt = doubt.or(concluded.result.err().filter(|error| !retry_safe(error)));
            continue;
        }
        lane.give_back(core);
        return match (concluded.result, doubt) {
            (Err(error), Some(doubt)) if retry_safe(&error) => Err(doubt),
            (result, _) => result,
        };
    }
}

/// Runs a pipeline with blocking elements on a private connection. It ends where it began.
pub(super) async fn block_batch(
    core: &Arc<Core<Redis>>,
    op: &Batch<'_>,
    limits: Limits,
) -> RedisResult<Vec<Value>> {
    let deadline = Instant::now() + limits.deadline;
    let mut lane = Lane::open(core, deadline).await.map_err(to_redis)?;
    let conn = lane.live.conn.clone();
    let limits = limits.on(&core.config.calls, &conn.database);
    let end = {
        let mut run = pin!(lane.run(core, op, None));
        let given_up = async {
            left(core, &conn).await;
            conn.lost.wait().await;
        };
        tokio::select! {
            biased;
            end = &mut run => end,
            // Whatever has been answered by then has been answered.
            () = given_up => tokio::time::timeout(limits.response_timeout, run)
                .await
                .unwrap_or(LaneEnd::GivenUp),
        }
    };
    let concluded = lane.conclude(op, end);
    lane.give_back(core);
    concluded.result
}

/// Runs a blocking command; when the client moves on, asks the server to release it. True: it moved.
async fn run_until_moved(
    core: &Arc<Core<Redis>>,
    lane: &mut Lane,
    op: &Single<'_>,
    limit: Option<Duration>,
    limits: Limits,
) -> (LaneEnd<Value>, bool) {
    let conn = lane.live.conn.clone();
    let handle = lane.handle.clone();
    let mut run = pin!(lane.run(core, op, limit));
    tokio::select! {
        biased;
        end = &mut run => return (end, false),
        () = left(core, &conn) => {}
    }
    let until = Instant::now() + limits.response_timeout;
    let released = tokio::select! {
        biased;
        end = &mut run => return (end, true),
        released = timeout_at(until, release(core, &conn, &handle)) => released,
    };
    let end = match released {
        Ok(Released::Yes) => timeout_at(until, run).await.unwrap_or(LaneEnd::GivenUp),
        Err(_) => LaneEnd::GivenUp,
        // A server that cannot name the connection cannot release it: it waits on where it is, as
        // long as there is something to wait for.
        Ok(Released::Nameless) => tokio::select! {
            biased;
            end = run => end,
            () = conn.lost.wait() => LaneEnd::GivenUp,
        },
    };
    (end, true)
}

/// Whether a server was asked to let a blocked connection go.
enum Released {
    Yes,
    Nameless,
}

/// Ends once the client has left the database for another one or for none. A connection to it that is
/// only being made anew is no reason to stop waiting on another one.
async fn left(core: &Core<Redis>, conn: &Conn<Redis>) {
    let gone = core.routing.wait_for(|routing| match &routing.live {
        Some(live) => live.conn.member != conn.member,
        None => routing.status != Status::Serving,
    });
    gone.await;
}

/// Asks the server to answer a blocked connection as if its time were up; again, if the command has
/// not begun to block yet, or has been sent on to another node. Ends when it has been released.
async fn release(core: &Core<Redis>, conn: &Conn<Redis>, blocked: &RedisHandle) -> Released {
    loop {
        match blocked.blocked() {
            Blocked::Nameless => return Released::Nameless,
            Blocked::At(spot) if unblock(core, conn, &spot).await => return Released::Yes,
            Blocked::At(_) | Blocked::Nowhere => {}
        }
        tokio::time::sleep(UNBLOCK_PAUSE).await;
    }
}

/// True: it was blocked, and is not any more.
async fn unblock(core: &Core<Redis>, conn: &Conn<Redis>, spot: &Spot) -> bool {
    let mut unblock = cmd("CLIENT");
    unblock.arg("UNBLOCK").arg(spot.mark.id).arg("TIMEOUT");
    let answer = match conn.lost.is_lost() {
        false => conn.handle.ask_at(spot, &unblock).await,
        true => {
            let calls = conn.database.calls(&core.config.calls);
            let wiring = Wiring::new(Purpose::Probe, calls.response_timeout);
            let endpoint = conn.database.endpoint();
            match core.backend.connect_to(spot, endpoint, wiring).await {
                Ok(beside) => beside.ask(&unblock).await,
                Err(fault) => Err(fault),
            }
        }
    };
    matches!(answer, Ok(Value::Int(1)))
}

const UNBLOCK_PAUSE: Duration = Duration::from_millis(20);

fn left_until(ends: Instant) -> Duration {
    ends.saturating_duration_since(Instant::now())
}
