//! A command and a pipeline as operations of the engine.

use ::redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use futures_util::FutureExt;

use super::classify::{
    classify_command, classify_pipeline, clean, clean_pipeline, refusal, refusal_in,
};
use super::commands::{is_read_only, pipeline_is_read_only};
use super::handle::{Redis, RedisHandle};
use super::scripts::Script;
use crate::engine::backend::{Class, Doubt, Phase, ServerState};
use crate::engine::database::DatabaseId;
use crate::engine::run::Operation;

/// One command.
pub(super) struct Single<'a> {
    pub(super) cmd: &'a Cmd,
    /// The caller's word that running it twice does no harm.
    pub(super) idempotent: bool,
}

/// Commands sent together; with MULTI and EXEC around them if the pipeline is atomic.
pub(super) struct Batch<'a> {
    pub(super) pipeline: &'a Pipeline,
    /// Replies to skip, and replies to return after them: the driver's way of cutting out EXEC's.
    pub(super) offset: usize,
    pub(super) count: usize,
    pub(super) idempotent: bool,
    /// To be loaded on a connection that has not done so.
    pub(super) scripts: &'a [Script],
}

/// An operation with a cursor that means something on one database only.
pub(super) struct Pinned<'a, O> {
    pub(super) op: O,
    pub(super) to: &'a DatabaseId,
}

impl Operation<Redis> for Cmd {
    type Output = Value;
    type Error = RedisError;

    #[inline]
    fn attempt(&self, handle: &mut RedisHandle) -> impl Future<Output = RedisResult<Value>> + Send {
        handle.con.send(self)
    }

    #[inline]
    fn is_clean(&self, result: &RedisResult<Value>) -> bool {
        clean(result)
    }

    fn is_loss(&self, error: &RedisError) -> bool {
        error.is_io_error()
    }

    fn classify(&self, phase: Phase, result: Option<&RedisResult<Value>>) -> Class {
        match result {
            Some(result) => classify_command(self, phase, result),
            None => Class::Unknown(Doubt::TimedOut),
        }
    }

    fn complaint(&self, result: &RedisResult<Value>) -> Option<ServerState> {
        refusal(self, result.as_ref().ok()?)
    }

    fn is_repeatable(&self) -> bool {
        is_read_only(self)
    }

    fn is_write(&self) -> bool {
        !is_read_only(self)
    }

    #[inline]
    fn is_answered(&self) -> bool {
        !self.is_no_response()
    }
}

impl Operation<Redis> for Single<'_> {
    type Output = Value;
    type Error = RedisError;

    fn attempt(&self, handle: &mut RedisHandle) -> impl Future<Output = RedisResult<Value>> + Send {
        self.cmd.attempt(handle)
    }

    fn is_clean(&self, result: &RedisResult<Value>) -> bool {
        self.cmd.is_clean(result)
    }

    fn is_loss(&self, error: &RedisError) -> bool {
        self.cmd.is_loss(error)
    }

    fn classify(&self, phase: Phase, result: Option<&RedisResult<Value>>) -> Class {
        self.cmd.classify(phase, result)
    }

    fn complaint(&self, result: &RedisResult<Value>) -> Option<ServerState> {
        self.cmd.complaint(result)
    }

    fn is_repeatable(&self) -> bool {
        self.idempotent || self.cmd.is_repeatable()
    }

    fn is_write(&self) -> bool {
        self.cmd.is_write()
    }

    fn is_answered(&self) -> bool {
        self.cmd.is_answered()
    }
}

impl Operation<Redis> for Batch<'_> {
    type Output = Vec<Value>;
    type Error = RedisError;

    async fn attempt(&self, handle: &mut RedisHandle) -> RedisResult<Vec<Value>> {
        // The very pipeline: the driver keeps private notes on it.
        let (offset, count) = (self.offset, self.count);
        match self.scripts {
            [] => handle.con.send_batch(self.pipeline, offset, count).await,
            // Boxed: none of this may make the future of a plain pipeline larger.
            scripts => self.attempt_with(scripts, handle).boxed().await,
        }
    }

    #[inline]
    fn is_clean(&self, result: &RedisResult<Vec<Value>>) -> bool {
        clean_pipeline(result)
    }

    fn is_loss(&self, error: &RedisError) -> bool {
        error.is_io_error()
    }

    fn classify(&self, phase: Phase, result: Option<&RedisResult<Vec<Value>>>) -> Class {
        match result {
            Some(result) => classify_pipeline(self.pipeline, phase, result),
            None => Class::Unknown(Doubt::TimedOut),
        }
    }

    fn complaint(&self, result: &RedisResult<Vec<Value>>) -> Option<ServerState> {
        refusal_in(self.pipeline, result.as_ref().ok()?)
    }

    fn is_repeatable(&self) -> bool {
        self.idempotent || pipeline_is_read_only(self.pipeline)
    }

    fn is_write(&self) -> bool {
        !pipeline_is_read_only(self.pipeline)
    }
}

impl Batch<'_> {
    /// Both are handed to the driver before either is answered, and it sends in order: the scripts are
    /// loaded when the pipeline arrives, and nobody waits for two round trips. In a cluster every node has
    /// to load them first.
    async fn attempt_with(
        &self,
        scripts: &[Script],
        handle: &mut RedisHandle,
    ) -> RedisResult<Vec<Value>> {
        let missing = handle.not_loaded(scripts);
        let mut loads = ::redis::pipe();
        for script in &missing {
            loads.add_command(Cmd::clone(&script.load));
        }
        let (mut beside, in_order) = (handle.con.clone(), handle.keeps_order());
        let loading = async {
            match missing.is_empty() {
                true => Ok(Vec::new()),
                false => beside.send_batch(&loads, 0, loads.len()).await,
            }
        };
        let running = (handle.con).send_batch(self.pipeline, self.offset, self.count);
        let (loaded, result) = match in_order {
            true => futures_util::join!(loading, running),
            false => (loading.await, running.await),
        };
        if loaded.is_ok_and(|replies| replies.iter().all(|reply| !is_refused(reply))) {
            handle.has_loaded(&missing);
        }
        result
    }
}

fn is_refused(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(_))
}

impl<O: Operation<Redis>> Operation<Redis> for Pinned<'_, O> {
    type Output = O::Output;
    type Error = O::Error;

    fn attempt(
        &self,
        handle: &mut RedisHandle,
    ) -> impl Future<Output = RedisResult<O::Output>> + Send {
        self.op.attempt(handle)
    }

    fn is_clean(&self, result: &RedisResult<O::Output>) -> bool {
        self.op.is_clean(result)
    }

    fn is_loss(&self, error: &RedisError) -> bool {
        self.op.is_loss(error)
    }

    fn classify(&self, phase: Phase, result: Option<&RedisResult<O::Output>>) -> Class {
        self.op.classify(phase, result)
    }

    fn complaint(&self, result: &RedisResult<O::Output>) -> Option<ServerState> {
        self.op.complaint(result)
    }

    fn is_repeatable(&self) -> bool {
        self.op.is_repeatable()
    }

    fn is_write(&self) -> bool {
        self.op.is_write()
    }

    fn fits(&self, database: &DatabaseId) -> bool {
        database == self.to
    }
}
