//! Limits of our own process: what it runs out of is nobody else's fault.

use std::fs::File;

use multidb::{CircuitState, Config, Event};
use redis::cmd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{sleep, timeout};

use crate::rig::{SOON, bounded, connect, databases, ms, two};
use crate::support::eventually;
use crate::support::load::{Load, Said};

/// Set for the process that has few descriptors.
const INSIDE: &str = "MULTIDB_TEST_FEW_DESCRIPTORS";

/// No probe can be made anew, then no connection: calls go on over those that stand, and no database is
/// held to be bad that is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_a_process_that_has_no_descriptor_left_survives_and_blames_nobody() {
    if std::env::var_os(INSIDE).is_some() {
        return bounded(exhausted()).await;
    }
    let name = "f23_a_process_that_has_no_descriptor_left_survives_and_blames_nobody";
    let this = std::env::current_exe().expect("the path of this test");
    let inner = tokio::process::Command::new(this)
        .args(["--exact", "--nocapture", &format!("limits::{name}")])
        .env(INSIDE, "1")
        .kill_on_drop(true)
        .output();
    let inner = timeout(ms(60_000), inner).await.expect("it ends");
    let inner = inner.expect("this test");
    let said = String::from_utf8_lossy(&inner.stdout) + String::from_utf8_lossy(&inner.stderr);
    let passed = inner.status.success() && said.contains("1 passed");
    assert!(passed, "with few descriptors:\n{said}");
}

const FEW: u64 = 256;

/// From now on a new descriptor must be below this.
fn descriptors(limit: u64) {
    let limit = Rlimit {
        current: Some(limit),
        ..getrlimit(Resource::Nofile)
    };
    setrlimit(Resource::Nofile, limit).expect("a limit below the one there is");
}

async fn exhausted() {
    let (a, b) = two().await;
    let mut config = Config::default();
    config.health.interval = ms(100);
    config.health.fresh_every = 1;
    let builder = databases(&[("a", a.url()), ("b", b.url())]);
    let client = connect(builder.config(config).grace_period(ms(500))).await;
    let mut events = client.events();
    let mut admin = a.admin().await.expect("a is well");
    let load = Load::start(&client, 4);
    load.flows(SOON).await;

    // What is open stays open; nothing else can be opened, not even in the place of what is closed.
    descriptors(3);
    assert!(File::open("/dev/null").is_err());
    sleep(ms(1_000)).await;
    load.flows(SOON).await;
    assert_eq!(client.active().expect("a"), *"a", "{}", client.explain());

    let mut kill = cmd("CLIENT");
    kill.arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let killed: usize = kill.query_async(&mut admin).await.expect("an answer");
    assert!(killed >= 1);
    eventually(SOON, "what stands is gone over to", async || {
        client.active().is_some_and(|active| active == *"b")
    })
    .await;
    load.flows(SOON).await;
    let standby = client.snapshot();
    assert_eq!(
        standby.member("b").expect("b").circuit,
        CircuitState::Closed
    );

    descriptors(FEW);
    eventually(SOON, "a is returned to", async || {
        client.active().is_some_and(|active| active == *"a")
    })
    .await;
    load.flows(SOON).await;
    let history = load.stop().await;
    history.assert_only(|said| matches!(said, Said::Unknown(_)));
    history.assert_nothing_lost(&[("a", &a), ("b", &b)]).await;
    while let Ok(Some(event)) = timeout(ms(10), events.next()).await {
        if let Event::CircuitChanged { database, .. } = event {
            assert_eq!(database, "a", "b was blamed");
        }
    }
    client.close().await;
}
