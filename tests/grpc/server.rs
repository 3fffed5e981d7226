//! A server of four methods and the health protocol, which answers as it is told.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, PoisonError};
// Held for a few instructions.
#[allow(clippy::disallowed_types)]
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What happens to the next call instead of success.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// This status, at the head of the response or at its end.
    Status(i32, bool),
    /// This status of HTTP and no other, as by a proxy.
    Http(u16),
    /// It runs, and then its connection is reset.
    ResetAfter,
    /// Its stream is refused: it does not run.
    Refused,
    /// It runs, and its stream is reset before a head, or after a head and a message.
    Reset(bool),
    /// It runs, and its response ends without a status.
    NoStatus,
    /// Nothing.
    Silence,
}

pub(crate) struct Server {
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    called: &'static str,
    stop: CancellationToken,
    reset: tokio::sync::watch::Sender<u64>,
    #[allow(clippy::disallowed_types)]
    stage: Mutex<Stage>,
}

#[derive(Default)]
struct Stage {
    next: VecDeque<Answer>,
    ran: HashMap<String, u64>,
    headers: HeaderMap,
    /// What it says of its health, by the protocol's number, if it says anything.
    health: Option<u8>,
    /// The last request for it.
    asked: Bytes,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Failure>;

impl Server {
    #[allow(clippy::disallowed_types)]
    pub(crate) async fn start(called: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            called,
            stop: CancellationToken::new(),
            reset: tokio::sync::watch::Sender::new(0),
            stage: Mutex::new(Stage {
                health: Some(1),
                ..Stage::default()
            }),
        });
        let serving = shared.clone();
        tokio::spawn(async move {
            let accepting = async {
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = serving.clone();
                    tokio::spawn(async move {
                        let (stop, mut reset) = (shared.stop.clone(), shared.reset.subscribe());
                        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                        let service = service_fn(|request| answer(shared.clone(), request));
                        let connection = http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service);
                        let mut connection = pin!(connection);
                        tokio::select! {
                            _ = connection.as_mut() => {}
                            () = stop.cancelled() => {}
                            _ = reset.changed() => {}
                        }
                    });
                }
            };
            serving.stop.run_until_cancelled(accepting).await;
        });
        Self { name, shared }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.name)
    }

    pub(crate) fn kill(&self) {
        self.shared.stop.cancel();
    }

    pub(crate) fn next(&self, answer: Answer) {
        self.shared.stage().next.push_back(answer);
    }

    /// By the protocol's number; `None`: it does not have the protocol.
    pub(crate) fn health(&self, health: Option<u8>) {
        self.shared.stage().health = health;
    }

    pub(crate) fn asked(&self) -> Bytes {
        self.shared.stage().asked.clone()
    }

    pub(crate) fn ran(&self, path: &str) -> u64 {
        self.shared.stage().ran.get(path).copied().unwrap_or(0)
    }

    pub(crate) fn last_header(&self, name: &str) -> Option<String> {
        let value = self
            .shared
            .stage()
            .headers
            .get(name)?
            .to_str()
            .ok()?
            .to_owned();
        Some(value)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    #[allow(clippy::disallowed_types)]
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let called = shared.called;
    if path.starts_with("/grpc.health") {
        let asked = body.collect().await?.to_bytes();
        let mut stage = shared.stage();
        stage.asked = asked.slice(5.min(asked.len())..);
        return Ok(match stage.health {
            Some(status) => ended(vec![framed(&[8, status])], 0),
            None => ended(Vec::new(), 12),
        });
    }
    let messages = messages(&body.collect().await?.to_bytes());
    let next = {
        let mut stage = shared.stage();
        if matches!(stage.next.front(), Some(Answer::Refused)) {
            stage.next.pop_front();
            return Err(reset(h2::Reason::REFUSED_STREAM));
        }
        *stage.ran.entry(path.clone()).or_default() += 1;
        stage.headers = parts.headers;
        stage.next.pop_front()
    };
    match next {
        Some(Answer::Silence) => std::future::pending().await,
        Some(Answer::ResetAfter) => {
            shared.reset.send_modify(|epoch| *epoch += 1);
            std::future::pending().await
        }
        Some(Answer::Status(code, false)) => return Ok(ended(Vec::new(), code)),
        Some(Answer::Status(code, true)) => {
            let mut response = response(stream::empty().boxed());
            response.headers_mut().extend(trailers(code));
            return Ok(response);
        }
        Some(Answer::Http(status)) => {
            let page = Frame::data(Bytes::from_static(b"<html>no server</html>"));
            let mut response = Response::new(streamed(stream::iter([Ok(page)]).boxed()));
            *response.status_mut() = status.try_into()?;
            return Ok(response);
        }
        Some(Answer::Reset(false)) => return Err(reset(h2::Reason::INTERNAL_ERROR)),
        Some(Answer::Reset(true)) => {
            let begun = Ok(Frame::data(framed(called.as_bytes())));
            // A reset takes back what has not left yet: the head has, by then.
            let end = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Err(reset(h2::Reason::INTERNAL_ERROR))
            };
            let body = stream::iter([begun]).chain(stream::once(end));
            return Ok(Response::new(streamed(body.boxed())));
        }
        Some(Answer::NoStatus) => {
            return Ok(response(
                stream::iter([Frame::data(framed(called.as_bytes()))]).boxed(),
            ));
        }
        Some(Answer::Refused) | None => {}
    }
    let mut response = match path.as_str() {
        "/test.Store/Many" => {
            let messages = stream::iter(0..5).then(move |n| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Frame::data(framed(format!("{called} {n}").as_bytes()))
            });
            let end = stream::once(async { Frame::trailers(trailers(0)) });
            response(messages.chain(end).boxed())
        }
        "/test.Store/Collect" => {
            let all = String::from_utf8(messages.concat()).unwrap();
            ended(vec![framed(format!("{called} {all}").as_bytes())], 0)
        }
        _ => ended(vec![framed(called.as_bytes())], 0),
    };
    let called = HeaderValue::from_static(called);
    response.headers_mut().insert("served-by", called);
    Ok(response)
}

fn ended(messages: Vec<Bytes>, code: i32) -> Response<Body> {
    let mut frames: Vec<_> = messages.into_iter().map(Frame::data).collect();
    frames.push(Frame::trailers(trailers(code)));
    response(stream::iter(frames).boxed())
}

fn response(frames: stream::BoxStream<'static, Frame<Bytes>>) -> Response<Body> {
    let mut response = Response::new(streamed(frames.map(Ok).boxed()));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

fn streamed(frames: stream::BoxStream<'static, Result<Frame<Bytes>, Failure>>) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn reset(reason: h2::Reason) -> Failure {
    h2::Error::from(reason).into()
}

fn trailers(code: i32) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    if code != 0 {
        trailers.insert("grpc-message", HeaderValue::from_static("as ordered"));
    }
    trailers
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

fn messages(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        messages.push(rest[..length].to_vec());
        body = &rest[length..];
    }
    messages
}
