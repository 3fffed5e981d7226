//! `MultiDbChannel` under clients as tonic generates them, against small servers on loopback.

mod endings;
mod health;
mod server;

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use multidb::grpc::MultiDbChannel;
use multidb::{Builder, ErrorKind, MultiDbClient};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use server::{Answer, Server};

type Client = MultiDbClient<multidb::grpc::Grpc>;

/// Messages as they are: what a generated client has a codec for.
#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A generated client's unary method: what the server says of itself.
async fn unary(client: &Client, path: &'static str) -> Result<String, Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready().await?;
    let path = PathAndQuery::from_static(path);
    let answer = grpc
        .unary(Request::new(Bytes::from_static(b"hello")), path, Plain)
        .await?;
    Ok(String::from_utf8(answer.into_inner().to_vec()).unwrap())
}

const SET: &str = "/test.Store/Set";
const GET: &str = "/test.Store/Get";
const MANY: &str = "/test.Store/Many";
const COLLECT: &str = "/test.Store/Collect";

fn over(east: &Server, west: &Server) -> Builder<multidb::grpc::Grpc> {
    MultiDbChannel::builder()
        .endpoint(east.uri(), 2.0)
        .endpoint(west.uri(), 1.0)
        .idempotent_methods([GET])
}

async fn pair() -> (Client, Server, Server) {
    let (east, west) = (Server::start("east").await, Server::start("west").await);
    let client = over(&east, &west).connect().await.unwrap();
    let all = client.wait_for(|s| s.members.iter().all(|m| m.connected));
    tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .unwrap()
        .unwrap();
    (client, east, west)
}

async fn until_active(client: &Client, server: &Server) {
    let name = server.name();
    let active = client.wait_for(|s| s.active.as_ref().is_some_and(|id| *id == *name));
    let limit = Duration::from_secs(15);
    tokio::time::timeout(limit, active)
        .await
        .unwrap_or_else(|_| panic!("{}", client.explain()))
        .unwrap();
}

#[tokio::test]
async fn calls_go_to_the_heavier_server_and_carry_what_they_carry() {
    let (client, east, west) = pair().await;
    let mut grpc = tonic::client::Grpc::new(client.channel());
    let mut request = Request::new(Bytes::from_static(b"x"));
    request.metadata_mut().insert("who", "me".parse().unwrap());
    let answer = grpc
        .unary(request, PathAndQuery::from_static(SET), Plain)
        .await
        .unwrap();
    assert_eq!(answer.metadata().get("served-by").unwrap(), "east");
    assert_eq!(east.last_header("who").as_deref(), Some("me"));
    assert_eq!((east.ran(SET), west.ran(SET)), (1, 0));
}

#[tokio::test]
async fn a_server_that_dies_costs_calls_that_had_not_begun_nothing() {
    let (client, east, west) = pair().await;
    assert_eq!(unary(&client, SET).await.unwrap(), "east");
    east.kill();
    for _ in 0..20 {
        assert_eq!(unary(&client, SET).await.unwrap(), "west");
    }
    assert_eq!(west.ran(SET), 20);
    until_active(&client, &west).await;
}

#[tokio::test]
async fn what_may_have_run_is_not_run_again_unless_that_is_harmless() {
    let (client, east, west) = pair().await;
    east.next(Answer::ResetAfter);
    let error = unary(&client, SET).await.unwrap_err();
    assert_eq!(error.code(), Code::Unknown, "{error:?}");
    let ours = std::error::Error::source(&error).unwrap();
    let ours: &multidb::Error = ours.downcast_ref().unwrap();
    assert!(matches!(ours.kind(), ErrorKind::OutcomeUnknown(_)) && !ours.is_retry_safe());
    assert_eq!(ours.database().unwrap().as_str(), east.name());
    assert_eq!((east.ran(SET), west.ran(SET)), (1, 0));
    // Whichever is active by then.
    east.next(Answer::ResetAfter);
    west.next(Answer::ResetAfter);
    unary(&client, GET).await.unwrap();
    let ran = east.ran(GET) + west.ran(GET);
    assert!((2..=3).contains(&ran), "{ran}");
}

#[tokio::test]
async fn a_status_is_handed_over_as_it_is() {
    let (client, east, _west) = pair().await;
    for (code, at_the_head) in [(5, true), (5, false), (14, true), (13, false)] {
        east.next(Answer::Status(code, at_the_head));
        let error = unary(&client, SET).await.unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::from_i32(code), "as ordered")
        );
    }
    assert_eq!(east.ran(SET), 4, "none of them was tried again");
    east.next(Answer::Status(14, true));
    assert!(
        unary(&client, GET).await.is_ok(),
        "harmless, and worth another try"
    );
}

#[tokio::test]
async fn a_stream_ends_where_it_began() {
    let (client, east, west) = pair().await;
    let mut grpc = tonic::client::Grpc::new(client.channel());
    let request = Request::new(Bytes::from_static(b"5"));
    let path = PathAndQuery::from_static(MANY);
    let streaming = grpc.server_streaming(request, path, Plain).await.unwrap();
    let mut streaming = streaming.into_inner();
    assert_eq!(streaming.next().await.unwrap().unwrap(), "east 0");
    let mut events = client.events();
    client.switch_to(west.name()).await.unwrap();
    assert_eq!(unary(&client, SET).await.unwrap(), "west");
    let mut rest = Vec::new();
    while let Some(message) = streaming.next().await {
        rest.push(message.unwrap());
    }
    assert_eq!(rest, ["east 1", "east 2", "east 3", "east 4"]);
    assert_eq!((east.ran(MANY), west.ran(MANY)), (1, 0));
    let drained = async {
        loop {
            if let multidb::Event::Drained { database } = events.next().await.unwrap() {
                return database;
            }
        }
    };
    let drained = tokio::time::timeout(Duration::from_secs(5), drained)
        .await
        .unwrap();
    assert_eq!(
        drained.as_str(),
        east.name(),
        "it was in use until the stream had ended"
    );
}

#[tokio::test]
async fn a_stream_of_requests_is_passed_through() {
    let (client, east, _west) = pair().await;
    let mut grpc = tonic::client::Grpc::new(client.channel());
    let slowly = stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        (n < 4).then(|| (Bytes::from(n.to_string()), n + 1))
    });
    let path = PathAndQuery::from_static(COLLECT);
    let answer = grpc
        .client_streaming(Request::new(slowly), path, Plain)
        .await
        .unwrap();
    assert_eq!(answer.into_inner(), "east 0123");
    assert_eq!(east.ran(COLLECT), 1);
}

#[tokio::test]
async fn a_callers_own_timeout_holds() {
    let (client, east, _west) = pair().await;
    east.next(Answer::Silence);
    let mut grpc = tonic::client::Grpc::new(client.channel());
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(200));
    let began = tokio::time::Instant::now();
    let asked = grpc.unary(request, PathAndQuery::from_static(SET), Plain);
    let error = asked.await.unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_says_that_nothing_ran() {
    let (client, east, west) = pair().await;
    east.kill();
    west.kill();
    let mut grpc = tonic::client::Grpc::new(client.channel());
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(500));
    request
        .metadata_mut()
        .insert("authorization", "s3cret".parse().unwrap());
    let asked = grpc.unary(request, PathAndQuery::from_static(SET), Plain);
    let error = asked.await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!(!format!("{error:?} {client:?}").contains("s3cret"));
}

#[test]
fn what_is_no_endpoint_is_refused_by_name() {
    for uri in [
        "",
        "ftp://x",
        "http://",
        "http://u:p@x",
        "http://x/path",
        "x:1",
    ] {
        let error = multidb::grpc::GrpcEndpoint::new(uri).unwrap_err();
        assert_eq!(error.field(), "uri", "{uri}: {error}");
    }
    let built = MultiDbChannel::builder()
        .endpoint("ftp://x", 1.0)
        .connect_lazy();
    let error = built.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Invalid(e) if e.field() == "databases[0].uri"),
        "{error}"
    );
}
