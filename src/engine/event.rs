//! What happened, in order, after it is visible in the snapshot.

use std::fmt;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::backend::Verdict;
use super::circuit::CircuitState;
use super::database::{DatabaseId, Weight};

/// What happened. Sent after the fact: the snapshot shows it already.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Another database is active now.
    ActiveChanged {
        /// How often the active database has changed; orders all switches of a client.
        generation: u64,
        /// The one left; `None` for the first.
        from: Option<DatabaseId>,
        /// The one served from now.
        to: DatabaseId,
        /// Why, by kind.
        reason: Reason,
        /// Why, for people.
        cause: String,
        /// The time from the first sign of trouble, or from the decision of a planned switch.
        since_detection: Duration,
        /// Calls in flight on the database left.
        in_flight: usize,
    },
    /// The database that has become active serves with a reservation: nobody without one could be
    /// chosen, or it was ordered. Follows [`Event::ActiveChanged`].
    ChosenDegraded {
        /// The database.
        database: DatabaseId,
        /// What is to be said against it, for people.
        cause: String,
    },
    /// The circuit of a failure domain has changed its state.
    CircuitChanged {
        /// The first database of the failure domain.
        database: DatabaseId,
        /// The failure domain.
        failure_domain: String,
        /// Before.
        from: CircuitState,
        /// Now.
        to: CircuitState,
        /// Why, by kind.
        reason: Reason,
        /// Why, for people.
        cause: String,
        /// How long it will stay open, if it opened for a time.
        dwell: Option<Duration>,
    },
    /// A probe came to another verdict than the one before.
    HealthChanged {
        /// The database probed.
        database: DatabaseId,
        /// The verdict.
        verdict: Verdict,
    },
    /// The connection of a healthy database was lost or stuck, and was made anew.
    ConnectionReplaced {
        /// The database.
        database: DatabaseId,
        /// Why, for people.
        cause: String,
    },
    /// The active database refuses or fails calls, and no other is fit to serve. It stays.
    NowhereToGo {
        /// The active database.
        database: DatabaseId,
        /// What it says or does.
        cause: String,
    },
    /// A server named this database as the one that serves, and it does not serve yet. It is asked again until
    /// it does, or the server says otherwise.
    DirectiveRefused {
        /// The database named.
        database: DatabaseId,
        /// Who named it, for people.
        cause: String,
    },
    /// No database is usable. Said once per `failover.delay`.
    AllUnavailable {
        /// 1 at first; at `failover.attempts` the client gives up waiting.
        attempt: u32,
        /// Calls now fail at once until a database recovers.
        gave_up: bool,
    },
    /// A database is usable again after none was.
    Recovered {
        /// The database.
        database: DatabaseId,
        /// How long none was usable.
        after: Duration,
    },
    /// A database joined.
    Added {
        /// The database.
        database: DatabaseId,
        /// Its weight.
        weight: Weight,
    },
    /// A database left.
    Removed {
        /// The database.
        database: DatabaseId,
    },
    /// A weight changed.
    WeightChanged {
        /// The database.
        database: DatabaseId,
        /// Before.
        from: Weight,
        /// Now.
        to: Weight,
    },
    /// A database was enabled or disabled.
    EnabledChanged {
        /// The database.
        database: DatabaseId,
        /// Now.
        enabled: bool,
    },
    /// A planned switch left calls behind.
    Draining {
        /// The database left.
        database: DatabaseId,
        /// Calls and leases left on it.
        in_flight: usize,
    },
    /// The last of them has ended.
    Drained {
        /// The database left.
        database: DatabaseId,
    },
    /// They were cut off.
    DrainTimeout {
        /// The database left.
        database: DatabaseId,
        /// Calls cut off.
        cut: usize,
    },
    /// A lost database serves again, but its old connections could not be fenced: an old command
    /// whose outcome was unknown may still run there.
    Unfenced {
        /// The database.
        database: DatabaseId,
        /// Why, for people.
        cause: String,
    },
    /// A subscriber has its subscriptions on a database again.
    Resubscribed {
        /// The database.
        database: DatabaseId,
        /// For how long messages may have been missed; `None`: none were.
        gap: Option<Duration>,
    },
    /// A policy of the user's panicked; the default took its place for this decision.
    PolicyPanicked {
        /// Which one.
        policy: &'static str,
    },
    /// The listener was too slow: so many events were dropped before this one.
    Lagged {
        /// How many.
        missed: u64,
    },
    /// The client is closed; nothing follows.
    Closed,
}

/// The events of a client from the moment of subscription on, in order.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    closed: bool,
}

/// Events kept for a slow listener.
pub(crate) const EVENT_BUFFER: usize = 1024;

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Self {
            receiver,
            closed: false,
        }
    }

    /// The events of a client that has been closed: that it is.
    pub(crate) fn over() -> Self {
        Self::new(broadcast::Sender::new(1).subscribe())
    }

    /// The next event; `None` after [`Event::Closed`].
    ///
    /// A listener that falls behind by more than 1024 events gets [`Event::Lagged`] in their place.
    /// Cancel-safe: no event is lost by dropping the future.
    pub async fn next(&mut self) -> Option<Event> {
        if self.closed {
            return None;
        }
        let received = self.receiver.recv().await;
        self.take(received)
    }

    pub(crate) fn next_blocking(&mut self) -> Option<Event> {
        if self.closed {
            return None;
        }
        let received = self.receiver.blocking_recv();
        self.take(received)
    }

    fn take(&mut self, received: Result<Event, RecvError>) -> Option<Event> {
        let event = match received {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => Event::Lagged { missed },
            Err(RecvError::Closed) => Event::Closed,
        };
        self.closed = event == Event::Closed;
        Some(event)
    }
}

/// Why the active database or a circuit changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The first choice.
    Initial,
    /// A health round or probe failed.
    HealthCheck,
    /// The callers' own traffic failed too often.
    FailureDetector,
    /// The server says that it does not serve.
    ServerState,
    /// The connection was lost and could not be made anew.
    ConnectionLost,
    /// Commands and pings stayed unanswered while another database answered.
    Stalled,
    /// A heavier database can serve again, or the weights have changed.
    Fallback,
    /// An operator's order.
    Manual,
    /// An operator's order that ignores the circuit.
    Forced,
    /// The server named another database.
    Directed,
    /// The active database said that it does not serve: another one does, or it is suspended.
    Standby,
    /// The active database was removed.
    Removed,
    /// The active database was disabled.
    Disabled,
    /// Nothing else was left, and it answered.
    LastResort,
    /// Recovery attempts succeeded, or the dwell was over.
    Recovery,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initial => "initial",
            Self::HealthCheck => "health check",
            Self::FailureDetector => "failure detector",
            Self::ServerState => "server state",
            Self::ConnectionLost => "connection lost",
            Self::Stalled => "stalled",
            Self::Fallback => "fallback",
            Self::Manual => "manual",
            Self::Forced => "forced",
            Self::Directed => "directed",
            Self::Standby => "standby",
            Self::Removed => "removed",
            Self::Disabled => "disabled",
            Self::LastResort => "last resort",
            Self::Recovery => "recovery",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ActiveChanged {
                generation,
                from,
                to,
                reason,
                cause,
                since_detection,
                in_flight,
            } => {
                match from {
                    Some(from) => write!(f, "switched from {from} to {to}")?,
                    None => write!(f, "serving from {to}")?,
                }
                write!(
                    f,
                    " (generation {generation}, {reason}: {cause}, {since_detection:.1?} after the first sign, {in_flight} in flight)"
                )
            }
            Self::CircuitChanged {
                failure_domain,
                from,
                to,
                reason,
                cause,
                dwell,
                ..
            } => {
                write!(
                    f,
                    "circuit of {failure_domain}: {from:?} -> {to:?} ({reason}: {cause}"
                )?;
                match dwell {
                    Some(dwell) => write!(f, ", for {dwell:.0?})"),
                    None => f.write_str(")"),
                }
            }
            Self::HealthChanged { database, verdict } => match verdict {
                Verdict::Unhealthy(fault) => write!(f, "{database} is unhealthy: {fault}"),
                verdict => write!(f, "{database} is {verdict:?}"),
            },
            Self::ConnectionReplaced { database, cause } => {
                write!(f, "connection to {database} replaced: {cause}")
            }
            Self::NowhereToGo { database, cause } => {
                write!(
                    f,
                    "{database} is bad ({cause}), and no other database is fit to serve"
                )
            }
            Self::DirectiveRefused { database, cause } => {
                write!(f, "{database} does not serve yet, though {cause}")
            }
            Self::AllUnavailable { attempt, gave_up } => {
                write!(f, "no database is usable (attempt {attempt}")?;
                f.write_str(if *gave_up { ", gave up waiting)" } else { ")" })
            }
            Self::Recovered { database, after } => {
                write!(
                    f,
                    "{database} is usable again after {after:.1?} without any"
                )
            }
            Self::Added { database, weight } => write!(f, "{database} added with weight {weight}"),
            Self::Removed { database } => write!(f, "{database} removed"),
            Self::WeightChanged { database, from, to } => {
                write!(f, "weight of {database}: {from} -> {to}")
            }
            Self::EnabledChanged { database, enabled } => {
                write!(
                    f,
                    "{database} {}",
                    if *enabled { "enabled" } else { "disabled" }
                )
            }
            Self::Draining {
                database,
                in_flight,
            } => write!(f, "{database} is draining {in_flight} calls"),
            Self::Drained { database } => write!(f, "{database} is drained"),
            Self::DrainTimeout { database, cut } => {
                write!(f, "{database} was not drained in time; {cut} calls cut off")
            }
            Self::Unfenced { database, cause } => {
                write!(
                    f,
                    "old connections to {database} could not be fenced: {cause}"
                )
            }
            Self::ChosenDegraded { database, cause } => {
                write!(f, "{database} is active though degraded: {cause}")
            }
            Self::Resubscribed { database, gap } => match gap {
                Some(gap) => write!(f, "subscribed again on {database} after {gap:?}"),
                None => write!(f, "subscribed on {database}, nothing missed"),
            },
            Self::PolicyPanicked { policy } => {
                write!(f, "the {policy} panicked; the default decided")
            }
            Self::Lagged { missed } => write!(f, "{missed} events were missed"),
            Self::Closed => f.write_str("closed"),
        }
    }
}
