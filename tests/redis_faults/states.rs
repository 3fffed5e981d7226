//! A server that answers, and says that it does not serve.

use std::fs;
use std::path::PathBuf;

use multidb::redis::{ReplicationLag, WriteProbe};
use multidb::{CircuitState, Event, FaultKind, Reason, Status, Verdict};
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::rig::{SOON, Scene, bounded, connect, databases, ms, two};
use crate::support::eventually;
use crate::support::load::{Load, Op, Said};
use crate::support::redis_server::RedisServer;
use crate::support::witness::Witness;

// === states in which a ping is answered with PONG, or with an error ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_became_a_replica_is_left_without_an_error() {
    // A replica of nobody: what it holds stays as it is.
    let set = ["REPLICAOF", "127.0.0.1", "1"];
    bounded(refusing("READONLY", &set, &["REPLICAOF", "NO", "ONE"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_full_database_is_left_without_an_error() {
    let set = ["CONFIG", "SET", "maxmemory", "1"];
    bounded(refusing("OOM", &set, &["CONFIG", "SET", "maxmemory", "0"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_short_of_replicas_is_left_without_an_error() {
    let set = ["CONFIG", "SET", "min-replicas-to-write", "1"];
    let clear = ["CONFIG", "SET", "min-replicas-to-write", "0"];
    bounded(refusing("NOREPLICAS", &set, &clear)).await;
}

async fn refusing(state: &'static str, set: &[&str], clear: &[&str]) {
    let (a, b) = two().await;
    let refused = async || {
        let _: String = a.cmd(set).await;
    };
    let healed = async || {
        let _: String = a.cmd(clear).await;
    };
    refused_and_healed(state, &a, &b, refused, healed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_save_is_left_without_an_error() {
    bounded(async {
        let (a, b) = two().await;
        let dir = a.cmd::<Vec<String>>(&["CONFIG", "GET", "dir"]).await;
        // Where its snapshot should go there is a directory, so that saving fails.
        let obstacle = PathBuf::from(&dir[1]).join("dump.rdb");
        let saved = async |as_expected: &str| {
            let _: String = a.cmd(&["BGSAVE"]).await;
            eventually(SOON, "the snapshot ends", async || {
                let info: String = a.cmd(&["INFO", "persistence"]).await;
                info.contains("rdb_bgsave_in_progress:0")
                    && info.contains(&format!("rdb_last_bgsave_status:{as_expected}"))
            })
            .await;
        };
        let refused = async || {
            fs::create_dir(&obstacle).expect("a directory");
            let _: String = a.cmd(&["CONFIG", "SET", "save", "3600 1000000"]).await;
            saved("err").await;
        };
        let healed = async || {
            fs::remove_dir(&obstacle).expect("the directory");
            saved("ok").await;
        };
        refused_and_healed("MISCONF", &a, &b, refused, healed).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_busy_with_a_script_is_left_without_an_error() {
    bounded(async {
        let (a, b) = two().await;
        let _: String = a
            .cmd(&["CONFIG", "SET", "busy-reply-threshold", "100"])
            .await;
        // A server that is busy takes no new connection that wants to be greeted.
        let mut control = a.admin().await.expect("a connection");
        let endless = a.admin().await.expect("a connection");
        let refused = async || {
            tokio::spawn(run_for_ever(endless.clone()));
        };
        let healed = async || {
            let mut kill = control.clone();
            let _: String = redis::cmd("SCRIPT")
                .arg("KILL")
                .query_async(&mut kill)
                .await
                .expect("the script is killed");
        };
        refused_and_healed("BUSY", &a, &b, refused, healed).await;
        let _: String = redis::cmd("PING")
            .query_async(&mut control)
            .await
            .expect("a pong");
    })
    .await;
}

async fn run_for_ever(mut con: MultiplexedConnection) {
    con.set_response_timeout(SOON * 10);
    let mut eval = redis::cmd("EVAL");
    eval.arg("while true do end").arg(0);
    let _ = eval.query_async::<()>(&mut con).await;
}

/// `a` begins to refuse, and later stops doing so. No caller is told of either.
async fn refused_and_healed(
    state: &str,
    a: &RedisServer,
    b: &RedisServer,
    refuse: impl AsyncFn(),
    heal: impl AsyncFn(),
) {
    let urls = [("a", a.url()), ("b", b.url())];
    let grace = ms(500);
    let busy = connect(databases(&urls).grace_period(grace)).await;
    // Nothing but a write tells an idle client of a state in which pings are answered.
    let idle = databases(&urls)
        .grace_period(grace)
        .health_interval(ms(500));
    let idle = connect(idle.health_check(WriteProbe)).await;
    let scene = Scene::of(&busy, &idle, 4).await;

    let fault = Instant::now();
    refuse().await;
    let set = Instant::now();
    scene.moves_to("b", set, SOON).await;
    // Longer than the grace: a ping is no proof that it takes writes again.
    sleep(ms(1500)).await;
    for witness in [&scene.busy, &scene.idle] {
        assert_eq!(witness.route(), ["b"], "{witness}");
    }
    heal().await;
    scene.moves_to("a", Instant::now(), ms(15_000)).await;
    let end = scene.end(state, fault).await;

    end.assert_route(&["b", "a"]);
    for witness in [&end.busy, &end.idle] {
        assert_eq!(
            witness.switches()[0].reason,
            Reason::ServerState,
            "{witness}"
        );
        let stays_open = witness.circuit("a")[0];
        assert_eq!(
            stays_open,
            (CircuitState::Open, Reason::ServerState),
            "{witness}"
        );
    }
    end.history.assert_only(|_| false);
    assert!(end.history.gap(fault) < ms(2500));
    end.assert_invariants(&[("a", a), ("b", b)]).await;
}

// === loading ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_a_database_that_loads_is_left_without_an_error() {
    bounded(async {
        let (a, b) = tokio::join!(slow_to_load(), RedisServer::start());
        let reloading = a.admin().await.expect("a connection");
        let refused = async || {
            tokio::spawn(reload(reloading.clone()));
        };
        // It ends by itself.
        let healed = async || {};
        refused_and_healed("LOADING", &a, &b, refused, healed).await;
    })
    .await;
}

/// Saves everything, forgets it, and loads it again.
async fn reload(mut con: MultiplexedConnection) {
    con.set_response_timeout(SOON * 10);
    let mut reload = redis::cmd("DEBUG");
    let _: String = reload
        .arg("RELOAD")
        .query_async(&mut con)
        .await
        .expect("the data set is loaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_loads_at_the_start_joins_when_it_has_done_so() {
    bounded(async {
        let (mut a, b) = tokio::join!(slow_to_load(), RedisServer::start());
        let _: String = a.cmd(&["SAVE"]).await;
        let urls = [("a", a.url()), ("b", b.url())];
        a.kill();
        // Ends when it has loaded.
        let restart = async {
            a.restart().await;
            Instant::now()
        };
        let client = async {
            // Until it listens it cannot say that it loads.
            let url = &urls[0].1;
            eventually(SOON, "a listens", async || is_loading(url).await).await;
            let client = databases(&urls).grace_period(ms(500)).connect().await;
            let client = client.expect("b is up");
            let now = client.snapshot();
            let a = now.member("a").expect("a member");
            let says_so = matches!(
                &a.verdict,
                Some(Verdict::Unhealthy(fault)) if fault.kind == FaultKind::State && fault.what == "LOADING"
            );
            assert!(says_so, "{now}");
            let load = Load::start(&client, 4);
            load.flows(SOON).await;
            (Witness::of(&client), load)
        };
        let (loaded, (witness, load)) = tokio::join!(restart, client);
        witness.follows("a", loaded, ms(10_000)).await;
        load.flows(SOON).await;
        let history = load.stop().await;

        let route = witness.route();
        assert_eq!(route, ["a"], "{witness}");
        assert!(witness.switches()[0].at >= loaded - ms(100), "{witness}");
        witness.assert_blameless("b");
        assert_eq!(history.errors().count(), 0, "{:?}", history.told());
        history.assert_nothing_lost(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

/// Takes about two seconds to load what it holds.
async fn slow_to_load() -> RedisServer {
    let server = RedisServer::builder()
        .config("key-load-delay", "500")
        .config("loading-process-events-interval-bytes", "1024")
        .start()
        .await;
    let _: String = server.cmd(&["DEBUG", "POPULATE", "4000", "k", "100"]).await;
    server
}

async fn is_loading(url: &str) -> bool {
    let Ok(client) = redis::Client::open(url) else {
        return false;
    };
    let Ok(mut con) = client.get_multiplexed_async_connection().await else {
        return false;
    };
    let pong = redis::cmd("PING").query_async::<String>(&mut con).await;
    pong.is_err_and(|error| error.code() == Some("LOADING"))
}

// === alone ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_read_only_database_goes_on_being_read() {
    bounded(async {
        let a = RedisServer::start().await;
        let urls = [("a", a.url())];
        let client = connect(databases(&urls)).await;
        let idle = connect(databases(&urls).health_interval(ms(500))).await;
        let scene = Scene::of(&client, &idle, 4).await;

        let fault = Instant::now();
        let _: String = a.cmd(&["REPLICAOF", "127.0.0.1", "1"]).await;
        let nowhere = |event: &Event| matches!(event, Event::NowhereToGo { .. });
        scene
            .busy
            .hears("there is nowhere to go", SOON, nowhere)
            .await;
        sleep(ms(2000)).await;
        assert_eq!(client.snapshot().status, Status::Serving);
        let _: String = a.cmd(&["REPLICAOF", "NO", "ONE"]).await;
        scene.load.flows(SOON).await;
        let end = scene.end("READONLY, alone", fault).await;

        end.assert_nobody_moved();
        assert_eq!(end.busy.count(nowhere), 1, "{}", end.busy);
        let outage = |event: &Event| matches!(event, Event::AllUnavailable { .. });
        assert_eq!(end.busy.count(outage), 0, "{}", end.busy);
        let readonly = Said::Refused("READONLY".to_owned());
        end.history.assert_only(|said| *said == readonly);
        assert!(end.history.count(Op::Push, |said| *said == readonly) > 10);
        for call in end.history.errors() {
            assert!(call.took() < ms(500), "not at once: {call:?}");
        }
        assert!(end.history.gap(fault) < ms(1000));
        end.assert_invariants(&[("a", &a)]).await;
    })
    .await;
}

// === replicas ===

/// A replica that is cut off serves what it has when nothing else is left, and is returned to last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_is_returned_to_only_once_it_has_caught_up() {
    bounded(async {
        let (a, b) = two().await;
        let at_once = RedisServer::builder().config("repl-diskless-sync-delay", "0");
        let mut master = at_once.start().await;
        let port = master.addr().port().to_string();
        // It may be written to, so that nothing but the check is in the way.
        let _: String = a.cmd(&["CONFIG", "SET", "replica-read-only", "no"]).await;
        let _: String = a.cmd(&["REPLICAOF", "127.0.0.1", &port]).await;
        eventually(SOON, "the replica is in sync", async || {
            let info: String = a.cmd(&["INFO", "replication"]).await;
            info.contains("master_link_status:up")
        })
        .await;
        let urls = [("a", a.url()), ("b", b.url())];
        let builder = databases(&urls).health_interval(ms(100));
        let client = connect(builder.health_check(ReplicationLag::up_to(ms(20_000)))).await;
        let verdict_of_a = || client.snapshot().member("a").unwrap().verdict.clone();

        master.kill();
        eventually(SOON, "the lag is told", async || {
            matches!(verdict_of_a(), Some(Verdict::Degraded(_)))
        })
        .await;
        assert_eq!(client.active().unwrap(), *"a", "never left for it");
        client.switch_to("b").await.unwrap();
        client.unpin().await.unwrap();
        sleep(ms(500)).await;
        assert_eq!(client.active().unwrap(), *"b");

        master.restart().await;
        eventually(SOON, "it has caught up and is returned to", async || {
            client.active().is_some_and(|active| active == *"a")
        })
        .await;
        client.close().await;
    })
    .await;
}
