//! Every front at once, with everything listened to that a process can listen to: events, tracing at its finest
//! and of every crate, metrics with their labels, panics, and a file.

use std::fmt::Write as _;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use multidb::e6data::{E6dataBuilder, E6dataClient, E6dataError, Parameter};
use multidb::engine::last_active::LastActive;
use multidb::grpc::{GrpcEndpoint, MultiDbChannel};
use multidb::testing::e6data::{E6dataServer, Mishap};
use multidb::{LastActiveFile, telemetry};
use redis::Commands;
use tracing::field::{Field, Visit};
use tracing::span;

use super::*;

/// All that the process says beside what a test asks for.
fn ears() -> Said {
    static EARS: std::sync::OnceLock<Said> = std::sync::OnceLock::new();
    EARS.get_or_init(|| {
        let said = Said::default();
        tracing::subscriber::set_global_default(Tracer(said.clone())).unwrap();
        metrics::set_global_recorder(Meter(said.clone())).unwrap();
        let (heard, usual) = (said.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            // A test that fails says what it found, and one of them leaks on purpose.
            if !panic
                .location()
                .is_some_and(|at| at.file().starts_with("tests/"))
            {
                heard.text(panic.to_string());
            }
            usual(panic);
        }));
        said
    })
    .clone()
}

/// Every event in every way that there is to pass it on.
fn listening<B: multidb::engine::backend::Backend>(builder: Builder<B>, said: &Said) -> Builder<B> {
    let heard = said.clone();
    builder
        .on_event(telemetry::trace)
        .on_event(telemetry::meter)
        .on_event(move |event| heard.thing(event))
}

fn e6data(server: &E6dataServer) -> E6dataBuilder {
    E6dataClient::builder()
        .host("127.0.0.1")
        .port(server.address().port())
        .user(USER)
        .catalog("cat")
        .database("db")
        .operation_timeout(Duration::from_secs(1))
        .detection_timeout(Duration::from_secs(5))
}

fn e6data_error(said: &Said, error: &E6dataError) {
    said.thing(error);
    said.debug(error.kind());
    let mut cause = error.source();
    while let Some(error) = cause {
        said.text(format!("{error} {error:?} {error:#?}"));
        cause = error.source();
    }
}

fn e6data_client(said: &Said, client: &E6dataClient) {
    said.debug(client);
    said.debug(&client.connection());
    said.debug(&client.connection().cursor());
    let engine = client.engine();
    said.debug(engine);
    said.thing(&*engine.snapshot());
    said.text(engine.explain());
    telemetry::measure(&engine.statistics());
}

#[tokio::test]
async fn e6data_says_neither_a_password_nor_a_token_nor_a_statement() {
    let said = ears();
    let server = E6dataServer::start().await.unwrap();
    let wrong = e6data(&server).password(PASSWORD);
    said.debug(&wrong);
    e6data_error(&said, &wrong.connect().await.unwrap_err());
    let token = e6data(&server).bearer_token(TOKEN);
    said.debug(&token);
    let unfit = e6data(&server).bearer_token(format!("{TOKEN}\n"));
    e6data_error(&said, &unfit.connect_lazy().unwrap_err());
    let host = e6data(&server).password(PASSWORD);
    let host = host.host(format!("{USER}:{PASSWORD}@host"));
    e6data_error(&said, &host.connect_lazy().unwrap_err());

    server.knows(USER, PASSWORD);
    for builder in [
        e6data(&server).password(PASSWORD),
        e6data(&server).bearer_token(TOKEN),
    ] {
        let client = builder.connect().await.unwrap();
        let mut events = client.engine().events();
        e6data_client(&said, &client);
        let connection = client.connection();
        let of_value = [Parameter::from(VALUE)];
        if let Ok(query) = connection.query_with("SELECT ?", &of_value).await {
            said.debug(&query);
        }
        let mishaps = [
            Mishap::Reset,
            Mishap::LateReset,
            Mishap::Silence,
            Mishap::Garbage(VALUE.as_bytes().to_vec()),
            Mishap::Names(VALUE.to_owned()),
        ];
        for mishap in mishaps {
            for method in ["executeStatementV2", "prepareStatementV2"] {
                server.next(method, mishap.clone());
                let statement = format!("INSERT '{VALUE}'");
                match connection.query(&statement).await {
                    Ok(query) => said.debug(&query),
                    Err(error) => e6data_error(&said, &error),
                }
            }
        }
        e6data_client(&said, &client);
        client.close().await;
        if let Err(error) = connection.query(VALUE).await {
            e6data_error(&said, &error);
        }
        while let Ok(Some(event)) = timeout(Duration::from_millis(10), events.next()).await {
            telemetry::trace(&event);
            telemetry::meter(&event);
            said.thing(&event);
        }
    }
    assert!(!server.account().rpcs.is_empty());
    said.is_harmless();
}

#[tokio::test]
async fn a_grpc_channel_repeats_no_credentials_of_a_uri() {
    let said = ears();
    let uri = format!("http://{USER}:{}@127.0.0.1:1", percent_encoded(PASSWORD));
    said.thing(&GrpcEndpoint::new(&uri).unwrap_err());
    let builder = listening(MultiDbChannel::builder(), &said);
    said.error(&builder.endpoint(&uri, 1.0).connect_lazy().unwrap_err());
    let builder = listening(MultiDbChannel::builder(), &said);
    let channel = builder.endpoint("http://127.0.0.1:1", 1.0);
    said.error(&channel.connect().await.unwrap_err());
    said.is_harmless();
}

#[tokio::test]
async fn a_client_that_is_listened_to_says_no_secret_wherever_it_says_anything() {
    let said = ears();
    let folder = tempfile::tempdir().unwrap();
    let file = LastActiveFile::new(folder.path().join("last"));
    let start = || Server::builder().user(USER, PASSWORD).start();
    let (east, west) = (start().await.unwrap(), start().await.unwrap());
    let builder = listening(builder(&said), &said).last_active(file.clone());
    let client = builder
        .url(url_of(&east), 1.0)
        .url(url_of(&west), 0.5)
        .connect()
        .await
        .unwrap();
    let both = client.wait_for(|s| s.members.iter().all(|m| m.connected));
    timeout(LIMIT, both).await.unwrap().unwrap();
    let mut con = client.connection();
    let () = con.set(VALUE, VALUE).await.unwrap();
    east.kill();
    let there = west.addr().to_string();
    let moved = client.wait_for(|s| s.active.as_ref().is_some_and(|id| *id == *there));
    timeout(LIMIT, moved).await.unwrap().unwrap();
    west.hang();
    said.failure(&con.set::<_, _, ()>(VALUE, VALUE).await.unwrap_err());
    said.client(&client);
    telemetry::measure(&client.statistics());
    client.close().await;

    let kept = file.recall().expect("the one that was active last");
    assert_eq!(kept, *there);
    said.text(std::fs::read_to_string(folder.path().join("last")).unwrap());
    for place in std::fs::read_dir(folder.path()).unwrap() {
        said.debug(&place.unwrap().file_name());
    }
    let told = said.everything();
    for sign in ["multidb", "ActiveChanged", "multidb.connections"] {
        assert!(told.contains(sign), "nobody heard of {sign}");
    }
    said.is_harmless();
}

/// Synchronous code is told by other types, and panics in other places.
#[test]
fn a_blocking_connection_says_no_secret() {
    let said = ears();
    let server = multidb::blocking::wait(Server::builder().user(USER, PASSWORD).start()).unwrap();
    let client = listening(builder(&said), &said)
        .url(url_of(&server), 1.0)
        .connect_blocking()
        .unwrap();
    let mut con = client.get_connection().unwrap();
    said.debug(&con);
    let () = con.set(VALUE, VALUE).unwrap();
    server.hang();
    said.failure(&con.set::<_, _, ()>(VALUE, VALUE).unwrap_err());
    server.kill();
    said.failure(&con.set::<_, _, ()>(VALUE, VALUE).unwrap_err());
    said.debug(&con);
    said.client(&client);
    let wrong = listening(builder(&said), &said).url(url_of(&server), 1.0);
    said.error(&wrong.connect_blocking().unwrap_err());
    said.is_harmless();
}

// === what hears ===

struct Tracer(Said);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl tracing::Subscriber for Tracer {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line(format!("{} {}", metadata.level(), metadata.target()));
        event.record(&mut line);
        self.0.text(line.0);
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut line = Line(attributes.metadata().name().to_owned());
        attributes.record(&mut line);
        self.0.text(line.0);
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut line = Line(String::new());
        values.record(&mut line);
        self.0.text(line.0);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Meter(Said);

impl Meter {
    fn note(&self, key: &Key) {
        self.0.text(format!("{key} {key:?}"));
    }
}

impl Recorder for Meter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.note(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.note(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.note(key);
        Histogram::noop()
    }
}
