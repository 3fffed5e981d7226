//! When a call ends.

use multidb::{Doubt, ErrorKind, Event, Reason, Sensitivity};
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_write_without_a_reply_times_out_as_with_redis_rs() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["SET", "k", "0"]).await.unwrap();
    rig.east.hang();
    rig.west.hang();
    let start = Instant::now();
    let error = ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap_err();
    let took = start.elapsed();
    assert!(took >= ms(500) && took <= ms(510), "{took:?}");
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(
        *ours(&error).kind(),
        ErrorKind::OutcomeUnknown(Doubt::TimedOut)
    );
    assert_eq!(ours(&error).database().unwrap(), &"east:6379");
}

#[tokio::test(start_paused = true)]
async fn a_read_without_any_reply_ends_at_its_deadline() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    rig.east.hang();
    rig.west.hang();
    let start = Instant::now();
    assert!(ask::<Option<i64>>(&mut con, &["GET", "k"]).await.is_err());
    let took = start.elapsed();
    assert!(
        took >= secs(5) - ms(5) && took <= secs(5) + ms(10),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_handles_own_limits_are_its_own() {
    let rig = rig().await;
    let (mut quick, mut usual) = (rig.client.connection(), rig.client.connection());
    quick.set_response_timeout(ms(30));
    let mut brief = usual.clone();
    brief.set_deadline(ms(70));
    rig.east.hang();
    rig.west.hang();
    let start = Instant::now();
    let timed = async |con: &mut MultiDbConnection, command: &'static [&'static str]| {
        assert!(ask::<()>(con, command).await.is_err());
        start.elapsed()
    };
    let (quick, brief, usual) = tokio::join!(
        timed(&mut quick, &["INCR", "a"]),
        timed(&mut brief, &["GET", "a"]),
        timed(&mut usual, &["INCR", "a"]),
    );
    for (took, expected) in [(quick, 30), (brief, 70), (usual, 500)] {
        assert!(
            took >= ms(expected) && took <= ms(expected + 10),
            "{took:?}, {expected}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reply_within_the_timeout_is_a_reply() {
    let rig = rig_with(|b| b.sensitivity(Sensitivity::Conservative)).await;
    let mut con = rig.client.connection();
    rig.east.latency(ms(490));
    let start = Instant::now();
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    assert_eq!(start.elapsed(), ms(490));
}

#[tokio::test(start_paused = true)]
async fn a_hung_server_is_left_after_the_tolerance() {
    for sensitivity in [
        Sensitivity::Balanced,
        Sensitivity::Fast,
        Sensitivity::Conservative,
    ] {
        let rig = rig_with(|b| b.sensitivity(sensitivity)).await;
        let mut con = rig.client.connection();
        let mut events = rig.client.events();
        ask::<()>(&mut con, &["SET", "k", "0"]).await.unwrap();
        tokio::time::sleep(ms(17)).await;
        rig.east.hang();
        let start = Instant::now();
        // A read goes through the hang unnoticed; it is only late.
        assert_eq!(
            ask::<Option<i64>>(&mut con, &["GET", "k"]).await.unwrap(),
            None
        );
        let (took, tolerance) = (start.elapsed(), sensitivity.tolerance());
        assert!(
            took >= tolerance - ms(5) && took <= tolerance + ms(20),
            "{took:?}"
        );
        let reasons: Vec<_> = drain(&mut events)
            .await
            .into_iter()
            .filter_map(|event| match event {
                Event::ActiveChanged { reason, .. } => Some(reason),
                _ => None,
            })
            .collect();
        assert_eq!(reasons, [Reason::Stalled]);
    }
}

#[tokio::test(start_paused = true)]
async fn f08_a_server_that_answers_slowly_and_steadily_is_not_taken_for_hung() {
    let rig = rig().await;
    let mut events = rig.client.events();
    rig.east.latency(ms(250));
    let calls = (0..50).map(|n| {
        let mut con = rig.client.connection();
        async move {
            tokio::time::sleep(ms(n * 7)).await;
            ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap();
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(switches(&drain(&mut events).await), 0);
    assert_eq!(rig.east.storage().counter("k"), Some(50));
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_is_accepted_and_never_greeted_is_given_up_in_time() {
    let rig = rig().await;
    rig.west.hang();
    rig.to_west.cut();
    rig.east.kill();
    let mut con = rig.client.connection();
    let start = Instant::now();
    let error = ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap_err();
    assert_eq!(*ours(&error).kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() <= secs(5) + ms(10), "{:?}", start.elapsed());
    rig.west.resume();
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    assert_eq!(active(&rig.client), "west:6379");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_watched_session_does_so_within_the_deadline() {
    let rig = rig_with(|builder| builder.deadline(secs(1))).await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["WATCH", "k"]).await.unwrap();
    rig.east.latency(ms(300));
    let start = Instant::now();
    let calls = (0..20).map(|_| {
        let mut con = con.clone();
        async move {
            let result = ask::<Option<i64>>(&mut con, &["GET", "k"]).await;
            (result, start.elapsed())
        }
    });
    let ended = futures_util::future::join_all(calls).await;
    let answered = ended.iter().filter(|(result, _)| result.is_ok()).count();
    assert_eq!(answered, 3, "one after the other, 300 ms each");
    for (result, took) in ended {
        assert!(took <= ms(1010), "{took:?}");
        if let Err(error) = result {
            // Who had begun does not know; a read is worth nothing to anybody by then.
            let kind = ours(&error).kind().clone();
            let known = [
                ErrorKind::Unavailable,
                ErrorKind::OutcomeUnknown(Doubt::TimedOut),
            ];
            assert!(known.contains(&kind), "{kind:?}");
        }
    }
}

/// Whether the transaction was carried out; `None` if the call failed.
async fn put(con: &mut MultiDbConnection, value: &str) -> Option<bool> {
    let mut pipe = redis::pipe();
    pipe.atomic().set("k", value).ignore();
    let done: RedisResult<Option<()>> = pipe.query_async(con).await;
    done.ok().map(|done| done.is_some())
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_had_no_time_is_watched_still_when_it_is_tried_again() {
    let rig = rig().await;
    let mut slow = rig.client.connection();
    ask::<()>(&mut slow, &["WATCH", "k"]).await.unwrap();
    let mut hasty = slow.clone();
    hasty.set_deadline(ms(200));
    rig.east.latency(ms(400));
    let reading = tokio::spawn(async move { ask::<Option<i64>>(&mut slow, &["GET", "k"]).await });
    tokio::task::yield_now().await;
    assert_eq!(
        put(&mut hasty, "hasty").await,
        None,
        "the session is in use"
    );
    reading.await.unwrap().unwrap();
    rig.east.latency(ms(0));
    let mut other = rig.client.connection();
    ask::<()>(&mut other, &["SET", "k", "other"]).await.unwrap();
    hasty.set_deadline(secs(1));
    assert_eq!(
        put(&mut hasty, "hasty").await,
        Some(false),
        "it was touched"
    );
    assert_eq!(rig.east.storage().string("k").unwrap(), b"other");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_answered_was_sent_whoever_ends_the_session_behind_it() {
    let rig = rig().await;
    rig.east.record(true);
    let mut first = rig.client.connection();
    ask::<()>(&mut first, &["WATCH", "a"]).await.unwrap();
    let (mut second, mut third) = (first.clone(), first.clone());
    rig.east.latency(ms(100));
    let reading = tokio::spawn(async move { ask::<Option<i64>>(&mut third, &["GET", "a"]).await });
    tokio::task::yield_now().await;
    // Both wait for the session, the one that watches before the one that ends it.
    let watching = tokio::spawn(async move { ask::<()>(&mut second, &["WATCH", "k"]).await });
    tokio::task::yield_now().await;
    let ending = tokio::spawn(async move { put(&mut first, "first").await });
    reading.await.unwrap().unwrap();
    watching.await.unwrap().unwrap();
    assert_eq!(ending.await.unwrap(), Some(true));
    let log = rig.east.log();
    let sent = log
        .iter()
        .any(|words| words.iter().map(Vec::as_slice).eq([&b"WATCH"[..], b"k"]));
    assert!(sent, "it was answered");
}
