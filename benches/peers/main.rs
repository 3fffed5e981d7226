//! Beside redis-py's `MultiDBClient`: `cargo bench --bench peers [-- --json] [-- --runs N] [-- --write]`.
//!
//! Both work on the same real redis-servers and meet the same faults at the same time. redis-py is told what to do
//! over stdin and stdout (`redis_py.py`) and is installed into a virtual environment under `target` (`install`).
//!
//! `--write` keeps the figures in `docs/peers.jsonl` and makes the tables and pictures of the README and the book
//! from them; `--redraw` makes those again and `--check` compares them, without measuring anything.

mod ours;
mod outage;
mod overhead;
mod pages;
mod picture;
#[path = "../hot_path/pinning.rs"]
#[allow(dead_code, reason = "the other benches replace themselves")]
mod pinning;
mod player;
mod redis_py;
mod replies;
#[path = "../support/report.rs"]
#[allow(dead_code, reason = "the other benches use more of it")]
mod report;
mod servers;
mod subscribers;
#[path = "../../tests/support/mod.rs"]
mod support;
mod switches;
mod table;
mod times;
mod versions;

use std::process::ExitCode;

use report::Report;
use serde_json::Value;

const RUNS: usize = 6;

enum Job {
    Measure {
        runs: usize,
        write: bool,
    },
    /// In a process of its own, see [`overhead`].
    Overhead,
    Redraw,
    Check,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = parse(&args).and_then(|(job, report)| match job {
        Job::Measure { runs, write } => {
            redis_py::install()?;
            let figures = measure(report, runs)?;
            promises(&figures)?;
            if write {
                pages::keep(&figures)?;
                pages::write(&figures)?;
            }
            Ok(())
        }
        Job::Overhead => overhead::measure_here(),
        Job::Redraw => pages::write(&pages::kept()?),
        Job::Check => pages::check(&pages::kept()?),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("peers: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<(Job, Report), String> {
    let (mut json, mut runs, mut write, mut other) = (false, RUNS, false, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--json" => json = true,
            "--write" => write = true,
            "--redraw" => other = Some(Job::Redraw),
            "--check" => other = Some(Job::Check),
            pinning::PINNED => other = Some(Job::Overhead),
            "--runs" => {
                let number = args.next().and_then(|n| n.parse().ok());
                runs = number
                    .filter(|&n| n > 0)
                    .ok_or("--runs takes a number above 0")?;
            }
            unknown => {
                return Err(format!(
                    "unknown option {unknown}; there are --json, --runs N, --write, --redraw and --check"
                ));
            }
        }
    }
    let job = other.unwrap_or(Job::Measure { runs, write });
    Ok((job, Report::new(json)))
}

fn measure(report: Report, runs: usize) -> Result<Vec<Value>, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let mut figures = runtime.block_on(async {
        let mut figures = vec![versions::figure(report).await?];
        figures.extend(outage::measure(report, runs).await?);
        figures.extend(subscribers::measure(report, runs).await?);
        figures.extend(replies::measure(report).await?);
        figures.extend(switches::measure(report).await?);
        Ok::<_, String>(figures)
    })?;
    figures.extend(overhead::measure(report)?);
    Ok(figures)
}

/// What ours promises whatever the machine; the times depend on it.
fn promises(figures: &[Value]) -> Result<(), String> {
    for json in figures
        .iter()
        .filter(|json| json["client"] == player::OURS.client)
    {
        let twice = json["executed_twice"].as_u64().unwrap_or_default();
        let failed = json["failed_calls"].as_u64().unwrap_or_default();
        let switched = json["figure"] == "planned_switches";
        if twice > 0 || (switched && failed > 0) {
            return Err(format!("a promise is broken: {json}"));
        }
    }
    Ok(())
}
