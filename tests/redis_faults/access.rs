//! A server that does not let us in, or not all of us, or not to everything.

use std::error::Error as _;

use multidb::testing::proxy::FaultProxy;
use multidb::{ErrorKind, Fault, FaultKind, Verdict};
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use crate::network::kill_traffic;
use crate::rig::{SOON, Scene, bounded, databases, ms, two};
use crate::support::load::{Load, Op, Said};
use crate::support::redis_server::RedisServer;
use crate::support::witness::Witness;

const SECRET: &str = "canary-5b1d";

/// Over a connection that is there already.
async fn set(admin: &mut MultiplexedConnection, directive: &str, value: &str) {
    let mut set = redis::cmd("CONFIG");
    set.arg(&["SET", directive, value]);
    let _: String = set.query_async(admin).await.expect("OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_at_once_and_not_tried_again_and_again() {
    bounded(async {
        let a = RedisServer::builder().password("right").start().await;
        let proxy = FaultProxy::start(a.addr()).await.expect("a proxy");
        let urls = [("a", format!("redis://:{SECRET}@{}/", proxy.addr()))];

        let begun = Instant::now();
        let error = databases(&urls)
            .connect()
            .await
            .expect_err("a wrong password");
        let took = begun.elapsed();
        assert!(took < ms(1500), "{took:?}");
        assert_eq!(*error.kind(), ErrorKind::NotStarted, "{error}");
        assert_eq!(error.database().expect("it names the database"), "a");
        let cause = error
            .source()
            .and_then(|cause| cause.downcast_ref::<Fault>());
        assert_eq!(cause.expect("the fault").kind, FaultKind::Denied, "{error}");
        assert!(!format!("{error} {error:?}").contains(SECRET));
        let accepted = proxy.counts().accepted;
        assert!(accepted <= 2, "{accepted} connections");
        eprintln!("    wrong password: told after {took:.1?}, {accepted} connections");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s28_a_wrong_password_for_one_of_two_leaves_the_other_and_is_not_tried_again_and_again() {
    bounded(async {
        let a = RedisServer::builder().password("right").start();
        let (a, b) = tokio::join!(a, RedisServer::start());
        let proxy = FaultProxy::start(a.addr()).await.expect("a proxy");
        let url = format!("redis://:{SECRET}@{}/", proxy.addr());
        let urls = [("a", url), ("b", b.url())];

        let client = databases(&urls).connect().await.expect("b lets us in");
        let witness = Witness::of(&client);
        let load = Load::start(&client, 4);
        sleep(ms(4000)).await;
        let history = load.stop().await;
        assert_eq!(history.errors().count(), 0, "{:?}", history.told());
        assert_eq!(witness.route(), [""; 0], "{witness}");
        let now = client.snapshot();
        let verdict = now.member("a").and_then(|a| a.verdict.clone());
        let denied = matches!(&verdict, Some(Verdict::Unhealthy(f)) if f.kind == FaultKind::Denied);
        assert!(denied, "{verdict:?}");
        assert!(!format!("{now:?} {now} {witness}").contains(SECRET));
        let accepted = proxy.counts().accepted;
        assert!((1..=3).contains(&accepted), "{accepted} connections in 4 s");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_set_at_run_time_hurts_with_the_next_connection_and_starts_no_storm() {
    bounded(async {
        let (a, b) = two().await;
        let proxy = FaultProxy::start(a.addr()).await.expect("a proxy");
        let urls = [("a", proxy.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder.grace_period(ms(1000))).await;
        // Whoever is in stays in.
        let mut admin = a.admin().await.expect("a connection");
        set(&mut admin, "requirepass", SECRET).await;
        scene.load.flows(SOON).await;
        sleep(ms(1000)).await;
        assert_eq!(scene.busy.route(), [""; 0], "{}", scene.busy);
        let accepted = proxy.counts().accepted;
        let fault = Instant::now();
        assert_eq!(proxy.reset_all(), 4, "two of each client");
        scene.moves_to("b", fault, SOON).await;
        sleep(ms(2500)).await;
        let tried = proxy.counts().accepted - accepted;
        assert!(
            (2..=16).contains(&tried),
            "{tried} connections of two clients in 2.5 s"
        );
        set(&mut admin, "requirepass", "").await;
        scene.moves_to("a", Instant::now(), ms(15_000)).await;
        let end = scene.end("requirepass", fault).await;

        end.assert_route(&["b", "a"]);
        end.history
            .assert_only(|said| *said == Said::Unknown("lost"));
        assert!(end.history.errors().count() <= 4);
        assert!(end.history.gap(fault) < ms(1500));
        end.history
            .assert_nothing_lost(&[("a", &a), ("b", &b)])
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_with_no_room_for_another_client_keeps_those_it_has() {
    bounded(async {
        let (a, b) = two().await;
        let urls = [("a", a.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder.grace_period(ms(500))).await;
        let mut admin = a.admin().await.expect("a connection");
        set(&mut admin, "maxclients", "1").await;
        let fault = Instant::now();
        let newcomer = databases(&urls).grace_period(ms(500)).connect().await;
        let newcomer = Witness::of(&newcomer.expect("b has room"));
        assert_eq!(newcomer.client.active().expect("b"), "b");
        assert!(fault.elapsed() < ms(2000), "{:?}", fault.elapsed());
        sleep(ms(1500)).await;
        for witness in [&scene.busy, &scene.idle] {
            assert_eq!(witness.route(), [""; 0], "{witness}");
            witness.assert_blameless("a");
        }
        set(&mut admin, "maxclients", "1000").await;
        newcomer.follows("a", Instant::now(), ms(10_000)).await;
        let end = scene.end("maxclients", fault).await;

        end.assert_nobody_moved();
        end.history.assert_only(|_| false);
        end.history
            .assert_nothing_lost(&[("a", &a), ("b", &b)])
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_lost_its_place_in_a_full_database_moves() {
    bounded(async {
        let (a, b) = two().await;
        let urls = [("a", a.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder).await;
        let mut admin = a.admin().await.expect("a connection");

        let fault = Instant::now();
        set(&mut admin, "maxclients", "1").await;
        kill_traffic(&mut admin).await;
        let busy = scene.busy.follows("b", fault, SOON).await;
        scene.load.flows(SOON).await;
        eprintln!("    on b: busy {busy:.1?} after it");
        let end = scene.end("maxclients, connection lost", fault).await;

        assert_eq!(end.busy.route(), ["b"], "{}", end.busy);
        end.busy.assert_blameless("b");
        end.history
            .assert_only(|said| *said == Said::Unknown("lost"));
        assert!(end.history.gap(fault) < ms(1500));
        set(&mut admin, "maxclients", "1000").await;
        end.history
            .assert_nothing_lost(&[("a", &a), ("b", &b)])
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_the_callers_business_and_moves_nobody() {
    bounded(async {
        let (a, b) = two().await;
        let mut urls = Vec::new();
        for (name, server) in [("a", &a), ("b", &b)] {
            let user = ["ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all"];
            let _: String = server.cmd(&user).await;
            urls.push((name, format!("redis://app:pw@{}/", server.addr())));
        }
        let scene = Scene::start(&urls, |builder| builder).await;

        let fault = Instant::now();
        let _: String = a.cmd(&["ACL", "SETUSER", "app", "-@write"]).await;
        sleep(ms(1500)).await;
        let _: String = a.cmd(&["ACL", "SETUSER", "app", "+@write"]).await;
        scene.load.flows(SOON).await;
        let end = scene.end("NOPERM", fault).await;

        end.assert_nobody_moved();
        let noperm = Said::Refused("NOPERM".to_owned());
        end.history.assert_only(|said| *said == noperm);
        assert!(end.history.count(Op::Incr, |said| *said == noperm) > 10);
        for call in end.history.errors() {
            assert!(call.took() < ms(500), "not at once: {call:?}");
        }
        end.history
            .assert_nothing_lost(&[("a", &a), ("b", &b)])
            .await;
    })
    .await;
}
