//! One rpc as an operation of the engine.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tonic::Status;

use super::backend::E6data;
use super::classify::{Kind, Said, class, said};
use super::stack::Stack;
use super::wire::{Answer, Method};
use crate::backends::grpc::is_loss;
use crate::engine::backend::{Class, Phase, Refusal};
use crate::engine::run::{Operation, RunError};

/// One rpc with a session: its own one, where it belongs to a query, or else the stack's.
pub(super) struct Rpc<'a, Q, R> {
    pub(super) method: Method,
    pub(super) kind: Kind,
    /// The message, given the session.
    pub(super) message: &'a (dyn Fn(String) -> Q + Send + Sync),
    pub(super) pinned: Option<Pinned<'a>>,
    pub(super) within: Duration,
    pub(super) lenient: bool,
    pub(super) answer: PhantomData<fn() -> R>,
}

/// What a query that has begun says with every rpc.
#[derive(Clone, Copy)]
pub(super) struct Pinned<'a> {
    pub(super) session: &'a Arc<str>,
    pub(super) planner: &'a str,
    pub(super) generation: u64,
}

/// An answer, and the session to go on with.
pub(super) struct Answered<R> {
    pub(super) answer: R,
    pub(super) session: Arc<str>,
}

impl<Q, R> Rpc<'_, Q, R> {
    fn executes(&self) -> bool {
        matches!(
            self.method,
            Method::ExecuteStatement | Method::ExecuteStatementV2
        )
    }
}

impl<Q, R> Operation<E6data> for Rpc<'_, Q, R>
where
    Q: Message + 'static,
    R: Answer,
{
    type Output = Answered<R>;
    type Error = RunError<Status>;

    async fn attempt(&self, stack: &mut Stack) -> Result<Answered<R>, Status> {
        let pinned = self.pinned;
        let generation = pinned.map_or_else(|| stack.herald.generation(), |p| p.generation);
        let planner = pinned.map(|p| p.planner);
        let mut session = match pinned {
            Some(pinned) => pinned.session.clone(),
            None => stack.session(None).await?,
        };
        let mut renewed = false;
        loop {
            let message = (self.message)(session.to_string());
            let asked = stack.call::<Q, R>(self.method, message, planner, self.within);
            match asked.await {
                Ok(answer) => {
                    let session = stack.note(&answer, &session, generation);
                    return Ok(Answered { answer, session });
                }
                Err(status) if said(&status, self.lenient) == Said::Denied => {
                    stack.sessions.expire(&session);
                    // A statement that is refused to run may run under another session as another query
                    // only. The rest is asked again, once: the second refusal is of us, not of the session.
                    if self.executes() || renewed {
                        return Err(status);
                    }
                    session = stack.session(Some(&session)).await?;
                    renewed = true;
                }
                Err(status) => return Err(status),
            }
        }
    }

    fn is_clean(&self, result: &Result<Answered<R>, Status>) -> bool {
        result.is_ok()
    }

    fn is_loss(&self, status: &Status) -> bool {
        is_loss(status)
    }

    fn classify(&self, phase: Phase, result: Option<&Result<Answered<R>, Status>>) -> Class {
        let status = result.and_then(|result| result.as_ref().err());
        match class(phase, status, self.kind, self.lenient) {
            // Renewed already, where that helps.
            Class::SessionInvalid if !self.executes() => Class::NotExecuted(Refusal::Denied),
            class => class,
        }
    }

    fn is_failure(&self, status: &Status) -> bool {
        said(status, self.lenient) == Said::Failed
    }

    fn is_repeatable(&self) -> bool {
        self.kind == Kind::Free
    }

    fn is_write(&self) -> bool {
        false
    }
}
