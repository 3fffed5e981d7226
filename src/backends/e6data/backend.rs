//! e6data as the engine knows it: two databases of one client, which the server may switch.

use std::collections::HashMap;
// Held for a few instructions, never across an await.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{Arc, PoisonError, Weak};

use tonic::Status;

use super::classify::verdict;
use super::endpoint::{E6dataEndpoint, StackCheck};
use super::herald::Herald;
use super::resume::Resumer;
use super::session::Sessions;
use super::stack::Stack;
use crate::backends::grpc::Line;
use crate::engine::backend::{Backend, Depth, Fault, Verdict, Wiring};
use crate::engine::database::{Database, DatabaseId};

/// The backend. Made by [`E6dataBuilder`](super::E6dataBuilder).
pub struct E6data {
    pub(super) herald: Arc<Herald>,
    pub(super) resumer: Option<Arc<Resumer>>,
    /// The sessions of each database, as long as one of its connections stands.
    #[allow(clippy::disallowed_types)]
    sessions: Mutex<HashMap<DatabaseId, Weak<Sessions>>>,
}

impl E6data {
    pub(super) fn new(resumer: Option<Arc<Resumer>>) -> Self {
        Self {
            herald: Arc::default(),
            resumer,
            sessions: Default::default(),
        }
    }

    fn sessions_of(&self, id: &DatabaseId) -> Arc<Sessions> {
        let mut all = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(id).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, sessions| sessions.strong_count() > 0);
        let made = Arc::default();
        all.insert(id.clone(), Arc::downgrade(&made));
        made
    }
}

impl Backend for E6data {
    type Endpoint = E6dataEndpoint;
    type Handle = Stack;
    type Error = Status;

    async fn connect(
        &self,
        database: &Database<E6dataEndpoint>,
        wiring: Wiring,
    ) -> Result<Stack, Fault> {
        let endpoint = database.endpoint().clone();
        Ok(Stack {
            line: Line::open(&endpoint.0.site, &wiring).await?,
            id: database.id().clone(),
            endpoint,
            sessions: self.sessions_of(database.id()),
            herald: self.herald.clone(),
        })
    }

    async fn check(&self, stack: &Stack, _: Depth) -> Verdict {
        let facts = &stack.endpoint.0;
        let asked = match facts.check {
            StackCheck::Authenticate => stack.authenticate().await.map(drop),
            StackCheck::HealthCheck => stack.health().await,
        };
        match asked {
            Ok(()) => Verdict::Healthy,
            Err(status) => {
                let verdict = verdict(&status, facts.lenient);
                if verdict == Verdict::Suspended
                    && let Some(resumer) = &self.resumer
                {
                    resumer.resume(stack);
                }
                verdict
            }
        }
    }

    fn abort(&self, stack: &Stack) {
        stack.line.abort();
    }

    fn close(&self) {
        if let Some(resumer) = &self.resumer {
            resumer.stop();
        }
    }
}
