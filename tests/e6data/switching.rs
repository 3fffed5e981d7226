//! The server moves its users from one stack to the other, and back.

use multidb::Reason;
use multidb::e6data::{E6dataErrorKind, Executed, QueryPhase};
use multidb::testing::e6data::{InFlight, SessionScope};

use super::*;

#[tokio::test]
async fn the_stack_that_serves_is_found_by_whoever_connects() {
    for colour in Colour::BOTH {
        let server = E6dataServer::start().await.unwrap();
        server.serves([colour]);
        let client = builder(&server).connect().await.unwrap();
        assert_eq!(run(&client, "SELECT 1").await.unwrap(), colour.as_str());
    }
    // While both serve, the heavier one.
    let server = E6dataServer::start().await.unwrap();
    server.serves(Colour::BOTH);
    let client = builder(&server).weights(1.0, 2.0).connect().await.unwrap();
    assert_eq!(run(&client, "SELECT 1").await.unwrap(), "green");
}

/// New queries move as soon as the other stack is ready; one that runs ends where it began.
#[tokio::test]
async fn s30_an_announcement_moves_new_queries_at_once_and_lets_old_ones_end() {
    let (server, client) = pair().await;
    let mut events = client.engine().events();
    let mut old = client.connection().query("SELECT old").await.unwrap();
    old.fetch_one().await.unwrap();
    server.serves(Colour::BOTH);
    server.announces(Some(Colour::Green));
    // The answer to this one brings the news.
    run(&client, "SELECT news").await.unwrap();
    until_active(&client, Colour::Green).await;
    assert_eq!(run(&client, "SELECT new").await.unwrap(), "green");
    assert_eq!(old.fetch_all().await.unwrap().len(), 4);
    let account = server.account();
    assert_eq!(account.executed["SELECT old"], (1, Some(Colour::Blue)));
    assert_eq!((account.strays, account.executed_twice()), (0, 0));
    let told = drain(&mut events).await;
    assert_eq!(switches(&told), 1);
    let directed = |e: &Event| {
        matches!(
            e,
            Event::ActiveChanged {
                reason: Reason::Directed,
                ..
            }
        )
    };
    assert!(told.iter().any(directed), "{told:?}");
    let circuits = |e: &Event| matches!(e, Event::CircuitChanged { .. });
    assert!(!told.iter().any(circuits), "a directive is no failure");
    // And it is final once blue has gone.
    server.serves([Colour::Green]);
    server.announces(None);
    for n in 0..5 {
        assert_eq!(run(&client, &format!("SELECT {n}")).await.unwrap(), "green");
    }
}

#[tokio::test]
async fn a_flip_without_a_word_costs_no_query() {
    let (server, client) = pair().await;
    for (n, colour) in [Colour::Green, Colour::Blue, Colour::Green]
        .into_iter()
        .enumerate()
    {
        server.serves([colour]);
        assert_eq!(
            run(&client, &format!("SELECT {n}")).await.unwrap(),
            colour.as_str()
        );
    }
    assert_eq!(server.account().executed_twice(), 0);
}

/// Both stacks are asked at once: finding the one that serves costs no round trip.
#[tokio::test]
async fn connecting_takes_one_round_trip_whichever_stack_serves() {
    for colour in Colour::BOTH {
        let server = E6dataServer::start().await.unwrap();
        server.serves([colour]);
        server.latency(ms(80));
        let began = tokio::time::Instant::now();
        let client = builder(&server).connect().await.unwrap();
        let took = began.elapsed();
        assert!((ms(80)..ms(155)).contains(&took), "{colour}: {took:?}");
        assert_eq!(client.engine().active().unwrap(), colour.as_str());
    }
}

#[tokio::test]
async fn what_it_costs_in_round_trips() {
    // Refused on prepare, and the other stack has no session yet: its session, and the statement again.
    let (server, client) = pair().await;
    run(&client, "SELECT warm").await.unwrap();
    server.serves([Colour::Green]);
    server.forget();
    assert_eq!(run(&client, "SELECT cold").await.unwrap(), "green");
    let account = server.account();
    assert_eq!(account.rpcs_of("prepareStatementV2"), 2);
    let sessions = |account: &multidb::testing::e6data::Account| account.sessions;
    assert!(
        (1..=3).contains(&sessions(&account)),
        "of green's two connections, {account:?}"
    );

    // With a session at hand: the statement again, and nothing else before it.
    let server = E6dataServer::start().await.unwrap();
    server.serves(Colour::BOTH);
    let client = builder(&server).weights(2.0, 1.0).connect().await.unwrap();
    let all = client
        .engine()
        .wait_for(|s| s.members.iter().all(|m| m.verdict.is_some()));
    soon(all).await.unwrap();
    run(&client, "SELECT warm").await.unwrap();
    server.serves([Colour::Green]);
    server.latency(ms(40));
    server.forget();
    let began = tokio::time::Instant::now();
    let query = client.connection().query("SELECT 2").await.unwrap();
    let took = began.elapsed();
    assert_eq!(query.origin().unwrap(), "green");
    // Prepare refused, prepare, execute, metadata.
    assert!(took < ms(4 * 40 + 35), "{took:?}");
    assert!(took >= ms(4 * 40), "{took:?}");
}

#[tokio::test]
async fn an_announcement_ahead_of_its_time_is_followed_once_it_is_true_or_taken_back() {
    let (server, client) = pair().await;
    let mut events = client.engine().events();
    server.announces(Some(Colour::Green));
    for n in 0..20 {
        assert_eq!(run(&client, &format!("SELECT {n}")).await.unwrap(), "blue");
    }
    let told = drain(&mut events).await;
    let refused = |e: &&Event| matches!(e, Event::DirectiveRefused { .. });
    assert_eq!(told.iter().filter(refused).count(), 1, "{told:?}");
    server.serves(Colour::BOTH);
    until_active(&client, Colour::Green).await;

    // Back, and taken back before it is true.
    server.serves([Colour::Green]);
    server.announces(Some(Colour::Blue));
    run(&client, "SELECT a").await.unwrap();
    server.announces(Some(Colour::Green));
    run(&client, "SELECT b").await.unwrap();
    server.serves(Colour::BOTH);
    tokio::time::sleep(ms(1_200)).await;
    assert_eq!(run(&client, "SELECT c").await.unwrap(), "green");
}

#[tokio::test]
async fn a_hostile_word_moves_nobody() {
    let (server, client) = pair().await;
    let mut events = client.engine().events();
    for name in [
        "purple",
        "",
        "green ",
        "gre\u{200b}en",
        "blue; green",
        &"x".repeat(60_000),
    ] {
        let method = "prepareStatementV2";
        server.next(
            method,
            multidb::testing::e6data::Mishap::Names(name.to_owned()),
        );
        assert_eq!(
            run(&client, &format!("SELECT {}", name.len()))
                .await
                .unwrap(),
            "blue"
        );
    }
    assert_eq!(switches(&drain(&mut events).await), 0);
}

#[tokio::test]
async fn a_query_that_its_stack_refuses_is_lost_and_says_what_became_of_it() {
    let (server, client) = pair().await;
    server.in_flight(InFlight::Refused);
    let mut query = client.connection().query("SELECT lost").await.unwrap();
    let id = query.id().to_owned();
    query.fetch_one().await.unwrap();
    server.serves([Colour::Green]);
    query.fetch_one().await.unwrap();
    let error = query.fetch_one().await.unwrap_err();
    match error.kind() {
        E6dataErrorKind::QueryLost {
            query,
            origin,
            phase,
            executed,
        } => {
            assert_eq!((query, origin.as_str()), (&id, "blue"));
            assert_eq!((*phase, *executed), (QueryPhase::Fetch, Executed::Yes));
        }
        other => panic!("{other:?}"),
    }
    assert!(!error.is_retry_safe());
    until_active(&client, Colour::Green).await;
    assert!(query.fetch_one().await.unwrap().is_none(), "it is over");
    assert_eq!(run(&client, "SELECT next").await.unwrap(), "green");
}

#[tokio::test]
async fn a_statement_refused_between_prepare_and_execute_runs_on_the_other_stack_once() {
    let (server, client) = pair().await;
    server.in_flight(InFlight::Refused);
    server.next(
        "executeStatementV2",
        multidb::testing::e6data::Mishap::Slow(ms(100)),
    );
    let running = tokio::spawn({
        let client = client.clone();
        async move { run(&client, "INSERT 1").await }
    });
    eventually("it is prepared", || {
        server.account().rpcs_of("prepareStatementV2") == 1
    })
    .await;
    server.serves([Colour::Green]);
    assert_eq!(soon(running).await.unwrap().unwrap(), "green");
    assert_eq!(
        server.account().executed["INSERT 1"],
        (1, Some(Colour::Green))
    );
}

#[tokio::test]
async fn sixty_four_refused_at_once_make_one_switch() {
    let (server, client) = pair().await;
    let mut events = client.engine().events();
    server.latency(ms(20));
    server.serves([Colour::Green]);
    let mut running = tokio::task::JoinSet::new();
    for n in 0..64 {
        let client = client.clone();
        running.spawn(async move { run(&client, &format!("SELECT {n}")).await });
    }
    while let Some(ran) = soon(running.join_next()).await {
        assert_eq!(ran.unwrap().unwrap(), "green");
    }
    assert_eq!(switches(&drain(&mut events).await), 1);
    assert_eq!(server.account().executed_twice(), 0);
}

/// A burst of announcements on every answer is one switch, too.
#[tokio::test]
async fn sixty_four_announcements_make_one_switch() {
    let (server, client) = pair().await;
    let mut events = client.engine().events();
    server.serves(Colour::BOTH);
    server.announces(Some(Colour::Green));
    let mut running = tokio::task::JoinSet::new();
    for n in 0..64 {
        let client = client.clone();
        running.spawn(async move { run(&client, &format!("SELECT {n}")).await });
    }
    while let Some(ran) = soon(running.join_next()).await {
        ran.unwrap().unwrap();
    }
    until_active(&client, Colour::Green).await;
    assert_eq!(switches(&drain(&mut events).await), 1);
}

#[tokio::test]
async fn where_neither_serves_a_query_waits_and_ends_with_a_word_for_it() {
    let server = E6dataServer::start().await.unwrap();
    let client = builder(&server)
        .operation_timeout(secs(2))
        .connect()
        .await
        .unwrap();
    server.serves([]);
    let began = tokio::time::Instant::now();
    let error = run(&client, "SELECT 1").await.unwrap_err();
    assert_eq!(*error.kind(), E6dataErrorKind::NoServingStack, "{error}");
    assert!(error.is_retry_safe());
    assert!(began.elapsed() < ms(2_500), "{:?}", began.elapsed());

    // Nobody has given up: the first one that serves again is found.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { run(&client, "SELECT 2").await }
    });
    tokio::time::sleep(ms(300)).await;
    server.serves([Colour::Green]);
    assert_eq!(soon(waiting).await.unwrap().unwrap(), "green");
}

#[tokio::test]
async fn nobody_serves_at_the_start() {
    let server = E6dataServer::start().await.unwrap();
    server.serves([]);
    let connecting = builder(&server).detection_timeout(ms(400)).connect();
    let error = connecting.await.unwrap_err();
    assert_eq!(*error.kind(), E6dataErrorKind::NoServingStack);
    let connecting = builder(&server).connect();
    let (client, ()) = tokio::join!(connecting, async {
        tokio::time::sleep(ms(300)).await;
        server.serves([Colour::Green]);
    });
    assert_eq!(run(&client.unwrap(), "SELECT 1").await.unwrap(), "green");
}

#[tokio::test]
async fn sessions_of_both_stacks_or_of_the_cluster_make_no_difference() {
    for scope in [SessionScope::Stack, SessionScope::Cluster] {
        let (server, client) = pair().await;
        server.session_scope(scope);
        for n in 0..6 {
            let colour = Colour::BOTH[n % 2];
            server.serves([colour]);
            assert_eq!(
                run(&client, &format!("SELECT {n}")).await.unwrap(),
                colour.as_str()
            );
        }
        assert_eq!(server.account().strays, 0);
    }
}

/// The way back is the same order backwards; with circuits of their own, a stack that goes bad is left, too.
#[tokio::test]
async fn a_rollback_is_a_switch_and_may_come_by_itself() {
    let server = E6dataServer::start().await.unwrap();
    server.serves(Colour::BOTH);
    let client = builder(&server)
        .weights(1.0, 2.0)
        .auto_rollback(true)
        .connect()
        .await
        .unwrap();
    let mut events = client.engine().events();
    assert_eq!(run(&client, "SELECT 0").await.unwrap(), "green");
    let both = client
        .engine()
        .wait_for(|s| s.members.iter().all(|m| m.connected));
    soon(both).await.unwrap();
    for _ in 0..40 {
        let broken = multidb::testing::e6data::Mishap::Status(13, "out of memory".into());
        server.next("prepareStatementV2", broken);
    }
    for n in 0..40 {
        let _ = run(&client, &format!("SELECT b{n}")).await;
    }
    until_active(&client, Colour::Blue).await;
    let told = drain(&mut events).await;
    let failed = |e: &Event| {
        matches!(
            e,
            Event::ActiveChanged {
                reason: Reason::FailureDetector,
                ..
            }
        )
    };
    assert!(told.iter().any(failed), "{told:?}");
}
