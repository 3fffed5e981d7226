//! The drop-in for synchronous code: redis-rs's `ConnectionLike` over many databases.

use std::time::Duration;

use ::redis::{Cmd, ConnectionLike, ErrorKind, Pipeline, RedisError, RedisResult, Value};

use super::super::connection::MultiDbConnection;
use super::super::handle::Redis;
use super::pubsub::PubSub;
use super::request::{read_batch, read_one};
use crate::engine::client::MultiDbClient;
use crate::engine::snapshot::Status;
use crate::runtime::try_wait;

/// A connection to whichever database is active, for synchronous code: a drop-in for
/// `redis::Connection`.
///
/// Every `Commands` method, pipeline, `Script`, `redis::transaction` and SCAN iterator works on it
/// unchanged, under the rules of the [`MultiDbConnection`] inside. A call blocks the thread until its
/// reply, or its deadline (default 5 s).
///
/// Errors are `RedisError`s; [`from_redis`](crate::redis::from_redis) gives ours out of them.
#[derive(Debug)]
pub struct Connection {
    inner: MultiDbConnection,
}

// === impl Connection ===

impl Connection {
    /// The client behind it.
    #[must_use]
    pub fn client(&self) -> &MultiDbClient<Redis> {
        self.inner.client()
    }

    /// As [`MultiDbConnection::assume_idempotent`].
    #[must_use]
    pub fn assume_idempotent(self) -> Self {
        self.inner.assume_idempotent().into()
    }

    /// How long one attempt of a command may wait for its reply. Default 500 ms.
    pub fn set_response_timeout(&mut self, timeout: Duration) {
        self.inner.set_response_timeout(timeout);
    }

    /// How long a command may take, retries and waiting included. Default 5 s.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.inner.set_deadline(deadline);
    }

    /// Pub/sub as `redis::Connection::as_pubsub` gives it. Commands go on beside it.
    pub fn as_pubsub(&mut self) -> PubSub<'_> {
        PubSub::new(self)
    }

    #[cfg(feature = "r2d2")]
    pub(in super::super) fn is_watching(&self) -> bool {
        self.inner.is_watching()
    }

    /// All replies to a batch, `OK` and `QUEUED` of a transaction included.
    fn replies(&mut self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let len = pipeline.len();
        if !pipeline.is_transaction() {
            return try_wait(self.inner.send_packed_commands(pipeline, 0, len))?;
        }
        let exec = try_wait(self.inner.send_packed_commands(pipeline, len + 1, 1))??;
        // Commands that were not queued are an error above, so of those before EXEC these are the
        // replies. They matter to callers who wrote MULTI and EXEC themselves.
        let queued = std::iter::repeat_n(Value::SimpleString("QUEUED".to_owned()), len);
        Ok(std::iter::once(Value::Okay)
            .chain(queued)
            .chain(exec)
            .collect())
    }
}

impl From<MultiDbConnection> for Connection {
    fn from(inner: MultiDbConnection) -> Self {
        Self { inner }
    }
}

impl ConnectionLike for Connection {
    fn req_command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        try_wait(self.inner.send_packed_command(cmd))?
    }

    fn req_packed_command(&mut self, bytes: &[u8]) -> RedisResult<Value> {
        self.req_command(&read_one(bytes)?)
    }

    /// Refuses numbers that do not add up to the replies: on a connection that is shared, a reply too
    /// few or too many would be somebody else's.
    fn req_packed_commands(
        &mut self,
        bytes: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let pipeline = read_batch(bytes)?;
        let around = if pipeline.is_transaction() { 2 } else { 0 };
        if offset.checked_add(count) != Some(pipeline.len() + around) {
            let what = "offset and count are not the number of replies";
            return Err(RedisError::from((ErrorKind::Client, what)));
        }
        let mut replies = self.replies(&pipeline)?;
        for skipped in replies.drain(..offset) {
            skipped.extract_error()?;
        }
        Ok(replies)
    }

    /// Of the database that is active now; 0 while there is none.
    fn get_db(&self) -> i64 {
        ::redis::aio::ConnectionLike::get_db(&self.inner)
    }

    fn check_connection(&mut self) -> bool {
        ::redis::cmd("PING").query::<String>(self).is_ok()
    }

    /// Until the client is closed: a connection that is lost is replaced.
    fn is_open(&self) -> bool {
        is_open(self.client())
    }
}

/// As `redis::Client` does, each call has a connection of its own: what a connection remembers (WATCH) is
/// forgotten with the call.
impl ConnectionLike for MultiDbClient<Redis> {
    fn req_command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        once(self).req_command(cmd)
    }

    fn req_packed_command(&mut self, bytes: &[u8]) -> RedisResult<Value> {
        once(self).req_packed_command(bytes)
    }

    fn req_packed_commands(
        &mut self,
        bytes: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        once(self).req_packed_commands(bytes, offset, count)
    }

    fn get_db(&self) -> i64 {
        once(self).get_db()
    }

    fn check_connection(&mut self) -> bool {
        once(self).check_connection()
    }

    fn is_open(&self) -> bool {
        is_open(self)
    }
}

// === helpers ===

/// Without waiting for a database first: the call does so.
fn once(client: &MultiDbClient<Redis>) -> Connection {
    client.connection().into()
}

fn is_open(client: &MultiDbClient<Redis>) -> bool {
    client.snapshot().status != Status::Closed
}
