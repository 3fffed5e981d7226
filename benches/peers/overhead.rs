//! What each client adds to the one it wraps, in its own language: GET in blocks that take turns.
//!
//! In a process of its own, on one core with the server and redis-py, because on several cores the scheduler's
//! placement differs by more than what is measured.

use redis::AsyncCommands;
use redis::aio::ConnectionLike;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ours::Ours;
use crate::pinning;
use crate::player::{OURS, THEIRS, Who};
use crate::redis_py::RedisPy;
use crate::report::{Report, median, rounded};
use crate::servers::{NAME, addresses, pair};

pub(crate) const CALLERS: [usize; 2] = [1, 32];
const ROUNDS: usize = 30;
/// Each block takes a fraction of a second in either language.
const COMMANDS_OURS: usize = 12_800;
const COMMANDS_THEIRS: usize = 3_200;

/// Starts this program again on one core, and reads its figures.
pub(crate) fn measure(report: Report) -> Result<Vec<Value>, String> {
    report.title("GET: commands/s beside the bare client of the same language, one core");
    report.progress(format_args!("overhead"));
    let done = pinning::itself_on_one_core(&[])?
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| pinning::no_taskset(&error))?;
    if !done.status.success() {
        return Err(format!("the overhead was not measured: {}", done.status));
    }
    let text = String::from_utf8_lossy(&done.stdout);
    let figures = text.lines().map(serde_json::from_str);
    let figures: Vec<Value> = figures
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the overhead's figures: {error}"))?;
    for json in &figures {
        report.figure(
            json,
            format_args!(
                "{:<8} {:>2} callers: {:.3} of bare (bare beside itself {:.3})",
                json["client"].as_str().unwrap_or_default(),
                json["callers"],
                json["ratio"].as_f64().unwrap_or_default(),
                json["noise"].as_f64().unwrap_or_default(),
            ),
        );
    }
    Ok(figures)
}

/// In that process.
pub(crate) fn measure_here() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        let servers = pair().await;
        let addresses = addresses(&servers);
        for callers in CALLERS {
            let client = Ours::connect(OURS, &addresses).await?;
            println!(
                "{}",
                figure(OURS, callers, &ours(&client, &addresses[0], callers).await?)
            );
            drop(client);
            let mut client = RedisPy::connect(THEIRS, &addresses).await?;
            println!(
                "{}",
                figure(THEIRS, callers, &theirs(&mut client, callers).await?)
            );
        }
        Ok(())
    })
}

/// Commands per second of the blocks, a round each: bare, wrapped, bare again.
struct Rates([Vec<f64>; 3]);

async fn ours(ours: &Ours, address: &str, callers: usize) -> Result<Rates, String> {
    let bare = redis::Client::open(format!("redis://{address}")).map_err(|e| e.to_string())?;
    let bare = bare.get_multiplexed_async_connection().await;
    let bare = bare.map_err(|error| error.to_string())?;
    let wrapped = ours.client().connection();
    let mut rates = Rates(Default::default());
    rate(&bare, callers).await;
    rate(&wrapped, callers).await;
    for _ in 0..ROUNDS {
        rates.0[0].push(rate(&bare, callers).await);
        rates.0[1].push(rate(&wrapped, callers).await);
        rates.0[2].push(rate(&bare, callers).await);
    }
    Ok(rates)
}

async fn rate(con: &(impl ConnectionLike + Clone + Send + Sync + 'static), callers: usize) -> f64 {
    let each = COMMANDS_OURS / callers;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let mut con = con.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                let name: String = con.get(NAME).await.expect("an answer");
                assert_eq!(name, "a");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a task without a panic");
    }
    (each * callers) as f64 / began.elapsed().as_secs_f64()
}

async fn theirs(theirs: &mut RedisPy, callers: usize) -> Result<Rates, String> {
    let order = json!({
        "do": "overhead", "key": NAME, "callers": callers, "commands": COMMANDS_THEIRS, "rounds": ROUNDS,
    });
    let answer = theirs.ask(&order).await?;
    let blocks = |name: &str| -> Vec<f64> {
        let blocks = answer[name].as_array().into_iter().flatten();
        blocks.filter_map(Value::as_f64).collect()
    };
    let rates = Rates(["bare", "wrapped", "again"].map(blocks));
    match rates.0.iter().all(|blocks| blocks.len() == ROUNDS) {
        true => Ok(rates),
        false => Err(format!("redis-py: {ROUNDS} rounds were expected: {answer}")),
    }
}

fn figure(who: Who, callers: usize, Rates([bare, wrapped, again]): &Rates) -> Value {
    let beside = |blocks: &[f64]| {
        let ratios: Vec<f64> = blocks
            .iter()
            .zip(bare)
            .map(|(one, bare)| one / bare)
            .collect();
        rounded(median(&ratios))
    };
    json!({
        "figure": "overhead", "client": who.client, "tuning": who.tuning, "callers": callers,
        "ratio": beside(wrapped), "noise": beside(again), "rounds": ROUNDS,
    })
}
