//! Figures: one JSON object a line on stdout, or text for people. Progress goes to stderr.

use std::fmt;

/// How a bench tells what it measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    json: bool,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// A headline, for people only.
    pub(crate) fn title(self, title: &str) {
        if !self.json {
            println!("\n{title}");
        }
    }

    /// One figure, for whoever reads.
    pub(crate) fn figure(self, json: &serde_json::Value, text: fmt::Arguments<'_>) {
        match self.json {
            true => println!("{json}"),
            false => println!("  {text}"),
        }
    }

    pub(crate) fn progress(self, what: fmt::Arguments<'_>) {
        eprintln!("… {what}");
    }
}

/// Whether a figure keeps to its bar, for people.
pub(crate) fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "MISSED" }
}

/// Three digits: what is behind them is noise.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The middle of the values. They must not be empty.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}
