//! Commands that wait on the server: they hold up nobody, move along, and take nothing for nobody.

use std::time::Duration;

use multidb::{ErrorKind, MultiDbConnection};
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, RedisResult, cmd, pipe};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::support::eventually;
use crate::support::redis_server::RedisServer;
use crate::{Databases, LIMIT, is_unknown, kind, serving};

type Popped = RedisResult<Option<(String, String)>>;

fn pop(con: &MultiDbConnection, seconds: f64) -> JoinHandle<Popped> {
    let mut con = con.clone();
    tokio::spawn(async move { con.blpop("queue", seconds).await })
}

/// Naive: the connection is kept, so the command outlives its caller at the server, and takes the
/// next element for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_that_comes_after_the_caller_gave_up_stays() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let con = client.connection();
    let waiting = pop(&con, 0.0);
    blocked(&databases.east, 1).await;
    waiting.abort();
    blocked(&databases.east, 0).await;
    assert_eq!(
        databases.east.cmd::<i64>(&["RPUSH", "queue", "job"]).await,
        1
    );
    assert_eq!(databases.east.list("queue").await, ["job"]);

    let _: String = databases.east.cmd(&["LPOP", "queue"]).await;
    assert_eq!(pop(&con, 0.1).await.unwrap().unwrap(), None);
    assert_eq!(
        databases.east.cmd::<i64>(&["RPUSH", "queue", "job"]).await,
        1
    );
    assert_eq!(databases.east.list("queue").await, ["job"]);
    client.close().await;
}

/// Naive: the response timeout of 500 ms ends it, and the command goes on at the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_longer_than_any_reply_may_take_is_no_fault() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let waiting = pop(&client.connection(), 0.0);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    blocked(&databases.east, 1).await;
    let _: i64 = databases.east.cmd(&["RPUSH", "queue", "job"]).await;
    let popped = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(popped, Some(("queue".to_owned(), "job".to_owned())));
    assert_eq!(client.snapshot().generation, 1);
    client.close().await;
}

/// Naive: every reply of the shared connection waits behind the blocked one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_behind_a_blocking_command() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    let waiting = pop(&con, 0.0);
    let mut neighbour = con.clone();
    let batch = tokio::spawn(async move {
        let mut batch = pipe();
        batch.cmd("BLPOP").arg("queue").arg(0);
        batch
            .query_async::<((String, String),)>(&mut neighbour)
            .await
    });
    blocked(&databases.east, 2).await;
    let begun = Instant::now();
    for _ in 0..100 {
        let _: String = con.ping().await.unwrap();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(!waiting.is_finished() && !batch.is_finished());
    let _: i64 = con.rpush("queue", &["1", "2"]).await.unwrap();
    assert!(
        timeout(LIMIT, waiting)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .is_some()
    );
    timeout(LIMIT, batch).await.unwrap().unwrap().unwrap();
    client.close().await;
}

/// Naive: it goes on waiting on a database that nobody writes to any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_moves_along_with_a_planned_switch() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let waiting = pop(&client.connection(), 0.0);
    blocked(&databases.east, 1).await;
    client.switch_to(databases.west_id()).await.unwrap();
    blocked(&databases.west, 1).await;
    blocked(&databases.east, 0).await;
    let _: i64 = client.connection().rpush("queue", "job").await.unwrap();
    let popped = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(popped, Some(("queue".to_owned(), "job".to_owned())));
    client.close().await;
}

/// Naive: the wait begins anew on the other database, and takes 5 s instead of 3 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_does_not_prolong_the_wait() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let begun = Instant::now();
    let waiting = pop(&client.connection(), 3.0);
    blocked(&databases.east, 1).await;
    tokio::time::sleep_until(begun + Duration::from_secs(2)).await;
    client.switch_to(databases.west_id()).await.unwrap();
    assert_eq!(
        timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap(),
        None
    );
    let took = begun.elapsed();
    let expected = Duration::from_millis(2900)..Duration::from_millis(4500);
    assert!(expected.contains(&took), "{took:?}");
    client.close().await;
}

/// Naive: the consumer is dropped at the switch, and with it an element that was on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_element_pushed_at_the_moment_of_a_switch_is_never_lost() {
    const ROUNDS: usize = 30;
    let databases = Databases::start().await;
    let client = databases.client().await;
    let con = client.connection();
    let servers = [&databases.east, &databases.west];
    let mut pushers = Vec::new();
    for server in servers {
        pushers.push(server.admin().await.unwrap());
    }
    let mut delivered = 0;
    for round in 0..ROUNDS {
        let (here, there) = (round % 2, (round + 1) % 2);
        let waiting = pop(&con, 1.0);
        blocked(servers[here], 1).await;
        let target = servers[there].addr().to_string();
        let (pushed, switched) = tokio::join!(
            pushers[here].rpush::<_, _, i64>("queue", round),
            client.switch_to(target),
        );
        pushed.unwrap();
        switched.unwrap();
        let popped = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
        match popped {
            Some((_, element)) => {
                assert_eq!(element, round.to_string());
                delivered += 1;
            }
            None => {
                let left = servers[here].list("queue").await;
                assert_eq!(left, [round.to_string()], "neither delivered nor there");
                let _: () = servers[here].cmd(&["DEL", "queue"]).await;
            }
        }
    }
    assert!(delivered > 0, "the consumer was always too late");
    client.close().await;
}

/// Naive: the command is simply sent again to the other database. But the element may have been
/// taken, and its reply lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_is_told_when_its_database_dies() {
    let mut databases = Databases::start().await;
    let client = databases.client().await;
    let waiting = pop(&client.connection(), 0.0);
    let mut neighbour = client.connection();
    let batch = tokio::spawn(async move {
        let mut batch = pipe();
        batch.cmd("BLPOP").arg("queue").arg(0);
        batch
            .query_async::<((String, String),)>(&mut neighbour)
            .await
    });
    blocked(&databases.east, 2).await;
    databases.east.kill();
    let error = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(is_unknown(&error), "{error}");
    let error = timeout(LIMIT, batch).await.unwrap().unwrap().unwrap_err();
    assert!(is_unknown(&error), "{error}");

    let again = pop(&client.connection(), 0.0);
    blocked(&databases.west, 1).await;
    let _: i64 = client.connection().rpush("queue", "job").await.unwrap();
    assert!(
        timeout(LIMIT, again)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .is_some()
    );
    client.close().await;
}

/// Naive: the consumer hangs with its database, or leaves a blocked client behind that takes the
/// next element when the database wakes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_leaves_a_hung_database_and_takes_nothing_when_it_wakes_up() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let waiting = pop(&client.connection(), 0.0);
    blocked(&databases.east, 1).await;
    databases.east.stop().await;
    let _: String = client.connection().ping().await.unwrap();
    serving(&client, &databases.west_id()).await;
    let error = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap_err();
    assert!(is_unknown(&error), "{error}");

    databases.east.cont();
    blocked(&databases.east, 0).await;
    assert_eq!(
        databases.east.cmd::<i64>(&["RPUSH", "queue", "job"]).await,
        1
    );
    assert_eq!(databases.east.list("queue").await, ["job"]);
    client.close().await;
}

/// Naive: its error is the server's "force unblock", or READONLY: a reply that says for certain that
/// nothing was taken is returned, where the other database could have gone on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_goes_on_elsewhere_when_its_database_becomes_a_replica() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let waiting = pop(&client.connection(), 0.0);
    blocked(&databases.east, 1).await;
    let west = databases.west.addr();
    let (host, port) = (west.ip().to_string(), west.port().to_string());
    let _: String = databases.east.cmd(&["REPLICAOF", &host, &port]).await;
    blocked(&databases.west, 1).await;
    let _: i64 = client.connection().rpush("queue", "job").await.unwrap();
    let popped = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(popped, Some(("queue".to_owned(), "job".to_owned())));
    assert_eq!(client.active().unwrap(), *databases.west_id());
    client.close().await;
}

/// Naive: a reader of a stream is treated like a consumer of a list, and fails with its database,
/// although reading once more does no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_stream_goes_on_where_its_client_is() {
    let mut databases = Databases::start().await;
    let client = databases.client().await;
    for switch in ["planned", "failover"] {
        let mut con = client.connection();
        let waiting = tokio::spawn(async move {
            let options = StreamReadOptions::default().block(0);
            con.xread_options::<_, _, StreamReadReply>(&["stream"], &["$"], &options)
                .await
        });
        let from = match client.active().unwrap() == *databases.east_id() {
            true => &databases.east,
            false => &databases.west,
        };
        blocked(from, 1).await;
        let to = if switch == "planned" {
            client.switch_to(databases.west_id()).await.unwrap();
            &databases.west
        } else {
            databases.west.kill();
            &databases.east
        };
        blocked(to, 1).await;
        let _: String = to.cmd(&["XADD", "stream", "*", "field", switch]).await;
        let read = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
        let field: Option<String> = read.keys[0].ids[0].get("field");
        assert_eq!(field.as_deref(), Some(switch));
    }
    client.close().await;
}

/// Naive: a private connection that is refused is asked for again until the deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_credentials_are_refused_is_told_at_once() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    con.set_deadline(LIMIT);
    // What is connected stays so; the next connection needs a password.
    let _: () = cmd("CONFIG")
        .arg(&["SET", "requirepass", "changed"])
        .query_async(&mut con)
        .await
        .unwrap();
    let begun = Instant::now();
    let error = pop(&con, 0.0).await.unwrap().unwrap_err();
    assert_eq!(kind(&error), ErrorKind::NotExecuted);
    assert!(begun.elapsed() < LIMIT / 2, "{:?}", begun.elapsed());
    client.close().await;
}

/// Naive: WAIT on the shared connection speaks of everybody's writes, and holds everybody up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_replicas_behind_a_write_of_the_same_pipeline_works() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    let begun = Instant::now();
    let mut neighbour = con.clone();
    let waiting = tokio::spawn(async move {
        let mut batch = pipe();
        batch.set("written", 1).cmd("WAIT").arg(1).arg(1000);
        let result: RedisResult<(String, i64)> = batch.query_async(&mut neighbour).await;
        (result, begun.elapsed())
    });
    eventually(LIMIT, "it is written", async || {
        con.get::<_, Option<i64>>("written").await.unwrap() == Some(1)
    })
    .await;
    let pinged = Instant::now();
    let _: String = con.ping().await.unwrap();
    assert!(pinged.elapsed() < Duration::from_millis(800));
    let (result, took) = timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert_eq!(result.unwrap(), ("OK".to_owned(), 0));
    assert!(took >= Duration::from_millis(950), "{took:?}");

    let alone: RedisResult<i64> = cmd("WAIT").arg(0).arg(10).query_async(&mut con).await;
    assert!(multidb::redis::from_redis(&alone.unwrap_err()).is_some());
    client.close().await;
}

async fn blocked(server: &RedisServer, clients: usize) {
    let what = format!("{clients} clients are blocked");
    eventually(LIMIT, &what, async || {
        let info: String = server.cmd(&["INFO", "clients"]).await;
        info.contains(&format!("blocked_clients:{clients}\r\n"))
    })
    .await;
}
