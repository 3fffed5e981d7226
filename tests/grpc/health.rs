//! What a server says of its own health.

use std::time::Duration;

use multidb::Database;
use multidb::grpc::{GrpcEndpoint, MultiDbChannel};

use super::server::Server;
use super::{SET, over, unary, until_active};

#[tokio::test]
async fn a_server_that_says_it_does_not_serve_is_left() {
    // Unknown; not serving.
    for status in [0, 2] {
        let (east, west) = (Server::start("east").await, Server::start("west").await);
        let client = over(&east, &west).health_interval(Duration::from_millis(50));
        let client = client.connect().await.unwrap();
        until_active(&client, &east).await;
        east.health(Some(status));
        until_active(&client, &west).await;
        assert_eq!(unary(&client, SET).await.unwrap(), "west");
    }
}

#[tokio::test]
async fn a_server_without_the_protocol_is_well_as_long_as_it_answers() {
    let (east, west) = (Server::start("east").await, Server::start("west").await);
    east.health(None);
    west.health(Some(2));
    let client = over(&east, &west).connect().await.unwrap();
    until_active(&client, &east).await;
    assert_eq!(unary(&client, SET).await.unwrap(), "east");
}

#[tokio::test]
async fn the_service_named_is_the_one_asked_about() {
    let east = Server::start("east").await;
    let name = "shop.Orders".repeat(20);
    let endpoint = GrpcEndpoint::new(east.uri())
        .unwrap()
        .keepalive(Duration::from_secs(5), Duration::from_secs(1))
        .unwrap()
        .health_service(&name);
    let database = Database::new("east", endpoint).unwrap();
    let client = MultiDbChannel::builder().database(database);
    let client = client.connect().await.unwrap();
    assert_eq!(unary(&client, SET).await.unwrap(), "east");
    // Field 1, text, 220 bytes: a length of two bytes.
    assert_eq!(east.asked(), [b"\x0A\xDC\x01", name.as_bytes()].concat());
}

#[test]
fn a_keepalive_that_cannot_work_is_refused_by_name() {
    let (never, second) = (Duration::ZERO, Duration::from_secs(1));
    for (interval, timeout, field) in [
        (never, second, "keepalive.interval"),
        (second, Duration::MAX, "keepalive.timeout"),
    ] {
        let endpoint = GrpcEndpoint::new("http://x:1").unwrap();
        let error = endpoint.keepalive(interval, timeout).unwrap_err();
        assert_eq!(error.field(), field, "{error}");
    }
}
