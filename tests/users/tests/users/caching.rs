//! sisa-caching-redis: a cache over whatever is a `ConnectionLike`.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use multidb::MultiDbConnection;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};
use sisa_caching_core::CacheStore;
use sisa_caching_redis::{RedisCacheStore, RedisConnection};

use crate::Pair;

/// Its trait must be implemented for a connection by whoever owns one of the two.
#[derive(Clone)]
struct Ours(MultiDbConnection);

impl ConnectionLike for Ours {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(cmd, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

impl RedisConnection for Ours {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_is_filled_anew_after_a_failover_and_no_caller_fails() {
    let mut pair = Pair::start().await;
    let cache = RedisCacheStore::new("app", Ours(pair.client.connection())).expect("a name");
    let loaded = AtomicUsize::new(0);
    let ask = async || {
        let load = async || {
            loaded.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>("Ada".to_owned())
        };
        cache
            .get_or_set("user", load, None)
            .await
            .expect("an answer")
    };
    for _ in 0..3 {
        assert_eq!(ask().await, "Ada");
    }
    assert_eq!(loaded.load(Ordering::Relaxed), 1, "cached");
    pair.east.kill();
    for _ in 0..3 {
        assert_eq!(ask().await, "Ada");
    }
    assert_eq!(loaded.load(Ordering::Relaxed), 2, "once more, for the west");
    pair.client.close().await;
}
