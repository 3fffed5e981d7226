//! Commands per second, client and server on one core, in interleaved blocks.

use redis::aio::ConnectionLike;
use serde_json::json;
use tokio::time::Instant;

use crate::clients::{Habit, bare, drive, ours};
use crate::report::{Report, median, rounded, verdict};
use crate::support::redis_server::RedisServer;

pub(crate) async fn measure(server: &RedisServer, report: Report) {
    let url = server.url();
    let (first, ours, second) = (bare(&url).await, ours(&url).await, bare(&url).await);
    report.title("throughput on one core (commands/s, medians of interleaved blocks)");
    for (tasks, bar) in [(1, 0.99), (16, 1.0), (256, 1.0)] {
        report.progress(format_args!("throughput, {tasks} tasks"));
        let size = block_size(&first, tasks).await;
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            rates[0].push(rate(&first, tasks, size).await);
            rates[1].push(rate(&ours, tasks, size).await);
            rates[2].push(rate(&second, tasks, size).await);
        }
        let [a, b, again] = rates.map(|rates| median(&rates));
        let theirs = f64::midpoint(a, again);
        let (ratio, noise) = (rounded(b / theirs), rounded(again / a));
        report.figure(
            &json!({
                "figure": "throughput_ratio", "tasks": tasks, "value": ratio, "noise": noise,
                "bare": theirs.round(), "ours": b.round(),
            }),
            format_args!(
                "{tasks:3} tasks: bare {theirs:.0}, ours {b:.0}, ratio {ratio:.3} \
                 (bare beside itself {noise:.3}); bar {bar}: {}",
                verdict(ratio >= bar)
            ),
        );
    }
}

/// So many commands that a block takes about [`BLOCK_SECONDS`].
async fn block_size<C>(con: &C, tasks: usize) -> usize
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let warm_up = rate(con, tasks, 20_000).await;
    (warm_up * BLOCK_SECONDS) as usize
}

async fn rate<C>(con: &C, tasks: usize, commands: usize) -> f64
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let commands = commands.div_ceil(tasks) * tasks;
    let began = Instant::now();
    drive(con, Habit::Keep, tasks, commands).await;
    commands as f64 / began.elapsed().as_secs_f64()
}

const ROUNDS: usize = 60;
/// Short, so that a noisy neighbour troubles all alike.
const BLOCK_SECONDS: f64 = 0.08;
