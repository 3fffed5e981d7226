//! One connection to one server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerError, Value,
    cmd, pipe,
};
use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::classify::classify_command;
use super::connector::{Connector, Dialer, HANDSHAKE_CAP, REPLY_CAP};
use super::credentials::{greeting, renew};
use super::endpoint::RedisEndpoint;
use super::endpoint::place::Place;
use super::pairing::Paired;
use crate::engine::backend::{
    Class, Fault, FaultKind, LostSignal, Meter, Phase, Purpose, Refusal, Verdict, Wiring,
};
use crate::sockets::io_fault;

/// Makes connections to servers.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) dialer: Dialer,
    /// Ends the private ones, wherever they are kept.
    pub(super) closed: CancellationToken,
}

/// A connection to one server; clones share it.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) con: MultiplexedConnection,
    link: Arc<Link>,
}

/// What ends with the last clone, or with an abort.
struct Link {
    driver: AbortHandle,
    mark: Option<ClientMark>,
    meter: Arc<Meter>,
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

pub(super) const NAMELESS: &str = "the server does not name its connections";

// === impl Opener ===

impl Opener {
    pub(super) fn new(connector: impl Connector) -> Self {
        Self {
            dialer: Dialer::new(connector),
            closed: CancellationToken::new(),
        }
    }

    /// Connects to the server at this address, which is where `named` leads at the moment.
    pub(super) async fn open(
        &self,
        endpoint: &RedisEndpoint,
        named: &RedisEndpoint,
        wiring: Wiring,
    ) -> Result<Server, Fault> {
        let cap = Arc::new(AtomicU64::new(HANDSHAKE_CAP));
        let (info, expires) = greeting(endpoint).await?;
        let stream = (self.dialer.transport(endpoint, &wiring, cap.clone())).await?;
        let stream = Paired::new(stream);
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
        Ok(Server {
            con,
            link: Arc::new(link),
        })
    }

    /// Ends a connection to a master when another server has become it.
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

// === impl Server ===

impl Server {
    pub(super) fn mark(&self) -> Option<&ClientMark> {
        self.link.mark.as_ref()
    }

    pub(super) fn abort(&self) {
        self.link.driver.abort();
    }

    pub(super) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        self.con.clone().send_packed_command(command).await
    }

    pub(super) async fn send_batch(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let mut con = self.con.clone();
        con.send_packed_commands(pipeline, offset, count).await
    }

    /// Ends the connections of these names.
    pub(super) async fn kill(&self, marks: &[&ClientMark]) -> Result<(), Fault> {
        let mut kills = pipe();
        for mark in marks {
            if self.is_of_another_run_than(mark) {
                continue;
            }
            // With filters the answer is how many were ended; none is as good as one.
            kills.cmd("CLIENT").arg("KILL").arg("ID").arg(mark.id);
            kills.arg("ADDR").arg(&mark.addr);
        }
        if kills.is_empty() {
            return Ok(());
        }
        let result = self.send_batch(&kills, 0, kills.len()).await;
        self.link.meter.replied();
        let replies = result.map_err(|error| fault(&error))?;
        match replies.iter().find_map(refusal_of) {
            Some(code) => Err(Fault::new(FaultKind::Other, code)),
            None => Ok(()),
        }
    }

    /// As [`RedisHandle::ask`](super::handle::RedisHandle::ask).
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        let result = self.send(command).await;
        self.link.meter.replied();
        said_by(command, result)
    }

    /// Whether the server has been started anew since: what was sent to it then cannot run any more, and
    /// the id may be somebody else's.
    fn is_of_another_run_than(&self, mark: &ClientMark) -> bool {
        let run = self.mark().and_then(|ours| ours.run.as_ref());
        run.is_some() && mark.run.is_some() && run != mark.run.as_ref()
    }

    pub(super) async fn ping(&self) -> Verdict {
        match self.ask(&cmd("PING")).await {
            Ok(_) => Verdict::Healthy,
            // No permission to ping is an answer, too: it is alive, and this is not our business.
            Err(fault) if fault.kind == FaultKind::Other && fault.what == "NOPERM" => {
                Verdict::Healthy
            }
            Err(fault) => Verdict::Unhealthy(fault),
        }
    }

    /// Writes this key, for a second.
    pub(super) async fn write_probe(&self, key: &str) -> Verdict {
        let mut set = cmd("SET");
        set.arg(key).arg(1).arg("PX").arg(1000);
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
            Ok(Value::Array(role)) => match says_master(&role) {
                true => Verdict::Healthy,
                false => Verdict::Unhealthy(Fault::new(FaultKind::State, "READONLY")),
            },
            Ok(_) => self.ping().await,
            Err(fault) if fault.kind == FaultKind::Other => self.ping().await,
            Err(fault) => Verdict::Unhealthy(fault),
        }
    }
}

/// Holds nothing; a probe's write lasts a second.
pub(super) const PROBE_KEY: &str = "multidb:probe";

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

/// What the answer to a question says of the database, if it is none.
pub(super) fn said_by(command: &Cmd, result: RedisResult<Value>) -> Result<Value, Fault> {
    match classify_command(command, Phase::Answered, &result) {
        Class::NotExecuted(Refusal::State(state)) => Err(Fault::new(FaultKind::State, state.code)),
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

fn refusal_of(reply: &Value) -> Option<&str> {
    match reply {
        Value::ServerError(error) => Some(code(error)),
        _ => None,
    }
}

/// A reply for people, in whichever form it came.
pub(super) fn text_of(reply: Value) -> Option<String> {
    match reply {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Whether the answer to `ROLE` is a master's.
pub(super) fn says_master(role: &[Value]) -> bool {
    matches!(role.first(), Some(Value::BulkString(role)) if role == b"master")
}

/// What the server calls this connection; `None` where it will not say (before 6.2, or by its ACL).
async fn client_mark(con: &mut MultiplexedConnection) -> RedisResult<Option<ClientMark>> {
    let reply = con.send_packed_command(cmd("CLIENT").arg("INFO")).await?;
    let Some(text) = text_of(reply) else {
        return Ok(None);
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
    let reply = con.send_packed_command(cmd("INFO").arg("server")).await?;
    let text = text_of(reply).unwrap_or_default();
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
    io_fault(io)
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
