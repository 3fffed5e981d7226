//! WATCH: a session that commits on the connection and the database it began on, or not at all.
//!
//! On a shared connection another task's EXEC would clear the watch; on another database, EXEC would
//! commit without any watch at all. So a watched session has a private connection, and once that is
//! lost or the client has moved on, the transaction is answered like one whose key was touched: the
//! loop of `transaction_async` starts again, on the database that is active by then.

use std::sync::Arc;

use ::redis::{Cmd, RedisResult, Value, cmd};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::to_redis;
use super::handle::Redis;
use super::lane::{Lane, LaneEnd};
use super::operation::{Batch, Single};
use crate::engine::live::Core;
use crate::engine::retry::Next;
use crate::engine::run::{Limits, Operation};

/// A watched session, shared by the clones of a connection made while it lasts.
///
/// The lock is held across a call on purpose: a session is one conversation.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<State>>);

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
        limits: Limits,
    ) -> (RedisResult<Value>, Option<Self>) {
        let deadline = Instant::now() + limits.deadline;
        loop {
            let mut lane = match Lane::open(core, deadline).await {
                Ok(lane) => lane,
                Err(error) => return (Err(to_redis(error)), None),
            };
            let op = harmless(watch);
            let end = lane.run(core, &op, Some(limits.response_timeout)).await;
            let concluded = lane.conclude(&op, end);
            let again = concluded.next == Next::Again && !core.stop.is_cancelled();
            if again && Instant::now() < deadline {
                continue;
            }
            let watching = matches!(concluded.result, Ok(Value::Okay));
            let session = watching.then(|| Self(Arc::new(Mutex::new(State::Open(lane)))));
            return (concluded.result, session);
        }
    }

    pub(super) async fn is_over(&self) -> bool {
        matches!(*self.0.lock().await, State::Over)
    }

    /// A command or a plain pipeline of the session. `None`: the session cannot carry it any more, and
    /// it may run anywhere.
    pub(super) async fn run<O: Operation<Redis>>(
        &self,
        core: &Core<Redis>,
        op: &O,
        limits: Limits,
    ) -> Option<RedisResult<O::Output>> {
        let mut state = self.0.lock().await;
        let State::Open(lane) = &mut *state else {
            return None;
        };
        if !lane.is_current(core) {
            *state = State::Broken;
            return None;
        }
        let end = lane.run(core, op, Some(limits.response_timeout)).await;
        let answered = matches!(end, LaneEnd::Answered(_));
        let concluded = lane.conclude(op, end);
        if !answered {
            *state = State::Broken;
        }
        // A read that got no answer is lost with its session only if no other connection can do it.
        (concluded.next != Next::Again).then_some(concluded.result)
    }

    /// The transaction that ends the session. `None`: the session is over, it is no part of it.
    pub(super) async fn commit(
        &self,
        core: &Core<Redis>,
        op: &Batch<'_>,
        limits: Limits,
    ) -> Option<RedisResult<Vec<Value>>> {
        let mut state = self.0.lock().await;
        match std::mem::replace(&mut *state, State::Over) {
            State::Open(mut lane) if lane.is_current(core) => {
                let deadline = Instant::now() + limits.deadline;
                let end = lane.run(core, op, Some(limits.response_timeout)).await;
                let unsent = matches!(end, LaneEnd::Lost { sent: false, .. });
                let concluded = lane.conclude(op, end);
                let refused = concluded.next == Next::AfterVerdict
                    && lane.is_worth_repeating(core, &concluded, deadline).await;
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
    pub(super) async fn end(&self, core: &Core<Redis>, limits: Limits) {
        let mut state = self.0.lock().await;
        if let State::Open(mut lane) = std::mem::replace(&mut *state, State::Over)
            && lane.is_current(core)
        {
            let unwatch = cmd("UNWATCH");
            let op = harmless(&unwatch);
            let end = lane.run(core, &op, Some(limits.response_timeout)).await;
            if lane.conclude(&op, end).result.is_ok() {
                lane.give_back(core);
            }
        }
    }

    /// WATCH of further keys in the same session. `None`: the session has ended.
    pub(super) async fn extend(
        &self,
        core: &Core<Redis>,
        watch: &Cmd,
        limits: Limits,
    ) -> Option<RedisResult<Value>> {
        if matches!(*self.0.lock().await, State::Over) {
            return None;
        }
        // A broken session stays broken: keys watched before it broke are not watched any more.
        let extended = self.run(core, &harmless(watch), limits).await;
        Some(extended.unwrap_or(Ok(Value::Okay)))
    }
}

/// WATCH and UNWATCH: running them twice does no harm.
fn harmless(cmd: &Cmd) -> Single<'_> {
    Single {
        cmd,
        idempotent: true,
    }
}
