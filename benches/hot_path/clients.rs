//! The two connections that are compared, and what they are made to do.

use multidb::{MultiDbClient, MultiDbConnection};
use redis::AsyncCommands;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use tokio::task::JoinSet;

use crate::support::redis_server::RedisServer;

/// What every command asks for: 64 bytes.
pub(crate) const KEY: &str = "hot";

pub(crate) async fn fill(server: &RedisServer) {
    let value = "x".repeat(64);
    server.cmd::<()>(&["SET", KEY, &value]).await;
}

/// As `redis::Client` makes it by default.
pub(crate) async fn bare(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).expect("a URL of ours");
    let con = client.get_multiplexed_async_connection().await;
    con.expect("a connection to a server of ours")
}

/// As the builder makes it by default, over one database: a standby costs no command anything.
pub(crate) async fn ours(url: &str) -> MultiDbConnection {
    let client = MultiDbClient::builder().url(url, 1.0).connect().await;
    client.expect("a client of a server of ours").connection()
}

/// How a task uses its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Every task keeps a clone of its own.
    Keep,
    /// A new clone for every command, as a handler of requests does.
    ClonePerCommand,
}

/// Runs `commands` in all, shared evenly by so many tasks.
pub(crate) async fn drive<C>(con: &C, habit: Habit, tasks: usize, commands: usize)
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let each = commands / tasks;
    if tasks == 1 {
        return work(con.clone(), habit, each).await;
    }
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        running.spawn(work(con.clone(), habit, each));
    }
    while let Some(done) = running.join_next().await {
        done.expect("a task without a panic");
    }
}

async fn work<C>(mut con: C, habit: Habit, commands: usize)
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    for _ in 0..commands {
        let reply: redis::RedisResult<Vec<u8>> = match habit {
            Habit::Keep => con.get(KEY).await,
            Habit::ClonePerCommand => con.clone().get(KEY).await,
        };
        assert_eq!(reply.expect("a reply").len(), 64);
    }
}
