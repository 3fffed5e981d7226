//! A channel over many servers.

use std::fmt;
use std::sync::PoisonError;
// Held for a few instructions, never across an await.
#[allow(clippy::disallowed_types)]
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use super::backend::{Grpc, GrpcError, GrpcHandle, code, head_code, is_failing};
use super::body::{Leased, Sent, told};
use crate::engine::backend::{Class, Doubt, NotSent, Phase, Refusal, ServerState};
use crate::engine::client::MultiDbClient;
use crate::engine::database::DatabaseId;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::run::{Limits, Operation, Router, RunError};

/// Takes the place of tonic's `Channel`: a call goes to whichever server is active.
///
/// One that was certainly not run is tried again elsewhere, within the deadline; one that may have been is
/// only if its method was declared idempotent. That needs its request as a whole: a stream of requests that is
/// not ready to its end at once, or is larger than 4 MiB, is not sent again once any of it has been read.
///
/// The client's `deadline` and `response_timeout` are those for the head of the response, and so is a call's own
/// `grpc-timeout`, which holds where it is shorter. From the head on nothing is tried again: a stream of
/// responses goes on as long as it takes, on the server where it began, also when the client has moved on.
///
/// A server's status is handed over as it is. An error of ours is a [`Status`] with a [`crate::Error`] as its
/// source, which names the database and says whether a retry is safe: UNAVAILABLE if the call did not run;
/// DEADLINE_EXCEEDED, UNKNOWN or, where its request failed by itself, CANCELLED if it may have.
///
/// UNAVAILABLE, INTERNAL, UNKNOWN, DATA_LOSS and DEADLINE_EXCEEDED count as failures of the server, at the head
/// of a response or at its end, and so does a response that ends without a status.
#[derive(Clone)]
pub struct MultiDbChannel {
    router: Router<Grpc>,
}

/// A call, ready to be attempted.
struct Call {
    parts: Parts,
    #[allow(clippy::disallowed_types)]
    body: Mutex<Sent>,
    idempotent: bool,
}

/// "Not now": believed if it persists.
const BUSY: ServerState = ServerState {
    code: "UNAVAILABLE",
    at_once: false,
    elsewhere: true,
};

impl MultiDbChannel {
    pub(super) fn new(client: &MultiDbClient<Grpc>) -> Self {
        Self {
            router: client.router(),
        }
    }

    /// The client it belongs to.
    #[must_use]
    pub fn client(&self) -> &MultiDbClient<Grpc> {
        self.router.client()
    }
}

impl Service<Request<Body>> for MultiDbChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut router = self.router.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let known = &router.client().core().backend.idempotent;
            let idempotent = known.contains(parts.uri.path());
            if let Some(timeout) = timeout(&parts.headers) {
                let limits = router.limits();
                router.set_limits(Limits {
                    response_timeout: limits.response_timeout.min(timeout),
                    deadline: limits.deadline.min(timeout),
                });
            }
            let call = Call {
                body: Sent::read(body).await?.into(),
                parts,
                idempotent,
            };
            match router.begin(&call).await {
                Ok((response, lease)) => {
                    let told = code(response.headers()).is_some();
                    Ok(response.map(|body| Body::new(Leased::new(body, lease, told))))
                }
                // A status at the head is all there is; what a proxy writes below one of its own is no gRPC.
                Err(RunError::Driver(GrpcError::Answered(head))) => {
                    Ok(Response::from_parts(*head, Body::empty()))
                }
                Err(error) => Err(status(error, router.last_database())),
            }
        })
    }
}

impl fmt::Debug for MultiDbChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client().fmt(f)
    }
}

impl Call {
    #[allow(clippy::disallowed_types)]
    fn body(&self) -> MutexGuard<'_, Sent> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operation<Grpc> for Call {
    type Output = Response<Body>;
    type Error = RunError<GrpcError>;

    async fn attempt(&self, handle: &mut GrpcHandle) -> Result<Response<Body>, GrpcError> {
        let body = self.body().take();
        let mut request = Request::new(body.ok_or(GrpcError::Body)?);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = self.parts.headers.clone();
        let mut channel = handle.line.channel();
        std::future::poll_fn(|cx| channel.poll_ready(cx))
            .await
            .map_err(GrpcError::Transport)?;
        let response = channel.call(request).await.map_err(GrpcError::Transport)?;
        match head_code(response.status(), response.headers()) {
            None | Some(Code::Ok) => Ok(response),
            Some(_) => Err(GrpcError::Answered(Box::new(response.into_parts().0))),
        }
    }

    fn is_clean(&self, result: &Result<Response<Body>, GrpcError>) -> bool {
        result.is_ok()
    }

    fn is_loss(&self, error: &GrpcError) -> bool {
        error.is_loss()
    }

    fn classify(&self, phase: Phase, result: Option<&Result<Response<Body>, GrpcError>>) -> Class {
        let error = match result {
            Some(Ok(_)) => return Class::Executed,
            Some(Err(error)) => Some(error),
            None => None,
        };
        if matches!(error, Some(GrpcError::Body)) {
            return Class::NotSent(NotSent::Local);
        }
        let (unrun, spent) = (
            error.is_some_and(GrpcError::never_ran),
            self.body().is_spent(),
        );
        match phase {
            Phase::TimedOut => Class::Unknown(Doubt::TimedOut),
            _ if error.is_some_and(GrpcError::is_timeout) => Class::Unknown(Doubt::TimedOut),
            // What cannot be sent again is not tried again, though it would be safe.
            _ if unrun && spent => Class::NotSent(NotSent::Local),
            Phase::Lost { sent: false } if spent => Class::NotSent(NotSent::Local),
            _ if unrun => Class::NotExecuted(Refusal::State(BUSY)),
            Phase::Lost { sent: false } => Class::NotSent(NotSent::Lost),
            Phase::Lost { sent: true } => Class::Unknown(Doubt::Lost),
            Phase::Answered => match error.and_then(GrpcError::code) {
                None if error.is_some_and(GrpcError::is_own_doing) => {
                    Class::Unknown(Doubt::Cancelled)
                }
                // A stream that was reset.
                None => Class::Unknown(Doubt::Protocol),
                Some(Code::Unavailable) if self.idempotent && !spent => {
                    Class::NotExecuted(Refusal::State(BUSY))
                }
                Some(_) => Class::Executed,
            },
        }
    }

    fn is_failure(&self, error: &GrpcError) -> bool {
        error.code().is_some_and(is_failing)
    }

    fn is_repeatable(&self) -> bool {
        self.idempotent && !self.body().is_spent()
    }

    fn is_write(&self) -> bool {
        !self.idempotent
    }
}

/// Our word as gRPC has it. `last`: where it was attempted last.
fn status(error: RunError<GrpcError>, last: Option<&DatabaseId>) -> Status {
    let error = match error {
        RunError::Engine(error) => error,
        // What may have run is answered, or the engine's own word.
        RunError::Driver(error) => {
            let ours = Error::new(ErrorKind::NotExecuted).caused_by(error);
            match last {
                Some(last) => ours.about(last),
                None => ours,
            }
        }
    };
    let code = match error.kind() {
        ErrorKind::OutcomeUnknown(Doubt::TimedOut) => Code::DeadlineExceeded,
        ErrorKind::OutcomeUnknown(Doubt::Cancelled) => Code::Cancelled,
        ErrorKind::OutcomeUnknown(Doubt::Lost | Doubt::Protocol) => Code::Unknown,
        _ => Code::Unavailable,
    };
    told(code, error)
}

/// What the caller's own `grpc-timeout` says: digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}
