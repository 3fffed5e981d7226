//! An operator's verbs: what they answer, and that a refused one changes nothing.

use std::time::Duration;

use multidb::testing::scripted::{Script, Scripted, Work};
use multidb::{CircuitState, ErrorKind, Event, MultiDbClient, Obstacle, Reason};
use tokio::time::Instant;

use super::*;

/// All that can be seen of a client, without what time alone changes.
fn seen(client: &MultiDbClient<Scripted>) -> String {
    let snapshot = client.snapshot();
    let members: Vec<_> = snapshot
        .members
        .iter()
        .map(|m| (&m.id, m.weight, m.enabled, m.active, m.circuit, m.connected))
        .collect();
    format!(
        "{} {:?} {:?} {members:?}",
        snapshot.generation, snapshot.active, snapshot.status
    )
}

#[tokio::test(start_paused = true)]
async fn an_unknown_id_is_refused_by_every_verb_and_nothing_changes() {
    let (client, _east, _west) = pair().await;
    let mut events = client.events();
    let before = seen(&client);
    for id in ["nowhere", "", "\n"] {
        let answers = [
            client.remove(id).await,
            client.set_weight(id, 1.0).await,
            client.enable(id).await,
            client.disable(id).await,
            client.switch_to(id).await,
            client.force_active(id, None).await,
            client.reset_circuit(id).await,
            client.force_open_circuit(id).await,
            client.direct(id, 1, "").await,
        ];
        for (verb, answer) in answers.into_iter().enumerate() {
            let error = answer.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::UnknownDatabase, "verb {verb}");
        }
    }
    assert_eq!(seen(&client), before);
    assert!(drain(&mut events).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_weight_that_is_none_is_refused_and_nothing_changes() {
    let (client, _east, _west) = pair().await;
    let mut events = client.events();
    let before = seen(&client);
    for weight in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        let error = client.set_weight("east", weight).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Invalid(e) if e.field() == "weight"));
    }
    client.set_weight("east", 1.0).await.unwrap();
    assert_eq!(seen(&client), before);
    assert!(
        drain(&mut events).await.is_empty(),
        "setting it to itself is silent"
    );
}

#[tokio::test(start_paused = true)]
async fn a_weight_raised_or_lowered_decides_anew_at_once() {
    let (client, _east, _west) = pair().await;
    let mut events = client.events();
    for (id, weight, serves) in [
        ("west", 2.0, "west"),
        ("west", 0.4, "east"),
        ("east", 0.1, "west"),
        ("east", 0.0, "west"),
        ("west", 0.0, "west"),
    ] {
        client.set_weight(id, weight).await.unwrap();
        tokio::time::sleep(ms(1)).await;
        assert_eq!(
            call(&client, Work::new("a")).await.unwrap(),
            serves,
            "{id} {weight}"
        );
    }
    let told = drain(&mut events).await;
    let reasons: Vec<_> = told.iter().filter_map(switched).map(|s| s.2).collect();
    assert_eq!(reasons, [Reason::Fallback; 3]);
    let changed = told
        .iter()
        .filter(|e| matches!(e, Event::WeightChanged { .. }));
    assert_eq!(changed.count(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_added_database_is_a_full_member_and_may_take_over() {
    let (client, _east, _west) = pair().await;
    let mut events = client.events();
    let north = Script::new();
    let id = client.add(database("north", &north, 3.0)).await.unwrap();
    assert_eq!(id, "north");
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("north", Reason::Fallback));
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "north");
    north.kill();
    assert_eq!(call(&client, Work::new("b")).await.unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn a_database_added_while_it_is_down_joins_when_it_is_up() {
    let (client, _east, _west) = pair().await;
    let north = Script::new();
    north.kill();
    client.add(database("north", &north, 3.0)).await.unwrap();
    tokio::time::sleep(secs(1)).await;
    assert_eq!(active(&client), "east");
    north.heal();
    until_active(&client, "north").await;
}

#[tokio::test(start_paused = true)]
async fn a_database_that_cannot_be_verified_is_not_added_and_leaves_nothing_behind() {
    let (client, _east, _west) = pair().await;
    let mut events = client.events();
    let before = seen(&client);
    let north = Script::new();
    north.kill();
    let error = client
        .add_verified(database("north", &north, 3.0))
        .await
        .unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unhealthy);
    assert_eq!(error.database().unwrap(), &"north");
    assert!(std::error::Error::source(&error).is_some(), "it says why");
    north.heal();
    north.hang();
    let start = Instant::now();
    assert!(
        client
            .add_verified(database("north", &north, 3.0))
            .await
            .is_err()
    );
    assert!(start.elapsed() <= secs(3) + ms(10), "{:?}", start.elapsed());
    assert_eq!(seen(&client), before);
    let told = drain(&mut events).await;
    assert!(
        !told
            .iter()
            .any(|e| matches!(e, Event::Added { .. } | Event::Removed { .. }))
    );
    north.heal();
    tokio::time::sleep(secs(60)).await;
    assert_eq!(north.open(), 0);

    client
        .add_verified(database("north", &north, 3.0))
        .await
        .unwrap();
    until_active(&client, "north").await;
}

#[tokio::test(start_paused = true)]
async fn an_id_is_taken_once() {
    let (client, _east, _west) = pair().await;
    let before = seen(&client);
    let other = Script::new();
    let error = client.add(database("west", &other, 9.0)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::DuplicateDatabase);
    let error = client
        .add_verified(database("west", &other, 9.0))
        .await
        .unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::DuplicateDatabase);
    tokio::time::sleep(secs(10)).await;
    assert_eq!(seen(&client), before);
    assert!(other.log().is_empty(), "it was never asked");
}

#[tokio::test(start_paused = true)]
async fn the_active_database_is_left_before_it_is_removed() {
    let (client, east, west) = pair().await;
    let mut events = client.events();
    east.latency(ms(100));
    let in_flight = begin(&client, Work::new("a")).await;
    client.remove("east").await.unwrap();
    assert_eq!(call(&client, Work::new("b")).await.unwrap(), "west");
    assert_eq!(
        in_flight.await.unwrap().unwrap(),
        "east",
        "it ended where it was"
    );
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("west", Reason::Removed));
    next(&mut events, |e| {
        matches!(e, Event::Removed { .. }).then_some(())
    })
    .await;
    tokio::time::sleep(secs(1)).await;
    assert_eq!(east.open(), 0, "its connections are gone");
    east.forget();
    tokio::time::sleep(secs(120)).await;
    assert!(
        east.log().is_empty(),
        "and nobody asks it anything any more"
    );

    let error = client.remove("west").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::LastDatabase);
    assert_eq!(call(&client, Work::new("c")).await.unwrap(), "west");
    // An id that comes back is another member.
    east.heal();
    client.add(database("east", &east, 1.0)).await.unwrap();
    until_active(&client, "east").await;
    drop(west);
}

#[tokio::test(start_paused = true)]
async fn the_only_one_that_serves_is_not_removed() {
    let (client, _east, west) = pair().await;
    west.kill();
    until(&client, |s| !s.member("west").unwrap().obstacles.is_empty()).await;
    let error = client.remove("east").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unhealthy);
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "east");
    client.remove("west").await.unwrap();
    assert_eq!(client.snapshot().members.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disabled_database_is_left_stays_watched_and_may_return() {
    let (client, east, _west) = pair().await;
    let mut events = client.events();
    client.disable("east").await.unwrap();
    client.disable("east").await.unwrap();
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("west", Reason::Disabled));
    east.forget();
    tokio::time::sleep(secs(60)).await;
    assert!(!east.log().is_empty(), "it is watched");
    assert_eq!(
        client.snapshot().member("east").unwrap().obstacles,
        [Obstacle::Disabled]
    );
    let refused = client.force_active("east", None).await.unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::Unhealthy);
    client.enable("east").await.unwrap();
    let (_, to, _) = next(&mut events, switched).await;
    assert_eq!(to, "east");
    let changes = drain(&mut events).await;
    assert!(
        !changes
            .iter()
            .any(|e| matches!(e, Event::EnabledChanged { .. }))
    );
}

#[tokio::test(start_paused = true)]
async fn a_circuit_forced_open_stays_open_until_it_is_reset() {
    let (client, _east, _west) = pair().await;
    client.force_open_circuit("east").await.unwrap();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let view = client.snapshot().member("east").unwrap().clone();
    assert_eq!(view.circuit, CircuitState::Open);
    assert_eq!(view.obstacles, [Obstacle::CircuitOpen { left: None }]);
    let error = client.switch_to("east").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unhealthy);
    client.reset_circuit("east").await.unwrap();
    tokio::time::sleep(ms(1)).await;
    assert_eq!(active(&client), "east");
}

#[tokio::test(start_paused = true)]
async fn databases_of_one_failure_domain_share_a_circuit() {
    let (blue, green, spare) = (Script::new(), Script::new(), Script::new());
    let shared = |id, script, weight| {
        database(id, script, weight)
            .failure_domain("cluster")
            .unwrap()
    };
    let client = builder()
        .database(shared("blue", &blue, 1.0))
        .database(shared("green", &green, 0.9))
        .database(database("spare", &spare, 0.1));
    let client = serving(client).await;
    client.force_open_circuit("green").await.unwrap();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "spare");
    client.reset_circuit("blue").await.unwrap();
    tokio::time::sleep(ms(1)).await;
    assert_eq!(call(&client, Work::new("b")).await.unwrap(), "blue");
}

#[tokio::test(start_paused = true)]
async fn explain_says_for_each_database_why_it_is_not_chosen() {
    let (client, east, _west) = pair().await;
    east.kill();
    call(&client, Work::new("a")).await.unwrap();
    tokio::time::sleep(secs(30)).await;
    let text = client.explain();
    let east_line = text.lines().find(|line| line.contains("east")).unwrap();
    assert!(
        east_line.contains("circuit open, ") && east_line.contains(" s left"),
        "{text}"
    );
    assert!(east_line.contains("connection refused"), "{text}");
    assert!(
        text.lines()
            .any(|l| l.starts_with("* west") && l.contains("selectable")),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_verb_whose_caller_goes_away_is_carried_out_all_the_same() {
    let (client, _east, west) = pair().await;
    west.latency(ms(50));
    let order = client.switch_to("west");
    assert!(tokio::time::timeout(ms(1), order).await.is_err());
    until_active(&client, "west").await;
}
