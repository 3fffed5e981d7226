//! Pub/sub on a thread.

use std::fmt;
use std::io;
use std::time::Duration;

use ::redis::{FromRedisValue, Msg, RedisError, RedisResult, ToRedisArgs};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{Connection, wait};
use crate::backends::redis::error::to_redis;
use crate::backends::redis::pubsub;
use crate::engine::error::{Error, ErrorKind};

/// Subscriptions on whichever database is active: a drop-in for `redis::PubSub`.
///
/// See [`redis::PubSub`](crate::redis::PubSub) for what a switch and a loss mean to it. Dropped, it is
/// subscribed to nothing any more.
pub struct PubSub<'a> {
    connection: &'a mut Connection,
    /// With the first subscription.
    begun: Option<pubsub::PubSub>,
    patience: Option<Duration>,
}

impl<'a> PubSub<'a> {
    pub(super) fn new(connection: &'a mut Connection) -> Self {
        Self {
            connection,
            begun: None,
            patience: None,
        }
    }

    /// Subscribes to channels.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`](crate::redis::PubSubSink::subscribe).
    pub fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        wait(self.begin()?.subscribe(channels))
    }

    /// Ends subscriptions to channels; without a name, to all of them.
    ///
    /// # Errors
    /// As [`PubSub::subscribe`].
    pub fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        wait(self.begin()?.unsubscribe(channels))
    }

    /// Subscribes to patterns of channels.
    ///
    /// # Errors
    /// As [`PubSub::subscribe`].
    pub fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        wait(self.begin()?.psubscribe(patterns))
    }

    /// Ends subscriptions to patterns; without one, to all of them.
    ///
    /// # Errors
    /// As [`PubSub::subscribe`].
    pub fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        wait(self.begin()?.punsubscribe(patterns))
    }

    /// Pings the database over the connection of the subscriptions.
    ///
    /// # Errors
    /// As [`PubSubSink::ping`](crate::redis::PubSubSink::ping).
    pub fn ping<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        wait(self.begin()?.ping())
    }

    /// Pings it with a message, which comes back.
    ///
    /// # Errors
    /// As [`PubSub::ping`].
    pub fn ping_message<T: FromRedisValue>(&mut self, message: impl ToRedisArgs) -> RedisResult<T> {
        wait(self.begin()?.ping_message(message))
    }

    /// The next message. Waits for it, across switches and losses.
    ///
    /// # Errors
    /// A `RedisError` that is a timeout, if none comes within the read timeout; one that carries
    /// [`ErrorKind::Closed`] once the client is closed.
    pub fn get_message(&mut self) -> RedisResult<Msg> {
        let patience = self.patience;
        let mut messages = self.begin()?.on_message();
        let next = match patience {
            None => wait(messages.next()),
            Some(patience) => wait(async { timeout(patience, messages.next()).await })
                .map_err(|_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut)))?,
        };
        next.ok_or_else(|| to_redis(Error::new(ErrorKind::Closed)))
    }

    /// How long [`PubSub::get_message`] waits. Default: for ever.
    ///
    /// # Errors
    /// None; fallible as the driver's.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> RedisResult<()> {
        self.patience = timeout;
        Ok(())
    }

    fn begin(&mut self) -> RedisResult<&mut pubsub::PubSub> {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => wait(self.connection.client().get_async_pubsub())?,
        };
        Ok(self.begun.insert(begun))
    }
}

impl fmt::Debug for PubSub<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSub").finish_non_exhaustive()
    }
}
