//! Replies that are small to send and large to keep, or that never end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use multidb::ErrorKind;
use redis::Value;
use tokio::time::Instant;

use super::*;
use crate::peer::Say;

/// A reply, and the most memory it may take, in MiB.
struct Bomb {
    name: &'static str,
    say: Say,
    most: u64,
    /// It may be what was asked for: then it is handed over.
    may_be_served: bool,
}

const ENDLESS: usize = usize::MAX;

fn bombs() -> Vec<Bomb> {
    let stream = |name, first: &str, unit: &str, times, most| Bomb {
        name,
        say: Say::Stream(first.into(), unit.into(), times),
        most,
        may_be_served: false,
    };
    vec![
        stream("a string of 1e9 bytes", "$1000000000\r\n", "x", ENDLESS, 16),
        stream(
            "a string beyond 64 bits",
            "$99999999999999999999\r\n",
            "x",
            ENDLESS,
            16,
        ),
        stream("a list of 1e9", "*1000000000\r\n", "_\r\n", ENDLESS, 16),
        stream("a map of 1e9", "%1000000000\r\n", "_\r\n", ENDLESS, 16),
        stream("a list of lists of 8e6", "", "*8000000\r\n", ENDLESS, 16),
        stream("a status of 80 MB", "+", "x", 80 << 20, 32),
        stream("an error of 80 MB", "-", "x", 80 << 20, 32),
        stream("a number of 2e6 digits", "(", "7", 2_000_000, 32),
        stream("an integer without end", ":", "7", ENDLESS, 32),
        stream("a number's fraction without end", ",0.", "7", ENDLESS, 32),
        stream("lists in lists", "", "*1\r\n", 100_000, 32),
        stream("a map of -1", "%-1\r\n", "_\r\n", 1, 16),
        stream("a text of -5", "=-5\r\n", "x", 1, 16),
        stream("an error of -5", "!-5\r\n", "x", 1, 16),
        stream("a push of -1", ">-1\r\n", "", 0, 16),
        stream("a push of nothing", ">0\r\n", "", 0, 16),
        stream("a set of -1", "~-1\r\n", "", 0, 16),
        Bomb {
            may_be_served: true,
            ..stream("2e6 times nothing", "*2000000\r\n", "_\r\n", 2_000_000, 400)
        },
        Bomb {
            may_be_served: true,
            ..stream("a list of -1", "*-1\r\n", "", 0, 16)
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f22_a_bomb_costs_one_call_its_outcome_and_little_memory() {
    let name = "bombs::f22_a_bomb_costs_one_call_its_outcome_and_little_memory";
    if !is_by_itself(name).await {
        return;
    }
    for bomb in bombs() {
        for protocol in ["resp2", "resp3"] {
            explode(&bomb, protocol).await;
        }
    }
}

async fn explode(bomb: &Bomb, protocol: &str) {
    let name = format!("{}, {protocol}", bomb.name);
    let armed = Arc::new(AtomicBool::new(true));
    let say = bomb.say.clone();
    let play = move |request: &[String]| match request[0].as_str() {
        "INCR" if armed.swap(false, Ordering::Relaxed) => say.clone(),
        _ => Say::AsUsual,
    };
    let peer = match protocol {
        "resp2" => Peer::resp2(play).await,
        _ => Peer::resp3(play).await,
    };
    let client = alone(&peer).await;
    let mut con = client.connection();
    let (before, most_before) = memory();
    let asked = Instant::now();
    let result = ask::<Value>(&mut con, &["INCR", "k"]).await;
    let took = asked.elapsed();
    let served = result.is_ok();
    match result {
        Ok(value) => assert!(
            bomb.may_be_served,
            "{name}: served {value:?} after {took:?}"
        ),
        Err(error) => {
            let kind = ours(&error).kind().clone();
            assert!(
                matches!(kind, ErrorKind::OutcomeUnknown(_)),
                "{name}: {error}"
            );
        }
    }
    assert!(took < TIMEOUT + SLACK, "{name}: {took:?}");
    // Whoever calls next is given what was meant for him, in time.
    for n in 0..3 {
        let asked = Instant::now();
        let word = format!("word{n}");
        let echoed = ask::<String>(&mut con, &["ECHO", &word]).await;
        assert_eq!(echoed.unwrap(), word, "{name}");
        assert!(
            asked.elapsed() < DEADLINE + SLACK,
            "{name}: {:?}",
            asked.elapsed()
        );
    }
    client.close().await;
    drop(peer);
    let (after, most) = memory();
    println!("{name}: {took:?}, served {served}, {before} -> {after}, at most {most} MiB");
    let taken = most.saturating_sub(most_before.max(before));
    assert!(taken <= bomb.most, "{name}: {taken} MiB");
}
