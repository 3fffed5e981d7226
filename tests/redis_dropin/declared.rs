//! What the user says of commands that the library does not know.

use std::time::Duration;

use multidb::testing::server::Server;
use multidb::{MultiDbClient, MultiDbConnection};
use redis::{AsyncCommands, Pipeline, RedisResult, Value, pipe};

use crate::is_unknown;

/// A connection whose commands run, and whose replies are lost.
async fn losing(server: &Server, says: &[&str]) -> MultiDbConnection {
    let client = MultiDbClient::builder()
        .url(server.url(), 1.0)
        .response_timeout(Duration::from_millis(50))
        .deadline(Duration::from_millis(400))
        .read_only_commands(says)
        .connect()
        .await
        .unwrap();
    let mut con = client.connection();
    let () = con.set("key", 0).await.unwrap();
    let clients = server.clients();
    let callers = clients
        .iter()
        .rfind(|client| client.last_command() == "set");
    callers.expect("the callers' connection").lose_replies(true);
    con
}

/// How often an INCR of `key` ran: it stands in for a command of a module.
async fn runs(server: &Server, mut con: MultiDbConnection, pipeline: &Pipeline) -> i64 {
    let lost = pipeline.query_async::<Value>(&mut con).await;
    // A repetition may go over a connection that was made anew, and be answered.
    assert!(lost.is_ok() || is_unknown(&lost.unwrap_err()));
    con.client().close().await;
    server.storage().counter("key").expect("it ran")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_said_to_read_is_tried_again() {
    let server = Server::start().await.unwrap();
    let mut incr = pipe();
    incr.incr("key", 1);
    for (says, again) in [
        (&["incrby"][..], true),
        (&["INCRBY KEY"], true),
        (&["incr by", "decr"], false),
        (&[], false),
    ] {
        let con = losing(&server, says).await;
        let mut single = con.clone();
        let _: RedisResult<i64> = single.incr("key", 1).await;
        let ran = server.storage().counter("key").expect("it ran");
        assert_eq!(ran > 1, again, "{says:?}: {ran} times");
        con.client().close().await;
        let con = losing(&server, says).await;
        let ran = runs(&server, con, &incr).await;
        assert_eq!(ran > 1, again, "{says:?}: {ran} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_is_tried_again_if_all_of_its_commands_read() {
    let server = Server::start().await.unwrap();
    let (mut reading, mut writing) = (pipe(), pipe());
    reading.incr("key", 1).get("key");
    writing.incr("key", 1).set("other", 1);
    let con = losing(&server, &["INCRBY"]).await;
    assert!(runs(&server, con, &reading).await > 1);
    let con = losing(&server, &["INCRBY"]).await;
    assert_eq!(runs(&server, con, &writing).await, 1);
}
