//! The drop-in: an async `ConnectionLike` over many databases.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{AsyncPushSender, ConnectionLike};
use ::redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, ToRedisArgs, Value};
use futures_util::FutureExt;

use super::commands::{Cursor, PipelineRoute, Route, is_read_only, route, route_pipeline};
use super::cursors::{Cursors, is_by_hand};
use super::error::{BLOCKING_SCAN, to_redis};
use super::handle::Redis;
use super::lane;
use super::operation::{Batch, Pinned, Single};
use super::pubsub::{PubSubSink, Pushes};
use super::watch::{Time, Watch};
use crate::engine::client::MultiDbClient;
use crate::engine::database::DatabaseId;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::run::{Limits, Operation, Router};

/// A connection to whichever database is active: a drop-in for `redis::aio::MultiplexedConnection`.
///
/// Every `AsyncCommands` method, pipeline, `Script`, `transaction_async` and SCAN iterator works on it
/// unchanged. Cheap to clone. Dropping a call's future leaves its outcome unknown and harms nothing
/// else.
///
/// Errors are `RedisError`s; [`from_redis`](super::from_redis) gives ours out of them: which database,
/// what became of the command, whether a retry is safe.
pub struct MultiDbConnection {
    router: Router<Redis>,
    watch: Option<Watch>,
    /// Of the scans of this handle.
    cursors: Cursors,
    idempotent: bool,
    /// The user has said of some commands that they only read.
    overridden: bool,
    pushes: Option<Arc<Pushes>>,
}

// === impl MultiDbConnection ===

impl MultiDbConnection {
    pub(super) fn new(client: &MultiDbClient<Redis>) -> Self {
        Self {
            router: client.router(),
            watch: None,
            cursors: Cursors::of_a_handle(),
            idempotent: false,
            overridden: client.core().backend.is_overridden(),
            pushes: None,
        }
    }

    /// The client behind it.
    #[must_use]
    pub fn client(&self) -> &MultiDbClient<Redis> {
        self.router.client()
    }

    /// A connection whose commands the caller declares harmless to run twice, on another database
    /// too: they are tried again even when an earlier attempt may have run.
    ///
    /// Read-only commands need no such word.
    #[must_use]
    pub fn assume_idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// A connection whose subscriptions send their messages to `sender`, as
    /// `AsyncConnectionConfig::set_push_sender` of the driver does. Works over RESP2 as well.
    ///
    /// They follow the active database as those of a [`PubSub`](super::PubSub) do. Messages may have
    /// been missed where a push of the kind `Disconnection` comes between them.
    #[must_use]
    pub fn push_to(mut self, sender: impl AsyncPushSender) -> Self {
        self.pushes = Some(Arc::new(Pushes::new(sender)));
        self
    }

    /// Subscribes to channels; their messages go to the sender of [`MultiDbConnection::push_to`].
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`]; `InvalidClientConfig` without a sender.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink().await?.subscribe(channels).await
    }

    /// Ends subscriptions to channels; without a name, to all of them.
    ///
    /// # Errors
    /// As [`MultiDbConnection::subscribe`].
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink().await?.unsubscribe(channels).await
    }

    /// Subscribes to patterns of channels.
    ///
    /// # Errors
    /// As [`MultiDbConnection::subscribe`].
    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink().await?.psubscribe(patterns).await
    }

    /// Ends subscriptions to patterns; without one, to all of them.
    ///
    /// # Errors
    /// As [`MultiDbConnection::subscribe`].
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink().await?.punsubscribe(patterns).await
    }

    /// Subscribes to shard channels.
    ///
    /// # Errors
    /// As [`MultiDbConnection::subscribe`].
    pub async fn ssubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink().await?.ssubscribe(channels).await
    }

    /// Ends subscriptions to shard channels; without a name, to all of them.
    ///
    /// # Errors
    /// As [`MultiDbConnection::subscribe`].
    pub async fn sunsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink().await?.sunsubscribe(channels).await
    }

    async fn sink(&self) -> RedisResult<PubSubSink> {
        match &self.pushes {
            Some(pushes) => pushes.sink(self.client()).await,
            None => Err(RedisError::from((
                ::redis::ErrorKind::InvalidClientConfig,
                "no push sender; give the connection one with push_to",
            ))),
        }
    }

    /// How long one attempt of this handle's commands may wait for its reply. Default 500 ms.
    pub fn set_response_timeout(&mut self, timeout: Duration) {
        let limits = self.router.limits();
        self.router.set_limits(Limits {
            response_timeout: timeout,
            ..limits
        });
    }

    /// How long this handle's commands may take, retries and waiting included. Default 5 s.
    pub fn set_deadline(&mut self, deadline: Duration) {
        let limits = self.router.limits();
        self.router.set_limits(Limits { deadline, ..limits });
    }

    /// Whether a WATCH is open, which the next user of the connection would inherit.
    #[cfg(any(feature = "bb8", feature = "r2d2"))]
    pub(super) fn is_watching(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| !watch.is_over())
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// A `RedisError`; see the type.
    pub async fn send_packed_command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        match route(cmd) {
            Route::Plain | Route::RunScript if self.is_plain(cmd) => self.router.run(cmd).await,
            special => self.send_special(cmd, special).await,
        }
    }

    /// Sends a pipeline and waits for its replies: `count` of them after the first `offset`.
    ///
    /// # Errors
    /// A `RedisError`; see the type.
    pub async fn send_packed_commands(
        &mut self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let op = Batch {
            pipeline,
            offset,
            count,
            idempotent: self.idempotent || self.only_reads(pipeline),
            scripts: &[],
        };
        let around = if pipeline.is_transaction() { 2 } else { 0 };
        if offset.checked_add(count) != Some(pipeline.len() + around) {
            return Err(misfit("offset and count are not the number of replies"));
        }
        match route_pipeline(pipeline) {
            PipelineRoute::Plain if self.watch.is_none() => self.router.run(&op).await,
            special => self.send_special_batch(op, special).await,
        }
    }

    /// Whether the engine needs to know nothing of a command but the command.
    #[inline]
    fn is_plain(&self, cmd: &Cmd) -> bool {
        self.watch.is_none() && !self.idempotent && !self.is_said_to_read(cmd)
    }

    fn is_said_to_read(&self, cmd: &Cmd) -> bool {
        self.overridden && self.client().core().backend.is_said_to_read(cmd)
    }

    fn only_reads(&self, pipeline: &Pipeline) -> bool {
        let reads = |cmd| self.is_said_to_read(cmd) || is_read_only(cmd);
        self.overridden && pipeline.cmd_iter().all(reads)
    }

    /// Boxed: none of this may make the future of a plain command larger.
    #[cold]
    fn send_special<'a>(&'a mut self, cmd: &'a Cmd, route: Route) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let limits = self.router.limits();
            let time = Time::of(limits);
            let core = self.client().core().clone();
            if self.watch.as_ref().is_some_and(Watch::is_over) {
                self.watch = None;
            }
            match route {
                Route::Unsupported(command) => Err(unsupported(command)),
                Route::Empty => Err(misfit(WORDLESS)),
                Route::Blocking(_) => lane::block(&core, cmd, self.idempotent, limits).await,
                Route::Watch => {
                    if let Some(watch) = &self.watch
                        && let Some(result) = watch.extend(&core, cmd, time).await
                    {
                        return result;
                    }
                    let (result, watch) = Watch::begin(&core, cmd, time).await;
                    self.watch = watch;
                    result
                }
                Route::Unwatch => {
                    // Nothing is ever watched on the shared connection.
                    if let Some(watch) = &self.watch {
                        watch.end(&core, time).await?;
                        self.watch = None;
                    }
                    Ok(Value::Okay)
                }
                Route::Scan { cursor } => self.scan(cmd, cursor, time).await,
                Route::Plain | Route::RunScript | Route::LoadScript | Route::FlushScripts => {
                    let result = self.send_in_session(cmd, time).await;
                    match (route, &result) {
                        (Route::LoadScript, Ok(reply)) => {
                            core.backend.scripts().remember(cmd, reply);
                        }
                        (Route::FlushScripts, Ok(_)) => core.backend.scripts().forget(),
                        _ => {}
                    }
                    result
                }
            }
        })
    }

    async fn send_in_session(&mut self, cmd: &Cmd, time: Time) -> RedisResult<Value> {
        let op = Single {
            cmd,
            idempotent: self.idempotent || self.is_said_to_read(cmd),
        };
        if let Some(watch) = &self.watch
            && let Some(result) = watch.run(self.client().core(), &op, time).await
        {
            return result;
        }
        self.router.run_until(&op, time.deadline).await
    }

    async fn scan(&mut self, cmd: &Cmd, cursor: Cursor, time: Time) -> RedisResult<Value> {
        let op = Single {
            cmd,
            idempotent: self.idempotent,
        };
        let reply = self
            .run_scan(op, cursor, std::iter::once(cmd), time)
            .await?;
        self.remember(cmd, &reply);
        Ok(reply)
    }

    async fn scan_batch(
        &mut self,
        op: Batch<'_>,
        cursor: Cursor,
        time: Time,
    ) -> RedisResult<Vec<Value>> {
        let pipeline = op.pipeline;
        let replies = self.run_scan(op, cursor, pipeline.cmd_iter(), time).await?;
        let elements = match replies.as_slice() {
            [Value::Array(elements)] if pipeline.is_transaction() => elements,
            elements => elements,
        };
        for (cmd, reply) in pipeline.cmd_iter().zip(elements) {
            if let Route::Scan { .. } = route(cmd) {
                self.remember(cmd, reply);
            }
        }
        Ok(replies)
    }

    /// A scan begins anywhere and goes on where it was begun.
    async fn run_scan<O: Operation<Redis, Error = RedisError>>(
        &mut self,
        op: O,
        cursor: Cursor,
        steps: impl Iterator<Item = &Cmd>,
        time: Time,
    ) -> RedisResult<O::Output> {
        match cursor {
            Cursor::Start => self.router.run_until(&op, time.deadline).await,
            Cursor::Continue => {
                let to = self.origin(steps).map_err(to_redis)?;
                let pinned = Pinned { op, to: &to };
                self.router.run_until(&pinned, time.deadline).await
            }
        }
    }

    /// The database that gave all the cursors among these commands. For a cursor of unknown origin only
    /// a client that has never switched can vouch.
    fn origin<'a>(&self, steps: impl Iterator<Item = &'a Cmd>) -> Result<DatabaseId, Error> {
        let moved = || Error::new(ErrorKind::CursorMoved);
        let snapshot = self.client().snapshot();
        let core = self.client().core();
        let goes_on = |cmd: &&Cmd| {
            route(cmd)
                == Route::Scan {
                    cursor: Cursor::Continue,
                }
        };
        let mut origins = steps.filter(goes_on).map(|cmd| {
            let ours = self.cursors.origin(cmd).cloned();
            ours.or_else(|| core.backend.cursors().origin(cmd).cloned())
                .or_else(|| snapshot.active.clone().filter(|_| snapshot.generation <= 1))
                .ok_or_else(moved)
        });
        let first = origins.next().unwrap_or_else(|| Err(moved()))?;
        for other in origins {
            if other? != first {
                return Err(moved());
            }
        }
        Ok(first)
    }

    fn remember(&mut self, cmd: &Cmd, reply: &Value) {
        if let Some(from) = self.router.last_database() {
            self.cursors.remember(cmd, reply, from);
            if is_by_hand(cmd) {
                let core = self.router.client().core();
                core.backend.cursors().remember(cmd, reply, from);
            }
        }
    }

    #[cold]
    fn send_special_batch<'a>(
        &'a mut self,
        op: Batch<'a>,
        route: PipelineRoute,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let limits = self.router.limits();
            let time = Time::of(limits);
            let core = self.client().core().clone();
            // Whoever watches keeps his watch.
            if let Some(refusal) = refusal(route) {
                return Err(refusal);
            }
            let scripts = core.backend.scripts().of(op.pipeline);
            let op = Batch {
                scripts: &scripts,
                ..op
            };
            if let Some(watch) = &self.watch {
                let result = match op.pipeline.is_transaction() {
                    true => watch.commit(&core, &op, time).await,
                    false => watch.run(&core, &op, time).await,
                };
                // A transaction that had no time to begin has not ended it: tried again, it must
                // find what it watched.
                if watch.is_over() {
                    self.watch = None;
                }
                if let Some(result) = result {
                    return result;
                }
            }
            match route {
                PipelineRoute::Blocking => lane::block_batch(&core, &op, limits).await,
                PipelineRoute::Scan { cursor, .. } => self.scan_batch(op, cursor, time).await,
                _ => self.router.run_until(&op, time.deadline).await,
            }
        })
    }
}

/// Why a pipeline can run nowhere.
fn refusal(route: PipelineRoute) -> Option<RedisError> {
    match route {
        PipelineRoute::Empty => Some(misfit(WORDLESS)),
        PipelineRoute::Unsupported(command) => Some(unsupported(command)),
        PipelineRoute::Scan { blocking: true, .. } => Some(unsupported(BLOCKING_SCAN)),
        PipelineRoute::Plain
        | PipelineRoute::RunsScripts
        | PipelineRoute::Blocking
        | PipelineRoute::Scan {
            blocking: false, ..
        } => None,
    }
}

const WORDLESS: &str = "a command without words";

/// What would leave a reply too few or too many for those who share the connection.
fn misfit(what: &'static str) -> RedisError {
    RedisError::from((::redis::ErrorKind::Client, what))
}

fn unsupported(command: &'static str) -> ::redis::RedisError {
    to_redis(Error::new(ErrorKind::Unsupported { command }))
}

impl ConnectionLike for MultiDbConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        // As `send_packed_command`, without its future around the engine's; and a block, because a
        // future that a function returns is copied into its box.
        match route(cmd) {
            Route::Plain | Route::RunScript if self.is_plain(cmd) => {
                Box::pin(async move { self.router.run(cmd).await })
            }
            special => self.send_special(cmd, special),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.send_packed_commands(pipeline, offset, count).boxed()
    }

    fn get_db(&self) -> i64 {
        let current = self.client().core().current();
        current
            .live
            .as_ref()
            .map_or(0, |live| live.conn.database.endpoint().db())
    }
}

impl Clone for MultiDbConnection {
    fn clone(&self) -> Self {
        Self {
            router: self.router.clone(),
            watch: self.watch.clone(),
            cursors: self.cursors.clone(),
            idempotent: self.idempotent,
            overridden: self.overridden,
            pushes: self.pushes.clone(),
        }
    }
}

impl fmt::Debug for MultiDbConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiDbConnection")
            .field("active", &self.client().active())
            .field("watching", &self.watch.is_some())
            .finish_non_exhaustive()
    }
}
