//! A real `redis-server` as a child process, behind a proxy that can swallow its traffic.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use multidb::testing::proxy::FaultProxy;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, AsyncConnectionConfig, RedisResult};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::stage::{COUNTER, Contents, TOKENS};

/// Dropping it kills the process, waits for it and removes its files.
pub(crate) struct RealRedis {
    child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) proxy: FaultProxy,
    dir: TempDir,
    /// Bound and silent: keeps the port ours while the server is dead.
    _port: TcpSocket,
}

impl RealRedis {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let port = TcpSocket::new_v4()?;
        // The server may share the port only if both sides allow it.
        port.set_reuseaddr(true)?;
        port.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = port.local_addr()?;
        let dir = TempDir::new()?;
        let mut redis = Self {
            child: spawn(addr, &dir)?,
            addr,
            proxy: FaultProxy::start(addr).await?,
            dir,
            _port: port,
        };
        redis.wait_until_ready().await?;
        Ok(redis)
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        // Fails only if the child has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Same port, same directory: what was acknowledged is read from the append-only file.
    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        self.kill();
        self.child = spawn(self.addr, &self.dir)?;
        self.wait_until_ready().await
    }

    /// Through the shell, whose `kill` is built in: other signals than SIGKILL are out of reach of
    /// the standard library.
    pub(crate) fn signal(&self, name: &str) -> Result<(), Failure> {
        let command = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{command}: {status}").into())
        }
    }

    pub(crate) async fn read_back(&self) -> Result<Contents, Failure> {
        let mut con = self.direct(Duration::from_secs(10)).await?;
        let mut tokens: Vec<String> = Vec::new();
        loop {
            let first = isize::try_from(tokens.len())?;
            let page: Vec<String> = con.lrange(TOKENS, first, first + PAGE - 1).await?;
            if page.is_empty() {
                break;
            }
            tokens.extend(page);
        }
        let counter: Option<u64> = con.get(COUNTER).await?;
        Ok(Contents {
            tokens,
            counter: counter.unwrap_or(0),
        })
    }

    /// Around the proxy, and without the client.
    async fn direct(&self, limit: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit));
        redis::Client::open(format!("redis://{}/", self.addr))?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default();
                return Err(format!("redis-server exited ({status}):\n{log}").into());
            }
            if let Ok(mut con) = self.direct(Duration::from_secs(1)).await
                && con.ping::<String>().await.is_ok()
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err("redis-server does not answer".into());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(addr: SocketAddr, dir: &TempDir) -> Result<Child, Failure> {
    // Not `--logfile`: a server that refuses its configuration says so before it opens that.
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.path().join(LOG))?;
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string()])
        .args(["--save", "", "--appendonly", "yes"])
        .args(["--appendfsync", "always", "--dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn();
    child.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "redis-server is not in PATH; install it, or leave out --redis to use the servers \
             built into this program"
                .into()
        }
        _ => format!("redis-server cannot be started: {error}").into(),
    })
}

const START_LIMIT: Duration = Duration::from_secs(10);
const PAGE: isize = 10_000;
const LOG: &str = "server.log";
