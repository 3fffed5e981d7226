//! Faults of the network before a healthy server, made by a proxy.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use multidb::engine::backend::Wiring;
use multidb::redis::{Connector, RedisEndpoint, TcpConnector, Transport, from_redis};
use multidb::testing::proxy::FaultProxy;
use multidb::{ErrorKind, Event, FaultKind, Reason, Verdict};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{SOON, Scene, bounded, connect, databases, ms, two};
use crate::support::eventually;
use crate::support::load::{Load, Op, Said};
use crate::support::redis_server::RedisServer;
use crate::support::witness::Witness;

async fn before(server: &RedisServer) -> FaultProxy {
    FaultProxy::start(server.addr()).await.expect("a proxy")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_at_the_start_joins_later() {
    bounded(start_without(
        "refused",
        FaultProxy::refuse,
        FaultKind::Unreachable,
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_and_hangs_at_the_start_does_not_hold_it_up() {
    bounded(start_without(
        "accepts and hangs",
        FaultProxy::accept_and_hang,
        FaultKind::Silent,
    ))
    .await;
}

async fn start_without(fault: &str, strike: fn(&FaultProxy), expected: FaultKind) {
    let (a, b) = two().await;
    let proxy = before(&a).await;
    let urls = [("a", proxy.url()), ("b", b.url())];

    let struck = Instant::now();
    strike(&proxy);
    let builder = databases(&urls).grace_period(ms(500));
    let client = builder.connect().await.expect("b is up");
    let took = struck.elapsed();
    assert!(took < ms(2000), "{took:?}");
    let witness = Witness::of(&client);
    assert_eq!(witness.client.active().expect("b"), "b");
    let load = Load::start(&client, 4);
    load.flows(SOON).await;
    eventually(SOON, "the verdict on a", async || {
        let now = client.snapshot();
        let a = now.member("a").expect("a member");
        matches!(&a.verdict, Some(Verdict::Unhealthy(fault)) if fault.kind == expected)
    })
    .await;

    proxy.pass();
    let back = witness.follows("a", Instant::now(), ms(10_000)).await;
    load.flows(SOON).await;
    let history = load.stop().await;
    eprintln!(
        "    {fault} at the start: connected after {took:.1?}, on a {back:.1?} after it was healed"
    );
    assert_eq!(history.errors().count(), 0, "{:?}", history.told());
    assert_eq!(witness.route(), ["a"], "{witness}");
    witness.assert_blameless("b");
    history.assert_nothing_lost(&[("a", &a), ("b", &b)]).await;
}

/// Refused, accepted and never answered, swallowed, or ended at once: what stood is reset, and no other
/// connection can be made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s27_in_whatever_way_connecting_fails_the_other_database_serves() {
    type Strike = fn(&FaultProxy);
    let ways: [(&str, Strike); 4] = [
        ("refused", FaultProxy::refuse),
        ("accepted and silent", FaultProxy::accept_and_hang),
        ("a black hole", FaultProxy::black_hole),
        ("ended after three bytes", |proxy| {
            proxy.cut_replies_after(3)
        }),
    ];
    bounded(async {
        for (way, strike) in ways {
            let (a, b) = two().await;
            let proxy = before(&a).await;
            let client = connect(databases(&[("a", proxy.url()), ("b", b.url())])).await;
            let mut con = client.connection();
            let struck = Instant::now();
            strike(&proxy);
            proxy.reset_all();
            // A read: it is repeated on whatever serves.
            let answer: Result<Option<String>, _> = con.get("key").await;
            let took = struck.elapsed();
            assert!(answer.is_ok(), "{way}: {answer:?}");
            assert_eq!(client.active().expect("b"), *"b", "{way}");
            assert!(took < ms(2500), "{way}: {took:?}");
            client.close().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_at_the_reconnect_is_left() {
    bounded(async {
        let (a, b) = two().await;
        let proxy = before(&a).await;
        let urls = [("a", proxy.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder).await;

        proxy.accept_and_hang();
        sleep(ms(200)).await;
        assert_eq!(
            scene.busy.route(),
            [""; 0],
            "what is connected stays connected"
        );
        let fault = Instant::now();
        let _: i64 = a.cmd(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        scene.moves_to("b", fault, SOON).await;
        let end = scene.end("hang at the reconnect", fault).await;

        end.assert_route(&["b"]);
        end.history
            .assert_only(|said| *said == Said::Unknown("lost"));
        assert!(end.history.errors().count() <= 4);
        assert!(end.history.gap(fault) < ms(3000));
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_is_in_doubt_and_never_repeated_elsewhere() {
    bounded(async {
        let (a, b) = two().await;
        let proxy = before(&a).await;
        let urls = [("a", proxy.url()), ("b", b.url())];
        let client = connect(databases(&urls)).await;
        let (mut writer, mut reader) = (client.connection(), client.connection());
        let _: () = writer.set("n", 0).await.expect("a healthy database");

        proxy.lose_replies();
        let fault = Instant::now();
        let (incremented, read) = tokio::join!(
            timeout(SOON, writer.incr::<_, _, i64>("n", 1)),
            timeout(SOON, reader.get::<_, Option<i64>>("n")),
        );
        let error = incremented
            .expect("in time")
            .expect_err("the reply was lost");
        let ours = from_redis(&error).expect("an error of ours");
        assert!(
            matches!(ours.kind(), ErrorKind::OutcomeUnknown(_)),
            "{ours}"
        );
        assert_eq!(ours.database().expect("it names the database"), "a");
        assert!(!ours.is_retry_safe());
        // The read was repeated on b, which knows nothing of n.
        assert_eq!(read.expect("in time").expect("an answer"), None);
        assert!(fault.elapsed() < ms(3000), "{:?}", fault.elapsed());
        assert_eq!(a.cmd::<i64>(&["GET", "n"]).await, 1);
        assert_eq!(b.cmd::<Option<i64>>(&["GET", "n"]).await, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_replies_leave_every_write_in_doubt_done_exactly_once() {
    bounded(silence(
        "replies lost",
        FaultProxy::lose_replies,
        |doubtful, there| {
            assert_eq!(there, doubtful, "every request arrived");
        },
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_requests_leave_every_write_in_doubt_undone() {
    bounded(silence(
        "requests lost",
        FaultProxy::lose_requests,
        |_, there| {
            assert_eq!(there, 0, "no request arrived");
        },
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_out_of_a_black_hole_after_it_has_closed() {
    bounded(silence(
        "black hole",
        FaultProxy::black_hole,
        |doubtful, there| {
            assert!(there <= doubtful);
        },
    ))
    .await;
}

/// The network swallows something, and is healed later. `verdict` sees how many pushes are in doubt
/// and how many of those were done.
async fn silence(fault: &str, strike: fn(&FaultProxy), verdict: fn(usize, usize)) {
    let (a, b) = two().await;
    let proxy = before(&a).await;
    let urls = [("a", proxy.url()), ("b", b.url())];
    let scene = Scene::start(&urls, |builder| builder.grace_period(ms(1000))).await;

    let struck = Instant::now();
    strike(&proxy);
    scene.moves_to("b", struck, ms(8000)).await;
    proxy.pass();
    scene.moves_to("a", Instant::now(), ms(15_000)).await;
    let end = scene.end(fault, struck).await;

    end.assert_route(&["b", "a"]);
    assert_eq!(end.busy.switches()[0].reason, Reason::Stalled);
    end.history
        .assert_only(|said| matches!(said, Said::Unknown(_)));
    assert!(
        end.history.errors().count() <= 4,
        "released at once, not one by one"
    );
    assert!(end.history.gap(struck) < ms(2500));
    let report = end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    let doubtful = end
        .history
        .count(Op::Push, |said| matches!(said, Said::Unknown(_)));
    verdict(doubtful, report.unpromised_applied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_connection_to_a_healthy_server_is_replaced_and_nobody_moves() {
    bounded(dead_connection(4)).await;
}

/// Many calls fail at the same moment, which is still one connection, and no verdict on the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_connection_with_many_calls_on_it_is_replaced_and_nobody_moves() {
    bounded(dead_connection(60)).await;
}

async fn dead_connection(tasks: usize) {
    let (a, b) = two().await;
    let proxy = before(&a).await;
    let urls = [("a", a.url()), ("b", b.url())];
    // Of each client the first connection, which is the one for traffic.
    let busy = connect(databases(&urls).connector(Detour::by(&proxy, &a))).await;
    let idle = databases(&urls).connector(Detour::by(&proxy, &a));
    let idle = connect(idle.health_interval(ms(500))).await;
    assert_eq!(proxy.counts().open, 2, "one connection of each client");
    let scene = Scene::of(&busy, &idle, tasks).await;

    let fault = Instant::now();
    proxy.black_hole();
    for witness in [&scene.busy, &scene.idle] {
        witness
            .hears("the connection is replaced", ms(4000), is_replacement)
            .await;
    }
    scene.load.flows(SOON).await;
    // Time for whatever else it may have set off.
    sleep(ms(1000)).await;
    let end = scene.end("one dead connection", fault).await;

    end.assert_nobody_moved();
    assert_eq!(end.busy.count(is_replacement), 1, "{}", end.busy);
    assert_eq!(end.idle.count(is_replacement), 1, "{}", end.idle);
    end.history
        .assert_only(|said| matches!(said, Said::Unknown(_)));
    // It is given up as its first call times out; on a busy machine that caller may be quicker.
    assert!(end.history.errors().count() <= 2 * tasks);
    assert!(end.history.gap(fault) < ms(3000));
    end.assert_invariants(&[("a", &a), ("b", &b)]).await;
}

fn is_replacement(event: &Event) -> bool {
    matches!(event, Event::ConnectionReplaced { .. })
}

/// Takes the first connection to a server through a proxy, and all others straight.
struct Detour {
    tcp: TcpConnector,
    to: u16,
    through: RedisEndpoint,
    taken: AtomicBool,
}

impl Detour {
    fn by(proxy: &FaultProxy, server: &RedisServer) -> Self {
        Self {
            tcp: TcpConnector::default(),
            to: server.addr().port(),
            through: RedisEndpoint::parse(&proxy.url()).expect("a URL"),
            taken: AtomicBool::new(false),
        }
    }
}

impl Connector for Detour {
    fn connect<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
        wiring: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let first = endpoint.port() == Some(self.to) && !self.taken.swap(true, Ordering::AcqRel);
        self.tcp
            .connect(if first { &self.through } else { endpoint }, wiring)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_one_killed_connection_is_replaced_once_and_nobody_moves() {
    bounded(async {
        let (a, b) = two().await;
        let urls = [("a", a.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder).await;

        let fault = Instant::now();
        kill_traffic(&mut a.admin().await.expect("a connection")).await;
        scene
            .busy
            .hears("the connection is replaced", SOON, is_replacement)
            .await;
        scene.load.flows(SOON).await;
        sleep(ms(500)).await;
        let end = scene.end("one CLIENT KILL", fault).await;

        end.assert_nobody_moved();
        assert_eq!(end.busy.count(is_replacement), 1, "{}", end.busy);
        end.history
            .assert_only(|said| *said == Said::Unknown("lost"));
        assert!(end.history.errors().count() <= 4);
        assert!(end.history.gap(fault) < ms(1500));
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

/// Ends the connection on which a command of the load was the last to run.
pub(crate) async fn kill_traffic(admin: &mut MultiplexedConnection) {
    let mut list = redis::cmd("CLIENT");
    let clients: String = list.arg("LIST").query_async(admin).await.expect("a list");
    let mut killed = 0;
    for client in clients.lines() {
        let field = |name: &str| {
            let mut fields = client.split(' ');
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        if matches!(field("cmd"), Some("rpush" | "incrby" | "get")) {
            let mut kill = redis::cmd("CLIENT");
            kill.arg(&["KILL", "ID", field("id").expect("an id")]);
            killed += kill.query_async::<i64>(admin).await.expect("a count");
        }
    }
    assert_eq!(
        killed, 1,
        "the traffic connection is not found in\n{clients}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_reset_at_once_are_made_anew_and_nobody_moves() {
    bounded(async {
        let (a, b) = two().await;
        let proxy = before(&a).await;
        let urls = [("a", proxy.url()), ("b", b.url())];
        let scene = Scene::start(&urls, |builder| builder).await;

        let fault = Instant::now();
        let accepted = proxy.counts().accepted;
        assert_eq!(proxy.reset_all(), 4, "two of each client");
        for witness in [&scene.busy, &scene.idle] {
            witness
                .hears("the connection is replaced", SOON, is_replacement)
                .await;
        }
        scene.load.flows(SOON).await;
        sleep(ms(500)).await;
        let remade = proxy.counts().accepted - accepted;
        let end = scene.end("all connections reset", fault).await;

        end.assert_nobody_moved();
        for witness in [&end.busy, &end.idle] {
            assert_eq!(witness.count(is_replacement), 1, "{witness}");
        }
        assert!(
            (4..=6).contains(&remade),
            "{remade} connections for 4 that were lost"
        );
        end.history
            .assert_only(|said| *said == Said::Unknown("lost"));
        assert!(end.history.errors().count() <= 4);
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}
