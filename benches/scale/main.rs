//! What more members, callers and handles cost: `cargo bench --bench scale [-- --json]`.
//!
//! Instructions and bytes are counted by valgrind in processes of their own, over real servers; each
//! count is the difference of two runs, so that start and end fall out. Idle cost is the processor
//! time that the kernel booked for a process that does nothing.

mod child;
#[path = "../hot_path/clients.rs"]
#[expect(dead_code, reason = "the other bench uses more of it")]
mod clients;
#[path = "../support/report.rs"]
#[allow(dead_code, reason = "the other benches use more of it")]
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../support/valgrind.rs"]
mod valgrind;

use std::process::{Command, ExitCode, Stdio};

use serde_json::json;

use child::{CHILD, Work};
use report::{Report, rounded, verdict};
use support::redis_server::RedisServer;
use valgrind::Count;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("scale: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), String> {
    if let Some((mark, work)) = args.split_first()
        && mark == CHILD
    {
        return Work::parse(work)?.run();
    }
    let mut json = false;
    for arg in args {
        match arg.as_str() {
            // What cargo adds.
            "--bench" => {}
            "--json" => json = true,
            unknown => return Err(format!("unknown option {unknown}; there is only --json")),
        }
    }
    let report = Report::new(json);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let server = RedisServer::start().await;
        clients::fill(&server).await;
        by_members(&server, report)?;
        by_callers(&server, report)?;
        held(&server, report).await?;
        idle(&server, report)
    })
}

const MEMBERS: [usize; 4] = [2, 16, 256, 1000];

fn by_members(server: &RedisServer, report: Report) -> Result<(), String> {
    report.title("instructions per command, by members");
    let mut least = None;
    for members in MEMBERS {
        report.progress(format_args!("instructions, {members} members"));
        let count = per_command(|commands| Work::Commands {
            members,
            callers: 1,
            commands,
            url: server.url(),
        })?;
        let ratio = rounded(count / *least.get_or_insert(count));
        report.figure(
            &json!({"figure": "instructions_by_members", "members": members, "value": count.round(), "ratio": ratio}),
            format_args!(
                "{members:5} members: {count:.0}, {ratio:.3} of that with two; bar {FLAT}: {}",
                verdict(ratio <= FLAT)
            ),
        );
    }
    Ok(())
}

fn by_callers(server: &RedisServer, report: Report) -> Result<(), String> {
    report.title("instructions per command, by callers; bare beside it");
    for callers in [1, 100, 1000, 10_000] {
        report.progress(format_args!("instructions, {callers} callers"));
        let count = |members| {
            per_command(|commands| Work::Commands {
                members,
                callers,
                commands: commands.max(2 * callers),
                url: server.url(),
            })
        };
        let (bare, ours) = (count(BARE)?, count(2)?);
        let ratio = rounded(ours / bare);
        report.figure(
            &json!({"figure": "instructions_by_callers", "callers": callers, "value": ours.round(), "bare": bare.round(), "ratio": ratio}),
            format_args!(
                "{callers:5} callers: bare {bare:.0}, ours {ours:.0}, ratio {ratio:.3}; bar {BAR}: {}",
                verdict(ratio <= BAR)
            ),
        );
    }
    Ok(())
}

async fn held(server: &RedisServer, report: Report) -> Result<(), String> {
    report.title("bytes on the heap");
    let url = server.url();
    let many = 500;
    report.progress(format_args!("bytes per member"));
    let members = |members| {
        Count::Held.of(&Work::Members {
            members,
            url: url.clone(),
        }
        .args())
    };
    let bytes = (members(2 + many)? - members(2)?) as f64 / many as f64;
    report.figure(
        &json!({"figure": "bytes_per_member", "value": bytes.round()}),
        format_args!("a member, its connections included: {bytes:.0}"),
    );

    report.progress(format_args!("bytes per handle"));
    let handles = |members, handles| {
        let url = url.clone();
        Count::Held.of(&Work::Handles {
            members,
            handles,
            url,
        }
        .args())
    };
    let per_handle = |members| -> Result<f64, String> {
        Ok((handles(members, 10_000)? - handles(members, 0)?) as f64 / 10_000.0)
    };
    let (bare, ours) = (per_handle(BARE)?, per_handle(2)?);
    report.figure(
        &json!({"figure": "bytes_per_handle", "value": ours.round(), "bare": bare.round()}),
        format_args!("a handle, itself included: bare {bare:.0}, ours {ours:.0}"),
    );

    report.progress(format_args!("bytes per call in flight"));
    let mut per_call = [0.0; 2];
    for (index, members) in [BARE, 2].into_iter().enumerate() {
        let mut bytes = [0; 2];
        for (index, calls) in [100, 2100].into_iter().enumerate() {
            // The child puts its server to sleep for good.
            let server = RedisServer::start().await;
            let url = server.url();
            bytes[index] = Count::Held.of(&Work::InFlight {
                members,
                calls,
                url,
            }
            .args())?;
        }
        per_call[index] = (bytes[1] as f64 - bytes[0] as f64) / 2000.0;
    }
    let [bare, ours] = per_call;
    report.figure(
        &json!({"figure": "bytes_per_call_in_flight", "value": ours.round(), "bare": bare.round()}),
        format_args!("a call in flight, its task included: bare {bare:.0}, ours {ours:.0}"),
    );
    Ok(())
}

fn idle(server: &RedisServer, report: Report) -> Result<(), String> {
    report.title("processor time of an idle client at its defaults, in % of a core");
    let mut percents = Vec::new();
    for members in MEMBERS {
        report.progress(format_args!("idle, {members} members"));
        let url = server.url();
        let used = output(&Work::Idle { members, url })?;
        let percent = used * 100.0;
        percents.push((members, percent));
        let bar = match members {
            2 => format!("; bar {IDLE}: {}", verdict(percent <= IDLE)),
            _ => String::new(),
        };
        report.figure(
            &json!({"figure": "idle_percent", "members": members, "value": rounded(percent)}),
            format_args!("{members:5} members: {percent:.3} %{bar}"),
        );
    }
    let (few, many) = (percents[0], percents[MEMBERS.len() - 1]);
    let probes = (many.0 - few.0) as f64 * PROBES_PER_SECOND;
    let each = (many.1 - few.1) / 100.0 / probes * 1e6;
    report.figure(
        &json!({"figure": "probe_us", "value": rounded(each)}),
        format_args!("a probe, client side: {each:.1} µs"),
    );
    Ok(())
}

/// What a command costs: of two runs, one twice as long, the difference.
fn per_command(work: impl Fn(usize) -> Work) -> Result<f64, String> {
    let count = |commands| Count::Instructions.of(&work(commands).args());
    let (once, twice) = (work(COMMANDS).commands(), work(2 * COMMANDS).commands());
    let more = match twice > once {
        true => twice,
        // So many callers that one command each is more than usual.
        false => 2 * once,
    };
    Ok((count(more)? as f64 - count(once)? as f64) / (more - once) as f64)
}

/// What a child says of itself.
fn output(work: &Work) -> Result<f64, String> {
    let exe = std::env::current_exe().map_err(|error| format!("cannot find itself: {error}"))?;
    let child = Command::new(exe)
        .args(work.args())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("no child: {error}"))?;
    let text = String::from_utf8_lossy(&child.stdout);
    text.trim()
        .parse()
        .map_err(|_| format!("not a number: {text:?} ({})", child.status))
}

/// Stands for a bare connection where a number of members is asked for.
const BARE: usize = 0;
/// Many, because connecting to a thousand members varies by as much as some thousand commands.
const COMMANDS: usize = 25_600;
/// More members may not show in what a command costs. What is left is the supervisor, which looks at
/// all of them five times a second: under valgrind a second has so few commands that this shows.
const FLAT: f64 = 1.05;
const BAR: f64 = 0.95;
const IDLE: f64 = 0.1;
/// Three attempts every five seconds.
const PROBES_PER_SECOND: f64 = 0.6;
