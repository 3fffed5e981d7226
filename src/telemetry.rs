//! What happens to a client, for those who operate it: `tracing` events and metrics.
//!
//! Both are listeners, to be given to [`Builder::on_event`](crate::Builder::on_event): they run on a
//! thread of their own, and what they do harms nobody. What the databases have done is measured when it
//! is asked for.

#[cfg(feature = "metrics")]
mod meter;
#[cfg(feature = "tracing")]
mod trace;

#[cfg(feature = "metrics")]
pub use meter::{measure, meter};
#[cfg(feature = "tracing")]
pub use trace::trace;

use crate::engine::event::Reason;

/// Whether somebody has to look: the client moved because something was wrong.
fn is_failover(reason: Reason) -> bool {
    match reason {
        Reason::HealthCheck
        | Reason::FailureDetector
        | Reason::ServerState
        | Reason::ConnectionLost
        | Reason::Stalled
        | Reason::LastResort => true,
        Reason::Initial
        | Reason::Fallback
        | Reason::Manual
        | Reason::Forced
        | Reason::Directed
        | Reason::Standby
        | Reason::Removed
        | Reason::Disabled
        | Reason::Recovery => false,
    }
}
