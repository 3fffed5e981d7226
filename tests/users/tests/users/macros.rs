//! redis-macros: values of one's own, as JSON.

use redis::AsyncCommands;
use redis_macros::{FromRedisValue, ToRedisArgs};
use serde::{Deserialize, Serialize};

use crate::Pair;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, FromRedisValue, ToRedisArgs)]
struct User {
    id: u32,
    name: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_go_in_and_come_out_through_a_failover() {
    let mut pair = Pair::start().await;
    let mut con = pair.client.connection();
    for name in ["Ada", "Grace"] {
        let user = User {
            id: 7,
            name: name.to_owned(),
        };
        let () = con.set("user", &user).await.expect("served");
        let back: User = con.get("user").await.expect("served");
        assert_eq!(back, user);
        pair.east.kill();
        pair.serves("west").await;
    }
    pair.client.close().await;
}
