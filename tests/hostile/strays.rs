//! Replies that nobody asked for: none of them is ever anybody's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use multidb::Events;
use tokio::time::timeout;

use super::*;
use crate::peer::Say;

async fn heard(events: &mut Events, wanted: impl Fn(&Event) -> bool) {
    let wait = async {
        while let Some(event) = events.next().await {
            if wanted(&event) {
                return;
            }
        }
    };
    let limit = Duration::from_secs(10);
    timeout(limit, wait).await.expect("the event comes");
}

/// The part of a reply is the worst: the next one would be taken for its rest.
#[tokio::test]
async fn what_comes_while_nothing_is_in_flight_ends_the_connection() {
    for stray in [
        "+OK\r\n",
        "-ERR out of the blue\r\n",
        "$8\r\nhel",
        "*2\r\n",
        ":",
        "garbage",
        "$7\r\nnobody\r",
    ] {
        let once = Arc::new(AtomicBool::new(true));
        let armed = once.clone();
        let peer = Peer::resp2(move |request| match request[0].as_str() {
            "INCR" if armed.swap(false, Ordering::Relaxed) => {
                let pause = Duration::from_millis(50);
                Say::Later(b":1\r\n".to_vec(), pause, stray.as_bytes().to_vec())
            }
            _ => Say::AsUsual,
        })
        .await;
        // No probe in between, whose reply it could be.
        let builder = builder().health_interval(Duration::from_secs(60));
        let client = builder.url(peer.url(), 1.0).connect().await.unwrap();
        let mut con = client.connection();
        let mut events = client.events();
        assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
        heard(&mut events, is_replacement).await;
        for n in 0..5 {
            let word = format!("word{n}");
            let echoed: String = ask(&mut con, &["ECHO", &word]).await.unwrap();
            assert_eq!(echoed, word, "{stray:?}");
        }
        client.close().await;
    }
}

/// A proxy that answers everything twice: whoever calls is given his own reply, or none.
#[tokio::test]
async fn a_server_that_answers_twice_gives_nobody_anothers_reply() {
    let peer = Peer::resp2(|request| match request {
        [echo, word] if echo == "ECHO" => {
            let reply = format!("${}\r\n{word}\r\n", word.len());
            Say::Bytes(reply.repeat(2).into_bytes())
        }
        _ => Say::AsUsual,
    })
    .await;
    let client = alone(&peer).await;
    let mut con = client.connection();
    let mut answered = 0;
    for n in 0..12 {
        let word = format!("word{n}");
        match ask::<String>(&mut con, &["ECHO", &word]).await {
            Ok(echoed) => {
                assert_eq!(echoed, word);
                answered += 1;
            }
            Err(error) => drop(ours(&error)),
        }
    }
    assert!(answered > 0 && peer.connections() > 6);
    client.close().await;
}
