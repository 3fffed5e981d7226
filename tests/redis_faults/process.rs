//! Faults of the server's process: killed, restarted, stopped, all of them, again and again.

use multidb::{CircuitState, Config, Event, Reason, Status};
use tokio::time::{Instant, sleep};

use crate::rig::{SOON, Scene, bounded, durable, ms, two};
use crate::support::eventually;
use crate::support::load::{Op, Said};
use crate::support::redis_server::RedisServer;
use crate::support::witness::Witness;

const LOST: Said = Said::Unknown("lost");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_killed_server_is_left_at_once_and_loses_nothing_it_acknowledged() {
    bounded(async {
        let (mut a, b) = tokio::join!(durable(), RedisServer::start());
        let urls = [("a", a.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder).await;

        let fault = Instant::now();
        a.kill();
        scene.moves_to("b", fault, SOON).await;
        let end = scene.end("SIGKILL", fault).await;

        end.assert_route(&["b"]);
        assert_eq!(end.busy.switches()[0].reason, Reason::ConnectionLost);
        assert_eq!(end.idle.switches()[0].reason, Reason::ConnectionLost);
        // Only what was under way on the lost connection is in doubt: one call of each task.
        end.history.assert_only(|said| *said == LOST);
        assert!(end.history.errors().count() <= 4);
        assert!(end.history.gap(fault) < ms(1500));
        a.restart().await;
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_back_at_once_is_served_from_again_after_its_grace() {
    bounded(async {
        let (mut a, b) = tokio::join!(durable(), RedisServer::start());
        let urls = [("a", a.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder.grace_period(ms(500))).await;

        let fault = Instant::now();
        a.restart().await;
        // Whoever reconnects in time has no reason to leave; a refused connect is one.
        let settled = |witness: &Witness| {
            let noticed = |event: &Event| {
                matches!(
                    event,
                    Event::ActiveChanged { .. } | Event::ConnectionReplaced { .. }
                )
            };
            let back = witness.client.active().is_some_and(|id| id == "a");
            back && witness.count(noticed) > 0
        };
        eventually(SOON, "both serve from a again", async || {
            settled(&scene.busy) && settled(&scene.idle)
        })
        .await;
        scene.moves_to("a", fault, SOON).await;
        let end = scene.end("SIGKILL and restart", fault).await;

        for witness in [&end.busy, &end.idle] {
            let route = witness.route();
            assert!(route.is_empty() || route == ["b", "a"], "{witness}");
            witness.assert_blameless("b");
        }
        end.history.assert_only(|said| *said == LOST);
        assert!(end.history.gap(fault) < ms(1500));
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f02_a_stopped_server_is_left_and_what_it_runs_later_runs_once() {
    bounded(async {
        let (a, b) = two().await;
        let urls = [("a", a.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder.grace_period(ms(1000))).await;

        let fault = Instant::now();
        a.stop().await;
        scene.moves_to("b", fault, ms(8000)).await;
        // What waits in the sockets of the stopped server runs now, unless its connection was ended.
        a.cont();
        scene.moves_to("a", fault, ms(15_000)).await;
        let stats: String = a.cmd(&["INFO", "commandstats"]).await;
        let end = scene.end("SIGSTOP, SIGCONT", fault).await;

        end.assert_route(&["b", "a"]);
        assert_eq!(end.busy.switches()[0].reason, Reason::Stalled);
        assert_eq!(end.busy.switches()[1].reason, Reason::Fallback);
        end.history
            .assert_only(|said| matches!(said, Said::Unknown(_)));
        assert!(end.history.errors().count() <= 4);
        assert!(end.history.gap(fault) < ms(2500));
        // Nothing of before can still run once the database serves again.
        // Redis 6 counts all of CLIENT together.
        let fenced = ["cmdstat_client|kill:", "cmdstat_client:"];
        assert!(
            fenced.iter().any(|s| stats.contains(s)),
            "no fence: {stats}"
        );
        let unfenced = |event: &Event| matches!(event, Event::Unfenced { .. });
        assert_eq!(end.busy.count(unfenced), 0, "{}", end.busy);
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_standby_does_not_delay_the_flight_to_a_healthy_one() {
    bounded(async {
        let (mut a, (b, c)) = tokio::join!(durable(), two());
        let urls = [("a", a.url()), ("b", b.url()), ("c", c.url())];
        let scene = Scene::start(&urls, |builder| builder).await;

        b.stop().await;
        let fault = Instant::now();
        a.kill();
        scene.moves_to("c", fault, ms(2500)).await;
        let end = scene.end("SIGKILL beside a hung standby", fault).await;

        for witness in [&end.busy, &end.idle] {
            assert_eq!(witness.route(), ["c"], "{witness}");
            witness.assert_blameless("c");
        }
        end.history.assert_only(|said| *said == LOST);
        assert!(end.history.gap(fault) < ms(2500));
        a.restart().await;
        b.cont();
        let all = [("a", &a), ("b", &b), ("c", &c)];
        end.assert_invariants(&all).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_of_all_the_first_one_back_serves_be_it_the_heavier() {
    bounded(outage_of_all("a")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_of_all_the_first_one_back_serves_be_it_the_lighter() {
    bounded(outage_of_all("b")).await;
}

async fn outage_of_all(first_back: &str) {
    let (mut a, mut b) = tokio::join!(durable(), durable());
    let urls = [("a", a.url()), ("b", b.url())];
    let deadline = ms(1000);
    let scene = Scene::start(&urls, |builder| builder.deadline(deadline)).await;

    let fault = Instant::now();
    a.kill();
    b.kill();
    sleep(ms(1500)).await;
    let back = Instant::now();
    match first_back {
        "a" => a.restart().await,
        _ => b.restart().await,
    }
    scene.moves_to(first_back, back, ms(8000)).await;
    match first_back {
        "a" => b.restart().await,
        _ => a.restart().await,
    }
    scene.load.flows(SOON).await;
    let end = scene.end("all killed", fault).await;

    for witness in [&end.busy, &end.idle] {
        // On the way it may have been on the other one, which lived some milliseconds longer.
        let route = witness.route();
        assert!(
            route.last().is_none_or(|last| last == first_back),
            "{witness}"
        );
        let said = |event: &Event| {
            matches!(
                event,
                Event::AllUnavailable {
                    attempt: 1,
                    gave_up: false
                }
            )
        };
        assert_eq!(witness.count(said), 1, "{witness}");
        let recovered = |event: &Event| matches!(event, Event::Recovered { .. });
        assert_eq!(witness.count(recovered), 1, "{witness}");
    }
    // What was under way on the lost connection is in doubt at once. A read is repeated, and the doubt
    // about its first attempt is all that is left when nobody answers the second. Whoever had next to
    // no time left when a database came back may have been sent there and not have heard of it.
    let unavailable = Said::NotRun("unavailable");
    let too_late = Said::Unknown("timed out");
    let mut waited = 0;
    for call in end.history.errors() {
        let expected = [&LOST, &unavailable, &too_late];
        assert!(expected.contains(&&call.said), "{call:?}");
        if call.said == LOST && call.op != Op::Get {
            assert!(call.took() < ms(500), "{call:?}");
        } else {
            waited += 1;
            assert!(call.took() >= deadline - ms(20), "gave up early: {call:?}");
            assert!(call.took() < deadline + ms(500), "overstayed: {call:?}");
        }
    }
    assert!(waited > 0, "{:?}", end.history.told());
    let all = [("a", &a), ("b", &b)];
    end.assert_invariants(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_an_outage_beyond_the_failover_budget_fails_calls_at_once_until_one_is_back() {
    bounded(async {
        let (mut a, mut b) = tokio::join!(durable(), durable());
        let urls = [("a", a.url()), ("b", b.url())];
        let mut config = Config::default();
        config.failover.attempts = 2;
        config.failover.delay = ms(400);
        let scene = Scene::start(&urls, |builder| builder.config(config.clone())).await;

        let fault = Instant::now();
        a.kill();
        b.kill();
        let gave_up = |event: &Event| matches!(event, Event::AllUnavailable { gave_up: true, .. });
        scene.busy.hears("it gives up", SOON, gave_up).await;
        let after = fault.elapsed();
        assert!(after >= ms(780) && after < ms(3000), "{after:?}");
        sleep(ms(500)).await;
        assert_eq!(scene.busy.client.snapshot().status, Status::GaveUp);
        b.restart().await;
        scene.moves_to("b", Instant::now(), ms(8000)).await;
        a.restart().await;
        let end = scene
            .end("all killed for longer than the budget", fault)
            .await;

        let hopeless = Said::NotRun("no healthy database");
        let late: Vec<_> = end
            .history
            .errors()
            .filter(|call| call.said == hopeless)
            .collect();
        assert!(late.len() > 40, "{:?}", end.history.told());
        // Those of before waited until it gave up.
        let (given_up, settled) = (fault + after, ms(50));
        for call in late.iter().filter(|call| call.began > given_up + settled) {
            assert!(call.took() < ms(200), "not at once: {call:?}");
        }
        let all = [("a", &a), ("b", &b)];
        end.assert_invariants(&all).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f18_a_flapping_server_is_given_longer_and_longer_rests() {
    bounded(async {
        let (mut a, b) = tokio::join!(durable(), RedisServer::start());
        let urls = [("a", a.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder.grace_period(ms(400))).await;

        let fault = Instant::now();
        while fault.elapsed() < ms(5000) {
            a.kill();
            sleep(ms(150)).await;
            a.restart().await;
            sleep(ms(250)).await;
        }
        scene.load.flows(SOON).await;
        let elapsed = fault.elapsed();
        let end = scene.end("flapping", fault).await;

        // Rests of 0.4, 0.8, 1.6 and 3.2 s, less 10 % of jitter, leave room for four of them.
        assert!(elapsed < ms(10_000), "{elapsed:?}");
        for witness in [&end.busy, &end.idle] {
            let route = witness.route();
            assert!((1..=8).contains(&route.len()), "{witness}");
            let opened = witness.circuit("a").into_iter();
            let opened = opened.filter(|(to, _)| *to == CircuitState::Open).count();
            assert!((1..=5).contains(&opened), "{witness}");
            witness.assert_blameless("b");
        }
        end.history.assert_only(|said| *said == LOST);
        assert!(end.history.gap(fault) < ms(1500));
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}
