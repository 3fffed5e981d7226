//! e6data's client against the stand-in: real connections on loopback, two stacks that change places.

mod around;
mod failures;
mod queries;
mod switching;
mod wedge;

use std::future::Future;
use std::time::Duration;

use multidb::e6data::{Colour, E6dataBuilder, E6dataClient, E6dataError};
use multidb::testing::e6data::E6dataServer;
use multidb::{Event, Events};

/// A builder that has all it needs; times are short enough for tests.
fn builder(server: &E6dataServer) -> E6dataBuilder {
    E6dataClient::builder()
        .host("127.0.0.1")
        .port(server.address().port())
        .user("user")
        .password("password")
        .catalog("cat")
        .database("db")
        .operation_timeout(secs(20))
        .detection_timeout(secs(5))
}

async fn pair() -> (E6dataServer, E6dataClient) {
    let server = E6dataServer::start().await.unwrap();
    let client = builder(&server).connect().await.unwrap();
    (server, client)
}

/// Runs a statement to its end; says where it ran.
async fn run(client: &E6dataClient, statement: &str) -> Result<String, E6dataError> {
    let mut query = client.connection().query(statement).await?;
    let rows = query.fetch_all().await?;
    Ok(rows[0].named("ran_on").unwrap())
}

async fn until_active(client: &E6dataClient, colour: Colour) {
    let active = client.engine().wait_for(|s| {
        s.active
            .as_ref()
            .is_some_and(|active| *active == *colour.as_str())
    });
    soon(active).await.unwrap();
}

/// Nothing here takes so long.
async fn soon<F: Future>(future: F) -> F::Output {
    let output = tokio::time::timeout(secs(20), future).await;
    output.expect("not within 20 s")
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(ms(5)).await;
        }
    };
    let waited = tokio::time::timeout(secs(10), waiting).await;
    assert!(waited.is_ok(), "not within 10 s: {what}");
}

/// Every event so far.
async fn drain(events: &mut Events) -> Vec<Event> {
    let mut all = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(ms(20), events.next()).await {
        all.push(event);
    }
    all
}

fn switches(events: &[Event]) -> usize {
    let changed = |e: &&Event| matches!(e, Event::ActiveChanged { .. });
    events.iter().filter(changed).count()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
