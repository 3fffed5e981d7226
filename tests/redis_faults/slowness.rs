//! A server that is slow, or silent for a while, or answers some commands and not others.

use multidb::{Event, Reason};
use tokio::time::{Instant, sleep};

use crate::rig::{SOON, Scene, bounded, connect, databases, ms, two};
use crate::support::load::Said;
use crate::support::redis_server::RedisServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_200_ms_moves_nobody() {
    bounded(async {
        let (a, b) = two().await;
        let pause = async || {
            let _: String = a.cmd(&["CLIENT", "PAUSE", "200", "ALL"]).await;
        };
        hiccups("CLIENT PAUSE 200", &a, &b, pause).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_of_200_ms_moves_nobody() {
    bounded(async {
        let (a, b) = two().await;
        let script = async || {
            let slow = "local function now() local t = redis.call('TIME') \
                        return t[1] * 1000 + t[2] / 1000 end \
                        local till = now() + 200 while now() < till do end";
            let _: Option<String> = a.cmd(&["EVAL", slow, "0"]).await;
        };
        hiccups("a script of 200 ms", &a, &b, script).await;
    })
    .await;
}

async fn hiccups(what: &str, a: &RedisServer, b: &RedisServer, hiccup: impl AsyncFn()) {
    let urls = [("a", a.url()), ("b", b.url())];
    let scene = Scene::start(&urls, |builder| builder).await;
    let fault = Instant::now();
    for _ in 0..4 {
        hiccup().await;
        scene.load.flows(SOON).await;
    }
    let end = scene.end(what, fault).await;
    end.assert_nobody_moved();
    end.history.assert_only(|_| false);
    let replaced = |event: &Event| matches!(event, Event::ConnectionReplaced { .. });
    assert_eq!(end.busy.count(replaced), 0, "{}", end.busy);
    assert!(end.history.slowest() >= ms(150), "there was no hiccup");
    end.assert_invariants(&[("a", a), ("b", b)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_1500_ms_is_not_sat_out() {
    bounded(async {
        let (a, b) = two().await;
        let urls = [("a", a.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder).await;

        let fault = Instant::now();
        let _: String = a.cmd(&["CLIENT", "PAUSE", "1500", "ALL"]).await;
        let busy = scene.busy.follows("b", fault, SOON).await;
        assert!(busy < ms(1200), "{busy:?}");
        scene.load.flows(SOON).await;
        sleep((fault + ms(2000)).saturating_duration_since(Instant::now())).await;
        scene.load.flows(SOON).await;
        let end = scene.end("CLIENT PAUSE 1500", fault).await;

        assert_eq!(end.busy.route(), ["b"], "{}", end.busy);
        assert_eq!(end.busy.switches()[0].reason, Reason::Stalled);
        // Nothing but its own pings tells the idle client, and it may be over before they are overdue.
        let route = end.idle.route();
        assert!(route.is_empty() || route == ["b"], "{}", end.idle);
        end.idle.assert_only_a_blamed();
        end.busy.assert_blameless("b");
        end.history
            .assert_only(|said| matches!(said, Said::Unknown(_)));
        assert!(end.history.errors().count() <= 4);
        assert!(end.history.gap(fault) < ms(1400));
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_a_database_that_answers_pings_and_fails_calls_is_left_and_stays_left() {
    bounded(async {
        let (a, b) = two().await;
        let urls = [("a", a.url()), ("b", b.url())];
        let builder = || databases(&urls);
        let (busy, idle) = (connect(builder()).await, connect(builder()).await);
        let scene = Scene::of(&busy, &idle, 20).await;

        let fault = Instant::now();
        let _: String = a.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
        let took = scene.busy.follows("b", fault, ms(10_000)).await;
        eprintln!("    on b: busy {took:.1?} after it");
        sleep(ms(3000)).await;
        scene.load.flows(SOON).await;
        let end = scene.end("PING is answered, writes hang", fault).await;

        assert_eq!(end.busy.route(), ["b"], "{}", end.busy);
        assert_eq!(end.busy.circuit("a").len(), 1, "{}", end.busy);
        end.busy.assert_blameless("b");
        // It has no reason to think ill of a.
        assert_eq!(end.idle.route(), [""; 0], "{}", end.idle);
        end.history
            .assert_only(|said| matches!(said, Said::Unknown(_)));
        assert!(
            end.history.slowest() < ms(3000),
            "{:?}",
            end.history.slowest()
        );
        let _: String = a.cmd(&["CLIENT", "UNPAUSE"]).await;
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_time_it_fails_calls_again_a_database_that_answers_pings_rests_longer() {
    bounded(async {
        let (a, b) = two().await;
        let urls = [("a", a.url()), ("b", b.url())];
        let builder = || databases(&urls).grace_period(ms(500));
        let (busy, idle) = (connect(builder()).await, connect(builder()).await);
        let scene = Scene::of(&busy, &idle, 20).await;

        let fault = Instant::now();
        let _: String = a.cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
        scene.busy.follows("b", fault, ms(10_000)).await;
        sleep(ms(6000)).await;
        let end = scene
            .end("PING is answered, writes hang, short grace", fault)
            .await;

        // Rests of 0.5, 1, 2 and 4 s, and a while until each next one is earned.
        let route = end.busy.route();
        assert!((1..=7).contains(&route.len()), "{}", end.busy);
        end.busy.assert_blameless("b");
        end.history
            .assert_only(|said| matches!(said, Said::Unknown(_)));
        let _: String = a.cmd(&["CLIENT", "UNPAUSE"]).await;
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}
