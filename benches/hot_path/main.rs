//! What a command costs beside a bare `MultiplexedConnection`: `cargo bench --bench hot_path [-- --json]`.
//!
//! The bare connection is as redis-rs makes it, with a timer of 500 ms per command; ours keeps the same
//! deadline, exactly, by its sweep. Client and server share one core, because an unpinned comparison of
//! identical code may show anything from a half to the double, and the blocks of the two are
//! interleaved. Instructions and allocations are counted by valgrind, which no neighbour disturbs.
//! With `--guard` only instructions are counted, and more than were recorded are a failure.

mod allocations;
mod clients;
mod counted;
mod instructions;
mod pinning;
#[path = "../support/report.rs"]
mod report;
mod sizes;
#[path = "../../tests/support/mod.rs"]
mod support;
mod throughput;
#[path = "../support/valgrind.rs"]
mod valgrind;

use std::process::ExitCode;

use report::Report;
use support::redis_server::RedisServer;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("hot_path: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), String> {
    if let Some((mark, work)) = args.split_first()
        && mark == counted::COUNTED
    {
        return counted::Work::parse(work)?.run();
    }
    let mut json = false;
    let mut pinned = false;
    let mut guard = false;
    for arg in args {
        match arg.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--json" => json = true,
            "--guard" => guard = true,
            pinning::PINNED => pinned = true,
            unknown => {
                return Err(format!(
                    "unknown option {unknown}; there are --json and --guard"
                ));
            }
        }
    }
    if !pinned {
        return Err(pinning::again_on_one_core(args));
    }
    let report = Report::new(json);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        // Started from here, it inherits the core.
        let server = RedisServer::start().await;
        clients::fill(&server).await;
        if guard {
            return instructions::guard(&server, report);
        }
        sizes::measure(&server, report).await;
        allocations::measure(&server, report)?;
        instructions::measure(&server, report)?;
        throughput::measure(&server, report).await;
        Ok(())
    })
}
