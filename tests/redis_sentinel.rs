//! A database behind sentinels, with real servers: its master is found, followed and never mistaken.

mod support;

use std::time::Duration;

use multidb::engine::backend::{Backend, Purpose, Wiring};
use multidb::redis::{Redis, RedisEndpoint, TcpConnector, from_redis};
use multidb::{Builder, Database, ErrorKind, FaultKind, MultiDbClient};
use redis::AsyncCommands;
use tokio::time::{Instant, timeout};

use support::eventually;
use support::redis_server::{MASTER, RedisServer};

const LIMIT: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_secs(5);

/// A master, a replica of it that is up to date, and a sentinel that knows both.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinel: RedisServer,
}

impl Watched {
    async fn start() -> Self {
        let quick = || RedisServer::builder().config("repl-diskless-sync-delay", "0");
        let master = quick().start().await;
        let replica = replica_of(&master).await;
        let watching = RedisServer::builder().sentinel_of(master.addr());
        let watched = Self {
            sentinel: watching.start().await,
            master,
            replica,
        };
        eventually(SOON * 3, "the sentinel knows the replica", async || {
            let known: Vec<redis::Value> = (watched.sentinel)
                .cmd(&["SENTINEL", "REPLICAS", MASTER])
                .await;
            known.len() == 1
        })
        .await;
        watched
    }

    /// `redis-sentinel://…#main`, with these sentinels before the real one.
    fn url(&self, before: &[String]) -> String {
        let mut hosts = before.to_vec();
        hosts.push(self.sentinel.addr().to_string());
        format!("redis-sentinel://{}#{MASTER}", hosts.join(","))
    }
}

async fn replica_of(master: &RedisServer) -> RedisServer {
    let address = format!("{} {}", master.addr().ip(), master.addr().port());
    let replica = RedisServer::builder()
        .config("replicaof", &address)
        .config("repl-diskless-load", "swapdb")
        .start()
        .await;
    eventually(SOON * 3, "the replica is up to date", async || {
        let info: String = replica.cmd(&["INFO", "replication"]).await;
        info.contains("master_link_status:up")
    })
    .await;
    replica
}

fn database(name: &str, url: &str, weight: f64) -> Database<RedisEndpoint> {
    let endpoint = RedisEndpoint::parse(url).unwrap();
    Database::new(name, endpoint)
        .unwrap()
        .weight(weight)
        .unwrap()
}

fn builder() -> Builder<Redis> {
    MultiDbClient::builder()
}

async fn bounded(test: impl Future<Output = ()>) {
    timeout(LIMIT, test).await.expect("the test hangs");
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_promotion_is_followed_at_once_and_the_database_not_left_for_it() {
    bounded(async {
        let watched = Watched::start().await;
        let other = RedisServer::start().await;
        let client = builder()
            .database(database("watched", &watched.url(&[]), 1.0))
            .database(database("other", &other.url(), 0.5))
            .connect()
            .await
            .unwrap();
        let mut con = client.connection();
        let (): () = con.set("before", 1).await.unwrap();
        assert!(watched.master.cmd::<bool>(&["EXISTS", "before"]).await);

        // Not before the sentinel has asked the replica how it is.
        eventually(SOON, "the sentinel promotes the replica", async || {
            let order = ["SENTINEL", "FAILOVER", MASTER];
            watched.sentinel.try_cmd::<()>(&order).await.is_ok()
        })
        .await;
        // The old master goes on taking writes for seconds after the sentinels have moved on.
        eventually(SOON * 2, "the sentinel has moved on", async || {
            let found: (String, u16) = (watched.sentinel)
                .cmd(&["SENTINEL", "get-master-addr-by-name", MASTER])
                .await;
            found.1 == watched.replica.addr().port()
        })
        .await;
        let moved = Instant::now();
        eventually(SOON, "writes reach the new master", async || {
            // One may be under way when its connection is left.
            if let Err(error) = con.set::<_, _, ()>("after", 1).await {
                let ours = from_redis(&error).expect("an error of ours");
                assert!(
                    matches!(ours.kind(), ErrorKind::OutcomeUnknown(_)),
                    "{ours}"
                );
            }
            watched.replica.cmd::<bool>(&["EXISTS", "after"]).await
        })
        .await;
        assert!(
            moved.elapsed() < Duration::from_secs(1),
            "{:?}",
            moved.elapsed()
        );
        assert_eq!(
            client.snapshot().generation,
            1,
            "another database was chosen"
        );
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_killed_is_left_at_once_and_its_successor_returned_to() {
    bounded(async {
        let mut watched = Watched::start().await;
        let other = RedisServer::start().await;
        let url = watched.url(&[]);
        let client = builder()
            .database(database("watched", &url, 1.0).grace_period(Duration::from_secs(1)))
            .database(database("other", &other.url(), 0.5))
            .connect()
            .await
            .unwrap();
        let mut con = client.connection();
        let (): () = con.set("before", 1).await.unwrap();
        watched.master.kill();
        let killed = Instant::now();
        let (): () = con.set("during", 1).await.unwrap();
        assert!(
            killed.elapsed() < Duration::from_secs(1),
            "{:?}",
            killed.elapsed()
        );
        assert!(other.cmd::<bool>(&["EXISTS", "during"]).await);
        // The sentinel promotes the replica meanwhile, and the database is well again.
        eventually(SOON * 4, "the successor can be switched to", async || {
            client.switch_to("watched").await.is_ok()
        })
        .await;
        let (): () = con.set("after", 1).await.unwrap();
        assert!(watched.replica.cmd::<bool>(&["EXISTS", "after"]).await);
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_are_dead_that_hang_or_that_err_keep_nobody_waiting() {
    bounded(async {
        let watched = Watched::start().await;
        let mut dead = RedisServer::start().await;
        dead.kill();
        let hangs = RedisServer::start().await;
        hangs.stop().await;
        // It has slept through a failover: what it names is a replica.
        let errs = RedisServer::builder().sentinel_of(watched.replica.addr());
        let errs = errs.start().await;
        // No sentinel at all, and so does not know the command.
        let plain = RedisServer::start().await;
        let before = [&dead, &hangs, &errs, &plain].map(|server| server.addr().to_string());
        let asked = Instant::now();
        let client = builder()
            .url(watched.url(&before), 1.0)
            .connect()
            .await
            .unwrap();
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "{:?}",
            asked.elapsed()
        );
        let mut con = client.connection();
        let (): () = con.set("here", 1).await.unwrap();
        assert!(watched.master.cmd::<bool>(&["EXISTS", "here"]).await);
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_find_the_master_too() {
    bounded(async {
        let watched = Watched::start().await;
        let client = builder()
            .url(watched.url(&[]), 1.0)
            .connect()
            .await
            .unwrap();
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub.subscribe("news").await.unwrap();
        let heard: u32 = watched.master.cmd(&["PUBLISH", "news", "here"]).await;
        assert_eq!(heard, 1);
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_master_from_being_found_is_said() {
    bounded(async {
        const SECRET: &str = "canary-77e1";
        let master = RedisServer::builder().password("master's").start().await;
        let guarded = RedisServer::builder()
            .sentinel_of(master.addr())
            .password(SECRET)
            .start()
            .await;
        let mut dead = RedisServer::start().await;
        dead.kill();
        let connected = async |endpoint: RedisEndpoint| {
            let wiring = Wiring::new(Purpose::Traffic, SOON);
            let database = Database::new("it", endpoint).unwrap();
            let backend = Redis::new(TcpConnector::default());
            backend.connect(&database, wiring).await.map(drop)
        };
        let endpoint = |at: &RedisServer, master: &str| {
            let url = format!("redis-sentinel://:master's@{}#{master}", at.addr());
            RedisEndpoint::parse(&url).unwrap()
        };
        let with = |endpoint: RedisEndpoint, password| {
            let endpoint = endpoint.sentinel_credentials(None, password).unwrap();
            assert!(!format!("{endpoint:?}").contains(password), "{endpoint:?}");
            endpoint
        };

        connected(with(endpoint(&guarded, MASTER), SECRET))
            .await
            .unwrap();
        let refused = connected(endpoint(&guarded, MASTER)).await.unwrap_err();
        assert_eq!(refused.kind, FaultKind::Denied, "{refused}");
        let wrong = connected(with(endpoint(&guarded, MASTER), "wrong")).await;
        assert_eq!(wrong.unwrap_err().kind, FaultKind::Denied);
        let unknown = connected(with(endpoint(&guarded, "nobody"), SECRET)).await;
        let unknown = unknown.unwrap_err();
        assert_eq!(unknown.kind, FaultKind::Unreachable);
        assert_eq!(unknown.what, "a sentinel does not know the master");
        let dead = connected(endpoint(&dead, MASTER)).await.unwrap_err();
        assert_eq!(dead.kind, FaultKind::Unreachable, "{dead}");
    })
    .await;
}
