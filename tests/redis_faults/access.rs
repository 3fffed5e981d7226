//! A server that does not let us in, or not all of us, or not to everything.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::redis::{Credentials, CredentialsProvider, RedisEndpoint};
use multidb::testing::proxy::FaultProxy;
use multidb::{Database, ErrorKind, Fault, FaultKind, MultiDbClient, Verdict};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, RedisResult, cmd};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::network::kill_traffic;
use crate::rig::{SOON, Scene, bounded, connect, databases, ms, two};
use crate::support::eventually;
use crate::support::load::{Client, Load, Op, Said};
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
async fn f12_a_password_set_at_run_time_hurts_with_the_next_connection_and_starts_no_storm() {
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
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
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
        end.assert_told_right(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_a_client_that_lost_its_place_in_a_full_database_moves() {
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
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
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
        end.assert_invariants(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

// === credentials that change ===

/// Gives what it has been told last, and counts.
#[derive(Clone)]
struct Vault {
    current: watch::Sender<Credentials>,
    asked: Arc<AtomicUsize>,
}

impl Vault {
    fn with(credentials: Credentials) -> Self {
        Self {
            current: watch::Sender::new(credentials),
            asked: Arc::default(),
        }
    }
}

impl CredentialsProvider for Vault {
    fn credentials<'a>(
        &'a self,
        _: &'a RedisEndpoint,
    ) -> BoxFuture<'a, Result<Credentials, Fault>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let current = self.current.borrow().clone();
        async move { Ok(current) }.boxed()
    }
}

async fn behind(vault: &Vault, server: &RedisServer) -> Client {
    let endpoint = RedisEndpoint::parse(&format!("redis://{}", server.addr())).expect("a URL");
    let endpoint = endpoint.credentials(vault.clone());
    let endpoint = endpoint.client_name("orders").expect("a name");
    let database = Database::new("a", endpoint).expect("an id");
    connect(MultiDbClient::builder().database(database)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_is_asked_for_with_the_next_connection() {
    bounded(async {
        let server = RedisServer::builder().password("one").start().await;
        let mut admin = server.admin().await.expect("an admin");
        let vault = Vault::with(Credentials::new("one"));
        let client = behind(&vault, &server).await;
        let mut pubsub = client.get_async_pubsub().await.expect("the same password");
        pubsub.subscribe("news").await.expect("subscribed");

        set(&mut admin, "requirepass", "two").await;
        vault.current.send_replace(Credentials::new("two"));
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("SKIPME").arg("yes");
        let killed: i64 = kill.query_async(&mut admin).await.expect("killed");
        assert!(killed >= 2, "traffic and subscriptions: {killed}");
        let mut con = client.connection();
        let answer: RedisResult<Option<String>> = con.get("key").await;
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(client.snapshot().generation, 1);
        let resubscribed = async || {
            let reached: i64 = (admin.clone().publish("news", "1").await).expect("published");
            reached == 1
        };
        eventually(SOON, "it is subscribed again", resubscribed).await;
        client.close().await;
    })
    .await;
}

/// Naive: the server ends the connection when the token of its greeting expires.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stand_authenticate_anew_before_their_token_expires() {
    bounded(async {
        let server = RedisServer::start().await;
        for user in ["first", "second"] {
            let rule = ["ACL", "SETUSER", user, "on", ">token", "~*", "&*", "+@all"];
            let _: String = server.cmd(&rule).await;
        }
        let token = |user: &str| Credentials::new("token").user(user);
        let vault = Vault::with(token("first").expires_in(ms(2000)));
        let client = behind(&vault, &server).await;
        let of = async |user: &str| {
            let list: String = server.cmd(&["CLIENT", "LIST"]).await;
            let user = format!(" user={user} ");
            let ids = list.lines().filter(|line| line.contains(&user));
            let named = ids.filter(|line| line.contains(" name=orders "));
            let ids: Vec<_> = named.filter_map(|line| line.split(' ').next()).collect();
            ids.join(" ")
        };
        eventually(
            SOON,
            "there are a traffic and a probe connection",
            async || of("first").await.split(' ').count() == 2,
        )
        .await;
        let before = of("first").await;
        vault.current.send_replace(token("second"));
        eventually(SOON, "the same connections are somebody else", async || {
            of("second").await == before
        })
        .await;
        let asked = vault.asked.load(Ordering::Relaxed);
        sleep(ms(1200)).await;
        assert_eq!(
            vault.asked.load(Ordering::Relaxed),
            asked,
            "nothing expires any more"
        );
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_fails_is_a_fault_of_that_database_only() {
    struct Sealed;
    impl CredentialsProvider for Sealed {
        fn credentials<'a>(
            &'a self,
            _: &'a RedisEndpoint,
        ) -> BoxFuture<'a, Result<Credentials, Fault>> {
            async { Err(Fault::new(FaultKind::Denied, "the vault is sealed")) }.boxed()
        }
    }
    bounded(async {
        let (a, b) = two().await;
        let sealed = RedisEndpoint::parse(&a.url()).expect("a URL").credentials(Sealed);
        let builder = MultiDbClient::builder()
            .database(Database::new("a", sealed).expect("an id"))
            .url(b.url(), 0.5);
        let client = builder.connect().await.expect("b is up");
        let mut con = client.connection();
        let () = con.set("key", "value").await.expect("b serves");
        eventually(SOON, "the fault is told", async || {
            let snapshot = client.snapshot();
            let verdict = &snapshot.member("a").expect("a member").verdict;
            matches!(verdict, Some(Verdict::Unhealthy(fault)) if fault.what == "the vault is sealed")
        })
        .await;
        client.close().await;
    })
    .await;
}

#[cfg(feature = "serde")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_names_where_its_passwords_are() {
    bounded(async {
        // Which cargo sets for tests.
        let variable = "CARGO_PKG_NAME";
        let password = std::env::var(variable).expect("run by cargo");
        let first = RedisServer::builder().password(&password).start().await;
        let second = RedisServer::builder().password("one").start().await;
        let mut admin = second.admin().await.expect("an admin");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "one\n").expect("written");
        let path = file.path().display();
        let config = format!(
            "[[databases]]\nid = 'a'\nurl = 'redis://{}'\nweight = 2\npassword_env = '{variable}'\n\
             [[databases]]\nid = 'b'\nurl = 'redis://{}'\npassword_file = '{path}'\nclient_name = 'orders'\n",
            first.addr(),
            second.addr(),
        );
        let config = multidb::redis::RedisConfig::from_toml(&config).expect("a configuration");
        config.validate().expect("a valid one");
        let client = connect(config.builder().expect("a builder")).await;
        client.switch_to("b").await.expect("let in");
        let named = async || {
            let mut list = cmd("CLIENT");
            list.arg("LIST");
            let list: String = list.query_async(&mut admin.clone()).await.expect("a list");
            list.matches(" name=orders ").count()
        };
        eventually(SOON, "traffic and probes are connected", async || named().await == 2).await;

        std::fs::write(file.path(), "two\n").expect("written");
        set(&mut admin, "requirepass", "two").await;
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("SKIPME").arg("yes");
        let _: i64 = kill.query_async(&mut admin).await.expect("killed");
        let answer: RedisResult<Option<String>> = client.connection().get("key").await;
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(client.active().expect("b"), *"b");
        client.close().await;
    })
    .await;
}
