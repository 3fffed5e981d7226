//! The client as the manager of a pool, for programs that are built around one.
//!
//! It needs none: a connection is a handle, and making one is no I/O. So the test of a pooled connection
//! is no ping either. That would ask the database that is active now, which the probes do, and could
//! say nothing of the one that is active when the command comes.

use ::redis::RedisError;

#[cfg(feature = "r2d2")]
use super::blocking::Connection;
#[cfg(feature = "bb8")]
use super::connection::MultiDbConnection;
#[cfg(feature = "bb8")]
use super::error::to_redis;
use super::handle::Redis;
use crate::engine::client::MultiDbClient;
#[cfg(feature = "bb8")]
use crate::engine::snapshot::Status;

/// A pool's errors are `RedisError`s that carry ours, see [`from_redis`](super::from_redis).
#[cfg(feature = "r2d2")]
impl r2d2::ManageConnection for MultiDbClient<Redis> {
    type Connection = Connection;
    type Error = RedisError;

    fn connect(&self) -> Result<Connection, RedisError> {
        self.get_connection()
    }

    /// Once a database serves, within `calls.deadline`.
    fn is_valid(&self, _: &mut Connection) -> Result<(), RedisError> {
        self.get_connection().map(drop)
    }

    /// If the client is closed, or a WATCH was left open for the next user.
    fn has_broken(&self, con: &mut Connection) -> bool {
        con.is_watching() || !::redis::ConnectionLike::is_open(con)
    }
}

/// A pool's errors are `RedisError`s that carry ours, see [`from_redis`](super::from_redis).
#[cfg(feature = "bb8")]
impl bb8::ManageConnection for MultiDbClient<Redis> {
    type Connection = MultiDbConnection;
    type Error = RedisError;

    async fn connect(&self) -> Result<MultiDbConnection, RedisError> {
        self.get_multiplexed_async_connection().await
    }

    /// Once a database serves, within `calls.deadline`.
    async fn is_valid(&self, _: &mut MultiDbConnection) -> Result<(), RedisError> {
        self.lease().await.map(drop).map_err(to_redis)
    }

    /// If the client is closed, or a WATCH was left open for the next user.
    fn has_broken(&self, con: &mut MultiDbConnection) -> bool {
        con.is_watching() || self.snapshot().status == Status::Closed
    }
}
