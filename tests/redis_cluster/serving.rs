//! What a cluster serves, as its nodes fail, are promoted and hand slots over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use multidb::redis::{EveryNode, MultiDbConnection, Redis, from_redis};
use multidb::{Config, MultiDbClient, Verdict};
use redis::{AsyncCommands, RedisResult, Value};
use tokio::time::{Instant, timeout};

use crate::rig::{SOON, bounded, builder, database, pair};
use crate::support::eventually;
use crate::support::redis_cluster::RedisCluster;
use crate::support::redis_server::RedisServer;

async fn client_of(url: &str) -> MultiDbClient<Redis> {
    builder().url(url, 1.0).connect().await.unwrap()
}

/// What works on a server and on a cluster alike, with keys of many slots.
async fn everything_works(con: &mut MultiDbConnection) {
    let keys: Vec<String> = (0..100).map(|n| format!("key:{n}")).collect();
    let pairs: Vec<_> = keys.iter().map(|key| (key, key.to_uppercase())).collect();
    let () = con.mset(&pairs).await.unwrap();
    let values: Vec<Option<String>> = con.mget(&keys).await.unwrap();
    assert_eq!(values[42].as_deref(), Some("KEY:42"));
    assert!(
        values
            .iter()
            .zip(&keys)
            .all(|(value, key)| *value == Some(key.to_uppercase()))
    );
    let none: Vec<Option<String>> = con.mget(&["no", "such", "keys"]).await.unwrap();
    assert_eq!(none, [None, None, None]);
    assert_eq!(con.exists::<_, u32>(&keys).await.unwrap(), 100);
    let size: u32 = redis::cmd("DBSIZE").query_async(con).await.unwrap();
    assert_eq!(size, 100);
    let found: BTreeSet<String> = con.keys("key:*").await.unwrap();
    assert_eq!(found.len(), 100);
    let mut scanned = Vec::new();
    {
        let mut scan = con.scan_match::<_, String>("key:*").await.unwrap();
        while let Some(key) = scan.next_item().await {
            scanned.push(key.unwrap());
        }
    }
    assert_eq!(
        scanned.iter().collect::<BTreeSet<_>>().len(),
        100,
        "{}",
        scanned.len()
    );

    let mut pipeline = redis::pipe();
    for key in &keys {
        pipeline.append(key, "!").get(key);
    }
    pipeline.cmd("PING").mget(&keys[..2]).cmd("DBSIZE");
    let replies: Vec<Value> = pipeline.query_async(con).await.unwrap();
    assert_eq!(replies.len(), 203);
    assert_eq!(replies[1], Value::BulkString(b"KEY:0!".to_vec()));
    assert_eq!(replies[199], Value::BulkString(b"KEY:99!".to_vec()));
    assert_eq!(replies[202], Value::Int(100));

    let mut transaction = redis::pipe();
    transaction.atomic().incr("{t}a", 1).incr("{t}b", 2);
    let (a, b): (u32, u32) = transaction.query_async(con).await.unwrap();
    assert_eq!((a, b), (1, 2));

    let script = redis::Script::new("return redis.call('incr', KEYS[1])");
    assert_eq!(
        script.key("{t}a").invoke_async::<u32>(con).await.unwrap(),
        2
    );
    let sha: String = script.prepare_invoke().load_async(con).await.unwrap();
    let mut scripts = redis::pipe();
    for key in &["counter:1", "counter:2", "counter:3", "counter:4"] {
        scripts.cmd("EVALSHA").arg(&sha).arg(1).arg(key);
    }
    assert_eq!(scripts.query_async::<Vec<u32>>(con).await.unwrap(), [1; 4]);

    let watched =
        redis::aio::transaction_async(con.clone(), &["{w}k"], async |mut con, mut pipe| {
            let before: Option<u32> = con.get("{w}k").await?;
            pipe.set("{w}k", before.unwrap_or(0) + 1)
                .ignore()
                .get("{w}k")
                .query_async(&mut con)
                .await
        });
    let after: Option<(u32,)> = watched.await.map(Some).unwrap();
    assert_eq!(after, Some((1,)));

    let () = con.rpush("list", "it").await.unwrap();
    let popped: (String, String) = con.blpop("list", 1.0).await.unwrap();
    assert_eq!(popped.1, "it");

    let mut pubsub = con.client().get_async_pubsub().await.unwrap();
    pubsub.subscribe("news").await.unwrap();
    let () = con.publish("news", "here").await.unwrap();
    let mut messages = pubsub.on_message();
    let message = timeout(SOON, messages.next()).await.unwrap().unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "here");

    assert_eq!(con.del::<_, u32>(&keys).await.unwrap(), 100);
    let () = redis::cmd("FLUSHALL").query_async(con).await.unwrap();
    let size: u32 = redis::cmd("DBSIZE").query_async(con).await.unwrap();
    assert_eq!(size, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_on_a_server_works_on_a_cluster() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let server = RedisServer::start().await;
        for url in [
            cluster.url(),
            format!("{}?protocol=resp3", cluster.url()),
            server.url(),
        ] {
            let client = client_of(&url).await;
            everything_works(&mut client.connection()).await;
            client.close().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_cannot_do_is_refused_and_nothing_is_done() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let client = client_of(&cluster.url()).await;
        let mut con = client.connection();
        let mut keys = Vec::new();
        for node in 0..3 {
            keys.push(cluster.key_of(node, "key").await);
        }
        let mut crossing = redis::pipe();
        crossing.atomic().set(&keys[0], 1).set(&keys[1], 1);
        let crossed: RedisResult<()> = crossing.query_async(&mut con).await;
        assert!(crossed.unwrap_err().to_string().contains("several slots"));
        let renamed: RedisResult<()> = con.rename(&keys[0], &keys[1]).await;
        assert_eq!(renamed.unwrap_err().code(), Some("CROSSSLOT"));
        // Watched on two nodes, a key could be touched on the one that executes nothing.
        let watched: RedisResult<()> = redis::cmd("WATCH").arg(&keys).query_async(&mut con).await;
        assert_eq!(watched.unwrap_err().code(), Some("CROSSSLOT"));
        assert_eq!(con.exists::<_, u32>(&keys).await.unwrap(), 0);

        let () = redis::cmd("WATCH")
            .arg(&keys[0])
            .query_async(&mut con)
            .await
            .unwrap();
        let too = redis::cmd("WATCH")
            .arg(&keys[1])
            .query_async::<()>(&mut con)
            .await;
        assert_eq!(too.unwrap_err().code(), Some("CROSSSLOT"));
        let mut elsewhere = redis::pipe();
        elsewhere.atomic().set(&keys[1], 1);
        let crossed: RedisResult<()> = elsewhere.query_async(&mut con).await;
        assert!(crossed.is_err(), "{crossed:?}");
        assert_eq!(con.exists::<_, u32>(&keys).await.unwrap(), 0);

        let plain = RedisServer::start().await;
        let url = format!("redis-cluster://{}", plain.addr());
        let refused = builder().url(url, 1.0).connect().await.unwrap_err();
        assert!(refused.to_string().contains("node 127.0.0.1"), "{refused}");
    })
    .await;
}

/// Counts up a key until told to stop; how often it was told that it had.
struct Counting {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Counting {
    fn start(client: &MultiDbClient<Redis>, key: String) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut con = client.connection();
        let task = tokio::spawn({
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            async move {
                let mut errors = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match con.incr::<_, _, u64>(&key, 1).await {
                        Ok(_) => _ = acknowledged.fetch_add(1, Ordering::Relaxed),
                        Err(error) => errors.push(error.to_string()),
                    }
                }
                errors
            }
        });
        Self {
            stop,
            acknowledged,
            task,
        }
    }

    async fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let errors = self.task.await.unwrap();
        (self.acknowledged.load(Ordering::Relaxed), errors)
    }

    async fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually(SOON, "it is counted on", async || {
            self.acknowledged.load(Ordering::Relaxed) > before + 20
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_under_load_costs_no_error_and_no_count() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let client = client_of(&cluster.url()).await;
        let key = cluster.key_of(0, "counter").await;
        let slot: u16 = cluster.nodes[0].cmd(&["CLUSTER", "KEYSLOT", &key]).await;
        let slot = slot.to_string();
        let counting = Counting::start(&client, key.clone());
        counting.goes_on().await;
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let (from_id, to_id) = (cluster.id(from).await, cluster.id(to).await);
            let (source, target) = (&cluster.nodes[from], &cluster.nodes[to]);
            let () = target
                .cmd(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id])
                .await;
            let () = source
                .cmd(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id])
                .await;
            counting.goes_on().await;
            let port = target.addr().port().to_string();
            let migrate = ["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"];
            let () = source.cmd(&migrate).await;
            // The key is there, the slot is not: whoever asks is sent over for this once.
            counting.goes_on().await;
            for node in [target, source] {
                let () = node
                    .cmd(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id])
                    .await;
            }
            counting.goes_on().await;
        }
        let (acknowledged, errors) = counting.stop().await;
        assert_eq!(errors, [""; 0]);
        let counted: u64 = client.connection().get(&key).await.unwrap();
        assert_eq!(counted, acknowledged);
        assert_eq!(client.snapshot().generation, 1);
    })
    .await;
}

/// Some keys have left with their slot and some have not; neither node can serve both.
#[tokio::test(flavor = "multi_thread")]
async fn what_needs_keys_that_are_on_their_way_waits_until_they_have_arrived() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let tag = cluster.key_of(0, "tag").await;
        let [one, two] = ["one", "two"].map(|name| format!("{{{tag}}}{name}"));
        let mut con = client.connection();
        let () = con.mset(&[(&one, 1), (&two, 2)]).await.unwrap();
        let slot: u16 = cluster.nodes[0].cmd(&["CLUSTER", "KEYSLOT", &one]).await;
        let slot = slot.to_string();
        let (from, to) = (cluster.id(0).await, cluster.id(1).await);
        let (source, target) = (&cluster.nodes[0], &cluster.nodes[1]);
        let () = target
            .cmd(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from])
            .await;
        let () = source
            .cmd(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to])
            .await;
        let port = target.addr().port().to_string();
        let () = source
            .cmd(&["MIGRATE", "127.0.0.1", &port, &one, "0", "5000"])
            .await;

        let (mut piped, mut atomic) = (redis::pipe(), redis::pipe());
        piped.mget(&[&one, &two]);
        atomic.atomic().incr(&one, 0).incr(&two, 0);
        let calls = async {
            let (mut a, mut b, mut c) = (con.clone(), con.clone(), con.clone());
            tokio::join!(
                async { a.mget::<_, (u32, u32)>(&[&one, &two]).await },
                async { piped.query_async::<((u32, u32),)>(&mut b).await },
                async { atomic.query_async::<(u32, u32)>(&mut c).await },
            )
        };
        let moving = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let () = source
                .cmd(&["MIGRATE", "127.0.0.1", &port, &two, "0", "5000"])
                .await;
            for node in [target, source] {
                let () = node.cmd(&["CLUSTER", "SETSLOT", &slot, "NODE", &to]).await;
            }
        };
        let ((single, in_pipeline, in_transaction), ()) = tokio::join!(calls, moving);
        assert_eq!(single.unwrap(), (1, 2));
        assert_eq!(in_pipeline.unwrap(), ((1, 2),));
        assert_eq!(in_transaction.unwrap(), (1, 2));
        assert_eq!(client.snapshot().generation, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_over_in_order_is_followed_and_the_database_not_left() {
    bounded(async {
        let cluster = RedisCluster::start(3, true).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let key = cluster.key_of(1, "counter").await;
        let counting = Counting::start(&client, key.clone());
        counting.goes_on().await;
        let script = redis::Script::new("return ARGV[1]");
        let mut con = client.connection();
        let sha: String = script.prepare_invoke().load_async(&mut con).await.unwrap();
        let mut scripted = redis::pipe();
        scripted.cmd("EVALSHA").arg(&sha).arg(1).arg(&key).arg("a");
        let ran = scripted.query_async::<(String,)>(&mut con).await;
        assert_eq!(ran.unwrap().0, "a");
        let replica = &cluster.nodes[4];
        let () = replica.cmd(&["CLUSTER", "FAILOVER"]).await;
        eventually(SOON, "the replica has taken over", async || {
            let role: Vec<Value> = replica.cmd(&["ROLE"]).await;
            role[0] == Value::BulkString(b"master".to_vec())
        })
        .await;
        counting.goes_on().await;
        // Scripts are not replicated: who takes over has none of them.
        let ran = scripted.query_async::<(String,)>(&mut con).await;
        assert_eq!(ran.unwrap().0, "a");
        let (acknowledged, errors) = counting.stop().await;
        assert_eq!(errors, [""; 0]);
        let counted: u64 = replica.cmd(&["GET", &key]).await;
        assert_eq!(counted, acknowledged);
        assert_eq!(
            client.snapshot().generation,
            1,
            "another database was chosen"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_is_a_database_that_is_left_at_once_and_returned_to() {
    bounded(async {
        let mut cluster = RedisCluster::start(3, true).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        // Of another node than the one that dies: an incomplete cluster is none.
        let key = cluster.key_of(0, "counter").await;
        let counting = Counting::start(&client, key.clone());
        counting.goes_on().await;
        cluster.nodes[1].kill();
        let killed = Instant::now();
        eventually(SOON, "the other one serves", async || {
            client.active().is_some_and(|active| active == *"other")
        })
        .await;
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{:?}",
            killed.elapsed()
        );
        counting.goes_on().await;
        let (acknowledged, errors) = counting.stop().await;
        // One at most was under way.
        assert!(errors.len() <= 1, "{errors:?}");
        let counted: u64 = other.cmd(&["GET", &key]).await;
        let before: u64 = cluster.nodes[0].cmd(&["GET", &key]).await;
        let unknown = errors.len() as u64;
        let sum = counted + before;
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&sum),
            "{sum} {acknowledged}"
        );

        eventually(SOON * 2, "the cluster has healed itself", async || {
            client.switch_to("cluster").await.is_ok()
        })
        .await;
        let lost = cluster.key_of(1, "healed").await;
        let () = client.connection().set(&lost, 1).await.unwrap();
        assert!(cluster.nodes[4].cmd::<bool>(&["EXISTS", &lost]).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_lost_is_a_reservation_for_those_who_ask() {
    bounded(async {
        let mut cluster = RedisCluster::start(3, true).await;
        let mut config = Config::default();
        config.health.interval = Duration::from_millis(200);
        let client = builder()
            .config(config)
            .database(database("cluster", &cluster.url(), 1.0))
            .health_check(EveryNode)
            .connect()
            .await
            .unwrap();
        assert_eq!(client.snapshot().members[0].verdict, Some(Verdict::Healthy));
        cluster.nodes[4].kill();
        let degraded = client.wait_for(|now| {
            let verdict = &now.members[0].verdict;
            matches!(verdict, Some(Verdict::Degraded(fault)) if fault.what == "1 node is failing")
        });
        timeout(SOON, degraded).await.unwrap().unwrap();
        let key = cluster.key_of(1, "key").await;
        let () = client.connection().set(&key, 1).await.unwrap();
        assert_eq!(client.snapshot().generation, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_hangs_is_left_within_the_tolerance_and_nobody_waits_past_the_deadline() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let key = cluster.key_of(2, "counter").await;
        let mut con = client.connection();
        let () = con.set(&key, 1).await.unwrap();
        cluster.nodes[2].stop().await;
        let stopped = Instant::now();
        let read: RedisResult<Option<u32>> = con.get(&key).await;
        assert_eq!(read.unwrap(), None, "it was not read elsewhere");
        assert!(
            stopped.elapsed() < Duration::from_secs(1),
            "{:?}",
            stopped.elapsed()
        );
        let written: RedisResult<()> = con.set(&key, 2).await;
        written.unwrap_or_else(|error| panic!("{:?}", from_redis(&error)));
        assert_eq!(client.active().unwrap(), *"other");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_hangs_beside_others_that_are_busy_is_found_out_by_its_callers() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let busy = Counting::start(&client, cluster.key_of(0, "counter").await);
        let key = cluster.key_of(2, "key").await;
        let mut con = client.connection();
        let () = con.set(&key, 1).await.unwrap();
        busy.goes_on().await;
        cluster.nodes[2].stop().await;
        let stopped = Instant::now();
        let written: RedisResult<()> = con.set(&key, 2).await;
        assert!(written.is_err(), "it was answered by a node that hangs");
        eventually(SOON, "the other one serves", async || {
            client.active().is_some_and(|active| active == *"other")
        })
        .await;
        // A call without a reply has every primary asked.
        assert!(
            stopped.elapsed() < Duration::from_secs(3),
            "{:?}",
            stopped.elapsed()
        );
        busy.goes_on().await;
        busy.stop().await;
    })
    .await;
}
