//! Traffic that remembers what it was told.
//!
//! [`Load`] lets several tasks write tokens of their own to a list, count beside that and read.
//! [`Load::stop`] gives the [`History`]: how every call ended and when, and, once all databases are
//! back, whether anything acknowledged was lost or anything was done twice. The lists only grow, so
//! the length that a push returns is the place of its token: that names the database that
//! acknowledged it, and shows a reply that went to the wrong caller.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use multidb::redis::{Redis, from_redis};
use multidb::testing::history::{Ledger, Outcome, Report};
use multidb::{Doubt, ErrorKind, MultiDbClient, MultiDbConnection};
use redis::{AsyncCommands, RedisError, RedisResult};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::eventually;
use super::redis_server::RedisServer;

pub(crate) type Client = MultiDbClient<Redis>;

/// The list that the tokens are pushed to, on whichever database is active.
pub(crate) const TOKENS: &str = "tokens";
/// Counted beside it.
pub(crate) const COUNTER: &str = "counter";
/// The pause of a task between two calls: enough traffic to be in flight when a fault strikes, and
/// no more, because many tests share few cores.
const PACE: Duration = Duration::from_millis(3);
/// A call that takes longer than its deadline and this was forgotten.
const FORGOTTEN: Duration = Duration::from_secs(10);

// === the traffic ===

/// Several tasks that use a client until they are stopped. Dropping it stops them too.
pub(crate) struct Load {
    book: Arc<Book>,
    workers: JoinSet<()>,
}

/// What the tasks write down.
struct Book {
    ledger: Ledger,
    calls: Lock<Vec<Call>>,
    tokens: AtomicU64,
    stopped: AtomicBool,
}

#[allow(clippy::disallowed_types, reason = "never held across an await")]
type Lock<T> = std::sync::Mutex<T>;

/// One call and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) op: Op,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) said: Said,
    /// Pushes only.
    token: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    Push,
    Incr,
    Get,
}

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// It worked; a push and an increment return a number.
    Done(i64),
    /// It may or may not have run.
    Unknown(&'static str),
    /// It certainly did not run: our own error.
    NotRun(&'static str),
    /// It certainly did not run: the server's own word, by its code.
    Refused(String),
    /// Anything else.
    Other(String),
}

impl Load {
    /// Starts so many tasks; half of them share a connection, the others have one of their own.
    pub(crate) fn start(client: &Client, tasks: usize) -> Self {
        let book = Arc::new(Book {
            ledger: Ledger::new(),
            calls: Lock::default(),
            tokens: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let shared = client.connection();
        let mut workers = JoinSet::new();
        for n in 0..tasks {
            let con = if n % 2 == 0 {
                shared.clone()
            } else {
                client.connection()
            };
            workers.spawn(work(book.clone(), con, n));
        }
        Self { book, workers }
    }

    /// Waits until calls begun from now on succeed, a few of each task.
    pub(crate) async fn flows(&self, limit: Duration) {
        let from = Instant::now();
        eventually(limit, "calls succeed", async || {
            let calls = self.book.calls.lock().expect("the calls");
            let done = calls.iter().filter(|c| c.is_done() && c.began >= from);
            done.count() >= 10 * self.workers.len()
        })
        .await;
    }

    /// Lets the tasks finish their calls and ends them.
    ///
    /// # Panics
    /// If one panicked, or a call did not end by its deadline.
    pub(crate) async fn stop(mut self) -> History {
        self.book.stopped.store(true, Ordering::Release);
        let all = async {
            while let Some(worker) = self.workers.join_next().await {
                worker.expect("a worker of the load");
            }
        };
        let ended = timeout(FORGOTTEN, all).await;
        ended.expect("every call ends by its deadline");
        let mut calls = self.book.calls.lock().expect("the calls").clone();
        calls.sort_by_key(|call| call.ended);
        History {
            book: self.book.clone(),
            calls,
        }
    }
}

/// Pushes, increments and reads in turn. Each task begins with another one, so that they do not all
/// do the same at the moment of a fault.
async fn work(book: Arc<Book>, mut con: MultiDbConnection, first: usize) {
    let turn = [Op::Push, Op::Incr, Op::Get];
    for op in turn.into_iter().cycle().skip(first % turn.len()) {
        if book.stopped.load(Ordering::Acquire) {
            return;
        }
        let token = (op == Op::Push).then(|| book.fresh_token());
        let began = Instant::now();
        let result = match op {
            Op::Push => con.rpush(TOKENS, &token).await,
            Op::Incr => con.incr(COUNTER, 1).await,
            Op::Get => {
                let value: RedisResult<Option<i64>> = con.get(COUNTER).await;
                value.map(Option::unwrap_or_default)
            }
        };
        book.note(op, began, token, result);
        sleep(PACE).await;
    }
}

impl Book {
    fn fresh_token(&self) -> String {
        let token = format!("t{:06}", self.tokens.fetch_add(1, Ordering::Relaxed));
        self.ledger.attempt(&token);
        token
    }

    fn note(&self, op: Op, began: Instant, token: Option<String>, result: RedisResult<i64>) {
        let ended = Instant::now();
        let said = match result {
            Ok(n) => Said::Done(n),
            Err(error) => Said::from(&error),
        };
        if let Some(token) = &token
            && let Some(outcome) = said.outcome()
        {
            self.ledger.record(token, outcome);
        }
        let call = Call {
            op,
            began,
            ended,
            said,
            token,
        };
        self.calls.lock().expect("the calls").push(call);
    }
}

impl Call {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.said, Said::Done(_))
    }

    pub(crate) fn took(&self) -> Duration {
        self.ended - self.began
    }
}

// === what was said ===

impl From<&RedisError> for Said {
    fn from(error: &RedisError) -> Self {
        let Some(ours) = from_redis(error) else {
            return match error.code() {
                Some(code) => Self::Refused(code.to_owned()),
                None => Self::Other(error.to_string()),
            };
        };
        match ours.kind() {
            ErrorKind::OutcomeUnknown(Doubt::TimedOut) => Self::Unknown("timed out"),
            ErrorKind::OutcomeUnknown(Doubt::Lost) => Self::Unknown("lost"),
            ErrorKind::OutcomeUnknown(_) => Self::Unknown("other"),
            ErrorKind::NotExecuted => Self::NotRun("not executed"),
            ErrorKind::Unavailable => Self::NotRun("unavailable"),
            ErrorKind::NoHealthyDatabase => Self::NotRun("no healthy database"),
            ErrorKind::Closed => Self::NotRun("closed"),
            _ => Self::Other(ours.to_string()),
        }
    }
}

impl Said {
    /// For the ledger; `None` for what is known only once the lists have been read back.
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Done(_) => None,
            Self::Unknown(_) => Some(Outcome::Unknown),
            Self::NotRun(_) => Some(Outcome::NotSent),
            Self::Refused(_) => Some(Outcome::NotExecuted),
            Self::Other(_) => Some(Outcome::Failed),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(_) => f.write_str("done"),
            Self::Unknown(why) => write!(f, "unknown ({why})"),
            Self::NotRun(why) => write!(f, "not run ({why})"),
            Self::Refused(code) => write!(f, "refused ({code})"),
            Self::Other(text) => write!(f, "other ({text})"),
        }
    }
}

// === the history ===

/// How the calls of a [`Load`] ended, in the order in which they did.
pub(crate) struct History {
    book: Arc<Book>,
    pub(crate) calls: Vec<Call>,
}

impl History {
    /// How often which call was told what, such as `("Push", "unknown (lost)")`.
    pub(crate) fn told(&self) -> BTreeMap<(Op, String), usize> {
        let mut told = BTreeMap::new();
        for call in &self.calls {
            *told.entry((call.op, call.said.to_string())).or_default() += 1;
        }
        told
    }

    /// Calls that did not succeed.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| !call.is_done())
    }

    /// How many writes (or, with `op`, calls of that kind) were told something.
    pub(crate) fn count(&self, op: Op, which: impl Fn(&Said) -> bool) -> usize {
        let calls = self.calls.iter();
        calls.filter(|c| c.op == op && which(&c.said)).count()
    }

    /// The longest that no call succeeded, from `from` on.
    pub(crate) fn gap(&self, from: Instant) -> Duration {
        let mut last = from;
        let mut gap = Duration::ZERO;
        for call in self.calls.iter().filter(|c| c.is_done() && c.ended >= from) {
            gap = gap.max(call.ended - last);
            last = call.ended;
        }
        let end = self.calls.last().map_or(last, |call| call.ended);
        gap.max(end.saturating_duration_since(last))
    }

    /// The slowest call.
    pub(crate) fn slowest(&self) -> Duration {
        let times = self.calls.iter().map(Call::took);
        times.max().unwrap_or_default()
    }

    /// Nothing that read failed, and no write was told anything but what `allowed` says.
    #[track_caller]
    pub(crate) fn assert_only(&self, allowed: impl Fn(&Said) -> bool) {
        for call in self.errors() {
            assert!(
                call.op != Op::Get && allowed(&call.said),
                "{:?} after {:?}: {}\nall: {:?}",
                call.op,
                call.took(),
                call.said,
                self.told()
            );
        }
    }

    /// Compares with what the databases hold: nothing acknowledged lost, nothing twice, no phantom.
    /// All of them must be up again, with what they had stored.
    pub(crate) async fn assert_nothing_lost(&self, databases: &[(&str, &RedisServer)]) -> Report {
        let mut found = BTreeMap::new();
        let mut counted = 0;
        for (name, server) in databases {
            found.insert((*name).to_owned(), server.list(TOKENS).await);
            let counter: Option<i64> = server.cmd(&["GET", COUNTER]).await;
            counted += counter.unwrap_or_default();
        }
        for call in &self.calls {
            if let (Some(token), Said::Done(length)) = (&call.token, &call.said) {
                let at = usize::try_from(*length - 1).expect("the length of a list");
                let acked_by = found.iter().find(|(_, list)| list.get(at) == Some(token));
                let database = acked_by.map_or(NOBODY, |(name, _)| name).to_owned();
                self.book.ledger.record(token, Outcome::Acked { database });
            }
        }
        let report = self.book.ledger.check(&found);
        assert!(report.is_clean(), "{report}\nall: {:?}", self.told());
        assert!(report.told.acked > 0, "a history of nothing: {report}");
        let done = self.count(Op::Incr, |said| matches!(said, Said::Done(_)));
        let doubtful = self.count(Op::Incr, |said| {
            matches!(said, Said::Unknown(_) | Said::Other(_))
        });
        let counted = usize::try_from(counted).expect("a count");
        assert!(
            (done..=done + doubtful).contains(&counted),
            "counted {counted}; {done} were acknowledged and {doubtful} are in doubt"
        );
        report
    }
}

/// The name of no database: where an acknowledged token is that is in no list at its place.
const NOBODY: &str = "(no database)";
