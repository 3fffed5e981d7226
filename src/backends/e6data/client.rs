//! The client, its connections, and what they share.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backend::E6data;
use super::builder::E6dataBuilder;
use super::classify::Kind;
use super::cursor::Cursor;
use super::error::{E6dataError, E6dataErrorKind};
use super::parameter::{Parameter, bind};
use super::query::{Held, Query, Statement};
use super::resume::ResumeState;
use super::rpc::{Answered, Rpc};
use super::wire::{
    Answer, DryRunRequest, DryRunResponse, GetColumnsResponse, GetColumnsV2Request,
    GetSchemaNamesResponse, GetSchemaNamesV2Request, GetTablesResponse, GetTablesV2Request, Method,
};
use crate::engine::backend::{FaultKind, Verdict};
use crate::engine::client::{Lease, MultiDbClient};
use crate::engine::error::{Error, ErrorKind};
use crate::engine::run::{Limits, RunError};
use crate::engine::snapshot::Snapshot;

/// A client of an e6data cluster. Cheap to clone; dropping the last clone, connections and queries
/// included, ends everything it runs.
#[derive(Clone)]
pub struct E6dataClient {
    pub(super) shared: Arc<Shared>,
}

/// Where queries are begun: a catalog and a schema of it. Cheap; any number of queries at a time.
#[derive(Clone)]
pub struct E6dataConnection {
    shared: Arc<Shared>,
    catalog: Arc<str>,
    database: Arc<str>,
}

/// What is the same for all queries of a client.
pub(super) struct Shared {
    pub(super) client: MultiDbClient<E6data>,
    pub(super) settings: Settings,
    /// Where the client lives: queries may be dropped on any thread.
    runtime: OnceLock<Handle>,
    /// Queries that are being cleared in the background.
    clearing: Arc<AtomicUsize>,
}

pub(super) struct Settings {
    pub(super) catalog: Arc<str>,
    pub(super) database: Arc<str>,
    pub(super) operation_timeout: Duration,
    pub(super) cleanup_timeout: Duration,
    /// How often a statement may be handed over that was refused each time.
    pub(super) attempts: u32,
    pub(super) backoff: Duration,
    pub(super) batches_v2: bool,
    pub(super) lenient: bool,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its type, as the server calls it.
    pub kind: String,
}

/// So many queries may be cleared in the background at the same time; more are left to the server's own
/// clean-up.
const CLEARING: usize = 256;

// === impl E6dataClient ===

impl E6dataClient {
    /// A builder with the defaults.
    pub fn builder() -> E6dataBuilder {
        E6dataBuilder::new()
    }

    pub(super) fn new(client: MultiDbClient<E6data>, settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared {
                client,
                settings,
                runtime: OnceLock::new(),
                clearing: Arc::default(),
            }),
        }
    }

    /// A connection to the catalog and schema of the builder. No I/O.
    #[must_use]
    pub fn connection(&self) -> E6dataConnection {
        let settings = &self.shared.settings;
        E6dataConnection {
            shared: self.shared.clone(),
            catalog: settings.catalog.clone(),
            database: settings.database.clone(),
        }
    }

    /// The engine's client: events, snapshots, and an operator's verbs.
    #[must_use]
    pub fn engine(&self) -> &MultiDbClient<E6data> {
        &self.shared.client
    }

    /// How far a suspended cluster has been resumed; `None` where that is left to others.
    #[must_use]
    pub fn resume_progress(&self) -> Option<watch::Receiver<ResumeState>> {
        let resumer = self.shared.client.core().backend.resumer.as_ref()?;
        Some(resumer.progress())
    }

    /// Ends everything and waits for it. Idempotent, for all clones.
    pub async fn close(&self) {
        self.shared.client.close().await;
    }
}

impl fmt::Debug for E6dataClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.client.fmt(f)
    }
}

// === impl E6dataConnection ===

impl E6dataConnection {
    /// The same with another catalog; empty: none.
    #[must_use]
    pub fn with_catalog(mut self, catalog: impl AsRef<str>) -> Self {
        self.catalog = catalog.as_ref().into();
        self
    }

    /// The same with another schema; empty: none.
    #[must_use]
    pub fn with_database(mut self, database: impl AsRef<str>) -> Self {
        self.database = database.as_ref().into();
        self
    }

    /// A cursor, for code that is written for one: it executes one query after the other.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.clone())
    }

    /// Runs a statement, and returns once its rows can be read.
    ///
    /// Within `operation_timeout`. It runs once at most: a stack that refuses to run it costs another round
    /// trip, an unknown outcome is told as such. Cancel-safe in that the query is cleared at the server;
    /// whether it ran is not known then.
    ///
    /// # Errors
    /// Any kind of [`E6dataErrorKind`] but `NoQuery`.
    pub async fn query(&self, statement: &str) -> Result<Query, E6dataError> {
        self.query_with(statement, &[]).await
    }

    /// As [`E6dataConnection::query`], with a value for every `?` of the statement.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub async fn query_with(
        &self,
        statement: &str,
        parameters: &[Parameter],
    ) -> Result<Query, E6dataError> {
        let sql = bind(statement, parameters)?;
        let statement = Statement {
            sql: &sql,
            catalog: &self.catalog,
            schema: &self.database,
        };
        Query::run(&self.shared, &statement).await
    }

    /// What the server makes of a statement without running it.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`], but for lost queries.
    pub async fn dry_run(&self, statement: &str) -> Result<String, E6dataError> {
        let query_string = bind(statement, &[])?;
        let (schema, catalog) = (self.database.to_string(), self.catalog.to_string());
        let method = match catalog.is_empty() {
            true => Method::DryRun,
            false => Method::DryRunV2,
        };
        let message = move |session_id| DryRunRequest {
            engine_ip: String::new(),
            session_id,
            schema: schema.clone(),
            query_string: query_string.clone(),
            catalog: catalog.clone(),
        };
        let answer: DryRunResponse = self.shared.ask(method, &message).await?;
        Ok(answer.dryrun_value)
    }

    /// The schemas of the catalog.
    ///
    /// # Errors
    /// As [`E6dataConnection::dry_run`].
    pub async fn schemas(&self) -> Result<Vec<String>, E6dataError> {
        let catalog = self.catalog.to_string();
        let message = move |session_id| GetSchemaNamesV2Request {
            session_id,
            catalog: catalog.clone(),
        };
        let asked = self.shared.ask(Method::GetSchemaNamesV2, &message);
        let answer: GetSchemaNamesResponse = asked.await?;
        Ok(answer.schemas)
    }

    /// The tables of a schema.
    ///
    /// # Errors
    /// As [`E6dataConnection::dry_run`].
    pub async fn tables(&self, schema: &str) -> Result<Vec<String>, E6dataError> {
        let (schema, catalog) = (schema.to_owned(), self.catalog.to_string());
        let message = move |session_id| GetTablesV2Request {
            session_id,
            schema: schema.clone(),
            catalog: catalog.clone(),
        };
        let answer: GetTablesResponse = self.shared.ask(Method::GetTablesV2, &message).await?;
        Ok(answer.tables)
    }

    /// The columns of a table.
    ///
    /// # Errors
    /// As [`E6dataConnection::dry_run`].
    pub async fn columns(
        &self,
        schema: &str,
        table: &str,
    ) -> Result<Vec<TableColumn>, E6dataError> {
        let (schema, table) = (schema.to_owned(), table.to_owned());
        let catalog = self.catalog.to_string();
        let message = move |session_id| GetColumnsV2Request {
            session_id,
            schema: schema.clone(),
            table: table.clone(),
            catalog: catalog.clone(),
        };
        let answer: GetColumnsResponse = self.shared.ask(Method::GetColumnsV2, &message).await?;
        let columns = answer.field_info.into_iter().map(|field| TableColumn {
            name: field.field_name,
            kind: field.field_type,
        });
        Ok(columns.collect())
    }
}

impl fmt::Debug for E6dataConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("E6dataConnection")
            .field("catalog", &self.catalog)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// An rpc that belongs to no query, on whichever stack serves.
    async fn ask<Q, R>(
        &self,
        method: Method,
        message: &(dyn Fn(String) -> Q + Send + Sync),
    ) -> Result<R, E6dataError>
    where
        Q: Message + 'static,
        R: Answer,
    {
        let deadline = Instant::now() + self.settings.operation_timeout;
        let (answered, _) = self.begin(method, message, deadline).await?;
        Ok(answered.answer)
    }

    /// An rpc by which a query begins, on whichever stack serves; pins that.
    pub(super) async fn begin<Q, R>(
        &self,
        method: Method,
        message: &(dyn Fn(String) -> Q + Send + Sync),
        deadline: Instant,
    ) -> Result<(Answered<R>, Lease<E6data>), E6dataError>
    where
        Q: Message + 'static,
        R: Answer,
    {
        self.runtime.get_or_init(Handle::current);
        let left = deadline.saturating_duration_since(Instant::now());
        let rpc: Rpc<'_, Q, R> = Rpc {
            method,
            kind: Kind::Free,
            message,
            pinned: None,
            within: left,
            lenient: self.settings.lenient,
            answer: PhantomData,
        };
        let mut router = self.client.router();
        router.set_limits(Limits {
            response_timeout: left,
            deadline: left,
        });
        let begun = router.begin(&rpc).await;
        begun.map_err(|error| self.told(error))
    }

    fn told(&self, error: RunError<tonic::Status>) -> E6dataError {
        if let RunError::Engine(engine) = &error
            && matches!(
                engine.kind(),
                ErrorKind::Unavailable | ErrorKind::NoHealthyDatabase
            )
            && let Some(kind) = nobody_serves(&self.client.snapshot())
        {
            return E6dataError::new(kind);
        }
        E6dataError::of_call(error)
    }

    /// Clears a query that nobody wants any more.
    pub(super) fn clear_later(&self, mut held: Box<Held>) {
        let Some(runtime) = self.runtime.get() else {
            return;
        };
        if self.clearing.fetch_add(1, Ordering::AcqRel) >= CLEARING {
            self.clearing.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let (limit, lenient) = (self.settings.cleanup_timeout, self.settings.lenient);
        let (clearing, client) = (self.clearing.clone(), self.client.clone());
        runtime.spawn(async move {
            // Whatever comes of it, the lease ends with it.
            let _ = held.end(Method::ClearOrCancelQuery, limit, lenient).await;
            clearing.fetch_sub(1, Ordering::AcqRel);
            // Until now: with the last of the client its connections end.
            drop(client);
        });
    }
}

/// Why nobody serves, if that is by what the stacks say of themselves.
pub(super) fn nobody_serves(snapshot: &Snapshot) -> Option<E6dataErrorKind> {
    let says = |verdict: Verdict| {
        let mut members = snapshot.members.iter();
        members.any(|member| member.verdict.as_ref() == Some(&verdict))
    };
    let only = |verdicts: &[Verdict]| {
        let mut members = snapshot.members.iter();
        members.all(|m| {
            m.verdict
                .as_ref()
                .is_some_and(|verdict| verdicts.contains(verdict))
        })
    };
    match only(&[Verdict::Standby, Verdict::Suspended]) {
        true if says(Verdict::Suspended) => Some(E6dataErrorKind::Suspended),
        true => Some(E6dataErrorKind::NoServingStack),
        false => None,
    }
}

/// The client did not come to serve.
pub(super) fn not_started(client: &MultiDbClient<E6data>, error: Error) -> E6dataError {
    let snapshot = client.snapshot();
    if let Some(kind) = nobody_serves(&snapshot) {
        return E6dataError::new(kind);
    }
    let faults = snapshot
        .members
        .iter()
        .find_map(|member| match &member.verdict {
            Some(Verdict::Unhealthy(fault)) => Some((member.id.clone(), fault.clone())),
            _ => None,
        });
    match faults {
        Some((id, fault)) => {
            let kind = match fault.kind {
                FaultKind::Denied => E6dataErrorKind::Denied,
                _ => E6dataErrorKind::Engine(error.kind().clone()),
            };
            E6dataError::new(kind).on(&id).caused_by(fault)
        }
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::herald::Herald;
    use super::super::resume::Resumer;
    use super::super::session::Sessions;
    use super::*;

    /// The documents promise less than 10 KB that a client's queries share for the sake of the stacks, and less
    /// than 1 KB for each connection. Nothing of it grows with the queries.
    #[test]
    fn what_is_known_of_the_stacks_weighs_little() {
        let stacks = size_of::<Herald>() + 2 * size_of::<Sessions>() + size_of::<Resumer>();
        let shared = stacks + size_of::<Shared>();
        assert!(shared < 2 * 1024, "{shared}");
        assert!(size_of::<E6dataConnection>() <= 40);
        assert!(size_of::<Lease<E6data>>() <= 16);
        assert!(size_of::<Query>() + size_of::<Held>() < 1024);
    }
}
