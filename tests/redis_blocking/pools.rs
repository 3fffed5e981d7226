//! The client as the manager of a pool.

use std::thread;

use redis::{AsyncTypedCommands, TypedCommands, Value, cmd, pipe};

use crate::{Databases, LIMIT, warm};

#[test]
fn an_r2d2_pool_goes_on_over_a_failover() {
    let mut databases = Databases::start();
    let client = databases.client();
    let pool = r2d2::Pool::builder()
        .max_size(4)
        .connection_timeout(LIMIT)
        .build(client.clone())
        .unwrap();
    let count = |n: usize| {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..n {
                        pool.get().unwrap().incr("n", 1).unwrap();
                    }
                });
            }
        });
        TypedCommands::get_int(&mut pool.get().unwrap(), "n").unwrap()
    };
    assert_eq!(count(20), Some(160));
    databases.east.kill();
    crate::becomes("the client has moved", || {
        client.active().is_some_and(|id| id == *databases.west_id())
    });
    assert_eq!(count(20), Some(160), "all of it there");

    multidb::blocking::wait(client.close());
    let hasty = pool.get_timeout(std::time::Duration::from_millis(100));
    assert!(hasty.is_err(), "a closed client has no connections");
}

#[test]
fn an_r2d2_pool_hands_no_watch_to_the_next_user() {
    let databases = Databases::start();
    let pool = r2d2::Pool::builder()
        .max_size(1)
        .connection_timeout(LIMIT)
        .build(databases.client())
        .unwrap();
    cmd("WATCH")
        .arg("key")
        .exec(&mut pool.get().unwrap())
        .unwrap();
    let mut con = pool.get().unwrap();
    TypedCommands::set(&mut *con, "key", 1).unwrap();
    let done: Value = pipe().atomic().incr("key", 1).query(&mut con).unwrap();
    assert_eq!(done, Value::Array(vec![Value::Int(2)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bb8_pool_goes_on_over_a_failover_and_hands_on_no_watch() {
    let mut databases = Databases::start_async().await;
    let client = databases.builder().connect().await.unwrap();
    warm(&client).await;
    let pool = bb8::Pool::builder()
        .max_size(1)
        .connection_timeout(LIMIT)
        .build(client.clone())
        .await
        .unwrap();
    let mut con = pool.get().await.unwrap();
    cmd("WATCH").arg("key").exec_async(&mut *con).await.unwrap();
    drop(con);
    let mut con = pool.get().await.unwrap();
    con.set("key", 1).await.unwrap();
    let done: Value = pipe()
        .atomic()
        .incr("key", 1)
        .query_async(&mut *con)
        .await
        .unwrap();
    assert_eq!(done, Value::Array(vec![Value::Int(2)]));
    drop(con);

    databases.east.kill();
    let mut con = pool.get().await.unwrap().clone().assume_idempotent();
    con.set("key", 1).await.unwrap();
    assert_eq!(client.active().unwrap(), *databases.west_id());
    client.close().await;
}
