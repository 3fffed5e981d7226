//! A Redis Cluster as one database: connections to its nodes that live and die together.
//!
//! The cluster heals itself, in seconds; whoever has another database does not wait for that. So a
//! primary that is lost is the database lost, and it is well again when every primary answers and the
//! cluster says that it is complete. What moves while all of them live (slots, a planned failover) is
//! followed by `MOVED` and `ASK`, each of which proves that the command did not run where it was sent.
//!
//! All connections share one byte meter: "not a byte has left" then means any of them.

mod keeper;
mod map;
mod marks;
mod plan;
mod replies;
mod seeds;
mod slots;

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
// Held for a few instructions.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ::redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerError, Value, cmd, pipe,
};
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::keeper::{Keeper, Nodes, Order};
use self::map::Map;
pub(super) use self::marks::Marks;
use self::marks::Used;
use self::plan::{Gather, Plan, Split, name, plan, slot_of, word};
use self::replies::{
    CROSSSLOT, Redirect, TRYAGAIN, after, cursor, in_one, is_under_way, misfit, not_found, partly,
    refusal,
};
pub(super) use self::seeds::Seeds;
pub(super) use self::slots::{Layout, slot};
use super::commands::{timeout as waiting_time, with_timeout};
use super::endpoint::RedisEndpoint;
use super::endpoint::place::Address;
use super::server::{self, ClientMark, Opener, PROBE_KEY, Server, text_of};
use crate::engine::backend::{Depth, Fault, FaultKind, LostSignal, Purpose, Verdict, Wiring};
use crate::engine::published::Published;

/// Connections to the nodes of a cluster.
pub(super) struct Cluster {
    map: Arc<Published<Arc<Map>>>,
    orders: mpsc::UnboundedSender<Order>,
    lost: LostSignal,
    marks: Arc<Marks>,
    /// Of a private connection: the slot of what is watched.
    #[allow(clippy::disallowed_types)]
    watched: Mutex<Option<u16>>,
    /// Of a private connection: the node that has its last command, and what it calls us.
    #[allow(clippy::disallowed_types)]
    sent_to: Mutex<Option<SentTo>>,
    /// Of a private connection. What is watched on one may be lost with any of them.
    used: Arc<Used>,
    private: bool,
    /// How long a command may wait for a connection to a node.
    patience: Duration,
    turn: AtomicUsize,
    _keeper: AbortOnDropHandle<()>,
}

type SentTo = (Address, Option<ClientMark>);

/// How often a command is sent on before its last answer is taken for one.
const REDIRECTS: usize = 8;
/// Before a command is tried again whose keys are on their way.
const PAUSE: Duration = Duration::from_millis(10);
/// The bits of a scan's cursor that are the node's; the rest say which node it is.
const CURSOR_BITS: u32 = 48;

/// Which of a command's words the node is chosen by.
#[cfg(feature = "testing")]
pub(super) fn first_key_at(cmd: &Cmd) -> Option<usize> {
    self::plan::first_key_at(&name(cmd), cmd)
}

/// Where an error reply of the node at `from` sends whoever asks for what it does not serve.
pub(super) fn moved_to(error: &RedisError, from: &Address) -> Option<Address> {
    let redirect = Redirect::read(error.code()?, error.detail()?, from)?;
    (!redirect.ask).then_some(redirect.to)
}

// === impl Cluster ===

impl Cluster {
    /// Connects to all primaries; of a private connection to one node only, the rest on demand.
    pub(super) async fn open(
        opener: &Opener,
        endpoint: &RedisEndpoint,
        seeds: &Arc<Seeds>,
        wiring: Wiring,
    ) -> Result<Self, Fault> {
        let nodes = Nodes {
            opener: opener.clone(),
            endpoint: endpoint.clone(),
            wiring: wiring.clone(),
        };
        let (address, found, layout) = seeds.discover(&nodes).await?;
        seeds.know(&layout);
        let map = Map::empty().arranged(&layout);
        if !map.is_complete() {
            let what = "CLUSTERDOWN: some slots have no node";
            return Err(Fault::new(FaultKind::State, what));
        }
        let primaries = map.primaries();
        let map = Arc::new(Published::new(Arc::new(map)));
        let marks = Arc::new(Marks::default());
        let (orders, received) = mpsc::unbounded_channel();
        let used = Arc::new(Used::default());
        let eager = nodes.is_eager();
        // Until the end of this, whoever gives up gives up all of it.
        let mut keeper = Keeper::new(
            nodes.clone(),
            seeds.clone(),
            map.clone(),
            marks.clone(),
            used.clone(),
            received,
        );
        if primaries.contains(&address) {
            keeper.take(&address, found);
        }
        if eager {
            let others = primaries.iter().filter(|other| **other != address);
            let opened = join_all(others.map(async |other| (other, nodes.open(other).await))).await;
            for (other, opened) in opened {
                keeper.take(other, opened?);
            }
        }
        Ok(Self {
            map,
            orders,
            lost: wiring.lost,
            marks,
            watched: Default::default(),
            sent_to: Default::default(),
            used,
            private: wiring.purpose == Purpose::Lane,
            patience: wiring.response_timeout / 2,
            turn: AtomicUsize::new(0),
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper.run())),
        })
    }

    pub(super) fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// Another one whenever another node serves slots, or one is connected to anew.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let map = self.map.get();
        for address in map.primaries() {
            let node = map.node(&address);
            let connected = node.and_then(|node| node.connected.as_ref());
            (&address, connected.map(|known| known.serial)).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Ends all connections. Idempotent.
    pub(super) fn end(&self) {
        self.lost.report();
        self.map.get().end();
    }

    /// Whether every primary answers and finds the cluster complete; also whether it takes writes.
    pub(super) async fn check(&self, depth: Depth) -> Verdict {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Refresh(answer));
        match answered.await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => return Verdict::Unhealthy(fault),
            Err(_) => return Verdict::Unhealthy(Fault::new(FaultKind::Lost, "connection lost")),
        }
        let map = self.map.get();
        if !map.is_complete() {
            let what = "CLUSTERDOWN: some slots have no node";
            return Verdict::Unhealthy(Fault::new(FaultKind::State, what));
        }
        let primaries = map.primaries();
        let looks = primaries.iter().map(async |address| {
            let Ok(handle) = self.node(address).await else {
                let what = format!("node {address}: no connection");
                return Verdict::Unhealthy(Fault::new(FaultKind::Unreachable, what));
            };
            let verdict = match depth {
                Depth::Alive => look(&handle).await,
                Depth::Serving => match look(&handle).await {
                    Verdict::Healthy => handle.write_probe(&probe_key(&map, address)).await,
                    other => other,
                },
            };
            match verdict {
                Verdict::Unhealthy(fault) => Verdict::Unhealthy(Fault {
                    what: format!("node {address}: {}", fault.what),
                    ..fault
                }),
                other => other,
            }
        });
        let verdicts = join_all(looks).await;
        let unfit = verdicts
            .into_iter()
            .find(|verdict| *verdict != Verdict::Healthy);
        unfit.unwrap_or(Verdict::Healthy)
    }

    /// Ends what earlier connections have left at the nodes; true if some had no name. A node that is no
    /// primary any more runs no write of theirs.
    pub(super) async fn fence(&self, marks: &Marks) -> Result<bool, Fault> {
        let mut nameless = false;
        for (address, mark) in marks.all() {
            let Some(mark) = mark else {
                nameless = true;
                continue;
            };
            if !self.map.get().is_owner(&address) {
                continue;
            }
            let node = self.node(&address).await;
            let node = node.map_err(|error| server::fault(&error))?;
            node.kill(&[&mark]).await?;
        }
        Ok(nameless)
    }

    /// A command, to wherever its key is.
    ///
    /// An i/o error is the end of the whole: whoever gets one waits for a new connection.
    pub(super) async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        if self.private {
            *self.sending() = None;
        }
        let result = match plan(cmd) {
            _ if self.private && name(cmd) == "WATCH" => self.watch(cmd).await,
            _ if self.private && name(cmd) == "UNWATCH" => self.unwatch(cmd).await,
            Plan::Slot(slot) => self.send_to(slot, cmd, None).await,
            Plan::Any => match self.any().await {
                Ok(node) => node.send(cmd).await,
                Err(error) => Err(error),
            },
            Plan::All(gather) => self.send_to_all(gather, cmd).await,
            Plan::Split(split) => self.send_parts(&split, cmd).await,
            Plan::Scan => self.scan(cmd).await,
        };
        self.settle(result)
    }

    /// A pipeline: each command to wherever its key is, those of one node in their order. A transaction
    /// is of one slot.
    pub(super) async fn send_batch(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let result = match pipeline.is_transaction() {
            true => self.transact(pipeline, offset, count).await,
            false => self.send_pipeline(pipeline).await,
        };
        self.settle(result)
    }

    fn settle<T>(&self, result: RedisResult<T>) -> RedisResult<T> {
        if let Err(error) = &result
            && error.is_io_error()
        {
            self.end();
        }
        result
    }

    async fn send_to(&self, slot: u16, cmd: &Cmd, first: Option<Redirect>) -> RedisResult<Value> {
        let mut redirect = first;
        let mut redirects = 0;
        let patience = Instant::now() + self.patience;
        // One that waits at a node is sent away when its slot moves, and has waited by then.
        let wait = match self.private {
            true => waiting_time(cmd),
            false => None,
        };
        let ends = wait.and_then(|wait| Instant::now().checked_add(wait));
        let mut cmd = Cow::Borrowed(cmd);
        loop {
            let (address, ask) = match redirect.take() {
                Some(Redirect { to, ask, .. }) => (to, ask),
                None => match self.map.get().owner(slot) {
                    Some(node) => (node.address.clone(), false),
                    None => return Ok(refusal("CLUSTERDOWN Hash slot not served")),
                },
            };
            let node = self.node(&address).await?;
            if self.private {
                *self.sending() = Some((address.clone(), node.mark().cloned()));
            }
            let reply = match ask {
                true => {
                    let mut asking = pipe();
                    asking.cmd("ASKING").add_command((*cmd).clone());
                    let replies = node.send_batch(&asking, 1, 1).await?;
                    replies.into_iter().next().ok_or_else(misfit)?
                }
                false => node.send(&cmd).await?,
            };
            if is_under_way(&reply) && Instant::now() < patience {
                sleep(PAUSE).await;
                continue;
            }
            redirect = self.redirect(&reply, &address);
            redirects += 1;
            if redirect.is_none() || redirects > REDIRECTS {
                return Ok(reply);
            }
            if let Some(ends) = ends {
                let left = ends.saturating_duration_since(Instant::now());
                cmd = Cow::Owned(with_timeout(&cmd, left));
            }
        }
    }

    async fn send_to_all(&self, gather: Gather, cmd: &Cmd) -> RedisResult<Value> {
        let primaries = self.map.get().primaries();
        let sent = primaries
            .iter()
            .map(async |address| self.node(address).await?.send(cmd).await);
        let gathered = join_all(sent).await;
        in_one(gathered, gather.reads(), |replies| gather.gather(replies))
    }

    async fn send_parts(&self, split: &Split, cmd: &Cmd) -> RedisResult<Value> {
        let parts = split.commands(cmd);
        let sent = parts.iter().map(async |part| match slot_of(part) {
            Some(slot) => self.send_to(slot, part, None).await,
            None => Ok(refusal("ERR a command without its key")),
        });
        let gathered = join_all(sent).await;
        in_one(gathered, split.reads(), |replies| split.gather(replies))
    }

    /// Through one primary after the other: the cursor says which, above those bits that are its own.
    async fn scan(&self, scan: &Cmd) -> RedisResult<Value> {
        let invalid = || Ok(refusal("ERR invalid cursor"));
        let Some(cursor) = cursor(scan) else {
            return invalid();
        };
        let primaries = self.map.get().primaries();
        let (at, own) = (cursor >> CURSOR_BITS, cursor & ((1 << CURSOR_BITS) - 1));
        let Some(address) = primaries.get(at as usize) else {
            return invalid();
        };
        let mut step = cmd("SCAN");
        step.arg(own);
        for arg in scan.args_iter().skip(2) {
            if let Arg::Simple(word) = arg {
                step.arg(word);
            }
        }
        let reply = self.node(address).await?.send(&step).await?;
        let Value::Array(mut parts) = reply else {
            return Ok(reply);
        };
        let next = parts.first().and_then(|next| match next {
            Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok(),
            _ => None,
        });
        let next = match next {
            Some(0) if at as usize + 1 == primaries.len() => 0,
            Some(0) => (at + 1) << CURSOR_BITS,
            Some(next) if next >> CURSOR_BITS == 0 => at << CURSOR_BITS | next,
            _ => return invalid(),
        };
        parts[0] = Value::BulkString(next.to_string().into_bytes());
        Ok(Value::Array(parts))
    }

    async fn watch(&self, watch: &Cmd) -> RedisResult<Value> {
        let mut slots = (1..watch.args_iter().len()).filter_map(|at| word(watch, at).map(slot));
        let Some(slot) = self.watched().or_else(|| slots.next()) else {
            return self.any().await?.send(watch).await;
        };
        // On another node nobody would look at it when the transaction is executed.
        if slots.any(|other| other != slot) {
            return Ok(refusal(CROSSSLOT));
        }
        *self.watching() = Some(slot);
        self.send_to(slot, watch, None).await
    }

    async fn unwatch(&self, unwatch: &Cmd) -> RedisResult<Value> {
        let watched = self.watching().take();
        match watched {
            Some(slot) => self.send_to(slot, unwatch, None).await,
            None => Ok(Value::Okay),
        }
    }

    async fn transact(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let watched = self.watched();
        let mut slots = pipeline.cmd_iter().filter_map(slot_of);
        let first = watched.or_else(|| slots.next());
        if slots.any(|slot| Some(slot) != first) {
            let what = "keys of several slots in one transaction";
            return Err(RedisError::from((ErrorKind::Client, what)));
        }
        let Some(slot) = first else {
            return self.any().await?.send_batch(pipeline, offset, count).await;
        };
        let mut target = None;
        let mut redirects = 0;
        let patience = Instant::now() + self.patience;
        loop {
            let address = match target.take() {
                Some(address) => address,
                None => match self.map.get().owner(slot) {
                    Some(node) => node.address.clone(),
                    None => return Err(not_found()),
                },
            };
            let node = self.node(&address).await?;
            let result = node.send_batch(pipeline, offset, count).await;
            let errors = match &result {
                Ok(_) => None,
                Err(error) => error.clone().into_server_errors(),
            };
            let errors = errors.as_deref().unwrap_or_default();
            let redirect = errors
                .iter()
                .find_map(|(_, error)| self.redirected(error, &address));
            let again = match &redirect {
                Some(Redirect { ask: false, .. }) => redirects < REDIRECTS,
                // There is no asking for a transaction: it waits until the slot has arrived.
                Some(_) => Instant::now() < patience,
                None => {
                    errors.iter().any(|(_, error)| error.code() == TRYAGAIN)
                        && Instant::now() < patience
                }
            };
            if !again {
                if result.is_ok() {
                    *self.watching() = None;
                }
                return result;
            }
            // It did not run. What was watched where it was is watched no more.
            if watched.is_some() {
                *self.watching() = None;
                return Ok(vec![Value::Nil]);
            }
            match redirect.filter(|redirect| !redirect.ask) {
                Some(Redirect { to, .. }) => {
                    redirects += 1;
                    target = Some(to);
                }
                None => sleep(PAUSE).await,
            }
        }
    }

    async fn send_pipeline(&self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut replies = Vec::with_capacity(pipeline.len());
        let mut run = Vec::new();
        // What concerns many nodes waits for what stands before it, and is waited for.
        for cmd in pipeline.cmd_iter() {
            match plan(cmd) {
                Plan::Slot(slot) => run.push((Some(slot), cmd)),
                Plan::Any => run.push((None, cmd)),
                Plan::All(_) | Plan::Split(_) | Plan::Scan => {
                    let before = self.send_run(&std::mem::take(&mut run)).await;
                    replies.extend(after(&replies, before, pipeline)?);
                    let reply = self.send(cmd).await.map(|reply| vec![reply]);
                    replies.extend(after(&replies, reply, pipeline)?);
                }
            }
        }
        let rest = self.send_run(&run).await;
        replies.extend(after(&replies, rest, pipeline)?);
        Ok(replies)
    }

    /// Commands of one node each, at once to all nodes.
    async fn send_run(&self, run: &[(Option<u16>, &Cmd)]) -> RedisResult<Vec<Value>> {
        let map = self.map.get();
        let anywhere = run.iter().find_map(|(slot, _)| *slot).unwrap_or_default();
        let mut groups: Vec<(Address, Vec<usize>)> = Vec::new();
        for (at, (slot, _)) in run.iter().enumerate() {
            let Some(node) = map.owner(slot.unwrap_or(anywhere)) else {
                return Err(not_found());
            };
            match groups
                .iter_mut()
                .find(|(address, _)| *address == node.address)
            {
                Some((_, group)) => group.push(at),
                None => groups.push((node.address.clone(), vec![at])),
            }
        }
        // All nodes, before the first of them gets anything.
        let nodes = join_all(groups.iter().map(|(address, _)| self.node(address))).await;
        let nodes = nodes.into_iter().collect::<RedisResult<Vec<_>>>()?;
        let sent = groups.iter().zip(&nodes).map(async |((_, group), node)| {
            let mut part = pipe();
            for at in group {
                part.add_command(run[*at].1.clone());
            }
            node.send_batch(&part, 0, group.len()).await
        });
        let sent = join_all(sent).await;
        let mut replies = vec![Value::Nil; run.len()];
        for ((_, group), sent) in groups.iter().zip(sent) {
            for (at, reply) in group.iter().zip(sent?) {
                replies[*at] = reply;
            }
        }
        for (address, group) in &groups {
            for at in group {
                let (slot, cmd) = run[*at];
                let sent_on = match (self.redirect(&replies[*at], address), slot) {
                    (Some(redirect), _) => self.send_to(redirect.slot, cmd, Some(redirect)).await,
                    (None, Some(slot)) if is_under_way(&replies[*at]) => {
                        self.send_to(slot, cmd, None).await
                    }
                    (None, _) => continue,
                };
                // The others have run.
                replies[*at] = sent_on.map_err(|error| match error.is_io_error() {
                    true => error,
                    false => partly(),
                })?;
            }
        }
        Ok(replies)
    }

    /// Of a private connection: which node has its last command, as far as that has been sent, and what
    /// we are called there. Another one when it has been sent on.
    pub(super) fn sent_to(&self) -> Option<SentTo> {
        self.sending().clone()
    }

    /// A connection to this node, made if there is none.
    pub(super) async fn node(&self, address: &Address) -> RedisResult<Server> {
        if self.private {
            self.used.add(address);
        }
        let map = self.map.get();
        let known = map.node(address).and_then(|node| node.connected.as_ref());
        if let Some(known) = known {
            return Ok(known.handle.clone());
        }
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Connect(address.clone(), answer));
        match timeout(self.patience, answered).await {
            Ok(Ok(Ok(handle))) => Ok(handle),
            Ok(Ok(Err(_))) | Err(_) => Err(not_found()),
            Ok(Err(_)) => Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()),
        }
    }

    /// Some primary; another one every time, of those that are connected if possible.
    async fn any(&self) -> RedisResult<Server> {
        let map = self.map.get();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let connected = |address: &&Address| {
            let node = map.node(address);
            node.is_some_and(|node| node.connected.is_some())
        };
        let primaries = map.primaries();
        let ready: Vec<_> = primaries.iter().filter(connected).collect();
        let chosen = match ready.len() {
            0 => primaries.first(),
            some => ready.get(turn % some).copied(),
        };
        self.node(chosen.ok_or_else(not_found)?).await
    }

    /// Where a command belongs that was answered like this by the node at `from`, if that is elsewhere.
    fn redirect(&self, reply: &Value, from: &Address) -> Option<Redirect> {
        match reply {
            Value::ServerError(error) => self.redirected(error, from),
            _ => None,
        }
    }

    fn redirected(&self, error: &ServerError, from: &Address) -> Option<Redirect> {
        let redirect = Redirect::of(error, from)?;
        if !redirect.ask {
            let (slot, to) = (redirect.slot, redirect.to.clone());
            let _ = self.orders.send(Order::Moved { slot, to });
        }
        Some(redirect)
    }

    fn watched(&self) -> Option<u16> {
        *self.watching()
    }

    #[allow(clippy::disallowed_types)]
    fn sending(&self) -> std::sync::MutexGuard<'_, Option<SentTo>> {
        self.sent_to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(clippy::disallowed_types)]
    fn watching(&self) -> std::sync::MutexGuard<'_, Option<u16>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a node answers, and finds the cluster complete.
async fn look(handle: &Server) -> Verdict {
    let text = match handle.ask(cmd("CLUSTER").arg("INFO")).await {
        Ok(reply) => text_of(reply),
        // Not permitted to ask that.
        Err(fault) if fault.kind == FaultKind::Other => None,
        Err(fault) => return Verdict::Unhealthy(fault),
    };
    let Some(text) = text else {
        return handle.ping().await;
    };
    match text
        .lines()
        .any(|line| line.trim_end() == "cluster_state:ok")
    {
        true => Verdict::Healthy,
        false => Verdict::Unhealthy(Fault::new(FaultKind::State, "CLUSTERDOWN")),
    }
}

/// A key that this node serves.
fn probe_key(map: &Map, address: &Address) -> String {
    let mut keys = (0u32..).map(|n| format!("{}:{n}", PROBE_KEY));
    let ours = |key: &String| {
        let owner = map.owner(slot(key.as_bytes()));
        owner.is_some_and(|node| node.address == *address)
    };
    keys.find(ours).unwrap_or_default()
}
