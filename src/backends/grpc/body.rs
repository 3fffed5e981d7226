//! Bodies: one that may be sent again, and one that keeps its connection.

use std::future::poll_fn;
use std::pin::Pin;
// Held for a few instructions, never across an await.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::stream;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::StreamBody;
use hyper::body::Bytes;
use tonic::body::Body;
use tonic::{Code, Status};

use super::backend::{Grpc, code, is_failing};
use super::line::{is_loss, is_own_doing};
use crate::engine::backend::Doubt;
use crate::engine::client::Lease;
use crate::engine::error::{Error, ErrorKind};

/// So much of a body is kept to be sent again.
const KEPT: usize = 4 << 20;

/// The body of a request.
pub(super) enum Sent {
    /// All of it: it can be sent again.
    Whole(Vec<Part>),
    /// It was not ready to its end, or is too large to be kept. It can be handed over again until somebody
    /// has begun to read it.
    Once(Slot),
}

/// Where a body waits until it is read.
#[allow(clippy::disallowed_types)]
type Slot = Arc<Mutex<Option<Body>>>;

/// A piece of a body.
#[derive(Clone)]
pub(super) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Sent {
    /// Reads as far as there is something to read. The body of a unary call ends there; that of a stream makes
    /// us wait, and it is not known for how long.
    pub(super) async fn read(mut body: Body) -> Result<Self, Status> {
        let (mut parts, mut size) = (Vec::new(), 0);
        let whole = poll_fn(|cx| {
            loop {
                match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        size += frame.data_ref().map_or(0, Bytes::len);
                        parts.push(Part::of(frame));
                        if size > KEPT {
                            return Poll::Ready(Ok(false));
                        }
                    }
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(status)),
                    Poll::Ready(None) => return Poll::Ready(Ok(true)),
                    Poll::Pending => return Poll::Ready(Ok(false)),
                }
            }
        });
        if whole.await? {
            return Ok(Self::Whole(parts));
        }
        Ok(Self::Once(slot(Body::new(Resumed {
            parts: parts.into_iter(),
            rest: body,
        }))))
    }

    /// Whether it cannot be sent any more.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Once(slot) => held(slot).is_none(),
        }
    }

    /// What to send; `None`: it is spent. What was handed over before and has not been read is void then, so
    /// that an attempt that was given up cannot take it from the next one.
    pub(super) fn take(&mut self) -> Option<Body> {
        match self {
            Self::Whole(parts) => {
                let frames = parts
                    .clone()
                    .into_iter()
                    .map(|part| Ok::<_, Status>(part.into()));
                Some(Body::new(StreamBody::new(stream::iter(frames))))
            }
            Self::Once(at) => {
                let body = held(at).take()?;
                *at = slot(body);
                Some(Body::new(Lent {
                    slot: at.clone(),
                    body: None,
                }))
            }
        }
    }
}

#[allow(clippy::disallowed_types)]
fn slot(body: Body) -> Slot {
    Arc::new(Mutex::new(Some(body)))
}

#[allow(clippy::disallowed_types)]
fn held(slot: &Slot) -> std::sync::MutexGuard<'_, Option<Body>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body that leaves its slot when it is first read.
struct Lent {
    slot: Slot,
    body: Option<Body>,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.body.is_none() {
            let body = held(&self.slot).take();
            self.body = body;
        }
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            // Never an end: the server would take it for the whole of the request.
            None => Poll::Ready(Some(Err(Status::cancelled("sent elsewhere")))),
        }
    }
}

impl Part {
    fn of(frame: Frame<Bytes>) -> Self {
        match frame.into_data() {
            Ok(data) => Self::Data(data),
            Err(frame) => Self::Trailers(frame.into_trailers().unwrap_or_default()),
        }
    }
}

impl From<Part> for Frame<Bytes> {
    fn from(part: Part) -> Self {
        match part {
            Part::Data(data) => Self::data(data),
            Part::Trailers(trailers) => Self::trailers(trailers),
        }
    }
}

/// What was read ahead, and then the rest.
struct Resumed {
    parts: std::vec::IntoIter<Part>,
    rest: Body,
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.parts.next() {
            Some(part) => Poll::Ready(Some(Ok(part.into()))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}

/// The body of a response: as long as it is read, its connection is in use. How it ends is evidence like the
/// head.
pub(super) struct Leased {
    body: Body,
    lease: Option<Lease<Grpc>>,
    /// The status came with the head: none is to come.
    told: bool,
}

impl Leased {
    pub(super) fn new(body: Body, lease: Lease<Grpc>, told: bool) -> Self {
        Self {
            body,
            lease: Some(lease),
            told,
        }
    }

    /// It has ended in `status`, or without one.
    fn end(&mut self, status: Option<Code>) {
        let failed = status.map_or(!self.told, is_failing);
        if let (Some(lease), true) = (self.lease.take(), failed) {
            lease.blame();
        }
    }

    /// It was cut off.
    fn fail(&mut self, status: Status) -> Status {
        let Some(lease) = self.lease.take() else {
            return status;
        };
        let (lost, ours) = (is_loss(&status), is_own_doing(&status));
        // The connection's end is told by the connection, once for all that was on it.
        if !lost && !ours {
            lease.blame();
        }
        let (code, doubt) = match lost {
            true => (Code::Unknown, Doubt::Lost),
            false if ours => (Code::Cancelled, Doubt::Cancelled),
            false => (Code::Unknown, Doubt::Protocol),
        };
        let error = Error::new(ErrorKind::OutcomeUnknown(doubt));
        let error = error.on(lease.database(), lease.generation());
        told(code, error.after(1).caused_by(status))
    }
}

impl http_body::Body for Leased {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.end(code(trailers));
                }
                Some(Ok(frame))
            }
            Some(Err(status)) => Some(Err(self.fail(status))),
            None => {
                self.end(None);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Our word as gRPC has it.
pub(super) fn told(code: Code, error: Error) -> Status {
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error));
    status
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};
    use http_body_util::BodyExt;

    use super::*;

    /// Two messages, then nothing yet.
    fn stream_of_requests() -> Body {
        let frames = stream::iter(["a", "b"]).map(|text| Ok::<_, Status>(Frame::data(text.into())));
        Body::new(StreamBody::new(frames.chain(stream::pending())))
    }

    fn next(body: &mut Body) -> Option<Result<Bytes, Status>> {
        let frame = body.frame().now_or_never()??;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test]
    async fn a_stream_moves_on_until_it_is_read() {
        let mut sent = Sent::read(stream_of_requests()).await.unwrap();
        let mut first = sent.take().unwrap();
        assert!(!sent.is_spent());
        let mut second = sent.take().unwrap();
        assert!(next(&mut first).unwrap().is_err(), "it was given up");
        assert_eq!(next(&mut second).unwrap().unwrap(), "a");
        assert_eq!(next(&mut second).unwrap().unwrap(), "b");
        assert!(next(&mut second).is_none());
        assert!(sent.is_spent() && sent.take().is_none());
    }

    #[tokio::test]
    async fn what_is_whole_and_small_is_kept() {
        let whole = |size| Body::new(http_body_util::Full::new(Bytes::from(vec![0; size])));
        for (size, kept) in [(0, true), (KEPT, true), (KEPT + 1, false)] {
            let mut sent = Sent::read(whole(size)).await.unwrap();
            let body = sent.take().unwrap().collect().await.unwrap();
            assert_eq!(body.to_bytes().len(), size);
            assert_eq!(sent.is_spent(), !kept, "{size}");
        }
    }
}
