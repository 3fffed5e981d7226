//! What takes time and is judged by it: run in release by `tests/run`, by itself.
//!
//! Bounds here are coarse, for a machine with neighbours; `benches/failover` has the figures.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use multidb::redis::Redis;
use multidb::{Event, MultiDbClient, Sensitivity};
use redis::AsyncCommands;
use support::eventually;
use support::redis_server::RedisServer;
use tokio::time::Instant;

/// Two servers and a client over them, the first one preferred.
async fn pair(sensitivity: Sensitivity) -> (RedisServer, RedisServer, MultiDbClient<Redis>) {
    let (a, b) = (RedisServer::start().await, RedisServer::start().await);
    let client = MultiDbClient::builder()
        .url(a.url(), 1.0)
        .url(b.url(), 0.5)
        .sensitivity(sensitivity)
        .connect()
        .await
        .expect("both serve");
    (a, b, client)
}

/// Busy threads beside the load, so that clients and servers have to wait for the processor.
struct Hogs(Arc<AtomicBool>);

impl Hogs {
    fn start(threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where work goes that is pinned: for e6data, every query.
#[tokio::test]
async fn a_routing_decision_takes_less_than_a_microsecond() {
    let (_a, _b, client) = pair(Sensitivity::Balanced).await;
    const LEASES: u32 = 100_000;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..LEASES {
            drop(client.lease().await.unwrap());
        }
        best = best.min(began.elapsed() / LEASES);
    }
    println!("a lease: {best:?}");
    assert!(best < Duration::from_micros(1), "{best:?}");
    assert!(size_of::<multidb::Lease<Redis>>() <= 100);
}

/// Full load without any fault: whatever the client says of its databases is a false alarm.
async fn alarms(sensitivity: Sensitivity, time: Duration) -> Vec<String> {
    let (_a, _b, client) = pair(sensitivity).await;
    let mut events = client.events();
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (mut con, stop, done) = (client.connection(), stop.clone(), done.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("key:{task}");
                    let () = con.set(&key, "value").await.expect("no fault, no error");
                    let _: String = con.get(&key).await.expect("no fault, no error");
                    done.fetch_add(2, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("a caller");
    }
    client.close().await;
    let mut alarms = Vec::new();
    while let Some(event) = events.next().await {
        if !matches!(event, Event::HealthChanged { .. } | Event::Closed) {
            alarms.push(event.to_string());
        }
    }
    eprintln!(
        "{sensitivity:?}: {} calls, {alarms:?}",
        done.load(Ordering::Relaxed)
    );
    assert!(done.load(Ordering::Relaxed) > 1000, "there was load");
    alarms
}

async fn no_false_alarms(time: Duration) {
    let _hogs = Hogs::start(2);
    let (balanced, fast) = tokio::join!(
        alarms(Sensitivity::Balanced, time),
        alarms(Sensitivity::Fast, time)
    );
    assert_eq!(balanced, [] as [String; 0]);
    assert_eq!(fast, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_load_beside_busy_neighbours_raises_no_alarm_within_a_minute() {
    no_false_alarms(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "ten minutes: tests/run --soak"]
async fn full_load_beside_busy_neighbours_raises_no_alarm_within_ten_minutes() {
    no_false_alarms(Duration::from_secs(600)).await;
}

/// The median time of five faults, each until a read that the other server answers.
async fn median_outage(sensitivity: Sensitivity, kill: bool) -> Duration {
    let (mut a, b, client) = pair(sensitivity).await;
    let first = a.addr().to_string();
    let mut times = Vec::new();
    for _ in 0..5 {
        let () = a.cmd(&["SET", "name", "a"]).await;
        let () = b.cmd(&["SET", "name", "b"]).await;
        let mut con = client.connection();
        let name: String = con.get("name").await.expect("served");
        assert_eq!(name, "a");
        let at = Instant::now();
        match kill {
            true => a.kill(),
            false => a.stop().await,
        }
        let name: String = con.get("name").await.expect("served elsewhere, unnoticed");
        assert_eq!(name, "b");
        times.push(at.elapsed());
        match kill {
            true => a.restart().await,
            false => a.cont(),
        }
        eventually(Duration::from_secs(20), "back on the first", async || {
            let _ = client.reset_circuit(&first).await;
            let snapshot = client.snapshot();
            snapshot.active.as_ref().is_some_and(|id| *id == *first)
                && snapshot.members.iter().all(|m| m.connected)
        })
        .await;
    }
    client.close().await;
    times.sort();
    times[2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_milliseconds() {
    let outage = median_outage(Sensitivity::Balanced, true).await;
    assert!(outage < Duration::from_millis(50), "{outage:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_server_costs_little_more_than_the_tolerance() {
    let balanced = median_outage(Sensitivity::Balanced, false).await;
    assert!(
        balanced > Duration::from_millis(200),
        "a hiccup moves nobody"
    );
    assert!(balanced < Duration::from_millis(600), "{balanced:?}");
    let fast = median_outage(Sensitivity::Fast, false).await;
    assert!(fast < Duration::from_millis(250), "{fast:?}");
}
