//! One client connection and the upstream connection that serves it.

use std::future::pending;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::commands::{CommandLog, CommandReader};
use super::lane::{End, Gate, Head, Lane};
use super::network::Mode;
use super::{Counts, Faults, Shared, lock};

/// A connection through the proxy. Dropping it ends its task.
#[derive(Debug)]
pub(super) struct Link {
    id: u64,
    client: Arc<TcpStream>,
    upstream: Upstream,
    up: Lane,
    down: Lane,
    reader: CommandReader,
    wake: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum Upstream {
    None,
    Connecting,
    Connected(Arc<TcpStream>),
}

/// What a link's task does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Make the upstream connection.
    Connect,
    /// Bytes moved; look again after letting others run.
    Again,
    /// Nothing can move until one of these happens, or the link is woken.
    Wait(Wants),
    /// Both ends are over: close in peace.
    Close,
    /// End both sides with RST.
    Reset,
}

/// What would let bytes move again.
#[derive(Debug, Default)]
pub(super) struct Wants {
    client: Option<(Arc<TcpStream>, Interest)>,
    upstream: Option<(Arc<TcpStream>, Interest)>,
    due: Option<Instant>,
}

impl Link {
    pub(super) fn new(
        id: u64,
        client: TcpStream,
        wake: Arc<Notify>,
        task: AbortOnDropHandle<()>,
    ) -> Self {
        Self {
            id,
            client: Arc::new(prompt(client)),
            upstream: Upstream::None,
            up: Lane::default(),
            down: Lane::default(),
            reader: CommandReader::default(),
            wake,
            _task: task,
        }
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn serve(&mut self, upstream: TcpStream) {
        self.upstream = Upstream::Connected(Arc::new(prompt(upstream)));
    }

    /// Queues bytes behind the replies under way; `false` if there is no stream of replies.
    pub(super) fn inject(&mut self, bytes: &[u8], now: Instant) -> bool {
        let is_served = matches!(self.upstream, Upstream::Connected(_)) && !self.down.is_over();
        if is_served {
            self.down.push(bytes, now);
        }
        is_served
    }

    /// Ends both sides with RST: unsent bytes are dropped, and the peers see no orderly end.
    pub(super) fn reset(self) {
        let upstream = match &self.upstream {
            Upstream::Connected(upstream) => Some(upstream),
            Upstream::None | Upstream::Connecting => None,
        };
        for socket in [Some(&self.client), upstream].into_iter().flatten() {
            // Fails only on a socket that is already dead.
            let _ = SockRef::from(&**socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Notes whether `mode`, which ends now, kept back anything that was sent during it. The
    /// kernel is asked, not tokio: its readiness is as old as the reactor's last turn.
    pub(super) fn note_withheld(&mut self, mode: Mode) {
        let (up, down) = self.gates(mode);
        if !up.carries()
            && (self.up.has_undelivered() || (self.up.wants_more() && unread(&self.client)))
        {
            self.up.tear();
        }
        if let Upstream::Connected(upstream) = &self.upstream
            && !down.carries()
            && (self.down.has_undelivered() || (self.down.wants_more() && unread(upstream)))
        {
            self.down.tear();
        }
    }

    /// Whether `mode` would deliver bytes behind a gap.
    pub(super) fn is_torn(&self, mode: Mode) -> bool {
        let (up, down) = self.gates(mode);
        (self.up.is_torn() && up.carries()) || (self.down.is_torn() && down.carries())
    }

    /// Moves whatever may move now, without waiting.
    pub(super) fn step(
        &mut self,
        mode: Mode,
        faults: &mut Faults,
        counts: &mut Counts,
        log: &mut CommandLog,
        buffer: &mut [u8],
    ) -> Step {
        let now = Instant::now();
        let (up_gate, down_gate) = self.gates(mode);
        let upstream = match &self.upstream {
            Upstream::Connected(upstream) => Arc::clone(upstream),
            Upstream::Connecting => return Step::Wait(Wants::default()),
            Upstream::None if mode.unserved().is_none() => {
                self.upstream = Upstream::Connecting;
                return Step::Connect;
            }
            Upstream::None => return self.step_unserved(up_gate, buffer, now),
        };

        let mut up = take_in(&mut self.up, up_gate, &self.client, buffer, now);
        let mut down = take_in(&mut self.down, down_gate, &upstream, buffer, now);
        let pace = (faults.delay, faults.slice.map_or(usize::MAX, usize::from));
        if up_gate == Gate::Open {
            give_out(
                &mut self.up,
                &mut up,
                &upstream,
                pace,
                &mut faults.cut_up,
                now,
                |bytes| {
                    counts.bytes_up += bytes.len() as u64;
                    self.reader.read(self.id, bytes, counts, log);
                },
            );
        }
        if down_gate == Gate::Open {
            give_out(
                &mut self.down,
                &mut down,
                &self.client,
                pace,
                &mut faults.cut_down,
                now,
                |bytes| {
                    counts.bytes_down += bytes.len() as u64;
                },
            );
        }
        // A socket that cannot be written is dead. That is news for the other direction, where it
        // waits for its turn: no peer may learn it through a gate that is not open.
        if up.broken {
            self.up.swallow();
            self.down.source_died(now);
        }
        if down.broken {
            self.down.swallow();
            self.up.source_died(now);
        }

        if up.reset || down.reset {
            Step::Reset
        } else if self.up.is_over() && self.down.is_over() {
            Step::Close
        } else if up.moved || down.moved {
            Step::Again
        } else {
            Step::Wait(Wants {
                client: interest(up.readable, down.writable).map(|i| (Arc::clone(&self.client), i)),
                upstream: interest(down.readable, up.writable).map(|i| (upstream, i)),
                due: [up.due, down.due].into_iter().flatten().min(),
            })
        }
    }

    fn step_unserved(&mut self, gate: Gate, buffer: &mut [u8], now: Instant) -> Step {
        let up = take_in(&mut self.up, gate, &self.client, buffer, now);
        if self.up.is_over() {
            Step::Close
        } else if up.moved {
            Step::Again
        } else {
            Step::Wait(Wants {
                client: interest(up.readable, false).map(|i| (Arc::clone(&self.client), i)),
                ..Wants::default()
            })
        }
    }

    /// What requests and replies meet on this link.
    fn gates(&self, mode: Mode) -> (Gate, Gate) {
        match (&self.upstream, mode.unserved()) {
            (Upstream::None, Some(gate)) => (gate, Gate::Shut),
            _ => mode.gates(),
        }
    }
}

/// The task of link `id`: steps it, and waits between the steps. Every byte moves inside
/// `Network::step`, under the lock; this only knows when to try again.
pub(super) async fn carry(network: Arc<Shared>, id: u64, wake: Arc<Notify>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let step = lock(&network).step(id, &mut buffer);
        match step {
            Some(Step::Connect) => {
                let upstream = lock(&network).upstream();
                let connected = TcpStream::connect(upstream).await;
                lock(&network).connected(id, connected);
            }
            Some(Step::Again) => tokio::task::yield_now().await,
            Some(Step::Wait(wants)) => tokio::select! {
                () = wake.notified() => {}
                () = ready(&wants.client) => {}
                () = ready(&wants.upstream) => {}
                () = due(wants.due) => {}
            },
            Some(Step::Close | Step::Reset) | None => return,
        }
    }
}

/// How far one direction got in one step, and what it waits for.
#[derive(Default)]
struct Flow {
    /// Something changed, so another step may find more to do.
    moved: bool,
    readable: bool,
    writable: bool,
    due: Option<Instant>,
    broken: bool,
    reset: bool,
}

fn take_in(lane: &mut Lane, gate: Gate, from: &TcpStream, buffer: &mut [u8], now: Instant) -> Flow {
    let mut flow = Flow::default();
    if gate != Gate::Shut && lane.wants_more() {
        match from.try_read(buffer) {
            Ok(0) => lane.finish(End::Fin, now),
            Ok(count) => {
                lane.push(&buffer[..count], now);
                flow.moved = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => flow.readable = true,
            Err(_) => lane.finish(End::Reset, now),
        }
    }
    if gate == Gate::Drain {
        lane.swallow();
    }
    flow
}

fn give_out(
    lane: &mut Lane,
    flow: &mut Flow,
    to: &TcpStream,
    (delay, slice): (Duration, usize),
    cut: &mut Option<u64>,
    now: Instant,
    mut written: impl FnMut(&[u8]),
) {
    loop {
        let bytes = match lane.head(now, delay) {
            Head::Bytes(bytes) => bytes,
            Head::NotBefore(due) => {
                flow.due = Some(due);
                return;
            }
            Head::End(End::Fin) => {
                // Fails only if the destination is gone, which its own direction will find out.
                let _ = SockRef::from(to).shutdown(Shutdown::Write);
                lane.end_delivered();
                return;
            }
            Head::End(End::Reset) => {
                flow.reset = true;
                return;
            }
            Head::Nothing => return,
        };
        let budget = cut.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let most = bytes.len().min(slice).min(budget);
        let count = match most {
            0 => 0,
            _ => match to.try_write(&bytes[..most]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flow.writable = true;
                    return;
                }
                Err(_) => {
                    flow.broken = true;
                    flow.moved = true;
                    return;
                }
            },
        };
        written(&bytes[..count]);
        lane.advance(count);
        flow.moved = true;
        if let Some(left) = cut {
            *left -= count as u64;
            if *left == 0 {
                *cut = None;
                flow.reset = true;
                return;
            }
        }
        if count == slice {
            // One slice a step: the receiver gets a chance to read it by itself.
            return;
        }
    }
}

/// Whether the peer sent anything, its end included, that nobody read.
fn unread(socket: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    match SockRef::from(socket).peek(&mut byte) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Without Nagle's algorithm: a cut or a slice must leave at once and alone.
fn prompt(socket: TcpStream) -> TcpStream {
    // Fails only on a socket that is already dead.
    let _ = socket.set_nodelay(true);
    socket
}

fn interest(read: bool, write: bool) -> Option<Interest> {
    match (read, write) {
        (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
        (true, false) => Some(Interest::READABLE),
        (false, true) => Some(Interest::WRITABLE),
        (false, false) => None,
    }
}

async fn ready(want: &Option<(Arc<TcpStream>, Interest)>) {
    match want {
        // An error is found again, and dealt with, by the next step.
        Some((socket, interest)) => drop(socket.ready(*interest).await),
        None => pending().await,
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
