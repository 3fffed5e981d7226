//! What cannot work is refused before anything is done, and named by its path.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use multidb::engine::backend::Wiring;
use multidb::redis::{
    Connector, DatabaseConfig, Redis, RedisConfig, RedisEndpoint, Transport, WriteProbe,
};
use multidb::{
    Builder, Config, ConfigError, Database, DatabaseId, Drain, ErrorKind, MultiDbClient,
    ProbePolicy, Sensitivity, StartPolicy, Weight,
};
use proptest::prelude::*;

// === before any I/O ===

/// Counts how often somebody wants to connect, and lets nobody.
#[derive(Clone, Default)]
struct Untouched(Arc<AtomicUsize>);

impl Connector for Untouched {
    fn connect<'a>(
        &'a self,
        _: &'a RedisEndpoint,
        _: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

const GOOD: &str = "redis://127.0.0.1:1";

/// Builds both ways; the field that both complain about.
async fn refused(build: impl Fn(Builder<Redis>) -> Builder<Redis>) -> ConfigError {
    let untouched = Untouched::default();
    let builder = || build(MultiDbClient::builder().connector(untouched.clone()));
    let lazily = invalid(builder().connect_lazy());
    let at_once = invalid(builder().connect().await);
    assert_eq!(lazily, at_once);
    assert_eq!(
        untouched.0.load(Ordering::Relaxed),
        0,
        "{lazily}: somebody has connected"
    );
    lazily
}

fn invalid<T: std::fmt::Debug>(result: Result<T, multidb::Error>) -> ConfigError {
    let error = result.expect_err("a configuration that cannot work");
    assert!(error.is_retry_safe() && !error.is_temporary());
    match error.kind() {
        ErrorKind::Invalid(error) => error.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_connector_that_must_not_be_touched_is_touched_by_a_good_configuration() {
    let untouched = Untouched::default();
    let builder = MultiDbClient::builder().connector(untouched.clone());
    let error = builder.url(GOOD, 1.0).connect().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotStarted);
    assert!(untouched.0.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_bad_list_of_databases_is_refused() {
    assert_eq!(refused(|b| b).await.field(), "databases");
    let twice = refused(|b| b.url(GOOD, 1.0).url(GOOD, 0.5)).await;
    assert_eq!(twice.field(), "databases[1].id");
    let other_user = "redis://somebody@127.0.0.1:1";
    let twice = refused(|b| b.url(GOOD, 1.0).url(other_user, 0.5)).await;
    assert_eq!(twice.field(), "databases[1].id", "an id holds no user");
    let named = |id: &str| {
        let endpoint = RedisEndpoint::parse(GOOD).unwrap();
        Database::new(id, endpoint).unwrap()
    };
    let twice = refused(|b| {
        b.database(named("a"))
            .database(named("b"))
            .database(named("a"))
    })
    .await;
    assert_eq!(twice.field(), "databases[2].id");
}

#[tokio::test]
async fn a_bad_weight_is_refused() {
    for weight in [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -1.0,
        -f64::MIN_POSITIVE,
    ] {
        let error = refused(|b| b.url(GOOD, 1.0).url("redis://127.0.0.1:2", weight)).await;
        assert_eq!(error.field(), "databases[1].weight", "{weight}");
        assert_eq!(Weight::new(weight).unwrap_err().field(), "weight");
        let error = invalid(MultiDbClient::open([(GOOD, weight)]));
        assert_eq!(error.field(), "databases[0].weight", "{weight}");
    }
    for weight in [0.0, -0.0, f64::MIN_POSITIVE, f64::MAX] {
        MultiDbClient::open([(GOOD, weight)]).unwrap();
    }
}

#[tokio::test]
async fn a_bad_weight_given_to_a_running_client_changes_nothing() {
    let server = multidb::testing::server::Server::start().await.unwrap();
    let client = MultiDbClient::builder()
        .url(server.url(), 2.0)
        .connect()
        .await
        .unwrap();
    let id = client.active().unwrap();
    let error = invalid(client.set_weight(&id, f64::NAN).await);
    assert_eq!(error.field(), "weight");
    assert_eq!(client.snapshot().members[0].weight.value(), 2.0);
    client.close().await;
}

#[tokio::test]
async fn a_bad_url_is_refused() {
    let long_host = format!("redis://{}:1", "h".repeat(200));
    let urls = [
        "",
        " ",
        "127.0.0.1:6379",
        "redis:127.0.0.1",
        "redis://",
        "redis://:6379",
        "redis://host:0",
        "redis://host:65536",
        "redis://host:port",
        "redis://host/one",
        "redis://host/-1",
        "redis://host/99999999999999999999",
        "redis://host?protocol=resp4",
        "redis://[::1",
        "redis://host name",
        "http://host",
        "rediss://host#secure",
        "valkeys://host/one",
        "unix://",
        "unix://host/tmp/redis.sock",
        "redis+unix:///",
        "valkey+unix:///tmp/redis.sock?db=one",
        "redis://\0",
        &long_host,
    ];
    for url in urls {
        let error = refused(|b| b.url(GOOD, 1.0).url(url, 1.0)).await;
        assert_eq!(error.field(), "databases[1].url", "{url:?}: {error}");
        assert!(url.len() < 5 || !error.problem().contains(url), "{error}");
    }
    for url in [
        "redis://host",
        "valkey://host:1/15?protocol=resp3",
        "redis://user:p%40ss@[::1]:7",
        "unix:///tmp/redis.sock",
        "redis+unix:///tmp/redis.sock?db=1",
        "valkey+unix:///tmp/redis.sock?user=user&pass=p%40ss",
    ] {
        MultiDbClient::open([(url, 1.0)]).unwrap();
    }
}

#[tokio::test]
async fn a_bad_id_or_failure_domain_is_refused() {
    let endpoint = RedisEndpoint::parse(GOOD).unwrap();
    for name in [
        "",
        "two\nlines",
        &"x".repeat(DatabaseId::MAX_LEN + 1),
        "\u{7f}",
    ] {
        let error = Database::new(name, endpoint.clone()).unwrap_err();
        assert_eq!(error.field(), "id");
        let database = Database::new("a", endpoint.clone()).unwrap();
        assert_eq!(
            database.failure_domain(name).unwrap_err().field(),
            "failure_domain"
        );
    }
}

/// A change to a configuration, and the field it spoils.
type Slip = (&'static str, fn(&mut Config));

const ZERO: Duration = Duration::ZERO;
const AGES: Duration = Duration::MAX;

#[rustfmt::skip]
const SLIPS: &[Slip] = &[
    ("calls.deadline", |c| c.calls.deadline = ZERO),
    ("calls.deadline", |c| c.calls.deadline = AGES),
    ("calls.response_timeout", |c| c.calls.response_timeout = ZERO),
    ("calls.response_timeout", |c| c.calls.response_timeout = AGES),
    ("calls.connect_timeout", |c| c.calls.connect_timeout = ZERO),
    ("calls.connect_timeout", |c| c.calls.connect_timeout = AGES),
    ("calls.backoff_min", |c| c.calls.backoff_min = ZERO),
    ("calls.backoff_max", |c| c.calls.backoff_max = ZERO),
    ("calls.backoff_max", |c| c.calls.backoff_min = Duration::from_secs(2)),
    ("calls.retry_ratio", |c| c.calls.retry_ratio = f64::NAN),
    ("calls.retry_ratio", |c| c.calls.retry_ratio = f64::INFINITY),
    ("calls.retry_ratio", |c| c.calls.retry_ratio = -0.1),
    ("calls.retry_ratio", |c| c.calls.retry_ratio = 1.1),
    ("calls.retry_floor", |c| c.calls.retry_floor = u32::MAX),
    ("calls.max_waiting", |c| c.calls.max_waiting = 0),
    ("calls.max_waiting", |c| c.calls.max_waiting = usize::MAX),
    ("sensitivity", |c| c.sensitivity = Sensitivity::Custom(ZERO)),
    ("sensitivity", |c| c.sensitivity = Sensitivity::Custom(AGES)),
    ("health.interval", |c| c.health.interval = ZERO),
    ("health.interval", |c| c.health.interval = AGES),
    ("health.probes", |c| c.health.probes = 0),
    ("health.probes", |c| c.health.probes = u32::MAX),
    ("health.delay", |c| c.health.delay = AGES),
    ("health.timeout", |c| c.health.timeout = ZERO),
    ("health.timeout", |c| c.health.timeout = AGES),
    ("health.max_backoff", |c| c.health.max_backoff = ZERO),
    ("health.max_backoff", |c| c.health.max_backoff = AGES),
    ("detector.window", |c| c.detector.window = ZERO),
    ("detector.window", |c| c.detector.window = AGES),
    ("detector.min_failures", |c| c.detector.min_failures = 0),
    ("detector.failure_rate", |c| c.detector.failure_rate = f64::NAN),
    ("detector.failure_rate", |c| c.detector.failure_rate = f64::NEG_INFINITY),
    ("detector.failure_rate", |c| c.detector.failure_rate = 10.0),
    ("detector.consecutive_failures", |c| c.detector.consecutive_failures = 0),
    ("circuit.grace_period", |c| c.circuit.grace_period = ZERO),
    ("circuit.max_grace_period", |c| c.circuit.max_grace_period = AGES),
    ("circuit.max_grace_period", |c| c.circuit.max_grace_period = Duration::from_secs(1)),
    ("circuit.stability_window", |c| c.circuit.stability_window = ZERO),
    ("circuit.recovery_probes", |c| c.circuit.recovery_probes = 0),
    ("circuit.recovery_probes", |c| c.circuit.recovery_probes = u32::MAX),
    ("failover.attempts", |c| c.failover.attempts = 0),
    ("failover.attempts", |c| c.failover.attempts = u32::MAX),
    ("failover.delay", |c| c.failover.delay = ZERO),
    ("failover.delay", |c| c.failover.delay = AGES),
    ("failover.fallback_interval", |c| c.failover.fallback_interval = ZERO),
    ("failover.last_resort_min", |c| c.failover.last_resort_min = ZERO),
    ("failover.last_resort_max", |c| c.failover.last_resort_max = AGES),
    ("failover.last_resort_max", |c| c.failover.last_resort_max = Duration::from_millis(1)),
    ("failover.drain", |c| c.failover.drain = Drain::Cancel(AGES)),
    ("start.deadline", |c| c.start.deadline = ZERO),
    ("start.deadline", |c| c.start.deadline = AGES),
];

#[tokio::test]
async fn durations_and_counts_that_cannot_work_are_refused() {
    for (field, slip) in SLIPS {
        let mut config = Config::default();
        slip(&mut config);
        assert_eq!(config.validate().unwrap_err().field(), *field);
        let error = refused(|b| b.url(GOOD, 1.0).config(config.clone())).await;
        assert_eq!(error.field(), *field);
    }
    let error = refused(|b| b.url(GOOD, 1.0).deadline(ZERO)).await;
    assert_eq!(error.field(), "calls.deadline");
    let error = refused(|b| b.url(GOOD, 1.0).grace_period(AGES)).await;
    assert_eq!(error.field(), "circuit.grace_period");
    let database = || Database::new("a", RedisEndpoint::parse(GOOD).unwrap()).unwrap();
    let error = refused(|b| b.database(database().grace_period(ZERO))).await;
    assert_eq!(error.field(), "databases[0].grace_period");
}

#[tokio::test]
async fn the_first_of_several_mistakes_in_the_databases_is_told() {
    let error = refused(|b| b.url("nowhere", 1.0).url(GOOD, -1.0).deadline(ZERO)).await;
    assert_eq!(error.field(), "databases[0].url");
}

// === the defaults ===

/// As the documentation of each field says.
#[test]
fn the_defaults_are_the_documented_ones() {
    let ms = Duration::from_millis;
    let s = Duration::from_secs;
    let config = Config::default();
    let calls = &config.calls;
    assert_eq!((calls.deadline, calls.response_timeout), (s(5), ms(500)));
    assert_eq!((calls.connect_timeout, calls.max_waiting), (s(1), 10_000));
    assert_eq!((calls.backoff_min, calls.backoff_max), (ms(20), s(1)));
    assert_eq!((calls.retry_ratio, calls.retry_floor), (0.1, 10));
    assert_eq!(config.sensitivity, Sensitivity::Balanced);
    let tolerances = [
        Sensitivity::Conservative,
        Sensitivity::Balanced,
        Sensitivity::Fast,
    ];
    assert_eq!(
        tolerances.map(Sensitivity::tolerance),
        [s(1), ms(300), ms(40)]
    );
    let health = &config.health;
    assert_eq!((health.interval, health.timeout), (s(5), s(3)));
    assert_eq!((health.probes, health.delay), (3, ms(500)));
    assert_eq!(
        (health.policy, health.max_backoff, health.fresh_every),
        (ProbePolicy::All, s(10), 12)
    );
    let detector = &config.detector;
    assert_eq!((detector.window, detector.min_failures), (s(2), 20));
    assert_eq!(
        (detector.failure_rate, detector.consecutive_failures),
        (0.1, 20)
    );
    let circuit = &config.circuit;
    assert_eq!(
        (circuit.grace_period, circuit.max_grace_period),
        (s(60), s(600))
    );
    assert_eq!(
        (circuit.stability_window, circuit.recovery_probes),
        (s(600), 2)
    );
    let failover = &config.failover;
    assert_eq!((failover.attempts, failover.delay), (10, s(12)));
    assert_eq!(
        (failover.auto_fallback, failover.fallback_interval),
        (true, s(120))
    );
    assert_eq!(
        (failover.last_resort_min, failover.last_resort_max),
        (ms(100), s(5))
    );
    assert_eq!(failover.drain, Drain::Leave);
    assert_eq!(
        (config.start.policy, config.start.deadline),
        (StartPolicy::One, s(5))
    );
    assert_eq!(Weight::default().value(), 1.0);
}

#[test]
fn what_a_file_leaves_out_has_its_default() {
    let read = RedisConfig::from_toml(&format!("[[databases]]\nurl = '{GOOD}'")).unwrap();
    let config = Config::default();
    assert_eq!(read.calls, config.calls);
    assert_eq!(read.sensitivity, config.sensitivity);
    assert_eq!(read.health, config.health);
    assert_eq!(read.detector, config.detector);
    assert_eq!(read.circuit, config.circuit);
    assert_eq!(read.failover, config.failover);
    assert_eq!(read.start, config.start);
    let client = read.builder().unwrap().connect_lazy();
    client.unwrap();
}

// === files ===

/// Every field there is, none at its default.
const EVERYTHING: &str = r#"
sensitivity = { custom = "75ms" }

[calls]
deadline = "2s"
response_timeout = "250ms"
connect_timeout = "1s 500ms"
backoff_min = "5ms"
backoff_max = "2s"
retry_ratio = 0.25
retry_floor = 7
max_waiting = 100

[health]
interval = "1m"
probes = 5
delay = "0s"
timeout = "700ms"
policy = "majority"
max_backoff = "30s"
fresh_every = 7

[detector]
window = "10s"
min_failures = 1000
failure_rate = 0.5
consecutive_failures = 30

[circuit]
grace_period = "10s"
max_grace_period = "1h"
stability_window = "2h"
recovery_probes = 4

[failover]
attempts = 3
delay = "1s"
auto_fallback = false
fallback_interval = "90s"
last_resort_min = "50ms"
last_resort_max = "1s"
drain = { cancel = "3s" }

[start]
policy = "all"
deadline = "9s"

[[databases]]
id = "east"
url = "redis://127.0.0.1:1"
weight = 2
failure_domain = "region"
enabled = false
grace_period = "5s"

[[databases]]
url = "redis://127.0.0.1:2/3?protocol=resp3"
"#;

fn everything() -> Config {
    let read = RedisConfig::from_toml(EVERYTHING).unwrap();
    let mut config = Config::default();
    config.calls = read.calls;
    config.sensitivity = read.sensitivity;
    config.health = read.health;
    config.detector = read.detector;
    config.circuit = read.circuit;
    config.failover = read.failover;
    config.start = read.start;
    config
}

#[test]
fn every_field_can_be_read_from_a_file() {
    let ms = Duration::from_millis;
    let s = Duration::from_secs;
    let (config, default) = (everything(), Config::default());
    assert_eq!(config.sensitivity, Sensitivity::Custom(ms(75)));
    assert_eq!(
        (config.calls.connect_timeout, config.calls.retry_ratio),
        (ms(1500), 0.25)
    );
    assert_eq!(
        (config.health.delay, config.health.policy),
        (ZERO, ProbePolicy::Majority)
    );
    assert_eq!(config.circuit.max_grace_period, s(3600));
    assert_eq!(config.failover.drain, Drain::Cancel(s(3)));
    assert_eq!(
        (config.start.policy, config.start.deadline),
        (StartPolicy::All, s(9))
    );
    // A field that is read into another one, or not at all, would show here.
    let (config, default) = (json(&config), json(&default));
    for (section, fields) in default.as_object().unwrap() {
        match fields.as_object() {
            None => assert_ne!(config[section], *fields, "{section}"),
            Some(fields) => {
                for (field, value) in fields {
                    assert_ne!(config[section][field], *value, "{section}.{field}");
                }
            }
        }
    }

    let read = RedisConfig::from_toml(EVERYTHING).unwrap();
    let DatabaseConfig {
        id,
        weight,
        failure_domain,
        enabled,
        grace_period,
        ..
    } = read.databases[0].clone();
    assert_eq!((id.as_deref(), weight), (Some("east"), Some(2.0)));
    assert_eq!(failure_domain.as_deref(), Some("region"));
    assert_eq!((enabled, grace_period), (Some(false), Some(s(5))));
    let client = read.builder().unwrap().connect_lazy();
    client.unwrap();
}

fn json(config: &Config) -> serde_json::Value {
    serde_json::to_value(config).unwrap()
}

#[test]
fn a_configuration_survives_being_written_and_read() {
    for config in [Config::default(), everything()] {
        let text = serde_json::to_string(&config).unwrap();
        let read: Config = serde_json::from_str(&text).unwrap();
        assert_eq!(read, config);
        // The sections of a file are those of a `Config`.
        let read = RedisConfig::from_json(&text).unwrap();
        assert_eq!((read.calls, read.start), (config.calls, config.start));
        assert_eq!(
            (read.sensitivity, read.failover),
            (config.sensitivity, config.failover)
        );
    }
    let mut custom = Config::default();
    custom.start.policy = StartPolicy::Custom(|_| Some(true));
    assert!(
        serde_json::to_string(&custom).is_err(),
        "code cannot be written down"
    );
}

/// Text, and the path of what is wrong with it.
#[rustfmt::skip]
const BAD_TOML: &[(&str, &str)] = &[
    ("unknown = 1", "unknown"),
    ("[calls]\ndeadlin = '1s'", "calls.deadlin"),
    ("[calls]\nunknown.further = 1", "calls.unknown"),
    ("[health]\nprobe = 1", "health.probe"),
    ("[detector]\nx = 1", "detector.x"),
    ("[circuit]\nx = 1", "circuit.x"),
    ("[failover]\nx = 1", "failover.x"),
    ("[start]\nx = 1", "start.x"),
    ("[[databases]]\nurl = 'redis://a'\n[[databases]]\npassword = 'x'", "databases[1].password"),
    ("[calls]\ndeadline = 5", "calls.deadline"),
    ("[calls]\ndeadline = '5'", "calls.deadline"),
    ("[calls]\ndeadline = 'soon'", "calls.deadline"),
    ("[calls]\ndeadline = '-1s'", "calls.deadline"),
    ("[calls]\ndeadline = '999999999999999999999y'", "calls.deadline"),
    ("[calls]\nretry_floor = -1", "calls.retry_floor"),
    ("[calls]\nretry_floor = 4294967296", "calls.retry_floor"),
    ("[calls]\nretry_ratio = 'all'", "calls.retry_ratio"),
    ("[calls]\nmax_waiting = 1.5", "calls.max_waiting"),
    ("calls = 1", "calls"),
    ("sensitivity = 'reckless'", "sensitivity"),
    ("sensitivity = { custom = 'x' }", "sensitivity.custom"),
    ("[health]\npolicy = 'none'", "health.policy"),
    ("[start]\npolicy = 'custom'", "start.policy"),
    ("[failover]\ndrain = 'cancel'", "failover.drain.cancel"),
    ("[failover]\nauto_fallback = 'yes'", "failover.auto_fallback"),
    ("databases = 'redis://a'", "databases"),
    ("databases = ['redis://a']", "databases[0]"),
    ("[[databases]]\nurl = 'redis://a'\n[[databases]]\nweight = '1'", "databases[1].weight"),
    ("[[databases]]\nurl = ['redis://a']", "databases[0].url"),
    ("[[databases]]\nenabled = 1", "databases[0].enabled"),
    ("[[databases]]\nid = 1", "databases[0].id"),
    ("[[databases]]\ngrace_period = 1", "databases[0].grace_period"),
    // Well-formed, and impossible.
    ("", "databases"),
    ("databases = []", "databases"),
    ("[[databases]]", "databases[0].url"),
    ("[[databases]]\nurl = 'nowhere'", "databases[0].url"),
    ("[[databases]]\nurl = 'redis://a'\nid = ''", "databases[0].id"),
    ("[[databases]]\nurl = 'redis://a'\nfailure_domain = ''", "databases[0].failure_domain"),
    ("[[databases]]\nurl = 'redis://a'\nweight = nan", "databases[0].weight"),
    ("[[databases]]\nurl = 'redis://a'\nweight = -inf", "databases[0].weight"),
    ("[[databases]]\nurl = 'redis://a'\ngrace_period = '0s'", "databases[0].grace_period"),
    ("[[databases]]\nurl = 'redis://a'\n[[databases]]\nurl = 'redis://a'", "databases[1].id"),
    ("[[databases]]\nurl = 'redis://a'\n[calls]\ndeadline = '0s'", "calls.deadline"),
    ("[[databases]]\nurl = 'redis-sentinel://a#m'\nsentinel_password_env = 'NO_SUCH_VARIABLE'", "databases[0].sentinel_password_env"),
    ("[[databases]]\nurl = 'redis-sentinel://a#m'\nsentinel_user = 'bob'", "databases[0].sentinel_user"),
    ("[[databases]]\nurl = 'redis://a'\nsentinel_password_env = 'PATH'", "databases[0].sentinel_credentials"),
    ("[[databases]]\nurl = 'redis://a'\npassword_env = 'NO_SUCH_VARIABLE'", "databases[0].password_env"),
    ("[[databases]]\nurl = 'redis://a'\npassword_file = '/no/such/file'", "databases[0].password_file"),
    ("[[databases]]\nurl = 'redis://a'\npassword_env = 'PATH'\npassword_file = '/etc/hostname'", "databases[0].password_file"),
    ("[[databases]]\nurl = 'redis://a'\nclient_name = 'two words'", "databases[0].client_name"),
    ("[[databases]]\nurl = 'redis://a'\n[health]\nprobes = 0", "health.probes"),
];

#[test]
fn a_file_that_cannot_work_is_refused_by_the_path_of_its_mistake() {
    for (text, field) in BAD_TOML {
        let error = toml_error(text);
        assert_eq!(error.field(), *field, "{text:?}: {error}");
        assert!(
            !error.problem().is_empty() && !error.problem().contains('\n'),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            format!("{}: {}", error.field(), error.problem())
        );
    }
}

#[test]
fn the_same_mistakes_in_json_have_the_same_paths() {
    let mut compared = 0;
    for (text, field) in BAD_TOML {
        // JSON has no such numbers.
        if text.contains("nan") || text.contains("inf") {
            continue;
        }
        let table: toml::Table = text.parse().unwrap();
        let text = serde_json::to_string(&table).unwrap();
        let error = json_error(&text);
        assert_eq!(error.field(), *field, "{text:?}: {error}");
        compared += 1;
    }
    assert!(compared > 30);
}

#[test]
fn text_that_is_no_configuration_at_all_is_refused() {
    for text in ["[", "a = ", "= 1", "a = 1\na = 2", "[a]\n[a]", "'", "\0"] {
        assert_eq!(toml_error(text).field(), "toml", "{text:?}");
    }
    for text in [
        "",
        "{",
        "[1]",
        "null",
        "1",
        "{}x",
        "{\"calls\":",
        "{\"a\"",
        "\u{feff}{}",
    ] {
        let error = json_error(text);
        assert!(
            !error.field().is_empty() && error.field() != ".",
            "{text:?}: {error}"
        );
    }
    let error = toml_error("a = 1\n\nb");
    assert!(error.problem().ends_with(" at line 3"), "{error}");
    let large = format!("# {}", "x".repeat(RedisConfig::MAX_TEXT));
    assert_eq!(toml_error(&large).field(), "text");
    assert_eq!(json_error(&large).field(), "text");
    let deep = "[".repeat(100_000);
    toml_error(&deep);
    json_error(&deep);
    json_error(&"{\"a\":".repeat(100_000));
}

/// Reading or building fails; which of them is no matter to the user.
fn toml_error(text: &str) -> ConfigError {
    built(RedisConfig::from_toml(text)).expect_err(text)
}

fn json_error(text: &str) -> ConfigError {
    built(RedisConfig::from_json(text)).expect_err(text)
}

fn built(read: Result<RedisConfig, ConfigError>) -> Result<(), ConfigError> {
    let client = read?.builder()?.health_check(WriteProbe).connect_lazy();
    match client.map_err(|error| error.kind().clone()) {
        Ok(_) => Ok(()),
        Err(ErrorKind::Invalid(error)) => Err(error),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn the_configurations_in_the_documentation_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let book = fs::read_dir(root.join("docs/src")).into_iter().flatten();
    let mut pages: Vec<_> = book.map(|page| page.unwrap().path()).collect();
    pages.push(root.join("README.md"));
    pages.push(root.join("src/backends/redis/config.rs"));
    let mut found = 0;
    for page in pages.iter().filter(|page| page.is_file()) {
        for sample in toml_blocks(&fs::read_to_string(page).unwrap()) {
            if sample.contains("[[databases]]") {
                built(RedisConfig::from_toml(&sample))
                    .unwrap_or_else(|error| panic!("{}: {error}\n{sample}", page.display()));
                found += 1;
            }
        }
    }
    assert!(found > 0);
}

fn toml_blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        let line = line.strip_prefix("///").unwrap_or(line).trim();
        match (inside, line) {
            (false, "```toml") => {
                inside = true;
                blocks.push(String::new());
            }
            (true, "```") => inside = false,
            (true, line) => *blocks.last_mut().expect("a block") += &format!("{line}\n"),
            (false, _) => {}
        }
    }
    blocks
}

// === whatever is thrown at it ===

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_url_makes_it_panic(url in ".*", weight in any::<f64>()) {
        let _ = MultiDbClient::open([(&url, weight)]);
        let url = format!("redis://{url}");
        if let Err(error) = MultiDbClient::open([(&url, 1.0)]) {
            let error = invalid::<()>(Err(error));
            prop_assert_eq!(error.field(), "databases[0].url");
        }
    }

    #[test]
    fn a_weight_is_accepted_if_it_is_finite_and_not_negative(weight in any::<f64>()) {
        let expected = weight.is_finite() && weight >= 0.0;
        prop_assert_eq!(MultiDbClient::open([(GOOD, weight)]).is_ok(), expected);
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), at in any::<prop::sample::Index>()) {
        let _ = built(RedisConfig::from_toml(&text));
        let _ = built(RedisConfig::from_json(&text));
        // A good file with something odd in the middle comes further.
        let mut spoilt = EVERYTHING.to_owned();
        let boundaries: Vec<_> = spoilt.char_indices().map(|(at, _)| at).collect();
        spoilt.insert_str(*at.get(&boundaries), &text);
        let _ = built(RedisConfig::from_toml(&spoilt));
    }

    #[test]
    fn no_values_make_it_panic(
        seconds in any::<[u64; 4]>(),
        nanos in prop::array::uniform4(0_u32..1_000_000_000),
        counts in any::<(u32, u64, u64, usize)>(),
        rates in any::<(f64, f64)>(),
    ) {
        let [a, b, c, d] = std::array::from_fn(|at| Duration::new(seconds[at], nanos[at]));
        let mut config = Config::default();
        (config.calls.deadline, config.calls.backoff_min) = (a, b);
        (config.circuit.grace_period, config.failover.last_resort_min) = (c, d);
        config.sensitivity = Sensitivity::Custom(a);
        config.failover.drain = Drain::Cancel(b);
        (config.health.probes, config.calls.retry_floor) = (counts.0, counts.0);
        (config.detector.min_failures, config.detector.consecutive_failures) = (counts.1, counts.2);
        config.calls.max_waiting = counts.3;
        (config.calls.retry_ratio, config.detector.failure_rate) = rates;
        let client = MultiDbClient::builder()
            .url(GOOD, 1.0)
            .config(config.clone())
            .response_timeout(c)
            .health_interval(d)
            .connect_lazy();
        prop_assert!(client.is_ok() || matches!(client.unwrap_err().kind(), ErrorKind::Invalid(_)));
        let _ = built(RedisConfig::from_json(&serde_json::to_string(&config).unwrap()));
    }
}

#[cfg(feature = "redis-rustls")]
#[test]
fn the_files_of_tls_are_read_when_the_builder_is_made() {
    let dir = tempfile::TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["host".to_owned()]).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cert = file("cert.pem", &made.cert.pem());
    let key = file("key.pem", &made.signing_key.serialize_pem());
    let absent = dir.path().join("absent").to_str().unwrap().to_owned();
    let read = |url: &str, tls: &str| {
        let text = format!("[[databases]]\nurl = '{url}'\ntls = {{ {tls} }}");
        RedisConfig::from_toml(&text).and_then(RedisConfig::builder)
    };
    let good = [
        format!("ca_file = '{cert}'"),
        format!("ca_file = '{cert}', cert_file = '{cert}', key_file = '{key}'"),
        format!("ca_file = '{cert}', server_name = 'other.example'"),
        "insecure = true".to_owned(),
    ];
    for tls in good {
        let _ = read("rediss://host", &tls).unwrap();
        let error = read("redis://host", &tls).err().unwrap();
        assert_eq!(error.field(), "databases[0].tls", "{tls}");
    }
    for (tls, field) in [
        (format!("ca_file = '{absent}'"), "ca_file"),
        (format!("ca_file = '{key}'"), "ca_file"),
        (format!("cert_file = '{cert}'"), "key_file"),
        (format!("key_file = '{key}'"), "cert_file"),
        (
            format!("cert_file = '{key}', key_file = '{key}'"),
            "cert_file",
        ),
        (
            format!("cert_file = '{cert}', key_file = '{cert}'"),
            "key_file",
        ),
        ("server_name = 'no host'".to_owned(), "server_name"),
        ("cafile = 'x'".to_owned(), "cafile"),
    ] {
        let error = read("rediss://host", &tls).err().unwrap();
        assert_eq!(error.field(), format!("databases[0].tls.{field}"), "{tls}");
    }
}
