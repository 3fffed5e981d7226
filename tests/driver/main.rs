//! The shipped Redis driver over transports in memory, on a paused clock: every loss at every point.

mod cancel;
mod fence;
mod losses;
mod peer;
mod replies;
mod timing;
mod wire;

use std::time::Duration;

use multidb::engine::builder::Builder;
use multidb::redis::{Redis, from_redis};
use multidb::testing::server::Server;
use multidb::{Error, Event, Events, MultiDbClient, MultiDbConnection};
use redis::{FromRedisValue, RedisError, RedisResult, cmd};
use wire::{Line, Network};

/// Two servers in memory and the lines to them; the first is wanted more.
struct Rig {
    client: MultiDbClient<Redis>,
    east: Server,
    west: Server,
    to_east: Line,
    to_west: Line,
}

fn builder(network: &Network) -> Builder<Redis> {
    let builder = MultiDbClient::builder().connector(network.clone());
    builder.sweep_in_task().seed(1)
}

async fn rig() -> Rig {
    rig_with(|builder| builder).await
}

async fn rig_with(change: impl FnOnce(Builder<Redis>) -> Builder<Redis>) -> Rig {
    let (east, west) = (Server::in_memory(), Server::in_memory());
    let network = Network::default();
    let to_east = network.server("east", &east);
    let to_west = network.server("west", &west);
    let client = change(builder(&network))
        .url("redis://east", 1.0)
        .url("redis://west", 0.5);
    let client = serving(client).await;
    Rig {
        client,
        east,
        west,
        to_east,
        to_west,
    }
}

/// A client whose members have all been looked at.
async fn serving(builder: Builder<Redis>) -> MultiDbClient<Redis> {
    let client = builder.connect().await.unwrap();
    let all = client.wait_for(|s| s.members.iter().all(|m| m.verdict.is_some()));
    all.await.unwrap();
    tokio::time::sleep(ms(1)).await;
    client
}

async fn ask<T: FromRedisValue>(con: &mut MultiDbConnection, words: &[&str]) -> RedisResult<T> {
    let mut command = cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query_async(con).await
}

/// Our error inside the driver's.
fn ours(error: &RedisError) -> Error {
    from_redis(error).unwrap_or_else(|| panic!("not ours: {error:?}"))
}

fn active(client: &MultiDbClient<Redis>) -> String {
    client
        .active()
        .map_or_else(String::new, |id| id.to_string())
}

async fn drain(events: &mut Events) -> Vec<Event> {
    let mut all = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(ms(1), events.next()).await {
        all.push(event);
    }
    all
}

fn switches(events: &[Event]) -> usize {
    let switch = |event: &&Event| matches!(event, Event::ActiveChanged { .. });
    events.iter().filter(switch).count()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
