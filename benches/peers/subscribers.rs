//! A server is killed under one subscriber of each client. Both servers publish all the time.

use std::time::Duration;

use futures_util::future::try_join_all;
use redis::AsyncCommands;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::outage::{any_phase, connect_all};
use crate::player::{ALL, Player, Who, now_ns};
use crate::report::{Report, median};
use crate::servers::{NAMES, addresses, pair};
use crate::support::redis_server::RedisServer;
use crate::times::Times;

const CHANNEL: &str = "news";
const EVERY: Duration = Duration::from_millis(10);

/// What one client heard in all runs.
#[derive(Default)]
struct Heard {
    times: Times,
    /// Messages, of each run in which it had not left before the fault.
    lost: Vec<f64>,
}

pub(crate) async fn measure(report: Report, runs: usize) -> Result<Vec<Value>, String> {
    report.title(
        "a subscriber, 100 messages a second: from SIGKILL to the first message of the other server",
    );
    let mut seen: [Heard; ALL.len()] = Default::default();
    for run in 1..=runs {
        report.progress(format_args!("a subscriber, run {run} of {runs}"));
        one(&mut seen).await?;
    }
    let figures = ALL.into_iter().zip(&seen);
    figures.map(|(who, seen)| tell(report, who, seen)).collect()
}

async fn one(seen: &mut [Heard; ALL.len()]) -> Result<(), String> {
    let mut servers = pair().await;
    let mut players = connect_all(&addresses(&servers)).await?;
    for player in &mut players {
        player.subscribe(CHANNEL).await?;
    }
    let publisher = Publisher::on(&servers).await?;
    any_phase().await;

    let at = now_ns();
    servers[0].kill();
    let firsts = try_join_all(players.iter_mut().map(Player::heard_elsewhere)).await?;
    // Everybody is to hear some more, so that what is missing was lost and is not late.
    sleep(Duration::from_millis(300)).await;
    let published = publisher.end().await;
    sleep(Duration::from_millis(300)).await;

    for ((seen, player), first) in seen.iter_mut().zip(&mut players).zip(firsts) {
        let received = player.received().await?;
        seen.times.add(at, first);
        if first >= at {
            let after = published.iter().filter(|(_, ns)| *ns >= at);
            let lost = after.filter(|(number, _)| !received.contains(number));
            seen.lost.push(lost.count() as f64);
        }
    }
    Ok(())
}

/// Publishes the same number on both servers every 10 ms, as `SERVER:NUMBER`.
struct Publisher {
    task: JoinHandle<()>,
    /// What the second server acknowledged, and when it was sent.
    published: tokio::sync::mpsc::UnboundedReceiver<(u64, u64)>,
}

impl Publisher {
    async fn on(servers: &[RedisServer; 2]) -> Result<Self, String> {
        let mut cons = Vec::new();
        for server in servers {
            cons.push(server.admin().await.map_err(|error| error.to_string())?);
        }
        let (say, published) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut due = interval(EVERY);
            due.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for number in 0.. {
                due.tick().await;
                let sent = now_ns();
                // The first may be dead, which is nothing to wait for.
                let sending = cons.iter_mut().zip(NAMES).map(|(con, name)| async move {
                    let text = format!("{name}:{number}");
                    let heard: redis::RedisResult<i64> = con.publish(CHANNEL, text).await;
                    heard.is_ok()
                });
                let acknowledged = futures_util::future::join_all(sending).await;
                if acknowledged[1] {
                    let _ = say.send((number, sent));
                }
            }
        });
        Ok(Self { task, published })
    }

    async fn end(mut self) -> Vec<(u64, u64)> {
        self.task.abort();
        let mut all = Vec::new();
        while let Some(one) = self.published.recv().await {
            all.push(one);
        }
        all
    }
}

fn tell(report: Report, who: Who, seen: &Heard) -> Result<Value, String> {
    let mut times = seen.times.figure()?;
    let (middle, most) = (
        median(&seen.lost),
        seen.lost.iter().copied().fold(0.0, f64::max),
    );
    let mut json = json!({
        "figure": "first_message_ms", "fault": "sigkill", "client": who.client, "tuning": who.tuning,
        "lost_median": middle, "lost_max": most,
    });
    let object = json.as_object_mut().ok_or("an object was written")?;
    object.append(&mut times);
    report.figure(
        &json,
        format_args!(
            "{:<8} {:<10}: {}; lost {middle}, at most {most}",
            who.client,
            who.tuning,
            seen.times.text(),
        ),
    );
    Ok(json)
}
