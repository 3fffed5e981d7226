//! From a fault to something, run by run.

use serde_json::{Map, Value, json};

use crate::report::{median, rounded};

/// How long one client took in each run, in milliseconds.
#[derive(Default)]
pub(crate) struct Times {
    all: Vec<f64>,
    /// Runs in which it had left the first database before anything was wrong with it. That is a false alarm and no
    /// recovery of 0 ms, so it is counted apart.
    early: usize,
}

impl Times {
    /// Both by [`now_ns`](crate::player::now_ns).
    pub(crate) fn add(&mut self, fault_ns: u64, seen_ns: u64) {
        match seen_ns.checked_sub(fault_ns) {
            Some(ns) => self.all.push(rounded(ns as f64 / 1e6)),
            None => self.early += 1,
        }
    }

    /// What a figure says of them.
    pub(crate) fn figure(&self) -> Result<Map<String, Value>, String> {
        if self.all.is_empty() {
            let early = self.early;
            return Err(format!(
                "a client had left before the fault in all {early} runs"
            ));
        }
        let figure = [
            ("median", json!(rounded(median(&self.all)))),
            ("max", json!(self.most())),
            ("all", json!(self.all)),
            ("early", json!(self.early)),
            ("runs", json!(self.all.len() + self.early)),
        ];
        Ok(figure
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect())
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        format!(
            "median {:>8.1} ms, max {:>8.1} ms, left before the fault {} of {}",
            median(&self.all),
            self.most(),
            self.early,
            self.all.len() + self.early,
        )
    }

    fn most(&self) -> f64 {
        self.all.iter().copied().fold(0.0, f64::max)
    }
}
