//! How calls end other than well: what is made of it, and what the caller is told.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use multidb::grpc::GrpcError;
use multidb::{Error, ErrorKind, Event, Reason};
use tonic::{Code, Request, Status};

use super::server::{Answer, Server};
use super::{COLLECT, GET, MANY, Plain, SET, over, pair, unary, until_active};

/// Ours inside of it, which names this server.
fn ours<'a>(status: &'a Status, server: &Server) -> &'a Error {
    let source = std::error::Error::source(status).unwrap_or_else(|| panic!("{status:?}"));
    let ours: &Error = source.downcast_ref().unwrap();
    assert_eq!(ours.database().unwrap().as_str(), server.name());
    assert!(status.message().contains(server.name()), "{status:?}");
    ours
}

#[tokio::test]
async fn a_server_that_keeps_failing_is_left() {
    for answer in [
        Answer::Status(13, true),
        Answer::Status(13, false),
        Answer::Status(14, true),
        Answer::Http(503),
        Answer::Reset(false),
        Answer::Reset(true),
        Answer::NoStatus,
    ] {
        let (client, east, west) = pair().await;
        let mut events = client.events();
        for _ in 0..60 {
            east.next(answer);
        }
        for _ in 0..60 {
            let _ = unary(&client, SET).await;
        }
        until_active(&client, &west).await;
        let told = loop {
            if let Event::ActiveChanged { reason, .. } = events.next().await.unwrap() {
                break reason;
            }
        };
        assert_eq!(told, Reason::FailureDetector, "{answer:?}");
    }
}

#[tokio::test]
async fn a_busy_server_costs_harmless_calls_nothing() {
    let (client, east, west) = pair().await;
    for _ in 0..60 {
        east.next(Answer::Status(14, true));
    }
    for _ in 0..10 {
        unary(&client, GET).await.unwrap();
    }
    until_active(&client, &west).await;
}

#[tokio::test]
async fn a_server_that_refuses_what_it_is_asked_stays() {
    for answer in [Answer::Status(5, true), Answer::Http(404)] {
        let (client, east, _west) = pair().await;
        for _ in 0..60 {
            east.next(answer);
            unary(&client, SET).await.unwrap_err();
        }
        assert_eq!(unary(&client, SET).await.unwrap(), "east", "{answer:?}");
    }
}

#[tokio::test]
async fn a_stream_that_the_server_refused_runs_after_all_and_once() {
    let (client, east, west) = pair().await;
    east.next(Answer::Refused);
    unary(&client, SET).await.unwrap();
    assert_eq!(east.ran(SET) + west.ran(SET), 1);
}

#[tokio::test]
async fn what_a_proxy_says_is_handed_over_as_grpc_has_it() {
    let (client, east, west) = pair().await;
    for (status, code) in [
        (503, Code::Unavailable),
        (404, Code::Unimplemented),
        (401, Code::Unauthenticated),
        (500, Code::Unknown),
    ] {
        east.next(Answer::Http(status));
        assert_eq!(unary(&client, SET).await.unwrap_err().code(), code);
    }
    assert_eq!((east.ran(SET), west.ran(SET)), (4, 0));
    east.next(Answer::Http(503));
    unary(&client, GET).await.unwrap();
}

#[tokio::test]
async fn a_call_that_was_reset_may_have_run() {
    let (client, east, west) = pair().await;
    east.next(Answer::Reset(false));
    let error = unary(&client, SET).await.unwrap_err();
    assert!(!ours(&error, &east).is_retry_safe(), "{error:?}");
    assert_eq!((east.ran(SET), west.ran(SET)), (1, 0));
}

#[tokio::test]
async fn a_response_that_is_reset_says_whose_it_was() {
    let (client, east, west) = pair().await;
    east.next(Answer::Reset(true));
    let mut grpc = tonic::client::Grpc::new(client.channel());
    let path = PathAndQuery::from_static(GET);
    let streaming = grpc.server_streaming(Request::new(Bytes::new()), path, Plain);
    let mut streaming = streaming.await.unwrap().into_inner();
    assert_eq!(streaming.next().await.unwrap().unwrap(), "east");
    let error = streaming.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unknown, "{error:?}");
    assert!(!ours(&error, &east).is_retry_safe());
    assert_eq!((east.ran(GET), west.ran(GET)), (1, 0), "it had begun");
}

#[tokio::test]
async fn a_stream_that_loses_its_server_says_whose_it_was() {
    let (client, east, west) = pair().await;
    let mut grpc = tonic::client::Grpc::new(client.channel());
    let request = Request::new(Bytes::from_static(b"5"));
    let path = PathAndQuery::from_static(MANY);
    let streaming = grpc.server_streaming(request, path, Plain).await.unwrap();
    let mut streaming = streaming.into_inner();
    assert_eq!(streaming.next().await.unwrap().unwrap(), "east 0");
    east.kill();
    let error = loop {
        match streaming.next().await.unwrap() {
            Ok(_) => continue,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::Unknown, "{error:?}");
    let ours = ours(&error, &east);
    assert!(matches!(ours.kind(), ErrorKind::OutcomeUnknown(_)));
    assert_eq!(west.ran(MANY), 0);
}

#[tokio::test]
async fn a_stream_of_requests_that_was_begun_is_not_sent_again() {
    for answer in [
        Answer::ResetAfter,
        Answer::Status(14, true),
        Answer::Refused,
    ] {
        let (east, west) = (Server::start("east").await, Server::start("west").await);
        let client = over(&east, &west).idempotent_methods([COLLECT]);
        let client = client.connect().await.unwrap();
        until_active(&client, &east).await;
        east.next(answer);
        let mut grpc = tonic::client::Grpc::new(client.channel());
        let slowly = stream::unfold(0, |n| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            (n < 4).then(|| (Bytes::from(n.to_string()), n + 1))
        });
        let path = PathAndQuery::from_static(COLLECT);
        let asked = grpc.client_streaming(Request::new(slowly), path, Plain);
        let error = asked.await.unwrap_err();
        let refused = matches!(answer, Answer::Refused);
        match answer {
            Answer::Status(..) => assert_eq!(error.message(), "as ordered"),
            _ => assert_eq!(ours(&error, &east).is_retry_safe(), refused, "{error:?}"),
        }
        let ran = east.ran(COLLECT) + west.ran(COLLECT);
        assert_eq!(ran, u64::from(!refused), "{answer:?}");
    }
}

/// The second message is too large for the client's own codec.
#[tokio::test]
async fn a_request_that_fails_by_itself_is_not_the_servers_fault() {
    let (client, east, _west) = pair().await;
    for _ in 0..30 {
        let mut grpc = tonic::client::Grpc::new(client.channel()).max_encoding_message_size(8);
        let messages = stream::unfold(1, |size| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((Bytes::from(vec![b'x'; size]), size * 16))
        });
        let path = PathAndQuery::from_static(COLLECT);
        let asked = grpc.client_streaming(Request::new(messages), path, Plain);
        let error = asked.await.unwrap_err();
        assert_eq!(error.code(), Code::Cancelled, "{error:?}");
        assert!(!ours(&error, &east).is_retry_safe());
    }
    assert_eq!(unary(&client, SET).await.unwrap(), "east");
}

#[tokio::test]
async fn harmless_calls_under_way_outlive_their_server() {
    let (client, east, west) = pair().await;
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { unary(&client, GET).await })
        })
        .collect();
    let until_some_ran = async {
        while east.ran(GET) < 10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), until_some_ran)
        .await
        .unwrap();
    east.kill();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(east.ran(GET) + west.ran(GET) >= 100);
}

#[tokio::test]
async fn what_did_not_run_says_so_and_where() {
    let (client, east, west) = pair().await;
    for _ in 0..1_000 {
        east.next(Answer::Refused);
        west.next(Answer::Refused);
    }
    let mut grpc = tonic::client::Grpc::new(client.channel());
    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(300));
    let asked = grpc.unary(request, PathAndQuery::from_static(SET), Plain);
    let error = asked.await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    let source = std::error::Error::source(&error).unwrap();
    let ours: &Error = source.downcast_ref().unwrap();
    assert!(ours.is_retry_safe() && ours.database().is_some(), "{ours}");
    assert_eq!(east.ran(SET) + west.ran(SET), 0);
}

/// Servers put tokens into headers, too.
#[test]
fn the_head_of_a_response_is_not_shown() {
    let head = http::Response::builder()
        .header("grpc-status", "16")
        .header("set-cookie", "s3cret")
        .body(())
        .unwrap();
    let error = GrpcError::Answered(Box::new(head.into_parts().0));
    let shown = format!("{error:?} {error}");
    assert!(
        shown.contains("Unauthenticated") && !shown.contains("s3cret"),
        "{shown}"
    );
}
