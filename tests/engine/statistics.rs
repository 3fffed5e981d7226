//! What a client counts of each of its databases.

use multidb::Statistics;
use multidb::engine::backend::ServerState;
use multidb::testing::scripted::{OnCall, Work};
use multidb::{Class, Refusal};

use super::*;

fn of(client: &MultiDbClient<Scripted>, id: &str) -> Statistics {
    let all = client.statistics();
    let found = all.into_iter().find(|one| one.database == *id);
    found.expect("a member")
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_where_they_were_made_by_what_came_of_them() {
    let (client, east, west) = pair().await;
    for _ in 0..3 {
        call(&client, Work::new("a")).await.unwrap();
    }
    let refusal = Class::NotExecuted(Refusal::State(ServerState {
        code: "BUSY",
        at_once: false,
        elsewhere: true,
    }));
    east.next_call(OnCall::Answer(refusal));
    call(&client, Work::new("refused, and tried again"))
        .await
        .unwrap();
    east.next_call(OnCall::RunInSilence);
    call(&client, Work::new("unanswered")).await.unwrap_err();
    let waiting = {
        east.next_call(OnCall::Hang);
        begin(&client, Work::new("waits")).await
    };
    let now = of(&client, "east");
    assert_eq!((now.answered, now.refused), (5, 1));
    assert_eq!((now.unknown, now.not_sent, now.in_flight), (1, 0, 1));
    waiting.abort();

    // A connection that ends takes no count with it.
    east.kill();
    until_active(&client, "west").await;
    call(&client, Work::new("elsewhere")).await.unwrap();
    let east_now = of(&client, "east");
    assert_eq!((east_now.answered, east_now.in_flight), (5, 0));
    let west_now = of(&client, "west");
    assert_eq!(
        (west_now.answered, west_now.refused, west_now.unknown),
        (1, 0, 0)
    );
    assert_eq!(west_now.connections, 1);
    assert!(
        west_now.probes >= 1 && west_now.round_trip.is_some(),
        "{west_now:?}"
    );
    drop(west);
}

#[tokio::test(start_paused = true)]
async fn the_time_as_the_active_one_is_counted_for_each() {
    let (client, _east, _west) = pair().await;
    tokio::time::sleep(secs(10)).await;
    client.switch_to("west").await.unwrap();
    tokio::time::sleep(secs(5)).await;
    let (east, west) = (of(&client, "east"), of(&client, "west"));
    assert!(
        east.active >= secs(10) && east.active < secs(11),
        "{east:?}"
    );
    assert!(west.active >= secs(5) && west.active < secs(6), "{west:?}");
    assert_eq!((east.activations, west.activations), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lazy_client_has_nothing_to_count_before_it_starts() {
    let (east, west) = scripts();
    let client = over(&east, &west).connect_lazy().unwrap();
    assert_eq!(client.statistics(), []);
    call(&client, Work::new("a")).await.unwrap();
    let names: Vec<_> = client
        .statistics()
        .into_iter()
        .map(|one| one.database)
        .collect();
    assert_eq!(
        names,
        ["east", "west"].map(|id| DatabaseId::new(id).unwrap())
    );
}
