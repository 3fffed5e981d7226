//! What is the case: every database, and what keeps it from serving.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::backend::Verdict;
use super::circuit::CircuitState;
use super::database::{DatabaseId, Role, Weight};

/// The state of a client at one moment. Immutable; a change makes a new one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// How often the active database has changed.
    pub generation: u64,
    /// The active database; it may be unable to serve, see `status`.
    pub active: Option<DatabaseId>,
    /// What a call has to expect.
    pub status: Status,
    /// The database that a server's word leads to, whether it has been followed or not; `None` while the
    /// weights decide, or an operator.
    pub directed_to: Option<DatabaseId>,
    /// Every database, in the order in which they were added.
    pub members: Vec<MemberView>,
}

/// What a call has to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// The first database has not been chosen yet: calls wait.
    Starting,
    /// Calls are sent.
    Serving,
    /// No database is usable: calls wait, within their deadline.
    Waiting,
    /// None has been for longer than the failover budget: calls fail at once.
    GaveUp,
    /// The client is closed: calls fail at once.
    Closed,
}

/// One database as the client sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberView {
    /// Its name.
    pub id: DatabaseId,
    /// Its weight.
    pub weight: Weight,
    /// What it may be used for.
    pub role: Role,
    /// Whether it may serve at all.
    pub enabled: bool,
    /// Its failure domain.
    pub failure_domain: String,
    /// Whether it is the active one.
    pub active: bool,
    /// The state of its circuit.
    pub circuit: CircuitState,
    /// When the dwell of an open circuit ends; `None` if it is held open by an operator.
    pub circuit_opens_until: Option<Instant>,
    /// What the last probe found; `None` before the first.
    pub verdict: Option<Verdict>,
    /// Whether its traffic connection is up.
    pub connected: bool,
    /// The smoothed time of a healthy check.
    pub round_trip: Option<Duration>,
    /// Why it is not selectable; empty if it is.
    pub obstacles: Vec<Obstacle>,
}

/// What keeps a database from being selected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// An operator disabled it.
    Disabled,
    /// It is being verified before it joins.
    Joining,
    /// It is being removed.
    Leaving,
    /// Its circuit is open.
    CircuitOpen {
        /// The rest of the dwell; `None` if it is held open by an operator.
        left: Option<Duration>,
    },
    /// Its circuit is half-open: recovery attempts decide.
    Recovering,
    /// It says that another one serves.
    Standby,
    /// It is suspended.
    Suspended,
    /// It refuses by its state, though the circuit that it shares with others is closed.
    Refusing,
    /// It serves with a reservation: chosen only where nobody without one can be.
    Degraded {
        /// Which, for people.
        cause: String,
    },
    /// Its weight is 0.
    WeightZero,
    /// Its role does not fit.
    Role,
    /// An order stands for another one.
    Ordered {
        /// Which one.
        to: DatabaseId,
    },
}

impl Snapshot {
    /// The database with this id.
    #[must_use]
    pub fn member(&self, id: &str) -> Option<&MemberView> {
        self.members.iter().find(|m| m.id == *id)
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("disabled"),
            Self::Joining => f.write_str("being verified"),
            Self::Leaving => f.write_str("being removed"),
            Self::CircuitOpen { left: Some(left) } => {
                write!(f, "circuit open, {:.1} s left", left.as_secs_f64())
            }
            Self::CircuitOpen { left: None } => f.write_str("circuit held open"),
            Self::Recovering => f.write_str("recovering"),
            Self::Standby => f.write_str("standing by"),
            Self::Suspended => f.write_str("suspended"),
            Self::Refusing => f.write_str("refusing"),
            Self::Degraded { cause } => write!(f, "degraded ({cause})"),
            Self::WeightZero => f.write_str("weight 0"),
            Self::Role => f.write_str("role does not fit"),
            Self::Ordered { to } => write!(f, "{to} was ordered"),
        }
    }
}

/// One line per database: what it is, and why it is or is not selectable.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}, {:?}", self.generation, self.status)?;
        for member in &self.members {
            let mark = if member.active { '*' } else { ' ' };
            write!(f, "\n{mark} {} (weight {}): ", member.id, member.weight)?;
            if member.obstacles.is_empty() {
                f.write_str("selectable")?;
            }
            for (index, obstacle) in member.obstacles.iter().enumerate() {
                write!(f, "{}{obstacle}", if index > 0 { ", " } else { "" })?;
            }
            if let Some(Verdict::Unhealthy(fault)) = &member.verdict {
                write!(f, "; last probe: {fault}")?;
            }
        }
        Ok(())
    }
}
