//! For synchronous code: the same client, and calls that wait on the calling thread.
//!
//! A thin front of the async client, never a second one. [`MultiDbClient::get_connection`] gives what
//! `redis::Client` gives under this name, and [`wait`] runs any other method of the client. A client that
//! is first used from here lives on a runtime of this module: one thread per process, named `multidb`,
//! made with the first call. So probes and failover go on while the program makes no call.
//!
//! ```no_run
//! use multidb::{MultiDbClient, blocking};
//! use redis::Commands;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = MultiDbClient::builder()
//!     .url("redis://east.example:6379", 1.0)
//!     .url("redis://west.example:6379", 0.5)
//!     .connect_blocking()?;
//!
//! let mut con = client.get_connection()?;
//! let () = con.set("greeting", "hello")?;
//! blocking::wait(client.switch_to("west.example:6379"))?;
//! # Ok(())
//! # }
//! ```

mod connection;
mod pubsub;
mod request;

pub use crate::runtime::wait;
pub use connection::Connection;
pub use pubsub::PubSub;

use std::time::Duration;

use ::redis::RedisResult;

use super::handle::Redis;
use crate::engine::builder::Builder;
use crate::engine::client::MultiDbClient;
use crate::engine::error::{Error, ErrorKind};
use crate::runtime::try_wait;

impl MultiDbClient<Redis> {
    /// A connection for synchronous code, once a database serves: what `redis::Client` has under this
    /// name.
    ///
    /// Blocks the thread, within `calls.deadline`. One per thread.
    ///
    /// # Errors
    /// A `RedisError` that carries ours, see [`from_redis`](super::from_redis).
    pub fn get_connection(&self) -> RedisResult<Connection> {
        let connection = try_wait(self.get_multiplexed_async_connection())??;
        Ok(Connection::from(connection))
    }

    /// As [`MultiDbClient::get_connection`]; its calls then take `timeout` at most, retries and waiting
    /// included.
    ///
    /// # Errors
    /// As [`MultiDbClient::get_connection`].
    pub fn get_connection_with_timeout(&self, timeout: Duration) -> RedisResult<Connection> {
        let mut connection = self.get_connection()?;
        connection.set_deadline(timeout);
        Ok(connection)
    }
}

impl Builder<Redis> {
    /// As [`Builder::connect`], blocking the thread. The client lives on the runtime of
    /// [`blocking`](self), so that it needs none of the program's.
    ///
    /// # Errors
    /// As [`Builder::connect`]; [`ErrorKind::Closed`] if the system has no thread left for that runtime.
    pub fn connect_blocking(self) -> Result<MultiDbClient<Redis>, Error> {
        match try_wait(self.connect()) {
            Ok(connected) => connected,
            Err(error) => Err(Error::new(ErrorKind::Closed).caused_by(error)),
        }
    }
}
