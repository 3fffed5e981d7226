//! Events of the crate `tracing`.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::is_failover;
use crate::engine::backend::Verdict;
use crate::engine::circuit::CircuitState;
use crate::engine::event::Event;

/// Says an event by the crate `tracing`, under the target `multidb`:
/// `.on_event(multidb::telemetry::trace)`.
///
/// The field `event` names it; the others are those of the event, times in milliseconds. The book's page
/// on telemetry lists them; they are stable.
pub fn trace(event: &Event) {
    match event {
        Event::ActiveChanged {
            generation,
            from,
            to,
            reason,
            cause,
            since_detection,
            in_flight,
        } => {
            let from = from.as_ref().map(tracing::field::display);
            let (since_detection_ms, in_flight) = (millis(*since_detection), *in_flight as u64);
            match is_failover(*reason) {
                true => warn!(
                    target: TARGET, event = "active_changed", generation, from, %to, %reason, cause,
                    since_detection_ms, in_flight, "failed over to {to}"
                ),
                false => info!(
                    target: TARGET, event = "active_changed", generation, from, %to, %reason, cause,
                    since_detection_ms, in_flight, "switched to {to}"
                ),
            }
        }
        Event::ChosenDegraded { database, cause } => {
            warn!(target: TARGET, event = "chosen_degraded", %database, cause, "{event}");
        }
        Event::CircuitChanged {
            database,
            failure_domain,
            from,
            to,
            reason,
            cause,
            dwell,
        } => {
            let dwell_ms = dwell.map(millis);
            match to {
                CircuitState::Open => warn!(
                    target: TARGET, event = "circuit_changed", %database, failure_domain, ?from, ?to,
                    %reason, cause, dwell_ms, "circuit opened"
                ),
                CircuitState::HalfOpen | CircuitState::Closed => info!(
                    target: TARGET, event = "circuit_changed", %database, failure_domain, ?from, ?to,
                    %reason, cause, dwell_ms, "circuit changed"
                ),
            }
        }
        Event::HealthChanged { database, verdict } => match verdict {
            Verdict::Healthy => {
                debug!(target: TARGET, event = "health_changed", %database, verdict = "healthy", "{event}");
            }
            Verdict::Standby => {
                info!(target: TARGET, event = "health_changed", %database, verdict = "standby", "{event}");
            }
            Verdict::Suspended => {
                info!(target: TARGET, event = "health_changed", %database, verdict = "suspended", "{event}");
            }
            Verdict::Degraded(fault) => {
                let cause = &fault.what;
                warn!(target: TARGET, event = "health_changed", %database, verdict = "degraded", cause, "{event}");
            }
            Verdict::Unhealthy(fault) => {
                let cause = &fault.what;
                warn!(target: TARGET, event = "health_changed", %database, verdict = "unhealthy", cause, "{event}");
            }
        },
        Event::ConnectionReplaced { database, cause } => {
            info!(target: TARGET, event = "connection_replaced", %database, cause, "{event}");
        }
        Event::NowhereToGo { database, cause } => {
            warn!(target: TARGET, event = "nowhere_to_go", %database, cause, "{event}");
        }
        Event::DirectiveRefused { database, cause } => {
            warn!(target: TARGET, event = "directive_refused", %database, cause, "{event}");
        }
        Event::AllUnavailable { attempt, gave_up } => match gave_up {
            true => error!(target: TARGET, event = "all_unavailable", attempt, gave_up, "{event}"),
            false => warn!(target: TARGET, event = "all_unavailable", attempt, gave_up, "{event}"),
        },
        Event::Recovered { database, after } => {
            let after_ms = millis(*after);
            info!(target: TARGET, event = "recovered", %database, after_ms, "{event}");
        }
        Event::Added { database, weight } => {
            info!(target: TARGET, event = "added", %database, weight = weight.value(), "{event}");
        }
        Event::Removed { database } => {
            info!(target: TARGET, event = "removed", %database, "{event}");
        }
        Event::WeightChanged { database, from, to } => {
            let (from, to) = (from.value(), to.value());
            info!(target: TARGET, event = "weight_changed", %database, from, to, "{event}");
        }
        Event::EnabledChanged { database, enabled } => {
            info!(target: TARGET, event = "enabled_changed", %database, enabled, "{event}");
        }
        Event::Draining {
            database,
            in_flight,
        } => {
            let in_flight = *in_flight as u64;
            info!(target: TARGET, event = "draining", %database, in_flight, "{event}");
        }
        Event::Drained { database } => {
            info!(target: TARGET, event = "drained", %database, "{event}");
        }
        Event::DrainTimeout { database, cut } => {
            let cut = *cut as u64;
            warn!(target: TARGET, event = "drain_timeout", %database, cut, "{event}");
        }
        Event::Unfenced { database, cause } => {
            warn!(target: TARGET, event = "unfenced", %database, cause, "{event}");
        }
        Event::Resubscribed { database, gap } => {
            let gap_ms = gap.map(millis);
            info!(target: TARGET, event = "resubscribed", %database, gap_ms, "{event}");
        }
        Event::PolicyPanicked { policy } => {
            error!(target: TARGET, event = "policy_panicked", policy, "{event}");
        }
        Event::Lagged { missed } => {
            warn!(target: TARGET, event = "lagged", missed, "{event}");
        }
        Event::Closed => info!(target: TARGET, event = "closed", "{event}"),
    }
}

const TARGET: &str = "multidb";

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
