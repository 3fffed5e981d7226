//! WATCH: a session that commits on the connection and the database it began on, or not at all.
//!
//! On a shared connection another task's EXEC would clear the watch; on another database, EXEC would
//! commit without any watch at all. So a watched session has a private connection, and once that is
//! lost or the client has moved on, the transaction is answered like one whose key was touched: the
//! loop of `transaction_async` starts again, on the database that is active by then.

use std::sync::Arc;

use std::time::Duration;

use ::redis::{Cmd, RedisResult, Value, cmd};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::error::to_redis;
use super::handle::Redis;
use super::lane::{Lane, LaneEnd};
use super::operation::{Batch, Single};
use crate::engine::error::{Error, ErrorKind};
use crate::engine::live::Core;
use crate::engine::retry::Next;
use crate::engine::run::{Limits, Operation};

/// A watched session, shared by the clones of a connection made while it lasts.
///
/// The lock is held across a call on purpose: a session is one conversation. Whoever waits for it does
/// so within the time of its own call.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<State>>);

/// How long a call in a session may take.
#[derive(Clone, Copy)]
pub(super) struct Time {
    limits: Limits,
    /// When the whole call ends, waiting for the session included.
    pub(super) deadline: Instant,
}

enum State {
    Open(Lane),
    /// Its connection is gone: the next transaction is answered nil, unsent.
    Broken,
    /// EXEC, UNWATCH or DISCARD has ended it.
    Over,
}

impl Watch {
    /// Sends WATCH over a private connection of its own.
    pub(super) async fn begin(
        core: &Arc<Core<Redis>>,
        watch: &Cmd,
        time: Time,
    ) -> (RedisResult<Value>, Option<Self>) {
        loop {
            let mut lane = match Lane::open(core, time.deadline).await {
                Ok(lane) => lane,
                Err(error) => return (Err(to_redis(error)), None),
            };
            let op = harmless(watch);
            let end = lane.run(core, &op, Some(time.attempt(core, &lane))).await;
            let concluded = lane.conclude(&op, end);
            let again = concluded.next == Next::Again && !core.stop.is_cancelled();
            if again && Instant::now() < time.deadline {
                continue;
            }
            let watching = matches!(concluded.result, Ok(Value::Okay));
            let session = watching.then(|| Self(Arc::new(Mutex::new(State::Open(lane)))));
            return (concluded.result, session);
        }
    }

    /// Whether it has ended. One that is in use has not.
    pub(super) fn is_over(&self) -> bool {
        self.0
            .try_lock()
            .is_ok_and(|state| matches!(*state, State::Over))
    }

    /// The session, when its other users are through; what waits here has not been sent.
    async fn lock(&self, time: Time) -> RedisResult<MutexGuard<'_, State>> {
        let locked = tokio::time::timeout_at(time.deadline, self.0.lock()).await;
        locked.map_err(|_| to_redis(Error::new(ErrorKind::Unavailable)))
    }

    /// A command or a plain pipeline of the session. `None`: the session cannot carry it any more, and
    /// it may run anywhere.
    pub(super) async fn run<O: Operation<Redis>>(
        &self,
        core: &Core<Redis>,
        op: &O,
        time: Time,
    ) -> Option<RedisResult<O::Output>> {
        match self.lock(time).await {
            Ok(mut state) => state.run(core, op, time).await,
            Err(error) => Some(Err(error)),
        }
    }

    /// The transaction that ends the session. `None`: the session is over, it is no part of it.
    pub(super) async fn commit(
        &self,
        core: &Core<Redis>,
        op: &Batch<'_>,
        time: Time,
    ) -> Option<RedisResult<Vec<Value>>> {
        let mut state = match self.lock(time).await {
            Ok(state) => state,
            Err(error) => return Some(Err(error)),
        };
        match std::mem::replace(&mut *state, State::Over) {
            State::Open(mut lane) if lane.is_current(core) => {
                let end = lane.run(core, op, Some(time.attempt(core, &lane))).await;
                let unsent = matches!(end, LaneEnd::Lost { sent: false, .. });
                let concluded = lane.conclude(op, end);
                let refused = concluded.next == Next::AfterVerdict
                    && (lane.is_worth_repeating(core, &concluded, time.deadline)).await;
                // Only an EXEC that was answered has certainly ended the watch.
                if concluded.result.is_ok() {
                    lane.give_back(core);
                }
                // Either proves that nothing ran: the caller may start again, elsewhere if need be.
                if unsent || refused {
                    return Some(Ok(vec![Value::Nil]));
                }
                Some(concluded.result)
            }
            State::Open(_) | State::Broken => Some(Ok(vec![Value::Nil])),
            State::Over => None,
        }
    }

    /// UNWATCH. What was watched is forgotten whatever happens: the connection is given up otherwise.
    pub(super) async fn end(&self, core: &Core<Redis>, time: Time) -> RedisResult<()> {
        let mut state = self.lock(time).await?;
        if let State::Open(mut lane) = std::mem::replace(&mut *state, State::Over)
            && lane.is_current(core)
        {
            let unwatch = cmd("UNWATCH");
            let op = harmless(&unwatch);
            let end = lane.run(core, &op, Some(time.attempt(core, &lane))).await;
            if lane.conclude(&op, end).result.is_ok() {
                lane.give_back(core);
            }
        }
        Ok(())
    }

    /// WATCH of further keys in the same session. `None`: the session has ended.
    pub(super) async fn extend(
        &self,
        core: &Core<Redis>,
        watch: &Cmd,
        time: Time,
    ) -> Option<RedisResult<Value>> {
        // Held from the look to the answer: in between, somebody else might end the session.
        let mut state = match self.lock(time).await {
            Ok(state) if matches!(*state, State::Over) => return None,
            Ok(state) => state,
            Err(error) => return Some(Err(error)),
        };
        // A broken session stays broken: keys watched before it broke are not watched any more.
        let extended = state.run(core, &harmless(watch), time).await;
        Some(extended.unwrap_or(Ok(Value::Okay)))
    }
}

impl State {
    /// As [`Watch::run`].
    async fn run<O: Operation<Redis>>(
        &mut self,
        core: &Core<Redis>,
        op: &O,
        time: Time,
    ) -> Option<RedisResult<O::Output>> {
        let Self::Open(lane) = self else {
            return None;
        };
        if !lane.is_current(core) {
            *self = Self::Broken;
            return None;
        }
        let end = lane.run(core, op, Some(time.attempt(core, lane))).await;
        let answered = matches!(end, LaneEnd::Answered(_));
        let concluded = lane.conclude(op, end);
        if !answered {
            *self = Self::Broken;
        }
        // A read that got no answer is lost with its session only if no other connection can do it.
        (concluded.next != Next::Again).then_some(concluded.result)
    }
}

impl Time {
    /// For a call that begins now.
    pub(super) fn of(limits: Limits) -> Self {
        Self {
            limits,
            deadline: Instant::now() + limits.deadline,
        }
    }

    fn attempt(self, core: &Core<Redis>, lane: &Lane) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limits = (self.limits).on(&core.config.calls, &lane.live.conn.database);
        limits.response_timeout.min(left)
    }
}

/// WATCH and UNWATCH: running them twice does no harm.
fn harmless(cmd: &Cmd) -> Single<'_> {
    Single {
        cmd,
        idempotent: true,
    }
}
