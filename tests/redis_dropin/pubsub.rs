//! Subscribers are on whichever database is active: nothing is missed or doubled by a planned switch,
//! a loss is made good at once and told, and no reader ever ends because of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use multidb::redis::{Notification, Overlap, PubSub, PubSubStream, Redis, SubscriptionKind};
use multidb::testing::server::{Client, Server};
use multidb::{ErrorKind, Event, MultiDbClient, MultiDbConnection};
use redis::{AsyncCommands, PushInfo, PushKind};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::eventually;
use crate::support::redis_server::RedisServer;
use crate::{Databases, LIMIT, Protocol, kind, serving};

const BOTH: [Protocol; 2] = [Protocol::Resp2, Protocol::Resp3];

// --- as redis-rs has it ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_written_for_the_drivers_pubsub_works_unchanged() {
    /// The same lines for both: there is no trait to be generic over.
    macro_rules! conversation {
        ($client:expr, $publisher:expr) => {{
            let mut pubsub = $client.get_async_pubsub().await.unwrap();
            pubsub.subscribe(&["news", "weather"]).await.unwrap();
            pubsub.psubscribe("sport.*").await.unwrap();
            let mut seen = Vec::new();
            for (channel, payload) in [("news", "1"), ("weather", "2"), ("sport.golf", "3")] {
                let receivers: i64 = $publisher.publish(channel, payload).await.unwrap();
                assert_eq!(receivers, 1);
                let msg = timeout(LIMIT, pubsub.on_message().next()).await.unwrap();
                let msg = msg.unwrap();
                let pattern: Option<String> = msg.get_pattern().unwrap();
                let payload: String = msg.get_payload().unwrap();
                seen.push((msg.get_channel_name().to_owned(), payload, pattern));
            }
            let pong: redis::Value = pubsub.ping().await.unwrap();
            let echo: redis::Value = pubsub.ping_message("hello").await.unwrap();
            seen.push((format!("{pong:?} {echo:?}"), String::new(), None));
            pubsub.unsubscribe("news").await.unwrap();
            pubsub.punsubscribe("sport.*").await.unwrap();
            let (mut sink, mut stream) = pubsub.split();
            sink.unsubscribe("weather").await.unwrap();
            sink.subscribe("last").await.unwrap();
            for channel in ["news", "weather", "sport.golf", "last"] {
                let _: i64 = $publisher.publish(channel, "4").await.unwrap();
            }
            let msg = timeout(LIMIT, stream.next()).await.unwrap().unwrap();
            seen.push((msg.get_channel_name().to_owned(), String::new(), None));
            drop(stream);
            assert!(sink.subscribe("more").await.is_err());
            seen
        }};
    }
    for protocol in BOTH {
        let databases = Databases::start().await;
        let client = databases.client_speaking(protocol).await;
        let url = format!("{}{}", databases.east.url(), protocol.query());
        let bare = redis::Client::open(url).unwrap();
        let mut publisher = bare.get_multiplexed_async_connection().await.unwrap();
        let theirs = conversation!(bare, publisher);
        let ours = conversation!(client, publisher);
        assert_eq!(ours, theirs);
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_come_as_the_driver_sends_them_in_either_protocol() {
    for protocol in BOTH {
        let databases = Databases::start().await;
        let client = databases.client_speaking(protocol).await;
        let (sender, mut pushes) = tokio::sync::mpsc::unbounded_channel::<PushInfo>();
        let mut con = client.connection().push_to(sender);
        con.subscribe("news").await.unwrap();
        con.psubscribe("n*").await.unwrap();
        let _: i64 = con.publish("news", "1").await.unwrap();
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let push = timeout(LIMIT, pushes.recv()).await.unwrap().unwrap();
            kinds.push((push.kind, push.data.len()));
        }
        kinds.sort_by_key(|(_, len)| *len);
        assert_eq!(kinds, [(PushKind::Message, 2), (PushKind::PMessage, 3)]);
        con.unsubscribe("news").await.unwrap();
        drop(con);
        no_subscribers(&databases.east).await;

        let without = client.connection().subscribe("news").await.unwrap_err();
        assert_eq!(without.kind(), redis::ErrorKind::InvalidClientConfig);
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_channels_need_resp3_and_say_so() {
    let databases = Databases::start().await;
    let client = databases.client_speaking(Protocol::Resp3).await;
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.ssubscribe(&["shard", "other"]).await.unwrap();
    client.switch_to("west-to-be").await.unwrap_err();
    client.switch_to(&databases.west_id()).await.unwrap();
    let receivers: i64 = databases.west.cmd(&["SPUBLISH", "shard", "1"]).await;
    assert_eq!(receivers, 1);
    let msg = timeout(LIMIT, pubsub.on_message().next()).await.unwrap();
    assert_eq!(msg.unwrap().get_channel_name(), "shard");
    pubsub.sunsubscribe(None::<&str>).await.unwrap();
    let receivers: i64 = databases.west.cmd(&["SPUBLISH", "shard", "1"]).await;
    assert_eq!(receivers, 0);
    client.close().await;

    let client = databases.client_speaking(Protocol::Resp2).await;
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    let error = pubsub.ssubscribe("shard").await.unwrap_err();
    let command = "SSUBSCRIBE";
    assert_eq!(kind(&error), ErrorKind::Unsupported { command });
    pubsub.subscribe("news").await.unwrap();
    client.close().await;
}

// --- planned switches ---

/// The bar: 1000 messages a second, nothing lost and nothing doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_switch_loses_and_doubles_nothing() {
    for protocol in BOTH {
        let databases = Databases::start().await;
        let client = databases.client_speaking(protocol).await;
        let listener = Listener::on(&client).await;
        let publisher = Publisher::start(client.connection(), Duration::from_millis(1));
        for _ in 0..10 {
            for id in [databases.west_id(), databases.east_id()] {
                sleep(Duration::from_millis(40)).await;
                client.switch_to(&id).await.unwrap();
            }
        }
        sleep(Duration::from_millis(40)).await;
        let published = publisher.stop().await;
        assert!(published > 700, "{published} messages");
        let heard = listener.all(published).await;
        assert_eq!(heard.messages, (0..published).collect::<Vec<_>>());
        assert_eq!(heard.gaps, Vec::<Option<Duration>>::from([None; 20]));
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s17_switches_on_the_heels_of_each_other_lose_and_double_nothing() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let listener = Listener::on(&client).await;
    let publisher = Publisher::start(client.connection(), Duration::from_micros(200));
    for _ in 0..100 {
        for id in [databases.west_id(), databases.east_id()] {
            client.switch_to(&id).await.unwrap();
        }
    }
    let published = publisher.stop().await;
    let heard = listener.all(published).await;
    assert_eq!(heard.messages, (0..published).collect::<Vec<_>>());
    assert!(heard.gaps.iter().all(Option::is_none), "{:?}", heard.gaps);
    client.close().await;
}

/// Naive: the connection that the subscriber was begun beside is taken for the one that is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_does_one_after_a_reconnect() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let listener = Listener::on(&client).await;
    let killed: i64 = (databases.east)
        .cmd(&["CLIENT", "KILL", "TYPE", "normal"])
        .await;
    assert!(killed >= 1);
    let mut con = client.connection();
    let answer: redis::RedisResult<Option<String>> = con.get("key").await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(client.snapshot().generation, 1);
    let publisher = Publisher::start(con, Duration::from_micros(200));
    sleep(Duration::from_millis(50)).await;
    client.switch_to(&databases.west_id()).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    let published = publisher.stop().await;
    let heard = listener.all(published).await;
    assert_eq!(heard.messages, (0..published).collect::<Vec<_>>());
    assert_eq!(heard.gaps, [None]);
    client.close().await;
}

/// Naive: that a subscriber once went ahead to a database is taken for being there still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_does_a_return_to_where_it_was_prepared_before() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let listener = Listener::on(&client).await;
    let (east, west) = (databases.east_id(), databases.west_id());
    client.switch_to(&west).await.unwrap();
    client.switch_to(&east).await.unwrap();
    no_subscribers(&databases.west).await;
    // As a failover does, this sends nobody ahead.
    client.force_active(&west, None).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    client.unpin().await.unwrap();
    client.switch_to(&east).await.unwrap();
    let heard = listener.all(0).await;
    let told: Vec<_> = heard.gaps.iter().map(Option::is_some).collect();
    assert_eq!(told, [false, false, true, false]);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_does_disabling_the_active_database() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let listener = Listener::on(&client).await;
    let publisher = Publisher::start(client.connection(), Duration::from_millis(1));
    sleep(Duration::from_millis(50)).await;
    client.disable(&databases.east_id()).await.unwrap();
    serving(&client, &databases.west_id()).await;
    sleep(Duration::from_millis(50)).await;
    let published = publisher.stop().await;
    let heard = listener.all(published).await;
    assert_eq!(heard.messages, (0..published).collect::<Vec<_>>());
    no_subscribers(&databases.east).await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_cut_the_old_database_is_left_before_the_new_one_is_subscribed_to() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.set_overlap(Overlap::Cut);
    pubsub.subscribe("news").await.unwrap();
    client.switch_to(&databases.west_id()).await.unwrap();
    subscribers(&databases.west, 1).await;
    no_subscribers(&databases.east).await;
    let told = timeout(LIMIT, pubsub.on_notification().next()).await;
    assert!(matches!(
        told.unwrap(),
        Some(Notification::Resubscribed { gap: Some(_), .. })
    ));
    client.close().await;
}

// --- losses ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_everything_is_subscribed_on_the_next_database_and_the_gap_is_told() {
    for protocol in BOTH {
        let mut databases = Databases::start().await;
        let client = databases.client_speaking(protocol).await;
        let mut events = client.events();
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub
            .subscribe(&["news", "weather", "left"])
            .await
            .unwrap();
        pubsub.unsubscribe("left").await.unwrap();
        // The last word of the database is the answer to this: the gap begins there at the earliest.
        let last_word = Instant::now();
        pubsub.psubscribe("sport.*").await.unwrap();
        databases.east.kill();
        let told = timeout(LIMIT, pubsub.on_notification().next()).await;
        let Some(Notification::Resubscribed { database, gap }) = told.unwrap() else {
            panic!("something else came first");
        };
        assert_eq!(database, *databases.west_id());
        assert!(gap.unwrap() <= last_word.elapsed());
        for (channel, payload) in [("news", "1"), ("weather", "2"), ("sport.golf", "3")] {
            let receivers: i64 = databases.west.cmd(&["PUBLISH", channel, payload]).await;
            assert_eq!(receivers, 1, "{channel}");
            hear(&mut pubsub, payload).await;
        }
        let receivers: i64 = databases.west.cmd(&["PUBLISH", "left", "4"]).await;
        assert_eq!(receivers, 0, "what was left stays left");
        let event = async {
            loop {
                if let Some(Event::Resubscribed { database, gap }) = events.next().await {
                    return (database, gap);
                }
            }
        };
        let (database, gap) = timeout(LIMIT, event).await.unwrap();
        assert_eq!(database, *databases.west_id());
        assert!(gap.is_some());
        client.close().await;
    }
}

/// A pure subscriber that is hung on is found by the probes, however quiet it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s06_a_hang_moves_an_idle_subscriber_too() {
    let databases = Databases::start().await;
    let builder = databases.builder(Protocol::Resp3);
    let client = builder
        .health_interval(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe("news").await.unwrap();
    databases.east.stop().await;
    subscribers(&databases.west, 1).await;
    let _: i64 = databases.west.cmd(&["PUBLISH", "news", "1"]).await;
    hear(&mut pubsub, "1").await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_made_anew_where_it_was() {
    for protocol in BOTH {
        let databases = Databases::start().await;
        let client = databases.client_speaking(protocol).await;
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub.subscribe("news").await.unwrap();
        let killed: i64 = (databases.east)
            .cmd(&["CLIENT", "KILL", "TYPE", "pubsub"])
            .await;
        assert_eq!(killed, 1);
        let told = timeout(LIMIT, pubsub.on_notification().next()).await;
        let Some(Notification::Resubscribed { database, gap }) = told.unwrap() else {
            panic!("something else came first");
        };
        assert_eq!(database, *databases.east_id());
        assert!(gap.is_some());
        assert_eq!(client.snapshot().generation, 1);
        let _: i64 = databases.east.cmd(&["PUBLISH", "news", "1"]).await;
        hear(&mut pubsub, "1").await;
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s18_what_is_asked_for_during_an_outage_or_a_switch_holds_after_it() {
    let mut databases = Databases::start().await;
    let client = databases.client().await;
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe(&["old", "kept"]).await.unwrap();
    databases.east.kill();
    databases.west.kill();
    let (mut sink, mut stream) = pubsub.split();
    let asked = tokio::spawn(async move {
        let (subscribed, unsubscribed) = {
            let mut other = sink.clone();
            tokio::join!(sink.subscribe("new"), other.unsubscribe("old"))
        };
        subscribed.and(unsubscribed)
    });
    sleep(Duration::from_millis(100)).await;
    databases.west.restart().await;
    timeout(LIMIT, asked).await.unwrap().unwrap().unwrap();
    for (channel, receivers) in [("old", 0), ("kept", 1), ("new", 1)] {
        let reached: i64 = databases.west.cmd(&["PUBLISH", channel, channel]).await;
        assert_eq!(reached, receivers, "{channel}");
    }
    for channel in ["kept", "new"] {
        let msg = timeout(LIMIT, stream.next()).await.unwrap().unwrap();
        assert_eq!(msg.get_channel_name(), channel);
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_to_ask_is_an_error_in_time_and_the_wish_stands() {
    let mut databases = Databases::start().await;
    let builder = databases.builder(Protocol::Resp3);
    let client = builder.deadline(Duration::from_millis(300)).connect().await;
    let client = client.unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    databases.east.kill();
    databases.west.kill();
    let begun = Instant::now();
    let error = pubsub.subscribe("news").await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Unavailable);
    assert!(begun.elapsed() < Duration::from_millis(900));
    databases.west.restart().await;
    subscribers(&databases.west, 1).await;
    let _: i64 = databases.west.cmd(&["PUBLISH", "news", "1"]).await;
    hear(&mut pubsub, "1").await;
    client.close().await;
}

/// The old link goes on reading while calls are in flight on its database. Naive: what it takes with it
/// when it is cut meanwhile, or has been silent since before the switch, is nobody's business.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_on_the_way_out_is_told_too() {
    type Cut = fn(&Client);
    let cuts: [(&str, Cut); 2] = [("killed", Client::kill), ("silent", |link| link.hang(true))];
    for (what, cut) in cuts {
        let (east, west) = (
            Server::start().await.unwrap(),
            Server::start().await.unwrap(),
        );
        let client = MultiDbClient::open([(east.url(), 1.0), (west.url(), 0.5)]).unwrap();
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub.subscribe("news").await.unwrap();
        let by = |command: &str| {
            let clients = east.clients();
            clients
                .into_iter()
                .find(|client| client.last_command() == command)
        };
        let mut con = client.connection();
        let () = con.set("key", 1).await.unwrap();
        by("set").expect("the callers' connection").hang(true);
        let in_flight = tokio::spawn(async move { con.get::<_, i64>("key").await });
        sleep(Duration::from_millis(5)).await;
        client.switch_to(west.addr().to_string()).await.unwrap();

        let mut notifications = pubsub.on_notification();
        let mut gap = async || match timeout(LIMIT, notifications.next()).await.expect(what) {
            Some(Notification::Resubscribed { gap, .. }) => gap,
            other => panic!("{other:?}"),
        };
        assert_eq!(gap().await, None, "the switch");
        cut(&by("subscribe").expect("the old link"));
        assert!(gap().await.is_some(), "{what}");
        let _ = in_flight.await.unwrap();
        client.close().await;
    }
}

// --- permissions ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_told_to_whoever_asked_or_else_to_the_reader() {
    for protocol in BOTH {
        let databases = Databases::start().await;
        let client = databases.client_speaking(protocol).await;
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub.subscribe(&["news", "weather"]).await.unwrap();
        let only = |pattern| ["ACL", "SETUSER", "default", "resetchannels", pattern];
        let () = databases.west.cmd(&only("&news")).await;
        client.switch_to(&databases.west_id()).await.unwrap();
        let refused = refusal(&mut pubsub).await;
        assert_eq!(refused, (SubscriptionKind::Channel, b"weather".to_vec()));
        let error = pubsub.subscribe("secret").await.unwrap_err();
        assert_eq!(error.code(), Some("NOPERM"));
        let _: i64 = databases.west.cmd(&["PUBLISH", "news", "1"]).await;
        hear(&mut pubsub, "1").await;
        client.close().await;
    }
}

/// With a short interval, so that the next try is soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_is_tried_again() {
    let databases = Databases::start().await;
    let builder = databases.builder(Protocol::Resp2);
    let builder = builder.health_interval(Duration::from_millis(100));
    let client = builder.connect().await.unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe("weather").await.unwrap();
    let none = ["ACL", "SETUSER", "default", "resetchannels"];
    let () = databases.west.cmd(&none).await;
    client.switch_to(&databases.west_id()).await.unwrap();
    refusal(&mut pubsub).await;
    let all = ["ACL", "SETUSER", "default", "allchannels"];
    let () = databases.west.cmd(&all).await;
    eventually(LIMIT, "it is subscribed again", async || {
        databases
            .west
            .cmd::<i64>(&["PUBLISH", "weather", "1"])
            .await
            == 1
    })
    .await;
    client.close().await;
}

// --- ends ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_are_independent_and_leave_nothing_behind() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut one = client.get_async_pubsub().await.unwrap();
    let mut two = client.get_async_pubsub().await.unwrap();
    one.subscribe("news").await.unwrap();
    two.subscribe(&["news", "weather"]).await.unwrap();
    two.unsubscribe("news").await.unwrap();
    let _: i64 = databases.east.cmd(&["PUBLISH", "news", "1"]).await;
    hear(&mut one, "1").await;
    drop(one);
    eventually(LIMIT, "the dropped one has left", async || {
        pubsub_clients(&databases.east).await == 1
    })
    .await;
    let _: i64 = databases.east.cmd(&["PUBLISH", "weather", "2"]).await;
    hear(&mut two, "2").await;
    client.close().await;
    let end = timeout(LIMIT, two.on_message().next()).await.unwrap();
    assert!(end.is_none(), "closed");
    assert_eq!(
        kind(&two.subscribe("x").await.unwrap_err()),
        ErrorKind::Closed
    );
    no_subscribers(&databases.east).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_keeps_its_client_alive() {
    let mut databases = Databases::start().await;
    let client = databases.client().await;
    let pubsub = client.get_async_pubsub().await.unwrap();
    drop(client);
    let (mut sink, mut stream) = pubsub.split();
    sink.subscribe("news").await.unwrap();
    drop(sink);
    databases.east.kill();
    subscribers(&databases.west, 1).await;
    let _: i64 = databases.west.cmd(&["PUBLISH", "news", "1"]).await;
    let msg = timeout(LIMIT, stream.next()).await.unwrap().unwrap();
    assert_eq!(msg.get_payload::<String>().unwrap(), "1");
    drop(stream);
    eventually(LIMIT, "nothing is left", async || {
        databases.west.connected_clients().await == 0
    })
    .await;
}

// --- helpers ---

/// Publishes 0, 1, 2, … until stopped; each until it is acknowledged.
struct Publisher {
    stopped: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Publisher {
    fn start(mut con: MultiDbConnection, pause: Duration) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        let task = tokio::spawn(async move {
            let mut next = 0;
            let mut due = tokio::time::interval(pause);
            while !stop.load(Ordering::Relaxed) {
                due.tick().await;
                let () = con.publish("news", next).await.unwrap();
                next += 1;
            }
            next
        });
        Self { stopped, task }
    }

    async fn stop(self) -> u64 {
        self.stopped.store(true, Ordering::Relaxed);
        timeout(LIMIT, self.task).await.unwrap().unwrap()
    }
}

/// Reads all the time.
struct Listener(PubSubStream);

struct HeardAll {
    messages: Vec<u64>,
    gaps: Vec<Option<Duration>>,
}

impl Listener {
    async fn on(client: &MultiDbClient<Redis>) -> Self {
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub.subscribe("news").await.unwrap();
        Self(pubsub.into_on_message())
    }

    /// All that has come once the last of so many has, and a moment later.
    async fn all(self, published: u64) -> HeardAll {
        let mut stream = self.0.with_notifications();
        let mut heard = HeardAll {
            messages: Vec::new(),
            gaps: Vec::new(),
        };
        let quiet = Duration::from_millis(300);
        while let Ok(Some(notification)) = timeout(quiet, stream.next()).await {
            match notification {
                Notification::Message(msg) => heard.messages.push(msg.get_payload().unwrap()),
                Notification::Resubscribed { gap, .. } => heard.gaps.push(gap),
                other => panic!("{other:?}"),
            }
        }
        assert!(heard.messages.len() as u64 >= published.saturating_sub(100));
        // Two connections deliver at once; each of them in order.
        heard.messages.sort_unstable();
        heard
    }
}

async fn hear(pubsub: &mut PubSub, payload: &str) {
    let msg = timeout(LIMIT, pubsub.on_message().next()).await;
    let msg = msg.expect("in time").expect("no end");
    assert_eq!(msg.get_payload::<String>().unwrap(), payload);
}

async fn refusal(pubsub: &mut PubSub) -> (SubscriptionKind, Vec<u8>) {
    let mut notifications = pubsub.on_notification();
    let refused = async {
        loop {
            if let Some(Notification::Refused { kind, name, error }) = notifications.next().await {
                assert_eq!(error.code(), Some("NOPERM"));
                return (kind, name);
            }
        }
    };
    timeout(LIMIT, refused).await.expect("told of a refusal")
}

async fn pubsub_clients(server: &RedisServer) -> usize {
    let list: String = server.cmd(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    list.lines().count()
}

async fn subscribers(server: &RedisServer, expected: usize) {
    eventually(LIMIT, "it is subscribed", async || {
        pubsub_clients(server).await == expected
    })
    .await;
}

async fn no_subscribers(server: &RedisServer) {
    subscribers(server, 0).await;
}
