//! The verdict in words.

use std::fmt::{Result, Write};

use multidb::Sensitivity;

use super::{Counters, Outcome, Report, Row};
use crate::load::Class;
use crate::screen::Paint;
use crate::{grouped, millis};

type Painter<'a> = &'a dyn Fn(Paint, &str) -> String;

impl Report {
    pub(crate) fn text(&self, paint: Painter<'_>) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out, paint);
        out
    }

    fn write(&self, out: &mut String, paint: Painter<'_>) -> Result {
        let [unknown, not_executed, unavailable, other] = Class::ALL.map(Class::name);
        let heading = columns(
            "fault",
            "first success elsewhere",
            "failed calls",
            [unknown, not_executed, unavailable, other],
        );
        writeln!(out, "\n{}", paint(Paint::Bold, &heading))?;
        for row in &self.rows {
            let color = match row.outcome {
                Outcome::WentOn(_) | Outcome::Untold => Paint::Plain,
                Outcome::Stopped | Outcome::NotReached => Paint::Red,
            };
            writeln!(out, "{}", paint(color, &row.text()))?;
        }
        let definition = format!(
            "The time runs from just before the fault to the completion of the first RPUSH whose token \
             is on\nthe other database in the end. Silence is believed after {} ms, by default, so \
             that a slow command\nis not taken for a hang.",
            Sensitivity::default().tolerance().as_millis(),
        );
        writeln!(out, "{}", paint(Paint::Dim, &definition))?;

        let heading = "What became of the writes (each RPUSH and each INCR is one)";
        writeln!(out, "\n{}", paint(Paint::Bold, heading))?;
        self.write_counts(out, paint)?;
        writeln!(out, "  {}", self.counters.text())?;
        writeln!(out, "\n{}", self.verdict(paint))
    }

    fn write_counts(&self, out: &mut String, paint: Painter<'_>) -> Result {
        let mut line = |name: &str, count: u64, color: Paint, meaning: &str| {
            let count = format!("  {name:<16}{:>12}", grouped(count));
            let (count, meaning) = (paint(color, &count), paint(Paint::Dim, meaning));
            writeln!(out, "{count}   {meaning}")
        };
        let must_be_none = |count| match count {
            0 => Paint::Green,
            _ => Paint::Red,
        };
        let (lost, twice) = (self.lost(), self.twice());
        let phantoms = self.ledger.phantoms.len() as u64;
        let [unknown, not_executed, unavailable, other] = self.failed;
        let ran = self.ledger.unpromised_applied;
        let unknown_meaning = format!(
            "cut off under way: may have run (as {ran} of the tokens have), and were not repeated"
        );

        line(
            "acknowledged",
            self.acked,
            Paint::Plain,
            "the database said that it was done",
        )?;
        line(
            "  lost",
            lost,
            must_be_none(lost),
            "acknowledged, but on neither database now",
        )?;
        line(
            "  applied twice",
            twice,
            must_be_none(twice),
            "there twice, on one database or on both",
        )?;
        line("unknown", unknown, Paint::Plain, &unknown_meaning)?;
        line(
            "not run",
            not_executed + unavailable,
            Paint::Plain,
            "certainly not run: the caller may repeat it",
        )?;
        line(
            "  but found",
            phantoms,
            must_be_none(phantoms),
            "reported as not run, and there all the same",
        )?;
        line("other errors", other, Paint::Plain, "promise nothing")
    }

    fn verdict(&self, paint: Painter<'_>) -> String {
        match (self.violations().is_none(), self.survived()) {
            (true, true) => paint(
                Paint::Green,
                "VERDICT: nothing acknowledged was lost, nothing was applied twice, and after every \
                 fault the work went on elsewhere.",
            ),
            (true, false) => paint(
                Paint::Red,
                "VERDICT: FAILED. Nothing was lost, but not after every fault the work went on elsewhere.",
            ),
            (false, _) => paint(
                Paint::Red,
                "VERDICT: FAILED. The databases do not hold what the writers were told.",
            ),
        }
    }
}

impl Row {
    fn text(&self) -> String {
        let first_success = match self.outcome {
            Outcome::WentOn(time) => format!("{:.1} ms", millis(time)),
            Outcome::Stopped => "never".to_owned(),
            Outcome::Untold => "-".to_owned(),
            Outcome::NotReached => "not reached".to_owned(),
        };
        columns(
            &self.fault.to_string(),
            &first_success,
            &grouped(self.failed.iter().sum()),
            self.failed.map(grouped).each_ref().map(String::as_str),
        )
    }
}

impl Counters {
    pub(super) fn text(&self) -> String {
        let held: Vec<_> = self
            .held
            .iter()
            .map(|(name, count)| format!("{name} {}", grouped(*count)))
            .collect();
        let verdict = match (self.missing(), self.excess()) {
            (0, 0) => "as it must be".to_owned(),
            (0, excess) => format!("{} TOO MANY", grouped(excess)),
            (missing, _) => format!("{} MISSING", grouped(missing)),
        };
        format!(
            "counters: {} = {}; acknowledged {}, unknown {}: {verdict}",
            held.join(" + "),
            grouped(self.sum()),
            grouped(self.acked),
            grouped(self.unknown),
        )
    }
}

fn columns(fault: &str, time: &str, failed: &str, by_class: [&str; Class::ALL.len()]) -> String {
    let [unknown, not_executed, unavailable, other] = by_class;
    format!(
        "{fault:<16}{time:>24}{failed:>14}{unknown:>10}{not_executed:>14}{unavailable:>13}{other:>7}"
    )
}
