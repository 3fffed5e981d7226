//! A thousand times the same, and nothing of it is left: run in release by `tests/run`, by itself.

mod support;

use std::time::Duration;

use futures_util::poll;
use multidb::redis::{Redis, RedisEndpoint};
use multidb::testing::server::Server;
use multidb::{Config, Database, MultiDbClient};
use redis::{AsyncCommands, RedisFuture};
use support::eventually;
use support::held::Held;

const OFTEN: usize = 1000;
/// Until allocators and drivers have what they keep.
const WARM_UP: usize = 200;

fn database(name: &str, server: &Server, weight: f64) -> Database<RedisEndpoint> {
    let endpoint = RedisEndpoint::parse(&server.url()).expect("a URL");
    let database = Database::new(name, endpoint).expect("a name");
    database.weight(weight).expect("a weight")
}

async fn client(east: &Server, west: &Server) -> MultiDbClient<Redis> {
    let mut config = Config::default();
    // Back as soon as it can be.
    config.circuit.grace_period = Duration::from_millis(1);
    config.circuit.max_grace_period = Duration::from_millis(1);
    let builder = MultiDbClient::builder().config(config);
    let builder = builder.database(database("east", east, 1.0));
    let client = builder.database(database("west", west, 0.5)).connect();
    client.await.expect("both serve")
}

async fn serving(client: &MultiDbClient<Redis>, name: &str) {
    let there = client.wait_for(|now| {
        now.active.as_ref().is_some_and(|id| *id == *name)
            && now
                .members
                .iter()
                .all(|m| m.connected && m.obstacles.is_empty())
    });
    let there = tokio::time::timeout(Duration::from_secs(20), there).await;
    there
        .unwrap_or_else(|_| panic!("not on {name}:\n{}", client.explain()))
        .expect("open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_failovers_leave_nothing_behind() {
    let (east, west) = (
        Server::start().await.unwrap(),
        Server::start().await.unwrap(),
    );
    let client = client(&east, &west).await;
    // Whatever was under way when the server died may be done once more: it is the same.
    let mut con = client.connection().assume_idempotent();
    let mut before = None;
    for round in 0..WARM_UP + OFTEN {
        serving(&client, "east").await;
        if round == WARM_UP {
            before = Some(Held::at_rest().await);
        }
        let generation = client.snapshot().generation;
        east.kill();
        let () = con.set("k", round).await.expect("served elsewhere");
        assert_eq!(west.storage().counter("k"), Some(round as i64));
        east.revive().await.expect("its port");
        serving(&client, "east").await;
        assert_eq!(
            client.snapshot().generation,
            generation + 2,
            "there and back"
        );
    }
    Held::is_no_more_than(before.expect("warm"), "a thousand failovers").await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_members_come_and_go_and_leave_nothing_behind() {
    let servers = [
        Server::start().await.unwrap(),
        Server::start().await.unwrap(),
        Server::start().await.unwrap(),
    ];
    let [east, west, guest] = &servers;
    let client = client(east, west).await;
    let mut con = client.connection();
    let mut before = None;
    for round in 0..WARM_UP + OFTEN {
        if round == WARM_UP {
            serving(&client, "east").await;
            before = Some(Held::at_rest().await);
        }
        let name = format!("guest-{round}");
        // Every other one is preferred, and takes the traffic for as long as it is there.
        let weight = if round % 2 == 0 { 2.0 } else { 0.1 };
        let joined = client.add_verified(database(&name, guest, weight)).await;
        joined.expect("it answers");
        let () = con.set("k", round).await.expect("served");
        client.remove(&name).await.expect("a member");
    }
    serving(&client, "east").await;
    assert_eq!(client.snapshot().members.len(), 2);
    Held::is_no_more_than(before.expect("warm"), "a thousand members").await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_leave_nothing_behind() {
    let (east, west) = (
        Server::start().await.unwrap(),
        Server::start().await.unwrap(),
    );
    let mut before = None;
    for round in 0..WARM_UP + OFTEN {
        if round == WARM_UP {
            before = Some(Held::at_rest().await);
        }
        let client = client(&east, &west).await;
        let () = client.connection().set("k", round).await.expect("served");
        // Closing is the graceful way to end it, dropping the safe one.
        if round % 2 == 0 {
            client.close().await;
        }
    }
    Held::is_no_more_than(before.expect("warm"), "a thousand clients").await;
    let all_gone = async || east.connections() + west.connections() == 0;
    eventually(
        Duration::from_secs(10),
        "every connection has ended",
        all_gone,
    )
    .await;
}

/// What a caller gave up must never be the answer of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_calls_that_are_given_up_leave_nothing_behind() {
    const AT_ONCE: usize = 40;
    const ROUNDS: usize = 1_000_000 / AT_ONCE;
    let (east, west) = (
        Server::start().await.unwrap(),
        Server::start().await.unwrap(),
    );
    let client = client(&east, &west).await;
    let mut con = client.connection();
    let mut cons = vec![con.clone(); AT_ONCE];
    let mut before = None;
    for round in 0..ROUNDS + ROUNDS / 10 {
        if round == ROUNDS / 10 {
            before = Some(Held::at_rest().await);
        }
        let mut calls: Vec<RedisFuture<'_, usize>> = Vec::with_capacity(AT_ONCE);
        for con in &mut cons {
            let mut call = con.incr("given up", 1);
            if poll!(&mut call).is_pending() {
                calls.push(call);
            }
        }
        // Given up before they are sent, on their way, or after they are answered.
        for _ in 0..round % 20 {
            tokio::task::yield_now().await;
        }
        drop(calls);
        let own: usize = redis::cmd("ECHO")
            .arg(round)
            .query_async(&mut con)
            .await
            .expect("served");
        assert_eq!(own, round);
    }
    let idle = async || client.statistics().iter().all(|s| s.in_flight == 0);
    eventually(Duration::from_secs(10), "nothing is in flight", idle).await;
    Held::is_no_more_than(before.expect("warm"), "a million calls given up").await;
    let ran = east.storage().counter("given up").expect("a counter") as usize;
    let calls = AT_ONCE * (ROUNDS + ROUNDS / 10);
    eprintln!("{ran} of {calls} ran");
    assert!((calls / 100..calls).contains(&ran), "{ran} of {calls} ran");
    assert_eq!(west.storage().counter("given up"), None);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_leases_leave_nothing_behind() {
    const LEASES: usize = 100_000;
    let (east, west) = (
        Server::start().await.unwrap(),
        Server::start().await.unwrap(),
    );
    let client = client(&east, &west).await;
    let mut before = None;
    for n in 0..LEASES + LEASES / 10 {
        if n == LEASES / 10 {
            before = Some(Held::at_rest().await);
        }
        let lease = client.lease().await.expect("a database");
        assert_eq!(*lease.database(), *"east");
    }
    Held::is_no_more_than(before.expect("warm"), "a hundred thousand leases").await;
    client.close().await;
}
