//! A script that was loaded over the client is there when a pipeline runs it, wherever that is.

use redis::{RedisResult, Script, cmd, pipe};

use crate::{Databases, Protocol, serving};

/// Naive: the pipeline is answered NOSCRIPT after a failover, its other elements having run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_finds_its_scripts_after_a_failover() {
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        let mut databases = Databases::start().await;
        let client = databases.client_speaking(protocol).await;
        let mut con = client.connection();
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        script.load_async(&mut con).await.unwrap();
        databases.east.kill();
        serving(&client, &databases.west_id()).await;

        for (round, atomic) in [false, true, false].into_iter().enumerate() {
            let mut pipeline = pipe();
            if atomic {
                pipeline.atomic();
            }
            let replies: RedisResult<(i64, i64, i64)> = pipeline
                .incr("plain", 1)
                .invoke_script(script.key("scripted").arg(2))
                .invoke_script(script.key("scripted").arg(3))
                .query_async(&mut con)
                .await;
            let round = round as i64;
            let expected = (round + 1, 5 * round + 2, 5 * round + 5);
            assert_eq!(replies.unwrap(), expected, "{protocol:?}");
        }
        client.close().await;
    }
}

/// A transaction that watches runs on a connection of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_a_watched_transaction() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let con = client.connection();
    let script = Script::new("return redis.call('INCR', KEYS[1])");
    script.load_async(&mut con.clone()).await.unwrap();
    client.switch_to(&databases.west_id()).await.unwrap();
    let script = &script;
    let result: (i64,) =
        redis::aio::transaction_async(con, &["a"], async |mut con, mut pipeline| {
            pipeline
                .invoke_script(&script.key("a"))
                .query_async(&mut con)
                .await
        })
        .await
        .unwrap();
    assert_eq!(result, (1,));
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_flushed_is_not_loaded_again() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    let script = Script::new("return 1");
    script.load_async(&mut con).await.unwrap();
    let () = cmd("SCRIPT")
        .arg("FLUSH")
        .query_async(&mut con)
        .await
        .unwrap();
    client.switch_to(&databases.west_id()).await.unwrap();
    let error = pipe()
        .invoke_script(&script.prepare_invoke())
        .query_async::<()>(&mut con)
        .await
        .unwrap_err();
    assert!(format!("{error}").contains("NoScript"), "{error}");
    client.close().await;
}
