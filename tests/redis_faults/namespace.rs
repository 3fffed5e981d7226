//! Silence made by the kernel, with its retransmissions and timeouts: in a network namespace that has
//! nothing but a loopback, so that not one packet can leave it.

use std::fs;
use std::process::Command;

use multidb::Reason;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{SOON, Scene, bounded, ms, two};
use crate::support::load::{Op, Said, TOKENS};

/// Set for the process inside.
const INSIDE: &str = "MULTIDB_TEST_NAMESPACE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_out_of_a_black_hole_of_the_kernels_after_it_has_closed() {
    let name = "nothing_comes_out_of_a_black_hole_of_the_kernels_after_it_has_closed";
    in_a_namespace(
        name,
        silence(&["dport", "sport"], |doubtful, there| {
            assert!(there <= doubtful)
        }),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_that_the_kernel_drops_leave_every_write_in_doubt_done_exactly_once() {
    let name = "replies_that_the_kernel_drops_leave_every_write_in_doubt_done_exactly_once";
    in_a_namespace(
        name,
        silence(&["sport"], |doubtful, there| assert_eq!(there, doubtful)),
    )
    .await;
}

/// Runs the test of this name once more, in a process of its own in a namespace of its own.
async fn in_a_namespace(name: &str, test: impl Future<Output = ()>) {
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
    let mut rules = "add table inet faults\n\
        add chain inet faults input { type filter hook input priority 0; }\n"
        .to_owned();
    for direction in directions {
        let port = a.addr().port();
        rules += &format!("add rule inet faults input tcp {direction} {port} drop\n");
    }

    let fault = Instant::now();
    nft(&rules);
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
    let report = end
        .history
        .assert_nothing_lost(&[("a", &a), ("b", &b)])
        .await;
    let doubtful = end
        .history
        .count(Op::Push, |said| matches!(said, Said::Unknown(_)));
    verdict(doubtful, report.unpromised_applied);
}

fn nft(rules: &str) {
    let done = Command::new("nft").arg(rules).output();
    let done = done.expect("nft (Debian package nftables)");
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "nft: {complaint}");
}
