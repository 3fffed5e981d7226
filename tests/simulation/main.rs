//! Disasters by the hundred: the shipped driver code on simulated networks, each from a seed.
//!
//! A disaster has a part in which databases and the ways to them break and an operator gives orders,
//! then everything is healed, and then all must be well again. One checker judges the whole history.
//! Every seed is lived through twice, and both histories must be the same to the letter.
//!
//! A seed that fails is printed with the command that lives through it again, alone, and shows its
//! history.

mod checker;
mod deaf;
mod history;
mod hosts;
mod memory;
mod plan;
mod planted;
mod scene;
#[path = "../support/mod.rs"]
mod support;

use std::ops::Range;

use history::History;

/// A network, how to live through a seed on it, and the test that does.
struct World {
    run: fn(u64) -> History,
    test: &'static str,
}

const MEMORY: World = World {
    run: memory::run,
    test: "disasters_in_memory",
};
const HOSTS: World = World {
    run: hosts::run,
    test: "disasters_between_hosts",
};

#[test]
fn disasters_in_memory_keep_every_promise() {
    MEMORY.survive(0..150);
}

#[test]
fn disasters_between_hosts_keep_every_promise() {
    HOSTS.survive(0..50);
}

#[test]
#[ignore = "minutes: tests/run --soak"]
fn thousands_of_disasters_keep_every_promise() {
    MEMORY.survive(1_000..4_000);
    HOSTS.survive(1_000..1_500);
}

impl World {
    /// Lives through these seeds, or through the one that was asked for.
    fn survive(&self, seeds: Range<u64>) {
        if let Ok(seed) = std::env::var(SEED) {
            return self.replay(seed.parse().expect("the seed is a number"));
        }
        let mut failed = Vec::new();
        for seed in seeds {
            let history = (self.run)(seed);
            let mut problems = checker::violations(&history);
            let (first, second) = (history.to_string(), (self.run)(seed).to_string());
            if let Some((a, b)) = first.lines().zip(second.lines()).find(|(a, b)| a != b) {
                problems.push(format!("the same seed, another history:\n    {a}\n    {b}"));
            }
            if !problems.is_empty() {
                let problems = problems.join("\n  ");
                failed.push(format!("{}\n  {problems}", self.command(seed)));
            }
        }
        assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    }

    fn replay(&self, seed: u64) {
        let history = (self.run)(seed);
        println!("{:#?}\n{history}", history.plan);
        let problems = checker::violations(&history);
        assert!(problems.is_empty(), "\n  {}", problems.join("\n  "));
    }

    fn command(&self, seed: u64) -> String {
        let test = self.test;
        format!(
            "{SEED}={seed} cargo test --release --all-features --test simulation {test} -- --nocapture"
        )
    }
}

/// Names the seed to live through again.
const SEED: &str = "MULTIDB_SEED";
