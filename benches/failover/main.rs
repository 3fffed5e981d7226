//! How long callers are without an answer: `cargo bench --bench failover [-- --json] [-- --runs N]`.
//!
//! Two real redis-servers, the standby warm. Half of the callers read a key that names its server, so
//! that a reply itself tells where it came from; half push unique elements, which must not be repeated.
//! A figure is the time from just before the fault to the first read that the other server answered.

#[path = "../support/report.rs"]
mod report;
mod scene;
mod subscriber;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

use multidb::Sensitivity;
use report::{Report, median, rounded, verdict};
use scene::{Fault, Run, Scene};
use serde_json::json;
use subscriber::Heard;

const FAULTS: [Fault; 3] = [Fault::Sigkill, Fault::Sigstop, Fault::BlackHole];
const PRESETS: [(&str, Sensitivity); 2] = [
    ("balanced", Sensitivity::Balanced),
    ("fast", Sensitivity::Fast),
];
const CALLERS: [usize; 2] = [8, 64];
const RUNS: usize = 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match parse(&args).and_then(|(report, runs)| measure(report, runs)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("failover: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<(Report, usize), String> {
    let mut report = Report::new(false);
    let mut runs = RUNS;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--json" => report = Report::new(true),
            "--runs" => {
                let number = args.next().and_then(|n| n.parse().ok());
                runs = number
                    .filter(|&n| n > 0)
                    .ok_or("--runs takes a number above 0")?;
            }
            unknown => {
                return Err(format!(
                    "unknown option {unknown}; there are --json and --runs N"
                ));
            }
        }
    }
    Ok((report, runs))
}

fn measure(report: Report, runs: usize) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    for (preset, sensitivity) in PRESETS {
        report.title(&format!(
            "{preset}: from the fault to the first answer of the other server"
        ));
        for fault in FAULTS {
            for callers in CALLERS {
                report.progress(format_args!(
                    "{preset}, {}, {callers} callers",
                    fault.name()
                ));
                let seen = runtime.block_on(async {
                    let mut scene = Scene::set(fault, sensitivity, callers).await;
                    let mut seen = Vec::with_capacity(runs);
                    for _ in 0..runs {
                        seen.push(scene.run().await);
                    }
                    scene.end().await;
                    seen
                });
                tell(report, preset, fault, callers, &seen);
            }
        }
    }
    report.title("a subscriber, 1000 messages a second: from the fault to subscribed elsewhere");
    for (preset, sensitivity) in PRESETS {
        for fault in FAULTS {
            report.progress(format_args!("{preset}, {}, a subscriber", fault.name()));
            let seen = runtime.block_on(async {
                let mut scene = Scene::set(fault, sensitivity, 0).await;
                let mut seen = Vec::with_capacity(runs);
                for _ in 0..runs {
                    seen.push(scene.listen().await);
                }
                scene.end().await;
                seen
            });
            tell_heard(report, preset, fault.name(), &seen);
        }
    }
    let seen = runtime.block_on(async {
        let scene = Scene::set(Fault::Sigkill, Sensitivity::default(), 0).await;
        let mut seen = Vec::with_capacity(runs);
        for _ in 0..runs {
            seen.push(scene.listen_to_a_switch().await);
        }
        scene.end().await;
        seen
    });
    tell_heard(report, "balanced", "a planned switch", &seen);
    Ok(())
}

fn tell_heard(report: Report, preset: &str, what: &str, seen: &[Heard]) {
    let times: Vec<f64> = seen.iter().map(|heard| heard.resubscribed_ms).collect();
    let middle = rounded(median(&times));
    let most = rounded(times.iter().copied().fold(0.0, f64::max));
    let lost: Vec<f64> = seen.iter().map(|heard| heard.lost as f64).collect();
    let (lost_all, lost_median): (usize, _) =
        (seen.iter().map(|heard| heard.lost).sum(), median(&lost));
    let doubled: usize = seen.iter().map(|heard| heard.doubled).sum();
    let published: usize = seen.iter().map(|heard| heard.published).sum();
    let json = json!({
        "figure": "resubscribed_ms", "fault": what, "preset": preset, "median": middle, "max": most,
        "runs": seen.len(), "published": published, "lost": lost_all, "doubled": doubled,
    });
    report.figure(
        &json,
        format_args!(
            "{preset:<8} {what:<16}: median {middle:>7.2} ms, max {most:>7.2} ms; of {published} \
             acknowledged messages lost {lost_all} (median of a run {lost_median}), doubled {doubled}",
        ),
    );
}

fn tell(report: Report, preset: &str, fault: Fault, callers: usize, seen: &[Run]) {
    let times: Vec<f64> = seen.iter().map(|run| run.first_success_ms).collect();
    let middle = rounded(median(&times));
    let most = rounded(times.iter().copied().fold(0.0, f64::max));
    let doubtful: usize = seen.iter().map(|run| run.unknown).sum();
    let worst = seen.iter().map(|run| run.unknown).max().unwrap_or(0);
    let others: usize = seen.iter().map(|run| run.failed_otherwise).sum();
    let reads: usize = seen.iter().map(|run| run.failed_reads).sum();
    let bar = fault.bar_ms(preset);
    let json = json!({
        "figure": "failover_ms", "fault": fault.name(), "preset": preset, "callers": callers,
        "median": middle, "max": most, "runs": seen.len(),
        "unknown_most": worst, "failed_otherwise": others, "failed_reads": reads,
    });
    report.figure(
        &json,
        format_args!(
            "{:<10} {callers:>3} callers: median {middle:>7.2} ms, max {most:>7.2} ms ({bar} ms {}); \
             pushes in doubt {doubtful} (at most {worst} a run), other failures {others}, failed reads {reads}",
            fault.name(),
            verdict(middle <= bar),
        ),
    );
}
