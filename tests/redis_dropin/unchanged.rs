//! The same program, on one database by redis-rs and on several by us: the same results.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use multidb::redis::Redis;
use multidb::{MultiDbClient, MultiDbConnection, Sensitivity};
use redis::aio::ConnectionLike;
use redis::{RedisError, RedisResult, Script, cmd, pipe};
use tokio::time::timeout;

use crate::support::eventually;
use crate::support::redis_server::RedisServer;
use crate::transcript::{Transcript, record};
use crate::{Databases, LIMIT, Protocol, bare, is_unknown};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_sees_the_same_results_over_resp2() {
    a_program_sees_the_same_results(Protocol::Resp2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_sees_the_same_results_over_resp3() {
    a_program_sees_the_same_results(Protocol::Resp3).await;
}

async fn a_program_sees_the_same_results(protocol: Protocol) {
    let (reference, databases) = tokio::join!(RedisServer::start(), Databases::start());
    let expected = record(bare(&reference, protocol).await).await;
    // This is not about how long a server may be kept waiting for a processor.
    let builder = databases
        .builder(protocol)
        .sensitivity(Sensitivity::Custom(LIMIT));
    let client = databases.connected(builder).await;
    same(&record(patient(&client)).await, &expected);
    assert_eq!(
        client.snapshot().generation,
        1,
        "nothing gave cause to switch"
    );

    client.switch_to(databases.west_id()).await.unwrap();
    same(&record(patient(&client)).await, &expected);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_goes_on_when_its_database_is_killed_under_it() {
    let (reference, mut databases) = tokio::join!(RedisServer::start(), Databases::start());
    let client = databases.client().await;
    let progress = Arc::new(AtomicUsize::new(0));
    let worker = tokio::spawn(work(client.connection(), progress.clone()));
    reached(&progress, STEPS / 4).await;
    databases.east.kill();
    let told = timeout(LIMIT, worker).await.unwrap().unwrap();
    let (_, in_west) = told.check();
    assert_eq!(databases.west.cmd::<i64>(&["GET", "steps"]).await, in_west);

    let _: () = databases.west.cmd(&["FLUSHALL"]).await;
    let expected = record(bare(&reference, Protocol::Resp3).await).await;
    same(&record(patient(&client)).await, &expected);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_goes_on_when_its_database_hangs_under_it() {
    let (reference, databases) = tokio::join!(RedisServer::start(), Databases::start());
    let client = databases.client().await;
    let progress = Arc::new(AtomicUsize::new(0));
    let worker = tokio::spawn(work(client.connection(), progress.clone()));
    reached(&progress, STEPS / 4).await;
    databases.east.stop().await;
    let told = timeout(LIMIT, worker).await.unwrap().unwrap();
    let (in_east, in_west) = told.check();
    assert_eq!(databases.west.cmd::<i64>(&["GET", "steps"]).await, in_west);

    let _: () = databases.west.cmd(&["FLUSHALL"]).await;
    let expected = record(bare(&reference, Protocol::Resp3).await).await;
    same(&record(patient(&client)).await, &expected);
    // Of what the hung database still holds, only the call with the unknown outcome may run.
    databases.east.cont();
    let counted = databases.east.cmd::<i64>(&["GET", "steps"]).await;
    assert!(counted == in_east || counted == in_east + told.unknown as i64);
    client.close().await;
}

/// A large pipeline takes its time on a busy machine.
fn patient(client: &MultiDbClient<Redis>) -> MultiDbConnection {
    let mut con = client.connection();
    con.set_response_timeout(LIMIT);
    con.set_deadline(LIMIT);
    con
}

/// What a program was told: the counts it read, in order, and how many outcomes were unknown.
#[derive(Default)]
struct Told {
    counts: Vec<i64>,
    unknown: usize,
}

const STEPS: usize = 400;

/// A program that counts, one call after the other, through three kinds of call. Generic: it has
/// never heard of several databases, except that it asks an error what became of the call.
async fn work<C>(mut con: C, progress: Arc<AtomicUsize>) -> Told
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let script = Script::new("return redis.call('INCR', KEYS[1])");
    let mut told = Told::default();
    for step in 0..STEPS {
        let result: RedisResult<i64> = match step % 3 {
            0 => cmd("INCR").arg("steps").query_async(&mut con).await,
            1 => pipe()
                .atomic()
                .cmd("INCR")
                .arg("steps")
                .query_async::<(i64,)>(&mut con)
                .await
                .map(|(steps,)| steps),
            _ => script.key("steps").invoke_async(&mut con).await,
        };
        match result {
            Ok(count) => told.counts.push(count),
            Err(error) if is_unknown(&error) => told.unknown += 1,
            Err(error) => panic!("step {step}: {error}"),
        }
        let read: RedisResult<Option<i64>> = cmd("GET").arg("steps").query_async(&mut con).await;
        read.unwrap_or_else(|error| panic!("a read after step {step}: {error}"));
        progress.fetch_add(1, Ordering::Relaxed);
    }
    told
}

async fn reached(progress: &AtomicUsize, steps: usize) {
    eventually(LIMIT, "the program has come so far", async || {
        progress.load(Ordering::Relaxed) >= steps
    })
    .await;
}

impl Told {
    /// How many steps each database acknowledged: the second began to count anew.
    fn acknowledged(&self) -> (i64, i64) {
        let in_west = self.counts.last().copied().unwrap_or_default();
        (self.counts.len() as i64 - in_west, in_west)
    }

    /// One caller has one call in flight, so at most one outcome is unknown, and every other step is
    /// counted exactly once, where it was acknowledged.
    fn check(&self) -> (i64, i64) {
        assert!(self.unknown <= 1, "{} unknown", self.unknown);
        assert_eq!(self.counts.len() + self.unknown, STEPS);
        let (in_east, in_west) = self.acknowledged();
        assert!(
            in_east >= STEPS as i64 / 4 && in_west > 0,
            "{in_east} and {in_west}"
        );
        let expected = (1..=in_east).chain(1..=in_west);
        assert!(
            self.counts.iter().copied().eq(expected),
            "{:?}",
            self.counts
        );
        (in_east, in_west)
    }
}

/// Points at the first difference: the whole is too long to read.
fn same(ours: &Transcript, theirs: &Transcript) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(short(ours), short(theirs));
        assert!(ours == theirs, "beyond the first part: {}", short(ours));
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 100, "the program did {} steps", ours.len());
}

fn short(note: &str) -> String {
    note.chars().take(400).collect()
}

#[expect(dead_code, reason = "the bounds are the test")]
fn it_has_every_property_of_a_connection(con: MultiDbConnection) {
    fn needs<C>(_: C)
    where
        C: ConnectionLike + Clone + Send + Sync + Unpin + std::fmt::Debug + 'static,
    {
    }
    needs(con);
    fn fails(error: RedisError) -> Option<multidb::Error> {
        multidb::redis::from_redis(&error)
    }
    let _ = fails;
}
