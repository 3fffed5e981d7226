//! The port: all that the engine knows of a database.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::database::{Database, DatabaseId};

/// One kind of database that the engine can fail over between; implemented once per driver.
///
/// The supervisor calls `connect`, `check` and `fence` in tasks of its own, each under a deadline,
/// and drops the future when the deadline passes: all three must be cancel-safe. Commands never
/// wait for any of them.
pub trait Backend: Send + Sync + 'static {
    /// Where a database is and how to talk to it. Its `Debug` must not show a secret.
    type Endpoint: Clone + fmt::Debug + Send + Sync + 'static;
    /// A live connection (or a pool of them); clones share it.
    type Handle: Clone + Send + Sync + 'static;
    /// What the driver returns when something goes wrong.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Opens a connection, ready for use: greeted, authenticated, selected.
    fn connect(
        &self,
        database: &Database<Self::Endpoint>,
        wiring: Wiring,
    ) -> impl Future<Output = Result<Self::Handle, Fault>> + Send;

    /// One attempt to find out whether the database is alive and serving.
    fn check(&self, handle: &Self::Handle, depth: Depth) -> impl Future<Output = Verdict> + Send;

    /// Ends the connection now. Everything in flight on it fails at once, and nothing that the
    /// driver still holds may reach the server afterwards. Called for every connection exactly
    /// when the engine is through with it; must be idempotent and must not block.
    fn abort(&self, handle: &Self::Handle);

    /// What names this connection at the server, so that it can be ended from another one.
    ///
    /// `None` (the default): the server cannot fence.
    fn mark(&self, handle: &Self::Handle) -> Option<Mark> {
        let _ = handle;
        None
    }

    /// Makes sure that nothing sent over the connections named by `marks` can still run.
    ///
    /// Called on a fresh connection to a database that was lost, before it may serve again.
    /// The default has nothing to fence.
    fn fence(
        &self,
        handle: &Self::Handle,
        marks: Vec<Mark>,
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        let _ = (handle, marks);
        async { Ok(()) }
    }

    /// The client has ended: let go of connections that the backend keeps by itself. Must not block.
    fn close(&self) {}
}

/// What the engine gives a backend along with the order to connect.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Wiring {
    /// What the connection is for.
    pub purpose: Purpose,
    /// To be cancelled by the backend as soon as it sees the connection end.
    pub lost: LostSignal,
    /// To be kept by the backend: bytes written to and read from the connection.
    pub meter: Arc<Meter>,
    /// How long a caller waits for a reply on it: the database's response timeout, or else
    /// `calls.response_timeout`.
    pub response_timeout: Duration,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// The commands of callers.
    Traffic,
    /// Health checks beside a busy traffic connection.
    Probe,
    /// One caller at a time: blocking commands, watched transactions.
    Lane,
    /// Messages for subscribers.
    PubSub,
}

/// Tells the engine that a connection has ended, without a command having to find out.
#[derive(Clone, Debug, Default)]
pub struct LostSignal(CancellationToken);

/// Bytes moved by one connection. Proof that a command never left, and sign of life while one waits.
///
/// A backend without a byte stream of its own never touches it; a loss is then never proof that
/// nothing was sent.
#[derive(Debug, Default)]
pub struct Meter {
    written: AtomicU64,
    read: AtomicU64,
    /// Bytes read when the last reply was complete.
    replied: AtomicU64,
    metered: AtomicBool,
}

/// Names a connection at the server. Opaque to the engine.
pub type Mark = Arc<dyn Any + Send + Sync>;

/// How deep a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Depth {
    /// Alive: it answers.
    Alive,
    /// Serving: it answers and takes writes. Asked before a database that refused commands by its
    /// state may serve again, because in that state a ping lies.
    Serving,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Alive and serving.
    Healthy,
    /// Alive and serving, with a reservation, such as that its replica lags. It is not returned to
    /// while another serves, comes last in a failover, and is never left for it.
    Degraded(Fault),
    /// Alive, but another database serves. No evidence against it.
    Standby,
    /// Alive, but stopped by its operator; it will not serve until resumed. No evidence against it.
    Suspended,
    /// Not fit to serve.
    Unhealthy(Fault),
}

/// Why a database is not fit to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault it is.
    pub kind: FaultKind,
    /// What happened, for people. Never holds a secret or a value of a user.
    pub what: String,
}

/// The kinds of fault, by what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// Nobody listens: connection refused, host unreachable, name unknown.
    Unreachable,
    /// An established connection ended.
    Lost,
    /// No answer in time.
    Silent,
    /// Credentials or certificate refused. Trying again will not help.
    Denied,
    /// It answers, but says that it does not serve (loading, read-only, full).
    State,
    /// Our own: this process or machine has no more sockets, ports or memory. Says nothing of the database.
    Local,
    /// Anything else: a protocol error, a check of the user's that failed or panicked.
    Other,
}

/// What became of one attempt to run an operation: the heart of correctness.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// Proof that the server never saw it. May be run again anywhere.
    NotSent(NotSent),
    /// The server saw it and proved that it did not run it.
    NotExecuted(Refusal),
    /// It ran. A reply that says so, or any other reply that does not prove the contrary.
    Executed,
    /// It may or may not have run. Run again only when running twice does no harm.
    Unknown(Doubt),
    /// The server names the database that serves. Not evidence against this one.
    Redirect {
        /// The database named.
        to: DatabaseId,
    },
    /// The server says that it does not serve now, and did not run it. Not evidence.
    NotServing(NotServing),
    /// The session with this database is gone; another one may be opened. Not evidence.
    SessionInvalid,
}

/// Why a server that is well does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotServing {
    /// Another one does.
    Standby,
    /// It was stopped by its operator, and will serve once it is resumed.
    Suspended,
}

/// Why an operation was certainly not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotSent {
    /// Refused by us or by the driver before any byte left.
    Local,
    /// No connection could be made.
    Connect,
    /// The connection ended, and not one byte had been written since the operation was handed over.
    Lost,
}

/// How a server refused an operation without running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// By the state that the server is in: another database may well run it.
    State(ServerState),
    /// By what was asked: no database would run it.
    Caller,
    /// By who asked. Permanent: returned to the caller at once.
    Denied,
}

/// A server's own word that it does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// The server's code for it, such as `LOADING`.
    pub code: &'static str,
    /// One such reply is enough to look for another database; otherwise three within a second.
    pub at_once: bool,
    /// The operation may be retried elsewhere.
    pub elsewhere: bool,
}

/// Why the outcome of an operation is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// No reply in time.
    TimedOut,
    /// The connection ended after bytes had been written.
    Lost,
    /// The reply could not be understood.
    Protocol,
    /// The caller gave up.
    Cancelled,
}

/// How an attempt ended, as tracked by the engine and never guessed from a driver's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// The driver returned with an answer, or refused by itself.
    Answered,
    /// The response timeout or the deadline passed.
    TimedOut,
    /// The connection ended. `sent` is false only where the byte meter proves it.
    Lost {
        /// Whether a byte may have left.
        sent: bool,
    },
}

// === impl Wiring ===

impl Wiring {
    /// Wiring for a connection that nobody watches yet; also for tests of a backend by itself.
    #[must_use]
    pub fn new(purpose: Purpose, response_timeout: Duration) -> Self {
        Self {
            purpose,
            lost: LostSignal::default(),
            meter: Arc::default(),
            response_timeout,
        }
    }
}

// === impl LostSignal ===

impl LostSignal {
    /// Reports the connection as ended. Idempotent.
    pub fn report(&self) {
        self.0.cancel();
    }

    /// Whether the connection has been reported as ended.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Ends when the connection is reported as ended.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }
}

// === impl Meter ===

impl Meter {
    /// Declares that every byte of the connection will be counted.
    pub fn arm(&self) {
        self.metered.store(true, Ordering::Release);
    }

    /// Counts bytes handed to the transport.
    pub fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Release);
    }

    /// Counts bytes received from the transport.
    pub fn got(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Bytes read so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// A reply is complete.
    pub fn replied(&self) {
        self.replied.store(self.read(), Ordering::Relaxed);
    }

    /// Bytes read since the last complete reply.
    #[must_use]
    pub fn unreplied(&self) -> u64 {
        self.read()
            .saturating_sub(self.replied.load(Ordering::Relaxed))
    }

    /// Whether the counts can be trusted as proof.
    pub(crate) fn is_armed(&self) -> bool {
        self.metered.load(Ordering::Acquire)
    }
}

// === impl Verdict ===

impl Verdict {
    /// Whether it is alive and serves, with a reservation or without.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded(_))
    }
}

// === impl NotServing ===

impl NotServing {
    /// What a health check calls it.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Standby => Verdict::Standby,
            Self::Suspended => Verdict::Suspended,
        }
    }
}

// === impl Fault ===

impl Fault {
    /// A fault of the given kind.
    pub fn new(kind: FaultKind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}

impl Class {
    /// Whether this outcome proves that the operation did not run, so that running it again is safe.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::NotExecuted(_) | Self::Redirect { .. } => true,
            Self::NotServing(_) | Self::SessionInvalid => true,
            Self::Executed | Self::Unknown(_) => false,
        }
    }
}
