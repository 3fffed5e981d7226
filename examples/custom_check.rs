//! A health check and a strategy of your own: `cargo run --example custom_check`.

use std::error::Error;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::redis::{Redis, RedisEndpoint, RedisHandle};
use multidb::testing::server::Server;
use multidb::{
    Candidate, Database, FailoverStrategy, Fault, FaultKind, HealthCheck, MultiDbClient, Verdict,
};
use redis::{AsyncCommands, Value, cmd};

/// A database is fit unless somebody has put up the sign: a way to drain it for all clients at once.
struct NotInMaintenance;

impl HealthCheck<Redis> for NotInMaintenance {
    fn name(&self) -> &str {
        "maintenance"
    }

    fn check<'a>(
        &'a self,
        _: &'a Database<RedisEndpoint>,
        handle: &'a RedisHandle,
    ) -> BoxFuture<'a, Verdict> {
        async {
            match handle.ask(cmd("GET").arg("maintenance")).await {
                Ok(Value::Nil) => Verdict::Healthy,
                Ok(_) => Verdict::Unhealthy(Fault::new(FaultKind::Other, "in maintenance")),
                Err(fault) => Verdict::Unhealthy(fault),
            }
        }
        .boxed()
    }
}

/// Never move without need, not even back to a heavier database.
struct Stay;

impl FailoverStrategy for Stay {
    fn choose(&self, candidates: &[Candidate<'_>]) -> Option<usize> {
        let active = candidates.iter().position(|c| c.active);
        active.or(Some(0).filter(|_| !candidates.is_empty()))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (east, west) = (Server::start().await?, Server::start().await?);
    let client = MultiDbClient::builder()
        .url(east.url(), 1.0)
        .url(west.url(), 0.5)
        .health_check(NotInMaintenance)
        .health_interval(Duration::from_millis(200))
        .strategy(Stay)
        .connect()
        .await?;
    let before = client.active();
    let () = client.connection().set("maintenance", "yes").await?;
    client.wait_for(|now| now.active != before).await?;
    println!("{}", client.explain());
    client.close().await;
    Ok(())
}
