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
use super::wire::{Commands, Message, Wire};
use crate::backends::redis::endpoint::RedisEndpoint;
use crate::backends::redis::error::to_redis;
use crate::backends::redis::handle::Redis;
use crate::engine::backend::{Fault, FaultKind, Purpose, Wiring};
use crate::engine::database::Database;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::live::{Conn, Core};

/// One link, with all that it needs: it runs in a task of its own.
pub(super) struct Link {
    pub(super) number: u64,
    pub(super) core: Arc<Core<Redis>>,
    pub(super) database: Arc<Database<RedisEndpoint>>,
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
pub(super) enum Report {
    /// Subscribed to all that is wanted as of `version`, but for what is `refused`.
    Confirmed {
        version: u64,
        refused: Vec<(Name, RedisError)>,
    },
    /// The connection has ended. What was published from `since` on may be missed.
    Lost { since: Instant },
    /// No connection can be made; it is tried again.
    Failed(Fault),
    /// Ended, as ordered.
    Left,
}

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
    /// Runs until told to leave, or until nobody holds its orders.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let connected = {
                let (core, database) = (self.core.clone(), self.database.clone());
                let mut connecting = Box::pin(connect(&core, &database));
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
                }
                Err(fault) => {
                    self.report(Report::Failed(fault));
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

    fn report(&self, report: Report) {
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
                message = wire.next() => match message {
                    Some(message) => self.deliver(message),
                    None => return End::Lost(Instant::now()),
                },
                results = session.results() => match results {
                    Some(results) => {
                        if session.note(results).is_err() {
                            return End::Lost(Instant::now());
                        }
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
                    while let Some(message) = wire.next_now() {
                        self.deliver(message);
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

    fn deliver(&self, message: Message) {
        let _ = self.out.send(Item::Message(message));
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
        }
    }

    fn note(&self) {
        let micros = self.base.elapsed().as_micros() as u64;
        self.micros.store(micros, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.base + Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

/// What one connection has been told and has answered.
struct Session {
    limit: Duration,
    /// To be told next.
    queue: Vec<Change>,
    under_way: Option<Applying>,
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

    /// An error that is no answer of the server is the end of the connection.
    fn note(&mut self, results: Results) -> Result<(), ()> {
        self.under_way = None;
        for (name, result) in results {
            let Err(error) = result else { continue };
            if error.is_io_error() {
                return Err(());
            }
            self.hopeless.push(name.clone());
            self.refused.push((name, error));
        }
        Ok(())
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

async fn connect(core: &Core<Redis>, database: &Database<RedisEndpoint>) -> Result<Wire, Fault> {
    let calls = database.calls(&core.config.calls);
    let wiring = Wiring::new(Purpose::PubSub, calls.response_timeout);
    let opening = Wire::open(&core.backend, database.endpoint(), &wiring);
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
