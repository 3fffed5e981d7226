//! Scripts that callers have loaded, so that a pipeline finds them on whichever database runs it.
//!
//! EVALSHA by itself is answered NOSCRIPT, upon which `redis::Script` loads it and asks again. In a
//! pipeline that is too late: the other elements have run.

use std::collections::VecDeque;
use std::sync::Arc;

use ::redis::{Arg, Cmd, Pipeline, Value, cmd};

use super::commands::{Route, route};

/// The latest scripts loaded over this client.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    known: VecDeque<Script>,
    bytes: usize,
}

/// A script and what loads it.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) sha: Sha,
    pub(super) load: Arc<Cmd>,
    bytes: usize,
}

/// SHA-1 in hex, as the server writes it: in lower case.
pub(super) type Sha = [u8; 40];

/// More than anybody has, and a bound for those who make a script of every value.
const MOST: usize = 512;
const MOST_BYTES: usize = 8 << 20;

impl Scripts {
    /// Remembers what `SCRIPT LOAD` has loaded, by the name that the server gave it.
    pub(super) fn remember(&mut self, load: &Cmd, reply: &Value) {
        let name = match reply {
            Value::BulkString(name) => name.as_slice(),
            Value::SimpleString(name) => name.as_bytes(),
            _ => return,
        };
        let (Some(sha), Some(Arg::Simple(body))) = (sha(name), load.args_iter().nth(2)) else {
            return;
        };
        let mut again = cmd("SCRIPT");
        again.arg("LOAD").arg(body);
        self.known.retain(|script| script.sha != sha);
        self.known.push_back(Script {
            sha,
            load: Arc::new(again),
            bytes: body.len(),
        });
        self.bytes = self.known.iter().map(|script| script.bytes).sum();
        while self.known.len() > MOST || self.bytes > MOST_BYTES {
            let oldest = self.known.pop_front();
            self.bytes -= oldest.map_or(self.bytes, |script| script.bytes);
        }
    }

    /// What has been flushed on purpose is not loaded again.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Those that a pipeline runs, as far as they are known.
    pub(super) fn of(&self, pipeline: &Pipeline) -> Vec<Script> {
        let mut needed: Vec<Script> = Vec::new();
        for run in pipeline
            .cmd_iter()
            .filter(|run| route(run) == Route::RunScript)
        {
            let Some(Arg::Simple(name)) = run.args_iter().nth(1) else {
                continue;
            };
            let Some(sha) = sha(name) else { continue };
            if needed.iter().all(|script| script.sha != sha)
                && let Some(script) = self.known.iter().find(|script| script.sha == sha)
            {
                needed.push(script.clone());
            }
        }
        needed
    }
}

fn sha(name: &[u8]) -> Option<Sha> {
    let mut sha: Sha = name.try_into().ok()?;
    sha.make_ascii_lowercase();
    Some(sha)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(body: &str) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(body);
        load
    }

    fn named(number: usize) -> String {
        format!("{number:040x}")
    }

    fn running(names: &[&str]) -> Pipeline {
        let mut pipeline = ::redis::pipe();
        for name in names {
            pipeline.cmd("evalsha").arg(name).arg(0);
        }
        pipeline
    }

    #[test]
    fn a_pipeline_needs_each_script_that_it_runs_once() {
        let mut scripts = Scripts::default();
        for number in 0..3 {
            let reply = Value::BulkString(named(number).into_bytes());
            scripts.remember(&load("return 1"), &reply);
        }
        let names = [
            named(2).to_uppercase(),
            named(0),
            named(2),
            named(9),
            "x".into(),
        ];
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let needed = scripts.of(&running(&names));
        let shas: Vec<_> = needed.iter().map(|script| script.sha.as_slice()).collect();
        assert_eq!(shas, [named(2).as_bytes(), named(0).as_bytes()]);
        scripts.forget();
        assert!(scripts.of(&running(&names)).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut scripts = Scripts::default();
        for number in 0..MOST + 10 {
            let reply = Value::BulkString(named(number).into_bytes());
            scripts.remember(&load("return 1"), &reply);
        }
        assert_eq!(scripts.known.len(), MOST);
        let reply = Value::BulkString(named(1).into_bytes());
        scripts.remember(&load(&"x".repeat(MOST_BYTES)), &reply);
        assert_eq!((scripts.known.len(), scripts.bytes), (1, MOST_BYTES));
        scripts.remember(&load(&"x".repeat(MOST_BYTES + 1)), &reply);
        assert_eq!((scripts.known.len(), scripts.bytes), (0, 0));
        scripts.remember(&load("return 1"), &Value::Nil);
        assert!(scripts.known.is_empty());
    }
}
