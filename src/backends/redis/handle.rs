//! The backend: connecting, checking, fencing, aborting.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
// Short lists, touched when a lane is taken or given back, and by scans.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisError, RedisResult, ServerError, Value, cmd,
};
use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::classify::classify_command;
use super::commands::is_among;
use super::connector::{Connector, Dialer, HANDSHAKE_CAP, REPLY_CAP};
use super::credentials::{greeting, renew};
use super::cursors::Cursors;
use super::endpoint::RedisEndpoint;
use super::endpoint::place::Place;
use super::lane::Lane;
use super::scripts::{Script, Scripts, Sha};
use crate::engine::backend::{
    Backend, Class, Depth, Fault, FaultKind, LostSignal, Mark, Meter, Phase, Purpose, Refusal,
    Verdict, Wiring,
};
use crate::engine::database::Database;

/// The Redis backend. Opens its transports through a [`Connector`].
pub struct Redis {
    dialer: Dialer,
    /// Private connections that nobody uses at the moment.
    #[allow(clippy::disallowed_types)]
    lanes: Mutex<Vec<Lane>>,
    #[allow(clippy::disallowed_types)]
    cursors: Mutex<Cursors>,
    #[allow(clippy::disallowed_types)]
    scripts: Mutex<Scripts>,
    /// Of commands that the user says only read.
    read_only: BTreeSet<String>,
    /// Ends the private connections, wherever they are kept.
    closed: CancellationToken,
}

/// A connection to a Redis database; clones share it.
#[derive(Clone)]
pub struct RedisHandle {
    pub(super) con: MultiplexedConnection,
    link: Arc<Link>,
}

/// What ends with the last clone, or with an abort.
struct Link {
    driver: AbortHandle,
    mark: Option<ClientMark>,
    meter: Arc<Meter>,
    /// Scripts that this connection has loaded.
    #[allow(clippy::disallowed_types)]
    loaded: Mutex<Vec<Sha>>,
    _renewing: Option<AbortOnDropHandle<()>>,
    /// Ends the connection when the master is another one.
    _following: Option<AbortOnDropHandle<()>>,
}

/// Names a connection at its server. Ids restart with the server, so an id alone could name
/// somebody else's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientMark {
    pub(super) id: u64,
    pub(super) addr: String,
    /// The run of the server, where the address is everybody's: over a unix socket.
    run: Option<String>,
}

/// Commands that the driver takes in at once, and so sends at once. With more callers than its own 50
/// the rest wait for a permit and for another write: at 64 to 1000 tasks that costs a fifth or more of
/// the throughput. A batch without end would leave client and server waiting for each other.
const BATCH: usize = 128;

const NAMELESS: &str = "the server does not name its connections";

/// At most so many private connections are kept for the next one who needs one.
const SPARE_LANES: usize = 8;

// === impl Redis ===

impl Redis {
    /// A backend that opens its transports through `connector`.
    #[allow(clippy::disallowed_types)]
    pub fn new(connector: impl Connector) -> Self {
        Self {
            dialer: Dialer::new(connector),
            lanes: Mutex::new(Vec::new()),
            cursors: Mutex::new(Cursors::of_a_client()),
            scripts: Mutex::default(),
            read_only: BTreeSet::new(),
            closed: CancellationToken::new(),
        }
    }

    pub(super) fn connect_by(&mut self, connector: impl Connector) {
        self.dialer = Dialer::new(connector);
    }

    pub(super) fn add_read_only(&mut self, names: impl Iterator<Item = String>) {
        self.read_only.extend(names);
    }

    /// Whether the user says that it only reads.
    pub(super) fn is_said_to_read(&self, command: &Cmd) -> bool {
        is_among(command, &self.read_only)
    }

    pub(super) fn is_overridden(&self) -> bool {
        !self.read_only.is_empty()
    }

    /// A spare private connection that `fits`; the others that do not are ended.
    pub(super) fn take_lane(&self, fits: impl Fn(&Lane) -> bool) -> Option<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(&fits);
        lanes.pop()
    }

    pub(super) fn keep_lane(&self, lane: Lane) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() < SPARE_LANES && !self.closed.is_cancelled() {
            lanes.push(lane);
        }
    }

    /// Of scans that callers step through by hand.
    #[allow(clippy::disallowed_types)]
    pub(super) fn cursors(&self) -> std::sync::MutexGuard<'_, Cursors> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That callers have loaded.
    #[allow(clippy::disallowed_types)]
    pub(super) fn scripts(&self) -> std::sync::MutexGuard<'_, Scripts> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Where an endpoint leads at the moment: itself, or what its sentinels say.
    pub(super) async fn locate<'a>(
        &self,
        endpoint: &'a RedisEndpoint,
    ) -> Result<Cow<'a, RedisEndpoint>, Fault> {
        match endpoint.place() {
            Place::At(_) => Ok(Cow::Borrowed(endpoint)),
            Place::Sentinel(sentinels) => {
                let found = sentinels.find(&self.dialer, endpoint).await?;
                Ok(Cow::Owned(found))
            }
        }
    }

    async fn open(&self, endpoint: &RedisEndpoint, wiring: Wiring) -> Result<RedisHandle, Fault> {
        let named = endpoint;
        let endpoint = &*self.locate(endpoint).await?;
        let cap = Arc::new(AtomicU64::new(HANDSHAKE_CAP));
        let (info, expires) = greeting(endpoint).await?;
        let stream = (self.dialer.transport(endpoint, &wiring, cap.clone())).await?;
        // Deadlines are the engine's: its sweep costs less than a timer per command.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(BATCH);
        let (mut con, driver) =
            MultiplexedConnection::new_with_config(&info, stream, config).await?;
        let report = ReportOnDrop(wiring.lost);
        // Around a future that is polled several times per command, this is less than an async block.
        let driver = driver.map(move |()| drop(report));
        let driver = match wiring.purpose {
            // The supervisor ends what it owns; a private connection may lie idle in a caller's hands.
            Purpose::Lane => {
                let closed = self.closed.clone();
                tokio::spawn(closed.run_until_cancelled_owned(driver).map(drop))
            }
            Purpose::Traffic | Purpose::Probe | Purpose::PubSub => tokio::spawn(driver),
        };
        let driver = driver.abort_handle();
        let mut link = Link {
            mark: None,
            meter: wiring.meter,
            loaded: Default::default(),
            _renewing: expires.map(|expires| {
                let renewing = renew(endpoint.clone(), con.clone(), expires);
                AbortOnDropHandle::new(tokio::spawn(renewing))
            }),
            _following: self.follow(named, endpoint, &driver),
            driver,
        };
        if let Some(name) = endpoint.name_for_clients() {
            // Whether it is let or not: a name is for people.
            let _ = (con.send_packed_command(cmd("CLIENT").arg("SETNAME").arg(name))).await?;
        }
        if wiring.purpose != Purpose::Probe {
            link.mark = client_mark(&mut con).await?;
            if let (Some(mark), Some(_)) = (&mut link.mark, endpoint.socket()) {
                mark.run = run_id(&mut con).await?;
            }
            cap.store(REPLY_CAP, Ordering::Relaxed);
        }
        link.meter.replied();
        Ok(RedisHandle {
            con,
            link: Arc::new(link),
        })
    }
}

impl Redis {
    fn follow(
        &self,
        named: &RedisEndpoint,
        found: &RedisEndpoint,
        driver: &AbortHandle,
    ) -> Option<AbortOnDropHandle<()>> {
        let (Place::Sentinel(sentinels), Some(at)) = (named.place(), found.address()) else {
            return None;
        };
        let (dialer, driver) = (self.dialer.clone(), driver.clone());
        let following = (sentinels.clone()).follow(dialer, named.clone(), at.clone(), driver);
        Some(AbortOnDropHandle::new(tokio::spawn(following)))
    }
}

impl Backend for Redis {
    type Endpoint = RedisEndpoint;
    type Handle = RedisHandle;
    type Error = RedisError;

    async fn connect(
        &self,
        database: &Database<RedisEndpoint>,
        wiring: Wiring,
    ) -> Result<RedisHandle, Fault> {
        self.open(database.endpoint(), wiring).await
    }

    async fn check(&self, handle: &RedisHandle, depth: Depth) -> Verdict {
        match depth {
            Depth::Alive => handle.ping().await,
            Depth::Serving => handle.write_probe().await,
        }
    }

    fn abort(&self, handle: &RedisHandle) {
        handle.link.driver.abort();
    }

    /// A connection that the server would not name has a mark, too: that it cannot be fenced is told.
    fn mark(&self, handle: &RedisHandle) -> Option<Mark> {
        Some(Arc::new(handle.link.mark.clone()))
    }

    async fn fence(&self, handle: &RedisHandle, marks: Vec<Mark>) -> Result<(), Fault> {
        let marks = marks
            .iter()
            .filter_map(|mark| mark.downcast_ref::<Option<ClientMark>>());
        let (mut kills, mut nameless) = (::redis::pipe(), false);
        for mark in marks {
            let Some(mark) = mark else {
                nameless = true;
                continue;
            };
            if handle.is_of_another_run_than(mark) {
                continue;
            }
            // With filters the answer is how many were ended; none is as good as one.
            kills.cmd("CLIENT").arg("KILL").arg("ID").arg(mark.id);
            kills.arg("ADDR").arg(&mark.addr);
        }
        if !kills.is_empty() {
            let mut con = handle.con.clone();
            let result = con.send_packed_commands(&kills, 0, kills.len()).await;
            handle.link.meter.replied();
            let replies = result.map_err(|error| fault(&error))?;
            if let Some(code) = replies.iter().find_map(refusal_of) {
                return Err(Fault::new(FaultKind::Other, code));
            }
        }
        match nameless {
            true => Err(Fault::new(FaultKind::Other, NAMELESS)),
            false => Ok(()),
        }
    }

    fn close(&self) {
        self.closed.cancel();
        drop(self.take_lane(|_| false));
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

// === impl RedisHandle ===

impl RedisHandle {
    pub(super) fn mark(&self) -> Option<&ClientMark> {
        self.link.mark.as_ref()
    }

    pub(super) fn meter(&self) -> &Arc<Meter> {
        &self.link.meter
    }

    /// Those of the scripts that this connection has not loaded yet.
    pub(super) fn not_loaded<'a>(&self, scripts: &'a [Script]) -> Vec<&'a Script> {
        let loaded = self.loaded();
        let missing = scripts.iter();
        missing
            .filter(|script| !loaded.contains(&script.sha))
            .collect()
    }

    pub(super) fn has_loaded(&self, scripts: &[&Script]) {
        self.loaded()
            .extend(scripts.iter().map(|script| script.sha));
    }

    #[allow(clippy::disallowed_types)]
    fn loaded(&self) -> std::sync::MutexGuard<'_, Vec<Sha>> {
        (self.link.loaded.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn abort(&self) {
        self.link.driver.abort();
    }

    /// Runs a command beside the callers' own, such as one of a [`HealthCheck`](crate::HealthCheck). It has no deadline
    /// here: a check is dropped when its time is up.
    ///
    /// # Errors
    /// What it says of the database, as a [`Verdict::Unhealthy`] needs it.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        let result = self.con.clone().send_packed_command(command).await;
        self.link.meter.replied();
        match classify_command(command, Phase::Answered, &result) {
            Class::NotExecuted(Refusal::State(state)) => {
                Err(Fault::new(FaultKind::State, state.code))
            }
            Class::NotExecuted(Refusal::Denied) => {
                Err(Fault::new(FaultKind::Denied, "credentials refused"))
            }
            _ => match result {
                Ok(Value::ServerError(error)) => Err(Fault::new(FaultKind::Other, code(&error))),
                Ok(value) => Ok(value),
                Err(error) => Err(fault(&error)),
            },
        }
    }

    /// Whether the server has been started anew since: what was sent to it then cannot run any more, and
    /// the id may be somebody else's.
    fn is_of_another_run_than(&self, mark: &ClientMark) -> bool {
        let run = self.mark().and_then(|ours| ours.run.as_ref());
        run.is_some() && mark.run.is_some() && run != mark.run.as_ref()
    }

    async fn ping(&self) -> Verdict {
        match self.ask(&cmd("PING")).await {
            Ok(_) => Verdict::Healthy,
            // No permission to ping is an answer, too: it is alive, and this is not our business.
            Err(fault) if fault.kind == FaultKind::Other && fault.what == "NOPERM" => {
                Verdict::Healthy
            }
            Err(fault) => Verdict::Unhealthy(fault),
        }
    }

    pub(super) async fn write_probe(&self) -> Verdict {
        let mut set = cmd("SET");
        set.arg(PROBE_KEY).arg(1).arg("PX").arg(1000);
        match self.ask(&set).await {
            Ok(_) => Verdict::Healthy,
            Err(fault) if fault.kind == FaultKind::Other && fault.what == "NOPERM" => {
                self.role().await
            }
            Err(fault) => Verdict::Unhealthy(fault),
        }
    }

    /// For users who may not write the probe's key: a master that answers is taken to serve.
    async fn role(&self) -> Verdict {
        match self.ask(&cmd("ROLE")).await {
            Ok(Value::Array(parts)) => match parts.first() {
                Some(Value::BulkString(role)) if role == b"master" => Verdict::Healthy,
                _ => Verdict::Unhealthy(Fault::new(FaultKind::State, "READONLY")),
            },
            Ok(_) => self.ping().await,
            Err(fault) if fault.kind == FaultKind::Other => self.ping().await,
            Err(fault) => Verdict::Unhealthy(fault),
        }
    }
}

/// Holds nothing; a probe's write lasts a second.
const PROBE_KEY: &str = "multidb:probe";

impl fmt::Debug for RedisHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHandle")
            .field("client", &self.link.mark.as_ref().map(|mark| mark.id))
            .finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Reports the end of a driver however it ended: by itself, aborted, or with its runtime.
struct ReportOnDrop(LostSignal);

impl Drop for ReportOnDrop {
    fn drop(&mut self) {
        self.0.report();
    }
}

// === helpers ===

fn refusal_of(reply: &Value) -> Option<&str> {
    match reply {
        Value::ServerError(error) => Some(code(error)),
        _ => None,
    }
}

/// What the server calls this connection; `None` where it will not say (before 6.2, or by its ACL).
async fn client_mark(con: &mut MultiplexedConnection) -> RedisResult<Option<ClientMark>> {
    let text = match con.send_packed_command(cmd("CLIENT").arg("INFO")).await? {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } => text,
        Value::SimpleString(text) => text,
        _ => return Ok(None),
    };
    let field = |name: &str| {
        text.split_ascii_whitespace()
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let id = field("id").and_then(|id| id.parse().ok());
    // Of a unix socket it is `path:0`, and a path may hold spaces.
    let addr = text.split_once(" addr=").map(|(_, rest)| rest);
    let addr = addr.and_then(|rest| rest.split_once(" laddr="));
    let addr = addr.map_or_else(|| field("addr"), |(addr, _)| Some(addr));
    let addr = addr.map(str::to_owned);
    Ok(id.zip(addr).map(|(id, addr)| ClientMark {
        id,
        addr,
        run: None,
    }))
}

/// What a server draws by lot when it starts; `None` where it will not say.
async fn run_id(con: &mut MultiplexedConnection) -> RedisResult<Option<String>> {
    let text = match con.send_packed_command(cmd("INFO").arg("server")).await? {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } => text,
        _ => return Ok(None),
    };
    let run = text.lines().find_map(|line| line.strip_prefix("run_id:"));
    Ok(run.map(str::to_owned))
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        fault(&error)
    }
}

/// Why a connection could not be made or used. Says nothing that the user or the server wrote.
pub(super) fn fault(error: &RedisError) -> Fault {
    if error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
    {
        return Fault::new(FaultKind::Denied, "credentials refused");
    }
    if let (ErrorKind::Server(_), Some(code)) = (error.kind(), error.code()) {
        return Fault::new(FaultKind::State, code);
    }
    let Some(io) = io_error(error) else {
        let text = format!("greeting failed ({})", error.category());
        return Fault::new(FaultKind::Other, text);
    };
    #[cfg(feature = "redis-rustls")]
    if let Some(fault) = super::secured::fault(io) {
        return fault;
    }
    let (kind, what) = match io.kind() {
        io::ErrorKind::ConnectionRefused => (FaultKind::Unreachable, "connection refused"),
        io::ErrorKind::HostUnreachable => (FaultKind::Unreachable, "host unreachable"),
        io::ErrorKind::NetworkUnreachable => (FaultKind::Unreachable, "network unreachable"),
        io::ErrorKind::NotFound => (FaultKind::Unreachable, "no such host or socket"),
        io::ErrorKind::PermissionDenied => (FaultKind::Unreachable, "permission denied"),
        io::ErrorKind::TimedOut => (FaultKind::Silent, "timed out"),
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::UnexpectedEof => (FaultKind::Lost, "connection lost"),
        _ => (FaultKind::Other, "connection failed"),
    };
    Fault::new(kind, what)
}

/// The code of an error reply, if it looks like one: the first word may be anything else, too.
fn code(error: &ServerError) -> &str {
    let code = error.code();
    match code.len() <= 20 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        true => code,
        false => "an error without a code",
    }
}

/// The i/o error inside, if there is one. The driver wraps it in an `Arc` before it shows it as a
/// source.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    use std::error::Error;
    let source = error.source()?;
    if let Some(io) = source.downcast_ref::<io::Error>() {
        return Some(io);
    }
    let shared = source.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    shared.downcast_ref::<io::Error>()
}
