//! The engine end to end, over scripted databases on a paused clock: every figure here is exact.

mod calls;
mod conformance;
mod detection;
mod directed;
mod ending;
mod events;
mod health;
mod membership;
mod policies;
mod start;
mod statistics;
mod switching;
mod verbs;

use std::time::Duration;

use multidb::engine::run::RunError;
use multidb::testing::scripted::{Script, ScriptError, Scripted, Work};
use multidb::{
    Builder, Database, DatabaseId, Error, ErrorKind, Event, Events, MultiDbClient, Snapshot,
};
use tokio::task::JoinHandle;

/// How a call may end.
type Outcome = Result<DatabaseId, RunError<ScriptError>>;

fn builder() -> Builder<Scripted> {
    Builder::new(Scripted).sweep_in_task().seed(1)
}

fn database(id: &str, script: &Script, weight: f64) -> Database<Script> {
    let database = Database::new(id, script.clone()).unwrap();
    database.weight(weight).unwrap()
}

/// Two scripts, of which the first is wanted more.
fn scripts() -> (Script, Script) {
    (Script::new(), Script::new())
}

fn over(east: &Script, west: &Script) -> Builder<Scripted> {
    builder()
        .database(database("east", east, 1.0))
        .database(database("west", west, 0.5))
}

/// A client that serves from east and has west standing by.
async fn pair() -> (MultiDbClient<Scripted>, Script, Script) {
    let (east, west) = scripts();
    let client = serving(over(&east, &west)).await;
    (client, east, west)
}

/// A client whose members have all been looked at.
async fn serving(builder: Builder<Scripted>) -> MultiDbClient<Scripted> {
    let client = builder.connect().await.unwrap();
    let all = client.wait_for(|s| s.members.iter().all(|m| m.verdict.is_some()));
    all.await.unwrap();
    // The probe connection of the active one comes with its first use.
    tokio::time::sleep(ms(1)).await;
    client
}

/// Starts a call that goes on by itself, and lets it get as far as it can.
async fn begin(client: &MultiDbClient<Scripted>, work: Work) -> JoinHandle<Outcome> {
    let mut router = client.router();
    let call = tokio::spawn(async move { router.run(&work).await });
    tokio::task::yield_now().await;
    call
}

async fn call(client: &MultiDbClient<Scripted>, work: Work) -> Outcome {
    client.router().run(&work).await
}

/// The engine's error; a driver's is a failure of the test.
fn ours(outcome: Outcome) -> Error {
    match outcome {
        Err(RunError::Engine(error)) => error,
        other => panic!("expected an error of the engine, got {other:?}"),
    }
}

fn kind(outcome: Outcome) -> ErrorKind {
    ours(outcome).kind().clone()
}

/// The next event that fits; those before it are skipped.
async fn next<T>(events: &mut Events, which: impl Fn(&Event) -> Option<T>) -> T {
    let wanted = async {
        loop {
            let event = events.next().await.expect("the client is closed");
            if let Some(found) = which(&event) {
                return found;
            }
        }
    };
    let limit = Duration::from_secs(24 * 3600);
    let found = tokio::time::timeout(limit, wanted).await;
    found.expect("no such event in a day")
}

/// Waits until the snapshot shows it.
async fn until(client: &MultiDbClient<Scripted>, condition: impl FnMut(&Snapshot) -> bool) {
    let limit = Duration::from_secs(24 * 3600);
    let waited = tokio::time::timeout(limit, client.wait_for(condition)).await;
    let shown = waited.unwrap_or_else(|_| panic!("not in a day: {}", client.explain()));
    shown.unwrap();
}

async fn until_active(client: &MultiDbClient<Scripted>, id: &str) {
    until(client, |s| {
        s.active.as_ref().is_some_and(|active| *active == *id)
    })
    .await;
}

/// Every event so far.
async fn drain(events: &mut Events) -> Vec<Event> {
    let mut all = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(ms(1), events.next()).await {
        all.push(event);
    }
    all
}

fn switched(event: &Event) -> Option<(Option<DatabaseId>, DatabaseId, multidb::Reason)> {
    match event {
        Event::ActiveChanged {
            from, to, reason, ..
        } => Some((from.clone(), to.clone(), *reason)),
        _ => None,
    }
}

fn switches(events: &[Event]) -> usize {
    events.iter().filter(|e| switched(e).is_some()).count()
}

fn active(client: &MultiDbClient<Scripted>) -> String {
    client
        .active()
        .map_or_else(String::new, |id| id.to_string())
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
