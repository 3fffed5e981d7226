//! What the tests share: databases, a client with traffic, one without, and a limit on time.

use std::future::Future;
use std::time::Duration;

use multidb::redis::{Redis, RedisEndpoint, from_redis};
use multidb::testing::history::Report;
use multidb::{Builder, Database, ErrorKind, MultiDbClient, Snapshot};
use redis::AsyncCommands;
use tokio::time::{Instant, timeout};

use crate::support::eventually;
use crate::support::load::{COUNTER, Client, History, Load};
use crate::support::redis_server::RedisServer;
use crate::support::witness::Witness;

/// No test may take longer, whatever hangs.
const LIMIT: Duration = Duration::from_secs(40);
/// Time for what takes milliseconds, on a machine that is busy with something else.
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Ends a test that hangs.
pub(crate) async fn bounded(test: impl Future<Output = ()>) {
    let ended = timeout(LIMIT, test).await;
    assert!(ended.is_ok(), "the test hangs");
}

/// That of a call, which no test here changes, and what a busy machine adds.
const DEADLINE: Duration = ms(5000 + 500);

/// Databases by name and URL, the first the heaviest.
pub(crate) type Urls<'a> = &'a [(&'a str, String)];

/// A builder over these databases with all defaults.
pub(crate) fn databases(urls: Urls<'_>) -> Builder<Redis> {
    let mut builder = MultiDbClient::builder();
    for (n, (name, url)) in urls.iter().enumerate() {
        let endpoint = RedisEndpoint::parse(url).expect("a URL");
        let database = Database::new(name, endpoint).expect("a name");
        let weight = (urls.len() - n) as f64;
        builder = builder.database(database.weight(weight).expect("a weight"));
    }
    builder
}

/// A client on its heaviest database, connected to all.
pub(crate) async fn connect(builder: Builder<Redis>) -> Client {
    let client = builder.connect().await.expect("a client");
    let settled = |now: &Snapshot| {
        now.members.first().is_some_and(|heaviest| heaviest.active)
            && now.members.iter().all(|member| member.connected)
    };
    let settled = timeout(SOON, client.wait_for(settled)).await;
    settled.expect("all are up").expect("an open client");
    client
}

/// A client with traffic and one without, of the same databases, and who watches them.
pub(crate) struct Scene {
    pub(crate) busy: Witness,
    pub(crate) idle: Witness,
    pub(crate) load: Load,
}

/// How a [`Scene`] came out.
pub(crate) struct Ending {
    pub(crate) history: History,
    pub(crate) busy: Witness,
    pub(crate) idle: Witness,
}

impl Scene {
    /// The idle client looks twice a second instead of every five seconds, so that a test need not
    /// wait for it: nothing but its rounds tells it of a hang. All else is as `tune` leaves it.
    pub(crate) async fn start(
        urls: Urls<'_>,
        tune: impl Fn(Builder<Redis>) -> Builder<Redis>,
    ) -> Self {
        let busy = connect(tune(databases(urls))).await;
        let idle = connect(tune(databases(urls)).health_interval(ms(500))).await;
        Self::of(&busy, &idle, 4).await
    }

    /// Two clients and so many tasks that send calls through the first of them.
    pub(crate) async fn of(busy: &Client, idle: &Client, tasks: usize) -> Self {
        let scene = Self {
            busy: Witness::of(busy),
            idle: Witness::of(idle),
            load: Load::start(busy, tasks),
        };
        scene.load.flows(SOON).await;
        scene
    }

    /// Both clients come to serve from this database, and calls succeed there.
    pub(crate) async fn moves_to(&self, to: &str, since: Instant, limit: Duration) {
        let busy = self.busy.follows(to, since, limit).await;
        let idle = self.idle.follows(to, since, limit).await;
        eprintln!("    on {to}: busy {busy:.1?}, idle {idle:.1?} after it");
        self.load.flows(SOON).await;
    }

    /// Ends the traffic and says what was seen since `from` (with `--nocapture`).
    pub(crate) async fn end(self, fault: &str, from: Instant) -> Ending {
        let history = self.load.stop().await;
        let told = history.told();
        let told: Vec<_> = told
            .iter()
            .map(|((op, said), n)| format!("{op:?} {said}: {n}"))
            .collect();
        eprintln!(
            "    {fault}: nothing succeeded for {:.0?}, slowest call {:.0?}; {}",
            history.gap(from),
            history.slowest(),
            told.join(", ")
        );
        Ending {
            history,
            busy: self.busy,
            idle: self.idle,
        }
    }
}

impl Ending {
    /// What holds whatever broke, also where a server cannot be told that a connection has ended.
    /// Nothing acknowledged is lost, nothing ran twice, no reply went to another caller; every call
    /// ended in its time; the switches are one chain, each told once; and the closed clients refuse
    /// calls. All databases must be up again, with what they had stored.
    pub(crate) async fn assert_told_right(&self, databases: &[(&str, &RedisServer)]) -> Report {
        let report = self.history.assert_nothing_lost(databases).await;
        let slowest = self.history.slowest();
        assert!(slowest <= DEADLINE, "a call took {slowest:?}");
        for witness in [&self.busy, &self.idle] {
            witness.switches();
            witness.client.close().await;
            let refused = witness
                .client
                .connection()
                .get::<_, Option<i64>>(COUNTER)
                .await;
            let refused = refused.expect_err("a call of a closed client");
            let ours = from_redis(&refused).expect("an error of ours");
            assert!(matches!(ours.kind(), ErrorKind::Closed), "{ours}");
        }
        report
    }

    /// [`assert_told_right`](Self::assert_told_right), and no server has a connection left.
    pub(crate) async fn assert_invariants(&self, databases: &[(&str, &RedisServer)]) -> Report {
        let report = self.assert_told_right(databases).await;
        for (name, server) in databases {
            eventually(
                SOON,
                &format!("no connection to {name} is left"),
                async || server.connected_clients().await == 0,
            )
            .await;
        }
        report
    }

    /// Both clients went this way, one event for each switch, and nobody but the first database, `a`,
    /// has had anything held against it.
    #[track_caller]
    pub(crate) fn assert_route(&self, route: &[&str]) {
        for witness in [&self.busy, &self.idle] {
            assert_eq!(witness.route(), route, "{witness}");
            witness.assert_only_a_blamed();
        }
    }

    /// Nobody moved, and no circuit did.
    #[track_caller]
    pub(crate) fn assert_nobody_moved(&self) {
        self.assert_route(&[]);
        for witness in [&self.busy, &self.idle] {
            witness.assert_blameless("a");
        }
    }
}

/// Two databases that keep nothing on disk.
pub(crate) async fn two() -> (RedisServer, RedisServer) {
    tokio::join!(RedisServer::start(), RedisServer::start())
}

/// A database that keeps what it acknowledged through a kill.
pub(crate) async fn durable() -> RedisServer {
    RedisServer::builder().durable().start().await
}
