//! One pub/sub connection to one database, in either protocol.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;

use ::redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use ::redis::{
    AsyncConnectionConfig, Msg, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo,
    RedisError, RedisResult, Value, cmd,
};
use futures_util::future::join_all;
use futures_util::stream::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::task::AbortOnDropHandle;

use super::names::{Change, Kind, Name, Verb};
use crate::backends::redis::connector::REPLY_CAP;
use crate::backends::redis::credentials::greeting;
use crate::backends::redis::endpoint::RedisEndpoint;
use crate::backends::redis::handle::Redis;
use crate::engine::backend::{Fault, Meter, Wiring};
use crate::engine::error::{Error, ErrorKind};
use crate::sockets::Metered;

/// A connection that has been greeted. Dropped, it ends.
pub(super) struct Wire {
    pub(super) commands: Commands,
    incoming: Incoming,
    meter: Arc<Meter>,
}

/// Its sending half; clones share it.
#[derive(Clone)]
pub(super) enum Commands {
    Resp2(PubSubSink),
    Resp3(MultiplexedConnection),
}

enum Incoming {
    Resp2(PubSubStream),
    Resp3 {
        pushes: UnboundedReceiver<PushInfo>,
        _driver: AbortOnDropHandle<()>,
    },
}

/// What comes without having been asked for.
pub(super) enum News {
    Message(Message),
    /// A subscription has ended: as asked, or because the server serves its slot no longer.
    Ended(Name),
}

/// A message, and which kind of subscription it came by.
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) msg: Msg,
}

impl Wire {
    pub(super) async fn open(
        backend: &Redis,
        endpoint: &RedisEndpoint,
        wiring: &Wiring,
    ) -> Result<Self, Fault> {
        let cap = Arc::new(AtomicU64::new(REPLY_CAP));
        let endpoint = &*backend.locate(endpoint, wiring).await?;
        let (info, _) = greeting(endpoint).await?;
        let stream = backend.dialer().transport(endpoint, wiring, cap).await?;
        let meter = wiring.meter.clone();
        let opened = match endpoint.protocol() {
            ProtocolVersion::RESP3 => Self::resp3(&info, stream, meter.clone()).await,
            _ => Self::resp2(&info, stream, meter.clone()).await,
        };
        meter.replied();
        Ok(opened?)
    }

    async fn resp2(
        info: &RedisConnectionInfo,
        stream: Metered,
        meter: Arc<Meter>,
    ) -> RedisResult<Self> {
        let pubsub = ::redis::aio::PubSub::new(info, stream).await?;
        let (sink, messages) = pubsub.split();
        Ok(Self {
            commands: Commands::Resp2(sink),
            incoming: Incoming::Resp2(messages),
            meter,
        })
    }

    async fn resp3(
        info: &RedisConnectionInfo,
        stream: Metered,
        meter: Arc<Meter>,
    ) -> RedisResult<Self> {
        let (sender, pushes) = unbounded_channel();
        // Deadlines are the link's.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_push_sender(sender);
        let (con, driver) = MultiplexedConnection::new_with_config(info, stream, config).await?;
        Ok(Self {
            commands: Commands::Resp3(con),
            incoming: Incoming::Resp3 {
                pushes,
                _driver: AbortOnDropHandle::new(tokio::spawn(driver)),
            },
            meter,
        })
    }

    /// The next news; `None`: the connection has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<News> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// News that have come already.
    pub(super) fn next_now(&mut self) -> Option<News> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match self.poll_next(&mut cx) {
            Poll::Ready(news) => news,
            Poll::Pending => None,
        }
    }

    fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Option<News>> {
        loop {
            let news = match &mut self.incoming {
                Incoming::Resp2(messages) => {
                    let msg = std::task::ready!(messages.poll_next_unpin(cx));
                    msg.map(Message::from_resp2).map(News::Message)
                }
                Incoming::Resp3 { pushes, .. } => {
                    match std::task::ready!(pushes.poll_recv(cx)) {
                        Some(push) if push.kind == PushKind::Disconnection => None,
                        Some(push) => match News::of(push) {
                            Some(news) => Some(news),
                            // The confirmation of a subscription, or a push of another kind.
                            None => continue,
                        },
                        None => None,
                    }
                }
            };
            self.meter.replied();
            return Poll::Ready(news);
        }
    }

    /// Bytes read so far: any of them is a sign of life.
    pub(super) fn read(&self) -> u64 {
        self.meter.read()
    }
}

impl Commands {
    /// Makes the changes, and says for each name what became of it.
    pub(super) async fn apply(self, changes: Vec<Change>) -> Vec<(Name, RedisResult<()>)> {
        let results = match &self {
            Self::Resp2(sink) => {
                join_all(changes.iter().map(|change| apply_resp2(sink, change))).await
            }
            Self::Resp3(con) => apply_resp3(con.clone(), &changes).await,
        };
        let names = changes.into_iter().map(|change| change.name);
        names.zip(results).collect()
    }

    pub(super) async fn ping(self, message: Option<Vec<u8>>) -> RedisResult<Value> {
        match (self, message) {
            (Self::Resp2(mut sink), None) => sink.ping().await,
            (Self::Resp2(mut sink), Some(message)) => sink.ping_message(message).await,
            (Self::Resp3(mut con), message) => {
                let reply = con.send_packed_command(cmd("PING").arg(message)).await?;
                match reply.extract_error()? {
                    // Not asked for, and taken by the driver for the answer to whatever was.
                    Value::Push { .. } => Err(unconfirmed()),
                    pong => Ok(pong),
                }
            }
        }
    }
}

async fn apply_resp2(sink: &PubSubSink, Change { verb, name }: &Change) -> RedisResult<()> {
    let mut sink = sink.clone();
    match (verb, name.kind) {
        (Verb::Add, Kind::Channel) => sink.subscribe(&*name.bytes).await,
        (Verb::Add, Kind::Pattern) => sink.psubscribe(&*name.bytes).await,
        (Verb::Remove, Kind::Channel) => sink.unsubscribe(&*name.bytes).await,
        (Verb::Remove, Kind::Pattern) => sink.punsubscribe(&*name.bytes).await,
        (_, Kind::ShardChannel) => Err(super::super::error::to_redis(Error::new(
            ErrorKind::Unsupported {
                command: "SSUBSCRIBE",
            },
        ))),
    }
}

/// One command for each name, sent together: whatever one of them is refused for, the others hold.
async fn apply_resp3(mut con: MultiplexedConnection, changes: &[Change]) -> Vec<RedisResult<()>> {
    let mut pipeline = Pipeline::new();
    for Change { verb, name } in changes {
        pipeline.cmd(name.kind.command(*verb)).arg(&*name.bytes);
    }
    match con.send_packed_commands(&pipeline, 0, changes.len()).await {
        Ok(replies) => {
            let mut results: Vec<_> = replies
                .into_iter()
                .zip(changes)
                .map(|(reply, change)| confirmed(reply, change))
                .collect();
            results.resize_with(changes.len(), || Err(unconfirmed()));
            results
        }
        Err(error) => changes.iter().map(|_| Err(error.clone())).collect(),
    }
}

/// An end that the server declares by itself looks like an answer, and the driver takes it for one: every
/// answer after it would be another's. So each is looked at, and a wrong one is the end of the connection.
fn confirmed(reply: Value, Change { verb, name }: &Change) -> RedisResult<()> {
    let is_ours = |kind: &PushKind, data: &[Value]| {
        let of = data.first();
        *kind == name.kind.confirmation(*verb)
            && matches!(of, Some(Value::BulkString(of)) if **of == *name.bytes)
    };
    match reply.extract_error()? {
        Value::Push { kind, data } if is_ours(&kind, &data) => Ok(()),
        _ => Err(unconfirmed()),
    }
}

fn unconfirmed() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

impl News {
    fn of(push: PushInfo) -> Option<Self> {
        if push.kind != PushKind::SUnsubscribe {
            return Message::from_resp3(push).map(Self::Message);
        }
        match push.data.into_iter().next() {
            Some(Value::BulkString(bytes)) => Some(Self::Ended(Name {
                kind: Kind::ShardChannel,
                bytes: bytes.into(),
            })),
            _ => None,
        }
    }
}

impl Message {
    fn from_resp2(msg: Msg) -> Self {
        let kind = match msg.from_pattern() {
            true => Kind::Pattern,
            false => Kind::Channel,
        };
        Self { kind, msg }
    }

    fn from_resp3(push: PushInfo) -> Option<Self> {
        let kind = match push.kind {
            PushKind::Message => Kind::Channel,
            PushKind::PMessage => Kind::Pattern,
            PushKind::SMessage => Kind::ShardChannel,
            _ => return None,
        };
        let msg = Msg::from_push_info(push)?;
        Some(Self { kind, msg })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(kind: PushKind, of: &str) -> Value {
        let of = Value::BulkString(of.as_bytes().to_vec());
        let data = vec![of, Value::Int(1)];
        Value::Push { kind, data }
    }

    /// A server that hands a slot over ends its subscriptions in the midst of answers to something else.
    #[test]
    fn an_end_that_nobody_asked_for_is_no_answer() {
        let change = |verb| Change {
            verb,
            name: Name {
                kind: Kind::ShardChannel,
                bytes: b"news".as_slice().into(),
            },
        };
        let (add, remove) = (change(Verb::Add), change(Verb::Remove));
        assert_eq!(confirmed(push(PushKind::SSubscribe, "news"), &add), Ok(()));
        assert_eq!(
            confirmed(push(PushKind::SUnsubscribe, "news"), &remove),
            Ok(())
        );
        for (reply, change) in [
            (push(PushKind::SUnsubscribe, "news"), &add),
            (push(PushKind::SUnsubscribe, "other"), &remove),
            (push(PushKind::SSubscribe, "other"), &add),
            (Value::SimpleString("PONG".to_owned()), &add),
        ] {
            assert!(confirmed(reply, change).unwrap_err().is_io_error());
        }
    }
}
