//! The same program, on one database by redis-rs and on several by us: the same results.

use multidb::{MultiDbClient, Sensitivity, blocking, redis::Redis};
use redis::{Client, Connection};

use crate::support::redis_server::RedisServer;
use crate::transcript::{Transcript, record, record_stateless};
use crate::{Databases, LIMIT, rig};

#[test]
fn a_program_sees_the_same_results_over_resp2() {
    a_program_sees_the_same_results("?protocol=resp2");
}

#[test]
fn a_program_sees_the_same_results_over_resp3() {
    a_program_sees_the_same_results("?protocol=resp3");
}

fn a_program_sees_the_same_results(protocol: &str) {
    let (reference, databases) = (rig(RedisServer::start()), Databases::start());
    let theirs = Client::open(format!("{}{protocol}", reference.url())).unwrap();
    let expected = record(|| bare(&theirs));

    let client = MultiDbClient::builder()
        .url(format!("{}{protocol}", databases.east.url()), 1.0)
        .url(format!("{}{protocol}", databases.west.url()), 0.5)
        .auto_fallback(false)
        // This is not about how long a server may be kept waiting for a processor.
        .sensitivity(Sensitivity::Custom(LIMIT))
        .connect_blocking()
        .unwrap();
    same(&record(|| patient(&client)), &expected);
    assert_eq!(
        client.snapshot().generation,
        1,
        "nothing gave cause to switch"
    );

    blocking::wait(client.switch_to(databases.west_id())).unwrap();
    same(&record(|| patient(&client)), &expected);
    blocking::wait(client.close());
}

#[test]
fn a_client_is_a_connection_as_theirs_is() {
    let (reference, databases) = (rig(RedisServer::start()), Databases::start());
    let expected = record_stateless(Client::open(reference.url()).unwrap());
    let client = databases.builder().deadline(LIMIT).response_timeout(LIMIT);
    // First used from here: started by its first call.
    same(&record_stateless(client.connect_lazy().unwrap()), &expected);
}

fn bare(client: &Client) -> Connection {
    let con = client.get_connection().unwrap();
    con.set_read_timeout(Some(LIMIT)).unwrap();
    con
}

/// A large pipeline takes its time on a busy machine.
fn patient(client: &MultiDbClient<Redis>) -> blocking::Connection {
    let mut con = client.get_connection().unwrap();
    con.set_response_timeout(LIMIT);
    con.set_deadline(LIMIT);
    con
}

/// Points at the first difference: the whole is too long to read.
fn same(ours: &Transcript, theirs: &Transcript) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(short(ours), short(theirs));
        assert!(ours == theirs, "beyond the first part: {}", short(ours));
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 40, "the program did {} steps", ours.len());
}

fn short(note: &str) -> String {
    note.chars().take(400).collect()
}
