//! Planned switches under load, on real servers.

use multidb::{Drain, ErrorKind};
use redis::{AsyncCommands, RedisResult, cmd};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{SOON, bounded, connect, databases, ms, two};

/// redis-py: 208 to 265 commands doubled, or 77 to 148 raw errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_twenty_planned_switches_under_load_cost_nobody_an_error_and_double_nothing() {
    bounded(async {
        let (a, b) = two().await;
        let client = connect(databases(&[("a", a.url()), ("b", b.url())])).await;
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let mut con = client.connection();
                tokio::spawn(async move {
                    let mut pushed = 0_usize;
                    while con.client().snapshot().generation < 21 {
                        let token = format!("{writer}:{pushed}");
                        let result: RedisResult<i64> = con.rpush("log", token).await;
                        result.expect("no error because of a planned switch");
                        pushed += 1;
                    }
                    pushed
                })
            })
            .collect();
        for switch in 0..20 {
            sleep(ms(25)).await;
            let to = if switch % 2 == 0 { "b" } else { "a" };
            client.switch_to(to).await.expect("both are well");
        }
        let mut acknowledged = 0;
        for writer in writers {
            let pushed = timeout(SOON, writer).await.expect("in time");
            acknowledged += pushed.expect("no panic");
        }
        let mut all = a.list("log").await;
        all.extend(b.list("log").await);
        let total = all.len();
        all.sort_unstable();
        all.dedup();
        eprintln!("    {acknowledged} pushes through 20 switches");
        assert!(acknowledged > 1000, "{acknowledged}");
        assert_eq!((total, all.len()), (acknowledged, acknowledged));
        client.close().await;
    })
    .await;
}

/// What is in flight when its time is up is cut off, and told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_cancel_what_is_left_of_a_planned_switch_is_in_doubt_and_typed() {
    bounded(async {
        let (a, b) = two().await;
        let mut config = multidb::Config::default();
        config.failover.drain = Drain::Cancel(ms(50));
        config.calls.response_timeout = ms(3000);
        let builder = databases(&[("a", a.url()), ("b", b.url())]).config(config);
        let client = connect(builder).await;
        let mut con = client.connection();
        let slow = tokio::spawn(async move {
            let mut pause = cmd("EVAL");
            // Long enough to be in flight, too short to be taken for a hang.
            pause.arg(BUSY).arg(0).query_async::<()>(&mut con).await
        });
        sleep(ms(20)).await;
        let switched = Instant::now();
        client.switch_to("b").await.expect("b is well");
        let error = slow.await.expect("no panic").expect_err("it was cut off");
        assert!(switched.elapsed() < ms(190), "{:?}", switched.elapsed());
        let ours = multidb::redis::from_redis(&error).expect("an error of ours");
        assert!(
            matches!(ours.kind(), ErrorKind::OutcomeUnknown(_)),
            "{ours}"
        );
        assert_eq!(ours.database().expect("a"), "a");
        client.close().await;
    })
    .await;
}

const BUSY: &str = "local t = redis.call('TIME') \
     local till = t[1] * 1000000 + t[2] + 220000 \
     repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > till";
