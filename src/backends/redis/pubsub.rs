//! Pub/sub that survives the loss of its database.
//!
//! A subscriber says once what it wants; whichever database is active is subscribed to it.

mod follow;
mod link;
mod names;
mod push;
mod spread;
mod wire;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::redis::{FromRedisValue, Msg, RedisError, RedisResult, ToRedisArgs, from_redis_value};
use futures_util::stream::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use names::Kind as SubscriptionKind;
pub(super) use push::Pushes;

use self::follow::{Follow, Order, What};
use self::names::{Kind, Name, Verb};
use self::wire::Message;
use super::error::to_redis;
use super::handle::Redis;
use crate::engine::client::MultiDbClient;
use crate::engine::database::DatabaseId;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::run::acquire;

/// Subscriptions on whichever database is active: a drop-in for `redis::aio::PubSub`.
///
/// The stream of messages never ends because of a switch. After a loss everything is subscribed to
/// again at once, and tried until it holds. Before a planned switch the next database is subscribed
/// to first: what is published over this client, by any of its handles, arrives once.
///
/// Messages that nobody reads are kept in memory without a limit, as the driver does.
///
/// Made by [`MultiDbClient::get_async_pubsub`]. Any number of them are independent of each other.
pub struct PubSub {
    sink: PubSubSink,
    stream: PubSubStream,
}

/// The part of a [`PubSub`] that subscribes. Clones share it.
///
/// Dropping it leaves the stream as it is. Once the stream is dropped, it answers with
/// [`ErrorKind::Closed`].
#[derive(Clone)]
pub struct PubSubSink {
    orders: mpsc::UnboundedSender<Order>,
    deadline: Duration,
    client: MultiDbClient<Redis>,
}

/// The messages of a [`PubSub`]. Ends when the client is closed, and for no other reason.
pub struct PubSubStream {
    items: mpsc::UnboundedReceiver<Item>,
    _client: MultiDbClient<Redis>,
}

/// The messages of a [`PubSub`], and in their place among them what a reader may want to know.
pub struct Notifications<S = PubSubStream>(S);

/// What [`Notifications`] consist of.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notification {
    /// A message.
    Message(Msg),
    /// The subscriptions hold again, on another connection.
    Resubscribed {
        /// Where.
        database: DatabaseId,
        /// For how long messages may have been missed. `None` after a planned switch, in which none
        /// of this client's are.
        gap: Option<Duration>,
    },
    /// The database that is active now refuses a subscription that was granted before, such as by an
    /// ACL that differs. It is tried again every `health.interval`.
    Refused {
        /// Channel or pattern.
        kind: SubscriptionKind,
        /// Its name.
        name: Vec<u8>,
        /// What the database said.
        error: RedisError,
    },
}

/// What a planned switch does about messages that are published on both databases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// Both databases are listened to for a moment: nothing is missed. For databases whose pub/sub is
    /// independent of each other (default).
    #[default]
    Both,
    /// The old one is left before the new one is subscribed to: a gap instead of doubled messages, for
    /// databases that replicate pub/sub to each other.
    Cut,
}

/// What links hand on.
enum Item {
    Message(Message),
    Notice(Notification),
}

impl MultiDbClient<Redis> {
    /// Pub/sub on whichever database is active.
    ///
    /// Uses the protocol of the database's URL; shard channels need `?protocol=resp3`. Waits for a
    /// connection within `calls.deadline`. Cancel-safe.
    ///
    /// # Errors
    /// A `RedisError` that carries ours, see [`from_redis`](super::from_redis).
    pub async fn get_async_pubsub(&self) -> RedisResult<PubSub> {
        let deadline = Instant::now() + self.core().config.calls.deadline;
        let origin = acquire(self.core(), deadline, None)
            .await
            .map_err(to_redis)?;
        let (orders, receiver) = mpsc::unbounded_channel();
        let (out, items) = mpsc::unbounded_channel();
        let follow = Follow::new(self.core().clone(), &origin, receiver, out);
        tokio::spawn(follow.run());
        let sink = PubSubSink {
            orders,
            deadline: self.core().config.calls.deadline,
            client: self.clone(),
        };
        let stream = PubSubStream {
            items,
            _client: self.clone(),
        };
        sink.ask(|answer| Order::Hold { answer, deadline }).await?;
        Ok(PubSub { sink, stream })
    }
}

// === impl PubSub ===

impl PubSub {
    /// Subscribes to channels.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.subscribe(channels).await
    }

    /// Ends subscriptions to channels.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.unsubscribe(channels).await
    }

    /// Subscribes to patterns of channels.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.psubscribe(patterns).await
    }

    /// Ends subscriptions to patterns.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.punsubscribe(patterns).await
    }

    /// Subscribes to shard channels.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn ssubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.ssubscribe(channels).await
    }

    /// Ends subscriptions to shard channels.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn sunsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.sunsubscribe(channels).await
    }

    /// Pings the database over the connection of the subscriptions.
    ///
    /// # Errors
    /// As [`PubSubSink::ping`].
    pub async fn ping<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        self.sink.ping().await
    }

    /// Pings it with a message, which comes back.
    ///
    /// # Errors
    /// As [`PubSubSink::ping`].
    pub async fn ping_message<T: FromRedisValue>(
        &mut self,
        message: impl ToRedisArgs,
    ) -> RedisResult<T> {
        self.sink.ping_message(message).await
    }

    /// What a planned switch does about messages that are published on both databases.
    pub fn set_overlap(&mut self, overlap: Overlap) {
        let _ = self.sink.orders.send(Order::Overlap(overlap));
    }

    /// The messages.
    pub fn on_message(&mut self) -> impl Stream<Item = Msg> + '_ {
        &mut self.stream
    }

    /// The messages, for somebody else than the one who subscribes.
    #[must_use]
    pub fn into_on_message(self) -> PubSubStream {
        self.stream
    }

    /// The messages and what happens to the subscriptions, in order.
    pub fn on_notification(&mut self) -> Notifications<&mut PubSubStream> {
        Notifications(&mut self.stream)
    }

    /// Into the part that subscribes and the part that listens.
    #[must_use]
    pub fn split(self) -> (PubSubSink, PubSubStream) {
        (self.sink, self.stream)
    }
}

impl fmt::Debug for PubSub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSub").finish_non_exhaustive()
    }
}

// === impl PubSubSink ===

impl PubSubSink {
    /// Subscribes to channels, and waits until the active database has confirmed it, within
    /// `calls.deadline`.
    ///
    /// Cancel-safe: dropped, it is subscribed all the same.
    ///
    /// # Errors
    /// The database's own, such as `NOPERM`: then it is not subscribed. A `RedisError` that carries
    /// [`ErrorKind::Unavailable`] if no database could be asked in time: it will be subscribed on the
    /// first one that can, unless it is unsubscribed before.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.add(Kind::Channel, &channels).await
    }

    /// Ends subscriptions to channels; without a name, to all of them.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.remove(Kind::Channel, &channels).await
    }

    /// Subscribes to patterns of channels.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.add(Kind::Pattern, &patterns).await
    }

    /// Ends subscriptions to patterns; without one, to all of them.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.remove(Kind::Pattern, &patterns).await
    }

    /// Subscribes to shard channels.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`]; [`ErrorKind::Unsupported`] over RESP2.
    pub async fn ssubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.add(Kind::ShardChannel, &channels).await
    }

    /// Ends subscriptions to shard channels; without a name, to all of them.
    ///
    /// # Errors
    /// As [`PubSubSink::subscribe`].
    pub async fn sunsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.remove(Kind::ShardChannel, &channels).await
    }

    /// Pings the active database over the connection of the subscriptions.
    ///
    /// # Errors
    /// A `RedisError`, within `calls.response_timeout`: there is no connection at the moment, or no
    /// answer.
    pub async fn ping<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        self.ping_with(None).await
    }

    /// Pings it with a message, which comes back.
    ///
    /// # Errors
    /// As [`PubSubSink::ping`].
    pub async fn ping_message<T: FromRedisValue>(
        &mut self,
        message: impl ToRedisArgs,
    ) -> RedisResult<T> {
        let message = message.to_redis_args().into_iter().next();
        self.ping_with(message).await
    }

    async fn ping_with<T: FromRedisValue>(&self, message: Option<Vec<u8>>) -> RedisResult<T> {
        let reply = self.ask(|answer| Order::Ping { message, answer }).await?;
        Ok(from_redis_value(reply)?)
    }

    async fn add(&self, kind: Kind, names: &impl ToRedisArgs) -> RedisResult<()> {
        self.change(Verb::Add, What::Names(Name::all(kind, names)))
            .await
    }

    async fn remove(&self, kind: Kind, names: &impl ToRedisArgs) -> RedisResult<()> {
        let names = Name::all(kind, names);
        let what = match names.is_empty() {
            true => What::All(kind),
            false => What::Names(names),
        };
        self.change(Verb::Remove, what).await
    }

    async fn change(&self, verb: Verb, what: What) -> RedisResult<()> {
        let deadline = Instant::now() + self.deadline;
        let order = |answer| Order::Change {
            verb,
            what,
            answer,
            deadline,
        };
        self.ask(order).await
    }

    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<RedisResult<T>>) -> Order,
    ) -> RedisResult<T> {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(order(answer));
        // Dropped unanswered: nobody reads any more, or the client is closed.
        answered
            .await
            .unwrap_or_else(|_| Err(to_redis(Error::new(ErrorKind::Closed))))
    }
}

impl fmt::Debug for PubSubSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSubSink")
            .field("active", &self.client.active())
            .finish_non_exhaustive()
    }
}

// === impl PubSubStream ===

impl PubSubStream {
    /// With what happens to the subscriptions, in order.
    #[must_use]
    pub fn with_notifications(self) -> Notifications {
        Notifications(self)
    }
}

impl Stream for PubSubStream {
    type Item = Msg;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Msg>> {
        loop {
            return Poll::Ready(match ready!(self.items.poll_recv(cx)) {
                Some(Item::Message(message)) => Some(message.msg),
                Some(Item::Notice(_)) => continue,
                None => None,
            });
        }
    }
}

impl fmt::Debug for PubSubStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSubStream").finish_non_exhaustive()
    }
}

// === impl Notifications ===

impl<S: AsMut<PubSubStream> + Unpin> Stream for Notifications<S> {
    type Item = Notification;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notification>> {
        let item = ready!(self.0.as_mut().items.poll_recv(cx));
        Poll::Ready(item.map(|item| match item {
            Item::Message(message) => Notification::Message(message.msg),
            Item::Notice(notice) => notice,
        }))
    }
}

impl AsMut<Self> for PubSubStream {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}
