//! A stand-in for an e6data cluster: two stacks behind one port, which change places on command.
//!
//! It speaks what the real one speaks, as far as that is known, and keeps count of what it was asked and of
//! what it ran. What nobody could find out about real clusters can be chosen: whether sessions are shared
//! between the stacks, and what becomes of queries on a stack that does not serve any more.

mod answers;
mod http;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
// Held for a few instructions, never across an await.
#[allow(clippy::disallowed_types)]
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use crate::backends::e6data::{Colour, Column, ColumnType, Value};

/// The stand-in. Dropped, it ends, and every connection with it.
pub struct E6dataServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What becomes of a query on a stack that does not serve any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InFlight {
    /// It goes on there to its end. The default.
    #[default]
    Kept,
    /// It is refused from then on, as everything for that stack is.
    Refused,
}

/// Which stack knows a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionScope {
    /// The one that it was made on. The default, and the harder case.
    #[default]
    Stack,
    /// Both.
    Cluster,
}

/// How a stack says that it does not serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefusalStyle {
    /// UNKNOWN, `status: 456`: what real clients look for. The default.
    #[default]
    Gateway,
    /// INVALID_ARGUMENT, `Wrong strategy. Status: 456. …`: what the connector's mock server says.
    Mock,
}

/// What happens to one rpc instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// It ends with this status, unseen by the stack.
    Status(u8, String),
    /// It is done, and then ends with this status.
    Late(u8, String),
    /// No answer ever comes; it is not done.
    Silence,
    /// The connection is reset, before it is done.
    Reset,
    /// It is done, and then the connection is reset.
    LateReset,
    /// The answer is these bytes, as a message.
    Garbage(Vec<u8>),
    /// Another colour is named in the answer; any text.
    Names(String),
    /// The answer comes so much later.
    Slow(Duration),
}

/// What was asked and done, so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Rpcs by colour asked for (`None`: none was) and method.
    pub rpcs: HashMap<(Option<Colour>, &'static str), u64>,
    /// How often each statement ran, and where it ran first.
    pub executed: HashMap<String, (u64, Option<Colour>)>,
    /// Queries that have been prepared, by stack.
    pub prepared: HashMap<Option<Colour>, u64>,
    /// Queries that are open: prepared, and neither cleared nor cancelled.
    pub open: usize,
    /// Sessions made.
    pub sessions: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Rpcs about a query that did not carry its planner's address, its session or its colour.
    pub strays: u64,
}

struct Shared {
    state: State,
    latency: AtomicU64,
    stop: CancellationToken,
    /// Counts up: connections of an earlier epoch are told to leave, or are reset.
    leave: watch::Sender<u64>,
    reset: watch::Sender<u64>,
}

#[allow(clippy::disallowed_types)]
struct State(Mutex<Stage>);

/// How things are.
struct Stage {
    serving: HashSet<Colour>,
    announced: Option<String>,
    in_flight: InFlight,
    scope: SessionScope,
    style: RefusalStyle,
    suspended: Option<Suspension>,
    password: (String, String),
    sessions: HashMap<String, Option<Colour>>,
    queries: HashMap<String, Running>,
    mishaps: Vec<(&'static str, Mishap)>,
    rows: usize,
    rotates: bool,
    account: Account,
    next: u64,
}

/// A suspended cluster, and how often its status is asked before it is back.
struct Suspension {
    looks: Option<u32>,
    after: u32,
}

struct Running {
    colour: Option<Colour>,
    session: String,
    sql: String,
    executed: bool,
    given: usize,
}

impl E6dataServer {
    /// Starts on a free port of loopback: blue serves, green stands by.
    ///
    /// # Errors
    /// That of the socket.
    pub async fn start() -> io::Result<Self> {
        Self::listen(None).await
    }

    /// As [`E6dataServer::start`], by TLS, with this certificate and its key as PEM.
    ///
    /// # Errors
    /// That of the socket; `InvalidInput` for a certificate or a key that is none.
    pub async fn start_with_tls(cert: &str, key: &str) -> io::Result<Self> {
        let wrong = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(wrong)?;
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let chain = chain.unwrap_or_default();
                builder.with_no_client_auth().with_single_cert(chain, key)
            });
        let mut config = config.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self::listen(Some(Arc::new(config).into())).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: State::new(),
            latency: AtomicU64::new(0),
            stop: CancellationToken::new(),
            leave: watch::Sender::new(0),
            reset: watch::Sender::new(0),
        });
        let serving = shared.clone();
        tokio::spawn(async move {
            let stop = serving.stop.clone();
            let accepting = async {
                let mut connections = JoinSet::new();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            if let Ok((stream, _)) = accepted {
                                serving.stage().account.connections += 1;
                                let (shared, tls) = (serving.clone(), tls.clone());
                                connections.spawn(http::serve(shared, stream, tls));
                            }
                        }
                        Some(_) = connections.join_next() => {}
                    }
                }
            };
            stop.run_until_cancelled(accepting).await;
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whom it knows, and by which password. At first `user` and `password`.
    pub fn knows(&self, user: &str, password: &str) {
        self.shared.stage().password = (user.to_owned(), password.to_owned());
    }

    /// Which stacks serve from now on: one; both, as within a window; or none.
    pub fn serves(&self, colours: impl IntoIterator<Item = Colour>) {
        self.shared.stage().serving = colours.into_iter().collect();
    }

    /// Which stack every answer names as the one that serves; `None`: none is named.
    pub fn announces(&self, colour: Option<Colour>) {
        self.shared.stage().announced = colour.map(|colour| colour.as_str().to_owned());
    }

    /// What becomes of queries on a stack that does not serve any more.
    pub fn in_flight(&self, rule: InFlight) {
        self.shared.stage().in_flight = rule;
    }

    /// Which stack knows a session.
    pub fn session_scope(&self, scope: SessionScope) {
        self.shared.stage().scope = scope;
    }

    /// How a stack says that it does not serve.
    pub fn refusal_style(&self, style: RefusalStyle) {
        self.shared.stage().style = style;
    }

    /// Whether every answer goes on to another session.
    pub fn rotates_sessions(&self, on: bool) {
        self.shared.stage().rotates = on;
    }

    /// Forgets the sessions of a stack.
    pub fn expire_sessions(&self, of: Colour) {
        let mut stage = self.shared.stage();
        stage.sessions.retain(|_, colour| *colour != Some(of));
    }

    /// Suspends the cluster; once it has been asked to resume it is back after so many looks at its status.
    pub fn suspend(&self, looks: u32) {
        self.shared.stage().suspended = Some(Suspension {
            looks: None,
            after: looks,
        });
    }

    /// How many rows a statement has. At first 5, in batches of 2.
    pub fn rows(&self, rows: usize) {
        self.shared.stage().rows = rows;
    }

    /// How long it takes to answer. At first no time at all.
    pub fn latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.shared.latency.store(micros, Ordering::Relaxed);
    }

    /// What happens to the next rpc of this method, such as `executeStatementV2`. Several add up, in order.
    pub fn next(&self, method: &'static str, mishap: Mishap) {
        self.shared.stage().mishaps.push((method, mishap));
    }

    /// Asks every connection to leave (GOAWAY): streams that run go on, new ones are refused.
    pub fn goaway(&self) {
        self.shared.leave.send_modify(|epoch| *epoch += 1);
    }

    /// Resets every connection.
    pub fn reset(&self) {
        self.shared.reset.send_modify(|epoch| *epoch += 1);
    }

    /// What was asked and done.
    #[must_use]
    pub fn account(&self) -> Account {
        let stage = self.shared.stage();
        Account {
            open: stage.queries.len(),
            ..stage.account.clone()
        }
    }

    /// Forgets what was asked and done; queries and sessions stay.
    pub fn forget(&self) {
        self.shared.stage().account = Account::default();
    }
}

impl Drop for E6dataServer {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.reset();
    }
}

impl Account {
    /// Rpcs of a method, to whichever stack.
    #[must_use]
    pub fn rpcs_of(&self, method: &str) -> u64 {
        let all = self.rpcs.iter();
        all.filter(|((_, known), _)| *known == method)
            .map(|(_, count)| count)
            .sum()
    }

    /// All rpcs.
    #[must_use]
    pub fn all_rpcs(&self) -> u64 {
        self.rpcs.values().sum()
    }

    /// Statements that ran more than once.
    #[must_use]
    pub fn executed_twice(&self) -> usize {
        self.executed
            .values()
            .filter(|(times, _)| *times > 1)
            .count()
    }
}

impl Shared {
    #[allow(clippy::disallowed_types)]
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.latency.load(Ordering::Relaxed))
    }
}

impl State {
    #[allow(clippy::disallowed_types)]
    fn new() -> Self {
        Self(Mutex::new(Stage {
            serving: [Colour::Blue].into(),
            announced: None,
            in_flight: InFlight::default(),
            scope: SessionScope::default(),
            style: RefusalStyle::default(),
            suspended: None,
            password: ("user".to_owned(), "password".to_owned()),
            sessions: HashMap::new(),
            queries: HashMap::new(),
            mishaps: Vec::new(),
            rows: 5,
            rotates: false,
            account: Account::default(),
            next: 0,
        }))
    }
}

/// The columns of every result: a number, the number as text, and where it ran.
fn columns() -> Vec<Column> {
    vec![
        Column::new("n", ColumnType::Long),
        Column::new("name", ColumnType::String),
        Column::new("ran_on", ColumnType::String),
    ]
}

fn row(n: usize, colour: Option<Colour>) -> Vec<Value> {
    vec![
        Value::Long(n as i64),
        Value::Text(format!("row {n}")),
        colour.map_or(Value::Null, |colour| {
            Value::Text(colour.as_str().to_owned())
        }),
    ]
}
