//! Synchronous code written for redis-rs runs over many databases with nothing but the constructor
//! changed, on any thread, and the client behind it lives on between the calls.
//!
//! The servers are real. They are looked after on a runtime of the tests' own.

mod anywhere;
mod faults;
mod pools;
mod pubsub;
mod refused;
#[path = "../support/mod.rs"]
mod support;
mod transcript;
mod unchanged;

use std::sync::LazyLock;
use std::time::Duration;

use multidb::{Builder, ErrorKind, MultiDbClient, redis::Redis};
use redis::RedisError;
use tokio::runtime::Runtime;

use support::eventually;
use support::redis_server::RedisServer;

/// East, which is preferred, and west.
struct Databases {
    east: RedisServer,
    west: RedisServer,
}

impl Databases {
    /// For tests that have no runtime.
    fn start() -> Self {
        rig(Self::start_async())
    }

    async fn start_async() -> Self {
        // One write in both must survive a kill, so that it can be counted.
        let server = || RedisServer::builder().durable().start();
        let (east, west) = tokio::join!(server(), server());
        Self { east, west }
    }

    /// Returns never by itself, so that a test sees exactly the switches it causes.
    fn builder(&self) -> Builder<Redis> {
        MultiDbClient::builder()
            .url(self.east.url(), 1.0)
            .url(self.west.url(), 0.5)
            .auto_fallback(false)
    }

    fn client(&self) -> MultiDbClient<Redis> {
        let client = self.builder().connect_blocking().unwrap();
        rig(warm(&client));
        assert_eq!(client.active().unwrap(), *self.east_id());
        client
    }

    fn east_id(&self) -> String {
        self.east.addr().to_string()
    }

    fn west_id(&self) -> String {
        self.west.addr().to_string()
    }
}

/// A switch ends on what has been proven before.
async fn warm(client: &MultiDbClient<Redis>) {
    eventually(LIMIT, "both databases are connected", async || {
        client.snapshot().members.iter().all(|m| m.connected)
    })
    .await;
}

/// Polls as [`eventually`] does, for tests that have no runtime.
#[track_caller]
fn becomes(what: &str, mut condition: impl FnMut() -> bool) {
    rig(eventually(LIMIT, what, async || condition()));
}

/// Runs the tests' own errands, beside whatever the client runs on.
fn rig<F: Future>(errand: F) -> F::Output {
    static RIG: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
    RIG.block_on(errand)
}

fn kind(error: &RedisError) -> ErrorKind {
    let ours = multidb::redis::from_redis(error);
    let ours = ours.unwrap_or_else(|| panic!("not an error of ours: {error}"));
    ours.kind().clone()
}

/// How long the slowest honest step may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
