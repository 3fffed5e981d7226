//! A client as the manager of an r2d2 pool, as `redis::Client` is one.

use ::redis::{ConnectionLike, RedisError, cmd};

use super::BlockingConnection;
use crate::backends::redis::handle::Redis;
use crate::engine::client::MultiDbClient;

impl r2d2::ManageConnection for MultiDbClient<Redis> {
    type Connection = BlockingConnection;
    type Error = RedisError;

    fn connect(&self) -> Result<BlockingConnection, RedisError> {
        self.get_connection()
    }

    fn is_valid(&self, connection: &mut BlockingConnection) -> Result<(), RedisError> {
        cmd("PING").exec(connection)
    }

    fn has_broken(&self, connection: &mut BlockingConnection) -> bool {
        !connection.is_open()
    }
}
