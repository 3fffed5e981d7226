//! Servers that mean harm, or have lost their mind: whatever they send, calls end in time with a class, memory
//! stays bounded, and nobody is given what was not meant for him.

mod bombs;
mod floods;
mod peer;
mod strays;
mod tls;

use std::time::Duration;

use multidb::redis::{Redis, from_redis};
use multidb::testing::server::Server;
use multidb::{Builder, Error, Event, MultiDbClient, MultiDbConnection};
use peer::Peer;
use redis::{FromRedisValue, RedisError, RedisResult, cmd};

/// What one attempt may take, and what a call may.
const TIMEOUT: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_millis(1500);
/// What a call may take beyond that on a busy machine.
const SLACK: Duration = Duration::from_millis(500);

fn builder() -> Builder<Redis> {
    MultiDbClient::builder()
        .response_timeout(TIMEOUT)
        .deadline(DEADLINE)
        .health_interval(Duration::from_millis(100))
}

/// A client that prefers the peer to a server that is well.
async fn beside(peer: &Peer) -> (MultiDbClient<Redis>, Server) {
    let server = Server::start().await.unwrap();
    let client = builder()
        .url(peer.url(), 1.0)
        .url(server.url(), 0.5)
        .connect()
        .await
        .unwrap();
    (client, server)
}

/// A client that has nothing but the peer.
async fn alone(peer: &Peer) -> MultiDbClient<Redis> {
    builder().url(peer.url(), 1.0).connect().await.unwrap()
}

async fn ask<T: FromRedisValue>(con: &mut MultiDbConnection, words: &[&str]) -> RedisResult<T> {
    let mut command = cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query_async(con).await
}

/// Our error inside the driver's.
fn ours(error: &RedisError) -> Error {
    from_redis(error).unwrap_or_else(|| panic!("not ours: {error:?}"))
}

fn is_replacement(event: &Event) -> bool {
    matches!(event, Event::ConnectionReplaced { .. })
}

/// Resident memory now, and the most of it that there has been; in MiB.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux's /proc");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let text = line.expect("a line").trim();
        let kib: u64 = text.trim_end_matches(" kB").parse().expect("a number");
        kib >> 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Runs a test of this binary in a process of its own, so that the memory it takes is its own. True inside.
async fn is_by_itself(name: &str) -> bool {
    const INSIDE: &str = "MULTIDB_TEST_BY_ITSELF";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("the path of this test");
    let inner = tokio::process::Command::new(this)
        .args(["--exact", "--nocapture", name])
        .env(INSIDE, "1")
        .kill_on_drop(true)
        .output();
    let limit = Duration::from_secs(120);
    let inner = tokio::time::timeout(limit, inner).await.expect("it ends");
    let inner = inner.expect("this test");
    let said = String::from_utf8_lossy(&inner.stdout) + String::from_utf8_lossy(&inner.stderr);
    println!("{said}");
    assert!(
        inner.status.success() && said.contains("1 passed"),
        "by itself:\n{said}"
    );
    false
}
