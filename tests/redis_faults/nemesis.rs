//! Faults by chance, one round after the other: nobody chose them so that they would do no harm.
//!
//! A round has clients of its own on three servers, a few faults of random kinds at random servers, and
//! ends with everything healed: then the client must be back on the heaviest database, calls must
//! succeed, subscriptions hold, and whatever holds after any fault must hold after these.

use std::time::Duration;

use futures_util::StreamExt;
use multidb::redis::PubSub;
use multidb::testing::proxy::FaultProxy;
use multidb::{Builder, Config};
use redis::AsyncCommands;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{SOON, Scene, connect, databases, durable, ms};
use crate::support::eventually;
use crate::support::held::Held;
use crate::support::load::{Client, Said};
use crate::support::redis_server::RedisServer;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// How long a client may take to be back once nothing is broken any more: rests of up to a second, rounds twice
/// a second, and reconnects with a backoff of up to a second.
const RECOVERY: Duration = ms(15_000);
const CHANNEL: &str = "news";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_by_chance_lose_nothing_double_nothing_and_heal() {
    rounds(seed(), ms(20_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "an hour: tests/run --soak"]
async fn an_hour_of_faults_by_chance_loses_nothing_doubles_nothing_and_heals() {
    let seed = seed();
    // Until allocators and drivers have what they keep. Nothing else runs in this process.
    rounds(seed, ms(20_000)).await;
    let before = Held::at_rest().await;
    rounds(seed, Duration::from_secs(3600)).await;
    Held::is_no_more_than(before, "an hour of faults").await;
}

/// `MULTIDB_SEED=N` repeats the faults of a run, though not their timing to the microsecond.
fn seed() -> u64 {
    let given = std::env::var("MULTIDB_SEED").ok();
    given
        .map_or_else(fastrand::Rng::new, |text| {
            fastrand::Rng::with_seed(text.parse().expect("MULTIDB_SEED is a number"))
        })
        .u64(..)
}

async fn rounds(seed: u64, time: Duration) {
    eprintln!("seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut servers = Vec::new();
    for _ in NAMES {
        let server = durable().await;
        let proxy = FaultProxy::start(server.addr()).await.expect("a proxy");
        servers.push(Target { server, proxy });
    }
    let until = Instant::now() + time;
    let mut round = 0;
    while Instant::now() < until {
        let mut faults = Vec::new();
        let ended = timeout(ms(90_000), one(&mut chance, &mut servers, &mut faults)).await;
        assert!(ended.is_ok(), "round {round} hangs; so far {faults:?}");
        round += 1;
    }
    eprintln!("{round} rounds of faults");
}

/// What strikes one server.
struct Target {
    server: RedisServer,
    proxy: FaultProxy,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Stop,
    BlackHole,
    Hold,
    LoseReplies,
    LoseRequests,
    Refuse,
    AcceptAndHang,
    Slow,
    Slice,
    CutReplies,
    Reset,
    Garbage,
    ReadOnly,
    Full,
    Pause,
}

const FAULTS: [Fault; 16] = [
    Fault::Kill,
    Fault::Stop,
    Fault::BlackHole,
    Fault::Hold,
    Fault::LoseReplies,
    Fault::LoseRequests,
    Fault::Refuse,
    Fault::AcceptAndHang,
    Fault::Slow,
    Fault::Slice,
    Fault::CutReplies,
    Fault::Reset,
    Fault::Garbage,
    Fault::ReadOnly,
    Fault::Full,
    Fault::Pause,
];

impl Target {
    async fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => self.server.kill(),
            Fault::Stop => self.server.stop().await,
            Fault::BlackHole => self.proxy.black_hole(),
            Fault::Hold => self.proxy.hold(),
            Fault::LoseReplies => self.proxy.lose_replies(),
            Fault::LoseRequests => self.proxy.lose_requests(),
            Fault::Refuse => {
                self.proxy.refuse();
                self.proxy.reset_all();
            }
            Fault::AcceptAndHang => {
                self.proxy.accept_and_hang();
                self.proxy.reset_all();
            }
            Fault::Slow => self.proxy.delay(ms(20)),
            Fault::Slice => self.proxy.slice(1),
            Fault::CutReplies => self.proxy.cut_replies_after(200),
            Fault::Reset => {
                self.proxy.reset_all();
            }
            Fault::Garbage => {
                self.proxy.inject(b"\0 no reply\r\n");
            }
            // Its master is nowhere, so that it keeps what it has.
            Fault::ReadOnly => self.order(&["REPLICAOF", "127.0.0.1", "1"]).await,
            Fault::Full => self.order(&["CONFIG", "SET", "maxmemory", "1"]).await,
            Fault::Pause => self.order(&["CLIENT", "PAUSE", "400", "ALL"]).await,
        }
    }

    async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => self.server.restart().await,
            Fault::Stop => self.server.cont(),
            Fault::Hold => self.proxy.release(),
            Fault::ReadOnly => self.order(&["REPLICAOF", "NO", "ONE"]).await,
            Fault::Full => self.order(&["CONFIG", "SET", "maxmemory", "0"]).await,
            Fault::Pause => self.order(&["CLIENT", "UNPAUSE"]).await,
            _ => self.proxy.pass(),
        }
    }

    async fn order(&self, command: &[&str]) {
        let () = self.server.cmd(command).await;
    }
}

/// Everything within a second, so that a round has many switches.
fn quick(builder: Builder<multidb::redis::Redis>) -> Builder<multidb::redis::Redis> {
    let mut config = Config::default();
    config.health.interval = ms(500);
    config.circuit.grace_period = ms(300);
    config.circuit.max_grace_period = ms(1000);
    builder.config(config)
}

async fn one(chance: &mut fastrand::Rng, targets: &mut [Target], faults: &mut Vec<String>) {
    for target in &*targets {
        target.order(&["FLUSHALL"]).await;
    }
    let urls: Vec<_> = NAMES.into_iter().zip(&*targets).collect();
    let urls: Vec<_> = urls.iter().map(|(n, t)| (*n, t.proxy.url())).collect();
    let busy = connect(quick(databases(&urls))).await;
    let idle = connect(quick(databases(&urls))).await;
    let mut subscriber = busy.get_async_pubsub().await.expect("a subscriber");
    subscriber.subscribe(CHANNEL).await.expect("subscribed");
    let scene = Scene::of(&busy, &idle, 4).await;

    // In every other round one of them is spared: then nothing may be held against it.
    let spared = chance.bool().then(|| chance.usize(..NAMES.len()));
    for _ in 0..chance.usize(2..8) {
        if chance.u8(..4) == 0 {
            steer(chance, &busy, faults).await;
        }
        let mut struck = Vec::new();
        for (n, target) in targets.iter_mut().enumerate() {
            if Some(n) != spared && chance.u8(..10) < 4 {
                let fault = FAULTS[chance.usize(..FAULTS.len())];
                faults.push(format!("{} {fault:?}", NAMES[n]));
                target.strike(fault).await;
                struck.push((n, fault));
            }
        }
        let hold = ms(chance.u64(5..900));
        sleep(hold).await;
        for (n, fault) in struck {
            targets[n].heal(fault).await;
        }
        faults.push(format!("healed after {hold:?}"));
        sleep(ms(chance.u64(1..200))).await;
    }

    let healed = Instant::now();
    busy.unpin().await.expect("an open client");
    for (n, name) in NAMES.iter().enumerate() {
        busy.set_weight(name, (NAMES.len() - n) as f64)
            .await
            .expect("a member");
    }
    scene.moves_to("a", healed, RECOVERY).await;
    hears(&busy, &mut subscriber).await;
    drop(subscriber);
    let end = scene.end(&faults.join(", "), healed).await;
    // What a fault leaves in doubt, or what fails while none of them can be reached or written to.
    let words = |said: &Said| !matches!(said, Said::Other(_));
    for call in end.history.errors() {
        assert!(
            words(&call.said),
            "{:?}; all: {:?}",
            call.said,
            end.history.told()
        );
    }
    if let Some(spared) = spared {
        for witness in [&end.busy, &end.idle] {
            witness.assert_blameless(NAMES[spared]);
        }
    }
    let servers: Vec<_> = NAMES
        .into_iter()
        .zip(targets.iter().map(|t| &t.server))
        .collect();
    end.assert_invariants(&servers).await;
}

/// What operators do, at the worst moment.
async fn steer(chance: &mut fastrand::Rng, client: &Client, faults: &mut Vec<String>) {
    let name = NAMES[chance.usize(..NAMES.len())];
    if chance.bool() {
        // Refused if that one is not well, which changes nothing.
        let switched = client.switch_to(name).await;
        faults.push(format!("switch to {name}: {}", switched.is_ok()));
    } else {
        client
            .set_weight(name, chance.f64() * 3.0)
            .await
            .expect("a member");
        faults.push(format!("reweighted {name}"));
    }
}

/// The subscription holds where the client is now.
async fn hears(client: &Client, subscriber: &mut PubSub) {
    let mut con = client.connection();
    eventually(SOON, "somebody listens", async || {
        let heard: i64 = con.publish(CHANNEL, "back").await.unwrap_or_default();
        heard == 1
    })
    .await;
    let message = timeout(SOON, subscriber.on_message().next()).await;
    let message = message
        .expect("in time")
        .expect("a subscription that lives");
    assert_eq!(message.get_channel_name(), CHANNEL);
}
