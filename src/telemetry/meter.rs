//! Metrics, by the crate `metrics`.

use std::sync::Once;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::is_failover;
use crate::engine::backend::Verdict;
use crate::engine::circuit::CircuitState;
use crate::engine::event::Event;
use crate::engine::statistics::Statistics;

/// Counts an event by the crate `metrics`, in whatever recorder is installed:
/// `.on_event(multidb::telemetry::meter)`.
///
/// The book's page on telemetry lists the names; they are stable.
pub fn meter(event: &Event) {
    static DESCRIBED: Once = Once::new();
    DESCRIBED.call_once(describe);
    match event {
        Event::ActiveChanged {
            from,
            to,
            reason,
            since_detection,
            ..
        } => {
            let (to, why) = (to.to_string(), reason.to_string());
            if let Some(from) = from {
                gauge!("multidb.database.active", "database" => from.to_string()).set(0.0);
            }
            gauge!("multidb.database.active", "database" => to.clone()).set(1.0);
            counter!("multidb.active.changes", "to" => to.clone(), "reason" => why.clone())
                .increment(1);
            if is_failover(*reason) {
                counter!("multidb.failovers", "to" => to, "reason" => why).increment(1);
                histogram!("multidb.failover.duration").record(since_detection.as_secs_f64());
            }
        }
        Event::CircuitChanged { database, to, .. } => {
            let (state, number) = match to {
                CircuitState::Closed => ("closed", 0.0),
                CircuitState::HalfOpen => ("half_open", 1.0),
                CircuitState::Open => ("open", 2.0),
            };
            let database = database.to_string();
            gauge!("multidb.database.circuit", "database" => database.clone()).set(number);
            counter!("multidb.circuit.changes", "database" => database, "to" => state).increment(1);
        }
        Event::HealthChanged { database, verdict } => {
            let verdict = match verdict {
                Verdict::Healthy => "healthy",
                Verdict::Degraded(_) => "degraded",
                Verdict::Standby => "standby",
                Verdict::Suspended => "suspended",
                Verdict::Unhealthy(_) => "unhealthy",
            };
            counter!("multidb.health.changes", "database" => database.to_string(), "verdict" => verdict)
                .increment(1);
        }
        Event::ConnectionReplaced { database, .. } => {
            counter!("multidb.connections.replaced", "database" => database.to_string())
                .increment(1);
        }
        Event::AllUnavailable { .. } => counter!("multidb.unavailable").increment(1),
        Event::Recovered { after, .. } => {
            histogram!("multidb.outage.duration").record(after.as_secs_f64());
        }
        Event::Added { database, weight } => weigh(database.as_str(), weight.value()),
        Event::WeightChanged { database, to, .. } => weigh(database.as_str(), to.value()),
        Event::Resubscribed { database, gap } => {
            counter!("multidb.subscriptions.moved", "database" => database.to_string())
                .increment(1);
            if let Some(gap) = gap {
                histogram!("multidb.subscriptions.gap").record(gap.as_secs_f64());
            }
        }
        Event::Unfenced { database, .. } => {
            counter!("multidb.unfenced", "database" => database.to_string()).increment(1);
        }
        Event::PolicyPanicked { policy } => {
            counter!("multidb.policy.panics", "policy" => *policy).increment(1);
        }
        Event::ChosenDegraded { .. }
        | Event::DirectiveRefused { .. }
        | Event::NowhereToGo { .. }
        | Event::Removed { .. }
        | Event::EnabledChanged { .. }
        | Event::Draining { .. }
        | Event::Drained { .. }
        | Event::DrainTimeout { .. }
        | Event::Lagged { .. }
        | Event::Closed => {}
    }
}

/// Records what the databases of a client have done, by the crate `metrics`: to be called whenever the
/// recorder is read, or every few seconds, with
/// [`MultiDbClient::statistics`](crate::MultiDbClient::statistics).
pub fn measure(statistics: &[Statistics]) {
    static DESCRIBED: Once = Once::new();
    DESCRIBED.call_once(|| {
        let count = Unit::Count;
        describe_counter!(
            "multidb.attempts",
            count,
            "attempts of calls, by what came of them"
        );
        describe_gauge!(
            "multidb.calls.in_flight",
            count,
            "calls and leases in flight"
        );
        describe_counter!(
            "multidb.connections",
            count,
            "connections for calls that were made"
        );
        describe_counter!("multidb.probes", count, "probes that have ended");
        describe_gauge!(
            "multidb.probe.round_trip",
            Unit::Seconds,
            "of the last probe that found it well"
        );
        describe_gauge!(
            "multidb.database.active.time",
            Unit::Seconds,
            "as the active database"
        );
    });
    for one in statistics {
        let database = one.database.to_string();
        let outcomes = [
            ("executed", one.answered.saturating_sub(one.refused)),
            ("refused", one.refused),
            ("not_sent", one.not_sent),
            ("unknown", one.unknown),
        ];
        for (outcome, attempts) in outcomes {
            counter!("multidb.attempts", "database" => database.clone(), "outcome" => outcome)
                .absolute(attempts);
        }
        gauge!("multidb.calls.in_flight", "database" => database.clone()).set(one.in_flight as f64);
        counter!("multidb.connections", "database" => database.clone()).absolute(one.connections);
        counter!("multidb.probes", "database" => database.clone()).absolute(one.probes);
        if let Some(round_trip) = one.round_trip {
            gauge!("multidb.probe.round_trip", "database" => database.clone())
                .set(round_trip.as_secs_f64());
        }
        gauge!("multidb.database.active.time", "database" => database)
            .set(one.active.as_secs_f64());
    }
}

fn weigh(database: &str, weight: f64) {
    gauge!("multidb.database.weight", "database" => database.to_owned()).set(weight);
}

fn describe() {
    let count = Unit::Count;
    describe_counter!(
        "multidb.active.changes",
        count,
        "switches of the active database, by reason"
    );
    describe_counter!(
        "multidb.failovers",
        count,
        "switches because something was wrong, by reason"
    );
    describe_histogram!(
        "multidb.failover.duration",
        Unit::Seconds,
        "from the first sign of trouble to the switch"
    );
    describe_gauge!(
        "multidb.database.active",
        "1 for the active database, 0 for the others"
    );
    describe_counter!(
        "multidb.circuit.changes",
        count,
        "transitions of circuits, by their new state"
    );
    describe_gauge!("multidb.database.circuit", "0 closed, 1 half-open, 2 open");
    describe_counter!(
        "multidb.health.changes",
        count,
        "verdicts that differ from the one before"
    );
    describe_gauge!("multidb.database.weight", "the weight");
    describe_counter!(
        "multidb.connections.replaced",
        count,
        "connections of healthy databases made anew"
    );
    describe_counter!(
        "multidb.unavailable",
        count,
        "announcements that no database is usable"
    );
    describe_histogram!(
        "multidb.outage.duration",
        Unit::Seconds,
        "how long none was usable"
    );
    describe_counter!(
        "multidb.subscriptions.moved",
        count,
        "subscribers that hold again elsewhere"
    );
    describe_histogram!(
        "multidb.subscriptions.gap",
        Unit::Seconds,
        "for how long messages may have been missed"
    );
    describe_counter!(
        "multidb.unfenced",
        count,
        "databases that serve again unfenced"
    );
    describe_counter!(
        "multidb.policy.panics",
        count,
        "panics of policies of the user's"
    );
}
