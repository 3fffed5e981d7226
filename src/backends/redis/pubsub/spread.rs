//! A link to a cluster: a link to each node that is needed.
//!
//! A shard channel is known to the node of its slot only; channels and patterns are known to all, and are
//! subscribed to on one. The [`table`] decides what goes where; here it is done. Towards the subscriber it
//! is one link: it holds when all of them do.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::redis::ProtocolVersion;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::table::{Step, Table};
use super::link::{Heard, Link, LinkOrder, Report, Reports};
use super::names::Name;
use crate::backends::redis::cluster::{Layout, Seeds};
use crate::backends::redis::endpoint::place::Address;
use crate::backends::redis::error::to_redis;
use crate::engine::backend::{Fault, FaultKind, Purpose, Wiring};
use crate::engine::error::{Error, ErrorKind};

/// Links to the nodes of a cluster; runs in a task of its own.
pub(super) struct Spread {
    /// As whom it is ordered about and reports.
    whole: Link,
    seeds: Arc<Seeds>,
    table: Table,
    branches: BTreeMap<u64, Branch>,
    reports: Reports,
    looking: Option<Looking>,
}

/// A link to a node as it is known here.
struct Branch {
    orders: mpsc::UnboundedSender<LinkOrder>,
    heard: Heard,
    _task: AbortOnDropHandle<()>,
}

type Looking = BoxFuture<'static, Result<(Address, Layout), Fault>>;

impl Spread {
    pub(super) fn new(whole: Link, seeds: Arc<Seeds>) -> Self {
        // Over RESP2 they are refused, for which any node will do.
        let shards = whole.database.endpoint().protocol() == ProtocolVersion::RESP3;
        let table = Table::new(shards, whole.wanted.clone(), whole.version, Instant::now());
        Self {
            whole,
            seeds,
            table,
            branches: BTreeMap::new(),
            reports: mpsc::unbounded_channel(),
            looking: None,
        }
    }

    /// Runs until told to leave, or until nobody holds its orders.
    pub(super) async fn run(mut self) {
        loop {
            for step in self.table.settle(Instant::now()) {
                if self.take(step) {
                    return;
                }
            }
            let wake = self.table.wake();
            let wake = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = self.whole.orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                Some((number, report)) = self.reports.1.recv() => self.hear(number, report),
                found = looked(&mut self.looking) => {
                    self.looking = None;
                    self.table.looked(found);
                }
                () = wake => {}
            }
        }
    }

    fn obey(&mut self, order: LinkOrder) {
        match order {
            LinkOrder::Change { version, changes } => {
                self.table.want(version, changes, Instant::now());
            }
            LinkOrder::Ping { message, answer } => {
                let home = self.table.home();
                match home.and_then(|home| self.branches.get(&home)) {
                    Some(home) => {
                        let _ = home.orders.send(LinkOrder::Ping { message, answer });
                    }
                    None => {
                        let _ = answer.send(Err(to_redis(Error::new(ErrorKind::Unavailable))));
                    }
                }
            }
            LinkOrder::Leave(left) => {
                self.table.leave();
                for branch in self.branches.values() {
                    let _ = branch.orders.send(LinkOrder::Leave(left.clone()));
                }
            }
            LinkOrder::Stay => {
                self.table.stay();
                for branch in self.branches.values() {
                    let _ = branch.orders.send(LinkOrder::Stay);
                }
            }
        }
    }

    fn hear(&mut self, number: u64, report: Report) {
        let report = match (report, self.branches.get(&number)) {
            // It had left when it was told to stay.
            (Report::Left, Some(branch)) if !self.table.is_leaving() => Report::Lost {
                since: branch.heard.last(),
            },
            (report, _) => report,
        };
        self.table.hear(number, report, Instant::now());
    }

    /// True: it is done.
    fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Look { ask } => self.looking = Some(self.look(ask)),
            Step::Open { number, at, names } => self.open(number, at, names),
            Step::Tell {
                number,
                version,
                changes,
            } => {
                if let Some(branch) = self.branches.get(&number) {
                    let _ = branch.orders.send(LinkOrder::Change { version, changes });
                }
            }
            Step::Close { number } => {
                self.branches.remove(&number);
                self.note_parts();
            }
            Step::Report(report) => {
                let left = matches!(report, Report::Left);
                self.whole.report(report);
                return left;
            }
        }
        false
    }

    fn look(&self, ask: Option<Address>) -> Looking {
        let (core, database) = (self.whole.core.clone(), self.whole.database.clone());
        let seeds = self.seeds.clone();
        Box::pin(async move {
            let calls = database.calls(&core.config.calls);
            let wiring = Wiring::new(Purpose::Probe, calls.response_timeout);
            let looking = (core.backend).look(&seeds, database.endpoint(), &wiring, ask);
            let late = || Err(Fault::new(FaultKind::Silent, "no node answers in time"));
            let found = timeout(calls.connect_timeout, looking).await;
            found.unwrap_or_else(|_| late())
        })
    }

    fn open(&mut self, number: u64, at: Address, names: BTreeSet<Name>) {
        let node = match self.whole.database.endpoint().at(at) {
            Ok(node) => node,
            Err(fault) => {
                let _ = self.reports.0.send((number, Report::Failed(fault)));
                return;
            }
        };
        let (orders, receiver) = mpsc::unbounded_channel();
        let heard = Heard::now();
        let link = Link {
            number,
            core: self.whole.core.clone(),
            database: self.whole.database.clone(),
            node: Some(node),
            orders: receiver,
            reports: self.reports.0.clone(),
            out: self.whole.out.clone(),
            heard: heard.clone(),
            wanted: names,
            version: 0,
        };
        let branch = Branch {
            orders,
            heard,
            _task: AbortOnDropHandle::new(tokio::spawn(link.run())),
        };
        self.branches.insert(number, branch);
        self.note_parts();
    }

    fn note_parts(&self) {
        let parts = self.branches.values();
        let parts = parts.map(|branch| branch.heard.clone());
        self.whole.heard.consist_of(parts.collect());
    }
}

async fn looked(looking: &mut Option<Looking>) -> Result<(Address, Layout), Fault> {
    match looking {
        Some(looking) => looking.await,
        None => std::future::pending().await,
    }
}
