//! An e6data cluster is deployed anew, blue to green and back, under the queries of many tasks.
//!
//! `cargo run --release --features e6data,testing --example blue_green`, and `-- --json` for the counts alone.
//! The cluster is the stand-in of `multidb::testing`; nothing else is needed.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use multidb::Event;
use multidb::e6data::{Colour, E6dataClient, E6dataConnection};
use multidb::testing::e6data::E6dataServer;
use tokio::time::sleep;

const TASKS: usize = 32;

/// What the tasks have seen.
#[derive(Default)]
struct Seen {
    queries: AtomicU64,
    failed: AtomicU64,
    /// By colour, in the order of `Colour::BOTH`.
    ran_on: [AtomicU64; 2],
    /// Of those that began while a deployment was announced and both stacks served.
    new_in_window: AtomicU64,
    new_on_target: AtomicU64,
    switches: AtomicU64,
}

/// The target of the deployment that is announced; 2: none is.
struct Window(AtomicU8);

impl Window {
    fn target(&self) -> Option<Colour> {
        Colour::BOTH
            .get(usize::from(self.0.load(Ordering::SeqCst)))
            .copied()
    }

    fn open(&self, target: Option<Colour>) {
        let number = target.map_or(2, |target| target as u8);
        self.0.store(number, Ordering::SeqCst);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let json = std::env::args().any(|arg| arg == "--json");
    let server = E6dataServer::start().await?;
    server.latency(Duration::from_millis(2));
    let seen = Arc::new(Seen::default());
    let told = seen.clone();
    let client = E6dataClient::builder()
        .host("127.0.0.1")
        .port(server.address().port())
        .user("user")
        .password("password")
        .catalog("demo")
        .with(move |engine| {
            engine.on_event(move |event| {
                if let Event::ActiveChanged { from: Some(_), .. } = event {
                    told.switches.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .connect()
        .await?;

    let (window, going) = (
        Arc::new(Window(AtomicU8::new(2))),
        Arc::new(AtomicBool::new(true)),
    );
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (connection, seen) = (client.connection(), seen.clone());
            let (window, going) = (window.clone(), going.clone());
            tokio::spawn(async move {
                let mut n = 0;
                while going.load(Ordering::Relaxed) {
                    n += 1;
                    one(&connection, &seen, &window, format!("INSERT {task}, {n}")).await;
                }
            })
        })
        .collect();
    let showing = (!json).then(|| tokio::spawn(show(seen.clone(), window.clone())));

    sleep(Duration::from_millis(700)).await;
    for target in [Colour::Green, Colour::Blue] {
        // Announced, and both serve for a while; then the old one refuses what is new.
        server.serves(Colour::BOTH);
        window.open(Some(target));
        server.announces(Some(target));
        sleep(Duration::from_secs(1)).await;
        window.open(None);
        server.serves([target]);
        server.announces(None);
        sleep(Duration::from_millis(700)).await;
    }
    going.store(false, Ordering::Relaxed);
    for task in tasks {
        task.await?;
    }
    if let Some(showing) = showing {
        showing.abort();
        println!();
    }
    client.close().await;
    let twice = server.account().executed_twice();
    report(&seen, twice, json);
    match seen.failed.load(Ordering::Relaxed) == 0 && twice == 0 {
        true => Ok(()),
        false => Err("a query failed, or ran twice".into()),
    }
}

/// One statement to its end.
async fn one(connection: &E6dataConnection, seen: &Seen, window: &Window, statement: String) {
    let target = window.target();
    let ran = async {
        let mut query = connection.query(&statement).await?;
        let origin = query.origin().and_then(Colour::of);
        query.fetch_all().await?;
        Ok::<_, multidb::e6data::E6dataError>(origin)
    };
    seen.queries.fetch_add(1, Ordering::Relaxed);
    match ran.await {
        Ok(origin) => {
            if let Some(colour) = origin {
                seen.ran_on[colour as usize].fetch_add(1, Ordering::Relaxed);
            }
            if target.is_some() {
                seen.new_in_window.fetch_add(1, Ordering::Relaxed);
                seen.new_on_target
                    .fetch_add(u64::from(origin == target), Ordering::Relaxed);
            }
        }
        Err(error) => {
            eprintln!("{statement}: {error}");
            seen.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The load of both stacks, as it moves.
async fn show(seen: Arc<Seen>, window: Arc<Window>) {
    let step = Duration::from_millis(100);
    let terminal = std::io::stdout().is_terminal();
    let count = || [0, 1].map(|colour| seen.ran_on[colour].load(Ordering::Relaxed));
    let mut last = count();
    loop {
        sleep(step).await;
        let now = count();
        let bars = [0, 1].map(|colour| {
            let rate = (now[colour] - last[colour]) * 10;
            let bar = "█".repeat(usize::try_from(rate / 150).unwrap_or(0).min(24));
            format!("{:>5} {bar:<24} {rate:>5}/s", Colour::BOTH[colour])
        });
        last = now;
        let news = window
            .target()
            .map_or(String::new(), |target| format!("{target} is announced"));
        let line = format!("{}  {}  {news:<18}", bars[0], bars[1]);
        match terminal {
            true => print!("\r{line}"),
            false => println!("{}", line.trim_end()),
        }
        let _ = std::io::stdout().flush();
    }
}

fn report(seen: &Seen, executed_twice: usize, json: bool) {
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (queries, failed, switches) = (of(&seen.queries), of(&seen.failed), of(&seen.switches));
    let (moved, new) = (of(&seen.new_on_target), of(&seen.new_in_window));
    if json {
        println!(
            "{{\"queries\": {queries}, \"failed\": {failed}, \"executed_twice\": {executed_twice}, \
             \"new_on_target_in_window\": {moved}, \"new_in_window\": {new}, \"switches\": {switches}}}"
        );
        return;
    }
    println!(
        "{queries} queries, {failed} failed, {executed_twice} executed twice, {switches} switches"
    );
    println!("{moved} of {new} that began while a deployment was announced went to its target");
}
