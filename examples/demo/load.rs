//! The writers, and what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use multidb::redis::{Redis, from_redis};
use multidb::{ErrorKind, MultiDbClient, MultiDbConnection};
use redis::{AsyncCommands, RedisError, RedisResult};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::args::Args;
use crate::stage::{COUNTER, NAMES, TOKENS};
use crate::timeline::Latencies;

/// Tasks that write until they are stopped.
pub(crate) struct Load {
    stop: CancellationToken,
    meter: Arc<Meter>,
    writers: Vec<JoinHandle<History>>,
}

/// Counts calls as they end, for those who watch.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    begun: AtomicU64,
    acked: AtomicU64,
    failed: [AtomicU64; Class::ALL.len()],
    /// Of the calls acknowledged.
    pub(crate) latencies: Latencies,
}

/// The counts of a [`Meter`] at one moment, or between two.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) acked: u64,
    /// In the order of [`Class::ALL`].
    pub(crate) failed: [u64; Class::ALL.len()],
}

/// What all writers were told.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Every RPUSH, with its token.
    pub(crate) pushes: Vec<Push>,
    /// The INCRs acknowledged.
    pub(crate) incremented: u64,
    /// Every call that failed, RPUSH and INCR alike, and when it ended.
    pub(crate) failures: Vec<(Instant, Class)>,
    /// The INCRs among them that may have run.
    pub(crate) maybe_incremented: u64,
}

#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) token: String,
    /// The client's generation when the call began: how often it had switched.
    pub(crate) generation: u64,
    pub(crate) ended: Instant,
    pub(crate) told: Told,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// By this database, where one was active since the writer's RPUSH before.
    Acked {
        by: Option<&'static str>,
    },
    Failed(Class),
}

/// What an error says of its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It may have run.
    Unknown,
    /// It was sent nowhere, or refused before it ran.
    NotExecuted,
    /// No database could be used in time; nothing was run.
    Unavailable,
    /// Anything else; promises nothing.
    Other,
}

/// All writers together: so many rounds of one RPUSH and one INCR per second. Neither the machine
/// nor the memory is to be filled, only the time between two calls to be short against a failover.
const ROUNDS_PER_SECOND: u64 = 5_000;

// === impl Load ===

impl Load {
    pub(crate) fn start(client: &MultiDbClient<Redis>, args: &Args) -> Self {
        let stop = CancellationToken::new();
        let meter = Arc::new(Meter::default());
        let pause = Duration::from_secs(args.tasks) / u32::try_from(ROUNDS_PER_SECOND).unwrap_or(1);
        let writers = (0..args.tasks).map(|number| {
            let writer = Writer {
                con: client.connection(),
                name: format!("{}-{number}", args.seed),
                stop: stop.clone(),
                meter: meter.clone(),
                history: History::default(),
                seen: 0,
            };
            let rng = fastrand::Rng::with_seed(args.seed.wrapping_add(number));
            tokio::spawn(writer.write(pause, rng))
        });
        Self {
            writers: writers.collect(),
            stop,
            meter,
        }
    }

    pub(crate) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Lets every call end by itself, so that every token has its outcome.
    pub(crate) async fn stop(self) -> Result<History, Failure> {
        self.stop.cancel();
        let mut all = History::default();
        for writer in self.writers {
            let history = writer.await?;
            all.pushes.extend(history.pushes);
            all.failures.extend(history.failures);
            all.incremented += history.incremented;
            all.maybe_incremented += history.maybe_incremented;
        }
        Ok(all)
    }
}

struct Writer {
    con: MultiDbConnection,
    name: String,
    stop: CancellationToken,
    meter: Arc<Meter>,
    history: History,
    /// The client's generation at the end of the last RPUSH acknowledged.
    seen: u64,
}

impl Writer {
    async fn write(mut self, pause: Duration, mut rng: fastrand::Rng) -> History {
        // Only a pause is ever cut short, never a call.
        let stop = self.stop.clone();
        while let Some(()) = stop
            .run_until_cancelled(sleep(pause.mul_f64(2.0 * rng.f64())))
            .await
        {
            // In either order, so that a fault cuts off both kinds.
            if rng.bool() {
                self.push().await;
                self.increment().await;
            } else {
                self.increment().await;
                self.push().await;
            }
        }
        self.history
    }

    async fn push(&mut self) {
        let token = format!("{}-{}", self.name, self.history.pushes.len());
        let before = self.con.client().snapshot();
        let began = self.begin();
        let reply: RedisResult<u64> = self.con.rpush(TOKENS, &token).await;
        let ended = Instant::now();
        let told = match self.judge(reply, began, ended) {
            Ok(()) => {
                let after = self.con.client().snapshot();
                // The call before counts, since a switch is seen a moment before it takes effect.
                let settled = [self.seen, before.generation] == [after.generation; 2];
                self.seen = after.generation;
                let active = after.active.as_ref().filter(|_| settled);
                let by = active.and_then(|id| NAMES.into_iter().find(|name| *id == *name));
                Told::Acked { by }
            }
            Err(class) => Told::Failed(class),
        };
        self.history.pushes.push(Push {
            token,
            generation: before.generation,
            ended,
            told,
        });
    }

    async fn increment(&mut self) {
        let began = self.begin();
        let reply: RedisResult<u64> = self.con.incr(COUNTER, 1).await;
        match self.judge(reply, began, Instant::now()) {
            Ok(()) => self.history.incremented += 1,
            Err(Class::Unknown | Class::Other) => self.history.maybe_incremented += 1,
            Err(Class::NotExecuted | Class::Unavailable) => {}
        }
    }

    fn begin(&self) -> Instant {
        self.meter.begun.fetch_add(1, Ordering::Relaxed);
        Instant::now()
    }

    fn judge(
        &mut self,
        reply: RedisResult<u64>,
        began: Instant,
        ended: Instant,
    ) -> Result<(), Class> {
        let class = match reply {
            Ok(_) => {
                self.meter.latencies.add(ended - began);
                self.meter.acked.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => Class::of(&error),
        };
        self.meter.failed[class as usize].fetch_add(1, Ordering::Relaxed);
        self.history.failures.push((ended, class));
        Err(class)
    }
}

// === impl Meter ===

impl Meter {
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            acked: self.acked.load(Ordering::Relaxed),
            failed: self.failed.each_ref().map(|n| n.load(Ordering::Relaxed)),
        }
    }

    /// Calls that have begun and not ended.
    pub(crate) fn in_flight(&self) -> u64 {
        // The ended first: none of them is counted that has not been counted as begun.
        let ended = self.counts();
        let ended = ended.acked + ended.failed.iter().sum::<u64>();
        self.begun.load(Ordering::Relaxed).saturating_sub(ended)
    }
}

impl Counts {
    pub(crate) fn add(&mut self, more: &Self) {
        self.acked += more.acked;
        for (count, more) in self.failed.iter_mut().zip(more.failed) {
            *count += more;
        }
    }

    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut failed = self.failed;
        for (now, before) in failed.iter_mut().zip(earlier.failed) {
            *now -= before;
        }
        Self {
            acked: self.acked - earlier.acked,
            failed,
        }
    }
}

// === impl Class ===

impl Class {
    pub(crate) const ALL: [Self; 4] = [
        Self::Unknown,
        Self::NotExecuted,
        Self::Unavailable,
        Self::Other,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotExecuted => "not executed",
            Self::Unavailable => "unavailable",
            Self::Other => "other",
        }
    }

    fn of(error: &RedisError) -> Self {
        match from_redis(error) {
            Some(ours) => match ours.kind() {
                ErrorKind::OutcomeUnknown(_) => Self::Unknown,
                ErrorKind::NotExecuted => Self::NotExecuted,
                ErrorKind::Unavailable | ErrorKind::NoHealthyDatabase => Self::Unavailable,
                _ => Self::Other,
            },
            // The server's own word, with its code.
            None => match error.code() {
                Some("LOADING" | "READONLY") => Self::NotExecuted,
                _ => Self::Other,
            },
        }
    }
}
