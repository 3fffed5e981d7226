//! Shard channels.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use multidb::redis::{MultiDbConnection, Notification, PubSub, PubSubSink, Redis, from_redis};
use multidb::{ErrorKind, MultiDbClient};
use redis::{AsyncCommands, Msg, PushKind, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::rig::{SOON, bounded, builder, database, pair};
use crate::support::eventually;
use crate::support::redis_cluster::RedisCluster;
use crate::support::redis_server::RedisServer;

/// Shard channels need it.
fn resp3(url: &str) -> String {
    format!("{url}?protocol=resp3")
}

async fn alone(cluster: &RedisCluster) -> MultiDbClient<Redis> {
    let cluster = database("cluster", &resp3(&cluster.url()), 1.0);
    builder().database(cluster).connect().await.unwrap()
}

/// With another one to go to.
async fn beside(cluster: &RedisCluster, other: &str) -> MultiDbClient<Redis> {
    pair(&resp3(&cluster.url()), &resp3(other)).await
}

/// A subscriber that keeps what it hears.
struct Listener {
    sink: PubSubSink,
    heard: mpsc::UnboundedReceiver<Heard>,
}

#[derive(Debug)]
enum Heard {
    Message { channel: String, payload: String },
    Again { gap: Option<Duration> },
}

impl Listener {
    async fn on(client: &MultiDbClient<Redis>, channels: &[String]) -> Self {
        let pubsub: PubSub = client.get_async_pubsub().await.unwrap();
        let (mut sink, stream) = pubsub.split();
        let (sender, heard) = mpsc::unbounded_channel();
        let mut notifications = stream.with_notifications();
        tokio::spawn(async move {
            while let Some(notification) = notifications.next().await {
                let _ = sender.send(match notification {
                    Notification::Message(msg) => message(&msg),
                    Notification::Resubscribed { gap, .. } => Heard::Again { gap },
                    other => panic!("{other:?}"),
                });
            }
        });
        sink.ssubscribe(channels).await.unwrap();
        Self { sink, heard }
    }

    async fn next(&mut self) -> Heard {
        let heard = timeout(SOON, self.heard.recv()).await;
        heard.expect("nothing is heard").unwrap()
    }

    /// The next message on this channel with nothing before it.
    async fn hears(&mut self, on: &str, what: &str) {
        match self.next().await {
            Heard::Message { channel, payload } => assert_eq!((&*channel, &*payload), (on, what)),
            Heard::Again { gap } => panic!("subscribed again, with a gap: {gap:?}"),
        }
    }

    /// Subscribed again, and messages may have been missed.
    async fn hears_of_a_gap(&mut self) -> Duration {
        loop {
            if let Heard::Again { gap } = self.next().await {
                return gap.expect("nobody knows what was missed");
            }
        }
    }
}

fn message(msg: &Msg) -> Heard {
    Heard::Message {
        channel: msg.get_channel().unwrap(),
        payload: msg.get_payload().unwrap(),
    }
}

async fn spublish(con: &mut MultiDbConnection, channel: &str, what: &str) -> RedisResult<u32> {
    let mut spublish = redis::cmd("SPUBLISH");
    spublish.arg(channel).arg(what).query_async(con).await
}

/// A channel of every node.
async fn channel_of_each(cluster: &RedisCluster, stem: &str) -> Vec<String> {
    let mut channels = Vec::new();
    for node in 0..3 {
        channels.push(cluster.key_of(node, stem).await);
    }
    channels
}

async fn subscribers(node: &RedisServer, channel: &str) -> u32 {
    let count: (String, u32) = node.cmd(&["PUBSUB", "SHARDNUMSUB", channel]).await;
    count.1
}

/// For each node how many connections are subscribed to something, and to how much together.
async fn subscribed(cluster: &RedisCluster) -> Vec<(usize, u32)> {
    let mut counts = Vec::new();
    for node in &cluster.nodes {
        let clients: String = node.cmd(&["CLIENT", "LIST"]).await;
        let of = |client: &str| -> u32 {
            let fields: BTreeMap<_, _> = (client.split(' '))
                .filter_map(|field| field.split_once('='))
                .collect();
            (["sub", "psub", "ssub"].iter())
                .filter_map(|kind| fields.get(kind)?.parse::<u32>().ok())
                .sum()
        };
        let each: Vec<_> = clients.lines().map(of).filter(|&n| n > 0).collect();
        counts.push((each.len(), each.iter().sum()));
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shard_channel_is_subscribed_to_on_the_node_of_its_slot_and_no_node_twice() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let client = alone(&cluster).await;
        let mut con = client.connection();
        let mut channels = channel_of_each(&cluster, "news").await;
        channels.push(format!("{{{}}}too", channels[2]));
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub.ssubscribe(&channels).await.unwrap();
        pubsub.subscribe("plain").await.unwrap();
        pubsub.psubscribe("pl?in").await.unwrap();
        for (at, channel) in channels.iter().enumerate() {
            assert_eq!(subscribers(&cluster.nodes[at.min(2)], channel).await, 1);
            assert_eq!(spublish(&mut con, channel, channel).await.unwrap(), 1);
            let msg = timeout(SOON, pubsub.on_message().next()).await.unwrap();
            let msg = msg.unwrap();
            assert_eq!(msg.get_channel_name(), channel);
            assert_eq!(msg.get_payload::<String>().unwrap(), *channel);
        }
        let () = con.publish("plain", 1).await.unwrap();
        for _ in 0..2 {
            let msg = timeout(SOON, pubsub.on_message().next()).await.unwrap();
            assert_eq!(msg.unwrap().get_channel_name(), "plain");
        }
        let counts = subscribed(&cluster).await;
        assert!(
            counts.iter().all(|(connections, _)| *connections == 1),
            "{counts:?}"
        );
        assert_eq!(counts.iter().map(|(_, names)| names).sum::<u32>(), 6);

        // All of them, and the nodes that are needed no longer are left.
        pubsub.sunsubscribe(None::<&str>).await.unwrap();
        for (at, channel) in channels.iter().enumerate() {
            assert_eq!(subscribers(&cluster.nodes[at.min(2)], channel).await, 0);
        }
        let counts = subscribed(&cluster).await;
        let names: u32 = counts.iter().map(|(_, names)| names).sum();
        assert_eq!(names, 2, "channels and patterns stay: {counts:?}");
        drop(pubsub);
        eventually(SOON, "nothing is left", async || {
            subscribed(&cluster)
                .await
                .iter()
                .all(|(connections, _)| *connections == 0)
        })
        .await;
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_sender_hears_shard_channels_of_all_nodes() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let client = alone(&cluster).await;
        let (sender, mut pushes) = mpsc::unbounded_channel();
        let mut con = client.connection().push_to(sender);
        let channels = channel_of_each(&cluster, "news").await;
        con.ssubscribe(&channels).await.unwrap();
        for channel in &channels {
            assert_eq!(spublish(&mut con, channel, "here").await.unwrap(), 1);
            let push = timeout(SOON, pushes.recv()).await.unwrap().unwrap();
            assert_eq!(push.kind, PushKind::SMessage);
            assert_eq!(push.data[0], Value::BulkString(channel.as_bytes().to_vec()));
        }
        con.sunsubscribe(&channels[0]).await.unwrap();
        assert_eq!(spublish(&mut con, &channels[0], "gone").await.unwrap(), 0);
        assert_eq!(spublish(&mut con, &channels[1], "here").await.unwrap(), 1);
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_channel_whose_slot_moves_is_followed_and_the_gap_is_told() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let client = alone(&cluster).await;
        let mut con = client.connection();
        let (moves, stays) = (
            cluster.key_of(0, "moves").await,
            cluster.key_of(0, "stays").await,
        );
        let mut listener = Listener::on(&client, &[moves.clone(), stays.clone()]).await;
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            cluster.hand_over(&moves, from, to).await;
            listener.hears_of_a_gap().await;
            assert_eq!(subscribers(&cluster.nodes[to], &moves).await, 1);
            for channel in [&moves, &stays] {
                assert_eq!(spublish(&mut con, channel, "here").await.unwrap(), 1);
                listener.hears(channel, "here").await;
            }
        }
        // One that is asked for while the client has heard of no move yet.
        let late = format!("{{{stays}}}late");
        cluster.hand_over(&late, 0, 1).await;
        listener.hears_of_a_gap().await;
        listener.sink.ssubscribe(&late).await.unwrap();
        assert_eq!(subscribers(&cluster.nodes[1], &late).await, 1);
        assert_eq!(spublish(&mut con, &late, "here").await.unwrap(), 1);
        listener.hears(&late, "here").await;
        listener
            .sink
            .sunsubscribe(&[&late, &moves, &stays])
            .await
            .unwrap();
        assert_eq!(subscribers(&cluster.nodes[1], &late).await, 0);
        assert_eq!(client.snapshot().generation, 1);
        client.close().await;
    })
    .await;
}

/// Nothing was subscribed to in a slot when it moved: only the node that is asked can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_has_moved_before_its_channel_is_asked_for_is_found() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let client = alone(&cluster).await;
        let channel = cluster.key_of(0, "news").await;
        let elsewhere = cluster.key_of(2, "else").await;
        let mut listener = Listener::on(&client, &[elsewhere]).await;
        cluster.hand_over(&channel, 0, 1).await;
        listener.sink.ssubscribe(&channel).await.unwrap();
        let mut con = client.connection();
        assert_eq!(spublish(&mut con, &channel, "here").await.unwrap(), 1);
        // It was not subscribed to before: nothing has been missed.
        listener.hears(&channel, "here").await;
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_over_is_where_its_shard_channels_are() {
    bounded(async {
        let cluster = RedisCluster::start(3, true).await;
        let client = alone(&cluster).await;
        let mut con = client.connection();
        let channels = channel_of_each(&cluster, "news").await;
        let mut listener = Listener::on(&client, &channels).await;
        let replica = &cluster.nodes[4];
        let () = replica.cmd(&["CLUSTER", "FAILOVER"]).await;
        listener.hears_of_a_gap().await;
        eventually(SOON, "it is subscribed to there", async || {
            subscribers(replica, &channels[1]).await == 1
        })
        .await;
        assert_eq!(
            subscribers(&cluster.nodes[1], &channels[1]).await,
            0,
            "on both"
        );
        for channel in &channels {
            // The node that has been replaced takes it, too, and hands it on within the shard.
            spublish(&mut con, channel, "here").await.unwrap();
            listener.hears(channel, "here").await;
        }
        assert_eq!(client.snapshot().generation, 1);
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_lost_is_replaced_by_the_one_that_has_its_slots_then() {
    bounded(async {
        let mut cluster = RedisCluster::start(3, true).await;
        let client = alone(&cluster).await;
        let channels = channel_of_each(&cluster, "news").await;
        let mut listener = Listener::on(&client, &channels).await;
        cluster.nodes[1].kill();
        listener.hears_of_a_gap().await;
        assert_eq!(subscribers(&cluster.nodes[4], &channels[1]).await, 1);
        for (node, channel) in [0, 4, 2].iter().zip(&channels) {
            let sent: u32 = cluster.nodes[*node]
                .cmd(&["SPUBLISH", channel, "here"])
                .await;
            assert_eq!(sent, 1, "{channel}");
            listener.hears(channel, "here").await;
        }
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_is_wanted_of_the_next_database_too() {
    bounded(async {
        let mut cluster = RedisCluster::start(3, true).await;
        let server = RedisServer::start().await;
        let second = RedisCluster::start(3, false).await;
        let client = builder()
            .database(database("cluster", &resp3(&cluster.url()), 1.0))
            .database(database("server", &resp3(&server.url()), 0.5))
            .database(database("second", &resp3(&second.url()), 0.2))
            .connect()
            .await
            .unwrap();
        assert_eq!(client.active().unwrap(), *"cluster");
        let channels = channel_of_each(&cluster, "news").await;
        let mut listener = Listener::on(&client, &channels).await;
        cluster.nodes[1].kill();
        listener.hears_of_a_gap().await;
        assert_eq!(client.active().unwrap(), *"server");
        let mut con = client.connection();
        for channel in &channels {
            assert_eq!(spublish(&mut con, channel, "here").await.unwrap(), 1);
            listener.hears(channel, "here").await;
        }
        drop(server);
        listener.hears_of_a_gap().await;
        for (node, channel) in channels.iter().enumerate() {
            let active = client.active().unwrap();
            let sent = spublish(&mut con, channel, "here").await.unwrap();
            assert_eq!(sent, 1, "on {active}");
            if active == *"second" {
                assert_eq!(subscribers(&second.nodes[node], channel).await, 1);
            }
            listener.hears(channel, "here").await;
        }
        client.close().await;
    })
    .await;
}

/// The other nodes are heard of all the time, which says nothing of the one that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn the_gap_that_a_node_leaves_that_hangs_begins_when_it_was_last_heard_of() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let server = RedisServer::start().await;
        let client = beside(&cluster, &server.url()).await;
        let channels = channel_of_each(&cluster, "news").await;
        let mut listener = Listener::on(&client, &channels).await;
        cluster.nodes[1].stop().await;
        let stopped = Instant::now();
        let mut beside = cluster.nodes[0].admin().await.unwrap();
        let mut con = client.connection();
        let (calling, chatting) = (con.get::<_, Option<u32>>(&channels[1]), async {
            loop {
                let mut chat = redis::cmd("SPUBLISH");
                chat.arg(&channels[0]).arg("here");
                let _ = chat.query_async::<u32>(&mut beside).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        tokio::select! {
            read = calling => assert_eq!(read.unwrap(), None, "it was not read elsewhere"),
            () = chatting => {}
        }
        let noticed = stopped.elapsed();
        assert_eq!(client.active().unwrap(), *"other");
        let gap = listener.hears_of_a_gap().await;
        assert!(gap >= noticed / 2, "{gap:?} {noticed:?}");
        client.close().await;
    })
    .await;
}

/// Each message once, whichever way the client goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_switch_to_a_cluster_and_back_loses_and_doubles_no_message() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let server = RedisServer::start().await;
        let client = beside(&cluster, &server.url()).await;
        let channels = channel_of_each(&cluster, "news").await;
        let mut listener = Listener::on(&client, &channels).await;
        let mut con = client.connection();
        let publishing = tokio::spawn({
            let (client, channels) = (client.clone(), channels.clone());
            async move {
                let mut sent = 0u32;
                while client.snapshot().generation < 7 {
                    for channel in &channels {
                        let receivers = spublish(&mut con, channel, &sent.to_string()).await;
                        assert_eq!(receivers.unwrap(), 1);
                    }
                    sent += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                sent
            }
        });
        for to in ["other", "cluster", "other", "cluster", "other", "cluster"] {
            tokio::time::sleep(Duration::from_millis(60)).await;
            client.switch_to(to).await.unwrap();
        }
        let sent = publishing.await.unwrap();
        let mut heard = BTreeMap::<String, Vec<u32>>::new();
        while heard.values().map(Vec::len).sum::<usize>() < sent as usize * 3 {
            match listener.next().await {
                Heard::Message { channel, payload } => {
                    heard
                        .entry(channel)
                        .or_default()
                        .push(payload.parse().unwrap());
                }
                Heard::Again { gap } => assert_eq!(gap, None, "nothing may be missed"),
            }
        }
        for channel in &channels {
            assert_eq!(heard[channel], (0..sent).collect::<Vec<_>>(), "{channel}");
        }
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_resp2_shard_channels_are_refused_with_an_error_that_says_so() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let client = builder().url(cluster.url(), 1.0).connect().await.unwrap();
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        let channels = channel_of_each(&cluster, "news").await;
        let error = pubsub.ssubscribe(&channels).await.unwrap_err();
        let kind = from_redis(&error).map(|error| error.kind().clone());
        let command = "SSUBSCRIBE";
        assert_eq!(kind, Some(ErrorKind::Unsupported { command }));
        pubsub.subscribe("plain").await.unwrap();
        let () = client.connection().publish("plain", 1).await.unwrap();
        let msg = timeout(SOON, pubsub.on_message().next()).await.unwrap();
        assert_eq!(msg.unwrap().get_channel_name(), "plain");
        client.close().await;
    })
    .await;
}
