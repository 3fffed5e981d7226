//! redis-py, in a process of its own that ends with this value: one JSON object a line each way.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::player::{Counted, Read, Who};

pub(crate) struct RedisPy {
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    versions: Value,
    /// Killed when dropped.
    _child: Child,
}

/// No verb takes longer: with its defaults a call may take 11 timeouts of 5 s.
const LIMIT: Duration = Duration::from_secs(90);

/// Installs what `requirements.txt` says, unless that has been done.
pub(crate) fn install() -> Result<(), String> {
    let script = here("install");
    let status = Command::new(&script)
        .arg(environment())
        .stdin(Stdio::null())
        // stdout is for figures.
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("{} cannot be run: {error}", script.display()))?;
    match status.success() {
        true => Ok(()),
        false => Err("redis-py is not installed, see above".to_owned()),
    }
}

impl RedisPy {
    pub(crate) async fn connect(who: Who, addresses: &[String; 2]) -> Result<Self, String> {
        let python = environment().join("bin/python");
        let mut child = tokio::process::Command::new(&python)
            .arg(here("redis_py.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} cannot be run: {error}", python.display()))?;
        let mut theirs = Self {
            orders: child.stdin.take().expect("piped"),
            answers: BufReader::new(child.stdout.take().expect("piped")).lines(),
            versions: Value::Null,
            _child: child,
        };
        let urls = addresses.each_ref().map(|addr| format!("redis://{addr}"));
        let order = json!({"do": "connect", "databases": urls, "tuning": who.tuning});
        theirs.versions = theirs.ask(&order).await?;
        Ok(theirs)
    }

    pub(crate) fn versions(&self) -> &Value {
        &self.versions
    }

    pub(crate) async fn read(&mut self, key: &str) -> Result<(), String> {
        self.ask(&json!({"do": "read", "key": key})).await?;
        Ok(())
    }

    pub(crate) async fn elsewhere(&mut self) -> Result<Read, String> {
        let read = self.ask(&json!({"do": "elsewhere"})).await?;
        Ok(Read {
            at_ns: whole(&read, "at_ns")?,
            failed: whole(&read, "failed")?,
            longest_ms: read["longest_ms"].as_f64().ok_or("no longest_ms")?,
        })
    }

    pub(crate) async fn subscribe(&mut self, channel: &str) -> Result<(), String> {
        let order = json!({"do": "subscribe", "channel": channel});
        self.ask(&order).await?;
        Ok(())
    }

    pub(crate) async fn heard_elsewhere(&mut self) -> Result<u64, String> {
        whole(&self.ask(&json!({"do": "heard_elsewhere"})).await?, "at_ns")
    }

    pub(crate) async fn received(&mut self) -> Result<Vec<u64>, String> {
        let answer = self.ask(&json!({"do": "received"})).await?;
        let numbers = answer["numbers"].as_array().ok_or("no numbers")?;
        Ok(numbers.iter().filter_map(Value::as_u64).collect())
    }

    pub(crate) async fn incr(&mut self, key: &str, callers: usize) -> Result<Counted, String> {
        let order = json!({"do": "incr", "key": key, "callers": callers});
        counted(&self.ask(&order).await?)
    }

    pub(crate) async fn load(&mut self, key: &str, callers: usize) -> Result<(), String> {
        let order = json!({"do": "load", "key": key, "callers": callers});
        self.ask(&order).await?;
        Ok(())
    }

    pub(crate) async fn unload(&mut self) -> Result<Counted, String> {
        counted(&self.ask(&json!({"do": "unload"})).await?)
    }

    pub(crate) async fn switch(&mut self, to: usize) -> Result<(), String> {
        self.ask(&json!({"do": "switch", "to": to})).await?;
        Ok(())
    }

    /// Does what `order` says, and what it answered.
    pub(crate) async fn ask(&mut self, order: &Value) -> Result<Value, String> {
        let told = |error: std::io::Error| format!("redis_py.py: {error}");
        let line = format!("{order}\n");
        self.orders.write_all(line.as_bytes()).await.map_err(told)?;
        let answer = timeout(LIMIT, self.answers.next_line())
            .await
            .map_err(|_| format!("redis-py: {order} is not done within {LIMIT:?}"))?
            .map_err(told)?
            .ok_or("redis_py.py has ended")?;
        let answer: Value =
            serde_json::from_str(&answer).map_err(|error| format!("redis_py.py: {error}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(format!("redis-py: {order}: {error}")),
            None => Ok(answer),
        }
    }
}

fn counted(answer: &Value) -> Result<Counted, String> {
    let errors = answer["errors"].as_object().ok_or("no errors")?;
    Ok(Counted {
        issued: whole(answer, "issued")?,
        acknowledged: whole(answer, "acknowledged")?,
        errors: errors
            .iter()
            .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or_default()))
            .collect(),
    })
}

fn whole(answer: &Value, name: &str) -> Result<u64, String> {
    answer[name]
        .as_u64()
        .ok_or_else(|| format!("no {name} in {answer}"))
}

fn here(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "benches/peers", name]
        .iter()
        .collect()
}

fn environment() -> PathBuf {
    [env!("CARGO_TARGET_TMPDIR"), "peers"].iter().collect()
}
