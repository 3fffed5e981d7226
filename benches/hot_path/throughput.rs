//! Requests per second, client and server on one core, in interleaved blocks.

use redis::aio::ConnectionLike;
use serde_json::json;
use tokio::time::Instant;

use crate::clients::{Habit, SMALL, Shape, bare, drive, ours};
use crate::report::{Report, median, rounded, verdict};
use crate::support::redis_server::RedisServer;

pub(crate) async fn measure(server: &RedisServer, report: Report) {
    let url = server.url();
    let (first, ours, second) = (bare(&url).await, ours(&url).await, bare(&url).await);
    report.title("throughput on one core (requests/s, medians of interleaved blocks)");
    let small = Shape::Value(SMALL);
    for (tasks, shape, figure, name, bar) in [
        (1, small, "throughput_ratio", "a command", Some(0.99)),
        (16, small, "throughput_ratio", "a command", Some(1.0)),
        (256, small, "throughput_ratio", "a command", Some(1.0)),
        (
            16,
            Shape::Value(1024),
            "throughput_ratio_1k",
            "a value of 1 KiB",
            None,
        ),
        (
            16,
            Shape::Value(65_536),
            "throughput_ratio_64k",
            "a value of 64 KiB",
            None,
        ),
        (
            16,
            Shape::Pipeline(10),
            "throughput_ratio_pipeline_10",
            "a pipeline of 10",
            None,
        ),
        (
            16,
            Shape::Pipeline(100),
            "throughput_ratio_pipeline_100",
            "a pipeline of 100",
            None,
        ),
    ] {
        report.progress(format_args!("throughput, {tasks} tasks, {name}"));
        let rate = async |which: usize, requests| match which {
            0 => rate(&first, shape, tasks, requests).await,
            1 => rate(&ours, shape, tasks, requests).await,
            _ => rate(&second, shape, tasks, requests).await,
        };
        // So many that a block takes about so long.
        let warm_up = rate(0, 400).await;
        let size = (rate(0, (warm_up / 10.0) as usize).await * BLOCK_SECONDS) as usize;
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (which, rates) in rates.iter_mut().enumerate() {
                rates.push(rate(which, size).await);
            }
        }
        let [a, b, again] = rates.map(|rates| median(&rates));
        let theirs = f64::midpoint(a, again);
        let (ratio, noise) = (rounded(b / theirs), rounded(again / a));
        report.figure(
            &json!({
                "figure": figure, "tasks": tasks, "value": ratio, "noise": noise,
                "bare": theirs.round(), "ours": b.round(),
            }),
            format_args!(
                "{tasks:3} tasks, {name}: bare {theirs:.0}, ours {b:.0}, ratio {ratio:.3} \
                 (bare beside itself {noise:.3}){}",
                bar.map_or_else(String::new, |bar| format!(
                    "; bar {bar}: {}",
                    verdict(ratio >= bar)
                ))
            ),
        );
    }
}

/// Requests per second.
async fn rate<C>(con: &C, shape: Shape, tasks: usize, requests: usize) -> f64
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let requests = requests.div_ceil(tasks) * tasks;
    let began = Instant::now();
    drive(con, shape, Habit::Keep, tasks, requests).await;
    requests as f64 / began.elapsed().as_secs_f64()
}

const ROUNDS: usize = 60;
/// Short, so that a noisy neighbour troubles all alike.
const BLOCK_SECONDS: f64 = 0.08;
