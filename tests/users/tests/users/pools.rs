//! Pools of connections: one needs no pool of ours, but code that was written for one goes on.

use multidb::MultiDbConnection;
use multidb::redis::Redis;
use redis::{AsyncCommands, RedisError, RedisResult};

use crate::Pair;

/// What bb8-redis does for `redis::Client`.
struct Manager(multidb::MultiDbClient<Redis>);

impl bb8::ManageConnection for Manager {
    type Connection = MultiDbConnection;
    type Error = RedisError;

    async fn connect(&self) -> RedisResult<MultiDbConnection> {
        self.0.get_multiplexed_async_connection().await
    }

    async fn is_valid(&self, con: &mut MultiDbConnection) -> RedisResult<()> {
        con.ping().await
    }

    fn has_broken(&self, _: &mut MultiDbConnection) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bb8_hands_out_connections_that_survive_a_failover() {
    let mut pair = Pair::start().await;
    let pool = bb8::Pool::builder().max_size(4);
    let pool = pool
        .build(Manager(pair.client.clone()))
        .await
        .expect("a pool");
    let mut held = pool.get().await.expect("a connection");
    let () = held.set("k", "east").await.expect("served");
    pair.east.kill();
    let value: Option<String> = held.get("k").await.expect("served elsewhere");
    assert_eq!(value, None, "the west does not have it");
    drop(held);
    let mut next = pool.get().await.expect("a valid connection");
    let () = next.set("k", "west").await.expect("served");
    assert_eq!(pair.west.cmd::<String>(&["GET", "k"]).await, "west");
    pair.client.close().await;
}

#[derive(Clone)]
struct Factory(multidb::MultiDbClient<Redis>);

impl redis_pool::factory::ConnectionFactory<MultiDbConnection> for Factory {
    // What `async fn` becomes in a trait of async-trait's.
    fn create<'a: 'f, 'f>(
        &'a self,
    ) -> std::pin::Pin<Box<dyn Future<Output = RedisResult<MultiDbConnection>> + Send + 'f>>
    where
        Self: 'f,
    {
        Box::pin(self.0.get_multiplexed_async_connection())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_pool_hands_out_connections_that_survive_a_failover() {
    let mut pair = Pair::start().await;
    let pool = redis_pool::RedisPool::new(Factory(pair.client.clone()), 4, Some(4));
    let mut held = pool.acquire().await.expect("a connection");
    let () = held.set("k", "east").await.expect("served");
    pair.east.kill();
    let value: Option<String> = held.get("k").await.expect("served elsewhere");
    assert_eq!(value, None, "the west does not have it");
    drop(held);
    let mut next = pool.acquire().await.expect("a connection");
    let (n,): (i64,) = redis::pipe()
        .atomic()
        .incr("n", 1)
        .query_async(&mut next)
        .await
        .expect("served");
    assert_eq!(n, 1);
    pair.client.close().await;
}
