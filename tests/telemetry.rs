//! What operators see of a failover and an outage: the documented names, and no secret.

// Filled by listeners' threads, read by the test.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use multidb::testing::server::Server;
use multidb::{MultiDbClient, Status, telemetry};
use tokio::time::{sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::span;

const SECRET: &str = "canary-41d8";
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_an_outage_and_a_recovery_are_seen_under_their_documented_names() {
    tracing::subscriber::set_global_default(Tracer).unwrap();
    metrics::set_global_recorder(Meter).unwrap();
    let start = || Server::builder().password(SECRET).start();
    let (east, west) = (start().await.unwrap(), start().await.unwrap());
    assert!(east.url().contains(SECRET));
    let client = MultiDbClient::builder()
        .url(east.url(), 1.0)
        .url(west.url(), 0.5)
        .on_event(telemetry::trace)
        .on_event(telemetry::meter)
        .connect()
        .await
        .unwrap();
    let both = client.wait_for(|s| s.members.iter().all(|m| m.connected));
    timeout(LIMIT, both).await.unwrap().unwrap();
    let (east_id, west_id) = (east.addr().to_string(), west.addr().to_string());

    east.kill();
    let moved = client.wait_for(|s| s.active.as_ref().is_some_and(|id| *id == *west_id));
    timeout(LIMIT, moved).await.unwrap().unwrap();
    west.kill();
    let down = client.wait_for(|s| s.status != Status::Serving);
    timeout(LIMIT, down).await.unwrap().unwrap();
    west.revive().await.unwrap();
    client.reset_circuit(&west_id).await.unwrap();
    let well = client.wait_for(|s| s.status == Status::Serving);
    timeout(LIMIT, well).await.unwrap().unwrap();
    client.set_weight(&west_id, 0.7).await.unwrap();
    let () = redis::cmd("SET")
        .arg(&["key", SECRET])
        .query_async(&mut client.connection())
        .await
        .unwrap();
    telemetry::measure(&client.statistics());
    client.close().await;

    let deadline = tokio::time::Instant::now() + LIMIT;
    while !said().iter().any(|line| line.contains("event=closed")) {
        assert!(tokio::time::Instant::now() < deadline, "{:#?}", said());
        sleep(Duration::from_millis(2)).await;
    }
    let lines = said();
    let has = |words: &[&str]| {
        let found = lines
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "{words:?} in {lines:#?}");
    };
    has(&[
        "INFO multidb",
        "event=active_changed",
        "generation=1",
        &format!("to={east_id}"),
    ]);
    has(&[
        "WARN multidb",
        "event=active_changed",
        "generation=2",
        &format!("from={east_id}"),
        &format!("to={west_id}"),
        // By whichever connection the loss was noticed first.
        "reason=",
        "since_detection_ms=",
        "in_flight=0",
    ]);
    has(&[
        "WARN multidb",
        "event=circuit_changed",
        "to=Open",
        "dwell_ms=",
    ]);
    has(&[
        "WARN multidb",
        "event=health_changed",
        "verdict=unhealthy",
        "cause=",
    ]);
    has(&[
        "WARN multidb",
        "event=all_unavailable",
        "attempt=1",
        "gave_up=false",
    ]);
    has(&["INFO multidb", "event=recovered", "after_ms="]);
    has(&["INFO multidb", "event=weight_changed", "from=0.5", "to=0.7"]);

    let metrics = recorded();
    let value = |key: &str| metrics.get(key).copied();
    let count = |name: &str| {
        let named = metrics.iter().filter(|(key, _)| key.starts_with(name));
        named.map(|(_, value)| value).sum::<f64>()
    };
    let to_west = format!(" to={west_id}");
    let failovers = metrics
        .iter()
        .filter(|(key, _)| key.starts_with("multidb.failovers reason=") && key.ends_with(&to_west));
    assert!(failovers.map(|(_, count)| count).sum::<f64>() >= 1.0);
    assert!(count("multidb.active.changes") >= 2.0);
    assert!(value("multidb.failover.duration").is_some_and(|seconds| seconds < 1.0));
    assert_eq!(
        value(&format!("multidb.database.active database={east_id}")),
        Some(0.0)
    );
    assert_eq!(
        value(&format!("multidb.database.active database={west_id}")),
        Some(1.0)
    );
    assert_eq!(
        value(&format!("multidb.database.circuit database={east_id}")),
        Some(2.0)
    );
    assert_eq!(
        value(&format!("multidb.database.circuit database={west_id}")),
        Some(0.0)
    );
    assert_eq!(
        value(&format!("multidb.database.weight database={west_id}")),
        Some(0.7)
    );
    assert!(count("multidb.health.changes") >= 3.0);
    assert!(count("multidb.unavailable") >= 1.0);
    let outcome = |outcome: &str| {
        value(&format!(
            "multidb.attempts database={west_id} outcome={outcome}"
        ))
    };
    assert_eq!(outcome("executed"), Some(1.0));
    assert_eq!(outcome("unknown"), Some(0.0));
    assert_eq!(
        value(&format!("multidb.calls.in_flight database={west_id}")),
        Some(0.0)
    );
    let time = value(&format!("multidb.database.active.time database={west_id}"));
    assert!(time.is_some_and(|seconds| seconds > 0.0), "{time:?}");
    assert!(count("multidb.connections ") >= 3.0);
    assert!(count("multidb.probes ") >= 3.0);
    assert!(value("multidb.outage.duration").is_some());
    let everything = format!("{lines:?} {metrics:?}");
    assert!(!everything.contains(SECRET), "{everything}");
}

// === a subscriber that writes lines ===

static LINES: LazyLock<Mutex<Vec<String>>> = LazyLock::new(Mutex::default);

fn said() -> Vec<String> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

struct Tracer;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {field}={value}");
    }
}

impl tracing::Subscriber for Tracer {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "multidb"
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line(format!("{} {}", metadata.level(), metadata.target()));
        event.record(&mut line);
        LINES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

// === a recorder that keeps the last value ===

static VALUES: LazyLock<Mutex<BTreeMap<String, f64>>> = LazyLock::new(Mutex::default);

fn recorded() -> BTreeMap<String, f64> {
    VALUES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

struct Meter;

struct Named(String);

impl Named {
    fn of(key: &Key) -> Arc<Self> {
        let mut labels: Vec<_> = key
            .labels()
            .map(|l| format!(" {}={}", l.key(), l.value()))
            .collect();
        labels.sort();
        Arc::new(Self(format!("{}{}", key.name(), labels.concat())))
    }

    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut values = VALUES.lock().unwrap_or_else(PoisonError::into_inner);
        let value = values.entry(self.0.clone()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for Named {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }

    fn absolute(&self, to: u64) {
        self.change(|_| to as f64);
    }
}

impl GaugeFn for Named {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }

    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }

    fn set(&self, to: f64) {
        self.change(|_| to);
    }
}

impl HistogramFn for Named {
    fn record(&self, value: f64) {
        self.change(|_| value);
    }
}

impl Recorder for Meter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Named::of(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Named::of(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Named::of(key))
    }
}
