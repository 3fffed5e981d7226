//! A network in memory, on a paused clock: every byte's way can be closed, slowed or cut.
//!
//! It behaves as TCP does: what cannot pass waits, and is delivered once it can, unless its sender
//! has ended the connection meanwhile ([`Gate::Shut`]). A network that keeps packets for itself
//! delivers even those ([`Gate::Held`]).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::MultiDbClient;
use multidb::engine::backend::Wiring;
use multidb::engine::builder::Builder;
use multidb::redis::{Connector, Redis, RedisEndpoint, Transport};
use multidb::testing::server::Server;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf,
    duplex, split,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::deaf::Deafener;
use crate::history::{Found, History};
use crate::plan::{Fault, Plan, ms};
use crate::scene::{World, live};

/// Lives through the disaster of a seed.
pub(crate) fn run(seed: u64) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let plan = Plan::draw(seed);
        let world = Memory::new(&plan);
        live(plan, world).await
    })
}

struct Memory {
    places: Vec<Place>,
    flapping: std::cell::RefCell<Vec<(usize, JoinHandle<()>)>>,
}

struct Place {
    server: Rc<Server>,
    road: Road,
}

/// The way to one server; clones are the same.
#[derive(Clone)]
struct Road {
    name: &'static str,
    to: multidb::testing::server::Endpoint,
    state: Arc<Sign<State>>,
    deafener: Deafener,
}

#[derive(Clone, Copy)]
struct State {
    up: Gate,
    down: Gate,
    /// Each way.
    delay: Duration,
    /// Connections made before the latest cut are dead.
    cuts: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Nothing passes. A sender that leaves takes with it what has not passed.
    Shut,
    /// Nothing passes now, and all of it later.
    Held,
}

impl Memory {
    fn new(plan: &Plan) -> Self {
        let place = |name| {
            let server = Rc::new(Server::in_memory());
            let road = Road {
                name,
                to: server.endpoint(),
                deafener: Deafener::default(),
                state: Sign::new(State {
                    up: Gate::Open,
                    down: Gate::Open,
                    delay: Duration::ZERO,
                    cuts: 0,
                }),
            };
            Place { server, road }
        };
        Self {
            places: plan.members.iter().map(|m| place(m.name)).collect(),
            flapping: std::cell::RefCell::default(),
        }
    }
}

impl World for Memory {
    fn builder(&self) -> Builder<Redis> {
        let roads = self.places.iter().map(|place| place.road.clone());
        MultiDbClient::builder().connector(Roads(roads.collect()))
    }

    fn break_it(&self, member: usize, fault: Fault) {
        let Place { server, road } = &self.places[member];
        let set = |change: fn(&mut State)| road.state.change(change);
        match fault {
            Fault::Kill => server.kill(),
            Fault::Hang => server.hang(),
            Fault::Loading => server.loading(true),
            Fault::ReadOnly => server.read_only(true),
            Fault::OutOfMemory => server.out_of_memory(true),
            Fault::Misconf => server.refuse_writes(Some("MISCONF Errors writing to the disk.")),
            Fault::Partition => set(|s| (s.up, s.down) = (Gate::Shut, Gate::Shut)),
            Fault::LoseRequests => set(|s| s.up = Gate::Shut),
            Fault::LoseReplies => set(|s| s.down = Gate::Shut),
            Fault::Hold => set(|s| (s.up, s.down) = (Gate::Held, Gate::Held)),
            Fault::Slow(by) => road.state.change(|s| s.delay = ms(by)),
            Fault::Reset => set(|s| s.cuts += 1),
            Fault::CutReply(after) => server.cut_after(after),
            Fault::Deafen => road.deafener.deafen(),
            Fault::Flap => {
                let server = server.clone();
                let flapping = tokio::task::spawn_local(async move {
                    loop {
                        server.kill();
                        sleep(ms(70)).await;
                        server.revive().await.expect("no port to lose");
                        sleep(ms(130)).await;
                    }
                });
                self.flapping.borrow_mut().push((member, flapping));
            }
        }
    }

    fn mend(&self, member: usize, fault: Fault) {
        let Place { server, road } = &self.places[member];
        match fault {
            Fault::Kill => revive(server),
            Fault::Hang => server.resume(),
            Fault::Loading => server.loading(false),
            Fault::ReadOnly => server.read_only(false),
            Fault::OutOfMemory => server.out_of_memory(false),
            Fault::Misconf => server.refuse_writes(None),
            Fault::Partition | Fault::LoseRequests | Fault::LoseReplies | Fault::Hold => {
                let open = |state: &mut State| (state.up, state.down) = (Gate::Open, Gate::Open);
                road.state.change(open);
            }
            Fault::Slow(_) => road.state.change(|state| state.delay = Duration::ZERO),
            Fault::Flap => {
                self.flapping.borrow_mut().retain(|(flapping, task)| {
                    if *flapping == member {
                        task.abort();
                    }
                    *flapping != member
                });
                revive(server);
            }
            Fault::Reset | Fault::CutReply(_) | Fault::Deafen => {}
        }
    }

    fn open(&self) -> usize {
        let places = self.places.iter();
        places.map(|place| place.road.deafener.open()).sum()
    }

    fn served(&self) -> usize {
        self.places.iter().map(|p| p.server.connections()).sum()
    }

    fn found(&self, member: usize) -> Found {
        Found::in_storage(&self.places[member].server.storage())
    }

    fn precision(&self) -> Duration {
        // The runtime's timers count milliseconds.
        ms(1)
    }
}

fn revive(server: &Server) {
    let revived = server.revive().now_or_never();
    revived
        .expect("nothing to wait for")
        .expect("no port to lose");
}

// === connections ===

struct Roads(Vec<Road>);

impl Connector for Roads {
    fn connect<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
        wiring: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let road = self
            .0
            .iter()
            .find(|road| endpoint.host() == Some(road.name));
        let road = road.expect("a member of the plan").clone();
        async move {
            let deafener = road.deafener.clone();
            Ok(deafener.over(road.connect().await?, wiring))
        }
        .boxed()
    }
}

impl Road {
    async fn connect(self) -> io::Result<Near> {
        let open = |s: &State| s.up == Gate::Open && s.down == Gate::Open;
        // A handshake is sent again until it passes or its sender gives up.
        let found = self.state.wait_for(open).await;
        sleep(found.delay * 2).await;
        let far = self.to.connect()?;
        let (near, end) = duplex(64 * 1024);
        let left = Sign::new(false);
        let lane = |down| Lane {
            state: self.state.clone(),
            born: found,
            down,
            left: left.clone(),
        };
        let ((from_near, to_near), (from_far, to_far)) = (split(end), split(far));
        tokio::spawn(lane(false).carry(from_near, to_far));
        tokio::spawn(lane(true).carry(from_far, to_near));
        Ok(Near { stream: near, left })
    }
}

/// One direction of one connection.
struct Lane {
    state: Arc<Sign<State>>,
    /// The state when the connection was made.
    born: State,
    down: bool,
    /// The client has ended the connection.
    left: Arc<Sign<bool>>,
}

impl Lane {
    /// Carries bytes until either end, or a cut. Then it ends, and its reader learns of it.
    async fn carry(self, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
        let carried = async {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let count = from.read(&mut buffer).await.unwrap_or_default();
                if !self.pass().await || count == 0 || to.write_all(&buffer[..count]).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            _ = self.state.wait_for(|state| state.cuts != self.born.cuts) => {}
            () = carried => {}
        }
        let _ = to.shutdown().await;
    }

    /// Waits until what was read may pass; false if it never will.
    async fn pass(&self) -> bool {
        let mut was_shut = false;
        let may_pass = |now: &State| {
            let gate = if self.down { now.down } else { now.up };
            was_shut |= gate == Gate::Shut;
            gate == Gate::Open
        };
        let now = self.state.wait_for(may_pass).await;
        if !now.delay.is_zero() {
            sleep(now.delay).await;
        }
        !(was_shut && self.left.get())
    }
}

/// The client's end of a connection.
struct Near {
    stream: DuplexStream,
    left: Arc<Sign<bool>>,
}

impl Drop for Near {
    fn drop(&mut self) {
        self.left.change(|left| *left = true);
    }
}

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Near {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A value that many wait for. They are woken in the order in which they came, so that a run can be
/// repeated; tokio's `watch` shuffles them.
struct Sign<T> {
    #[expect(clippy::disallowed_types, reason = "held for the time of a copy")]
    value: std::sync::Mutex<T>,
    changed: Notify,
}

impl<T: Copy> Sign<T> {
    #[expect(clippy::disallowed_types, reason = "held for the time of a copy")]
    fn new(value: T) -> Arc<Self> {
        Arc::new(Self {
            value: std::sync::Mutex::new(value),
            changed: Notify::new(),
        })
    }

    fn get(&self) -> T {
        *self.value.lock().expect("nothing panics while it is held")
    }

    fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.value.lock().expect("nothing panics while it is held"));
        self.changed.notify_waiters();
    }

    async fn wait_for(&self, mut condition: impl FnMut(&T) -> bool) -> T {
        loop {
            let changed = self.changed.notified();
            let value = self.get();
            if condition(&value) {
                return value;
            }
            changed.await;
        }
    }
}
