//! A link: keeps one database subscribed to what is wanted, over connection after connection.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::{RedisError, RedisResult, Value};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Item;
use super::names::{Change, Name, Verb};
use super::wire::{Commands, News, Wire};
use crate::backends::redis::cluster::moved_to;
use crate::backends::redis::endpoint::RedisEndpoint;
use crate::backends::redis::endpoint::place::Address;
use crate::backends::redis::error::to_redis;
use crate::backends::redis::handle::Redis;
use crate::engine::backend::{Fault, FaultKind, Purpose, Wiring};
use crate::engine::database::Database;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::live::{Conn, Core};
use crate::engine::published::Published;

/// One link, with all that it needs: it runs in a task of its own.
pub(super) struct Link {
    pub(super) number: u64,
    pub(super) core: Arc<Core<Redis>>,
    pub(super) database: Arc<Database<RedisEndpoint>>,
    /// The node that it is to, if it is one of several to a cluster: see [`Spread`](super::spread).
    pub(super) node: Option<RedisEndpoint>,
    pub(super) orders: mpsc::UnboundedReceiver<LinkOrder>,
    pub(super) reports: mpsc::UnboundedSender<(u64, Report)>,
    pub(super) out: mpsc::UnboundedSender<Item>,
    pub(super) heard: Heard,
    /// What it should be subscribed to, and the number of the last change to that.
    pub(super) wanted: BTreeSet<Name>,
    pub(super) version: u64,
}

/// When a link last heard of its database.
#[derive(Clone)]
pub(super) struct Heard {
    base: Instant,
    micros: Arc<AtomicU64>,
    /// Of several connections: each of them.
    parts: Arc<Published<Vec<Heard>>>,
}

/// What a link is told.
pub(super) enum LinkOrder {
    Change {
        version: u64,
        changes: Vec<Change>,
    },
    Ping {
        message: Option<Vec<u8>>,
        answer: oneshot::Sender<RedisResult<Value>>,
    },
    /// Deliver what is published before the last call that is in flight on this connection has
    /// ended, and then end.
    Leave(Arc<Conn<Redis>>),
    /// It is wanted again after all.
    Stay,
}

/// What a link tells.
#[derive(Debug)]
pub(super) enum Report {
    /// Subscribed to all that is wanted as of `version`, but for what is `refused`.
    Confirmed {
        version: u64,
        refused: Vec<(Name, RedisError)>,
    },
    /// The connection has ended. What was published from `since` on may be missed.
    Lost { since: Instant },
    /// No connection can be made; it is tried again, unless it is to a node.
    Failed(Fault),
    /// The node does not serve the slot of this one, which it is not subscribed to there.
    Moved {
        name: Name,
        /// Who does, by its word.
        to: Option<Address>,
        /// It was subscribed to; what was published from then on may be missed.
        since: Option<Instant>,
    },
    /// Ended, as ordered.
    Left,
}

/// What links tell, each under its number.
pub(super) type Reports = (
    mpsc::UnboundedSender<(u64, Report)>,
    mpsc::UnboundedReceiver<(u64, Report)>,
);

/// How a connection ended.
enum End {
    /// It did so by itself, or was silent since.
    Lost(Instant),
    Left,
}

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a link that leaves looks whether the last call has ended.
const POLL: Duration = Duration::from_millis(2);

impl Link {
    /// Runs until told to leave, or until nobody holds its orders. One to a node ends with its connection,
    /// too: who serves what may be another by then.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let connected = {
                let (core, database) = (self.core.clone(), self.database.clone());
                let node = self.node.clone();
                let endpoint = node.as_ref().unwrap_or(database.endpoint());
                let mut connecting = Box::pin(connect(&core, &database, endpoint));
                loop {
                    tokio::select! {
                        biased;
                        order = self.orders.recv() => match order {
                            Some(order) => if self.obey_unconnected(order) { return },
                            None => return,
                        },
                        connected = &mut connecting => break connected,
                    }
                }
            };
            let is_to_node = self.node.is_some();
            match connected {
                Ok(wire) => {
                    pause = PAUSE;
                    match self.serve(wire).await {
                        End::Left => {
                            self.report(Report::Left);
                            return;
                        }
                        End::Lost(since) => self.report(Report::Lost { since }),
                    }
                    if is_to_node {
                        return;
                    }
                }
                Err(fault) => {
                    self.report(Report::Failed(fault));
                    if is_to_node {
                        return;
                    }
                    let until = Instant::now() + pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    loop {
                        tokio::select! {
                            biased;
                            order = self.orders.recv() => match order {
                                Some(order) => if self.obey_unconnected(order) { return },
                                None => return,
                            },
                            () = sleep_until(until) => break,
                        }
                    }
                }
            }
        }
    }

    /// True: it is to end.
    fn obey_unconnected(&mut self, order: LinkOrder) -> bool {
        match order {
            LinkOrder::Change { version, changes } => {
                self.want(version, &changes);
                false
            }
            LinkOrder::Ping { answer, .. } => {
                let _ = answer.send(Err(to_redis(Error::new(ErrorKind::Unavailable))));
                false
            }
            LinkOrder::Leave(_) => {
                self.report(Report::Left);
                true
            }
            LinkOrder::Stay => false,
        }
    }

    fn want(&mut self, version: u64, changes: &[Change]) {
        self.version = version;
        for Change { verb, name } in changes {
            match verb {
                Verb::Add => self.wanted.insert(name.clone()),
                Verb::Remove => self.wanted.remove(name),
            };
        }
    }

    pub(super) fn report(&self, report: Report) {
        let _ = self.reports.send((self.number, report));
    }

    /// Keeps one connection subscribed and hands its messages on, until it ends.
    async fn serve(&mut self, mut wire: Wire) -> End {
        let calls = self.database.calls(&self.core.config.calls);
        let limit = calls.response_timeout;
        let interval = self.core.config.health.interval;
        let mut session = Session::new(limit, self.everything());
        let mut pings = FuturesUnordered::<BoxFuture<'static, ()>>::new();
        let mut leaving: Option<BoxFuture<'static, bool>> = None;
        let mut keepalive = Instant::now() + interval;
        // A ping of our own, and what had been read before it.
        let mut check: Option<(BoxFuture<'static, bool>, u64)> = None;
        let mut read = wire.read();
        self.heard.note();
        loop {
            session.go_on(&wire);
            if session.is_done() {
                self.report(Report::Confirmed {
                    version: self.version,
                    refused: session.tell_refused(),
                });
            }
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    None => return End::Left,
                    Some(LinkOrder::Change { version, changes }) => {
                        self.want(version, &changes);
                        session.change(changes);
                    }
                    Some(LinkOrder::Ping { message, answer }) => {
                        pings.push(ping(&wire.commands, message, answer, limit));
                    }
                    Some(LinkOrder::Leave(left)) => {
                        leaving = Some(last_words(&wire.commands, left, limit));
                    }
                    Some(LinkOrder::Stay) => leaving = None,
                },
                news = wire.next() => match news {
                    Some(news) => if self.take(news, &session).is_err() {
                        return End::Lost(self.heard.last());
                    },
                    None => return End::Lost(Instant::now()),
                },
                results = session.results() => match results {
                    Some(results) => {
                        // What came before: an end that was asked for is known by what is under way.
                        while let Some(news) = wire.next_now() {
                            if self.take(news, &session).is_err() {
                                return End::Lost(self.heard.last());
                            }
                        }
                        let Ok(elsewhere) = session.note(results, self.node.is_some()) else {
                            return End::Lost(self.heard.last());
                        };
                        self.send_away(elsewhere);
                    }
                    // Neither answered nor refused in time. Bytes may have come for messages.
                    None if wire.read() == session.read => return End::Lost(self.heard.last()),
                    None => session.wait_longer(&wire),
                },
                Some(()) = pings.next() => {}
                answered = optional(&mut leaving) => {
                    if !answered {
                        return End::Lost(self.heard.last());
                    }
                    // All that came before the answer to the last ping is here by now.
                    while let Some(news) = wire.next_now() {
                        if self.take(news, &session).is_err() {
                            return End::Lost(self.heard.last());
                        }
                    }
                    return End::Left;
                }
                (answered, before) = checked(&mut check) => {
                    if !answered && wire.read() == before {
                        return End::Lost(self.heard.last());
                    }
                    check = None;
                    keepalive = Instant::now() + interval;
                }
                () = sleep_until(keepalive), if check.is_none() => {
                    let pinging = timeout(limit, wire.commands.clone().ping(None));
                    let answered = async { pinging.await.is_ok() };
                    check = Some((Box::pin(answered), wire.read()));
                    session.try_refused_again();
                }
            }
            let now_read = wire.read();
            if std::mem::replace(&mut read, now_read) != now_read {
                self.heard.note();
            }
        }
    }

    /// An error: what it was subscribed to has ended here, and only a new connection tells why.
    fn take(&mut self, news: News, session: &Session) -> Result<(), ()> {
        match news {
            News::Message(message) => {
                let _ = self.out.send(Item::Message(message));
            }
            News::Ended(name) if session.is_ending(&name) || !self.wanted.contains(&name) => {}
            News::Ended(_) if self.node.is_none() => return Err(()),
            News::Ended(name) => {
                self.wanted.remove(&name);
                self.report(Report::Moved {
                    name,
                    to: None,
                    since: Some(self.heard.last()),
                });
            }
        }
        Ok(())
    }

    /// These are not served here.
    fn send_away(&mut self, elsewhere: Vec<(Name, RedisError)>) {
        for (name, error) in elsewhere {
            let from = self.node.as_ref().and_then(RedisEndpoint::address);
            let to = from.and_then(|from| moved_to(&error, from));
            self.wanted.remove(&name);
            self.report(Report::Moved {
                name,
                to,
                since: None,
            });
        }
    }

    /// What a fresh connection has to be told.
    fn everything(&self) -> Vec<Change> {
        let names = self.wanted.iter();
        names
            .map(|name| Change {
                verb: Verb::Add,
                name: name.clone(),
            })
            .collect()
    }
}

impl Heard {
    pub(super) fn now() -> Self {
        Self {
            base: Instant::now(),
            micros: Arc::default(),
            parts: Arc::new(Published::new(Vec::new())),
        }
    }

    fn note(&self) {
        let micros = self.base.elapsed().as_micros() as u64;
        self.micros.store(micros, Ordering::Relaxed);
    }

    /// Of all connections: what has come on one says nothing of another.
    pub(super) fn last(&self) -> Instant {
        let parts = self.parts.get();
        let parts = parts.iter().map(Self::last).min();
        parts.unwrap_or_else(|| self.last_here())
    }

    /// From now on it is what these have heard.
    pub(super) fn consist_of(&self, parts: Vec<Self>) {
        self.parts.set(parts);
    }

    fn last_here(&self) -> Instant {
        self.base + Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

/// What one connection has been told and has answered.
struct Session {
    limit: Duration,
    /// To be told next.
    queue: Vec<Change>,
    under_way: Option<Applying>,
    /// Of what is under way, the ends.
    ending: Vec<Name>,
    /// When the answers are due, and what had been read before.
    deadline: Instant,
    read: u64,
    refused: Vec<(Name, RedisError)>,
    /// Refused before, to be tried again later.
    hopeless: Vec<Name>,
    confirmed: bool,
}

type Results = Vec<(Name, RedisResult<()>)>;
type Applying = Pin<Box<dyn Future<Output = Results> + Send>>;

impl Session {
    fn new(limit: Duration, queue: Vec<Change>) -> Self {
        Self {
            limit,
            queue,
            under_way: None,
            ending: Vec::new(),
            deadline: Instant::now() + limit,
            read: 0,
            refused: Vec::new(),
            hopeless: Vec::new(),
            confirmed: false,
        }
    }

    fn change(&mut self, changes: Vec<Change>) {
        self.confirmed = false;
        self.hopeless
            .retain(|name| changes.iter().all(|change| change.name != *name));
        self.queue.extend(changes);
    }

    /// Sends what waits, unless an answer is waited for.
    fn go_on(&mut self, wire: &Wire) {
        if self.under_way.is_none() && !self.queue.is_empty() {
            let changes = std::mem::take(&mut self.queue);
            let ends = changes.iter().filter(|change| change.verb == Verb::Remove);
            self.ending = ends.map(|change| change.name.clone()).collect();
            self.under_way = Some(Box::pin(wire.commands.clone().apply(changes)));
            self.wait_longer(wire);
        }
    }

    /// True once after everything has been answered.
    fn is_done(&mut self) -> bool {
        let done = self.under_way.is_none() && self.queue.is_empty();
        done && !std::mem::replace(&mut self.confirmed, true)
    }

    fn tell_refused(&mut self) -> Vec<(Name, RedisError)> {
        std::mem::take(&mut self.refused)
    }

    /// The next answers; `None`: there are none in time.
    async fn results(&mut self) -> Option<Results> {
        match &mut self.under_way {
            Some(under_way) => timeout_at(self.deadline, under_way).await.ok(),
            None => std::future::pending().await,
        }
    }

    fn wait_longer(&mut self, wire: &Wire) {
        self.deadline = Instant::now() + self.limit;
        self.read = wire.read();
    }

    /// Whether the server has been asked to end it.
    fn is_ending(&self, name: &Name) -> bool {
        self.ending.contains(name)
    }

    /// An error that is no answer of the server is the end of the connection. To a node, what belongs to
    /// another one is not refused but `elsewhere`.
    fn note(&mut self, results: Results, is_to_node: bool) -> Result<Vec<(Name, RedisError)>, ()> {
        self.under_way = None;
        self.ending.clear();
        let mut elsewhere = Vec::new();
        for (name, result) in results {
            let Err(error) = result else { continue };
            if error.is_io_error() {
                return Err(());
            }
            if is_to_node && matches!(error.code(), Some("MOVED" | "CLUSTERDOWN")) {
                elsewhere.push((name, error));
                continue;
            }
            self.hopeless.push(name.clone());
            self.refused.push((name, error));
        }
        Ok(elsewhere)
    }

    /// Permissions change.
    fn try_refused_again(&mut self) {
        let names = std::mem::take(&mut self.hopeless);
        let changes: Vec<_> = names
            .into_iter()
            .map(|name| Change {
                verb: Verb::Add,
                name,
            })
            .collect();
        if !changes.is_empty() {
            self.confirmed = false;
            self.queue.extend(changes);
        }
    }
}

async fn connect(
    core: &Core<Redis>,
    database: &Database<RedisEndpoint>,
    endpoint: &RedisEndpoint,
) -> Result<Wire, Fault> {
    let calls = database.calls(&core.config.calls);
    let wiring = Wiring::new(Purpose::PubSub, calls.response_timeout);
    let opening = Wire::open(&core.backend, endpoint, &wiring);
    match timeout(calls.connect_timeout, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(Fault::new(FaultKind::Silent, "no connection in time")),
    }
}

fn ping(
    commands: &Commands,
    message: Option<Vec<u8>>,
    answer: oneshot::Sender<RedisResult<Value>>,
    limit: Duration,
) -> BoxFuture<'static, ()> {
    let pinging = commands.clone().ping(message);
    Box::pin(async move {
        let result = timeout(limit, pinging).await;
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut).into();
        let _ = answer.send(result.unwrap_or_else(|_| Err(late())));
    })
}

/// Ends when nothing can come any more of what was published before the client left: the calls in
/// flight have ended, and the connection has answered a ping sent after that. False: it has not.
fn last_words(
    commands: &Commands,
    left: Arc<Conn<Redis>>,
    limit: Duration,
) -> BoxFuture<'static, bool> {
    let commands = commands.clone();
    Box::pin(async move {
        // A call ends by its own timeout, and one that chose this connection just before may not
        // have registered at the first look.
        let until = Instant::now() + limit * 2;
        let mut quiet = 0;
        while quiet < 2 && Instant::now() < until {
            quiet = if left.calls.in_flight() == 0 {
                quiet + 1
            } else {
                0
            };
            tokio::time::sleep(POLL).await;
        }
        let answered = timeout(limit, commands.ping(None)).await;
        answered.is_ok_and(|answer| answer.is_ok())
    })
}

async fn checked(check: &mut Option<(BoxFuture<'static, bool>, u64)>) -> (bool, u64) {
    match check {
        Some((answered, before)) => (answered.await, *before),
        None => std::future::pending().await,
    }
}

async fn optional(future: &mut Option<BoxFuture<'static, bool>>) -> bool {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
