//! A subscriber and a publisher of the same client, across one fault or one planned switch.

use std::time::Duration;

use futures_util::StreamExt;
use multidb::MultiDbClient;
use multidb::redis::{Notification, Notifications, PubSubSink, Redis};
use redis::AsyncCommands;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};

/// What one fault or switch meant to a reader.
pub(crate) struct Heard {
    /// From just before it to the subscriptions holding elsewhere.
    pub(crate) resubscribed_ms: f64,
    /// Acknowledged, and not received.
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    pub(crate) published: usize,
}

/// Listens all the time, beside a publisher of a thousand messages a second.
pub(crate) struct Subscriber {
    messages: Notifications,
    _sink: PubSubSink,
    publisher: JoinHandle<()>,
    acknowledged: tokio::sync::mpsc::UnboundedReceiver<u64>,
}

const CHANNEL: &str = "channel";
const PAUSE: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_secs(20);

impl Subscriber {
    pub(crate) async fn on(client: &MultiDbClient<Redis>) -> Self {
        let mut pubsub = client.get_async_pubsub().await.expect("a database serves");
        pubsub.subscribe(CHANNEL).await.expect("it is granted");
        let (sink, stream) = pubsub.split();
        let (say, acknowledged) = tokio::sync::mpsc::unbounded_channel();
        let con = client.connection();
        let publisher = tokio::spawn(async move {
            let mut due = tokio::time::interval(PAUSE);
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for number in 0_u64.. {
                due.tick().await;
                let mut con = con.clone();
                let say = say.clone();
                // One that waits for the failover holds up no other.
                tokio::spawn(async move {
                    let receivers: redis::RedisResult<i64> = con.publish(CHANNEL, number).await;
                    if receivers.is_ok() {
                        let _ = say.send(number);
                    }
                });
            }
        });
        Self {
            messages: stream.with_notifications(),
            _sink: sink,
            publisher,
            acknowledged,
        }
    }

    /// Until the subscriptions hold elsewhere, and what was published by then has come.
    pub(crate) async fn across(mut self, at: Instant) -> Heard {
        let mut received = Vec::new();
        let limit = at + SOON;
        let resubscribed_ms = loop {
            let next = timeout_at(limit, self.messages.next()).await;
            match next.expect("subscribed again in time").expect("no end") {
                Notification::Message(msg) => received.push(number(&msg)),
                Notification::Resubscribed { .. } => break at.elapsed().as_secs_f64() * 1e3,
                other => panic!("{other:?}"),
            }
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.publisher.abort();
        let quiet = Duration::from_millis(100);
        while let Ok(Some(next)) = timeout(quiet, self.messages.next()).await {
            if let Notification::Message(msg) = next {
                received.push(number(&msg));
            }
        }
        let mut acknowledged = Vec::new();
        while let Ok(number) = self.acknowledged.try_recv() {
            acknowledged.push(number);
        }
        let all = received.len();
        received.sort_unstable();
        received.dedup();
        let lost = acknowledged
            .iter()
            .filter(|number| received.binary_search(number).is_err());
        Heard {
            resubscribed_ms,
            lost: lost.count(),
            doubled: all - received.len(),
            published: acknowledged.len(),
        }
    }
}

fn number(msg: &redis::Msg) -> u64 {
    msg.get_payload().expect("a number")
}
