//! The two connections that are compared, and what they are made to do.

use multidb::{MultiDbClient, MultiDbConnection};
use redis::AsyncCommands;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use tokio::task::JoinSet;

use crate::support::redis_server::RedisServer;

/// What one request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One value of so many bytes.
    Value(usize),
    /// So many values of 64 bytes in one pipeline.
    Pipeline(usize),
}

pub(crate) async fn fill(server: &RedisServer) {
    for bytes in [SMALL, 1024, 65_536] {
        let value = "x".repeat(bytes);
        server.cmd::<()>(&["SET", &key(bytes), &value]).await;
    }
}

pub(crate) const SMALL: usize = 64;

pub(crate) fn key(bytes: usize) -> String {
    format!("hot:{bytes}")
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

/// Runs `requests` in all, shared evenly by so many tasks.
pub(crate) async fn drive<C>(con: &C, shape: Shape, habit: Habit, tasks: usize, requests: usize)
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let each = requests / tasks;
    if tasks == 1 {
        return work(con.clone(), shape, habit, each).await;
    }
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        running.spawn(work(con.clone(), shape, habit, each));
    }
    while let Some(done) = running.join_next().await {
        done.expect("a task without a panic");
    }
}

async fn work<C>(mut con: C, shape: Shape, habit: Habit, requests: usize)
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let bytes = match shape {
        Shape::Value(bytes) => bytes,
        Shape::Pipeline(_) => SMALL,
    };
    let key = key(bytes);
    let mut pipeline = redis::pipe();
    if let Shape::Pipeline(commands) = shape {
        for _ in 0..commands {
            pipeline.get(&key);
        }
    }
    for _ in 0..requests {
        match shape {
            Shape::Value(_) => {
                let reply: redis::RedisResult<Vec<u8>> = match habit {
                    Habit::Keep => con.get(&key).await,
                    Habit::ClonePerCommand => con.clone().get(&key).await,
                };
                assert_eq!(reply.expect("a reply").len(), bytes);
            }
            Shape::Pipeline(commands) => {
                let replies: redis::RedisResult<Vec<Vec<u8>>> =
                    pipeline.query_async(&mut con).await;
                assert_eq!(replies.expect("replies").len(), commands);
            }
        }
    }
}
