//! What an abandoned connection still has on its way must not run behind everybody's back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use multidb::Event;

use super::*;
use crate::peer::{Peer, Say, bytes};

#[tokio::test(start_paused = true)]
async fn the_old_connections_are_killed_by_id_and_address_before_the_database_serves_again() {
    let down = Arc::new(AtomicBool::new(false));
    let silent = down.clone();
    let peer = Peer::new(move |request| match request[0].as_str() {
        _ if silent.load(Ordering::Relaxed) => Say::Nothing,
        "INCR" => bytes(":1\r\n"),
        _ => Say::AsUsual,
    });
    let west = Server::in_memory();
    let network = Network::default();
    network.peer("east", &peer);
    network.server("west", &west);
    let client = builder(&network)
        .url("redis://east", 1.0)
        .url("redis://west", 0.5);
    let client = serving(client).await;
    let mut con = client.connection();
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    down.store(true, Ordering::Relaxed);
    assert!(ask::<i64>(&mut con, &["INCR", "k"]).await.is_err());
    assert_eq!(active(&client), "west:6379");

    let before = peer.requests().len();
    down.store(false, Ordering::Relaxed);
    let back = client.wait_for(|s| s.active.as_ref().is_some_and(|id| *id == *"east:6379"));
    tokio::time::timeout(secs(600), back)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    let after = peer.requests().split_off(before);
    let place = |words: &[&str]| after.iter().position(|request| request == words);
    let kill = place(&["CLIENT", "KILL", "ID", "1", "ADDR", "10.0.0.1:1"]);
    let kill = kill.unwrap_or_else(|| panic!("never fenced: {after:?}"));
    assert!(kill < place(&["INCR", "k"]).unwrap(), "{after:?}");
    for request in peer.requests() {
        let by_id_alone = request.len() == 4 && request[..3] == ["CLIENT", "KILL", "ID"];
        assert!(!by_id_alone, "ids restart with the server: {request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_tell_who_we_are_is_used_without_a_fence_and_that_is_told() {
    let peer = Peer::new(|request| match request {
        [client, info] if client == "CLIENT" && info == "INFO" => {
            bytes("-ERR Unknown subcommand or wrong number of arguments for 'INFO'\r\n")
        }
        [incr, ..] if incr == "INCR" => bytes(":1\r\n"),
        _ => Say::AsUsual,
    });
    let network = Network::default();
    let line = network.peer("lone", &peer);
    let client = serving(builder(&network).url("redis://lone", 1.0)).await;
    let mut events = client.events();
    let mut con = client.connection();
    line.cut();
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    assert_eq!(peer.count(&["CLIENT", "KILL"]), 0);
    let told = drain(&mut events).await;
    let unfenced = |e: &&Event| matches!(e, Event::Unfenced { .. });
    assert_eq!(told.iter().filter(unfenced).count(), 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_is_refused_is_reported_and_the_database_serves() {
    let peer = Peer::new(|request| match request {
        [client, kill, ..] if client == "CLIENT" && kill == "KILL" => {
            bytes("-NOPERM this user has no permissions to run the 'client|kill' command\r\n")
        }
        [incr, ..] if incr == "INCR" => bytes(":1\r\n"),
        _ => Say::AsUsual,
    });
    let network = Network::default();
    let line = network.peer("lone", &peer);
    let client = serving(builder(&network).url("redis://lone", 1.0)).await;
    let mut events = client.events();
    let mut con = client.connection();
    line.cut();
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    let told = drain(&mut events).await;
    assert!(
        told.iter().any(|e| matches!(e, Event::Unfenced { .. })),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn commands_left_in_a_hung_server_do_not_run_after_it_is_used_again() {
    let rig = rig().await;
    let mut con = rig.client.connection();
    ask::<()>(&mut con, &["PING"]).await.unwrap();
    // Paused with everything it has read; its sockets stay open, as on a stopped host.
    rig.east.hang();
    let error = ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap_err();
    assert!(!ours(&error).is_retry_safe());
    assert_eq!(active(&rig.client), "west:6379");
    assert_eq!(ask::<i64>(&mut con, &["INCR", "k"]).await.unwrap(), 1);
    rig.east.resume();
    let back = rig
        .client
        .wait_for(|s| s.active.as_ref().is_some_and(|id| *id == *"east:6379"));
    tokio::time::timeout(secs(600), back)
        .await
        .unwrap()
        .unwrap();
    let seen = rig.east.storage().counter("k");
    for _ in 0..100 {
        tokio::time::sleep(ms(100)).await;
        assert_eq!(
            rig.east.storage().counter("k"),
            seen,
            "it ran behind our back"
        );
    }
}
