//! The lag-aware check against a server in the place of a cluster's REST API: what is asked, what follows
//! from the answers, and that nothing else does. Everything on loopback.

mod client;
mod looks;
mod stand_in;
#[path = "../support/mod.rs"]
mod support;
mod trust;

use std::time::Duration;

use multidb::engine::backend::{Backend, Purpose, Wiring};
use multidb::redis::{
    LagAware, LagAwareBuilder, Redis, RedisEndpoint, RedisHandle, TcpConnector, TlsConfig,
};
use multidb::testing::server::Server;
use multidb::{Database, FaultKind, HealthCheck, Verdict};
use tokio::time::timeout;

use stand_in::{Ca, StandIn, availability, list};

/// How long the slowest honest step may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A cluster with one database, which is well, and a check that asks it.
struct Scene {
    ca: Ca,
    api: StandIn,
    eyes: Eyes,
}

/// A check is given a connection to the database; ours has no use for it.
struct Eyes {
    _server: Server,
    handle: RedisHandle,
}

impl Scene {
    async fn new() -> Self {
        let ca = Ca::new("cluster");
        let api = StandIn::start(&ca).await;
        api.answers(
            stand_in::LIST,
            list(&[(7, "db.example", "127.0.0.1", 12000)]),
        );
        api.answers(availability(7), stand_in::Reply::Status(200, String::new()));
        Self {
            ca,
            api,
            eyes: Eyes::new().await,
        }
    }

    /// A check that trusts the API and finds it at the host of the database.
    fn check(&self) -> LagAwareBuilder {
        trusting(self.ca.trusted()).port(self.api.port())
    }

    /// One look by a check of its own.
    async fn look(&self, check: LagAwareBuilder) -> Verdict {
        self.eyes.look(&check.build().unwrap(), &here()).await
    }
}

impl Eyes {
    async fn new() -> Self {
        let server = Server::start().await.unwrap();
        let endpoint = RedisEndpoint::parse(&server.url()).unwrap();
        let wiring = Wiring::new(Purpose::Probe, LIMIT);
        let redis = Redis::new(TcpConnector::default());
        let database = Database::new("eyes", endpoint).unwrap();
        let handle = redis.connect(&database, wiring);
        Self {
            handle: handle.await.unwrap(),
            _server: server,
        }
    }

    async fn look(&self, check: &LagAware, database: &Database<RedisEndpoint>) -> Verdict {
        let looked = timeout(LIMIT, check.check(database, &self.handle)).await;
        looked.expect("a look that hangs")
    }
}

fn trusting(tls: TlsConfig) -> LagAwareBuilder {
    LagAware::builder().tls(tls).timeout(LIMIT / 2)
}

fn database(id: &str, url: &str) -> Database<RedisEndpoint> {
    Database::new(id, RedisEndpoint::parse(url).unwrap()).unwrap()
}

/// The database of the cluster, at the host of the API.
fn here() -> Database<RedisEndpoint> {
    database("east", "redis://127.0.0.1:12000")
}

/// Why it is degraded, without the words that say who is asked.
#[track_caller]
fn degraded(verdict: Verdict) -> (FaultKind, String) {
    let Verdict::Degraded(fault) = verdict else {
        panic!("{verdict:?}");
    };
    let what = fault.what.strip_prefix("REST API: ");
    (fault.kind, what.expect("who is asked").to_owned())
}

#[track_caller]
fn is_degraded(verdict: Verdict, kind: FaultKind, what: &str) {
    assert_eq!(degraded(verdict), (kind, what.to_owned()));
}
