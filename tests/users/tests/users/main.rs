//! Crates that others wrote for redis-rs, given our connection: each works, and goes on through a
//! failover between two real servers.
mod caching;
mod macros;
mod pools;
mod queue;
#[path = "../../../support/mod.rs"]
mod support;

use std::time::Duration;

use multidb::redis::{Redis, RedisEndpoint};
use multidb::{Config, Database, MultiDbClient};
use support::redis_server::RedisServer;

/// Two servers that keep what they acknowledged, and a client that prefers the first.
struct Pair {
    east: RedisServer,
    west: RedisServer,
    client: MultiDbClient<Redis>,
}

impl Pair {
    async fn start() -> Self {
        let east = RedisServer::builder().durable().start().await;
        let west = RedisServer::builder().durable().start().await;
        let mut config = Config::default();
        // Back as soon as it can be: a test does not wait for a minute.
        config.circuit.grace_period = Duration::from_millis(200);
        let named = |name, server: &RedisServer, weight| {
            let endpoint = RedisEndpoint::parse(&server.url()).expect("a URL");
            let database = Database::new(name, endpoint).expect("a name");
            database.weight(weight).expect("a weight")
        };
        let builder = MultiDbClient::builder().config(config);
        let builder = builder.database(named("east", &east, 1.0));
        let client = builder.database(named("west", &west, 0.5)).connect().await;
        let client = client.expect("both serve");
        Self { east, west, client }
    }

    /// Waits until calls go to this database.
    async fn serves(&self, name: &str) {
        let there = self.client.wait_for(|now| {
            let active = now.members.iter().find(|member| member.active);
            active.is_some_and(|m| m.id == *name && m.connected && m.obstacles.is_empty())
        });
        let there = tokio::time::timeout(Duration::from_secs(20), there).await;
        let explain = || panic!("not on {name}:\n{}", self.client.explain());
        there.unwrap_or_else(|_| explain()).expect("an open client");
    }
}
