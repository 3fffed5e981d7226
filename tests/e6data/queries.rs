//! What a user does with one cluster, whoever serves.

use futures_util::TryStreamExt;
use multidb::e6data::{E6dataErrorKind, Parameter, Value};
use multidb::testing::e6data::{Mishap, RefusalStyle};

use super::*;

#[tokio::test]
async fn a_query_is_eight_rpcs_and_gives_its_rows() {
    let (server, client) = pair().await;
    server.forget();
    let mut query = client
        .connection()
        .query(" SELECT * FROM t; ")
        .await
        .unwrap();
    assert_eq!(
        (query.row_count(), query.origin().unwrap().as_str()),
        (5, "blue")
    );
    let names: Vec<_> = query
        .columns()
        .iter()
        .map(|c| (c.name.as_str(), c.kind.as_str()))
        .collect();
    assert_eq!(
        names,
        [("n", "LONG"), ("name", "STRING"), ("ran_on", "STRING")]
    );
    let first = query.fetch_one().await.unwrap().unwrap();
    assert_eq!(
        (first.get::<i64>(0), first.named::<String>("name")),
        (Ok(0), Ok("row 0".into()))
    );
    let two = query.fetch_many(2).await.unwrap();
    assert_eq!(two[1].value(0), Some(Value::Long(2)));
    assert_eq!(query.fetch_all().await.unwrap().len(), 2);
    assert!(query.fetch_one().await.unwrap().is_none());
    let origin = query.origin().map(|origin| origin.to_string());
    assert_eq!(
        origin.as_deref(),
        Some("blue"),
        "it may still be asked what it took"
    );
    drop(query);
    eventually("it is cleared", || server.account().open == 0).await;
    let account = server.account();
    assert_eq!(account.strays, 0, "every rpc was pinned");
    assert_eq!(account.executed["SELECT * FROM t"], (1, Some(Colour::Blue)));
    let queries = account.all_rpcs() - account.rpcs_of("authenticate");
    assert_eq!(queries, 8, "{:?}", account.rpcs);
}

#[tokio::test]
async fn without_a_catalog_the_older_methods_are_used() {
    let server = E6dataServer::start().await.unwrap();
    let client = builder(&server).catalog("").connect().await.unwrap();
    assert_eq!(run(&client, "SELECT 1").await.unwrap(), "blue");
    let account = server.account();
    assert_eq!(
        (
            account.rpcs_of("prepareStatement"),
            account.rpcs_of("prepareStatementV2")
        ),
        (1, 0)
    );
    assert_eq!(
        (
            account.rpcs_of("executeStatement"),
            account.rpcs_of("executeStatementV2")
        ),
        (1, 0)
    );
}

#[tokio::test]
async fn batches_streams_cursors_and_parameters() {
    let (server, client) = pair().await;
    let connection = client.connection();
    let mut query = connection.query("SELECT 1").await.unwrap();
    let mut sizes = Vec::new();
    while let Some(batch) = query.next_batch().await.unwrap() {
        sizes.push(batch.len());
    }
    assert_eq!(sizes, [2, 2, 1]);

    let query = connection.query("SELECT 2").await.unwrap();
    let rows: Vec<_> = query.into_rows().try_collect().await.unwrap();
    assert_eq!(rows.len(), 5);

    let mut cursor = connection.cursor();
    assert!(matches!(
        cursor.fetch_one().await.unwrap_err().kind(),
        E6dataErrorKind::NoQuery
    ));
    let values: [Parameter; 2] = ["o'x".into(), 7.into()];
    cursor.execute_with("SELECT ?, ?", &values).await.unwrap();
    assert_eq!(cursor.row_count(), 5);
    assert_eq!(cursor.fetch_all().await.unwrap().len(), 5);
    assert!(server.account().executed.contains_key("SELECT 'o''x', 7"));
    let refused = cursor.execute_with("SELECT ?", &[]).await;
    refused.unwrap();
    let refused = cursor.execute_with("SELECT ?", &values).await.unwrap_err();
    assert!(matches!(refused.kind(), E6dataErrorKind::Invalid(e) if e.field() == "parameters"));
}

#[tokio::test]
async fn what_is_asked_beside_queries() {
    let (server, client) = pair().await;
    let connection = client.connection();
    assert_eq!(connection.schemas().await.unwrap(), ["cat_a", "cat_b"]);
    assert_eq!(connection.tables("s").await.unwrap(), ["s_t"]);
    let columns = connection.columns("s", "t").await.unwrap();
    assert_eq!(
        (columns[0].name.as_str(), columns[0].kind.as_str()),
        ("n", "LONG")
    );
    assert_eq!(
        connection.dry_run("SELECT 1").await.unwrap(),
        "plan of SELECT 1"
    );

    let mut query = connection.query("SELECT 1").await.unwrap();
    let progress = query.progress().await.unwrap();
    assert_eq!((progress.is_done, progress.rows), (true, 5));
    assert_eq!(query.explain().await.unwrap(), "plan of SELECT 1");
    let analysis = query.explain_analyze().await.unwrap();
    assert_eq!((analysis.parsing, analysis.queueing), (ms(3), ms(4)));
    assert!(!query.id().is_empty());
    query.clear().await.unwrap();
    let query = connection.query("SELECT 2").await.unwrap();
    query.cancel().await.unwrap();
    assert_eq!(server.account().open, 0);
    assert_eq!(server.account().rpcs_of("cancelQuery"), 1);
}

/// What nobody waited for is missing, and that is said: it is not the end.
#[tokio::test]
async fn a_fetch_that_is_given_up_ends_the_query_with_a_word_for_it() {
    let (server, client) = pair().await;
    let mut query = client.connection().query("SELECT 1").await.unwrap();
    query.fetch_many(2).await.unwrap();
    server.next("getNextResultBatch", Mishap::Slow(ms(500)));
    let given_up = tokio::time::timeout(ms(20), query.fetch_one()).await;
    given_up.unwrap_err();
    let error = query.fetch_one().await.unwrap_err();
    assert!(
        matches!(error.kind(), E6dataErrorKind::QueryLost { .. }),
        "{error}"
    );
    assert!(query.fetch_one().await.unwrap().is_none(), "it is over");
    eventually("it is cleared", || server.account().open == 0).await;
}

#[tokio::test]
async fn a_dropped_query_is_cleared_where_it_began() {
    let (server, client) = pair().await;
    let query = client.connection().query("SELECT 1").await.unwrap();
    drop(query);
    eventually("it is cleared", || server.account().open == 0).await;
    assert_eq!(server.account().strays, 0);
}

#[tokio::test]
async fn a_wrong_statement_is_refused_at_once_with_the_servers_words() {
    let (server, client) = pair().await;
    server.forget();
    let error = client.connection().query("syntax error").await.unwrap_err();
    assert!(matches!(error.kind(), E6dataErrorKind::Refused { code } if code == "Internal"));
    assert!(error.to_string().contains("cannot parse"), "{error}");
    assert_eq!(
        server.account().rpcs_of("prepareStatementV2"),
        1,
        "it is not tried again"
    );
}

#[tokio::test]
async fn a_bearer_token_takes_the_place_of_a_session() {
    let server = E6dataServer::start().await.unwrap();
    let client = builder(&server)
        .bearer_token("t0ken")
        .connect()
        .await
        .unwrap();
    server.rows(9);
    let mut query = client.connection().query("SELECT 1").await.unwrap();
    assert_eq!(query.fetch_all().await.unwrap().len(), 9);
    let account = server.account();
    assert_eq!((account.sessions, account.rpcs_of("authenticate")), (0, 0));
    assert_eq!(
        account.rpcs_of("getNextResultBatchV2"),
        3,
        "two batches of two each"
    );
    assert!(!format!("{client:?} {:?}", client.connection()).contains("t0ken"));
}

#[tokio::test]
async fn an_older_engine_is_asked_for_batches_one_by_one() {
    let server = E6dataServer::start().await.unwrap();
    let client = builder(&server).batches_v2(true).connect().await.unwrap();
    server.next(
        "getNextResultBatchV2",
        Mishap::Status(12, "no such method".into()),
    );
    let mut query = client.connection().query("SELECT 1").await.unwrap();
    assert_eq!(query.fetch_all().await.unwrap().len(), 5);
    let account = server.account();
    assert_eq!(
        (
            account.rpcs_of("getNextResultBatchV2"),
            account.rpcs_of("getNextResultBatch")
        ),
        (0, 4)
    );
}

#[tokio::test]
async fn sessions_that_rotate_are_followed() {
    let (server, client) = pair().await;
    server.rotates_sessions(true);
    for n in 0..3 {
        assert_eq!(run(&client, &format!("SELECT {n}")).await.unwrap(), "blue");
    }
    assert_eq!(server.account().executed.len(), 3);
}

#[tokio::test]
async fn the_connectors_own_mock_is_understood_where_that_is_asked_for() {
    let server = E6dataServer::start().await.unwrap();
    server.refusal_style(RefusalStyle::Mock);
    let client = builder(&server).lenient(true).connect().await.unwrap();
    server.serves([Colour::Green]);
    assert_eq!(run(&client, "SELECT 1").await.unwrap(), "green");
}

#[tokio::test]
async fn a_cluster_of_one_stack_is_not_asked_for_a_colour() {
    let server = E6dataServer::start().await.unwrap();
    let client = builder(&server).blue_green(false).connect().await.unwrap();
    let mut query = client.connection().query("SELECT 1").await.unwrap();
    let row = query.fetch_one().await.unwrap().unwrap();
    assert_eq!(row.named::<Option<String>>("ran_on"), Ok(None));
    let colours = server.account().rpcs.into_keys().map(|(colour, _)| colour);
    assert!(colours.into_iter().all(|colour| colour.is_none()));
}
