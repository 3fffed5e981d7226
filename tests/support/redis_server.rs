//! A real `redis-server` as a child of the test, with the faults a process can have.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisResult};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// A running (or killed, or stopped) Redis server on 127.0.0.1. Dropping it, also by a panic of
/// the test, kills the process, waits for it and removes its directory.
#[derive(Debug)]
pub(crate) struct RedisServer {
    config: Builder,
    addr: SocketAddr,
    tls_addr: SocketAddr,
    child: Child,
    dir: TempDir,
    /// Bound and silent: keeps the ports ours while the server is dead, so that a restart finds them
    /// free and nobody else's server answers our clients.
    _ports: [Socket; 2],
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builder {
    args: Vec<String>,
    password: Option<String>,
    tls: Option<Tls>,
    unix: bool,
    sentinel: Option<SocketAddr>,
    cluster: bool,
}

/// What a server with TLS shows and asks for. All PEM.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) ca: String,
    pub(crate) cert: String,
    pub(crate) key: String,
    /// Whether clients must show a certificate of the same CA.
    pub(crate) auth_clients: bool,
}

impl Builder {
    /// Sets a configuration directive, such as `("maxmemory", "1mb")`.
    pub(crate) fn config(mut self, directive: &str, value: &str) -> Self {
        self.args
            .extend([format!("--{directive}"), value.to_owned()]);
        self
    }

    /// Every acknowledged write survives a kill: an append-only file, written before each reply. Not
    /// synced, for the kernel lives on, and a busy disk would hang the server as no test asked for.
    pub(crate) fn durable(self) -> Self {
        self.config("appendonly", "yes").config("appendfsync", "no")
    }

    /// Requires this password of the default user; [`RedisServer::url`] contains it.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.config("requirepass", password)
    }

    /// Speaks TLS on a port of its own, beside the plain one; see [`RedisServer::tls_addr`].
    pub(crate) fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Listens on a socket of the file system, too; see [`RedisServer::socket`].
    pub(crate) fn unix(mut self) -> Self {
        self.unix = true;
        self
    }

    /// Is a node of a cluster; see [`RedisCluster`](super::redis_cluster::RedisCluster).
    pub(crate) fn cluster_node(mut self) -> Self {
        self.cluster = true;
        self.config("cluster-enabled", "yes")
            .config("cluster-node-timeout", "1000")
            .config("repl-diskless-sync-delay", "0")
    }

    /// Watches the master at this address, by the name [`MASTER`], as a sentinel that needs nobody else to
    /// promote a replica. Notices a death after half a second.
    pub(crate) fn sentinel_of(mut self, master: SocketAddr) -> Self {
        self.sentinel = Some(master);
        self
    }

    /// Starts the server on a free port and waits until it answers.
    ///
    /// # Panics
    /// If `redis-server` is not installed, exits, or does not answer within [`START_LIMIT`].
    pub(crate) async fn start(self) -> RedisServer {
        let dir = TempDir::new().expect("a temporary directory");
        let (port, addr) = reserve_port().expect("a free port");
        let (tls_port, tls_addr) = reserve_port().expect("a free port");
        if let Some(tls) = &self.tls {
            for (name, pem) in [
                ("ca.pem", &tls.ca),
                ("cert.pem", &tls.cert),
                ("key.pem", &tls.key),
            ] {
                fs::write(dir.path().join(name), pem).expect("a file of TLS");
            }
        }
        if let Some(master) = self.sentinel {
            let text = format!(
                "sentinel monitor {MASTER} {} {} 1\n\
                 sentinel down-after-milliseconds {MASTER} 500\n\
                 sentinel failover-timeout {MASTER} 3000\n",
                master.ip(),
                master.port(),
            );
            fs::write(dir.path().join(SENTINEL), text).expect("a file of the sentinel");
        }
        let mut server = RedisServer {
            child: spawn(&self, [addr, tls_addr], &dir),
            config: self,
            addr,
            tls_addr,
            dir,
            _ports: [port, tls_port],
        };
        server.wait_until_ready().await;
        server
    }
}

impl RedisServer {
    /// A server that keeps nothing on disk and allows `DEBUG`.
    pub(crate) fn builder() -> Builder {
        Builder::default()
    }

    /// [`Builder::start`] with the defaults.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it speaks TLS, if it does.
    pub(crate) fn tls_addr(&self) -> SocketAddr {
        self.tls_addr
    }

    /// The path of its socket, if it has one.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    /// `redis://127.0.0.1:PORT/`, with the password if there is one.
    pub(crate) fn url(&self) -> String {
        match &self.config.password {
            Some(password) => format!("redis://:{password}@{}/", self.addr),
            None => format!("redis://{}/", self.addr),
        }
    }

    /// Where the nodes of its cluster talk to it, if it is one.
    pub(crate) fn bus_port(&self) -> u16 {
        self.tls_addr.port()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until the process is gone. A stopped server dies too, without running
    /// what was queued. Killing a dead server does nothing.
    pub(crate) fn kill(&mut self) {
        // Fails only if the child has been waited for already.
        let _ = self.child.kill();
        self.child.wait().expect("the child's exit status");
    }

    /// Kills the server if it lives and starts it again: same port, same directory, new process.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.config, [self.addr, self.tls_addr], &self.dir);
        self.wait_until_ready().await;
    }

    /// SIGSTOP: the kernel still accepts connections, nothing is answered, and what is sent runs
    /// after [`cont`](Self::cont). Returns when the process has really stopped.
    pub(crate) async fn stop(&self) {
        self.signal("STOP");
        super::eventually(START_LIMIT, "SIGSTOP stops the server", async || {
            self.is_stopped()
        })
        .await;
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.signal("CONT");
    }

    /// A fresh connection straight to the server, whatever stands between it and the clients.
    /// [`connected_clients`](Self::connected_clients) does not count it.
    pub(crate) async fn admin(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ADMIN_LIMIT))
            .set_response_timeout(Some(ADMIN_LIMIT));
        let mut con = redis::Client::open(self.url())?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let () = redis::cmd("CLIENT")
            .arg(&["SETNAME", ADMIN_NAME])
            .query_async(&mut con)
            .await?;
        Ok(con)
    }

    /// Runs a command on an [`admin`](Self::admin) connection of its own, within [`ADMIN_LIMIT`].
    ///
    /// # Panics
    /// If it fails; see [`try_cmd`](Self::try_cmd).
    pub(crate) async fn cmd<T: FromRedisValue>(&self, args: &[&str]) -> T {
        match self.try_cmd(args).await {
            Ok(value) => value,
            Err(error) => panic!("{args:?} on {}: {error}", self.addr),
        }
    }

    /// Like [`cmd`](Self::cmd), for commands that may fail.
    pub(crate) async fn try_cmd<T: FromRedisValue>(&self, args: &[&str]) -> RedisResult<T> {
        let (name, args) = args.split_first().expect("a command's name");
        let run = async {
            let mut con = self.admin().await?;
            redis::cmd(name).arg(args).query_async(&mut con).await
        };
        match timeout(ADMIN_LIMIT, run).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// All elements of a list, as `multidb::testing::history` reads them back.
    pub(crate) async fn list(&self, key: &str) -> Vec<String> {
        self.cmd(&["LRANGE", key, "0", "-1"]).await
    }

    /// How many clients the server sees, our own admin connections aside.
    pub(crate) async fn connected_clients(&self) -> usize {
        let clients: String = self.cmd(&["CLIENT", "LIST"]).await;
        let admin = format!(" name={ADMIN_NAME} ");
        clients
            .lines()
            .filter(|client| !client.contains(&admin))
            .count()
    }

    /// A child that exits is reported at once, with its log.
    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child's status") {
                panic!("redis-server exited ({status}):\n{}", self.log());
            }
            let answer = match self.try_cmd::<String>(&["PING"]).await {
                Ok(pong) if pong == "PONG" => return,
                answer => answer,
            };
            assert!(
                Instant::now() < deadline,
                "redis-server does not answer ({answer:?}):\n{}",
                self.log()
            );
            sleep(super::POLL).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default()
    }

    /// Through the shell, whose `kill` is built in: sending a signal other than SIGKILL takes
    /// unsafe code or another crate.
    fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.pid())])
            .status()
            .expect("a shell");
        assert!(status.success(), "kill -{name} {}: {status}", self.pid());
    }

    fn is_stopped(&self) -> bool {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the child's stat");
        // "PID (name) STATE …", where the name may contain anything.
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('T'))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too; a SIGCONT before it would let the server run what was
        // queued. The directory is removed after this, when nobody writes to it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(config: &Builder, [addr, tls_addr]: [SocketAddr; 2], dir: &TempDir) -> Child {
    // Not `--logfile`: a server that refuses its configuration says so before it opens that.
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.path().join(LOG))
        .expect("a log file");
    let mut listen = Vec::new();
    if config.unix {
        let path = dir.path().join(SOCKET).display().to_string();
        listen.extend(["--unixsocket".to_owned(), path]);
    }
    if config.cluster {
        listen.extend(["--cluster-port".to_owned(), tls_addr.port().to_string()]);
    }
    if let Some(tls) = &config.tls {
        let auth_clients = if tls.auth_clients { "yes" } else { "no" };
        listen.extend(["--tls-port".to_owned(), tls_addr.port().to_string()]);
        listen.extend(["--tls-auth-clients", auth_clients].map(str::to_owned));
        listen.extend(["--tls-ca-cert-file", "ca.pem"].map(str::to_owned));
        listen.extend(["--tls-cert-file", "cert.pem"].map(str::to_owned));
        listen.extend(["--tls-key-file", "key.pem"].map(str::to_owned));
    }
    let mut command = Command::new(program());
    if config.sentinel.is_some() {
        command.args([SENTINEL, "--sentinel"]);
    }
    let child = command
        .current_dir(dir.path())
        .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string()])
        .args(["--save", "", "--dir"])
        .arg(dir.path())
        .args(allow_debug())
        .args(listen)
        .args(&config.args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle of the log"))
        .stderr(log)
        .spawn();
    match child {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => panic!(
            "redis-server is not installed: tests/run installs it (Debian package redis-server)"
        ),
        Err(error) => panic!("redis-server cannot be started: {error}"),
    }
}

/// `MULTIDB_REDIS_SERVER` is another server to test with; `tests/run --servers` sets it.
fn program() -> OsString {
    std::env::var_os("MULTIDB_REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// Before Redis 7 `DEBUG` is allowed, and the directive unknown.
fn allow_debug() -> &'static [&'static str] {
    static IS_OLD: LazyLock<bool> = LazyLock::new(|| {
        let said = Command::new(program()).arg("--version").output();
        said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(" v=6."))
    });
    match *IS_OLD {
        true => &[],
        false => &["--enable-debug-command", "yes"],
    }
}

/// A free port of 127.0.0.1, held by a socket that never listens; the server may share it because
/// both allow the reuse of the address (Linux).
fn reserve_port() -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let addr = socket.local_addr()?.as_socket().expect("an IPv4 address");
    Ok((socket, addr))
}

/// What sentinels call the master that they watch.
pub(crate) const MASTER: &str = "main";

const START_LIMIT: Duration = Duration::from_secs(10);
const ADMIN_LIMIT: Duration = Duration::from_secs(5);
const ADMIN_NAME: &str = "rig-admin";
const SOCKET: &str = "a server.sock";
const SENTINEL: &str = "sentinel.conf";
const LOG: &str = "server.log";
