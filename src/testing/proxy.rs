//! A TCP proxy that breaks the network in front of a real server, on command.
//!
//! [`FaultProxy`] stands between a client and one server, in the test's own process. It needs no
//! privileges, and its faults are exact: every byte moves under one lock, so when a fault method
//! returns, the fault holds for every connection, old and new, and not one byte moves otherwise.
//! A connection to be reset is out of the game at once too; its RST leaves as soon as the runtime
//! turns to it.
//!
//! ```no_run
//! # use multidb::testing::proxy::FaultProxy;
//! # async fn example() -> std::io::Result<()> {
//! let proxy = FaultProxy::start("127.0.0.1:6379".parse().unwrap()).await?;
//! // Connect a client to `proxy.url()`, let it work, then:
//! proxy.lose_replies();
//! // Commands now run on the server, and the client never hears of them.
//! proxy.pass();
//! assert_eq!(proxy.counts().open, 0, "a connection that lost a reply cannot go on");
//! # Ok(())
//! # }
//! ```
//!
//! **A stream with a hole never continues.** TCP does not deliver around a gap, so neither does the
//! proxy: once bytes (or the end) of a connection were swallowed, the connection is reset as soon as
//! a later fault would let that direction flow again. Connections that lost nothing survive.
//!
//! What it cannot do: the kernel acknowledges what the proxy holds back, so a sender's
//! `TCP_USER_TIMEOUT` starts only when the socket buffers are full; and a dead upstream shows as
//! "connected, then reset", because the client's connect has already succeeded by then. Use
//! [`refuse`](FaultProxy::refuse) for a refused connect.

mod commands;
mod lane;
mod link;
mod network;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

pub use commands::SeenCommand;
use network::{Mode, Network};

/// A TCP proxy on 127.0.0.1 whose faults are set at run time. See the [module](self).
///
/// There is one *mode* at a time ([`pass`](Self::pass), [`black_hole`](Self::black_hole),
/// [`hold`](Self::hold), [`lose_replies`](Self::lose_replies),
/// [`lose_requests`](Self::lose_requests), [`refuse`](Self::refuse),
/// [`accept_and_hang`](Self::accept_and_hang)) and, on top of it, [`delay`](Self::delay),
/// [`slice`](Self::slice) and the two cuts. `pass()` clears them all.
///
/// The methods are synchronous and may be called from any thread. Dropping the proxy closes the
/// port and resets every connection.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    network: Arc<Shared>,
    _acceptor: AbortOnDropHandle<()>,
}

/// What went through a [`FaultProxy`] since it started: a witness that is neither the client nor
/// the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Client connections accepted.
    pub accepted: u64,
    /// Client connections the proxy holds now, silent ones included.
    pub open: u64,
    /// Client connections the proxy ended with a reset: by a fault, because the upstream could not
    /// be reached, or to pass on a reset.
    pub resets: u64,
    /// Bytes handed to the upstream's sockets.
    pub bytes_up: u64,
    /// Bytes handed to the clients' sockets, injected ones included.
    pub bytes_down: u64,
    /// Complete commands handed to the upstream: what the server can have executed, at most.
    /// A command counts when its last byte is handed over.
    pub commands: u64,
    /// Connections that sent upstream something that is not RESP. Their commands stopped counting
    /// at that point.
    pub garbled: u64,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything to `upstream`, without any fault.
    ///
    /// The upstream is connected once per client connection; it need not be up yet.
    ///
    /// # Errors
    /// No port could be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let (network, addr) = Network::start(upstream)?;
        let acceptor = tokio::spawn(network::accept(Arc::clone(&network)));
        Ok(Self {
            addr,
            network,
            _acceptor: AbortOnDropHandle::new(acceptor),
        })
    }

    /// The address to connect to; the same for the proxy's whole life.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address as `redis://127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.addr)
    }

    /// Heals the network: no fault of any kind, what was held is delivered, a refused port listens
    /// again. Connections that lost bytes or their end to a fault are reset.
    ///
    /// # Panics
    /// If the port was refused and cannot be opened again. (On Linux it stays reserved.)
    pub fn pass(&self) {
        let mut network = lock(&self.network);
        network.faults = Faults::default();
        network.enter(Mode::Pass);
    }

    /// Silence: nothing moves, in either direction, on any connection, and nothing ends.
    /// New connections are accepted and hear nothing; no upstream connection is made for them.
    ///
    /// What is sent meanwhile, and what was under way, is never delivered.
    pub fn black_hole(&self) {
        lock(&self.network).enter(Mode::BlackHole);
    }

    /// Keeps all bytes, both directions, and delivers them in order after
    /// [`release`](Self::release): how a command abandoned by its client still runs later.
    ///
    /// At most 1 MiB per connection and direction is kept; then the sender meets back-pressure.
    pub fn hold(&self) {
        lock(&self.network).enter(Mode::Hold);
    }

    /// Ends [`hold`](Self::hold) and delivers what it kept; delay, slice and cuts stay as they are.
    /// Does nothing in any other mode.
    pub fn release(&self) {
        let mut network = lock(&self.network);
        if network.mode() == Mode::Hold {
            network.enter(Mode::Pass);
        }
    }

    /// Requests reach the upstream, replies are discarded, and so is the upstream's end of a
    /// connection: commands run and nobody hears of it.
    pub fn lose_replies(&self) {
        lock(&self.network).enter(Mode::LoseReplies);
    }

    /// Requests are discarded, and so is the client's end of a connection; what the upstream sends
    /// still arrives.
    pub fn lose_requests(&self) {
        lock(&self.network).enter(Mode::LoseRequests);
    }

    /// Resets every connection and closes the listener: connecting fails with `ECONNREFUSED` until
    /// the next mode, on the same port.
    pub fn refuse(&self) {
        lock(&self.network).enter(Mode::Refuse);
    }

    /// New connections are accepted, read and never answered; no upstream connection is made for
    /// them. Connections that exist go on undisturbed.
    pub fn accept_and_hang(&self) {
        lock(&self.network).enter(Mode::AcceptAndHang);
    }

    /// Delivers every byte `each_way` after it arrived, so that a round trip takes twice that
    /// longer. Applies to bytes under way too. Zero is the default.
    ///
    /// Connecting is not delayed: the kernel accepts by itself.
    pub fn delay(&self, each_way: Duration) {
        lock(&self.network).set(|faults| faults.delay = each_way);
    }

    /// Writes at most `bytes` at a time, each direction. The receiver sees the pieces one by one
    /// only if it reads as fast as they come. Zero means no limit, which is the default.
    pub fn slice(&self, bytes: usize) {
        lock(&self.network).set(|faults| faults.slice = NonZeroUsize::new(bytes));
    }

    /// Lets exactly `bytes` more bytes reach the clients, counted over all connections, and resets
    /// the connection that carries the last of them (with 0: the one that would carry the next).
    /// Happens once; other connections go on.
    pub fn cut_replies_after(&self, bytes: u64) {
        lock(&self.network).set(|faults| faults.cut_down = Some(bytes));
    }

    /// The same for bytes towards the upstream: its last command arrives incomplete.
    pub fn cut_requests_after(&self, bytes: u64) {
        lock(&self.network).set(|faults| faults.cut_up = Some(bytes));
    }

    /// Resets every connection of this moment, both sides, and says how many. Not a mode: new
    /// connections are treated as before.
    pub fn reset_all(&self) -> usize {
        lock(&self.network).reset_all()
    }

    /// Sends `bytes` to every client whose upstream is connected and has not ended, behind what is already on its
    /// way, and says to how many. The mode, delay and cuts apply to them like to a reply.
    ///
    /// The proxy does not parse replies: one that the upstream sends in several pieces may be
    /// interrupted by the injected bytes.
    pub fn inject(&self, bytes: &[u8]) -> usize {
        lock(&self.network).inject(bytes)
    }

    /// What went through so far.
    pub fn counts(&self) -> Counts {
        lock(&self.network).counts()
    }

    /// From now on, remembers the first `limit` complete commands handed to the upstream; an
    /// earlier log is forgotten. Zero, the default, remembers none.
    ///
    /// Of each command the first 16 arguments are kept, and of each argument the first 256 bytes.
    pub fn log_commands(&self, limit: usize) {
        lock(&self.network).log_commands(limit);
    }

    /// The commands remembered since [`log_commands`](Self::log_commands), in the order they were
    /// handed over.
    pub fn commands(&self) -> Vec<SeenCommand> {
        lock(&self.network).commands()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The links' tasks share the network with us, so it would not end by itself.
        lock(&self.network).enter(Mode::Refuse);
    }
}

/// The faults that combine with any mode.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    delay: Duration,
    slice: Option<NonZeroUsize>,
    cut_up: Option<u64>,
    cut_down: Option<u64>,
}

/// One lock for everything, because a fault is exact only if no byte moves beside it. Nothing is
/// awaited under it, and it is taken from methods that are not async.
#[allow(clippy::disallowed_types, reason = "never held across an await")]
type Shared = std::sync::Mutex<Network>;

/// A panic under the lock can only be a bug of the proxy; it must not hide behind a second panic
/// in the test's `Drop`.
fn lock(network: &Shared) -> MutexGuard<'_, Network> {
    network.lock().unwrap_or_else(PoisonError::into_inner)
}
