//! A witness of what a client says of itself: its events with their times, and its snapshots.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use multidb::{CircuitState, Event, Reason, Status};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::load::Client;

/// What a client said of itself, with the time at which it was heard.
pub(crate) struct Witness {
    pub(crate) client: Client,
    first: Option<String>,
    heard: Arc<Lock<Vec<Heard>>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Heard {
    at: Instant,
    event: Event,
    /// The generation in the snapshot at that time.
    shown: u64,
}

/// An `ActiveChanged`, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Switch {
    pub(crate) at: Instant,
    pub(crate) generation: u64,
    pub(crate) from: Option<String>,
    pub(crate) to: String,
    pub(crate) reason: Reason,
}

impl Witness {
    /// Listens from now on.
    pub(crate) fn of(client: &Client) -> Self {
        let mut events = client.events();
        let first = client.active().map(|id| id.to_string());
        let heard = Arc::new(Lock::default());
        let task = tokio::spawn({
            let (client, heard) = (client.clone(), Arc::clone(&heard));
            async move {
                while let Some(event) = events.next().await {
                    let heard: &Lock<Vec<Heard>> = &heard;
                    heard.lock().expect("the events").push(Heard {
                        at: Instant::now(),
                        event,
                        shown: client.snapshot().generation,
                    });
                }
            }
        });
        Self {
            client: client.clone(),
            first,
            heard,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("the events").clone()
    }

    /// How many events are such.
    pub(crate) fn count(&self, which: impl Fn(&Event) -> bool) -> usize {
        self.heard().iter().filter(|h| which(&h.event)).count()
    }

    /// Waits until there has been such an event.
    pub(crate) async fn hears(&self, what: &str, limit: Duration, which: impl Fn(&Event) -> bool) {
        let deadline = Instant::now() + limit;
        while self.count(&which) == 0 {
            assert!(
                Instant::now() < deadline,
                "not within {limit:?}: {what}\n{self}"
            );
            sleep(super::POLL).await;
        }
    }

    /// All switches so far. Each begins where the one before ended, has the next generation, and
    /// was in the snapshot before it was told.
    #[track_caller]
    pub(crate) fn switches(&self) -> Vec<Switch> {
        let mut switches: Vec<Switch> = Vec::new();
        for Heard { at, event, shown } in self.heard() {
            assert!(!matches!(event, Event::Lagged { .. }), "{event}");
            let Event::ActiveChanged {
                generation,
                from,
                to,
                reason,
                ..
            } = event
            else {
                continue;
            };
            let switch = Switch {
                at,
                generation,
                from: from.map(|id| id.to_string()),
                to: to.to_string(),
                reason,
            };
            let last = switches.last();
            let origin = last.map_or(self.first.clone(), |last| Some(last.to.clone()));
            assert_eq!(switch.from, origin, "{switch:?} after {last:?}");
            assert_ne!(switch.from.as_ref(), Some(&switch.to));
            assert!(
                last.is_none_or(|last| switch.generation == last.generation + 1),
                "{switch:?} after {last:?}"
            );
            assert!(shown >= switch.generation, "{switch:?} was told too early");
            switches.push(switch);
        }
        switches
    }

    /// The databases switched to, in order.
    #[track_caller]
    pub(crate) fn route(&self) -> Vec<String> {
        self.switches().into_iter().map(|s| s.to).collect()
    }

    /// Waits until calls are sent to this database; how long ago `since` was then.
    pub(crate) async fn follows(&self, to: &str, since: Instant, limit: Duration) -> Duration {
        let there = self.client.wait_for(|now| {
            now.status == Status::Serving && now.active.as_ref().is_some_and(|id| id == to)
        });
        match timeout(limit, there).await {
            Ok(found) => found.expect("an open client"),
            Err(_) => panic!("not on {to} within {limit:?}\n{self}"),
        };
        since.elapsed()
    }

    /// Nothing was ever held against any database but `a`.
    #[track_caller]
    pub(crate) fn assert_only_a_blamed(&self) {
        for member in &self.client.snapshot().members {
            if member.id != "a" {
                self.assert_blameless(member.id.as_str());
            }
        }
    }

    /// How the circuit of a database moved.
    pub(crate) fn circuit(&self, database: &str) -> Vec<(CircuitState, Reason)> {
        let heard = self.heard().into_iter();
        let moves = heard.filter_map(|heard| match heard.event {
            Event::CircuitChanged {
                failure_domain,
                to,
                reason,
                ..
            } if failure_domain == database => Some((to, reason)),
            _ => None,
        });
        moves.collect()
    }

    /// Nothing was ever held against this database.
    #[track_caller]
    pub(crate) fn assert_blameless(&self, database: &str) {
        assert_eq!(self.circuit(database), [], "{database} is blamed\n{self}");
        let now = self.client.snapshot();
        let member = now.member(database).expect("a member");
        assert_eq!(member.circuit, CircuitState::Closed, "{now}");
    }
}

/// All that was heard, and how it stands.
impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heard = self.heard();
        let start = heard.first().map(|first| first.at);
        for Heard { at, event, .. } in &heard {
            let since = start.map_or(Duration::ZERO, |start| *at - start);
            writeln!(f, "{:>6} ms  {event}", since.as_millis())?;
        }
        write!(f, "{}", self.client.snapshot())
    }
}

#[allow(clippy::disallowed_types, reason = "never held across an await")]
type Lock<T> = std::sync::Mutex<T>;
