//! What callers and supervisor share: connections, what is published, and the core around them.

// Taken on the cold path of a call, for one instruction.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Fault, FaultKind, LostSignal, Mark, Wiring};
use super::calls::Calls;
use super::config::Config;
use super::database::{Database, DatabaseId};
use super::error::Error;
use super::event::Event;
use super::followers::Followers;
use super::health::Checks;
use super::machine::{MemberKey, Verb};
use super::published::Published;
use super::retry::{self, Backoff, Budget};
use super::snapshot::{Snapshot, Status};
use super::statistics::Counters;
use super::sweep::{Clock, Swept};
use super::tally::Tally;

/// A physical connection, from connect to abort.
pub(crate) struct Conn<B: Backend> {
    pub(crate) member: MemberKey,
    pub(crate) id: DatabaseId,
    /// Where it leads, for connections of a caller's own beside it.
    pub(crate) database: Arc<Database<B::Endpoint>>,
    /// Counts connects of this client: session state holds only within one.
    pub(crate) incarnation: u64,
    pub(crate) handle: B::Handle,
    pub(crate) mark: Option<Mark>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) lost: LostSignal,
}

/// A connection as it was published: under which episode and generation its calls are booked.
///
/// Identity travels with the outcome: a call holds the `Live` it was started on, so a late failure
/// is booked to the episode that is over, and dropped. A circuit that changes gets a new `Live`
/// around the same connection.
pub(crate) struct Live<B: Backend> {
    pub(crate) conn: Arc<Conn<B>>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) episode: u64,
    pub(crate) generation: u64,
    flags: AtomicU8,
}

/// What a caller needs to know to send a call. Immutable, replaced whole.
pub(crate) struct Routing<B: Backend> {
    pub(crate) live: Option<Arc<Live<B>>>,
    pub(crate) status: Status,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Of every database, in the order in which they were added.
    pub(crate) counters: Arc<[(DatabaseId, Arc<Counters>)]>,
    /// Where a planned switch is about to lead, for those who want to be there first.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "for backends"))]
    pub(crate) upcoming: Option<Upcoming<B>>,
}

/// The member that a planned switch is about to lead to.
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "for backends"))]
pub(crate) struct Upcoming<B: Backend> {
    pub(crate) member: MemberKey,
    pub(crate) database: Arc<Database<B::Endpoint>>,
}

/// What all handles of a client and its supervisor share.
pub(crate) struct Core<B: Backend> {
    pub(crate) backend: B,
    pub(crate) config: Config,
    pub(crate) backoff: Backoff,
    pub(crate) budget: Budget,
    /// Draws the pauses of calls that are tried again.
    #[allow(clippy::disallowed_types)]
    pub(crate) jitter: Mutex<fastrand::Rng>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) swept: Arc<Swept>,
    pub(crate) routing: Published<Arc<Routing<B>>>,
    pub(crate) followers: Arc<Followers>,
    pub(crate) checks: Checks<B>,
    pub(crate) mailbox: mpsc::UnboundedSender<Mail<B>>,
    pub(crate) news: Arc<Notify>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) waiting: AtomicUsize,
    /// Ends everything; cancelled by `close()` and by the drop of the last handle.
    pub(crate) stop: CancellationToken,
    /// The supervisor has ended, and everything it owned with it.
    pub(crate) ended: CancellationToken,
    /// Runs the supervisor; taken when the client starts. Taken once, by whoever comes first.
    #[allow(clippy::disallowed_types)]
    pub(crate) dormant: Mutex<Option<Launch>>,
}

/// Spawns the supervisor on the current runtime.
pub(crate) type Launch = Box<dyn FnOnce() + Send>;

/// What is sent to the supervisor.
pub(crate) enum Mail<B: Backend> {
    Start {
        lazy: bool,
        answer: Option<tokio::sync::oneshot::Sender<Result<(), Error>>>,
    },
    Order {
        /// Where a new member is; the verb says what it is.
        database: Option<Database<B::Endpoint>>,
        verb: VerbDraft,
        answer: tokio::sync::oneshot::Sender<Result<(), Error>>,
    },
    /// A connection of a caller's own has ended, and what was sent on it may still run.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "for backends"))]
    Bury { member: MemberKey, mark: Mark },
    Topology {
        epoch: u64,
        databases: Vec<Database<B::Endpoint>>,
        answer: Option<tokio::sync::oneshot::Sender<Result<(), Error>>>,
    },
}

/// A verb whose member keys the supervisor still has to give.
pub(crate) enum VerbDraft {
    Add { verify: bool },
    Ready(Verb),
}

/// The client has moved on; do not start calls here.
pub(crate) const STALE: u8 = 1;
/// A refusal may be persisting: successful writes are worth reporting.
pub(crate) const WATCH_WRITES: u8 = 2;

impl<B: Backend> Live<B> {
    pub(crate) fn new(
        conn: Arc<Conn<B>>,
        tally: Arc<Tally>,
        episode: u64,
        generation: u64,
    ) -> Self {
        Self {
            conn,
            tally,
            episode,
            generation,
            flags: AtomicU8::new(0),
        }
    }

    #[inline]
    pub(crate) fn flags(&self) -> u8 {
        self.flags.load(Ordering::Acquire)
    }

    pub(crate) fn set_flag(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
    }

    pub(crate) fn clear_flag(&self, flag: u8) {
        self.flags.fetch_and(!flag, Ordering::AcqRel);
    }
}

impl<B: Backend> Conn<B> {
    /// Ends it now; whoever watches it learns of it.
    pub(crate) fn end(&self, backend: &B) {
        backend.abort(&self.handle);
        self.lost.report();
    }
}

impl<B: Backend> Core<B> {
    /// A pause between two attempts of a call, below `bound`.
    pub(crate) fn pause(&self, bound: Duration) -> Duration {
        let mut rng = self.jitter.lock().unwrap_or_else(PoisonError::into_inner);
        retry::pause(bound, &mut rng)
    }

    pub(crate) fn current(&self) -> Arc<Routing<B>> {
        self.routing.get()
    }

    /// Starts the supervisor with the first call, if `connect()` has not done so.
    pub(crate) fn start_lazily(&self) {
        if let Some(launch) = self.launch() {
            launch();
            let _ = self.mailbox.send(Mail::Start {
                lazy: true,
                answer: None,
            });
        }
    }

    /// Lets every caller find that it is over, and ends the connection they are on.
    pub(crate) fn say_closed(&self) {
        let last = self.current();
        let mut snapshot = Snapshot::clone(&last.snapshot);
        snapshot.status = Status::Closed;
        self.routing.set(Arc::new(Routing {
            live: None,
            status: Status::Closed,
            snapshot: Arc::new(snapshot),
            counters: last.counters.clone(),
            upcoming: None,
        }));
        if let Some(live) = &last.live {
            live.set_flag(STALE);
            live.conn.end(&self.backend);
        }
    }

    pub(crate) fn launch(&self) -> Option<Launch> {
        self.dormant
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Connects under a deadline; what is given up half-way is dropped, and with it its transport.
pub(crate) async fn connect<B: Backend>(
    backend: &B,
    database: &Database<B::Endpoint>,
    wiring: &Wiring,
    deadline: Instant,
) -> Result<B::Handle, Fault> {
    match tokio::time::timeout_at(deadline, backend.connect(database, wiring.clone())).await {
        Ok(result) => result,
        Err(_) => Err(Fault::new(FaultKind::Silent, "no connection in time")),
    }
}

pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
