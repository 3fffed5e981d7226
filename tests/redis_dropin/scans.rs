//! A cursor belongs to the database that gave it.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use multidb::{ErrorKind, MultiDbConnection};
use redis::{AsyncCommands, RedisResult, ScanOptions, cmd, pipe};

use crate::support::redis_server::RedisServer;
use crate::{Databases, LIMIT, kind, serving};

const KEYS: usize = 1000;

/// The two databases hold different keys, so that a cursor followed on the wrong one shows.
async fn fill(databases: &Databases) {
    for (server, name) in [(&databases.east, "east"), (&databases.west, "west")] {
        let mut con = server.admin().await.unwrap();
        let mut fill = pipe();
        for n in 0..KEYS {
            let member = format!("{name}:{n}");
            fill.set(&member, n).ignore();
            fill.sadd("set", &member).ignore();
            fill.hset("hash", &member, n).ignore();
            fill.zadd("sorted", &member, n).ignore();
        }
        fill.exec_async(&mut con).await.unwrap();
    }
}

async fn keys_of(server: &RedisServer) -> BTreeSet<String> {
    let keys: Vec<String> = server.cmd(&["KEYS", "*:*"]).await;
    keys.into_iter().collect()
}

fn by(count: usize) -> ScanOptions {
    ScanOptions::default().with_pattern("*:*").with_count(count)
}

/// Naive: the cursor of the east is followed in the west. The caller takes what it gets for all keys,
/// and is never told that some were left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_meets_a_failover_ends_in_an_error_and_a_new_one_sees_everything() {
    let mut databases = Databases::start().await;
    fill(&databases).await;
    let client = databases.client().await;
    let mut con = client.connection();
    {
        let mut scan = con.scan_options::<String>(by(50)).await.unwrap();
        assert!(scan.next().await.unwrap().unwrap().starts_with("east:"));
        databases.east.kill();
        let error = loop {
            match scan.next().await.expect("the scan is not complete") {
                Ok(key) => assert!(key.starts_with("east:"), "{key}"),
                Err(error) => break error,
            }
        };
        assert_eq!(kind(&error), ErrorKind::CursorMoved);
        assert!(multidb::redis::from_redis(&error).unwrap().is_retry_safe());
    }
    serving(&client, &databases.west_id()).await;
    let again = con.scan_options::<String>(by(50)).await.unwrap();
    let seen: Vec<RedisResult<String>> = again.collect().await;
    let seen: BTreeSet<String> = seen.into_iter().map(Result::unwrap).collect();
    assert_eq!(seen, keys_of(&databases.west).await);
    client.close().await;
}

/// Naive: only SCAN is known, and the scans inside a key follow the cursor to the other database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_scan_knows_that_the_client_has_moved() {
    let databases = Databases::start().await;
    fill(&databases).await;
    let client = databases.client().await;
    let scans: [(&str, Option<&str>); 4] = [
        ("SCAN", None),
        ("SSCAN", Some("set")),
        ("HSCAN", Some("hash")),
        ("ZSCAN", Some("sorted")),
    ];
    for (verb, key) in scans {
        client.switch_to(databases.east_id()).await.unwrap();
        let mut con = client.connection();
        let cursor = step(&mut con, verb, key, 0).await.unwrap();
        let cursor = step(&mut con, verb, key, cursor).await.unwrap();
        assert_ne!(cursor, 0, "{verb}");
        let mut batch = pipe();
        batch.cmd(verb).arg(key).arg(cursor);

        client.switch_to(databases.west_id()).await.unwrap();
        let error = step(&mut con, verb, key, cursor).await.unwrap_err();
        assert_eq!(kind(&error), ErrorKind::CursorMoved, "{verb}");
        let error = batch.exec_async(&mut con).await.unwrap_err();
        assert_eq!(kind(&error), ErrorKind::CursorMoved, "{verb} in a pipeline");
        let mut stranger = client.connection();
        let error = step(&mut stranger, verb, key, cursor).await.unwrap_err();
        assert_eq!(
            kind(&error),
            ErrorKind::CursorMoved,
            "{verb} on another handle"
        );

        client.switch_to(databases.east_id()).await.unwrap();
        step(&mut con, verb, key, cursor).await.unwrap();
        assert_ne!(step(&mut con, verb, key, 0).await.unwrap(), 0);
    }
    client.close().await;
}

/// Naive: a handle remembers one scan. The inner one, begun after the switch, vouches for the cursor
/// of the outer one, begun before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_inside_a_scan_does_not_vouch_for_the_outer_one() {
    let databases = Databases::start().await;
    fill(&databases).await;
    let client = databases.client().await;
    let mut con = client.connection();
    let outer = step(&mut con, "SCAN", None, 0).await.unwrap();
    client.switch_to(databases.west_id()).await.unwrap();
    let inner = step(&mut con, "HSCAN", Some("hash"), 0).await.unwrap();
    let error = step(&mut con, "SCAN", None, outer).await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::CursorMoved);
    step(&mut con, "HSCAN", Some("hash"), inner).await.unwrap();
    client.close().await;
}

/// Naive: only the handle that began a scan may go on with it, so that after the first failover no
/// page but the first can be had from a service that hands the cursor to its own callers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_given_after_a_switch_is_good_on_any_handle() {
    let databases = Databases::start().await;
    fill(&databases).await;
    let client = databases.client().await;
    client.switch_to(databases.west_id()).await.unwrap();
    let (mut cursor, mut pages) = (0, 0);
    loop {
        cursor = step(&mut client.connection(), "HSCAN", Some("hash"), cursor)
            .await
            .unwrap();
        pages += 1;
        if cursor == 0 {
            break;
        }
    }
    assert!(pages > 3, "{pages} pages");
    client.close().await;
}

/// One step by hand. The cursor that comes back.
async fn step(
    con: &mut MultiDbConnection,
    verb: &str,
    key: Option<&str>,
    cursor: u64,
) -> RedisResult<u64> {
    let mut scan = cmd(verb);
    scan.arg(key).arg(cursor).arg("COUNT").arg(20);
    let (cursor, _): (u64, redis::Value) = tokio::time::timeout(LIMIT, scan.query_async(con))
        .await
        .unwrap()?;
    Ok(cursor)
}
