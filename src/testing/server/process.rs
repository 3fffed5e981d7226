//! The state of a running server besides its data: its clients, its faults, what it has done.

#![expect(
    clippy::disallowed_types,
    reason = "one batch of commands is one critical section, and awaits nothing"
)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::client;
use super::storage::Storage;
use super::subscriptions::Subscriptions;
use super::users::{DEFAULT, Users};

/// What the connections of one server share.
///
/// Two locks, always taken in this order: the process, then the storage. A connection holds both
/// while it executes a batch, and every fault is set under the first: once a fault's setter has
/// returned, nothing is executed that the fault forbids.
#[derive(Debug)]
pub(super) struct Shared {
    /// Tells the servers over one storage apart.
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) password: Option<String>,
    pub(super) storage: Storage,
    process: Mutex<Process>,
}

impl Shared {
    pub(super) fn new(
        name: String,
        password: Option<String>,
        users: Users,
        storage: Storage,
    ) -> Self {
        Self {
            id: SERVERS.fetch_add(1, Ordering::Relaxed),
            name,
            password,
            storage,
            process: Mutex::new(Process::new(users)),
        }
    }

    pub(super) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static SERVERS: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
pub(super) struct Process {
    pub(super) users: Users,
    pub(super) port: Port,
    /// Where it listens, or did before it was killed.
    pub(super) address: SocketAddr,
    /// A killed server is not.
    pub(super) alive: bool,
    /// Counts lives: what `run_id` is made of.
    pub(super) lives: u64,
    pub(super) started: Instant,
    pub(super) faults: Faults,
    pub(super) pause: Option<Pause>,
    pub(super) clients: BTreeMap<u64, Client>,
    last_client: u64,
    /// Connections accepted, in all lives.
    pub(super) accepted: u64,
    /// Commands executed, in all lives.
    pub(super) commands: u64,
    pub(super) recording: bool,
    pub(super) log: VecDeque<Vec<Vec<u8>>>,
}

impl Process {
    fn new(users: Users) -> Self {
        Self {
            users,
            port: Port::None,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            alive: true,
            lives: 1,
            started: Instant::now(),
            faults: Faults::default(),
            pause: None,
            clients: BTreeMap::new(),
            last_client: 0,
            accepted: 0,
            commands: 0,
            recording: false,
            log: VecDeque::new(),
        }
    }

    /// Registers a new connection.
    pub(super) fn admit(&mut self, peer: Option<SocketAddr>) -> (u64, Arc<Notify>) {
        self.last_client += 1;
        self.accepted += 1;
        let bell = Arc::new(Notify::new());
        let client = Client {
            bell: Arc::clone(&bell),
            doom: None,
            peer,
            name: String::new(),
            library: (String::new(), String::new()),
            since: Instant::now(),
            active: Instant::now(),
            db: 0,
            resp3: false,
            queued: None,
            watched: 0,
            command: "NULL",
            user: DEFAULT.to_owned(),
            subscriptions: Subscriptions::default(),
            pushed: Vec::new(),
            faults: client::Faults::default(),
        };
        self.clients.insert(self.last_client, client);
        (self.last_client, bell)
    }

    /// The messages that wait for a connection, if any do.
    pub(super) fn take_pushed(&mut self, client: u64) -> Option<Vec<u8>> {
        let pushed = std::mem::take(&mut self.clients.get_mut(&client)?.pushed);
        (!pushed.is_empty()).then_some(pushed)
    }

    /// Lets every connection look at the faults anew.
    pub(super) fn ring(&self) {
        for client in self.clients.values() {
            client.bell.notify_one();
        }
    }

    /// Ends every connection.
    pub(super) fn doom_all(&mut self, ending: Ending) {
        for client in self.clients.values_mut() {
            client.doom.get_or_insert(ending);
        }
        self.ring();
    }

    /// The pause in force, if any.
    pub(super) fn paused(&mut self) -> Option<Pause> {
        if self.pause?.until <= Instant::now() {
            self.pause = None;
        }
        self.pause
    }

    /// The port, 0 if it has none.
    pub(super) fn port_number(&self) -> u16 {
        self.address.port()
    }

    pub(super) fn port_address(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn record(&mut self, args: &[&[u8]]) {
        if self.log.len() == LOG_LENGTH {
            self.log.pop_front();
        }
        self.log
            .push_back(args.iter().map(|arg| arg.to_vec()).collect());
    }
}

/// What a server does with its port.
#[derive(Debug)]
pub(super) enum Port {
    /// It has none: in memory, or it could not be had back.
    None,
    Listening(TcpListener, AbortHandle),
    /// Bound but not listening: connects are refused, and nobody else gets the port. Without
    /// this, a client that reconnects in a loop would sooner or later be given the very port as
    /// its own and be connected to itself.
    Held(TcpSocket),
}

/// One connection as `CLIENT LIST` sees it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) bell: Arc<Notify>,
    /// The connection is to end in this way as soon as it is scheduled; it executes nothing more.
    pub(super) doom: Option<Ending>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) name: String,
    pub(super) library: (String, String),
    pub(super) since: Instant,
    pub(super) active: Instant,
    pub(super) db: usize,
    pub(super) resp3: bool,
    /// Commands queued by `MULTI`, if it is in one.
    pub(super) queued: Option<usize>,
    pub(super) watched: usize,
    pub(super) command: &'static str,
    pub(super) user: String,
    pub(super) subscriptions: Subscriptions,
    /// Messages for it, as they are to be written.
    pub(super) pushed: Vec<u8>,
    /// What is wrong with this connection alone.
    pub(super) faults: client::Faults,
}

impl Client {
    /// The peer's address; in memory there is none.
    pub(super) fn address(&self) -> String {
        match self.peer {
            Some(peer) => peer.to_string(),
            None => "127.0.0.1:0".to_owned(),
        }
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// In order: what has been written arrives.
    Close,
    /// By a TCP reset.
    Reset,
}

/// What is wrong with a server; nothing by default.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) hung: bool,
    pub(super) black_hole: bool,
    /// How many black holes have begun. A connection that has not seen the latest may hold bytes
    /// which were swallowed.
    pub(super) holes: u64,
    pub(super) lose_replies: bool,
    pub(super) loading: bool,
    pub(super) read_only: bool,
    pub(super) out_of_memory: bool,
    pub(super) refusal: Option<String>,
    pub(super) latency: Duration,
    pub(super) cut_after: Option<usize>,
}

/// A `CLIENT PAUSE` in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    pub(super) until: Instant,
    /// Only commands that may write wait.
    pub(super) writes_only: bool,
}

/// Enough for a test; bounded so that a long demo does not grow.
pub(super) const LOG_LENGTH: usize = 100_000;
