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
use crate::engine::run::Limits;

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
            let op = single(watch);
            let end = lane.run(core, &op, Some(limits.response_timeout)).await;
            // Watching twice does no harm: a connection lost in between is simply replaced.
            let lost = matches!(end, LaneEnd::Lost { .. });
            if lost && !core.stop.is_cancelled() && Instant::now() < deadline {
                continue;
            }
            let result = lane.conclude(&op, end);
            let watching = matches!(result, Ok(Value::Okay));
            let session = watching.then(|| Self(Arc::new(Mutex::new(State::Open(lane)))));
            return (result, session);
        }
    }

    pub(super) async fn is_over(&self) -> bool {
        matches!(*self.0.lock().await, State::Over)
    }

    /// A command of the session. `None`: the session cannot carry it any more, it may run anywhere.
    pub(super) async fn run(
        &self,
        core: &Core<Redis>,
        cmd: &Cmd,
        limits: Limits,
    ) -> Option<RedisResult<Value>> {
        let mut state = self.0.lock().await;
        let State::Open(lane) = &mut *state else {
            return None;
        };
        if !lane.is_current(core) {
            *state = State::Broken;
            return None;
        }
        let op = single(cmd);
        let end = lane.run(core, &op, Some(limits.response_timeout)).await;
        let unanswered = !matches!(end, LaneEnd::Answered(_));
        let result = lane.conclude(&op, end);
        if unanswered {
            *state = State::Broken;
        }
        Some(result)
    }

    /// A plain pipeline of the session.
    pub(super) async fn run_batch(
        &self,
        core: &Core<Redis>,
        op: &Batch<'_>,
        limits: Limits,
    ) -> Option<RedisResult<Vec<Value>>> {
        let mut state = self.0.lock().await;
        let State::Open(lane) = &mut *state else {
            return None;
        };
        if !lane.is_current(core) {
            *state = State::Broken;
            return None;
        }
        let end = lane.run(core, op, Some(limits.response_timeout)).await;
        let unanswered = !matches!(end, LaneEnd::Answered(_));
        let result = lane.conclude(op, end);
        if unanswered {
            *state = State::Broken;
        }
        Some(result)
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
                let end = lane.run(core, op, Some(limits.response_timeout)).await;
                let result = lane.conclude(op, end);
                lane.give_back(core);
                Some(result)
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
            let op = single(&unwatch);
            let end = lane.run(core, &op, Some(limits.response_timeout)).await;
            if lane.conclude(&op, end).is_ok() {
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
        Some(
            self.run(core, watch, limits)
                .await
                .unwrap_or(Ok(Value::Okay)),
        )
    }
}

fn single(cmd: &Cmd) -> Single<'_> {
    Single {
        cmd,
        idempotent: false,
    }
}
