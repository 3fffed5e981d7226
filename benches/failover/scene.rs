//! Two servers, a client, its callers, and one fault after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use multidb::redis::{Redis, from_redis};
use multidb::testing::proxy::FaultProxy;
use multidb::{ErrorKind, MultiDbClient, MultiDbConnection, Sensitivity, Status};
use redis::AsyncCommands;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::subscriber::{Heard, Subscriber};
use crate::support::eventually;
use crate::support::redis_server::RedisServer;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Sigkill,
    Sigstop,
    BlackHole,
}

/// What one fault cost.
pub(crate) struct Run {
    pub(crate) first_success_ms: f64,
    /// Pushes that may or may not have been done.
    pub(crate) unknown: usize,
    /// Pushes that failed in another way.
    pub(crate) failed_otherwise: usize,
    pub(crate) failed_reads: usize,
}

pub(crate) struct Scene {
    fault: Fault,
    client: MultiDbClient<Redis>,
    servers: [RedisServer; 2],
    /// Of the first server; its runtime is a thread of its own, so that it is not measured.
    proxy: Option<(FaultProxy, tokio::runtime::Runtime)>,
    callers: usize,
    ids: [String; 2],
}

enum Said {
    /// A read, and which server answered it.
    From(String, Instant),
    ReadFailed,
    InDoubt,
    Failed,
}

const NAME: &str = "name";
const SOON: Duration = Duration::from_secs(20);

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sigkill => "sigkill",
            Self::Sigstop => "sigstop",
            Self::BlackHole => "blackhole",
        }
    }

    /// What is promised.
    pub(crate) fn bar_ms(self, preset: &str) -> f64 {
        match (self, preset) {
            (Self::Sigkill, _) => 3.0,
            (Self::Sigstop | Self::BlackHole, "fast") => 60.0,
            (Self::Sigstop | Self::BlackHole, _) => 350.0,
        }
    }
}

impl Scene {
    pub(crate) async fn set(fault: Fault, sensitivity: Sensitivity, callers: usize) -> Self {
        let servers = [RedisServer::start().await, RedisServer::start().await];
        let proxy = match fault {
            Fault::Sigkill | Fault::Sigstop => None,
            Fault::BlackHole => Some(behind_a_proxy(&servers[0]).await),
        };
        let first = proxy.as_ref().map_or(servers[0].addr(), |(p, _)| p.addr());
        let ids = [first.to_string(), servers[1].addr().to_string()];
        let client = MultiDbClient::builder()
            .url(format!("redis://{}", ids[0]), 1.0)
            .url(format!("redis://{}", ids[1]), 0.5)
            .sensitivity(sensitivity)
            .connect()
            .await
            .expect("both serve");
        let scene = Self {
            fault,
            client,
            servers,
            proxy,
            callers,
            ids,
        };
        scene.settle().await;
        scene
    }

    /// One fault under load, and everything back as it was.
    pub(crate) async fn run(&mut self) -> Run {
        let (say, mut said) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..self.callers)
            .map(|caller| {
                let call = Caller {
                    con: self.client.connection(),
                    say: say.clone(),
                    stop: stop.clone(),
                };
                tokio::spawn(call.run(caller))
            })
            .collect();
        drop(say);
        // Everybody is at it, and the phase of the sweep is not the same in every run.
        tokio::time::sleep(Duration::from_micros(50_000 + fastrand::u64(..10_000))).await;
        while said.try_recv().is_ok() {}

        let at = Instant::now();
        self.strike().await;
        let mut run = Run {
            first_success_ms: f64::NAN,
            unknown: 0,
            failed_otherwise: 0,
            failed_reads: 0,
        };
        let limit = Instant::now() + SOON;
        let mut elsewhere = false;
        while let Ok(Some(news)) = tokio::time::timeout_at(limit, said.recv()).await {
            match news {
                Said::From(server, when) if server == "b" && !elsewhere => {
                    elsewhere = true;
                    run.first_success_ms = when.duration_since(at).as_secs_f64() * 1e3;
                    stop.store(true, Ordering::Release);
                }
                Said::From(..) => {}
                Said::ReadFailed => run.failed_reads += 1,
                Said::InDoubt => run.unknown += 1,
                Said::Failed => run.failed_otherwise += 1,
            }
        }
        assert!(elsewhere, "nobody was served elsewhere within {SOON:?}");
        for task in tasks {
            task.await.expect("a caller");
        }
        self.mend().await;
        run
    }

    /// One fault, as a subscriber sees it.
    pub(crate) async fn listen(&mut self) -> Heard {
        let subscriber = Subscriber::on(&self.client).await;
        tokio::time::sleep(Duration::from_micros(50_000 + fastrand::u64(..10_000))).await;
        let at = Instant::now();
        self.strike().await;
        let heard = subscriber.across(at).await;
        self.mend().await;
        heard
    }

    /// One planned switch, as a subscriber sees it.
    pub(crate) async fn listen_to_a_switch(&self) -> Heard {
        let subscriber = Subscriber::on(&self.client).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let at = Instant::now();
        let switched = self.client.switch_to(&self.ids[1]).await;
        switched.expect("the second server serves");
        let heard = subscriber.across(at).await;
        self.client.unpin().await.expect("the client is open");
        self.settle().await;
        heard
    }

    async fn strike(&mut self) {
        match (self.fault, &self.proxy) {
            (Fault::Sigkill, _) => self.servers[0].kill(),
            (Fault::Sigstop, _) => self.servers[0].stop().await,
            (Fault::BlackHole, Some((proxy, _))) => proxy.black_hole(),
            (Fault::BlackHole, None) => unreachable!("set behind a proxy"),
        }
    }

    async fn mend(&mut self) {
        match (self.fault, &self.proxy) {
            (Fault::Sigkill, _) => self.servers[0].restart().await,
            (Fault::Sigstop, _) => self.servers[0].cont(),
            (Fault::BlackHole, Some((proxy, _))) => proxy.pass(),
            (Fault::BlackHole, None) => unreachable!("set behind a proxy"),
        }
        self.settle().await;
    }

    /// The first server active, the second standing by, both with their names.
    async fn settle(&self) {
        for (server, name) in self.servers.iter().zip(["a", "b"]) {
            let () = server.cmd(&["SET", NAME, name]).await;
            let _: i64 = server.cmd(&["DEL", "pushed"]).await;
        }
        eventually(SOON, "the first server serves again", async || {
            let _ = self.client.reset_circuit(&self.ids[0]).await;
            let snapshot = self.client.snapshot();
            snapshot.status == Status::Serving
                && snapshot
                    .active
                    .as_ref()
                    .is_some_and(|id| *id == *self.ids[0])
                && snapshot.members.iter().all(|m| m.connected)
        })
        .await;
    }

    pub(crate) async fn end(self) {
        self.client.close().await;
        if let Some((proxy, runtime)) = self.proxy {
            drop(proxy);
            runtime.shutdown_background();
        }
    }
}

async fn behind_a_proxy(server: &RedisServer) -> (FaultProxy, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime for the proxy");
    let proxy = runtime.spawn(FaultProxy::start(server.addr()));
    let proxy = proxy.await.expect("the proxy's task").expect("a free port");
    (proxy, runtime)
}

struct Caller {
    con: MultiDbConnection,
    say: mpsc::UnboundedSender<Said>,
    stop: Arc<AtomicBool>,
}

impl Caller {
    async fn run(mut self, number: usize) {
        while !self.stop.load(Ordering::Acquire) {
            let news = match number % 2 {
                0 => self.read().await,
                _ => self.push().await,
            };
            if let Some(news) = news {
                let _ = self.say.send(news);
            }
            // Callers have other things to do, too.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn read(&mut self) -> Option<Said> {
        let name: redis::RedisResult<String> = self.con.get(NAME).await;
        Some(match name {
            Ok(server) => Said::From(server, Instant::now()),
            Err(_) => Said::ReadFailed,
        })
    }

    async fn push(&mut self) -> Option<Said> {
        let pushed: redis::RedisResult<i64> = self.con.rpush("pushed", "x").await;
        let error = pushed.err()?;
        let kind = from_redis(&error).map(|ours| ours.kind().clone());
        Some(match kind {
            Some(ErrorKind::OutcomeUnknown(_)) => Said::InDoubt,
            _ => Said::Failed,
        })
    }
}
