//! The synchronous interface: a thin facade over the async client.
//!
//! A call is polled on the thread that makes it. All else, the supervisor and the connections, runs on
//! a runtime with a thread of its own, so that databases are watched between calls.

#[cfg(feature = "r2d2")]
mod pool;
mod pubsub;
mod request;
mod wait;

use std::fmt;
use std::time::Duration;

use ::redis::{Cmd, ConnectionLike, RedisResult, Value, aio, cmd};

pub use pubsub::BlockingPubSub;
pub use wait::wait;

use super::connection::MultiDbConnection;
use super::handle::Redis;
use crate::engine::builder::Builder;
use crate::engine::client::MultiDbClient;
use crate::engine::error::Error;
use crate::engine::snapshot::Status;

/// A synchronous connection to whichever database is active: a drop-in for `redis::Connection`.
///
/// Every `Commands` method, pipeline, `Script`, `redis::transaction` and SCAN iterator works on it
/// unchanged. Calls end by `calls.deadline`, where those of `redis::Connection` have no limit of
/// their own; blocking commands wait as long as they say.
///
/// Meant for threads. In an async task it blocks the thread that runs the task, as `redis::Connection`
/// does, and it never ends if that is the only thread of the runtime that the client was started on.
pub struct BlockingConnection {
    con: MultiDbConnection,
}

impl Builder<Redis> {
    /// [`Builder::connect`] for synchronous programs.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub fn connect_blocking(self) -> Result<MultiDbClient<Redis>, Error> {
        wait(self.connect())
    }
}

impl MultiDbClient<Redis> {
    /// A synchronous connection, once a database serves, within `calls.deadline`.
    ///
    /// # Errors
    /// A `RedisError` that carries ours, see [`from_redis`](super::from_redis).
    pub fn get_connection(&self) -> RedisResult<BlockingConnection> {
        let con = wait(self.get_multiplexed_async_connection())?;
        Ok(BlockingConnection { con })
    }

    /// As [`MultiDbClient::get_connection`]; its calls then take `timeout` at most, retries and waiting
    /// included.
    ///
    /// # Errors
    /// As [`MultiDbClient::get_connection`].
    pub fn get_connection_with_timeout(
        &self,
        timeout: Duration,
    ) -> RedisResult<BlockingConnection> {
        let mut connection = self.get_connection()?;
        connection.set_deadline(timeout);
        Ok(connection)
    }
}

// === impl BlockingConnection ===

impl BlockingConnection {
    /// The client behind it.
    #[must_use]
    pub fn client(&self) -> &MultiDbClient<Redis> {
        self.con.client()
    }

    /// See [`MultiDbConnection::assume_idempotent`].
    #[must_use]
    pub fn assume_idempotent(self) -> Self {
        Self {
            con: self.con.assume_idempotent(),
        }
    }

    /// How long one attempt of a command may wait for its reply. Default 500 ms.
    pub fn set_response_timeout(&mut self, timeout: Duration) {
        self.con.set_response_timeout(timeout);
    }

    /// How long a command may take, retries and waiting included. Default 5 s.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.con.set_deadline(deadline);
    }

    /// Pub/sub as `redis::Connection::as_pubsub` gives it. Commands go on beside it.
    pub fn as_pubsub(&mut self) -> BlockingPubSub<'_> {
        BlockingPubSub::new(self)
    }
}

impl ConnectionLike for BlockingConnection {
    fn req_packed_command(&mut self, bytes: &[u8]) -> RedisResult<Value> {
        let command = request::command(bytes)?;
        self.req_command(&command)
    }

    fn req_packed_commands(
        &mut self,
        bytes: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let pipeline = request::pipeline(bytes)?;
        wait(self.con.send_packed_commands(&pipeline, offset, count))
    }

    fn req_command(&mut self, command: &Cmd) -> RedisResult<Value> {
        wait(self.con.send_packed_command(command))
    }

    fn get_db(&self) -> i64 {
        aio::ConnectionLike::get_db(&self.con)
    }

    fn check_connection(&mut self) -> bool {
        cmd("PING").exec(self).is_ok()
    }

    /// Whatever is down, it is open until the client is closed: a database that comes back is found.
    fn is_open(&self) -> bool {
        self.client().snapshot().status != Status::Closed
    }
}

impl fmt::Debug for BlockingConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingConnection")
            .field("active", &self.client().active())
            .finish_non_exhaustive()
    }
}

/// As `redis::Client` has it. Clones of the client are as good as connections; WATCH needs one.
impl ConnectionLike for MultiDbClient<Redis> {
    fn req_packed_command(&mut self, bytes: &[u8]) -> RedisResult<Value> {
        self.get_connection()?.req_packed_command(bytes)
    }

    fn req_packed_commands(
        &mut self,
        bytes: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let mut connection = self.get_connection()?;
        connection.req_packed_commands(bytes, offset, count)
    }

    fn req_command(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.get_connection()?.req_command(command)
    }

    fn get_db(&self) -> i64 {
        aio::ConnectionLike::get_db(&self.connection())
    }

    fn check_connection(&mut self) -> bool {
        cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.snapshot().status != Status::Closed
    }
}
