//! gRPC on the server's side: one message there, one back.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::{Mishap, Shared};
use crate::backends::e6data::Colour;

/// An rpc, as the stacks see it.
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) colour: Option<Colour>,
    pub(super) planner: Option<String>,
    pub(super) bearer: bool,
    pub(super) message: Bytes,
}

/// What a stack answers: a message, or a status and its text.
pub(super) type Reply = Result<Vec<u8>, (u8, String)>;

type Body = BoxBody<Bytes, Infallible>;

/// Serves one connection until it ends or is ended.
pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    // Dropped, it is reset.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    match tls {
        None => speak(shared, stream).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                speak(shared, stream).await;
            }
        }
    }
}

async fn speak(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (mut leave, mut reset) = (shared.leave.subscribe(), shared.reset.subscribe());
    let service = service_fn(|request| answer(shared.clone(), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut left = false;
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = reset.changed() => return,
            changed = leave.changed(), if !left => {
                left = true;
                if changed.is_ok() {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let header = |name: &str| {
        let value = request.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let mut asked = Asked {
        method: request.uri().path().to_owned(),
        colour: header("strategy").and_then(|name| Colour::named(&name)),
        planner: header("plannerip"),
        bearer: header("authorization").is_some_and(|value| value.starts_with("Bearer ")),
        message: Bytes::new(),
    };
    let Ok(body) = request.into_body().collect().await else {
        return Ok(refused(13, "the request was cut off"));
    };
    let body = body.to_bytes();
    match body.split_at_checked(5) {
        Some((head, _)) if head[0] == 0 => asked.message = body.slice(5..),
        _ => return Ok(refused(13, "no message")),
    }
    let delay = shared.delay();
    if !delay.is_zero() {
        sleep(delay).await;
    }
    let mishap = shared.stage().mishap(&asked.method);
    Ok(match mishap {
        None => reply(shared.stage().answer(&asked, None)),
        Some(Mishap::Names(name)) => reply(shared.stage().answer(&asked, Some(name))),
        Some(Mishap::Status(code, text)) => refused(code, &text),
        Some(Mishap::Late(code, text)) => {
            let _ = shared.stage().answer(&asked, None);
            refused(code, &text)
        }
        Some(Mishap::Silence) => pending().await,
        Some(Mishap::Reset) => {
            shared.reset.send_modify(|epoch| *epoch += 1);
            pending().await
        }
        Some(Mishap::LateReset) => {
            let _ = shared.stage().answer(&asked, None);
            shared.reset.send_modify(|epoch| *epoch += 1);
            pending().await
        }
        Some(Mishap::Garbage(bytes)) => reply(Ok(bytes)),
        Some(Mishap::Slow(time)) => {
            sleep(time).await;
            reply(shared.stage().answer(&asked, None))
        }
    })
}

fn reply(reply: Reply) -> Response<Body> {
    let message = match reply {
        Ok(message) => message,
        Err((code, text)) => return refused(code, &text),
    };
    let mut framed = vec![0];
    framed.extend(
        u32::try_from(message.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    framed.extend(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(Bytes::from(framed)), Frame::trailers(trailers)];
    response(frames)
}

fn refused(code: u8, text: &str) -> Response<Body> {
    let mut response = response([]);
    let headers = response.headers_mut();
    headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    // Percent-encoded, which a plain text is as it stands.
    let plain: String = text
        .chars()
        .filter(|c| matches!(c, ' '..='~') && *c != '%')
        .collect();
    if let Ok(text) = HeaderValue::from_str(&plain) {
        headers.insert("grpc-message", text);
    }
    response
}

fn response<const N: usize>(frames: [Frame<Bytes>; N]) -> Response<Body> {
    let frames = stream::iter(frames.map(Ok));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
