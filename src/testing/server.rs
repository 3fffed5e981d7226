//! An in-process database that speaks Redis's protocol, with faults at the push of a button.
//!
//! [`Server`] is what demos and tests use instead of a real Redis: it answers as Redis 7.0 does,
//! byte for byte, and can be [killed](Server::kill), [hung](Server::hang), cut off by a
//! [black hole](Server::black_hole), made [read-only](Server::read_only) and more, at once and at
//! will. Its [`Storage`] survives all of that and can be read at any time, which tells what was
//! really executed whatever the client was told.
//!
//! ```
//! # use multidb::testing::server::Server;
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let server = Server::start().await?;
//! println!("a client can connect to {}", server.url());
//!
//! server.kill();
//! assert!(tokio::net::TcpStream::connect(server.addr()).await.is_err());
//! assert_eq!(server.storage().list("orders"), Vec::<Vec<u8>>::new());
//!
//! server.revive().await?;
//! assert!(tokio::net::TcpStream::connect(server.addr()).await.is_ok());
//! # std::io::Result::Ok(())
//! # }).unwrap();
//! ```
//!
//! Scripts are not part of it: `EVAL`, `FCALL`, `SCRIPT` and `FUNCTION`
//! answer `ERR this in-process server runs no scripts`, and `EVALSHA` that it knows none of that
//! name, as Redis does.

mod client;
mod commands;
mod connection;
mod database;
mod extended;
mod process;
mod resp;
mod session;
mod sorted_set;
mod storage;
mod stream;
mod subscriptions;
#[cfg(test)]
mod tests;
mod users;
mod waiting;

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep};

pub use client::Client;
use connection::Connection;
use process::{Ending, Pause, Port, Process, Shared};
pub use sorted_set::SortedSet;
pub use storage::{Storage, Value};
pub use stream::Stream;
use users::{User, Users};
use waiting::Served;

/// A running in-process database. Dropping it ends its connections and its tasks.
///
/// Every fault takes effect before its setter returns: nothing it forbids is executed afterwards.
/// Connections notice as soon as the runtime lets them.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

/// What a server is started with.
///
/// By default it takes any free port of 127.0.0.1, is empty, asks for no password and is named
/// `server`.
#[derive(Clone, Debug)]
pub struct Builder {
    port: u16,
    storage: Storage,
    password: Option<String>,
    users: Vec<(String, String)>,
    name: String,
}

/// Where connections are made to a [`Server`] without a socket.
///
/// A clone is another way to the same server. It does not keep the server running.
#[derive(Clone, Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

// === impl Builder ===

impl Builder {
    /// The port of 127.0.0.1 to listen on; 0, the default, is any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The data to serve.
    #[must_use]
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// What `AUTH` must say, as Redis's `requirepass`.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Adds a user with this password who may do everything, as `ACL SETUSER name on >password ~* &*
    /// +@all`; `ACL SETUSER` can forbid it something afterwards.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// A name for people: shown by `INFO server` and by [`Server::name`].
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Starts listening.
    ///
    /// # Errors
    ///
    /// The port is taken, or sockets are not to be had.
    pub async fn start(self) -> io::Result<Server> {
        let port = self.port;
        let server = self.in_memory();
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        listen(&server.shared, &mut server.shared.process(), socket)?;
        Ok(server)
    }

    /// A server without a port: it is reached by its [`Endpoint`] only.
    ///
    /// It needs no network and lives by the runtime's clock, so that a test on a paused clock can
    /// pass hours in no time.
    #[must_use]
    pub fn in_memory(self) -> Server {
        let mut users = Users::new(self.password.as_deref());
        for (name, password) in self.users {
            let mut user = User::powerful();
            user.passwords.insert(password.into());
            users.set(&name, user);
        }
        let shared = Shared::new(self.name, self.password, users, self.storage);
        Server {
            shared: Arc::new(shared),
        }
    }
}

// === impl Server ===

impl Server {
    /// Starts an empty server on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// Sockets are not to be had.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// An empty server without a port; see [`Builder::in_memory`].
    #[must_use]
    pub fn in_memory() -> Self {
        Self::builder().in_memory()
    }

    /// A server with other than the default settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            port: 0,
            storage: Storage::new(),
            password: None,
            users: Vec::new(),
            name: "server".to_owned(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its data, which outlives it.
    #[must_use]
    pub fn storage(&self) -> Storage {
        self.shared.storage.clone()
    }

    /// Where it listens, or will when revived; port 0 in memory.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.shared.process().address
    }

    /// The address as a URL, `redis://127.0.0.1:PORT/`, with the password if there is one.
    #[must_use]
    pub fn url(&self) -> String {
        let addr = self.addr();
        match &self.shared.password {
            Some(password) => format!("redis://:{}@{addr}/", percent_encoded(password)),
            None => format!("redis://{addr}/"),
        }
    }

    /// As [`url`](Self::url), asking the client to speak RESP3.
    #[must_use]
    pub fn url_resp3(&self) -> String {
        format!("{}?protocol=resp3", self.url())
    }

    /// Where to connect without a socket; works for a listening server too.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            shared: Arc::clone(&self.shared),
        }
    }

    // --- The process ---

    /// Kills the server, as `kill -9` on a host that stays up: every connection is reset, and
    /// new ones are refused. Its port stays reserved, its storage stays as it is.
    pub fn kill(&self) {
        let mut process = self.shared.process();
        if !process.alive {
            return;
        }
        process.alive = false;
        process.doom_all(Ending::Reset);
        self.forget_waiters();
        if let Port::Listening(listener, accepting) =
            std::mem::replace(&mut process.port, Port::None)
        {
            accepting.abort();
            drop(listener);
            // Should the port be lost to somebody else, revive says so.
            if let Ok(socket) = bind(process.address) {
                process.port = Port::Held(socket);
            }
        }
    }

    /// Starts a killed server again: same port, same storage, no connections. Nothing happens to
    /// one that is running.
    ///
    /// What was wrong with the old process is over ([hang](Self::hang), [pause](Self::pause));
    /// what is wrong with the network, the data or the settings stays until it is switched off.
    ///
    /// # Errors
    ///
    /// The port could not be had back. The server is then as dead as before.
    pub async fn revive(&self) -> io::Result<()> {
        let mut process = self.shared.process();
        if process.alive {
            return Ok(());
        }
        if process.address.port() != 0 {
            let socket = match std::mem::replace(&mut process.port, Port::None) {
                Port::Held(socket) => socket,
                Port::None | Port::Listening(..) => bind(process.address)?,
            };
            listen(&self.shared, &mut process, socket)?;
        }
        process.alive = true;
        process.lives += 1;
        process.started = Instant::now();
        process.faults.hung = false;
        process.pause = None;
        Ok(())
    }

    /// Stops the server as `SIGSTOP` does: connections are still made, nothing is read, executed
    /// or answered.
    pub fn hang(&self) {
        self.set(|process| process.faults.hung = true);
    }

    /// Ends a [hang](Self::hang): what was sent meanwhile is executed now.
    pub fn resume(&self) {
        self.set(|process| process.faults.hung = false);
    }

    /// Resets every connection and goes on serving.
    pub fn kill_connections(&self) {
        self.set(|process| {
            process.doom_all(Ending::Reset);
            self.forget_waiters();
        });
    }

    /// Lets every command wait for so long, as `CLIENT PAUSE` does; zero ends a pause.
    pub fn pause(&self, duration: Duration) {
        self.set(|process| {
            process.pause = Instant::now()
                .checked_add(duration)
                .filter(|_| !duration.is_zero())
                .map(|until| Pause {
                    until,
                    writes_only: false,
                });
        });
    }

    // --- The network ---

    /// Cuts the server off without a sign: nothing arrives in either direction, established
    /// connections are silent, and so are the new ones, which are still accepted. What is sent
    /// into the hole is never executed.
    pub fn black_hole(&self) {
        self.set(|process| {
            if !process.faults.black_hole {
                process.faults.black_hole = true;
                process.faults.holes += 1;
            }
        });
    }

    /// Ends a [black hole](Self::black_hole): connections that have lost bytes in it are reset,
    /// all others go on.
    pub fn heal(&self) {
        self.set(|process| process.faults.black_hole = false);
    }

    /// Whether replies are lost: commands are executed and never answered. Connections that have
    /// lost a reply are reset when it is switched off.
    pub fn lose_replies(&self, lose: bool) {
        self.set(|process| process.faults.lose_replies = lose);
    }

    /// Delays every reply by so much. Their order is kept; nothing else is held up.
    pub fn latency(&self, latency: Duration) {
        // A limit nobody reaches keeps the arithmetic of deadlines simple.
        self.set(|process| process.faults.latency = latency.min(LONGEST_LATENCY));
    }

    /// Cuts the next reply, whoever gets it, after so many bytes and resets that connection. The
    /// command is executed.
    pub fn cut_after(&self, bytes: usize) {
        self.set(|process| process.faults.cut_after = Some(bytes));
    }

    // --- The database ---

    /// Whether the server is still loading its data: every command but those about the connection
    /// and the server itself is answered `-LOADING`, `PING` included.
    pub fn loading(&self, loading: bool) {
        self.set(|process| process.faults.loading = loading);
    }

    /// Whether the server is a replica: writes are answered `-READONLY`, reads and `PING` as
    /// ever. As at Redis, clients blocked on a list are sent away with `-UNBLOCKED`.
    pub fn read_only(&self, read_only: bool) {
        self.set(|process| process.faults.read_only = read_only);
        if read_only {
            self.send_waiters_away();
        }
    }

    /// Whether memory is full: what may need more is answered `-OOM`.
    pub fn out_of_memory(&self, out_of_memory: bool) {
        self.set(|process| process.faults.out_of_memory = out_of_memory);
    }

    /// The error that answers every write, such as `NOREPLICAS Not enough good replicas to
    /// write.`; `None` lets them pass again. A `MISCONF` answers `PING` too, as at Redis.
    pub fn refuse_writes(&self, error: Option<&str>) {
        let refusal = error.map(|error| error.strip_prefix('-').unwrap_or(error).to_owned());
        self.set(|process| process.faults.refusal = refusal);
    }

    // --- Observation ---

    /// How many commands have been executed, in all its lives. A transaction counts as `MULTI`,
    /// `EXEC` and what was executed in it; a refused command does not count.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.shared.process().commands
    }

    /// How many connections there are now.
    #[must_use]
    pub fn connections(&self) -> usize {
        let process = self.shared.process();
        let alive = process.clients.values().filter(|c| c.doom.is_none());
        alive.count()
    }

    /// The connections there are now, the oldest first, each to be broken alone.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        Client::all(&self.shared)
    }

    /// Whether executed commands are written to the [log](Self::log); at first they are not.
    pub fn record(&self, record: bool) {
        self.set(|process| process.recording = record);
    }

    /// The commands executed while [recording](Self::record), with their arguments, oldest first:
    /// the latest 100 000 of them.
    #[must_use]
    pub fn log(&self) -> Vec<Vec<Vec<u8>>> {
        self.shared.process().log.iter().cloned().collect()
    }

    fn set(&self, change: impl FnOnce(&mut Process)) {
        let mut process = self.shared.process();
        change(&mut process);
        process.ring();
    }

    fn forget_waiters(&self) {
        self.shared.storage.lock().forget(self.shared.id, None);
    }

    fn send_waiters_away(&self) {
        for database in &mut self.shared.storage.lock().databases {
            for waiter in database.waiting.remove_all(self.shared.id, None) {
                // A connection that has just ended needs no answer.
                let _ = waiter.reply.send(Served {
                    reply: UNBLOCKED.to_vec(),
                    close: true,
                });
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        self.shared.process().port = Port::None;
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A new connection to the server, over memory.
    ///
    /// # Errors
    ///
    /// Refused while the server is killed.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = duplex(BUFFER);
        if self.attach(far) {
            Ok(near)
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    /// Serves a stream as one more connection, until either side ends it; `false`, and the stream
    /// is dropped, while the server is killed. Where a socket would be reset, it is dropped too.
    ///
    /// The stream must not hold written bytes back: it is never flushed.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn attach<S>(&self, stream: S) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match Connection::open(&self.shared, stream, None) {
            Ok(connection) => {
                tokio::spawn(connection.serve());
                true
            }
            Err(_) => false,
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // A port whose connections have just ended is free again at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(shared: &Arc<Shared>, process: &mut Process, socket: TcpSocket) -> io::Result<()> {
    let listener = socket.listen(BACKLOG)?;
    process.address = listener.local_addr()?;
    let accepting = tokio::spawn(accept(Arc::clone(shared))).abort_handle();
    process.port = Port::Listening(listener, accepting);
    Ok(())
}

/// Accepts connections for as long as there is a listener. That stays with the process, so that
/// a kill closes it at once instead of when this task is next scheduled.
async fn accept(shared: Arc<Shared>) {
    loop {
        let accepted = poll_fn(|cx| match &shared.process().port {
            Port::Listening(listener, _) => listener.poll_accept(cx).map(Some),
            Port::None | Port::Held(_) => Poll::Ready(None),
        });
        match accepted.await {
            None => return,
            Some(Ok((stream, peer))) => serve(&shared, stream, peer),
            // Out of descriptors, most likely: some will come back.
            Some(Err(_)) => sleep(Duration::from_millis(10)).await,
        }
    }
}

fn serve(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    // Only the time of a reply depends on it.
    let _ = stream.set_nodelay(true);
    match Connection::open(shared, stream, Some(peer)) {
        Ok(connection) => {
            tokio::spawn(async move {
                let (stream, ending) = connection.serve().await;
                end(stream, ending);
            });
        }
        Err(stream) => end(stream, Ending::Reset),
    }
}

fn end(stream: TcpStream, ending: Ending) {
    if ending == Ending::Reset {
        // Where it cannot be set, the peer sees an end of file: as final.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

const BACKLOG: u32 = 1024;
const LONGEST_LATENCY: Duration = Duration::from_secs(365 * 24 * 3600);
/// What an in-memory connection holds in each direction before its writer has to wait.
const BUFFER: usize = 64 * 1024;
const UNBLOCKED: &[u8] = b"-UNBLOCKED force unblock from blocking operation, instance state \
changed (master -> replica?)\r\n";
