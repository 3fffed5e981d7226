//! Pub/sub on a thread, across the loss of its database.

use std::time::Duration;

use multidb::ErrorKind;
use multidb::blocking::{PubSub, wait};

use crate::support::eventually;
use crate::{Databases, LIMIT, kind, rig};

#[test]
fn a_reader_on_a_thread_outlives_its_database() {
    let mut databases = Databases::start();
    let client = databases.client();
    let mut con = client.get_connection_with_timeout(LIMIT).unwrap();
    let mut pubsub = con.as_pubsub();
    pubsub.subscribe("news").unwrap();
    pubsub.psubscribe("sport.*").unwrap();
    let _: i64 = rig(databases.east.cmd(&["PUBLISH", "news", "1"]));
    assert_eq!(next(&mut pubsub), "1");

    databases.east.kill();
    becomes("it is subscribed again", async || {
        databases
            .west
            .cmd::<i64>(&["PUBLISH", "sport.golf", "2"])
            .await
            == 1
    });
    assert_eq!(next(&mut pubsub), "2");

    let patience = Duration::from_millis(20);
    pubsub.set_read_timeout(Some(patience)).unwrap();
    assert!(pubsub.get_message().unwrap_err().is_timeout());
    drop(pubsub);
    becomes("nobody is subscribed", async || {
        databases.west.cmd::<i64>(&["PUBLISH", "news", "3"]).await == 0
    });

    let mut pubsub = con.as_pubsub();
    pubsub.subscribe("news").unwrap();
    wait(client.close());
    assert_eq!(kind(&pubsub.get_message().unwrap_err()), ErrorKind::Closed);
}

fn becomes(what: &str, condition: impl AsyncFnMut() -> bool) {
    rig(eventually(LIMIT, what, condition));
}

fn next(pubsub: &mut PubSub<'_>) -> String {
    pubsub.get_message().unwrap().get_payload().unwrap()
}
