//! A server is killed or stopped under one reader of each client, all at once.

use std::time::Duration;

use futures_util::future::try_join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::player::{ALL, Player, Who, now_ns};
use crate::report::{Report, rounded};
use crate::servers::{NAME, addresses, pair};
use crate::support::redis_server::RedisServer;
use crate::times::Times;

pub(crate) const FAULTS: [&str; 2] = ["sigkill", "sigstop"];

/// What one client met in all runs.
#[derive(Default)]
struct Seen {
    times: Times,
    failed: u64,
    longest_ms: f64,
    /// How long the signal took to have its effect, which is the kernel's part.
    fault_took_ms: Vec<f64>,
}

pub(crate) async fn measure(report: Report, runs: usize) -> Result<Vec<Value>, String> {
    let mut figures = Vec::new();
    for fault in FAULTS {
        report.title(&format!(
            "{fault}: from the fault to the first answer of the other server, a read every 5 ms"
        ));
        let mut seen: [Seen; ALL.len()] = Default::default();
        for run in 1..=runs {
            report.progress(format_args!("{fault}, run {run} of {runs}"));
            one(fault, &mut seen).await?;
        }
        for (who, seen) in ALL.into_iter().zip(&seen) {
            figures.push(tell(report, fault, who, seen)?);
        }
    }
    Ok(figures)
}

/// One fault, met by all of them.
async fn one(fault: &str, seen: &mut [Seen; ALL.len()]) -> Result<(), String> {
    let mut servers = pair().await;
    let mut players = connect_all(&addresses(&servers)).await?;
    for player in &mut players {
        player.read(NAME).await?;
    }
    any_phase().await;

    let at = now_ns();
    match fault {
        "sigkill" => servers[0].kill(),
        // By a shell it may take half a second on a busy machine, and every time would contain it.
        _ => stop(&servers[0])?,
    }
    let took_ms = (now_ns() - at) as f64 / 1e6;
    let reads = try_join_all(players.iter_mut().map(Player::elsewhere)).await?;
    for (seen, read) in seen.iter_mut().zip(reads) {
        seen.times.add(at, read.at_ns);
        seen.failed += read.failed;
        seen.longest_ms = seen.longest_ms.max(read.longest_ms);
        seen.fault_took_ms.push(rounded(took_ms));
    }
    Ok(())
}

fn stop(server: &RedisServer) -> Result<(), String> {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw);
    let stopped = kill_process(pid.ok_or("no process")?, Signal::STOP);
    stopped.map_err(|error| format!("SIGSTOP: {error}"))
}

pub(crate) async fn connect_all(addresses: &[String; 2]) -> Result<Vec<Player>, String> {
    try_join_all(ALL.map(|who| Player::connect(who, addresses))).await
}

/// As long as redis-py's health checks take to come round, so that a fault falls anywhere between them.
pub(crate) async fn any_phase() {
    sleep(Duration::from_micros(fastrand::u64(1_000_000..7_000_000))).await;
}

fn tell(report: Report, fault: &str, who: Who, seen: &Seen) -> Result<Value, String> {
    let mut json = json!({
        "figure": "first_answer_ms", "fault": fault, "client": who.client, "tuning": who.tuning,
        "failed_calls": seen.failed, "longest_call_ms": rounded(seen.longest_ms),
        "fault_took_ms": seen.fault_took_ms,
    });
    let object = json.as_object_mut().ok_or("an object was written")?;
    object.append(&mut seen.times.figure()?);
    report.figure(
        &json,
        format_args!(
            "{:<8} {:<10}: {}; failed calls {}, the longest call {:.1} ms",
            who.client,
            who.tuning,
            seen.times.text(),
            seen.failed,
            seen.longest_ms,
        ),
    );
    Ok(json)
}
