//! Databases behind unix sockets and TLS, with real servers: what works over TCP works, and what cannot
//! work is said at once and by name.

#![cfg(unix)]

mod support;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use multidb::engine::backend::{Backend, Purpose, Wiring};
use multidb::redis::{Connector, Redis, RedisEndpoint, TcpConnector, TlsConfig, Transport};
use multidb::{Builder, Database, ErrorKind, Fault, FaultKind, MultiDbClient, Verdict};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use redis::{AsyncCommands, aio::ConnectionLike};
use tokio::time::{Instant, sleep, timeout};

use support::eventually;
use support::redis_server::{MASTER, RedisServer, Tls};

// === certificates ===

struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Identity {
    cert: String,
    key: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    fn identity(&self, names: &[&str]) -> Identity {
        self.identity_until(names, 2400)
    }

    fn identity_until(&self, names: &[&str], year: i32) -> Identity {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Identity {
            cert: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// A server that shows `shown`, and asks for certificates of this CA if it asks.
    async fn server(&self, shown: Identity, auth_clients: bool) -> RedisServer {
        let tls = self.tls(shown, auth_clients);
        RedisServer::builder().tls(tls).start().await
    }

    fn tls(&self, shown: Identity, auth_clients: bool) -> Tls {
        Tls {
            ca: self.pem(),
            cert: shown.cert,
            key: shown.key,
            auth_clients,
        }
    }

    fn trusted(&self) -> TlsConfig {
        TlsConfig::new().ca_pem(self.pem()).unwrap()
    }
}

// === clients ===

fn secure(server: &RedisServer, tls: TlsConfig) -> RedisEndpoint {
    let url = format!("rediss://{}/?protocol=resp3", server.tls_addr());
    RedisEndpoint::parse(&url).unwrap().tls(tls).unwrap()
}

fn through_socket(server: &RedisServer) -> RedisEndpoint {
    let path = server.socket().display().to_string();
    let url = format!("unix://{}?protocol=resp3", path.replace(' ', "%20"));
    RedisEndpoint::parse(&url).unwrap()
}

fn builder_of(endpoint: RedisEndpoint) -> Builder<Redis> {
    MultiDbClient::builder().database(Database::new("east", endpoint).unwrap())
}

async fn client_of(endpoint: RedisEndpoint) -> MultiDbClient<Redis> {
    builder_of(endpoint).connect().await.unwrap()
}

/// Why the only database, called east, does not serve; the start, a command and the view agree.
async fn refused(endpoint: RedisEndpoint) -> Fault {
    let asked = Instant::now();
    let error = builder_of(endpoint.clone()).connect().await.unwrap_err();
    assert!(asked.elapsed() < AT_ONCE, "{:?}: {error}", asked.elapsed());
    assert_eq!(error.kind(), &ErrorKind::NotStarted);
    assert_eq!(error.database().unwrap(), "east");
    let source = std::error::Error::source(&error).expect("the fault");
    let told = source.downcast_ref::<Fault>().expect("a fault").clone();

    let client = builder_of(endpoint)
        .deadline(Duration::from_millis(300))
        .connect_lazy()
        .unwrap();
    let set = client.connection().set::<_, _, ()>("k", "v").await;
    let error = set.unwrap_err();
    let error = multidb::redis::from_redis(&error).expect("an error of ours");
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::NoHealthyDatabase
        ),
        "{error}"
    );
    eventually(LIMIT, "the view says it, too", async || {
        let snapshot = client.snapshot();
        matches!(&snapshot.members[0].verdict, Some(Verdict::Unhealthy(fault)) if *fault == told)
    })
    .await;
    client.close().await;
    told
}

fn is_denied(fault: &Fault, what: &str) {
    assert_eq!((fault.kind, fault.what.as_str()), (FaultKind::Denied, what));
}

/// Commands, a pipeline, a transaction, a script, a large value, a blocking command and a subscription.
async fn everything_works(client: &MultiDbClient<Redis>) {
    let mut con = client.connection();
    let large = vec![b'x'; 3 << 20];
    let () = con.set("large", &large).await.unwrap();
    assert_eq!(con.get::<_, Vec<u8>>("large").await.unwrap(), large);
    let numbers: Vec<i64> = redis::pipe()
        .incr("n", 1)
        .incr("n", 1)
        .atomic()
        .query_async(&mut con)
        .await
        .unwrap();
    assert_eq!(numbers, [1, 2]);
    let script = redis::Script::new("return redis.call('INCR', KEYS[1])");
    let three: i64 = script.key("n").invoke_async(&mut con).await.unwrap();
    assert_eq!(three, 3);
    let mut other = client.connection();
    let (popped, pushed) = tokio::join!(
        con.blpop::<_, (String, String)>("list", 5.0),
        other.rpush::<_, _, i64>("list", "element"),
    );
    assert_eq!(popped.unwrap().1, "element");
    pushed.unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe("news").await.unwrap();
    let reached: i64 = con.publish("news", "1").await.unwrap();
    assert_eq!(reached, 1);
    let msg = timeout(LIMIT, pubsub.on_message().next()).await.unwrap();
    assert_eq!(msg.unwrap().get_channel_name(), "news");
    let many = (0..200).map(|n| {
        let mut con = client.connection();
        tokio::spawn(async move {
            let () = con.set(n, n).await?;
            con.get::<_, i64>(n).await
        })
    });
    for (n, got) in many.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(got.await.unwrap().unwrap(), i64::try_from(n).unwrap());
    }
}

/// A step that a client without a certificate, or with a wrong one, is refused within.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long the slowest honest step may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

// === what works ===

#[tokio::test]
async fn a_socket_of_the_file_system_carries_everything() {
    let server = RedisServer::builder().unix().start().await;
    let client = client_of(through_socket(&server)).await;
    everything_works(&client).await;
    assert_eq!(client.connection().get_db(), 0);
    let clients: String = server.cmd(&["CLIENT", "LIST"]).await;
    let ours = clients.lines().filter(|line| line.contains(" flags=U "));
    let path = server.socket().display().to_string();
    assert!(ours.clone().count() >= 1, "{clients}");
    for line in ours {
        assert!(line.contains(&format!(" addr={path}:0 ")), "{line}");
    }
}

#[tokio::test]
async fn a_user_and_a_database_number_are_taken_from_the_sockets_url() {
    let server = RedisServer::builder().unix().password("p&ss").start().await;
    let path = server.socket().display().to_string().replace(' ', "%20");
    let url = format!("redis+unix://{path}?db=3&user=default&pass=p%26ss");
    let client = MultiDbClient::open([(url, 1.0)]).unwrap();
    let () = client.connection().set("k", "v").await.unwrap();
    let dump: String = server.cmd(&["INFO", "keyspace"]).await;
    assert!(dump.contains("db3:keys=1"), "{dump}");
    let expected = format!("{}?db=3", server.socket().display());
    assert_eq!(client.active().unwrap(), *expected);
    let wrong = format!("unix://{path}?pass=wrong");
    let fault = refused(RedisEndpoint::parse(&wrong).unwrap()).await;
    is_denied(&fault, "credentials refused");
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_said_at_once() {
    let mut server = RedisServer::builder().unix().start().await;
    let nowhere = RedisEndpoint::parse("unix:///nowhere/redis.sock").unwrap();
    let fault = refused(nowhere).await;
    assert_eq!(fault.kind, FaultKind::Unreachable, "{fault}");
    server.kill();
    let fault = refused(through_socket(&server)).await;
    assert_eq!(fault.kind, FaultKind::Unreachable, "{fault}");
}

/// Naive: an address of a client ends at the first space.
#[tokio::test]
async fn a_connection_over_a_socket_is_fenced_whatever_its_path_looks_like() {
    let server = RedisServer::builder().unix().start().await;
    let redis = Redis::new(TcpConnector::default());
    let database = Database::new("east", through_socket(&server)).unwrap();
    let open = || {
        let wiring = Wiring::new(Purpose::Traffic, Duration::from_secs(5));
        redis.connect(&database, wiring)
    };
    let lost = open().await.unwrap();
    let fresh = open().await.unwrap();
    assert_eq!(server.connected_clients().await, 2);
    let mark = redis.mark(&lost).unwrap();
    redis.fence(&fresh, vec![mark]).await.unwrap();
    assert_eq!(server.connected_clients().await, 1);
    fresh.ask(&redis::cmd("PING")).await.unwrap();
    lost.ask(&redis::cmd("PING")).await.unwrap_err();
}

/// Naive: over a socket everybody has the same address, and ids start again with the server.
#[tokio::test]
async fn nobody_is_ended_in_the_place_of_a_connection_to_an_earlier_run() {
    let mut server = RedisServer::builder().unix().start().await;
    let redis = Redis::new(TcpConnector::default());
    let database = Database::new("east", through_socket(&server)).unwrap();
    let open = || {
        let wiring = Wiring::new(Purpose::Traffic, Duration::from_secs(5));
        redis.connect(&database, wiring)
    };
    let mark = redis.mark(&open().await.unwrap()).unwrap();
    server.restart().await;
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(open().await.unwrap());
    }
    let fresh = open().await.unwrap();
    redis.fence(&fresh, vec![mark]).await.unwrap();
    assert_eq!(server.connected_clients().await, 1 + strangers.len());
}

#[tokio::test]
async fn tls_carries_everything() {
    let ca = Ca::new("ca");
    let server = ca.server(ca.identity(&["127.0.0.1"]), false).await;
    let client = client_of(secure(&server, ca.trusted())).await;
    everything_works(&client).await;
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let ca = Ca::new("ca");
    let server = ca.server(ca.identity(&["127.0.0.1"]), true).await;
    let ours = ca.identity(&["client"]);
    let tls = ca.trusted().client_identity_pem(ours.cert, ours.key);
    let client = client_of(secure(&server, tls.unwrap())).await;
    everything_works(&client).await;
}

#[tokio::test]
async fn a_certificate_may_be_for_another_name_or_for_none_if_that_is_said() {
    let ca = Ca::new("ca");
    let server = ca.server(ca.identity(&["db.example"]), false).await;
    let named = ca.trusted().server_name("db.example").unwrap();
    everything_works(&client_of(secure(&server, named)).await).await;
    let url = format!("rediss://{}/1#insecure", server.tls_addr());
    let client = MultiDbClient::builder().url(url, 1.0).connect().await;
    everything_works(&client.unwrap()).await;
    let anyone = TlsConfig::new().danger_accept_invalid_certs();
    let () = client_of(secure(&server, anyone))
        .await
        .connection()
        .set("k", "v")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_cluster_is_reached_by_tls_at_the_host_that_it_was_asked_at() {
    let ca = Ca::new("ours");
    let shown = ca.identity(&["localhost"]);
    // Of one node, which talks to no other.
    let bus = {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        free.local_addr().unwrap().port().to_string()
    };
    let server = RedisServer::builder()
        .config("cluster-enabled", "yes")
        .config("cluster-port", &bus)
        .config("tls-cluster", "yes")
        .tls(ca.tls(shown, false))
        .start()
        .await;
    let () = server
        .cmd(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])
        .await;
    eventually(AT_ONCE * 10, "the cluster is well", async || {
        let info: String = server.cmd(&["CLUSTER", "INFO"]).await;
        info.contains("cluster_state:ok")
    })
    .await;
    let port = server.tls_addr().port();
    let endpoint = |end: &str| {
        let url = format!("rediss-cluster://localhost:{port}?protocol=resp3{end}");
        RedisEndpoint::parse(&url).unwrap()
    };
    everything_works(&client_of(endpoint("").tls(ca.trusted()).unwrap()).await).await;
    let () = server.cmd(&["FLUSHALL"]).await;
    everything_works(&client_of(endpoint("#insecure")).await).await;
    let stranger = Ca::new("another's").trusted();
    let fault = refused(endpoint("").tls(stranger).unwrap()).await;
    assert_eq!(fault.kind, FaultKind::Denied, "{fault}");
}

#[tokio::test]
async fn sentinels_and_their_master_are_both_reached_by_tls() {
    let ca = Ca::new("ours");
    let master = ca.server(ca.identity(&["127.0.0.1"]), false).await;
    let shown = ca.identity(&["localhost"]);
    let sentinel = RedisServer::builder()
        .sentinel_of(master.tls_addr())
        .config("tls-replication", "yes")
        .tls(ca.tls(shown, false))
        .start()
        .await;
    // Each shows a certificate for its own host.
    let port = sentinel.tls_addr().port();
    let url = format!("rediss-sentinel://localhost:{port}#{MASTER}");
    let endpoint = || RedisEndpoint::parse(&url).unwrap();
    everything_works(&client_of(endpoint().tls(ca.trusted()).unwrap()).await).await;
    let stranger = Ca::new("another's").trusted();
    let fault = refused(endpoint().tls(stranger).unwrap()).await;
    assert_eq!(fault.kind, FaultKind::Denied, "{fault}");
}

/// Commands and probes go on elsewhere, over another kind of transport, with the same settings.
#[tokio::test]
async fn a_killed_database_behind_tls_is_replaced_by_one_behind_a_socket_and_comes_back() {
    let ca = Ca::new("ca");
    let mut east = ca.server(ca.identity(&["127.0.0.1"]), false).await;
    let west = RedisServer::builder().unix().start().await;
    let database = |id, endpoint| Database::new(id, endpoint).unwrap();
    let client = MultiDbClient::builder()
        .database(
            database("east", secure(&east, ca.trusted()))
                .weight(1.0)
                .unwrap(),
        )
        .database(database("west", through_socket(&west)).weight(0.5).unwrap())
        .health_interval(Duration::from_millis(100))
        .grace_period(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let mut con = client.connection();
    eventually(LIMIT, "both are probed", async || {
        client
            .snapshot()
            .members
            .iter()
            .all(|member| member.connected && matches!(member.verdict, Some(Verdict::Healthy)))
    })
    .await;
    let () = con.set("where", "east").await.unwrap();
    assert_eq!(client.active().unwrap(), "east");

    let killed = Instant::now();
    east.kill();
    while let Err(error) = con.set::<_, _, ()>("where", "west").await {
        let ours = multidb::redis::from_redis(&error).expect("an error of ours");
        let lost = ErrorKind::OutcomeUnknown(multidb::Doubt::Lost);
        assert_eq!(ours.kind(), &lost, "{ours}");
    }
    assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
    assert_eq!(client.active().unwrap(), "west");
    assert_eq!(west.cmd::<String>(&["GET", "where"]).await, "west");

    east.restart().await;
    eventually(LIMIT, "east is found well again", async || {
        let snapshot = client.snapshot();
        let east = snapshot.members.iter().find(|member| member.id == *"east");
        east.is_some_and(|east| matches!(east.verdict, Some(Verdict::Healthy)) && east.connected)
    })
    .await;
}

/// Naive: a kill without a word of farewell is an error of TLS and not a lost connection.
#[tokio::test]
async fn a_kill_behind_tls_is_a_lost_connection() {
    let ca = Ca::new("ca");
    let mut server = ca.server(ca.identity(&["127.0.0.1"]), false).await;
    let client = client_of(secure(&server, ca.trusted())).await;
    let waits = {
        let mut con = client.connection();
        tokio::spawn(async move { con.incr::<_, _, i64>("n", 1).await })
    };
    assert_eq!(waits.await.unwrap().unwrap(), 1);
    server.stop().await;
    let waits = {
        let mut con = client.connection();
        tokio::spawn(async move { con.incr::<_, _, i64>("n", 1).await })
    };
    sleep(Duration::from_millis(50)).await;
    server.kill();
    let error = waits.await.unwrap().unwrap_err();
    let ours = multidb::redis::from_redis(&error).expect("an error of ours");
    assert_eq!(
        ours.kind(),
        &ErrorKind::OutcomeUnknown(multidb::Doubt::Lost),
        "{ours}"
    );
}

// === what does not ===

#[tokio::test]
async fn a_server_of_an_unknown_ca_is_refused() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let server = ca.server(ca.identity(&["127.0.0.1"]), false).await;
    let fault = refused(secure(&server, other.trusted())).await;
    is_denied(&fault, "certificate refused: unknown issuer");
}

#[tokio::test]
async fn f14_a_certificate_for_another_host_is_refused() {
    let ca = Ca::new("ca");
    let server = ca.server(ca.identity(&["127.0.0.1"]), false).await;
    let elsewhere = ca.trusted().server_name("db.example").unwrap();
    let fault = refused(secure(&server, elsewhere)).await;
    is_denied(&fault, "certificate refused: not for this host");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = Ca::new("ca");
    let shown = ca.identity_until(&["127.0.0.1"], 2001);
    let server = ca.server(shown, false).await;
    let fault = refused(secure(&server, ca.trusted())).await;
    is_denied(&fault, "certificate refused: expired");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_refuses_who_has_none_or_a_wrong_one() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let server = ca.server(ca.identity(&["127.0.0.1"]), true).await;
    // With TLS 1.3 the server says so after the handshake, when the client may be writing already.
    for _ in 0..10 {
        let fault = refused(secure(&server, ca.trusted())).await;
        is_denied(&fault, "client certificate refused");
    }
    let ours = other.identity(&["client"]);
    let wrong = ca.trusted().client_identity_pem(ours.cert, ours.key);
    let fault = refused(secure(&server, wrong.unwrap())).await;
    is_denied(&fault, "client certificate refused");
}

#[tokio::test]
async fn tls_1_2_is_spoken_and_refused_like_1_3() {
    let ca = Ca::new("ca");
    let shown = ca.identity(&["127.0.0.1"]);
    let tls = Tls {
        ca: ca.pem(),
        cert: shown.cert,
        key: shown.key,
        auth_clients: true,
    };
    let server = RedisServer::builder()
        .tls(tls)
        .config("tls-protocols", "TLSv1.2");
    let server = server.start().await;
    let fault = refused(secure(&server, ca.trusted())).await;
    assert_eq!(fault.kind, FaultKind::Denied, "{fault}");
    let ours = ca.identity(&["client"]);
    let tls = ca.trusted().client_identity_pem(ours.cert, ours.key);
    everything_works(&client_of(secure(&server, tls.unwrap())).await).await;
}

/// A Redis without TLS reads the greeting as the start of a command and waits for the rest: what ends
/// that is the connect timeout.
#[tokio::test]
async fn a_server_without_tls_is_told_by_the_connect_timeout() {
    let server = RedisServer::start().await;
    let url = format!("rediss://{}", server.addr());
    let tls = TlsConfig::new().danger_accept_invalid_certs();
    let endpoint = RedisEndpoint::parse(&url).unwrap().tls(tls).unwrap();
    let mut config = multidb::Config::default();
    config.calls.connect_timeout = Duration::from_millis(300);
    let asked = Instant::now();
    let started = builder_of(endpoint).config(config).connect().await;
    let error = started.unwrap_err();
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert_eq!(error.database().unwrap(), "east");
    let source = std::error::Error::source(&error).expect("the fault");
    assert_eq!(
        source.downcast_ref::<Fault>().unwrap().kind,
        FaultKind::Silent
    );
}

#[tokio::test]
async fn a_server_with_tls_that_is_greeted_without_is_no_riddle() {
    let ca = Ca::new("ca");
    let server = ca.server(ca.identity(&["127.0.0.1"]), false).await;
    let url = format!("redis://{}", server.tls_addr());
    let fault = refused(RedisEndpoint::parse(&url).unwrap()).await;
    assert!(
        matches!(fault.kind, FaultKind::Lost | FaultKind::Other),
        "{fault:?}"
    );
}

#[derive(Clone, Default)]
struct Counting(TcpConnector, Arc<AtomicUsize>);

impl Connector for Counting {
    fn connect<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
        wiring: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.connect(endpoint, wiring)
    }
}

/// Also a connector of one's own is below TLS: none can forget it.
#[tokio::test]
async fn a_refused_certificate_is_not_asked_for_over_and_over() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let server = ca.server(ca.identity(&["127.0.0.1"]), false).await;
    let counting = Counting::default();
    let client = builder_of(secure(&server, other.trusted()))
        .connector(counting.clone())
        .connect_lazy()
        .unwrap();
    let mut con = client.connection();
    let busy = timeout(Duration::from_secs(2), async {
        loop {
            let _ = con.set::<_, _, ()>("k", "v").await;
            tokio::task::yield_now().await;
        }
    });
    busy.await.unwrap_err();
    let tries = counting.1.load(Ordering::Relaxed);
    assert!((1..=30).contains(&tries), "{tries} connections in 2 s");
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_lost_and_not_denied() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let hangs_up = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let url = format!("rediss://{address}/#insecure");
    let fault = refused(RedisEndpoint::parse(&url).unwrap()).await;
    assert_eq!(fault.kind, FaultKind::Lost, "{fault}");
    hangs_up.abort();
}
