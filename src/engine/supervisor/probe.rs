//! Carrying out a probe: over the connection at hand, or over a new one, fenced first.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Done;
use crate::engine::backend::{Backend, Fault, FaultKind, Mark, Purpose, Verdict, Wiring};
use crate::engine::calls::Calls;
use crate::engine::database::Database;
use crate::engine::health::{self, List};
use crate::engine::live::{Conn, Core, connect};
use crate::engine::machine::{Probe, Slot};
use crate::engine::statistics::Counters;

/// One probe, with all that it needs: it runs in a task of its own.
pub(super) struct ProbeTask<B: Backend> {
    pub(super) core: Arc<Core<B>>,
    pub(super) checks: List<B>,
    pub(super) database: Arc<Database<B::Endpoint>>,
    pub(super) probe: Probe,
    pub(super) marks: Vec<Mark>,
    pub(super) counters: Arc<Counters>,
    pub(super) conn: Option<Arc<Conn<B>>>,
    /// The callers' connection, for a server that takes no other.
    pub(super) spare: Option<Arc<Conn<B>>>,
    /// A connection made by this probe.
    pub(super) fresh: Option<Arc<Conn<B>>>,
    pub(super) fence: Fence,
    pub(super) rtt: Option<Duration>,
    pub(super) incarnation: u64,
}

/// What was fenced over a fresh connection before its first use.
#[derive(Default)]
pub(super) struct Fence {
    pub(super) marks: usize,
    pub(super) fault: Option<Fault>,
}

impl<B: Backend> ProbeTask<B> {
    pub(super) async fn run(mut self) -> Done<B> {
        let verdict = if self.probe.round {
            let config = self.core.config.health.clone();
            // The policy wants a closure; the state moves through it one attempt at a time.
            let state = tokio::sync::Mutex::new(&mut self);
            health::round(&config, || async { state.lock().await.attempt().await }).await
        } else {
            self.attempt().await
        };
        Done::Probed {
            probe: self.probe.clone(),
            verdict,
            rtt: self.rtt,
            fresh: self.fresh.take(),
            fence: std::mem::take(&mut self.fence),
        }
    }

    /// One attempt. A connection that turns out to be lost is made anew once.
    async fn attempt(&mut self) -> Verdict {
        let deadline = Instant::now() + self.probe.timeout;
        if let Some(conn) = self.conn.clone().filter(|conn| !conn.lost.is_lost()) {
            let verdict = self.look(&conn, deadline).await;
            let lost = matches!(&verdict, Verdict::Unhealthy(f) if f.kind == FaultKind::Lost);
            if verdict == Verdict::Healthy && self.probe.anew {
                return self.look_anew(deadline).await;
            }
            if !lost {
                return verdict;
            }
        }
        match self.connect(deadline).await {
            Ok(conn) => self.look(&conn, deadline).await,
            Err(fault) => match self.spare.clone() {
                // It answered, but gives no second connection: a server at its limit of clients. Or we have
                // reached ours.
                Some(spare)
                    if matches!(
                        fault.kind,
                        FaultKind::Lost | FaultKind::State | FaultKind::Local
                    ) && !spare.lost.is_lost() =>
                {
                    self.look(&spare, deadline).await
                }
                _ => Verdict::Unhealthy(fault),
            },
        }
    }

    async fn look(&mut self, conn: &Arc<Conn<B>>, deadline: Instant) -> Verdict {
        let started = Instant::now();
        let timeout = deadline.saturating_duration_since(started);
        let backend = &self.core.backend;
        let looking = health::Look {
            backend,
            database: &self.database,
            handle: &conn.handle,
            depth: self.probe.depth,
            thorough: self.probe.thorough,
            timeout,
        };
        let (verdict, rtt) = looking.at(&self.checks).await;
        self.rtt = rtt.or(self.rtt);
        verdict
    }

    /// Whether another connection can be made. The one that stands is as good as it was if not.
    async fn look_anew(&mut self, deadline: Instant) -> Verdict {
        self.probe.anew = false;
        let calls = self.database.calls(&self.core.config.calls);
        let wiring = Wiring::new(Purpose::Probe, calls.response_timeout);
        let limit = deadline.min(Instant::now() + calls.connect_timeout);
        match connect(&self.core.backend, &self.database, &wiring, limit).await {
            Ok(handle) => {
                self.core.backend.abort(&handle);
                Verdict::Healthy
            }
            Err(fault) => Verdict::Degraded(Fault {
                what: format!("no new connection: {}", fault.what),
                ..fault
            }),
        }
    }

    async fn connect(&mut self, deadline: Instant) -> Result<Arc<Conn<B>>, Fault> {
        if let Some(stillborn) = self.fresh.take() {
            stillborn.end(&self.core.backend);
        }
        let purpose = match self.probe.slot {
            Slot::Traffic => Purpose::Traffic,
            Slot::Probe => Purpose::Probe,
        };
        let calls = self.database.calls(&self.core.config.calls);
        let wiring = Wiring::new(purpose, calls.response_timeout);
        self.incarnation += 1;
        let limit = deadline.min(Instant::now() + calls.connect_timeout);
        let handle = connect(&self.core.backend, &self.database, &wiring, limit).await?;
        let (clock, sweep) = (self.core.clock.clone(), &self.core.swept);
        let counters = self.counters.clone();
        let calls = Calls::new(self.probe.member, wiring.meter, clock, sweep, counters);
        if self.probe.slot == Slot::Traffic {
            self.counters.connected(Arc::downgrade(&calls));
        }
        let conn = Arc::new(Conn {
            member: self.probe.member,
            id: self.database.id.clone(),
            database: self.database.clone(),
            incarnation: self.incarnation,
            mark: self.core.backend.mark(&handle),
            handle,
            calls,
            lost: wiring.lost,
        });
        self.fresh = Some(conn.clone());
        self.conn = Some(conn.clone());
        if !self.marks.is_empty() {
            let fence = self.core.backend.fence(&conn.handle, self.marks.clone());
            self.fence.marks = self.marks.len();
            self.fence.fault = match tokio::time::timeout_at(deadline, fence).await {
                Ok(Ok(())) => None,
                Ok(Err(fault)) => Some(fault),
                Err(_) => return Err(Fault::new(FaultKind::Silent, "no answer to the fence")),
            };
        }
        Ok(conn)
    }
}
