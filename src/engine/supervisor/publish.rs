//! Showing callers what the machine has decided.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Supervisor;
use crate::engine::backend::Backend;
use crate::engine::live::{Live, Routing, STALE, Upcoming};
use crate::engine::machine::MemberKey;
use crate::engine::snapshot::Snapshot;
use crate::engine::tally::Tally;

impl<B: Backend> Supervisor<B> {
    /// Shows what the machine has decided, and marks what it has moved away from.
    pub(super) fn publish(&mut self) {
        let generation = self.machine.generation();
        let serving = self.machine.serving();
        let next = serving.and_then(|key| {
            let place = self.members.get(&key)?;
            let link = place.traffic.as_ref()?;
            let episode = self.machine.episode(key)?;
            Some((
                link.conn.clone(),
                place.database.failure_domain.clone(),
                episode,
            ))
        });
        for (key, place) in &self.members {
            if let Some(tally) = self.tallies.get(&place.database.failure_domain)
                && let Some(episode) = self.machine.episode(*key)
            {
                tally.set_episode(episode);
            }
        }
        let live = next.map(|(conn, domain, episode)| match &self.live {
            Some(live)
                if Arc::ptr_eq(&live.conn, &conn)
                    && live.episode == episode
                    && live.generation == generation =>
            {
                live.clone()
            }
            _ => {
                let tally = self.tally(&domain);
                tally.set_episode(episode);
                Arc::new(Live::new(conn, tally, episode, generation))
            }
        });
        let unchanged = match (&self.live, &live) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        self.core.swept.set_threshold(self.machine.stall_age());
        let (active, now) = (self.machine.active(), Instant::now());
        for (key, place) in &self.members {
            place.counters.set_active(active == Some(*key), now);
        }
        let counters = self.members.values();
        let counters = counters.map(|place| (place.database.id.clone(), place.counters.clone()));
        let counters = counters.collect();
        let named = |key: Option<MemberKey>| Some(self.members.get(&key?)?.database.id.clone());
        let snapshot = Arc::new(Snapshot {
            generation,
            active: named(active),
            status: self.machine.status(),
            directed_to: named(self.machine.directed_to()),
            members: self.machine.members(),
        });
        let old = std::mem::replace(&mut self.live, live.clone());
        if let Some(live) = live.as_ref().filter(|_| !unchanged) {
            live.conn.calls.watched.store(true, Ordering::Release);
        }
        let upcoming = self.machine.upcoming().and_then(|member| {
            let database = self.members.get(&member)?.database.clone();
            Some(Upcoming { member, database })
        });
        if upcoming.is_none() {
            self.core.followers.call_back();
        }
        self.core.routing.set(Arc::new(Routing {
            live,
            status: snapshot.status,
            snapshot,
            counters,
            upcoming,
        }));
        // After the new one can be found: whoever is turned away by the flag finds it.
        if let Some(old) = old.filter(|_| !unchanged) {
            old.set_flag(STALE);
            let still = self
                .live
                .as_ref()
                .is_some_and(|live| Arc::ptr_eq(&live.conn, &old.conn));
            if !still {
                old.conn.calls.watched.store(false, Ordering::Release);
            }
        }
    }

    pub(super) fn tally(&mut self, domain: &Arc<str>) -> Arc<Tally> {
        self.tallies
            .entry(domain.clone())
            .or_insert_with(|| Arc::new(Tally::new(domain.clone(), self.core.news.clone())))
            .clone()
    }
}
