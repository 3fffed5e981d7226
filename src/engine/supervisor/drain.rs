//! Seeing out the calls that a planned switch or a removal left behind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Done, Supervisor};
use crate::engine::backend::Backend;
use crate::engine::calls::Calls;
use crate::engine::config::Drain;
use crate::engine::event::Event;
use crate::engine::machine::MemberKey;

/// How often a drain looks whether the last call has ended.
const DRAIN_POLL: Duration = Duration::from_millis(5);

impl<B: Backend> Supervisor<B> {
    pub(super) fn drain(&mut self, member: MemberKey, how: Drain) {
        let Some(link) = self.members.get(&member).and_then(|p| p.traffic.as_ref()) else {
            return;
        };
        let conn = link.conn.clone();
        let in_flight = conn.calls.in_flight();
        if in_flight == 0 {
            return;
        }
        let database = conn.id.clone();
        let _ = self.core.events.send(Event::Draining {
            database: database.clone(),
            in_flight,
        });
        self.tasks.spawn(async move {
            let limit = match how {
                Drain::Leave => None,
                Drain::Cancel(after) => Some(after),
            };
            match drained(&conn.calls, limit).await {
                Drained::Empty => Done::Drained {
                    event: Some(Event::Drained { database }),
                    end: None,
                },
                Drained::Active => Done::Drained {
                    event: None,
                    end: None,
                },
                Drained::TimedOut => Done::Drained {
                    event: Some(Event::DrainTimeout {
                        database,
                        cut: conn.calls.in_flight(),
                    }),
                    end: Some(conn),
                },
            }
        });
    }

    pub(super) fn forget(&mut self, member: MemberKey) {
        let Some(mut place) = self.members.remove(&member) else {
            return;
        };
        let domain = &place.database.failure_domain;
        let mut others = self.members.values();
        if !others.any(|other| other.database.failure_domain == *domain) {
            self.tallies.remove(domain);
        }
        if let Some(link) = place.probe.take() {
            link.conn.end(&self.core.backend);
        }
        let Some(link) = place.traffic.take() else {
            return;
        };
        let limit = match self.core.config.failover.drain {
            Drain::Leave => None,
            Drain::Cancel(after) => Some(after),
        };
        let conn = link.conn;
        self.leaving.insert(conn.incarnation, conn.clone());
        // What is in flight ends by its own deadline; the connection goes with the last of it.
        self.tasks.spawn(async move {
            drained(&conn.calls, limit).await;
            Done::Drained {
                event: None,
                end: Some(conn),
            }
        });
    }
}

/// How a drain ended.
enum Drained {
    /// Nothing is in flight any more.
    Empty,
    /// The client has come back to it: there is nothing to drain.
    Active,
    TimedOut,
}

async fn drained(calls: &Calls, limit: Option<Duration>) -> Drained {
    let until = limit.map(|limit| Instant::now() + limit);
    let mut quiet = 0;
    loop {
        if calls.watched.load(Ordering::Acquire) {
            return Drained::Active;
        }
        quiet = if calls.in_flight() == 0 { quiet + 1 } else { 0 };
        // Twice: a call that chose this connection just before may not have registered at the first look.
        if quiet == 2 {
            return Drained::Empty;
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Drained::TimedOut;
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
}
