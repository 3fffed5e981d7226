//! What a connection cannot carry, and bytes that are no requests: errors, and nothing is sent.

use multidb::{ErrorKind, MultiDbClient, blocking};
use redis::{
    ConnectionLike, ErrorKind as RedisErrorKind, RedisResult, TypedCommands, Value, cmd, pipe,
};

use crate::{Databases, kind};

#[test]
fn sessions_are_refused_however_they_are_sent() {
    let databases = Databases::start();
    let client = databases.client();
    let mut con = client.get_connection().unwrap();
    let mut select = cmd("SELECT");
    select.arg(1);
    let refused = ErrorKind::Unsupported { command: "SELECT" };

    let error = select.exec(&mut con).unwrap_err();
    assert_eq!(kind(&error), refused);
    let error = con.req_packed_command(&select.get_packed_command());
    assert_eq!(kind(&error.unwrap_err()), refused);
    let batch: RedisResult<()> = pipe().add_command(select).query(&mut con);
    assert_eq!(kind(&batch.unwrap_err()), refused);

    for words in [
        &["MULTI", "PING"][..],
        &["MULTI", "EXEC", "PING"],
        &["MULTI", "MULTI", "EXEC"],
        &["PING", "EXEC"],
    ] {
        let mut batch = pipe();
        for word in words {
            batch.cmd(word);
        }
        let error = batch.exec(&mut con).unwrap_err();
        assert!(
            matches!(kind(&error), ErrorKind::Unsupported { .. }),
            "{words:?}: {error}"
        );
    }
    con.set("key", "value").unwrap();
}

#[test]
fn requests_that_would_cost_another_its_reply_are_refused() {
    let databases = Databases::start();
    let client = databases.client();
    let mut con = client.get_connection().unwrap();
    let mut incr = pipe();
    incr.incr("n", 1).incr("n", 1);
    let plain = incr.get_packed_pipeline();
    let atomic = incr.atomic().get_packed_pipeline();
    for (offset, count) in [(0, 0), (0, 1), (1, 2), (0, 3), (usize::MAX, 3)] {
        let error = con.req_packed_commands(&plain, offset, count).unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Client, "{offset}, {count}");
    }
    for (offset, count) in [(0, 0), (0, 2), (2, 1), (3, 0), (4, 1)] {
        con.req_packed_commands(&atomic, offset, count).unwrap_err();
    }
    con.req_packed_command(&plain).unwrap_err();
    con.req_packed_command(&atomic).unwrap_err();
    for bytes in [
        &b"PING\r\n"[..],
        b"*1\r\n$9\r\nPING\r\n",
        b"*0\r\n",
        b"",
        b"\xff",
    ] {
        let error = con.req_packed_command(bytes).unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Client, "{bytes:?}");
        con.req_packed_commands(bytes, 0, 1).unwrap_err();
    }
    assert_eq!(con.get("n").unwrap(), None, "none of it has run");
}

/// redis-rs's own would take the unread reply for that of the next command.
#[test]
fn a_command_that_asks_for_no_reply_costs_nobody_one() {
    let databases = Databases::start();
    let mut con = databases.client().get_connection().unwrap();
    let mut unheard = cmd("SET");
    unheard.arg("unheard").arg(1).set_no_response(true);
    assert_eq!(con.req_command(&unheard).unwrap(), Value::Nil);
    assert_eq!(con.get("unheard").unwrap().as_deref(), Some("1"));
}

#[test]
fn a_client_that_is_closed_says_so() {
    let databases = Databases::start();
    let mut client = databases.client();
    let mut con = client.get_connection().unwrap();
    assert!(con.is_open() && client.is_open());
    blocking::wait(client.close());
    assert!(!con.is_open() && !client.is_open());
    assert!(!con.check_connection() && !client.check_connection());
    let error = con.get("key").unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Closed);
    let error = client.get_connection().unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Closed);
}

#[test]
fn a_start_that_fails_says_why() {
    let mut databases = Databases::start();
    let error = MultiDbClient::builder()
        .url(databases.east.url(), f64::NAN)
        .connect_blocking()
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");

    databases.east.kill();
    databases.west.kill();
    let error = databases.builder().connect_blocking().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotStarted);
}

#[test]
fn the_number_of_the_database_is_the_urls() {
    let databases = Databases::start();
    let url = format!("{}3", databases.east.url());
    let client = MultiDbClient::open([(url, 1.0)]).unwrap();
    assert_eq!(client.get_db(), 0, "not connected yet");
    let con = client.get_connection().unwrap();
    assert_eq!((con.get_db(), client.get_db()), (3, 3));
}
