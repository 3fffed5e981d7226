//! What breaks: sessions, connections, answers, clusters that sleep.

use multidb::e6data::{E6dataErrorKind, Executed, QueryPhase, ResumeState};
use multidb::testing::e6data::Mishap;

use super::*;

#[tokio::test]
async fn an_expired_session_is_renewed_once_for_all_without_a_pause() {
    let (server, client) = pair().await;
    run(&client, "SELECT 0").await.unwrap();
    server.expire_sessions(Colour::Blue);
    server.forget();
    let began = tokio::time::Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..16 {
        let client = client.clone();
        running.spawn(async move { run(&client, &format!("SELECT {n}")).await });
    }
    while let Some(ran) = soon(running.join_next()).await {
        assert_eq!(ran.unwrap().unwrap(), "blue");
    }
    assert!(
        began.elapsed() < ms(190),
        "{:?}: the peer sleeps for 200 ms",
        began.elapsed()
    );
    let account = server.account();
    // Health rounds may have asked for one more.
    assert!(account.sessions <= 2, "{account:?}");
    assert_eq!(account.executed_twice(), 0);
}

/// The peer runs the INSERT twice.
#[tokio::test]
async fn a_session_that_is_denied_after_the_statement_ran_does_not_run_it_again() {
    let (server, client) = pair().await;
    let denied = || Mishap::Status(13, "Access denied".into());
    server.next("getResultMetadata", denied());
    assert_eq!(run(&client, "INSERT 1").await.unwrap(), "blue");
    assert_eq!(server.account().executed["INSERT 1"].0, 1);
    // And denied for good it says that it ran.
    server.next("getResultMetadata", denied());
    server.next("getResultMetadata", denied());
    let error = run(&client, "INSERT 2").await.unwrap_err();
    let lost = |kind: &E6dataErrorKind, at| match kind {
        E6dataErrorKind::QueryLost {
            phase, executed, ..
        } => (*phase, *executed) == at,
        _ => false,
    };
    assert!(
        lost(error.kind(), (QueryPhase::Metadata, Executed::Yes)),
        "{error}"
    );
    assert_eq!(server.account().executed["INSERT 2"].0, 1);
    // On execute it is proven not to have run, and is begun anew under a new session.
    server.next("executeStatementV2", denied());
    assert_eq!(run(&client, "INSERT 3").await.unwrap(), "blue");
    assert_eq!(server.account().executed["INSERT 3"].0, 1);
}

#[tokio::test]
async fn a_statement_whose_outcome_is_not_known_is_not_repeated() {
    let (server, client) = pair().await;
    for (n, mishap) in [
        Mishap::Late(14, "upstream gone".into()),
        Mishap::Late(13, "whatever".into()),
        Mishap::LateReset,
    ]
    .into_iter()
    .enumerate()
    {
        let sql = format!("INSERT {n}");
        server.next("executeStatementV2", mishap);
        let error = run(&client, &sql).await.unwrap_err();
        assert!(!error.is_retry_safe(), "{error}");
        assert_eq!(server.account().executed[&sql].0, 1, "{error}");
    }
    assert_eq!(run(&client, "SELECT after").await.unwrap(), "blue");
}

#[tokio::test]
async fn a_connection_that_is_reset_costs_what_was_on_it_and_nothing_more() {
    let (server, client) = pair().await;
    let mut query = client.connection().query("SELECT 1").await.unwrap();
    server.next("getNextResultBatch", Mishap::Reset);
    let error = query.fetch_one().await.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            E6dataErrorKind::QueryLost {
                phase: QueryPhase::Fetch,
                ..
            }
        ),
        "{error}"
    );
    for n in 0..5 {
        assert_eq!(run(&client, &format!("SELECT {n}")).await.unwrap(), "blue");
    }
    // What had not been accepted is asked again on the next connection.
    server.next("prepareStatementV2", Mishap::Reset);
    assert_eq!(run(&client, "SELECT again").await.unwrap(), "blue");
}

/// A server that is about to leave says so: streams end, new ones go over the next connection.
#[tokio::test]
async fn f24_goaway_costs_nobody_anything() {
    let (server, client) = pair().await;
    let mut query = client.connection().query("SELECT old").await.unwrap();
    query.fetch_one().await.unwrap();
    for n in 0..10 {
        server.next("getNextResultBatch", Mishap::Slow(ms(20)));
        let slow = tokio::spawn({
            let client = client.clone();
            async move { run(&client, &format!("SELECT {n}")).await }
        });
        tokio::time::sleep(ms(5)).await;
        server.goaway();
        assert_eq!(soon(slow).await.unwrap().unwrap(), "blue");
    }
    assert_eq!(query.fetch_all().await.unwrap().len(), 4);
    assert_eq!(server.account().executed_twice(), 0);
}

#[tokio::test]
async fn answers_that_are_none_are_typed_errors() {
    let (server, client) = pair().await;
    for garbage in [
        vec![0xFF; 9],
        b"\x0a\xff\xff\xff\xff\x0f".to_vec(),
        vec![0x0a, 0x03, 1, 2, 3],
    ] {
        server.next("getResultMetadata", Mishap::Garbage(garbage));
        let error = run(&client, "SELECT 1").await.unwrap_err();
        assert!(!error.is_retry_safe(), "it ran: {error}");
    }
    server.next(
        "getNextResultBatch",
        Mishap::Garbage(vec![0x12, 0x03, 8, 0, 1]),
    );
    let error = run(&client, "SELECT 2").await.unwrap_err();
    assert_eq!(*error.kind(), E6dataErrorKind::Decode, "{error}");
    server.next(
        "prepareStatementV2",
        Mishap::Garbage(b"\x0a\x04\r\nX:\x12\x01q".to_vec()),
    );
    run(&client, "SELECT 3").await.unwrap_err();
    assert_eq!(run(&client, "SELECT 4").await.unwrap(), "blue");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_nothing_else_lost() {
    let server = E6dataServer::start().await.unwrap();
    let client = builder(&server)
        .message_sizes(2048, 2048)
        .connect()
        .await
        .unwrap();
    server.next("getNextResultBatch", Mishap::Garbage(vec![0; 4096]));
    run(&client, "SELECT 1").await.unwrap_err();
    let error = run(&client, &format!("SELECT '{}'", "x".repeat(4096)))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), E6dataErrorKind::Refused { .. }),
        "{error}"
    );
    assert_eq!(run(&client, "SELECT 2").await.unwrap(), "blue");
}

#[tokio::test]
async fn a_session_that_is_empty_is_none() {
    let server = E6dataServer::start().await.unwrap();
    server.next("authenticate", Mishap::Garbage(Vec::new()));
    let client = builder(&server).connect().await.unwrap();
    assert_eq!(run(&client, "SELECT 1").await.unwrap(), "blue");
}

#[tokio::test]
async fn every_rpc_has_an_end() {
    let server = E6dataServer::start().await.unwrap();
    let client = builder(&server)
        .operation_timeout(ms(300))
        .cleanup_timeout(ms(200))
        .connect()
        .await
        .unwrap();
    for method in [
        "prepareStatementV2",
        "executeStatementV2",
        "getResultMetadata",
        "getNextResultBatch",
    ] {
        server.next(method, Mishap::Silence);
        let began = tokio::time::Instant::now();
        let error = run(&client, method).await.unwrap_err();
        assert!(
            began.elapsed() < ms(1_000),
            "{method}: {:?}",
            began.elapsed()
        );
        assert!(!error.is_retry_safe(), "{method}: {error}");
    }
    assert_eq!(run(&client, "SELECT 1").await.unwrap(), "blue");
    assert_eq!(server.account().executed_twice(), 0);
}

#[tokio::test]
async fn wrong_credentials_are_told_at_once_and_never_shown() {
    let server = E6dataServer::start().await.unwrap();
    let began = tokio::time::Instant::now();
    let error = builder(&server)
        .password("s3cret")
        .connect()
        .await
        .unwrap_err();
    assert_eq!(*error.kind(), E6dataErrorKind::Denied, "{error}");
    assert!(began.elapsed() < secs(3), "{:?}", began.elapsed());
    assert!(!format!("{error} {error:?}").contains("s3cret"));
    assert!(!format!("{:?}", builder(&server).password("s3cret")).contains("s3cret"));
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let server = E6dataServer::start().await.unwrap();
    let builder = builder(&server);
    drop(server);
    tokio::time::sleep(ms(20)).await;
    let began = tokio::time::Instant::now();
    let error = builder.connect().await.unwrap_err();
    assert!(began.elapsed() < secs(3), "{:?}", began.elapsed());
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_any_i_o() {
    let field = |builder: E6dataBuilder| match builder.connect_lazy().unwrap_err().kind() {
        E6dataErrorKind::Invalid(error) => error.field().to_owned(),
        E6dataErrorKind::Engine(multidb::ErrorKind::Invalid(error)) => error.field().to_owned(),
        other => panic!("{other:?}"),
    };
    let good = || {
        E6dataClient::builder()
            .host("db.example")
            .user("u")
            .password("p")
    };
    assert_eq!(
        field(E6dataClient::builder().user("u").password("p")),
        "host"
    );
    assert_eq!(field(good().host("no host")), "host");
    assert_eq!(field(good().host("user:password@host")), "host");
    assert_eq!(field(good().user("")), "user");
    assert_eq!(field(good().password("")), "password");
    assert_eq!(field(good().bearer_token("a\nb")), "bearer_token");
    assert_eq!(field(good().cluster_name("a\nb")), "cluster_name");
    assert_eq!(field(good().attempts(0)), "attempts");
    assert_eq!(field(good().operation_timeout(ms(0))), "operation_timeout");
    assert_eq!(
        field(good().weights(f64::NAN, 1.0)),
        "databases[blue].weight"
    );
    good().connect_lazy().unwrap();
    good().host("::1").connect_lazy().unwrap();
}

#[tokio::test]
async fn a_suspended_cluster_is_resumed_once_and_shows_how_far_it_is() {
    let server = E6dataServer::start().await.unwrap();
    server.suspend(1);
    let client = builder(&server).connect_lazy().unwrap();
    let mut progress = client.resume_progress().unwrap();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..8 {
        let client = client.clone();
        running.spawn(async move { run(&client, &format!("SELECT {n}")).await });
    }
    let resuming = |state: &ResumeState| matches!(state, ResumeState::Resuming { .. });
    soon(progress.wait_for(resuming)).await.unwrap();
    while let Some(ran) = soon(running.join_next()).await {
        assert_eq!(ran.unwrap().unwrap(), "blue");
    }
    assert_eq!(*progress.borrow(), ResumeState::Resumed);
    assert_eq!(server.account().rpcs_of("resume"), 1);
}

#[tokio::test]
async fn a_cluster_that_is_left_asleep_is_said_to_be() {
    let server = E6dataServer::start().await.unwrap();
    server.suspend(0);
    let connecting = builder(&server)
        .auto_resume(false)
        .detection_timeout(ms(300))
        .connect();
    assert_eq!(
        *connecting.await.unwrap_err().kind(),
        E6dataErrorKind::Suspended
    );
    assert_eq!(server.account().rpcs_of("resume"), 0);
}

/// It falls asleep while it is in use.
#[tokio::test]
async fn a_cluster_that_falls_asleep_is_woken() {
    let (server, client) = pair().await;
    run(&client, "SELECT 1").await.unwrap();
    server.suspend(0);
    assert_eq!(soon(run(&client, "SELECT 2")).await.unwrap(), "blue");
}
