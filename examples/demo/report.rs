//! The verdict: what the writers were told against what the databases hold.

mod text;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use multidb::testing::history::{self, Ledger};
use serde_json::json;
use tokio::time::Instant;

use crate::load::{Class, History, Push, Told};
use crate::millis;
use crate::script::{Incident, Plan, Played};
use crate::stage::{Contents, Fault};

pub(crate) struct Report {
    rows: Vec<Row>,
    ledger: history::Report,
    counters: Counters,
    /// RPUSH and INCR alike, as everywhere below.
    acked: u64,
    failed: [u64; Class::ALL.len()],
}

/// What one fault cost.
struct Row {
    fault: Fault,
    outcome: Outcome,
    /// By [`Class::ALL`].
    failed: [u64; Class::ALL.len()],
}

/// What became of the work.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    /// It went on on the other database, first after this time.
    WentOn(Duration),
    /// Nothing succeeded there before the next fault.
    Stopped,
    /// Nothing was to go anywhere else: a standby was hit, or somebody was playing.
    Untold,
    /// The run had ended before its turn.
    NotReached,
}

/// The counters of both databases against the INCRs.
struct Counters {
    held: Vec<(&'static str, u64)>,
    acked: u64,
    unknown: u64,
}

// === impl Report ===

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        played: &Played,
        history: &History,
        contents: &BTreeMap<&'static str, Contents>,
    ) -> Self {
        let places = places(contents);
        let incidents = &played.incidents;
        let made = incidents.iter().enumerate().map(|(index, incident)| {
            let until = incidents.get(index + 1).map(|next| next.at);
            Row::new(incident, until, history, &places)
        });
        // Whoever takes over, or ends it, leaves the rest of the script unplayed.
        let scripted = incidents
            .iter()
            .filter(|incident| !incident.by_hand)
            .count();
        let unplayed = plan.faults.iter().skip(scripted).map(|&fault| Row {
            fault,
            outcome: Outcome::NotReached,
            failed: [0; Class::ALL.len()],
        });
        let rows = made.chain(unplayed.filter(|_| !played.cut_short));
        let counters = Counters {
            held: contents
                .iter()
                .map(|(&name, c)| (name, c.counter))
                .collect(),
            acked: history.incremented,
            unknown: history.maybe_incremented,
        };
        let ledger = settle(&history.pushes, contents, &places);
        Self {
            rows: rows.collect(),
            acked: ledger.told.acked as u64 + counters.acked,
            failed: tally(history, |_| true),
            ledger,
            counters,
        }
    }

    /// Nothing lost, nothing twice, nothing misreported, and every fault survived.
    pub(crate) fn is_good(&self) -> bool {
        self.violations().is_none() && self.survived()
    }

    fn survived(&self) -> bool {
        let stopped = [Outcome::Stopped, Outcome::NotReached];
        !self.rows.iter().any(|row| stopped.contains(&row.outcome))
    }

    fn lost(&self) -> u64 {
        self.ledger.acked_lost.len() as u64 + self.counters.missing()
    }

    fn twice(&self) -> u64 {
        self.ledger.applied_twice.len() as u64 + self.counters.excess()
    }

    /// What must not be, token by token; `None` if nothing.
    pub(crate) fn violations(&self) -> Option<String> {
        let counters = &self.counters;
        if self.ledger.is_clean() && counters.missing() == 0 && counters.excess() == 0 {
            return None;
        }
        Some(format!("tokens: {}\n{}", self.ledger, counters.text()))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let faults = self.rows.iter().map(|row| {
            json!({
                "fault": row.fault.to_string(),
                "first_success_ms": row.first_success().map(millis),
                "failed_calls": row.failed.iter().sum::<u64>(),
            })
        });
        json!({
            "acked": self.acked,
            "acked_lost": self.lost(),
            "applied_twice": self.twice(),
            "unknown": self.failed[Class::Unknown as usize],
            "faults": faults.collect::<Vec<_>>(),
        })
    }
}

// === impl Row ===

impl Row {
    fn new(
        incident: &Incident,
        until: Option<Instant>,
        history: &History,
        places: &HashMap<&str, &'static str>,
    ) -> Self {
        let during = |at: Instant| at >= incident.at && until.is_none_or(|until| at < until);
        let elsewhere = history.pushes.iter().filter(|push| {
            matches!(push.told, Told::Acked { .. })
                && during(push.ended)
                // What was begun on the other database before the client returned is no success.
                && push.generation >= incident.generation
                && places.get(push.token.as_str()).copied() == incident.other
        });
        let first = elsewhere.map(|push| push.ended - incident.at).min();
        Self {
            fault: incident.fault,
            outcome: match (incident.other, first) {
                (None, _) => Outcome::Untold,
                (Some(_), Some(first)) => Outcome::WentOn(first),
                (Some(_), None) if incident.by_hand => Outcome::Untold,
                (Some(_), None) => Outcome::Stopped,
            },
            failed: tally(history, during),
        }
    }

    fn first_success(&self) -> Option<Duration> {
        match self.outcome {
            Outcome::WentOn(first) => Some(first),
            Outcome::Stopped | Outcome::Untold | Outcome::NotReached => None,
        }
    }
}

// === impl Counters ===

impl Counters {
    fn sum(&self) -> u64 {
        self.held.iter().map(|(_, count)| count).sum()
    }

    fn missing(&self) -> u64 {
        self.acked.saturating_sub(self.sum())
    }

    fn excess(&self) -> u64 {
        self.sum().saturating_sub(self.acked + self.unknown)
    }
}

// === helpers ===

/// Where each token is. One that is there twice is the ledger's business.
fn places<'a>(contents: &'a BTreeMap<&'static str, Contents>) -> HashMap<&'a str, &'static str> {
    contents
        .iter()
        .flat_map(|(&name, held)| held.tokens.iter().map(move |token| (token.as_str(), name)))
        .collect()
}

/// Nobody tells a caller which database acknowledged its write. The databases are independent and
/// tokens are unique, so wherever the token is, it was put by that call; one that is nowhere is
/// lost, and the snapshots around the call name who had it.
fn settle(
    pushes: &[Push],
    contents: &BTreeMap<&'static str, Contents>,
    places: &HashMap<&str, &'static str>,
) -> history::Report {
    let ledger = Ledger::new();
    for push in pushes {
        ledger.attempt(&*push.token);
        let outcome = match push.told {
            Told::Acked { by } => {
                let place = places.get(push.token.as_str()).copied().or(by);
                history::Outcome::Acked {
                    database: place.unwrap_or("either").to_owned(),
                }
            }
            Told::Failed(Class::Unknown) => history::Outcome::Unknown,
            Told::Failed(Class::NotExecuted) => history::Outcome::NotExecuted,
            Told::Failed(Class::Unavailable) => history::Outcome::NotSent,
            Told::Failed(Class::Other) => history::Outcome::Failed,
        };
        ledger.record(&push.token, outcome);
    }
    let found = contents
        .iter()
        .map(|(&name, held)| (name.to_owned(), held.tokens.clone()));
    ledger.check(&found.collect())
}

fn tally(history: &History, during: impl Fn(Instant) -> bool) -> [u64; Class::ALL.len()] {
    let mut counts = [0; Class::ALL.len()];
    for (_, class) in history.failures.iter().filter(|(at, _)| during(*at)) {
        counts[*class as usize] += 1;
    }
    counts
}
