//! Commands that wait on a node.

use std::time::Duration;

use multidb::ErrorKind;
use multidb::redis::{MultiDbConnection, from_redis};
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, RedisError, RedisResult};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::rig::{SOON, bounded, pair};
use crate::support::eventually;
use crate::support::redis_cluster::{RedisCluster, is_ok};
use crate::support::redis_server::RedisServer;

type Popped = RedisResult<Option<(String, String)>>;

fn pop(con: &MultiDbConnection, key: &str, seconds: f64) -> JoinHandle<Popped> {
    let (mut con, key) = (con.clone(), key.to_owned());
    tokio::spawn(async move { con.blpop(key, seconds).await })
}

async fn ended<T>(waiting: JoinHandle<T>) -> T {
    let ended = timeout(SOON, waiting).await;
    ended.expect("it waits on").unwrap()
}

fn is_unknown(error: &RedisError) -> bool {
    let ours = from_redis(error);
    ours.is_some_and(|error| matches!(error.kind(), ErrorKind::OutcomeUnknown(_)))
}

async fn blocked(server: &RedisServer, clients: usize) {
    let what = format!("{clients} clients are blocked");
    eventually(SOON, &what, async || {
        let info: String = server.cmd(&["INFO", "clients"]).await;
        info.contains(&format!("blocked_clients:{clients}\r\n"))
    })
    .await;
}

/// Naive: it goes on waiting on a node that nobody writes to any more.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_on_a_node_moves_along_with_a_planned_switch_and_back() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let mut con = client.connection();
        let mut waiting = Vec::new();
        for node in 0..3 {
            let key = cluster.key_of(node, "queue").await;
            waiting.push((pop(&con, &key, 0.0), key));
            blocked(&cluster.nodes[node], 1).await;
        }
        let stream = cluster.key_of(2, "stream").await;
        let reading = tokio::spawn({
            let (mut con, stream) = (con.clone(), stream.clone());
            async move {
                let options = StreamReadOptions::default().block(0);
                con.xread_options::<_, _, StreamReadReply>(&[stream], &["$"], &options)
                    .await
            }
        });
        blocked(&cluster.nodes[2], 2).await;
        for _ in 0..2 {
            client.switch_to("other").await.unwrap();
            blocked(&other, 4).await;
            for node in &cluster.nodes {
                blocked(node, 0).await;
            }
            client.switch_to("cluster").await.unwrap();
            blocked(&other, 0).await;
            for (node, clients) in [1, 1, 2].into_iter().enumerate() {
                blocked(&cluster.nodes[node], clients).await;
            }
        }
        client.switch_to("other").await.unwrap();
        blocked(&other, 4).await;
        for (waiting, key) in waiting {
            let () = con.rpush(&key, "job").await.unwrap();
            let popped = ended(waiting).await.unwrap();
            assert_eq!(popped, Some((key, "job".to_owned())));
        }
        let _: String = con.xadd(&stream, "*", &[("field", "it")]).await.unwrap();
        let read = ended(reading).await.unwrap();
        assert_eq!(read.keys[0].ids[0].get("field"), Some("it".to_owned()));
        client.close().await;
    })
    .await;
}

/// Naive: the node is asked that the command was sent to first.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_sent_on_to_another_node_moves_along_from_there() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let mut con = client.connection();
        let key = cluster.key_of(0, "queue").await;
        let waiting = pop(&con, &key, 0.0);
        blocked(&cluster.nodes[0], 1).await;
        cluster.hand_over(&key, 0, 1).await;
        blocked(&cluster.nodes[1], 1).await;
        client.switch_to("other").await.unwrap();
        blocked(&cluster.nodes[1], 0).await;
        blocked(&other, 1).await;
        let () = con.rpush(&key, "job").await.unwrap();
        let popped = ended(waiting).await.unwrap();
        assert_eq!(popped, Some((key, "job".to_owned())));
        client.close().await;
    })
    .await;
}

/// Naive: the wait begins anew on the next node, and its end is taken for a node's silence.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_on_waits_no_longer_for_it() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let key = cluster.key_of(0, "queue").await;
        let begun = Instant::now();
        let waiting = pop(&client.connection(), &key, 4.0);
        blocked(&cluster.nodes[0], 1).await;
        tokio::time::sleep_until(begun + Duration::from_secs(2)).await;
        cluster.hand_over(&key, 0, 1).await;
        blocked(&cluster.nodes[1], 1).await;
        assert_eq!(ended(waiting).await.unwrap(), None);
        let took = begun.elapsed();
        let expected = Duration::from_millis(3900)..Duration::from_millis(4500);
        assert!(expected.contains(&took), "{took:?}");
        client.close().await;
    })
    .await;
}

/// Naive: the command is dropped at the switch, and with it an element that was on its way; or it is run
/// on both.
#[tokio::test(flavor = "multi_thread")]
async fn an_element_pushed_at_the_moment_of_a_switch_is_never_lost() {
    const ROUNDS: usize = 30;
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let con = client.connection();
        let mut keys = Vec::new();
        for node in 0..3 {
            keys.push(cluster.key_of(node, "queue").await);
        }
        let mut delivered = 0;
        for round in 0..ROUNDS {
            let key = &keys[round % 3];
            let (here, to) = match round % 2 {
                0 => (&cluster.nodes[round % 3], "other"),
                _ => (&other, "cluster"),
            };
            let mut pusher = here.admin().await.unwrap();
            let waiting = pop(&con, key, 1.0);
            blocked(here, 1).await;
            let (pushed, switched) =
                tokio::join!(pusher.rpush::<_, _, i64>(key, round), client.switch_to(to),);
            pushed.unwrap();
            switched.unwrap();
            match ended(waiting).await.unwrap() {
                Some((_, element)) => {
                    assert_eq!(element, round.to_string());
                    assert_eq!(here.list(key).await, [""; 0], "and it is there still");
                    delivered += 1;
                }
                None => {
                    let left = here.list(key).await;
                    assert_eq!(left, [round.to_string()], "neither delivered nor there");
                    let _: () = here.cmd(&["DEL", key]).await;
                }
            }
        }
        assert!(delivered > 0, "the consumer was always too late");
        client.close().await;
    })
    .await;
}

/// Naive: a private connection ends with any node that it knows, such as the one it found the cluster by.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_node_dies_who_waits_on_another_moves_along_and_who_waits_on_it_is_told() {
    const WAITING: usize = 8;
    bounded(async {
        let mut cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let mut con = client.connection();
        let (living, dying) = (
            cluster.key_of(0, "queue").await,
            cluster.key_of(1, "queue").await,
        );
        // Each found the cluster by whichever node answered first.
        let moving: Vec<_> = (0..WAITING).map(|_| pop(&con, &living, 0.0)).collect();
        let fails = pop(&con, &dying, 0.0);
        blocked(&cluster.nodes[0], WAITING).await;
        blocked(&cluster.nodes[1], 1).await;
        cluster.nodes[1].kill();
        let error = ended(fails).await.unwrap_err();
        assert!(is_unknown(&error), "{error}");
        blocked(&other, WAITING).await;
        blocked(&cluster.nodes[0], 0).await;
        let () = con.rpush(&living, &["job"; WAITING]).await.unwrap();
        for waiting in moving {
            let popped = ended(waiting).await.unwrap();
            assert_eq!(popped, Some((living.clone(), "job".to_owned())));
        }
        client.close().await;
    })
    .await;
}

/// Naive: who cannot be released is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_on_a_node_that_hangs_is_told_and_takes_nothing_when_it_wakes_up() {
    bounded(async {
        let cluster = RedisCluster::start(3, false).await;
        let other = RedisServer::start().await;
        let client = pair(&cluster.url(), &other.url()).await;
        let key = cluster.key_of(2, "queue").await;
        let waiting = pop(&client.connection(), &key, 0.0);
        blocked(&cluster.nodes[2], 1).await;
        cluster.nodes[2].stop().await;
        client.switch_to("other").await.unwrap();
        let error = ended(waiting).await.unwrap_err();
        assert!(is_unknown(&error), "{error}");
        cluster.nodes[2].cont();
        blocked(&cluster.nodes[2], 0).await;
        eventually(SOON, "the cluster is well", async || {
            is_ok(&cluster.nodes[2]).await
        })
        .await;
        let () = cluster.nodes[2].cmd(&["RPUSH", &key, "job"]).await;
        assert_eq!(cluster.nodes[2].list(&key).await, ["job"]);
        client.close().await;
    })
    .await;
}
