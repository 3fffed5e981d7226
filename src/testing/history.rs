//! "Nothing lost, nothing twice": a ledger of what callers were told, and its comparison with what
//! the databases hold.
//!
//! Every write carries a token of its own, such as `RPUSH list token`. The callers note in a
//! [`Ledger`] that they attempt it and what they were told; after the faults are healed, the lists
//! of all databases are read back and [`Ledger::check`] compares:
//!
//! ```
//! use multidb::testing::history::{Ledger, Outcome};
//! use std::collections::BTreeMap;
//!
//! let ledger = Ledger::new();
//! ledger.attempt("t1");
//! ledger.record("t1", Outcome::Acked { database: "east".into() });
//! ledger.attempt("t2");
//! ledger.record("t2", Outcome::NotExecuted);
//!
//! let found = BTreeMap::from([("east".to_owned(), vec!["t2".to_owned()])]);
//! let report = ledger.check(&found);
//! assert_eq!(report.acked_lost[0].token, "t1");
//! assert_eq!(report.phantoms[0].token, "t2");
//! assert!(!report.is_clean());
//! ```
//!
//! The databases must be independent: a token that replication copies to a second one is reported
//! as applied twice.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{MutexGuard, PoisonError};

/// What callers attempted and what they were told. Shared by reference among tasks and threads.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Lock<Entries>,
}

type Entries = BTreeMap<String, Option<Outcome>>;

#[allow(clippy::disallowed_types, reason = "no method awaits")]
type Lock<T> = std::sync::Mutex<T>;

/// What the caller of a write was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was executed, on the database of this name.
    Acked {
        /// The name the database has in the map given to [`Ledger::check`].
        database: String,
    },
    /// It never left the client. Finding its token is a violation.
    NotSent,
    /// The server refused it before executing it. Finding its token is a violation.
    NotExecuted,
    /// It may or may not have been executed, once.
    Unknown,
    /// Any other error, which promises nothing: like `Unknown`, counted apart.
    Failed,
}

/// What [`Ledger::check`] found. Tokens are in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Tokens attempted. A report about nothing is clean, so look at this too.
    pub attempted: usize,
    /// Tokens by what the callers were told.
    pub told: Told,
    /// Tokens that promised nothing (unknown, failed or without an outcome) and were executed.
    pub unpromised_applied: usize,
    /// Acknowledged by a database that does not have the token, or was not read back.
    pub acked_lost: Vec<AckedLost>,
    /// Executed more than once, over all databases.
    pub applied_twice: Vec<Found>,
    /// Reported as never executed, and there.
    pub phantoms: Vec<Found>,
    /// There, and never attempted: the test reads the wrong list or forgets to note attempts.
    pub strangers: Vec<Found>,
}

/// How many tokens had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Told {
    /// [`Outcome::Acked`].
    pub acked: usize,
    /// [`Outcome::NotSent`].
    pub not_sent: usize,
    /// [`Outcome::NotExecuted`].
    pub not_executed: usize,
    /// [`Outcome::Unknown`].
    pub unknown: usize,
    /// [`Outcome::Failed`].
    pub failed: usize,
    /// Attempted without an outcome: still running, cancelled, or the task died.
    pub nothing: usize,
}

/// A token that is missing where it was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AckedLost {
    /// The token.
    pub token: String,
    /// The database that acknowledged it.
    pub database: String,
    /// Where it is instead, once per occurrence.
    pub found_on: Vec<String>,
}

/// A token and the databases that have it, once per occurrence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The token.
    pub token: String,
    /// The databases, in ascending order.
    pub found_on: Vec<String>,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that the write of `token` is about to be issued.
    ///
    /// # Panics
    /// If the token was attempted before: tokens are unique, retries are the client's business.
    pub fn attempt(&self, token: impl Into<String>) {
        let token = token.into();
        let mut entries = self.entries();
        assert!(
            !entries.contains_key(&token),
            "token {token:?} was attempted before"
        );
        entries.insert(token, None);
    }

    /// Notes what the caller was told about `token`. Without it, the token may be there or not.
    ///
    /// # Panics
    /// If the token was never attempted or has an outcome already.
    pub fn record(&self, token: &str, outcome: Outcome) {
        let mut entries = self.entries();
        match entries.get_mut(token) {
            Some(entry @ None) => *entry = Some(outcome),
            Some(Some(told)) => panic!("token {token:?} is {told:?} already, now {outcome:?}"),
            None => panic!("token {token:?} was never attempted"),
        }
    }

    /// Compares with what the databases hold: their names, and every token in their lists with all
    /// its repetitions. Takes O(n log n) for n tokens.
    pub fn check(&self, found: &BTreeMap<String, Vec<String>>) -> Report {
        let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (database, tokens) in found {
            for token in tokens {
                places.entry(token).or_default().push(database);
            }
        }

        let entries = self.entries();
        let mut report = Report {
            attempted: entries.len(),
            ..Report::default()
        };
        for (token, outcome) in entries.iter() {
            let found_on = places.remove(token.as_str()).unwrap_or_default();
            report.judge(token, outcome.as_ref(), &found_on);
        }
        report.strangers = places
            .iter()
            .map(|(token, on)| Found::new(token, on))
            .collect();
        report
    }

    /// A caller that panicked, as `attempt` and `record` may, leaves a whole ledger behind.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    /// Whether nothing was lost, applied twice or wrongly reported as not executed.
    pub fn is_clean(&self) -> bool {
        self.acked_lost.is_empty()
            && self.applied_twice.is_empty()
            && self.phantoms.is_empty()
            && self.strangers.is_empty()
    }

    fn judge(&mut self, token: &str, outcome: Option<&Outcome>, found_on: &[&str]) {
        if found_on.len() > 1 {
            self.applied_twice.push(Found::new(token, found_on));
        }
        let is_there = !found_on.is_empty();
        let promised_absent = match outcome {
            Some(Outcome::Acked { database }) => {
                self.told.acked += 1;
                if !found_on.contains(&database.as_str()) {
                    self.acked_lost.push(AckedLost {
                        token: token.to_owned(),
                        database: database.clone(),
                        found_on: owned(found_on),
                    });
                }
                return;
            }
            Some(Outcome::NotSent) => {
                self.told.not_sent += 1;
                true
            }
            Some(Outcome::NotExecuted) => {
                self.told.not_executed += 1;
                true
            }
            Some(Outcome::Unknown) => {
                self.told.unknown += 1;
                false
            }
            Some(Outcome::Failed) => {
                self.told.failed += 1;
                false
            }
            None => {
                self.told.nothing += 1;
                false
            }
        };
        match (promised_absent, is_there) {
            (true, true) => self.phantoms.push(Found::new(token, found_on)),
            (false, true) => self.unpromised_applied += 1,
            (_, false) => {}
        }
    }
}

impl Found {
    fn new(token: &str, found_on: &[&str]) -> Self {
        Self {
            token: token.to_owned(),
            found_on: owned(found_on),
        }
    }
}

/// One line of counts, then one line for each violation, at most ten of a kind.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = &self.told;
        write!(
            f,
            "{} attempted: {} acked, {} not sent, {} not executed, {} unknown, {} failed, \
             {} without outcome ({} of the last three applied); \
             {} acked lost, {} applied twice, {} phantoms, {} strangers",
            self.attempted,
            told.acked,
            told.not_sent,
            told.not_executed,
            told.unknown,
            told.failed,
            told.nothing,
            self.unpromised_applied,
            self.acked_lost.len(),
            self.applied_twice.len(),
            self.phantoms.len(),
            self.strangers.len(),
        )?;
        for lost in self.acked_lost.iter().take(SHOWN) {
            let (token, database) = (&lost.token, &lost.database);
            write!(
                f,
                "\n  lost: {token} was acked by {database}, found on {:?}",
                lost.found_on
            )?;
        }
        for (what, found) in [
            ("applied twice", &self.applied_twice),
            ("phantom", &self.phantoms),
            ("stranger", &self.strangers),
        ] {
            for Found { token, found_on } in found.iter().take(SHOWN) {
                write!(f, "\n  {what}: {token} on {found_on:?}")?;
            }
        }
        Ok(())
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

const SHOWN: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(database: &str) -> Outcome {
        Outcome::Acked {
            database: database.to_owned(),
        }
    }

    /// A ledger with these tokens and outcomes.
    fn ledger(entries: &[(&str, Option<Outcome>)]) -> Ledger {
        let ledger = Ledger::new();
        for (token, outcome) in entries {
            ledger.attempt(*token);
            if let Some(outcome) = outcome {
                ledger.record(token, outcome.clone());
            }
        }
        ledger
    }

    fn lists(lists: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        lists
            .iter()
            .map(|(name, tokens)| ((*name).to_owned(), owned(tokens)))
            .collect()
    }

    fn tokens(found: &[Found]) -> Vec<&str> {
        found.iter().map(|found| found.token.as_str()).collect()
    }

    #[test]
    fn an_honest_history_is_clean() {
        let ledger = ledger(&[
            ("a", Some(acked("east"))),
            ("b", Some(acked("west"))),
            ("c", Some(Outcome::NotSent)),
            ("d", Some(Outcome::NotExecuted)),
            ("e", Some(Outcome::Unknown)),
            ("f", Some(Outcome::Unknown)),
            ("g", Some(Outcome::Failed)),
            ("h", None),
        ]);
        let report = ledger.check(&lists(&[("east", &["a", "e"]), ("west", &["h", "b"])]));
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.attempted, report.unpromised_applied), (8, 2));
        let told = Told {
            acked: 2,
            not_sent: 1,
            not_executed: 1,
            unknown: 2,
            failed: 1,
            nothing: 1,
        };
        assert_eq!(report.told, told);
    }

    #[test]
    fn an_ack_is_lost_wherever_else_the_token_is() {
        let ledger = ledger(&[
            ("elsewhere", Some(acked("east"))),
            ("gone", Some(acked("east"))),
            ("unread", Some(acked("north"))),
        ]);
        let report = ledger.check(&lists(&[("east", &[]), ("west", &["elsewhere"])]));
        assert!(!report.is_clean());
        let lost: Vec<_> = report
            .acked_lost
            .iter()
            .map(|lost| (lost.token.as_str(), lost.found_on.len()))
            .collect();
        assert_eq!(lost, [("elsewhere", 1), ("gone", 0), ("unread", 0)]);
    }

    #[test]
    fn twice_is_twice_whatever_was_told() {
        let ledger = ledger(&[
            ("across", Some(acked("east"))),
            ("cancelled", None),
            ("same list", Some(Outcome::Unknown)),
        ]);
        let report = ledger.check(&lists(&[
            ("east", &["across", "same list", "cancelled", "same list"]),
            ("west", &["across", "cancelled"]),
        ]));
        assert!(!report.is_clean());
        assert_eq!(
            tokens(&report.applied_twice),
            ["across", "cancelled", "same list"]
        );
        assert_eq!(report.applied_twice[0].found_on, ["east", "west"]);
        assert_eq!(report.applied_twice[2].found_on, ["east", "east"]);
        assert!(report.acked_lost.is_empty());
    }

    #[test]
    fn what_was_never_executed_must_not_be_there() {
        let ledger = ledger(&[
            ("refused", Some(Outcome::NotExecuted)),
            ("unsent", Some(Outcome::NotSent)),
        ]);
        let report = ledger.check(&lists(&[("east", &["refused", "unsent"])]));
        assert!(!report.is_clean());
        assert_eq!(tokens(&report.phantoms), ["refused", "unsent"]);
    }

    #[test]
    fn a_token_nobody_attempted_is_a_stranger() {
        let report = Ledger::new().check(&lists(&[("east", &["x"])]));
        assert!(!report.is_clean());
        assert_eq!(tokens(&report.strangers), ["x"]);
    }

    #[test]
    fn the_report_names_each_violation_and_stays_short() {
        let ledger = Ledger::new();
        for n in 0..1000 {
            ledger.attempt(format!("t{n:04}"));
            ledger.record(&format!("t{n:04}"), acked("east"));
        }
        let text = ledger.check(&BTreeMap::new()).to_string();
        assert!(
            text.contains("1000 acked lost") && text.contains("t0009"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1 + SHOWN);
    }

    #[test]
    #[should_panic(expected = "attempted before")]
    fn a_token_is_attempted_once() {
        ledger(&[("a", None)]).attempt("a");
    }

    #[test]
    #[should_panic(expected = "already")]
    fn a_token_has_one_outcome() {
        ledger(&[("a", Some(Outcome::Unknown))]).record("a", Outcome::Failed);
    }

    #[test]
    #[should_panic(expected = "never attempted")]
    fn an_outcome_needs_an_attempt() {
        Ledger::new().record("a", Outcome::Unknown);
    }
}
