//! Subscriptions of a connection whose messages go to a push sender, as redis-rs has them for RESP3.

use std::sync::Arc;

use ::redis::aio::AsyncPushSender;
use ::redis::{Msg, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::OnceCell;
use tokio_util::task::AbortOnDropHandle;

use super::names::Kind;
use super::wire::Message;
use super::{Item, Notification, PubSubSink, PubSubStream};
use crate::backends::redis::handle::Redis;
use crate::engine::client::MultiDbClient;

/// A push sender and the subscriptions that feed it; shared by the clones of a connection.
pub(crate) struct Pushes {
    sender: Arc<dyn AsyncPushSender>,
    begun: OnceCell<Begun>,
}

struct Begun {
    sink: PubSubSink,
    _forwarding: AbortOnDropHandle<()>,
}

impl Pushes {
    pub(crate) fn new(sender: impl AsyncPushSender) -> Self {
        Self {
            sender: Arc::new(sender),
            begun: OnceCell::new(),
        }
    }

    /// What subscribes; begun with the first subscription.
    pub(crate) async fn sink(&self, client: &MultiDbClient<Redis>) -> RedisResult<PubSubSink> {
        let begin = || async {
            let (sink, stream) = client.get_async_pubsub().await?.split();
            let forwarding = tokio::spawn(forward(stream, self.sender.clone()));
            RedisResult::Ok(Begun {
                sink,
                _forwarding: AbortOnDropHandle::new(forwarding),
            })
        };
        let begun = self.begun.get_or_try_init(begin).await?;
        Ok(begun.sink.clone())
    }
}

/// Until nobody takes them, or the connection is dropped.
async fn forward(mut stream: PubSubStream, sender: Arc<dyn AsyncPushSender>) {
    while let Some(item) = stream.items.recv().await {
        let push = match item {
            Item::Message(message) => push_of(&message),
            // What the driver tells of a lost connection, now that it has been made good.
            Item::Notice(Notification::Resubscribed { gap: Some(_), .. }) => Some(PushInfo {
                kind: PushKind::Disconnection,
                data: Vec::new(),
            }),
            Item::Notice(_) => None,
        };
        if let Some(push) = push
            && sender.send(push).is_err()
        {
            return;
        }
    }
}

fn push_of(Message { kind, msg }: &Message) -> Option<PushInfo> {
    let channel = msg.get_channel().ok()?;
    let payload = msg.get_payload().ok()?;
    let (kind, data) = match kind {
        Kind::Channel => (PushKind::Message, vec![channel, payload]),
        Kind::ShardChannel => (PushKind::SMessage, vec![channel, payload]),
        Kind::Pattern => (PushKind::PMessage, vec![pattern(msg)?, channel, payload]),
    };
    Some(PushInfo { kind, data })
}

fn pattern(msg: &Msg) -> Option<Value> {
    msg.get_pattern().ok()
}
