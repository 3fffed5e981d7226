//! apalis: a queue of jobs, pushed and worked off by scripts in the server.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use apalis::prelude::*;
use apalis_redis::RedisStorage;
use multidb::MultiDbConnection;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::Pair;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_being_pushed_and_worked_off_through_a_failover_and_back() {
    let mut pair = Pair::start().await;
    let (worked, mut off) = unbounded_channel();
    let worked = Arc::new(worked);
    let con = pair.client.connection();
    // A worker is known to one database. On another one its fetch is refused, or cut off by the
    // failover: it ends, and the next one makes itself known there.
    let monitor = Monitor::new()
        .register(move |restarts| {
            let jobs = RedisStorage::<u32, _>::new(con.clone());
            WorkerBuilder::new(format!("worker-{restarts}"))
                .backend(jobs.poll_with_interval(Duration::from_millis(20)))
                .data(worked.clone())
                .build(work)
        })
        // Once for the failover and once for the way back; an ended client would go on for ever.
        .should_restart(|worker, _| worker.restarts() < 10);
    let working = tokio::spawn(monitor.run());

    let mut jobs = RedisStorage::new(pair.client.connection());
    push(&mut jobs, 0..20, &mut off).await;
    pair.east.kill();
    pair.serves("west").await;
    push(&mut jobs, 20..40, &mut off).await;
    pair.east.restart().await;
    pair.serves("east").await;
    push(&mut jobs, 40..60, &mut off).await;

    working.abort();
    let _ = working.await;
    pair.client.close().await;
}

/// Each of these jobs is accepted and then worked off.
async fn push(
    storage: &mut RedisStorage<u32, MultiDbConnection>,
    jobs: Range<u32>,
    off: &mut UnboundedReceiver<u32>,
) {
    let mut missing: BTreeSet<_> = jobs.collect();
    for &job in &missing {
        storage.push(job).await.expect("accepted");
    }
    while !missing.is_empty() {
        let job = timeout(Duration::from_secs(20), off.recv()).await;
        let job = job.unwrap_or_else(|_| panic!("never worked off: {missing:?}"));
        missing.remove(&job.expect("somebody works"));
    }
}

async fn work(job: u32, worked: Data<Arc<UnboundedSender<u32>>>) {
    let _ = worked.send(job);
}
