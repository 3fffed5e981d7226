//! The task that keeps the connections to a cluster's nodes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::redis::cmd;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::map::{Connected, Map};
use super::marks::{Marks, Used};
use super::seeds::Seeds;
use super::slots::Layout;
use crate::backends::redis::endpoint::RedisEndpoint;
use crate::backends::redis::endpoint::place::Address;
use crate::backends::redis::server::{Opener, Server};
use crate::engine::backend::{Fault, FaultKind, LostSignal, Purpose, Wiring};
use crate::engine::published::Published;

/// The only one who changes the map.
pub(super) struct Keeper {
    nodes: Nodes,
    seeds: Arc<Seeds>,
    map: Arc<Published<Arc<Map>>>,
    marks: Arc<Marks>,
    used: Arc<Used>,
    lost: LostSignal,
    orders: mpsc::UnboundedReceiver<Order>,
    connecting: FuturesUnordered<BoxFuture<'static, (Address, Result<Opened, Fault>)>>,
    waiting: HashMap<Address, Vec<oneshot::Sender<Result<Server, Fault>>>>,
    losses: FuturesUnordered<BoxFuture<'static, (Address, u64)>>,
    asking: Option<BoxFuture<'static, Result<Layout, Fault>>>,
    curious: Vec<oneshot::Sender<Result<(), Fault>>>,
    serial: u64,
}

/// How connections to nodes are made.
#[derive(Clone)]
pub(super) struct Nodes {
    pub(super) opener: Opener,
    pub(super) endpoint: RedisEndpoint,
    /// Of the whole; each node's connection has a signal of its own.
    pub(super) wiring: Wiring,
}

pub(super) struct Opened {
    pub(super) handle: Server,
    pub(super) lost: LostSignal,
}

pub(super) enum Order {
    /// A connection to this node is needed.
    Connect(Address, oneshot::Sender<Result<Server, Fault>>),
    /// A node says that another one serves a slot.
    Moved { slot: u16, to: Address },
    /// See who serves what by now.
    Refresh(oneshot::Sender<Result<(), Fault>>),
}

/// How often it is looked who serves what, without a reason.
const INTERVAL: Duration = Duration::from_secs(30);

impl Nodes {
    /// To one node. Cancel-safe.
    pub(super) async fn open(&self, address: &Address) -> Result<Opened, Fault> {
        let at = |fault: Fault| Fault {
            what: format!("node {address}: {}", fault.what),
            ..fault
        };
        let endpoint = self.endpoint.at(address.clone()).map_err(at)?;
        let wiring = Wiring {
            lost: LostSignal::default(),
            ..self.wiring.clone()
        };
        let lost = wiring.lost.clone();
        let opened = self.opener.open(&endpoint, &endpoint, wiring).await;
        let handle = opened.map_err(at)?;
        Ok(Opened { handle, lost })
    }

    /// Whether all primaries are connected to before anybody asks.
    pub(super) fn is_eager(&self) -> bool {
        self.wiring.purpose != Purpose::Lane
    }
}

impl Keeper {
    pub(super) fn new(
        nodes: Nodes,
        seeds: Arc<Seeds>,
        map: Arc<Published<Arc<Map>>>,
        marks: Arc<Marks>,
        used: Arc<Used>,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        Self {
            lost: nodes.wiring.lost.clone(),
            nodes,
            seeds,
            map,
            marks,
            used,
            orders,
            connecting: FuturesUnordered::new(),
            waiting: HashMap::new(),
            losses: FuturesUnordered::new(),
            asking: None,
            curious: Vec::new(),
            serial: 0,
        }
    }

    /// Runs until the whole has ended, which it is to report itself.
    pub(super) async fn run(mut self) {
        let mut due = Instant::now() + INTERVAL;
        loop {
            let lost = self.lost.clone();
            tokio::select! {
                biased;
                () = lost.wait() => return,
                Some((address, serial)) = self.losses.next() => {
                    let map = self.map.get();
                    // One that serves nothing any more may go, and so may one that a private connection
                    // has nothing on.
                    if map.node(&address).is_some_and(|node| {
                        node.connected.as_ref().is_some_and(|known| known.serial == serial)
                    }) {
                        let needed = self.nodes.is_eager() || self.used.contains(&address);
                        if map.is_owner(&address) && needed {
                            self.lost.report();
                            return;
                        }
                        self.map.set(Arc::new(map.without(&address, serial)));
                    }
                }
                order = self.orders.recv() => match order {
                    None => return,
                    Some(Order::Connect(address, answer)) => self.connect(address, Some(answer)),
                    Some(Order::Moved { slot, to }) => {
                        let map = self.map.get();
                        if map.owner(slot).is_none_or(|node| node.address != to) {
                            self.map.set(Arc::new(map.moved(slot, &to)));
                            self.ask();
                        }
                    }
                    Some(Order::Refresh(answer)) => {
                        self.curious.push(answer);
                        self.ask();
                    }
                },
                Some((address, opened)) = self.connecting.next() => self.connected(address, opened),
                layout = answered(&mut self.asking) => {
                    self.asking = None;
                    due = Instant::now() + INTERVAL;
                    self.arrange(layout);
                }
                () = sleep_until(due) => self.ask(),
            }
        }
    }

    fn connect(
        &mut self,
        address: Address,
        answer: Option<oneshot::Sender<Result<Server, Fault>>>,
    ) {
        let map = self.map.get();
        let known = map.node(&address).and_then(|node| node.connected.as_ref());
        if let Some(known) = known {
            if let Some(answer) = answer {
                let _ = answer.send(Ok(known.handle.clone()));
            }
            return;
        }
        let under_way = self.waiting.contains_key(&address);
        self.waiting
            .entry(address.clone())
            .or_default()
            .extend(answer);
        if !under_way {
            let (nodes, limit) = (self.nodes.clone(), self.limit());
            self.connecting.push(Box::pin(async move {
                let late = || Fault::new(FaultKind::Silent, format!("node {address}: silent"));
                let opened = timeout(limit, nodes.open(&address)).await;
                let opened = opened.unwrap_or_else(|_| Err(late()));
                (address, opened)
            }));
        }
    }

    fn limit(&self) -> Duration {
        self.nodes
            .wiring
            .response_timeout
            .max(Duration::from_secs(1))
    }

    fn connected(&mut self, address: Address, opened: Result<Opened, Fault>) {
        let waiting = self.waiting.remove(&address).unwrap_or_default();
        let result = opened.map(|opened| {
            let handle = opened.handle.clone();
            self.take(&address, opened);
            handle
        });
        for waiting in waiting {
            let _ = waiting.send(result.clone());
        }
    }

    /// Enters a connection in the map.
    pub(super) fn take(&mut self, address: &Address, opened: Opened) {
        self.serial += 1;
        let serial = self.serial;
        self.marks.add(address, &opened.handle);
        let connected = Connected {
            handle: opened.handle,
            serial,
        };
        let map = self.map.get().with(address, Some(connected));
        self.map.set(Arc::new(map));
        let address = address.clone();
        self.losses.push(Box::pin(async move {
            opened.lost.wait().await;
            (address, serial)
        }));
    }

    /// Asks one node after the other who serves what, beginning with another one every time.
    fn ask(&mut self) {
        if self.asking.is_some() {
            return;
        }
        let map = self.map.get();
        let nodes = map.nodes().iter();
        let mut asked: Vec<_> = nodes
            .filter_map(|node| {
                let handle = node.connected.as_ref()?.handle.clone();
                Some((node.address.clone(), handle))
            })
            .collect();
        self.serial += 1;
        let first = self.serial as usize % asked.len().max(1);
        asked.rotate_left(first);
        let limit = self.limit();
        self.asking = Some(Box::pin(async move {
            let mut last = Fault::new(FaultKind::Lost, "no node is connected");
            for (address, handle) in asked {
                let layout = timeout(limit, layout(&handle, &address)).await;
                match layout {
                    Ok(Ok(layout)) => return Ok(layout),
                    Ok(Err(fault)) => last = fault,
                    Err(_) => {
                        last = Fault::new(FaultKind::Silent, format!("node {address}: silent"));
                    }
                }
            }
            Err(last)
        }));
    }

    fn arrange(&mut self, layout: Result<Layout, Fault>) {
        let result = layout.map(|layout| {
            self.seeds.know(&layout);
            let map = self.map.get().arranged(&layout);
            self.map.set(Arc::new(map));
        });
        if result.is_ok() && self.nodes.is_eager() {
            for address in self.map.get().primaries() {
                self.connect(address, None);
            }
        }
        for curious in self.curious.drain(..) {
            let _ = curious.send(result.clone());
        }
    }
}

impl Drop for Keeper {
    /// However it ends: nobody may wait for the whole any more, and a connection that it has entered
    /// meanwhile ends with the others.
    fn drop(&mut self) {
        self.lost.report();
        self.map.get().end();
    }
}

/// Who serves what, by the word of this node.
pub(super) async fn layout(handle: &Server, address: &Address) -> Result<Layout, Fault> {
    let at = |what: &str| format!("node {address}: {what}");
    let reply = handle.ask(cmd("CLUSTER").arg("SLOTS")).await;
    let reply = reply.map_err(|fault| Fault {
        what: at(&fault.what),
        ..fault
    })?;
    let host = match address {
        Address::Tcp { host, .. } => host.as_str(),
        Address::Unix(_) => "",
    };
    Layout::parse(&reply, host)
        .ok_or_else(|| Fault::new(FaultKind::Other, at("its CLUSTER SLOTS cannot be read")))
}

async fn answered<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
