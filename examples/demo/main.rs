//! Databases die, hang and vanish under load, and nothing acknowledged is lost.
//!
//! `cargo run --release --example demo` needs nothing installed; `-- --help` says what it does.

mod args;
mod live;
mod load;
mod plot;
mod real;
mod report;
mod screen;
mod script;
mod stage;
mod timeline;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use multidb::redis::{Redis, RedisEndpoint};
use multidb::{Config, Database, MultiDbClient};

use args::{Args, Wish};
use live::Live;
use load::Load;
use plot::Picture;
use report::Report;
use screen::Screen;
use script::{Plan, Show};
use stage::{NAMES, Stage};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(Wish::Run(args)) => args,
        Ok(Wish::Help) => {
            screen::print(args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("demo: {problem}; see --help");
            return ExitCode::from(2);
        }
    };
    let interrupt = CancellationToken::new();
    // Dropping the performance ends its servers, so an interrupt leaves none behind.
    let outcome = tokio::select! {
        outcome = perform(&args, &interrupt) => outcome,
        () = interrupted(&interrupt) => {
            eprintln!("demo: interrupted, so there is no verdict");
            return ExitCode::from(130);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Everything from the first server to the verdict; whether that is good.
async fn perform(args: &Args, interrupt: &CancellationToken) -> Result<bool, Failure> {
    let screen = Arc::new(Screen::new(args));
    let mut stage = Stage::set_up(args.redis).await?;
    let plan = Plan::new(args, &stage, &screen);
    let client = connect(&stage, &plan, args.seed).await?;
    screen.introduce(args, &stage, &plan);

    let load = Load::start(&client, args);
    let narrator = screen::narrate(screen.clone(), &client);
    let shown = screen.clone();
    let tell = move |moment: &_| shown.moment(moment);
    let recorder = timeline::record(screen.began(), client.clone(), load.meter(), tell);
    let (keys, commands) = mpsc::unbounded_channel();
    let live = match screen.is_live() {
        true => {
            let (screen, client, interrupt) = (screen.clone(), client.clone(), interrupt.clone());
            Some(Live::start(screen, client, plan.faults, keys, interrupt)?)
        }
        false => None,
    };
    let show = Show {
        plan: &plan,
        stage: &mut stage,
        client: &client,
        screen: &screen,
        commands,
        incidents: Vec::new(),
    };
    let played = show.play().await?;
    let history = load.stop().await?;
    client.close().await;
    narrator.await?;
    let moments = recorder.await?;
    drop(live);

    if let Some(file) = &args.plot {
        let picture = Picture {
            title: &format!("{} tasks write while the active database fails", args.tasks),
            began: screen.began(),
            moments: &moments,
            incidents: &played.incidents,
        };
        picture.save(file)?;
    }
    screen.note("reading back what both databases hold");
    let contents = stage.read_back().await?;
    let report = Report::new(&plan, &played, &history, &contents);
    screen.conclude(&report);
    Ok(report.is_good())
}

async fn connect(
    stage: &Stage,
    plan: &Plan,
    seed: u64,
) -> Result<MultiDbClient<Redis>, multidb::Error> {
    let mut config = Config::default();
    config.circuit.grace_period = plan.grace;
    config.circuit.max_grace_period = plan.grace;
    let [east, west] = stage.urls().map(|url| RedisEndpoint::parse(&url));
    MultiDbClient::builder()
        .config(config)
        .database(Database::new(NAMES[0], east?)?.weight(1.0)?)
        .database(Database::new(NAMES[1], west?)?.weight(0.5)?)
        .seed(seed)
        .connect()
        .await
}

/// Ctrl-C, or the polite request of a supervisor such as `timeout`.
async fn interrupted(key: &CancellationToken) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
                () = key.cancelled() => {}
            }
            return;
        }
    }
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = key.cancelled() => {}
    }
}

/// `1234567` as `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}
