//! The backend: connecting, checking, fencing, aborting.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
// Short lists, touched when a lane is taken or given back, and by scans.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{Arc, PoisonError};

use ::redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use futures_util::FutureExt;
use futures_util::future::Either;

use super::cluster::{Cluster, Layout, Marks, Seeds};
use super::commands::is_among;
use super::connector::{Connector, Dialer};
use super::cursors::Cursors;
use super::endpoint::RedisEndpoint;
use super::endpoint::place::{Address, Place};
use super::lane::Lane;
use super::scripts::{Script, Scripts, Sha};
use super::server::{ClientMark, NAMELESS, Opener, PROBE_KEY, Server, fault, said_by};
use crate::engine::backend::{Backend, Depth, Fault, FaultKind, Mark, Meter, Verdict, Wiring};
use crate::engine::database::Database;

/// The Redis backend. Opens its transports through a [`Connector`].
pub struct Redis {
    opener: Opener,
    /// Private connections that nobody uses at the moment.
    #[allow(clippy::disallowed_types)]
    lanes: Mutex<Vec<Lane>>,
    #[allow(clippy::disallowed_types)]
    cursors: Mutex<Cursors>,
    #[allow(clippy::disallowed_types)]
    scripts: Mutex<Scripts>,
    /// Of commands that the user says only read.
    read_only: BTreeSet<String>,
}

/// A connection to a Redis database; clones share it.
#[derive(Clone)]
pub struct RedisHandle {
    pub(super) con: Con,
    shared: Arc<Shared>,
}

/// What a database is made of.
#[derive(Clone)]
pub(super) enum Con {
    Server(Server),
    Cluster(Arc<Cluster>),
}

struct Shared {
    meter: Arc<Meter>,
    /// Scripts that this connection has loaded, and what it was then: see [`RedisHandle::nodes`].
    #[allow(clippy::disallowed_types)]
    loaded: Mutex<(u64, Vec<Sha>)>,
}

/// Where a command is that blocks a private connection.
pub(super) enum Blocked {
    /// Not at a server yet.
    Nowhere,
    /// Where our connection has no name, so that nobody can speak of it.
    Nameless,
    At(Spot),
}

/// A connection by its name at a server: at a node of a cluster, or at the one there is.
pub(super) struct Spot {
    node: Option<Address>,
    pub(super) mark: ClientMark,
}

/// What names a connection where it leads to.
enum Named {
    Server(Option<ClientMark>),
    Cluster(Arc<Marks>),
}

/// At most so many private connections are kept for the next one who needs one.
const SPARE_LANES: usize = 8;

// === impl Redis ===

impl Redis {
    /// A backend that opens its transports through `connector`.
    #[allow(clippy::disallowed_types)]
    pub fn new(connector: impl Connector) -> Self {
        Self {
            opener: Opener::new(connector),
            lanes: Mutex::new(Vec::new()),
            cursors: Mutex::new(Cursors::of_a_client()),
            scripts: Mutex::default(),
            read_only: BTreeSet::new(),
        }
    }

    pub(super) fn connect_by(&mut self, connector: impl Connector) {
        self.opener = Opener::new(connector);
    }

    pub(super) fn add_read_only(&mut self, names: impl Iterator<Item = String>) {
        self.read_only.extend(names);
    }

    /// Whether the user says that it only reads.
    pub(super) fn is_said_to_read(&self, command: &Cmd) -> bool {
        is_among(command, &self.read_only)
    }

    pub(super) fn is_overridden(&self) -> bool {
        !self.read_only.is_empty()
    }

    /// A spare private connection that `fits`; the others that do not are ended.
    pub(super) fn take_lane(&self, fits: impl Fn(&Lane) -> bool) -> Option<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(&fits);
        lanes.pop()
    }

    pub(super) fn keep_lane(&self, lane: Lane) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() < SPARE_LANES && !self.opener.closed.is_cancelled() {
            lanes.push(lane);
        }
    }

    /// Of scans that callers step through by hand.
    #[allow(clippy::disallowed_types)]
    pub(super) fn cursors(&self) -> std::sync::MutexGuard<'_, Cursors> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That callers have loaded.
    #[allow(clippy::disallowed_types)]
    pub(super) fn scripts(&self) -> std::sync::MutexGuard<'_, Scripts> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn dialer(&self) -> &Dialer {
        &self.opener.dialer
    }

    /// A server that an endpoint leads to at the moment: itself, the master that its sentinels name, a
    /// node of its cluster.
    pub(super) async fn locate<'a>(
        &self,
        endpoint: &'a RedisEndpoint,
        wiring: &Wiring,
    ) -> Result<Cow<'a, RedisEndpoint>, Fault> {
        match endpoint.place() {
            Place::At(_) => Ok(Cow::Borrowed(endpoint)),
            Place::Sentinel(sentinels) => {
                let found = sentinels.find(self.dialer(), endpoint).await?;
                Ok(Cow::Owned(found))
            }
            Place::Cluster(seeds) => {
                let found = seeds.find(&self.opener, endpoint, wiring).await?;
                Ok(Cow::Owned(found))
            }
        }
    }

    /// A node of a cluster that answers, and who serves what by its word; see [`Seeds::look`].
    pub(super) async fn look(
        &self,
        seeds: &Seeds,
        endpoint: &RedisEndpoint,
        wiring: &Wiring,
        first: Option<Address>,
    ) -> Result<(Address, Layout), Fault> {
        seeds.look(&self.opener, endpoint, wiring, first).await
    }

    /// A connection to the server of a spot only.
    pub(super) async fn connect_to(
        &self,
        spot: &Spot,
        endpoint: &RedisEndpoint,
        wiring: Wiring,
    ) -> Result<RedisHandle, Fault> {
        match &spot.node {
            Some(node) => self.open(&endpoint.at(node.clone())?, wiring).await,
            None => self.open(endpoint, wiring).await,
        }
    }

    async fn open(&self, endpoint: &RedisEndpoint, wiring: Wiring) -> Result<RedisHandle, Fault> {
        let meter = wiring.meter.clone();
        let con = match endpoint.place() {
            Place::Cluster(seeds) => {
                let cluster = Cluster::open(&self.opener, endpoint, seeds, wiring).await?;
                Con::Cluster(Arc::new(cluster))
            }
            Place::At(_) | Place::Sentinel(_) => {
                let found = self.locate(endpoint, &wiring).await?;
                Con::Server(self.opener.open(&found, endpoint, wiring).await?)
            }
        };
        let shared = Shared {
            meter,
            loaded: Default::default(),
        };
        Ok(RedisHandle {
            con,
            shared: Arc::new(shared),
        })
    }
}

impl Backend for Redis {
    type Endpoint = RedisEndpoint;
    type Handle = RedisHandle;
    type Error = RedisError;

    async fn connect(
        &self,
        database: &Database<RedisEndpoint>,
        wiring: Wiring,
    ) -> Result<RedisHandle, Fault> {
        self.open(database.endpoint(), wiring).await
    }

    async fn check(&self, handle: &RedisHandle, depth: Depth) -> Verdict {
        match (&handle.con, depth) {
            (Con::Server(server), Depth::Alive) => server.ping().await,
            (Con::Server(server), Depth::Serving) => server.write_probe(PROBE_KEY).await,
            (Con::Cluster(cluster), depth) => cluster.check(depth).await,
        }
    }

    fn abort(&self, handle: &RedisHandle) {
        handle.abort();
    }

    /// A connection that the server would not name has a mark, too: that it cannot be fenced is told.
    fn mark(&self, handle: &RedisHandle) -> Option<Mark> {
        Some(Arc::new(match &handle.con {
            Con::Server(server) => Named::Server(server.mark().cloned()),
            Con::Cluster(cluster) => Named::Cluster(cluster.marks().clone()),
        }))
    }

    async fn fence(&self, handle: &RedisHandle, marks: Vec<Mark>) -> Result<(), Fault> {
        let (mut servers, mut clusters, mut nameless) = (Vec::new(), Vec::new(), false);
        for mark in &marks {
            match mark.downcast_ref() {
                Some(Named::Server(Some(mark))) => servers.push(mark),
                Some(Named::Server(None)) => nameless = true,
                Some(Named::Cluster(marks)) => clusters.push(marks),
                None => {}
            }
        }
        // A database is one or the other for as long as it lives.
        match &handle.con {
            Con::Server(server) => server.kill(&servers).await?,
            Con::Cluster(cluster) => {
                for marks in clusters {
                    nameless |= cluster.fence(marks).await?;
                }
            }
        }
        match nameless {
            true => Err(Fault::new(FaultKind::Other, NAMELESS)),
            false => Ok(()),
        }
    }

    fn close(&self) {
        self.opener.closed.cancel();
        drop(self.take_lane(|_| false));
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

// === impl RedisHandle ===

impl RedisHandle {
    /// What a server calls it, if it is a connection to one server.
    pub(super) fn mark(&self) -> Option<&ClientMark> {
        match &self.con {
            Con::Server(server) => server.mark(),
            Con::Cluster(_) => None,
        }
    }

    /// Where the command is that was sent last, on a private connection.
    pub(super) fn blocked(&self) -> Blocked {
        let (node, mark) = match &self.con {
            Con::Server(server) => (None, server.mark().cloned()),
            Con::Cluster(cluster) => match cluster.sent_to() {
                Some((node, mark)) => (Some(node), mark),
                None => return Blocked::Nowhere,
            },
        };
        match mark {
            Some(mark) => Blocked::At(Spot { node, mark }),
            None => Blocked::Nameless,
        }
    }

    /// A command to the server of a spot.
    pub(super) async fn ask_at(&self, spot: &Spot, command: &Cmd) -> Result<Value, Fault> {
        match (&self.con, &spot.node) {
            (Con::Cluster(cluster), Some(node)) => {
                let node = cluster.node(node).await;
                node.map_err(|error| fault(&error))?.ask(command).await
            }
            (_, _) => self.ask(command).await,
        }
    }

    pub(super) fn meter(&self) -> &Arc<Meter> {
        &self.shared.meter
    }

    /// Whether what is handed over first arrives first.
    pub(super) fn keeps_order(&self) -> bool {
        matches!(self.con, Con::Server(_))
    }

    /// Those of the scripts that this connection has not loaded yet.
    pub(super) fn not_loaded<'a>(&self, scripts: &'a [Script]) -> Vec<&'a Script> {
        let (nodes, mut loaded) = (self.nodes(), self.loaded());
        if loaded.0 != nodes {
            *loaded = (nodes, Vec::new());
        }
        let missing = scripts.iter();
        missing
            .filter(|script| !loaded.1.contains(&script.sha))
            .collect()
    }

    /// On the nodes that there were when it was asked what they had not.
    pub(super) fn has_loaded(&self, scripts: &[&Script]) {
        let scripts = scripts.iter().map(|script| script.sha);
        self.loaded().1.extend(scripts);
    }

    /// Changes with the nodes of a cluster: who joins or takes over has loaded nothing.
    fn nodes(&self) -> u64 {
        match &self.con {
            Con::Server(_) => 0,
            Con::Cluster(cluster) => cluster.fingerprint(),
        }
    }

    #[allow(clippy::disallowed_types)]
    fn loaded(&self) -> std::sync::MutexGuard<'_, (u64, Vec<Sha>)> {
        (self.shared.loaded.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn abort(&self) {
        match &self.con {
            Con::Server(server) => server.abort(),
            Con::Cluster(cluster) => cluster.end(),
        }
    }

    /// Runs a command beside the callers' own, such as one of a [`HealthCheck`](crate::HealthCheck). It has no deadline
    /// here: a check is dropped when its time is up. In a cluster it goes to the node of its key, or to any.
    ///
    /// # Errors
    /// What it says of the database, as a [`Verdict::Unhealthy`] needs it.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        let result = self.con.clone().send(command).await;
        self.shared.meter.replied();
        said_by(command, result)
    }

    pub(super) async fn write_probe(&self) -> Verdict {
        match &self.con {
            Con::Server(server) => server.write_probe(PROBE_KEY).await,
            Con::Cluster(cluster) => cluster.check(Depth::Serving).await,
        }
    }
}

impl fmt::Debug for RedisHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisHandle")
            .field("client", &self.mark().map(|mark| mark.id))
            .finish_non_exhaustive()
    }
}

// === impl Con ===

impl Con {
    /// Not a block around the driver's future, which would be polled as well; and a cluster's future is
    /// boxed and owns what it needs, so that it does not make that of a plain command larger.
    #[inline]
    pub(super) fn send(
        &mut self,
        command: &Cmd,
    ) -> impl Future<Output = RedisResult<Value>> + Send {
        match self {
            Self::Server(server) => Either::Left(server.con.send_packed_command(command)),
            Self::Cluster(cluster) => {
                let (cluster, command) = (cluster.clone(), command.clone());
                Either::Right(async move { cluster.send(&command).await }.boxed())
            }
        }
    }

    #[inline]
    pub(super) async fn send_batch(
        &mut self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        match self {
            Self::Server(server) => {
                let con = &mut server.con;
                con.send_packed_commands(pipeline, offset, count).await
            }
            Self::Cluster(cluster) => cluster.send_batch(pipeline, offset, count).boxed().await,
        }
    }
}
