//! Replies to INCR get lost on the way, so that a client cannot know whether it was run.

use std::time::Duration;

use multidb::testing::proxy::FaultProxy;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::player::{Counted, DEFAULTS, Player, Who};
use crate::report::Report;
use crate::servers::{addresses, applied, pair};
use crate::support::redis_server::RedisServer;

const CALLERS: usize = 16;
const CALLS: usize = 200;
/// One reply of so many is cut off.
const EVERY: usize = 10;
/// Lost in both ways.
pub(crate) const REPLIES: usize = CALLERS + CALLS / EVERY;

pub(crate) async fn measure(report: Report) -> Result<Vec<Value>, String> {
    report.title("replies to INCR get lost: how often it was run");
    let servers = pair().await;
    let mut figures = Vec::new();
    for who in DEFAULTS {
        report.progress(format_args!("lost replies, {}", who.client));
        let (counted, applied) = lost(&servers, who).await?;
        figures.push(tell(report, "replies_lost", who, &counted, applied));
        let (counted, applied) = cut(&servers, who).await?;
        figures.push(tell(report, "replies_cut", who, &counted, applied));
    }
    Ok(figures)
}

/// The network to the first server swallows everything that it answers, with a call of each caller under way.
async fn lost(servers: &[RedisServer; 2], who: Who) -> Result<(Counted, u64), String> {
    let (proxy, mut player) = behind_a_proxy(servers, who).await?;
    let key = format!("lost-{}", who.client);
    // Every caller has its connection by then, if it needs one.
    player.incr("warm", CALLERS).await?;
    proxy.lose_replies();
    let counted = player.incr(&key, CALLERS).await?;
    let applied = applied(servers, &key).await;
    Ok((counted, applied))
}

/// One reply of ten is cut off by a reset, and the network is well again at once.
async fn cut(servers: &[RedisServer; 2], who: Who) -> Result<(Counted, u64), String> {
    let (proxy, mut player) = behind_a_proxy(servers, who).await?;
    let key = format!("cut-{}", who.client);
    player.incr("warm", 1).await?;
    let mut counted = Counted::default();
    for call in 1..=CALLS {
        if call % EVERY == 0 {
            proxy.cut_replies_after(0);
        }
        counted.add(player.incr(&key, 1).await?);
    }
    let applied = applied(servers, &key).await;
    Ok((counted, applied))
}

async fn behind_a_proxy(
    servers: &[RedisServer; 2],
    who: Who,
) -> Result<(FaultProxy, Player), String> {
    let proxy = FaultProxy::start(servers[0].addr()).await;
    let proxy = proxy.map_err(|error| format!("no proxy: {error}"))?;
    let [_, second] = addresses(servers);
    let player = Player::connect(who, &[proxy.addr().to_string(), second]).await?;
    // Standbys are connected to by then.
    sleep(Duration::from_millis(200)).await;
    Ok((proxy, player))
}

fn tell(report: Report, figure: &str, who: Who, counted: &Counted, applied: u64) -> Value {
    let twice = applied.saturating_sub(counted.issued);
    let json = json!({
        "figure": figure, "client": who.client, "tuning": who.tuning,
        "issued": counted.issued, "acknowledged": counted.acknowledged, "errors": counted.errors,
        "failed_calls": counted.failed(), "applied": applied, "executed_twice": twice,
    });
    report.figure(
        &json,
        format_args!(
            "{figure:<12} {:<8}: issued {}, acknowledged {}, errors {:?}, applied {applied}: run twice {twice}",
            who.client, counted.issued, counted.acknowledged, counted.errors,
        ),
    );
    json
}
