//! A client as the manager of a bb8 pool, as `redis::Client` is one.

use ::redis::{RedisError, cmd};

use super::connection::MultiDbConnection;
use super::handle::Redis;
use crate::engine::client::MultiDbClient;
use crate::engine::snapshot::Status;

impl bb8::ManageConnection for MultiDbClient<Redis> {
    type Connection = MultiDbConnection;
    type Error = RedisError;

    async fn connect(&self) -> Result<MultiDbConnection, RedisError> {
        self.get_multiplexed_async_connection().await
    }

    async fn is_valid(&self, connection: &mut MultiDbConnection) -> Result<(), RedisError> {
        cmd("PING").exec_async(connection).await
    }

    /// Whatever is down, it is whole until the client is closed.
    fn has_broken(&self, connection: &mut MultiDbConnection) -> bool {
        connection.client().snapshot().status == Status::Closed
    }
}
