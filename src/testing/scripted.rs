//! Databases that do as they are told: for tests of your own policies, without a network.
//!
//! [`Scripted`] is a backend like any other; the client, its supervisor, its probes and its circuits
//! are the real ones. Each database is a [`Script`]: the endpoint that the client connects to, and
//! the handle by which a test says how connects, checks and calls go and reads what was asked.
//!
//! Nothing here reads a socket or the wall clock, so that with tokio's paused clock and
//! [`Builder::sweep_in_task`](crate::Builder::sweep_in_task) a test passes hours in no time.
//!
//! ```
//! use multidb::testing::scripted::{Script, Scripted, Work};
//! use multidb::{Builder, Database, Error};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
//! # .block_on(async {
//! let (east, west) = (Script::new(), Script::new());
//! let client = Builder::new(Scripted)
//!     .database(Database::new("east", east.clone())?.weight(1.0)?)
//!     .database(Database::new("west", west.clone())?.weight(0.5)?)
//!     .sweep_in_task()
//!     .connect()
//!     .await?;
//! let mut router = client.router();
//! assert_eq!(router.run(&Work::new("first")).await.unwrap(), "east");
//!
//! east.kill();
//! assert_eq!(router.run(&Work::new("second")).await.unwrap(), "west");
//! assert_eq!(east.executed(), ["first"]);
//! assert_eq!(west.executed(), ["second"]);
//! # client.close().await;
//! # Ok::<_, Error>(())
//! # })?;
//! # Ok::<_, Error>(())
//! ```

mod connection;
mod work;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use connection::{ScriptHandle, Scripted};
pub use work::{ScriptError, Work};

use crate::engine::backend::{Class, Depth, Fault, FaultKind, Purpose, Verdict};
use connection::Connection;

/// One scripted database; clones are the same one.
///
/// At first it accepts every connection, is healthy and runs every call at once. What is changed
/// holds for whatever is asked afterwards; what hangs already goes on hanging until
/// [`Script::release`] or [`Script::heal`].
#[derive(Clone)]
pub struct Script(Arc<Stage>);

/// What a script does when it is asked for a connection, a check or a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Act<T> {
    /// It answers so.
    Answer(T),
    /// It does not answer until [`Script::release`]; then it goes by what the script says then.
    Hang,
    /// The connection ends instead.
    Lose,
    /// The backend panics.
    Panic,
}

/// What a script does with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnCall {
    /// It runs, and the reply says so.
    Run,
    /// It does not run, and the reply is an error of this class.
    /// [`Class::Executed`] alone runs first: an error reply after the fact.
    Answer(Class),
    /// It does not answer until [`Script::release`]; then it goes by what the script says then.
    Hang,
    /// It runs, and no reply ever comes.
    RunInSilence,
    /// The connection ends, with every other call on it.
    Lose {
        /// Whether the call had been written; if not, the byte meter proves it.
        sent: bool,
        /// Whether it runs all the same. Ignored unless it was sent.
        ran: bool,
    },
}

/// Something that a script was asked, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// On which connection: they are counted from 1, refused ones included.
    pub connection: u64,
    /// What.
    pub what: Asked,
}

/// What a script was asked, or did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// To open a connection.
    Connect(Purpose),
    /// How it is.
    Check(Depth),
    /// To run the call with this token.
    Call(String),
    /// It ran the call with this token.
    Ran(String),
    /// To fence these connections.
    Fence(Vec<u64>),
    /// The client ended the connection.
    Abort,
}

/// A script and what it has been through.
struct Stage {
    part: Lock<Part>,
    /// How often what hangs was released.
    released: watch::Sender<u64>,
}

/// How it goes, and how it went.
struct Part {
    connect: Act<Result<(), Fault>>,
    connect_for: Vec<(Purpose, Act<Result<(), Fault>>)>,
    check: Act<Verdict>,
    serving: Option<Act<Verdict>>,
    fence: Act<Result<(), Fault>>,
    call: OnCall,
    next_calls: VecDeque<OnCall>,
    latency: Duration,
    marked: bool,
    log: Vec<Entry>,
    /// Calls that hang and that nobody waits for any more, and the connections they came over.
    abandoned: Vec<(u64, String)>,
    connections: Vec<Weak<Connection>>,
    next_connection: u64,
}

#[allow(clippy::disallowed_types, reason = "no method awaits")]
type Lock<T> = std::sync::Mutex<T>;

// === impl Script ===

impl Script {
    /// A healthy database.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Stage {
            part: Lock::new(Part::new()),
            released: watch::Sender::new(0),
        }))
    }

    // --- how it goes, piece by piece ---

    /// How it goes when a connection is asked for. `Lose` and `Answer(Err(_))` refuse it.
    pub fn on_connect(&self, act: Act<Result<(), Fault>>) {
        let mut part = self.lock();
        part.connect_for.clear();
        part.connect = act;
    }

    /// As [`Script::on_connect`], for connections of one purpose; the others stay as they are.
    pub fn on_connect_for(&self, purpose: Purpose, act: Act<Result<(), Fault>>) {
        let mut part = self.lock();
        part.connect_for.retain(|(known, _)| *known != purpose);
        part.connect_for.push((purpose, act));
    }

    /// How it goes when it is asked how it is, however deep.
    pub fn on_check(&self, act: Act<Verdict>) {
        let mut part = self.lock();
        part.serving = None;
        part.check = act;
    }

    /// How it goes when it is asked whether it serves ([`Depth::Serving`]); a ping is answered as before.
    pub fn on_serving_check(&self, act: Act<Verdict>) {
        self.lock().serving = Some(act);
    }

    /// How it goes when it is asked to fence old connections.
    pub fn on_fence(&self, act: Act<Result<(), Fault>>) {
        self.lock().fence = act;
    }

    /// Whether connections made from now on can be fenced at all. At first they can.
    pub fn fences(&self, on: bool) {
        self.lock().marked = on;
    }

    /// How calls go.
    pub fn on_call(&self, act: OnCall) {
        self.lock().call = act;
    }

    /// How the next call goes; later ones go by [`Script::on_call`]. Several add up, in order.
    pub fn next_call(&self, act: OnCall) {
        self.lock().next_calls.push_back(act);
    }

    /// How long every answer takes; what is asked is done before. At first no time at all.
    pub fn latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Lets everything that hangs go on, by what the script says now.
    ///
    /// A call whose caller gave up meanwhile runs as well, unless its connection has ended or the
    /// script does not run calls.
    pub fn release(&self) {
        let open = self.open_connections();
        let (abandoned, runs) = {
            let mut part = self.lock();
            let runs = matches!(part.call, OnCall::Run | OnCall::RunInSilence);
            (std::mem::take(&mut part.abandoned), runs)
        };
        for (number, token) in abandoned {
            let connection = open.iter().find(|known| known.number == number);
            if let Some(connection) = connection.filter(|_| runs) {
                connection.ran(token);
            }
        }
        self.0.released.send_modify(|times| *times += 1);
    }

    // --- the usual disasters ---

    /// It dies: every connection ends, and new ones are refused.
    pub fn kill(&self) {
        let fault = Fault::new(FaultKind::Unreachable, "connection refused");
        self.on_connect(Act::Answer(Err(fault)));
        self.cut();
    }

    /// It stops as by `SIGSTOP`: nothing is answered any more, and nothing ends. What is asked
    /// meanwhile is done after [`Script::heal`], unless its connection has ended by then.
    pub fn hang(&self) {
        let mut part = self.lock();
        part.connect_for.clear();
        part.connect = Act::Hang;
        part.check = Act::Hang;
        part.serving = None;
        part.fence = Act::Hang;
        part.call = OnCall::Hang;
        part.next_calls.clear();
    }

    /// Every connection ends; new ones are accepted as before.
    pub fn cut(&self) {
        for connection in self.open_connections() {
            connection.end();
        }
    }

    /// As [`Script::cut`], for connections of one purpose.
    pub fn cut_for(&self, purpose: Purpose) {
        for connection in self.open_connections() {
            if connection.purpose == purpose {
                connection.end();
            }
        }
    }

    /// The connections of one purpose that are open now fall silent for good, as on a lost NAT flow;
    /// nothing ends, and new ones are well.
    pub fn mute(&self, purpose: Purpose) {
        for connection in self.open_connections() {
            if connection.purpose == purpose {
                connection.mute();
            }
        }
    }

    /// All is as at first, and what hangs is answered. The log, muted connections and
    /// [`Script::fences`] stay.
    pub fn heal(&self) {
        {
            let mut part = self.lock();
            let fresh = Part::new();
            *part = Part {
                marked: part.marked,
                log: std::mem::take(&mut part.log),
                abandoned: std::mem::take(&mut part.abandoned),
                connections: std::mem::take(&mut part.connections),
                next_connection: part.next_connection,
                ..fresh
            };
        }
        self.release();
    }

    // --- what it was asked ---

    /// Everything it was asked and did, in order, since the start or [`Script::forget`].
    #[must_use]
    pub fn log(&self) -> Vec<Entry> {
        self.lock().log.clone()
    }

    /// Empties the log.
    pub fn forget(&self) {
        self.lock().log.clear();
    }

    /// How many connections it was asked for with this purpose.
    #[must_use]
    pub fn connects(&self, purpose: Purpose) -> usize {
        self.count(|what| *what == Asked::Connect(purpose))
    }

    /// How often it was asked how it is, this deep.
    #[must_use]
    pub fn checks(&self, depth: Depth) -> usize {
        self.count(|what| *what == Asked::Check(depth))
    }

    /// The tokens of the calls it was asked to run, in order.
    #[must_use]
    pub fn called(&self) -> Vec<String> {
        self.tokens(|what| match what {
            Asked::Call(token) => Some(token),
            _ => None,
        })
    }

    /// The tokens of the calls that ran, in order.
    #[must_use]
    pub fn executed(&self) -> Vec<String> {
        self.tokens(|what| match what {
            Asked::Ran(token) => Some(token),
            _ => None,
        })
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open_connections().len()
    }

    fn count(&self, which: impl Fn(&Asked) -> bool) -> usize {
        let part = self.lock();
        part.log.iter().filter(|entry| which(&entry.what)).count()
    }

    fn tokens(&self, which: impl Fn(&Asked) -> Option<&String>) -> Vec<String> {
        let part = self.lock();
        let found = part.log.iter().filter_map(|entry| which(&entry.what));
        found.cloned().collect()
    }

    fn open_connections(&self) -> Vec<Arc<Connection>> {
        let mut part = self.lock();
        part.connections.retain(|known| known.strong_count() > 0);
        let known = part.connections.iter().filter_map(Weak::upgrade);
        known.filter(|connection| !connection.is_over()).collect()
    }

    fn note(&self, connection: u64, what: Asked) {
        let at = Instant::now();
        let entry = Entry {
            at,
            connection,
            what,
        };
        self.lock().log.push(entry);
    }

    fn lock(&self) -> MutexGuard<'_, Part> {
        self.0.part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.open();
        let part = self.lock();
        f.debug_struct("Script")
            .field("connect", &part.connect)
            .field("check", &part.check)
            .field("call", &part.call)
            .field("open", &open)
            .finish_non_exhaustive()
    }
}

impl Part {
    fn new() -> Self {
        Self {
            connect: Act::Answer(Ok(())),
            connect_for: Vec::new(),
            check: Act::Answer(Verdict::Healthy),
            serving: None,
            fence: Act::Answer(Ok(())),
            call: OnCall::Run,
            next_calls: VecDeque::new(),
            latency: Duration::ZERO,
            marked: true,
            log: Vec::new(),
            abandoned: Vec::new(),
            connections: Vec::new(),
            next_connection: 0,
        }
    }

    fn connect_act(&self, purpose: Purpose) -> Act<Result<(), Fault>> {
        let own = self.connect_for.iter().find(|(known, _)| *known == purpose);
        own.map_or(&self.connect, |(_, act)| act).clone()
    }

    fn check_act(&self, depth: Depth) -> Act<Verdict> {
        match (depth, &self.serving) {
            (Depth::Serving, Some(act)) => act.clone(),
            (Depth::Alive | Depth::Serving, _) => self.check.clone(),
        }
    }

    fn call_act(&mut self) -> OnCall {
        let next = self.next_calls.pop_front();
        next.unwrap_or_else(|| self.call.clone())
    }
}
