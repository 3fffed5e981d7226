//! Commands per second of what a redis-rs user could take instead, client and server on one core, in
//! interleaved blocks: `cargo bench --bench beside [-- --json]` from `tests/users`.
//!
//! Only ours keeps an application served when the server dies; this is what the others cost meanwhile.

#[path = "../../../benches/hot_path/pinning.rs"]
mod pinning;
#[path = "../../../benches/support/report.rs"]
#[allow(dead_code, reason = "the other benches use more of it")]
mod report;
#[path = "../../support/mod.rs"]
mod support;

use std::process::ExitCode;

use fred::clients::Client as Fred;
use fred::prelude::{Builder, ClientLike, Config, KeysInterface};
use multidb::MultiDbClient;
use redis::AsyncCommands;
use redis::aio::{ConnectionLike, ConnectionManager, MultiplexedConnection};
use report::{Report, median, rounded};
use serde_json::json;
use support::redis_server::RedisServer;
use tokio::task::JoinSet;
use tokio::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == pinning::PINNED) {
        eprintln!("beside: {}", pinning::again_on_one_core(&args));
        return ExitCode::FAILURE;
    }
    let report = Report::new(args.iter().any(|arg| arg == "--json"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        // Started from here, it inherits the core.
        let server = RedisServer::start().await;
        let () = server.cmd(&["SET", KEY, &"x".repeat(64)]).await;
        measure(&server.url(), report).await;
    });
    ExitCode::SUCCESS
}

const KEY: &str = "hot";
const ROUNDS: usize = 40;
const BLOCK_SECONDS: f64 = 0.06;
/// As many connections as such pools usually have on a machine of this size.
const POOLED: u32 = 8;

/// One of those compared.
#[derive(Clone)]
enum Client {
    Redis(&'static str, Either),
    Fred(Fred),
    Pool(bb8::Pool<Manager>),
}

#[derive(Clone)]
enum Either {
    Bare(MultiplexedConnection),
    Manager(ConnectionManager),
    Ours(multidb::MultiDbConnection),
}

impl Client {
    fn name(&self) -> &'static str {
        match self {
            Self::Redis(name, _) => name,
            Self::Fred(_) => "fred",
            Self::Pool(_) => "bb8 pool of 8",
        }
    }

    async fn work(self, commands: usize) {
        match self {
            Self::Redis(_, Either::Bare(con)) => work(con, commands).await,
            Self::Redis(_, Either::Manager(con)) => work(con, commands).await,
            Self::Redis(_, Either::Ours(con)) => work(con, commands).await,
            Self::Fred(fred) => {
                for _ in 0..commands {
                    let value: Vec<u8> = fred.get(KEY).await.expect("a reply");
                    assert_eq!(value.len(), 64);
                }
            }
            Self::Pool(pool) => {
                for _ in 0..commands {
                    let mut con = pool.get().await.expect("a connection");
                    let value: Vec<u8> = con.get(KEY).await.expect("a reply");
                    assert_eq!(value.len(), 64);
                }
            }
        }
    }

    /// Commands per second.
    async fn rate(&self, tasks: usize, commands: usize) -> f64 {
        let each = commands.div_ceil(tasks);
        let began = Instant::now();
        let mut running = JoinSet::new();
        for _ in 0..tasks {
            running.spawn(self.clone().work(each));
        }
        while let Some(done) = running.join_next().await {
            done.expect("a task without a panic");
        }
        (each * tasks) as f64 / began.elapsed().as_secs_f64()
    }
}

async fn work(mut con: impl ConnectionLike + Send, commands: usize) {
    for _ in 0..commands {
        let value: Vec<u8> = redis::cmd("GET")
            .arg(KEY)
            .query_async(&mut con)
            .await
            .expect("a reply");
        assert_eq!(value.len(), 64);
    }
}

/// What bb8-redis is.
#[derive(Clone)]
struct Manager(redis::Client);

impl bb8::ManageConnection for Manager {
    type Connection = MultiplexedConnection;
    type Error = redis::RedisError;

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        self.0.get_multiplexed_async_connection().await
    }

    async fn is_valid(&self, con: &mut MultiplexedConnection) -> redis::RedisResult<()> {
        con.ping().await
    }

    fn has_broken(&self, _: &mut MultiplexedConnection) -> bool {
        false
    }
}

async fn clients(url: &str) -> Vec<Client> {
    let client = redis::Client::open(url).expect("a URL of ours");
    let bare = client
        .get_multiplexed_async_connection()
        .await
        .expect("a connection");
    let manager = client.get_connection_manager().await.expect("a connection");
    let ours = MultiDbClient::builder()
        .url(url, 1.0)
        .connect()
        .await
        .expect("a client");
    let fred = Builder::from_config(Config::from_url(url).expect("a URL")).build();
    let fred = fred.expect("a client");
    fred.init().await.expect("a connection");
    // Without the ping at every checkout that it does by default, which doubles the commands.
    let pool = bb8::Pool::builder()
        .max_size(POOLED)
        .test_on_check_out(false);
    let pool = pool.build(Manager(client)).await.expect("a pool");
    vec![
        Client::Redis("bare", Either::Bare(bare)),
        Client::Redis("multidb", Either::Ours(ours.connection())),
        Client::Redis("ConnectionManager", Either::Manager(manager)),
        Client::Fred(fred),
        Client::Pool(pool),
    ]
}

async fn measure(url: &str, report: Report) {
    let clients = clients(url).await;
    report.title("commands/s beside a bare connection, one core, medians of interleaved blocks");
    for tasks in [1, 16, 256] {
        let mut rates = vec![Vec::new(); clients.len()];
        let warm_up = clients[0].rate(tasks, 20_000).await;
        let size = (warm_up * BLOCK_SECONDS) as usize;
        for _ in 0..ROUNDS {
            for (client, rates) in clients.iter().zip(&mut rates) {
                rates.push(client.rate(tasks, size).await);
            }
        }
        let rates: Vec<_> = rates.iter().map(|rates| median(rates)).collect();
        for (client, rate) in clients.iter().zip(&rates) {
            let (name, ratio) = (client.name(), rounded(rate / rates[0]));
            report.figure(
                &json!({"figure": "throughput_beside", "client": name, "tasks": tasks, "value": ratio, "rate": rate.round()}),
                format_args!("{tasks:3} tasks, {name}: {rate:.0}, {ratio:.3} of bare"),
            );
        }
    }
}
