//! Planned switches between two healthy databases, to and fro under load.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::player::{DEFAULTS, Player, Who};
use crate::report::Report;
use crate::servers::{addresses, applied, pair};
use crate::support::redis_server::RedisServer;

const SWITCHES: usize = 20;
const CALLERS: usize = 16;
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn measure(report: Report) -> Result<Vec<Value>, String> {
    report.title("20 planned switches under 16 callers of INCR");
    let servers = pair().await;
    let mut figures = Vec::new();
    for who in DEFAULTS {
        report.progress(format_args!("planned switches, {}", who.client));
        figures.push(one(report, &servers, who).await?);
    }
    Ok(figures)
}

async fn one(report: Report, servers: &[RedisServer; 2], who: Who) -> Result<Value, String> {
    let mut player = Player::connect(who, &addresses(servers)).await?;
    let key = format!("switched-{}", who.client);
    player.load(&key, CALLERS).await?;
    for switch in 1..=SWITCHES {
        sleep(PAUSE).await;
        player.switch(switch % 2).await?;
    }
    sleep(PAUSE).await;
    let counted = player.unload().await?;
    let applied = applied(servers, &key).await;

    let twice = applied.saturating_sub(counted.issued);
    let json = json!({
        "figure": "planned_switches", "client": who.client, "tuning": who.tuning, "switches": SWITCHES,
        "issued": counted.issued, "acknowledged": counted.acknowledged, "errors": counted.errors,
        "failed_calls": counted.failed(), "applied": applied, "executed_twice": twice,
    });
    report.figure(
        &json,
        format_args!(
            "{:<8}: calls {}, errors {:?}, applied {applied}: run twice {twice}",
            who.client, counted.issued, counted.errors,
        ),
    );
    Ok(json)
}
