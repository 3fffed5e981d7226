//! Of what the figures are.

use std::process::Command;

use serde_json::{Value, json};

use crate::player::{Player, THEIRS};
use crate::report::Report;
use crate::servers::{addresses, pair};

pub(crate) async fn figure(report: Report) -> Result<Value, String> {
    let servers = pair().await;
    let info: String = servers[0].cmd(&["INFO", "server"]).await;
    let server = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"));
    let Player::RedisPy(theirs) = Player::connect(THEIRS, &addresses(&servers)).await? else {
        return Err("redis-py was expected".to_owned());
    };
    let theirs = theirs.versions();
    let json = json!({
        "figure": "versions", "multidb": env!("CARGO_PKG_VERSION"), "redis-rs": redis_rs(), "rustc": rustc(),
        "redis-py": theirs["redis-py"], "pybreaker": theirs["pybreaker"], "python": theirs["python"],
        "redis-server": server, "load": load(), "cores": std::thread::available_parallelism().map_or(0, usize::from),
    });
    report.title("versions");
    report.figure(&json, format_args!("{json}"));
    Ok(json)
}

fn redis_rs() -> Option<&'static str> {
    let (_, rest) =
        include_str!("../../Cargo.lock").split_once("name = \"redis\"\nversion = \"")?;
    rest.split('"').next()
}

fn rustc() -> Option<String> {
    let said = Command::new("rustc").arg("--version").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    said.split_whitespace().nth(1).map(str::to_owned)
}

/// How many processes wanted a core in the minute before.
fn load() -> Option<f64> {
    let said = std::fs::read_to_string("/proc/loadavg").ok()?;
    said.split_whitespace().next()?.parse().ok()
}
