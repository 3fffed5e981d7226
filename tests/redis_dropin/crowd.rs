//! Many tasks on clones of one connection: every reply reaches the one who asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::{AsyncCommands, RedisResult, Script, cmd, pipe};
use tokio::time::timeout;

use crate::support::eventually;
use crate::{Databases, LIMIT, is_unknown, serving};

const TASKS: usize = 64;

/// Naive: a reply that comes late, after its caller gave up or moved, is taken for the reply to the
/// next call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reply_matches_its_request_through_failovers() {
    let mut databases = Databases::start().await;
    let client = databases
        .builder(crate::Protocol::Resp3)
        .grace_period(Duration::from_millis(200))
        .health_interval(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let unknown = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let con = client.connection();
            let (done, unknown, over) = (done.clone(), unknown.clone(), over.clone());
            tokio::spawn(async move {
                let mut step = 0;
                while !over.load(Ordering::Relaxed) {
                    match one_of_each(con.clone(), &format!("{task}.{step}")).await {
                        Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                        Err(error) if is_unknown(&error) => unknown.fetch_add(1, Ordering::Relaxed),
                        Err(error) => panic!("task {task}, step {step}: {error}"),
                    };
                    step += 1;
                }
            })
        })
        .collect();

    let more = async |count: u64| {
        let goal = done.load(Ordering::Relaxed) + count;
        eventually(LIMIT, "the crowd goes on", async || {
            done.load(Ordering::Relaxed) >= goal || tasks.iter().any(|task| task.is_finished())
        })
        .await;
    };
    more(300).await;
    databases.east.kill();
    serving(&client, &databases.west_id()).await;
    more(300).await;
    databases.east.restart().await;
    // It may be in its dwell still.
    eventually(LIMIT, "the east serves again", async || {
        client.switch_to(databases.east_id()).await.is_ok()
    })
    .await;
    more(300).await;
    databases.east.stop().await;
    serving(&client, &databases.west_id()).await;
    more(300).await;
    databases.east.cont();
    eventually(LIMIT, "the east serves again", async || {
        client.switch_to(databases.east_id()).await.is_ok()
    })
    .await;
    more(300).await;
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        timeout(LIMIT, task).await.unwrap().unwrap();
    }
    // In each of the two failovers a task has one call in flight.
    assert!(unknown.load(Ordering::Relaxed) <= 2 * TASKS as u64);
    client.close().await;
}

/// Calls of different length and kind, so that a shift by one would show.
async fn one_of_each(mut con: multidb::MultiDbConnection, token: &str) -> RedisResult<()> {
    let echo: String = cmd("ECHO").arg(token).query_async(&mut con).await?;
    assert_eq!(echo, token);
    let (first, second): (String, String) = pipe()
        .cmd("ECHO")
        .arg(format!("{token}a"))
        .cmd("ECHO")
        .arg(format!("{token}b"))
        .query_async(&mut con)
        .await?;
    assert_eq!((first, second), (format!("{token}a"), format!("{token}b")));
    let long = token.repeat(500);
    let key = format!("key:{token}");
    let (read,): (String,) = pipe()
        .atomic()
        .set_ex(&key, &long, 60)
        .ignore()
        .get(&key)
        .query_async(&mut con)
        .await?;
    assert_eq!(read, long);
    let (name, echo): (String, String) = Script::new("return {KEYS[1], ARGV[1]}")
        .key(&key)
        .arg(token)
        .invoke_async(&mut con)
        .await?;
    assert_eq!((name, echo), (key.clone(), token.to_owned()));
    let nothing: Option<String> = con.get(format!("no:{token}")).await?;
    assert_eq!(nothing, None);
    // Cancelled half-way: its reply must go to nobody.
    let _ = timeout(Duration::from_micros(50), con.get::<_, String>(&key)).await;
    Ok(())
}
