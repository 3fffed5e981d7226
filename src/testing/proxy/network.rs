//! Everything the proxy knows, under one lock: the mode, the listener and the connections.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::commands::CommandLog;
use super::lane::Gate;
use super::link::{self, Link, Step};
use super::{Counts, Faults, SeenCommand, Shared, lock};

/// What the network does to all connections. See the methods of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Pass,
    BlackHole,
    Hold,
    LoseReplies,
    LoseRequests,
    Refuse,
    AcceptAndHang,
}

impl Mode {
    /// What an established connection's requests and replies meet.
    pub(super) fn gates(self) -> (Gate, Gate) {
        match self {
            Mode::Pass | Mode::AcceptAndHang | Mode::Refuse => (Gate::Open, Gate::Open),
            Mode::BlackHole => (Gate::Shut, Gate::Shut),
            Mode::Hold => (Gate::Held, Gate::Held),
            Mode::LoseReplies => (Gate::Open, Gate::Drain),
            Mode::LoseRequests => (Gate::Drain, Gate::Open),
        }
    }

    /// What a client's bytes meet while there is no upstream connection for it, if none is to be
    /// made either.
    pub(super) fn unserved(self) -> Option<Gate> {
        match self {
            Mode::BlackHole => Some(Gate::Shut),
            Mode::AcceptAndHang => Some(Gate::Drain),
            Mode::Pass | Mode::Hold | Mode::LoseReplies | Mode::LoseRequests | Mode::Refuse => None,
        }
    }
}

/// The state of a proxy. Its methods do no waiting: sockets are only ever *tried* under the lock.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) faults: Faults,
    mode: Mode,
    addr: SocketAddr,
    upstream: SocketAddr,
    listener: Option<TcpListener>,
    _reserved: Option<Socket>,
    links: BTreeMap<u64, Link>,
    counts: Counts,
    log: CommandLog,
    relisten: Arc<Notify>,
    runtime: Handle,
    this: Weak<Shared>,
}

impl Network {
    pub(super) fn start(upstream: SocketAddr) -> io::Result<(Arc<Shared>, SocketAddr)> {
        let (reserved, addr) = reserve_port()?;
        let listener = listen(addr)?;
        let addr = listener.local_addr()?;
        let network = Arc::new_cyclic(|this| {
            Shared::new(Self {
                faults: Faults::default(),
                mode: Mode::Pass,
                addr,
                upstream,
                listener: Some(listener),
                _reserved: reserved,
                links: BTreeMap::new(),
                counts: Counts::default(),
                log: CommandLog::default(),
                relisten: Arc::new(Notify::new()),
                runtime: Handle::current(),
                this: this.clone(),
            })
        });
        Ok((network, addr))
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Changes the mode for every connection, including those the kernel has accepted and we have
    /// not: what they sent so far belongs to the old mode.
    pub(super) fn enter(&mut self, mode: Mode) {
        self.accept_backlog();
        let old = std::mem::replace(&mut self.mode, mode);
        if mode == Mode::Refuse {
            self.listener = None;
            self.reset_all();
        } else {
            let torn = self.links.iter_mut().filter_map(|(id, link)| {
                link.note_withheld(old);
                link.is_torn(mode).then_some(*id)
            });
            for id in torn.collect::<Vec<_>>() {
                self.reset(id);
            }
            self.ensure_listening();
        }
        self.wake_all();
    }

    /// Changes the faults that combine with the mode.
    pub(super) fn set(&mut self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults);
        self.wake_all();
    }

    pub(super) fn reset_all(&mut self) -> usize {
        self.accept_backlog();
        let links = std::mem::take(&mut self.links);
        self.counts.resets += links.len() as u64;
        let count = links.len();
        links.into_values().for_each(Link::reset);
        count
    }

    pub(super) fn inject(&mut self, bytes: &[u8]) -> usize {
        let now = Instant::now();
        let mut reached = 0;
        for link in self.links.values_mut() {
            reached += usize::from(link.inject(bytes, now));
        }
        self.wake_all();
        reached
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            open: self.links.len() as u64,
            ..self.counts
        }
    }

    pub(super) fn log_commands(&mut self, limit: usize) {
        self.log = CommandLog::new(limit);
    }

    pub(super) fn commands(&self) -> Vec<SeenCommand> {
        self.log.seen.clone()
    }

    /// Moves on link `id` whatever may move now. A link that ended is gone afterwards.
    pub(super) fn step(&mut self, id: u64, buffer: &mut [u8]) -> Option<Step> {
        let link = self.links.get_mut(&id)?;
        let step = link.step(
            self.mode,
            &mut self.faults,
            &mut self.counts,
            &mut self.log,
            buffer,
        );
        match step {
            Step::Close => drop(self.links.remove(&id)),
            Step::Reset => self.reset(id),
            Step::Connect | Step::Again | Step::Wait(_) => return Some(step),
        }
        None
    }

    /// Hands link `id` its upstream connection, or the failure to get one.
    pub(super) fn connected(&mut self, id: u64, upstream: io::Result<TcpStream>) {
        match upstream {
            Ok(stream) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.serve(stream);
                }
            }
            Err(_) => self.reset(id),
        }
    }

    pub(super) fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    fn reset(&mut self, id: u64) {
        if let Some(link) = self.links.remove(&id) {
            self.counts.resets += 1;
            link.reset();
        }
    }

    fn wake_all(&self) {
        for link in self.links.values() {
            link.wake();
        }
    }

    /// Accepts what the reactor has not told us about yet, by asking the kernel itself.
    fn accept_backlog(&mut self) {
        let runtime = self.runtime.clone();
        let _context = runtime.enter();
        while let Some(listener) = &self.listener
            && let Ok((socket, _)) = SockRef::from(listener).accept()
        {
            // A socket that fails here is closed by the error, as if it had never been accepted.
            if socket.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(socket.into())
            {
                self.adopt(stream);
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(listener) = &self.listener {
            match ready!(listener.poll_accept(cx)) {
                Ok((stream, _)) => self.adopt(stream),
                // A connection that died in the backlog, or too many open files. Let others run,
                // then look again.
                Err(_) => {
                    cx.waker().wake_by_ref();
                    break;
                }
            }
        }
        Poll::Pending
    }

    fn adopt(&mut self, client: TcpStream) {
        let Some(network) = self.this.upgrade() else {
            return;
        };
        let id = self.counts.accepted;
        self.counts.accepted += 1;
        let wake = Arc::new(Notify::new());
        let task = self
            .runtime
            .spawn(link::carry(network, id, Arc::clone(&wake)));
        let link = Link::new(id, client, wake, AbortOnDropHandle::new(task));
        self.links.insert(id, link);
    }

    fn ensure_listening(&mut self) {
        if self.listener.is_none() {
            let _context = self.runtime.enter();
            match listen(self.addr) {
                Ok(listener) => self.listener = Some(listener),
                Err(error) => panic!("cannot listen on {} again: {error}", self.addr),
            }
            self.relisten.notify_one();
        }
    }
}

/// Accepts connections for as long as the proxy lives, through any number of listeners.
pub(super) async fn accept(network: Arc<Shared>) {
    let relisten = Arc::clone(&lock(&network).relisten);
    loop {
        // Accepting and adopting happen under the same lock, so no connection is ever in between
        // when the mode changes.
        tokio::select! {
            () = relisten.notified() => {}
            () = std::future::poll_fn(|cx| lock(&network).poll_accept(cx)) => {}
        }
    }
}

/// A free port, kept for us while no listener is open: a socket that is bound and never listens
/// refuses connections, and nobody else is given its port. Only Linux lets a listener share the
/// port with it; elsewhere the listener chooses the port and asks for it again after a refusal.
fn reserve_port() -> io::Result<(Option<Socket>, SocketAddr)> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    if !cfg!(target_os = "linux") {
        return Ok((None, any));
    }
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&any.into())?;
    let addr = socket.local_addr()?.as_socket().unwrap_or(any);
    Ok((Some(socket), addr))
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
