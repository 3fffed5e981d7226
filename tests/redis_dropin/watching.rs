//! WATCH: commits where it was watched, or not at all.

use std::time::Duration;

use multidb::{ErrorKind, MultiDbConnection};
use redis::aio::transaction_async;
use redis::{AsyncCommands, Pipeline, RedisResult, Value, cmd, pipe};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::eventually;
use crate::support::redis_server::RedisServer;
use crate::{Databases, LIMIT, is_unknown, kind, serving};

/// A payment of 50 that stops once between its read and its write. Returns the balance it wrote and
/// how often it tried; `read` hears of the first read, and `go` lets it go on.
async fn pay(
    con: MultiDbConnection,
    read: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
) -> RedisResult<(i64, u32)> {
    let mut first = Some((read, go));
    let mut tries = 0;
    let paid = transaction_async(con, &["balance"], |mut con, mut pipe| {
        tries += 1;
        let first = first.take();
        async move {
            let balance: i64 = con.get("balance").await?;
            if let Some((read, go)) = first {
                read.send(()).unwrap();
                go.await.unwrap();
            }
            let left = balance - 50;
            let done: Option<()> = pipe
                .set("balance", left)
                .ignore()
                .query_async(&mut con)
                .await?;
            Ok(done.map(|()| left))
        }
    })
    .await;
    paid.map(|left| (left, tries))
}

async fn balances(databases: &Databases) {
    let _: () = databases.east.cmd(&["SET", "balance", "100"]).await;
    let _: () = databases.west.cmd(&["SET", "balance", "5"]).await;
}

/// Naive: the connection is swapped under the transaction. EXEC then runs on the other database,
/// where nothing is watched, and overwrites 5 with the 50 computed from a balance of 100.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_meets_a_failover_is_computed_anew_and_no_update_is_lost() {
    for fault in [
        Fault::Killed,
        Fault::KilledUnnoticed,
        Fault::Hung,
        Fault::Demoted,
        Fault::Left,
    ] {
        let mut databases = Databases::start().await;
        balances(&databases).await;
        let client = databases.client().await;
        let (read, has_read) = oneshot::channel();
        let (go, may_go) = oneshot::channel();
        let payment = tokio::spawn(pay(client.connection(), read, may_go));
        has_read.await.unwrap();
        match fault {
            Fault::Killed | Fault::KilledUnnoticed => databases.east.kill(),
            Fault::Hung => {
                databases.east.stop().await;
                // Somebody has to notice that nothing is answered any more.
                let _: RedisResult<String> = client.connection().ping().await;
            }
            Fault::Demoted => {
                // Of a master that is not there, so that it keeps its data.
                let _: String = databases.east.cmd(&["REPLICAOF", "127.0.0.1", "1"]).await;
            }
            Fault::Left => client.switch_to(databases.west_id()).await.unwrap(),
        }
        if !matches!(fault, Fault::KilledUnnoticed | Fault::Demoted) {
            serving(&client, &databases.west_id()).await;
        }
        go.send(()).unwrap();
        let paid = timeout(LIMIT, payment).await.unwrap().unwrap();
        let in_west = databases.west.cmd::<i64>(&["GET", "balance"]).await;
        match paid {
            Ok(paid) => assert_eq!((paid, in_west), ((-45, 2), -45), "{fault:?}"),
            // EXEC had left when the loss was noticed. It was not sent to the west.
            Err(error) if is_unknown(&error) && matches!(fault, Fault::KilledUnnoticed) => {
                assert_eq!(in_west, 5);
            }
            Err(error) => panic!("{fault:?}: {error}"),
        }
        if let Fault::Hung = fault {
            databases.east.cont();
        }
        if let Fault::Hung | Fault::Demoted | Fault::Left = fault {
            assert_eq!(
                databases.east.cmd::<i64>(&["GET", "balance"]).await,
                100,
                "{fault:?}"
            );
        }
        client.close().await;
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    /// EXEC may be sent before anybody has noticed.
    KilledUnnoticed,
    Hung,
    /// EXEC is what finds out.
    Demoted,
    Left,
}

/// Naive: a read inside the transaction fails with the connection it is watched on, and the whole
/// transaction with it, although neither has any effect yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_inside_a_transaction_survives_the_loss_of_its_connection() {
    let mut databases = Databases::start().await;
    balances(&databases).await;
    let client = databases.client().await;
    let mut con = client.connection();
    let _: () = cmd("WATCH")
        .arg("balance")
        .query_async(&mut con)
        .await
        .unwrap();
    databases.east.kill();
    let balance: i64 = con.get("balance").await.unwrap();
    assert_eq!(balance, 5);
    assert_eq!(
        exec(&mut con).await.unwrap(),
        Value::Nil,
        "watched in the east"
    );
    assert_ne!(
        exec(&mut con).await.unwrap(),
        Value::Nil,
        "the watch is over"
    );
    client.close().await;
}

/// Naive: as the reply to a WATCH on a hung database does not come, the transaction fails, although
/// watching a second time does no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_begins_on_a_hung_database_ends_on_the_other() {
    let databases = Databases::start().await;
    balances(&databases).await;
    let client = databases.client().await;
    // The second transaction takes over the private connection of the first.
    let mut con = client.connection();
    let spend = async |con: &MultiDbConnection| -> RedisResult<i64> {
        transaction_async(con.clone(), &["balance"], |mut con, mut pipe| async move {
            let left = con.get::<_, i64>("balance").await? - 1;
            let done: Option<()> = pipe
                .set("balance", left)
                .ignore()
                .query_async(&mut con)
                .await?;
            Ok(done.map(|()| left))
        })
        .await
    };
    assert_eq!(spend(&con).await.unwrap(), 99);
    databases.east.stop().await;
    let spent = timeout(LIMIT, spend(&con)).await.unwrap();
    assert_eq!(spent.unwrap(), 4);
    assert_eq!(con.get::<_, i64>("balance").await.unwrap(), 4);
    client.close().await;
}

/// Naive: both use the shared connection, where the neighbour's EXEC clears every watch, and the
/// transaction commits although its key was touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbours_transaction_does_not_clear_a_watch() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    let mut neighbour = con.clone();
    let _: () = cmd("WATCH")
        .arg("balance")
        .query_async(&mut con)
        .await
        .unwrap();
    assert_ne!(exec(&mut neighbour).await.unwrap(), Value::Nil);
    let _: () = cmd("UNWATCH").query_async(&mut neighbour).await.unwrap();
    let _: () = neighbour.set("balance", 7).await.unwrap();
    assert_eq!(exec(&mut con).await.unwrap(), Value::Nil);
    client.close().await;
}

/// Naive: a clone inside `transaction_async` gets a session of its own, or none, and commits
/// although the key was touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_made_while_watching_shares_the_watch() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    let _: () = cmd("WATCH")
        .arg("balance")
        .query_async(&mut con)
        .await
        .unwrap();
    let mut clone = con.clone();
    let _: () = client.connection().set("balance", 7).await.unwrap();
    assert_eq!(exec(&mut clone).await.unwrap(), Value::Nil);
    assert_ne!(
        exec(&mut con).await.unwrap(),
        Value::Nil,
        "it was one session"
    );
    client.close().await;
}

/// Naive: on the shared connection the sessions clear each other's watches, and increments are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_transactions_lose_no_update() {
    const TASKS: i64 = 8;
    const EACH: i64 = 20;
    let databases = Databases::start().await;
    let client = databases.client().await;
    let shared = client.connection();
    let before = settled(&databases.east).await;
    let tasks = (0..TASKS).map(|_| {
        let con = shared.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                let _: i64 = increment(con.clone()).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        timeout(LIMIT, task).await.unwrap().unwrap();
    }
    assert_eq!(
        databases.east.cmd::<i64>(&["GET", "counter"]).await,
        TASKS * EACH
    );
    let after = databases.east.connected_clients().await;
    assert!(
        after <= before + TASKS as usize,
        "private connections are used again"
    );
    client.close().await;
}

async fn increment(con: MultiDbConnection) -> RedisResult<i64> {
    transaction_async(con, &["counter"], |mut con, mut pipe| async move {
        let next = con
            .get::<_, Option<i64>>("counter")
            .await?
            .unwrap_or_default()
            + 1;
        let done: Option<()> = pipe
            .set("counter", next)
            .ignore()
            .query_async(&mut con)
            .await?;
        Ok(done.map(|()| next))
    })
    .await
}

/// Naive: to be safe, any EXEC near a failover is answered nil, which a caller who watches nothing
/// does not expect and takes for done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_nothing_never_sees_a_transaction_refused() {
    let mut databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    // A session that is over counts as none.
    let _: () = cmd("WATCH")
        .arg("balance")
        .query_async(&mut con)
        .await
        .unwrap();
    let _: () = cmd("UNWATCH").query_async(&mut con).await.unwrap();
    let mut unknown = 0;
    for round in 0..300 {
        match round {
            50 => client.switch_to(databases.west_id()).await.unwrap(),
            100 => client.switch_to(databases.east_id()).await.unwrap(),
            150 => databases.east.kill(),
            _ => {}
        }
        match exec(&mut con).await {
            Ok(reply) => assert_ne!(reply, Value::Nil, "round {round}"),
            Err(error) if is_unknown(&error) => unknown += 1,
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!(unknown <= 1);
    assert_eq!(client.active().unwrap(), *databases.west_id());
    client.close().await;
}

/// Naive: the session outlives the handle, and every abandoned transaction keeps a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_nobody_ends_goes_with_its_last_handle() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let before = settled(&databases.east).await;
    let mut con = client.connection();
    let _: () = cmd("WATCH")
        .arg("balance")
        .query_async(&mut con)
        .await
        .unwrap();
    let clone = con.clone();
    drop(con);
    assert_eq!(databases.east.connected_clients().await, before + 1);
    drop(clone);
    eventually(LIMIT, "the private connection is gone", async || {
        databases.east.connected_clients().await == before
    })
    .await;
    client.close().await;
}

/// Naive: the private connection stays open until its idle handle is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_lies_idle_ends_with_its_client() {
    let databases = Databases::start().await;
    let client = databases.client().await;
    let mut con = client.connection();
    let _: () = cmd("WATCH")
        .arg("balance")
        .query_async(&mut con)
        .await
        .unwrap();
    client.close().await;
    eventually(LIMIT, "no connection is left", async || {
        databases.east.connected_clients().await == 0
    })
    .await;
    drop(con);
}

/// Naive: the transaction, answered nil since its connection is gone, starts again for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_ends_when_its_client_is_closed() {
    let databases = Databases::start().await;
    balances(&databases).await;
    let client = databases.client().await;
    let (read, has_read) = oneshot::channel();
    let (go, may_go) = oneshot::channel();
    let payment = tokio::spawn(pay(client.connection(), read, may_go));
    has_read.await.unwrap();
    timeout(Duration::from_secs(5), client.close())
        .await
        .unwrap();
    go.send(()).unwrap();
    let paid = timeout(LIMIT, payment).await.unwrap().unwrap();
    assert_eq!(kind(&paid.unwrap_err()), ErrorKind::Closed);
    assert_eq!(databases.east.cmd::<i64>(&["GET", "balance"]).await, 100);
    eventually(LIMIT, "no connection is left", async || {
        databases.east.connected_clients().await == 0
    })
    .await;
}

/// How many connections a client keeps to its active database: one for calls, one for probes.
async fn settled(server: &RedisServer) -> usize {
    eventually(LIMIT, "both connections are up", async || {
        server.connected_clients().await == 2
    })
    .await;
    2
}

fn counting() -> Pipeline {
    let mut pipeline = pipe();
    pipeline.atomic().incr("executed", 1);
    pipeline
}

async fn exec(con: &mut MultiDbConnection) -> RedisResult<Value> {
    counting().query_async(con).await
}
