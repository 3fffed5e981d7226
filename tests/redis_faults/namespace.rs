//! Silence made by the kernel, with its retransmissions and timeouts: in a network namespace that has
//! nothing but a loopback, so that not one packet can leave it.

use std::fs;
use std::io;
use std::process::Command;

use futures_util::future::BoxFuture;
use multidb::engine::backend::Wiring;
use multidb::redis::{Connector, RedisEndpoint, Transport};
use multidb::{Config, Reason, Snapshot, Verdict};
use redis::AsyncCommands;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{SOON, Scene, bounded, connect, databases, ms, two};
use crate::support::eventually;
use crate::support::load::{Load, Op, Said, TOKENS};

/// Set for the process inside.
const INSIDE: &str = "MULTIDB_TEST_NAMESPACE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f03_nothing_comes_out_of_a_black_hole_of_the_kernels_after_it_has_closed() {
    let name = "f03_nothing_comes_out_of_a_black_hole_of_the_kernels_after_it_has_closed";
    in_a_namespace(
        name,
        silence(&["dport", "sport"], |doubtful, there| {
            assert!(there <= doubtful)
        }),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_replies_that_the_kernel_drops_leave_every_write_in_doubt_done_exactly_once() {
    let name = "f04_replies_that_the_kernel_drops_leave_every_write_in_doubt_done_exactly_once";
    in_a_namespace(
        name,
        silence(&["sport"], |doubtful, there| assert_eq!(there, doubtful)),
    )
    .await;
}

/// What it is good for that abandoned connections are reset and fenced: without either, the kernel goes
/// on sending what nobody waits for any more, and the server runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_reset_and_fence_an_abandoned_write_comes_out_of_the_black_hole() {
    let name = "without_reset_and_fence_an_abandoned_write_comes_out_of_the_black_hole";
    in_a_namespace(name, zombie()).await;
}

/// What stands is well, and no other could be made: that is a reservation, and moves nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_server_that_new_connections_do_not_reach_goes_on_serving_over_the_old_one() {
    let name = "f05_a_server_that_new_connections_do_not_reach_goes_on_serving_over_the_old_one";
    in_a_namespace(name, async {
        let (a, b) = two().await;
        let mut config = Config::default();
        config.health.interval = ms(200);
        config.health.fresh_every = 1;
        config.calls.connect_timeout = ms(300);
        let builder = databases(&[("a", a.url()), ("b", b.url())]);
        let client = connect(builder.config(config)).await;
        let load = Load::start(&client, 4);
        load.flows(SOON).await;
        let port = a.addr().port();
        nft(&format!(
            "add table inet faults\n\
             add chain inet faults input {{ type filter hook input priority 0; }}\n\
             add rule inet faults input tcp dport {port} tcp flags & (syn | ack) == syn drop"
        ));
        let reserved =
            |s: &Snapshot| matches!(s.member("a").unwrap().verdict, Some(Verdict::Degraded(_)));
        let told = timeout(SOON, client.wait_for(reserved)).await;
        told.expect("it is told").expect("an open client");
        load.flows(SOON).await;
        assert_eq!(client.active().expect("a"), *"a");
        nft("delete table inet faults");
        let well = |s: &Snapshot| s.member("a").unwrap().verdict == Some(Verdict::Healthy);
        let told = timeout(SOON, client.wait_for(well)).await;
        told.expect("it is over").expect("an open client");
        let history = load.stop().await;
        history.assert_only(|_| false);
        assert_eq!(client.snapshot().generation, 1);
    })
    .await;
}

/// Every packet is answered by the network: nobody is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_a_server_that_the_network_says_is_not_there_is_left() {
    let name = "f07_a_server_that_the_network_says_is_not_there_is_left";
    in_a_namespace(name, async {
        let (a, b) = two().await;
        let scene = Scene::start(&[("a", a.url()), ("b", b.url())], |builder| builder).await;
        let fault = Instant::now();
        let port = a.addr().port();
        nft(&format!(
            "add table inet faults\n\
             add chain inet faults output {{ type filter hook output priority 0; }}\n\
             add rule inet faults output tcp dport {port} reject with icmp host-unreachable"
        ));
        scene.moves_to("b", fault, ms(8000)).await;
        nft("delete table inet faults");
        let end = scene.end("unreachable, says the network", fault).await;
        end.assert_route(&["b"]);
        end.assert_told_right(&[("a", &a), ("b", &b)]).await;
    })
    .await;
}

/// A name that leads elsewhere is followed by the next connection: nothing resolved is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_a_name_that_moves_to_another_host_is_followed() {
    let name = "f16_a_name_that_moves_to_another_host_is_followed";
    in_namespaces(&["--mount"], name, async {
        let (mut a, b) = two().await;
        let port = a.addr().port();
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = folder.path().join("hosts");
        let leads_to = |address: &str| {
            fs::write(&hosts, format!("{address} moving.test\n")).expect("a file of our own");
        };
        leads_to("127.0.0.1");
        let mounted = Command::new("mount")
            .arg("--bind")
            .arg(&hosts)
            .arg("/etc/hosts")
            .status();
        assert!(mounted.expect("mount (Debian package mount)").success());
        // The other host: what arrives at its address goes to b.
        let listener = TcpListener::bind(("127.0.0.2", port))
            .await
            .expect("another address");
        let to = b.addr();
        let forwarding = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(to).await?;
                    tokio::io::copy_bidirectional(&mut from, &mut to).await
                });
            }
        });
        let url = format!("redis://moving.test:{port}");
        let client = connect(databases(&[("name", url)]).grace_period(ms(500))).await;
        let mut con = client.connection();
        let () = con.set("here", "a").await.expect("a is well");
        leads_to("127.0.0.2");
        a.kill();
        eventually(SOON, "the name is resolved anew", async || {
            con.set::<_, _, ()>("here", "b").await.is_ok()
        })
        .await;
        assert_eq!(b.cmd::<String>(&["GET", "here"]).await, "b");
        client.close().await;
        forwarding.abort();
    })
    .await;
}

/// Neither linger nor a user timeout, as a connection is by default.
struct Careless;

impl Connector for Careless {
    fn connect<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
        _: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let place = endpoint.host().zip(endpoint.port());
            let stream = TcpStream::connect(place.expect("over TCP")).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Transport>)
        })
    }
}

async fn zombie() {
    let (a, b) = two().await;
    let _: String = a.cmd(&["ACL", "SETUSER", "default", "-client|kill"]).await;
    let builder = databases(&[("a", a.url()), ("b", b.url())]);
    let client = connect(builder.connector(Careless)).await;
    let mut con = client.connection();
    let () = con.rpush(TOKENS, "before").await.expect("a is well");
    nft(&drops(a.addr().port(), &["dport", "sport"]));
    let error = con.rpush::<_, _, ()>(TOKENS, "zombie").await;
    let error = error.expect_err("nobody answers");
    assert!(multidb::redis::from_redis(&error).is_some(), "{error}");
    assert_eq!(client.active().expect("b"), *"b");
    nft("delete table inet faults");
    eventually(ms(10_000), "the kernel delivers it after all", async || {
        a.list(TOKENS).await == ["before", "zombie"]
    })
    .await;
    client.close().await;
}

/// Runs the test of this name once more, in a process of its own in a namespace of its own.
async fn in_a_namespace(name: &str, test: impl Future<Output = ()>) {
    in_namespaces(&[], name, test).await;
}

/// As [`in_a_namespace`], and in further ones.
async fn in_namespaces(further: &[&str], name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        return bounded(test).await;
    }
    let this = std::env::current_exe().expect("the path of this test");
    // Whoever is not root becomes it in a user namespace, where the kernel allows that.
    let namespaces: &[&str] = match is_root() {
        true => &["--net"],
        false => &["--map-root-user", "--net"],
    };
    let inner = tokio::process::Command::new("unshare")
        .args(namespaces)
        .args(further)
        .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(this)
        .args(["--exact", "--nocapture", &format!("namespace::{name}")])
        .env(INSIDE, "1")
        .kill_on_drop(true)
        .output();
    let inner = timeout(ms(60_000), inner).await.expect("it ends");
    let inner = inner.expect("unshare (Debian package util-linux)");
    let said = String::from_utf8_lossy(&inner.stdout) + String::from_utf8_lossy(&inner.stderr);
    let passed = inner.status.success() && said.contains("1 passed");
    assert!(
        passed,
        "inside the namespace (it takes ip, nft and unshare, which tests/run installs, and root or \
         unprivileged user namespaces):\n{said}"
    );
    for line in said.lines().filter(|line| line.starts_with("    ")) {
        eprintln!("{line}");
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // Real, effective, saved, file system.
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Packets to (`dport`) or from (`sport`) the active database are dropped until it is healed.
/// `verdict` sees how many pushes are in doubt and how many of those were done.
async fn silence(directions: &[&str], verdict: fn(usize, usize)) {
    let (a, b) = two().await;
    let urls = [("a", a.url()), ("b", b.url())];
    let scene = Scene::start(&urls, |builder| builder).await;
    let fault = Instant::now();
    nft(&drops(a.addr().port(), directions));
    scene.moves_to("b", fault, ms(8000)).await;
    nft("delete table inet faults");
    let at_once: usize = a.cmd(&["LLEN", TOKENS]).await;
    // Longer than the kernel waits before it sends a lost packet again.
    sleep(ms(3500)).await;
    let later: usize = a.cmd(&["LLEN", TOKENS]).await;
    scene.load.flows(SOON).await;
    let end = scene
        .end(&format!("packets dropped by {directions:?}"), fault)
        .await;

    assert_eq!(at_once, later, "an abandoned write was delivered after all");
    end.assert_route(&["b"]);
    assert_eq!(end.busy.switches()[0].reason, Reason::Stalled);
    end.history
        .assert_only(|said| matches!(said, Said::Unknown(_)));
    assert!(end.history.errors().count() <= 4);
    assert!(end.history.gap(fault) < ms(2500));
    let report = end.assert_told_right(&[("a", &a), ("b", &b)]).await;
    let doubtful = end
        .history
        .count(Op::Push, |said| matches!(said, Said::Unknown(_)));
    verdict(doubtful, report.unpromised_applied);
}

/// Packets to (`dport`) or from (`sport`) this port are dropped.
fn drops(port: u16, directions: &[&str]) -> String {
    let mut rules = "add table inet faults\n\
        add chain inet faults input { type filter hook input priority 0; }\n"
        .to_owned();
    for direction in directions {
        rules += &format!("add rule inet faults input tcp {direction} {port} drop\n");
    }
    rules
}

fn nft(rules: &str) {
    let done = Command::new("nft").arg(rules).output();
    let done = done.expect("nft (Debian package nftables)");
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "nft: {complaint}");
}
