//! Databases that are discovered: topologies are applied in one step, in order.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::engine::membership::{Membership, Topology};
use multidb::testing::scripted::{Script, Work};
use multidb::{Database, ErrorKind, Event, Reason, Role};
use tokio::sync::mpsc;

use super::*;

/// Topologies as a test sends them.
struct Feed(mpsc::UnboundedReceiver<Topology<Script>>);

impl Membership<Script> for Feed {
    fn next(&mut self) -> BoxFuture<'_, Option<Topology<Script>>> {
        self.0.recv().boxed()
    }
}

fn topology(epoch: u64, databases: Vec<Database<Script>>) -> Topology<Script> {
    Topology { epoch, databases }
}

fn ids(client: &multidb::MultiDbClient<multidb::testing::scripted::Scripted>) -> Vec<String> {
    let snapshot = client.snapshot();
    snapshot.members.iter().map(|m| m.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_client_may_start_with_nothing_but_a_membership() {
    let (feed, topologies) = mpsc::unbounded_channel();
    let (east, west) = scripts();
    let client = builder()
        .membership(Feed(topologies))
        .connect_lazy()
        .unwrap();
    let waiting = begin(&client, Work::new("a")).await;
    tokio::time::sleep(secs(1)).await;
    feed.send(topology(
        1,
        vec![database("east", &east, 1.0), database("west", &west, 0.5)],
    ))
    .unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn topologies_are_applied_as_they_come() {
    let (feed, topologies) = mpsc::unbounded_channel();
    let (east, west) = scripts();
    let client = serving(over(&east, &west).membership(Feed(topologies))).await;
    let north = Script::new();
    feed.send(topology(
        1,
        vec![
            database("west", &west, 0.5),
            database("east", &east, 1.0),
            database("north", &north, 2.0),
        ],
    ))
    .unwrap();
    until_active(&client, "north").await;
    // Who served leaves: calls go on elsewhere.
    feed.send(topology(
        2,
        vec![database("west", &west, 0.5), database("east", &east, 1.0)],
    ))
    .unwrap();
    until_active(&client, "east").await;
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    assert_eq!(ids(&client).len(), 2);
    tokio::time::sleep(secs(10)).await;
    assert_eq!(north.open(), 0);
    // Weights and enabled are taken over; who is known keeps its connection.
    let connects = east.connects(multidb::engine::backend::Purpose::Traffic);
    feed.send(topology(
        3,
        vec![
            database("west", &west, 5.0),
            database("east", &east, 1.0).enabled(false),
        ],
    ))
    .unwrap();
    until_active(&client, "west").await;
    assert!(!client.snapshot().member("east").unwrap().enabled);
    assert_eq!(
        east.connects(multidb::engine::backend::Purpose::Traffic),
        connects
    );
}

#[tokio::test(start_paused = true)]
async fn an_old_or_empty_or_ambiguous_topology_is_refused_and_nothing_changes() {
    let (client, east, west) = pair().await;
    let both = || vec![database("east", &east, 1.0), database("west", &west, 0.5)];
    client.apply(topology(7, both())).await.unwrap();
    let mut events = client.events();
    for epoch in [7, 6, 0] {
        let lone = vec![database("west", &west, 0.5)];
        let error = client.apply(topology(epoch, lone)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Superseded);
    }
    let error = client.apply(topology(8, Vec::new())).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::LastDatabase);
    let twins = vec![database("east", &east, 1.0), database("east", &west, 0.5)];
    let error = client.apply(topology(9, twins)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
    assert!(drain(&mut events).await.is_empty());
    assert_eq!(ids(&client), ["east", "west"]);
    client.apply(topology(8, both())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_moves_is_followed_by_its_role() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    let moved = vec![
        database("east", &east, 1.0).role(Role::Replica),
        database("west", &west, 0.5),
    ];
    client.apply(topology(1, moved)).await.unwrap();
    let (_, to, _) = next(&mut events, switched).await;
    assert_eq!(to, "west");
    west.kill();
    // A replica is no place for writes, whatever its weight.
    assert_eq!(
        kind(call(&client, Work::new("a")).await),
        ErrorKind::Unavailable
    );
    assert!(east.called().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_whole_new_set_takes_over_in_one_step() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    let (north, south) = scripts();
    let set = vec![
        database("north", &north, 1.0),
        database("south", &south, 0.5),
    ];
    client.apply(topology(1, set)).await.unwrap();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "north");
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("north", Reason::Removed));
    tokio::time::sleep(secs(10)).await;
    assert_eq!((east.open(), west.open()), (0, 0));
    let told = drain(&mut events).await;
    assert!(
        !told
            .iter()
            .any(|e| matches!(e, Event::AllUnavailable { .. })),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_membership_that_ends_leaves_the_members_as_they_are() {
    let (feed, topologies) = mpsc::unbounded_channel();
    let (east, west) = scripts();
    let client = serving(over(&east, &west).membership(Feed(topologies))).await;
    drop(feed);
    tokio::time::sleep(secs(60)).await;
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    assert_eq!(ids(&client), ["east", "west"]);
    client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_membership_that_panics_ends_and_the_client_lives_on() {
    struct Panics;
    impl Membership<Script> for Panics {
        fn next(&mut self) -> BoxFuture<'_, Option<Topology<Script>>> {
            panic!("on purpose")
        }
    }
    let (east, west) = scripts();
    let client = serving(over(&east, &west).membership(Panics)).await;
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    east.kill();
    assert_eq!(call(&client, Work::new("b")).await.unwrap(), "west");
}
