//! Bodies: one that may be sent again, and one that keeps its connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::stream;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::StreamBody;
use hyper::body::Bytes;
use tonic::Status;
use tonic::body::Body;

use super::backend::{Grpc, code, is_failing};
use crate::engine::client::Lease;

/// So much of a body is kept to be sent again.
const KEPT: usize = 4 << 20;

/// The body of a request.
pub(super) enum Sent {
    /// All of it: it can be sent again.
    Whole(Vec<Part>),
    /// It was not ready to its end, or is too large to be kept.
    Once(Option<Body>),
}

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
        Ok(Self::Once(Some(Body::new(Resumed {
            parts: parts.into_iter(),
            rest: body,
        }))))
    }

    /// What to send; `None`: it has been sent, and cannot be again.
    pub(super) fn take(&mut self) -> Option<Body> {
        match self {
            Self::Whole(parts) => {
                let frames = parts
                    .clone()
                    .into_iter()
                    .map(|part| Ok::<_, Status>(part.into()));
                Some(Body::new(StreamBody::new(stream::iter(frames))))
            }
            Self::Once(body) => body.take(),
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

/// The body of a response: as long as it is read, its connection is in use. The status at its end is evidence
/// like one at its head.
pub(super) struct Leased {
    body: Body,
    lease: Option<Lease<Grpc>>,
}

impl Leased {
    pub(super) fn new(body: Body, lease: Lease<Grpc>) -> Self {
        Self {
            body,
            lease: Some(lease),
        }
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
        let status = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().and_then(code),
            // The connection's end is told by the connection.
            Some(Err(_)) | None => None,
        };
        if let (Some(lease), true) = (&self.lease, status.is_some_and(is_failing)) {
            lease.blame();
        }
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            self.lease = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
