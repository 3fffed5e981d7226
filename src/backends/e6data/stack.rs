//! A connection to one stack: its rpcs, with the headers and the session that belong to it.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::classify::{Said, said};
use super::endpoint::{Credentials, E6dataEndpoint};
use super::herald::Herald;
use super::session::Sessions;
use super::wire::{
    Answer, AuthenticateRequest, AuthenticateResponse, ClusterRequest, ClusterResponse, Empty,
    Method,
};
use crate::backends::grpc::Line;
use crate::engine::database::DatabaseId;

/// A connection to one stack. Clones share it.
#[derive(Clone)]
pub struct Stack {
    pub(super) line: Line,
    pub(super) id: DatabaseId,
    pub(super) endpoint: E6dataEndpoint,
    pub(super) sessions: Arc<Sessions>,
    pub(super) herald: Arc<Herald>,
}

impl Stack {
    /// One rpc, with the headers of this stack.
    ///
    /// The server is told how long we wait; that it takes no longer is for the caller to see to.
    pub(super) async fn call<Q, R>(
        &self,
        method: Method,
        message: Q,
        planner: Option<&str>,
        within: Duration,
    ) -> Result<R, Status>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let facts = &self.endpoint.0;
        let mut request = Request::new(message);
        request.set_timeout(within);
        let headers = request.metadata_mut();
        if let Some(planner) = planner.filter(|planner| !planner.is_empty()) {
            let planner: MetadataValue<Ascii> = planner
                .parse()
                .map_err(|_| Status::data_loss("the engine's address is malformed"))?;
            headers.insert("plannerip", planner);
        }
        if let Some(name) = &facts.cluster_name {
            headers.insert("cluster-name", name.clone());
        }
        if let Some(colour) = facts.colour {
            headers.insert("strategy", MetadataValue::from_static(colour.as_str()));
        }
        if let Credentials::Bearer(token) = &*facts.credentials {
            headers.insert("authorization", token.clone());
        }
        let mut grpc = Grpc::new(self.line.channel())
            .max_decoding_message_size(facts.max_receive)
            .max_encoding_message_size(facts.max_send);
        let lost = |error: tonic::transport::Error| Status::from_error(Box::new(error));
        grpc.ready().await.map_err(lost)?;
        let codec = ProstCodec::<Q, R>::default();
        let path = http::uri::PathAndQuery::from_static(method.path());
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }

    /// The session to begin with, `bad` excepted: one that is there, or a new one.
    pub(super) async fn session(&self, bad: Option<&str>) -> Result<Arc<str>, Status> {
        if let Credentials::Bearer(_) = *self.endpoint.0.credentials {
            return Ok("".into());
        }
        if let Some(session) = self.sessions.current(bad) {
            return Ok(session);
        }
        let _turn = self.sessions.renewing.lock().await;
        match self.sessions.current(bad) {
            Some(session) => Ok(session),
            None => self.authenticate().await,
        }
    }

    /// Asks for a new session, for whoever begins from now on.
    pub(super) async fn authenticate(&self) -> Result<Arc<str>, Status> {
        let Credentials::Password { user, password } = &*self.endpoint.0.credentials else {
            return Ok("".into());
        };
        let generation = self.herald.generation();
        let request = AuthenticateRequest {
            user: user.clone(),
            password: password.clone(),
        };
        let patience = self.endpoint.0.patience;
        let asked = self.call(Method::Authenticate, request, None, patience);
        let answer: AuthenticateResponse = timeout(patience, asked)
            .await
            .map_err(|_| Status::deadline_exceeded("no session in time"))?
            .map_err(|status| self.of_authentication(status))?;
        self.herald.hear(&self.id, answer.announced(), generation);
        match answer.session_id.is_empty() {
            true => Err(Status::data_loss("authenticated without a session")),
            false => Ok(self.sessions.set(&answer.session_id)),
        }
    }

    /// Whom the server does not know by his password it does not know by a new session either.
    fn of_authentication(&self, status: Status) -> Status {
        match said(&status, self.endpoint.0.lenient) {
            Said::Denied => Status::unauthenticated("credentials refused"),
            _ => status,
        }
    }

    /// Whether the server answers; one without this rpc does.
    pub(super) async fn health(&self) -> Result<(), Status> {
        let patience = self.endpoint.0.patience;
        let asked = self.call::<_, Empty>(Method::HealthCheck, Empty {}, None, patience);
        match asked.await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => Err(status),
        }
    }

    /// A word with the service that suspends and resumes clusters: the state it says the cluster is in.
    pub(super) async fn cluster(&self, method: Method) -> Result<String, Status> {
        let (user, password) = match &*self.endpoint.0.credentials {
            Credentials::Password { user, password } => (user.clone(), password.clone()),
            Credentials::Bearer(_) => (String::new(), String::new()),
        };
        let request = ClusterRequest { user, password };
        let patience = self.endpoint.0.patience;
        let asked = self.call::<_, ClusterResponse>(method, request, None, patience);
        let answer = timeout(patience, asked).await;
        let late = |_| Status::deadline_exceeded("the cluster service is silent");
        Ok(answer.map_err(late)??.status)
    }

    /// Reads what an answer says beside its content: the session to go on with, and who serves.
    pub(super) fn note<R: Answer>(
        &self,
        answer: &R,
        session: &Arc<str>,
        generation: u64,
    ) -> Arc<str> {
        self.herald.hear(&self.id, answer.announced(), generation);
        match *self.endpoint.0.credentials {
            Credentials::Bearer(_) => session.clone(),
            Credentials::Password { .. } => self.sessions.adopt(session, answer.next_session()),
        }
    }
}
