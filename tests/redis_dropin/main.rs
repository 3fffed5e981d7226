//! Code written for redis-rs runs over many databases with nothing but the constructor changed, and
//! what belongs to one connection or one database never crosses to another unnoticed.
//!
//! The servers are real: `EVAL`, encodings and the order of replies are theirs.

mod blocking;
mod crowd;
mod declared;
mod pubsub;
mod refused;
mod scans;
mod scripts;
#[path = "../support/mod.rs"]
mod support;
mod third_party;
mod transcript;
mod unchanged;
mod watching;

use std::time::Duration;

use multidb::{Builder, ErrorKind, MultiDbClient, redis::Redis};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};

use support::eventually;
use support::redis_server::RedisServer;

/// East, which is preferred, and west.
struct Databases {
    east: RedisServer,
    west: RedisServer,
}

impl Databases {
    async fn start() -> Self {
        let (east, west) = tokio::join!(RedisServer::start(), RedisServer::start());
        Self { east, west }
    }

    /// Returns never by itself, so that a test sees exactly the switches it causes.
    fn builder(&self, protocol: Protocol) -> Builder<Redis> {
        let url = |server: &RedisServer| format!("{}{}", server.url(), protocol.query());
        MultiDbClient::builder()
            .url(url(&self.east), 1.0)
            .url(url(&self.west), 0.5)
            .auto_fallback(false)
    }

    async fn client(&self) -> MultiDbClient<Redis> {
        self.client_speaking(Protocol::Resp3).await
    }

    async fn client_speaking(&self, protocol: Protocol) -> MultiDbClient<Redis> {
        self.connected(self.builder(protocol)).await
    }

    async fn connected(&self, builder: Builder<Redis>) -> MultiDbClient<Redis> {
        let client = builder.connect().await.unwrap();
        // A switch ends on what has been proven before.
        eventually(LIMIT, "both databases are connected", async || {
            client.snapshot().members.iter().all(|m| m.connected)
        })
        .await;
        assert_eq!(client.active().unwrap(), *self.east.addr().to_string());
        client
    }

    fn east_id(&self) -> String {
        self.east.addr().to_string()
    }

    fn west_id(&self) -> String {
        self.west.addr().to_string()
    }
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Resp2,
    Resp3,
}

impl Protocol {
    fn query(self) -> &'static str {
        match self {
            Self::Resp2 => "?protocol=resp2",
            Self::Resp3 => "?protocol=resp3",
        }
    }
}

/// What redis-rs itself gives, under a time limit that a loaded machine keeps.
async fn bare(server: &RedisServer, protocol: Protocol) -> MultiplexedConnection {
    let url = format!("{}{}", server.url(), protocol.query());
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
    let client = redis::Client::open(url).unwrap();
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap()
}

async fn serving(client: &MultiDbClient<Redis>, id: &str) {
    eventually(LIMIT, "the client has moved", async || {
        client.active().is_some_and(|active| active == *id)
    })
    .await;
}

fn kind(error: &RedisError) -> ErrorKind {
    let ours = multidb::redis::from_redis(error);
    let ours = ours.unwrap_or_else(|| panic!("not an error of ours: {error}"));
    ours.kind().clone()
}

fn is_unknown(error: &RedisError) -> bool {
    matches!(kind(error), ErrorKind::OutcomeUnknown(_))
}

/// How long the slowest honest step may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
