//! Synchronous calls from threads that belong to a runtime, on clients that do and that do not.

use multidb::blocking;
use redis::TypedCommands;
use tokio::task::spawn_blocking;

use crate::{Databases, warm};

/// More than the steps after which tokio wants a task to yield.
const MANY: i64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_blocking_thread_of_the_runtime_that_the_client_was_started_on() {
    let databases = Databases::start_async().await;
    let client = databases.builder().connect().await.unwrap();
    let calls = client.clone();
    spawn_blocking(move || {
        let mut con = calls.get_connection().unwrap();
        assert_eq!(con.incr("n", 1).unwrap(), 1);
        blocking::wait(calls.switch_to(databases.west_id())).unwrap();
        assert_eq!(con.incr("n", 1).unwrap(), 1, "elsewhere");
    })
    .await
    .unwrap();
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_task_a_call_blocks_its_thread_and_ends() {
    let mut databases = Databases::start_async().await;
    let client = databases.builder().connect().await.unwrap();
    warm(&client).await;
    let task = async move {
        let mut con = client.get_connection().unwrap().assume_idempotent();
        for n in 1..=MANY {
            assert_eq!(con.incr("n", 1).unwrap() as i64, n);
        }
        databases.east.kill();
        con.set("key", "value").unwrap();
        assert_eq!(client.active().unwrap(), *databases.west_id());
        client
    };
    tokio::spawn(task).await.unwrap().close().await;
}

/// The thread that is blocked is the only one of the caller's runtime.
#[tokio::test]
async fn in_a_task_of_one_thread_a_client_that_is_first_used_there_goes_on() {
    let mut databases = Databases::start_async().await;
    let client = databases.builder().connect_lazy().unwrap();
    let mut con = client.get_connection().unwrap().assume_idempotent();
    for n in 1..=MANY {
        assert_eq!(con.incr("n", 1).unwrap() as i64, n);
    }
    warm(&client).await;
    databases.east.kill();
    con.set("key", "value").unwrap();
    assert_eq!(con.blpop("queue", 0.01).unwrap(), None);
    // And the async interface of the same client works beside it.
    let mut con = client.connection();
    let value = redis::AsyncTypedCommands::get(&mut con, "key").await;
    assert_eq!(value.unwrap().as_deref(), Some("value"));
    client.close().await;
}

#[test]
fn a_listener_may_call_the_client() {
    let databases = Databases::start();
    let client = databases.client();
    let other = client.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let listening = databases
        .builder()
        .on_event(move |_| {
            let _ = tell.send(other.get_connection().and_then(|mut con| con.incr("n", 1)));
        })
        .connect_blocking()
        .unwrap();
    assert_eq!(told.recv().unwrap().unwrap(), 1);
    drop((listening, client));
}
