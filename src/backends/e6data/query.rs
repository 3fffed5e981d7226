//! A query: begun on whichever stack serves, and ended there.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, sleep};

use super::backend::E6data;
use super::classify::Kind;
use super::client::Shared;
use super::decode::{self, Batch, Column, Metadata, Row};
use super::error::{E6dataError, E6dataErrorKind, Ended, Executed, QueryPhase};
use super::rpc::{Answered, Pinned, Rpc};
use super::stack::Stack;
use super::wire::{
    Answer, ClearResponse, ExecuteStatementRequest, ExecuteStatementResponse,
    ExplainAnalyzeResponse, ExplainResponse, GetNextResultBatchResponse,
    GetNextResultBatchV2Response, GetResultMetadataResponse, Method, PrepareStatementRequest,
    PrepareStatementResponse, PrepareStatementV2Request, QueryRequest, StatusResponse,
};
use crate::engine::backend::{Class, NotSent, Purpose, Refusal, Wiring};
use crate::engine::client::Lease;
use crate::engine::database::DatabaseId;
use crate::engine::live::connect;
use crate::engine::run::Limits;

/// A query that has run. It stays on the stack that it began on, whoever serves meanwhile.
///
/// Rows are fetched as they are asked for. Dropped, it is cleared on its stack in the background, within
/// `cleanup_timeout`; until then its stack is in use, also when it has been read to the end.
pub struct Query {
    open: Open,
    metadata: Metadata,
    /// Batches that came with the last answer and have not been asked for yet.
    ahead: VecDeque<Vec<u8>>,
    /// The batch whose rows are asked for one by one, and the next of them. Not the rows: a batch of one value
    /// may have any number of them.
    current: Option<(Batch, usize)>,
    ended: bool,
    /// An answer is under way. Found so, it was not waited for, and its rows are lost.
    fetching: bool,
    v2: bool,
}

/// What is known of a query that was prepared, and what is needed to go on with it.
struct Open {
    /// `None` once it has been cleared.
    pinned: Option<Box<Held>>,
    /// When it must have begun; `None` once it has.
    until: Option<Instant>,
    shared: Arc<Shared>,
}

pub(super) struct Held {
    lease: Lease<E6data>,
    /// The connection it goes on over, once that of the lease has ended.
    next: Option<Stack>,
    session: Arc<str>,
    planner: String,
    query: String,
}

/// What a query is planned like, and what it took; what the server says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Analysis {
    /// The plan with its figures, as text.
    pub plan: String,
    /// Whether the result came from a cache.
    pub is_cached: bool,
    /// How long it was parsed.
    pub parsing: Duration,
    /// How long it waited.
    pub queueing: Duration,
}

/// How far a query has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// It is done.
    pub is_done: bool,
    /// Rows so far.
    pub rows: i64,
}

/// A statement, and where it is meant.
pub(super) struct Statement<'a> {
    pub(super) sql: &'a str,
    pub(super) catalog: &'a str,
    pub(super) schema: &'a str,
}

impl Query {
    /// Prepares and executes a statement on the stack that serves, and on the other one if that turns out
    /// not to: as long as it has certainly not run.
    pub(super) async fn run(
        shared: &Arc<Shared>,
        statement: &Statement<'_>,
    ) -> Result<Self, E6dataError> {
        let deadline = Instant::now() + shared.settings.operation_timeout;
        let mut tries = 0;
        let mut open = loop {
            tries += 1;
            let mut open = Open::prepare(shared, statement, deadline).await?;
            let ended = match open.execute(statement).await {
                Ok(()) => break open,
                Err(ended) => ended,
            };
            // A stack that stands by says so without anybody's fault; the next one is asked at once.
            let again = matches!(
                ended.class,
                Class::NotServing(_)
                    | Class::SessionInvalid
                    | Class::NotSent(_)
                    | Class::NotExecuted(Refusal::State(_))
            );
            if !again || tries >= shared.settings.attempts || Instant::now() >= deadline {
                return Err(open.lose(ended, QueryPhase::Execute));
            }
            if tries > 2 {
                sleep(shared.settings.backoff * (tries - 2)).await;
            }
            match ended.class {
                // Asked to clear it, that stack would refuse that, too.
                Class::NotServing(_) => open.pinned = None,
                _ => open.discard(),
            }
        };
        let metadata = open.metadata().await?;
        open.until = None;
        Ok(Self {
            v2: shared.settings.batches_v2,
            open,
            metadata,
            ahead: VecDeque::new(),
            current: None,
            ended: false,
            fetching: false,
        })
    }

    /// The server's name for it.
    #[must_use]
    pub fn id(&self) -> &str {
        self.open.pinned.as_ref().map_or("", |held| &held.query)
    }

    /// The stack that it runs on; `None` once it has been cleared.
    #[must_use]
    pub fn origin(&self) -> Option<&DatabaseId> {
        Some(self.open.pinned.as_ref()?.lease.database())
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.metadata.columns
    }

    /// How many rows the server says there are.
    #[must_use]
    pub fn row_count(&self) -> i64 {
        self.metadata.rows
    }

    /// The next rows, as many as the server gives at once; `None` at the end, also after it.
    ///
    /// Not cancel-safe: an answer that nobody waits for any more is lost with its rows, and the query with
    /// it, as the next call says.
    ///
    /// # Errors
    /// [`E6dataErrorKind::QueryLost`], [`E6dataErrorKind::Decode`], [`E6dataErrorKind::Refused`]. The query
    /// cannot go on after one: rows may have been skipped.
    pub async fn next_batch(&mut self) -> Result<Option<Batch>, E6dataError> {
        loop {
            if let Some(bytes) = self.ahead.pop_front() {
                let decoded = self.open.decode(&bytes, &self.metadata);
                if let Ok(Some(batch)) = decoded {
                    return Ok(Some(batch));
                }
                self.ended = true;
                self.ahead.clear();
                decoded?;
            }
            if self.ended {
                return Ok(None);
            }
            if std::mem::replace(&mut self.fetching, true) {
                self.ended = true;
                return Err(self.open.interrupted());
            }
            let fetched = if self.v2 {
                self.fetch_v2().await
            } else {
                self.fetch().await
            };
            match fetched {
                Ok(ended) => self.ended = ended,
                Err(error) => {
                    self.ended = true;
                    self.open.discard();
                    return Err(error);
                }
            }
            self.fetching = false;
        }
    }

    /// Takes what comes next; whether it was the end.
    async fn fetch(&mut self) -> Result<bool, E6dataError> {
        let fetched = self
            .open
            .ask::<GetNextResultBatchResponse>(Method::GetNextResultBatch, Kind::Once);
        let answer = fetched
            .await
            .map_err(|ended| self.open.lose(ended, QueryPhase::Fetch))?;
        if answer.result_batch.is_empty() {
            return Ok(true);
        }
        self.ahead.push_back(answer.result_batch);
        Ok(false)
    }

    async fn fetch_v2(&mut self) -> Result<bool, E6dataError> {
        let fetched = self
            .open
            .ask::<GetNextResultBatchV2Response>(Method::GetNextResultBatchV2, Kind::Once);
        match fetched.await {
            Ok(answer) => {
                // Nothing at all is an end, too: else it would be asked for without one.
                let ended = answer.end_of_stream || answer.result_batches.is_empty();
                self.ahead.extend(answer.result_batches);
                Ok(ended)
            }
            // An older engine.
            Err(ended) if ended.is_unimplemented() => {
                self.v2 = false;
                self.fetch().await
            }
            Err(ended) => Err(self.open.lose(ended, QueryPhase::Fetch)),
        }
    }

    /// The next row; `None` at the end. As cancel-safe as [`Query::next_batch`].
    ///
    /// # Errors
    /// As [`Query::next_batch`].
    pub async fn fetch_one(&mut self) -> Result<Option<Row>, E6dataError> {
        loop {
            if let Some((batch, next)) = &mut self.current
                && let Some(row) = batch.row(*next)
            {
                *next += 1;
                return Ok(Some(row));
            }
            self.current = None;
            match self.next_batch().await? {
                Some(batch) => self.current = Some((batch, 0)),
                None => return Ok(None),
            }
        }
    }

    /// The next `count` rows, or as many as are left.
    ///
    /// # Errors
    /// As [`Query::next_batch`].
    pub async fn fetch_many(&mut self, count: usize) -> Result<Vec<Row>, E6dataError> {
        let mut rows = Vec::new();
        while rows.len() < count
            && let Some(row) = self.fetch_one().await?
        {
            rows.push(row);
        }
        Ok(rows)
    }

    /// All rows that are left.
    ///
    /// # Errors
    /// As [`Query::next_batch`].
    pub async fn fetch_all(&mut self) -> Result<Vec<Row>, E6dataError> {
        let mut rows = Vec::new();
        while let Some(row) = self.fetch_one().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// The rows that are left, as a stream.
    pub fn into_rows(self) -> impl futures_util::Stream<Item = Result<Row, E6dataError>> + Send {
        futures_util::stream::try_unfold(self, |mut query| async move {
            let row = query.fetch_one().await?;
            Ok(row.map(|row| (row, query)))
        })
    }

    /// How far it has come.
    ///
    /// # Errors
    /// [`E6dataErrorKind::QueryLost`], [`E6dataErrorKind::Refused`], [`E6dataErrorKind::NoQuery`].
    pub async fn progress(&mut self) -> Result<Progress, E6dataError> {
        let answer: StatusResponse = self.open.inspect(Method::Status).await?;
        Ok(Progress {
            is_done: answer.status,
            rows: answer.row_count,
        })
    }

    /// What it was planned like.
    ///
    /// # Errors
    /// As [`Query::progress`].
    pub async fn explain(&mut self) -> Result<String, E6dataError> {
        let answer: ExplainResponse = self.open.inspect(Method::Explain).await?;
        Ok(answer.explain)
    }

    /// What it was planned like, and what that took.
    ///
    /// # Errors
    /// As [`Query::progress`].
    pub async fn explain_analyze(&mut self) -> Result<Analysis, E6dataError> {
        let answer: ExplainAnalyzeResponse = self.open.inspect(Method::ExplainAnalyze).await?;
        let millis = |n: i64| Duration::from_millis(u64::try_from(n).unwrap_or(0));
        Ok(Analysis {
            plan: answer.explain_analyze,
            is_cached: answer.is_cached,
            parsing: millis(answer.parsing_time),
            queueing: millis(answer.queueing_time),
        })
    }

    /// Lets go of it at the server, and waits for that. A query that has ended has nothing to let go of.
    ///
    /// # Errors
    /// What the server or the connection says; the query is forgotten here whatever it is.
    pub async fn clear(mut self) -> Result<(), E6dataError> {
        self.open.end(Method::ClearOrCancelQuery).await
    }

    /// Stops it at the server, and waits for that.
    ///
    /// # Errors
    /// As [`Query::clear`].
    pub async fn cancel(mut self) -> Result<(), E6dataError> {
        self.open.end(Method::CancelQuery).await
    }
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query")
            .field("id", &self.id())
            .field("origin", &self.origin())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

// === impl Open ===

impl Open {
    async fn prepare(
        shared: &Arc<Shared>,
        statement: &Statement<'_>,
        deadline: Instant,
    ) -> Result<Self, E6dataError> {
        let text = || statement.sql.to_owned();
        let (schema, catalog) = (statement.schema, statement.catalog);
        let begun = if catalog.is_empty() {
            let message = move |session_id| PrepareStatementRequest {
                session_id,
                schema: schema.to_owned(),
                query_string: text(),
                quoting: String::new(),
            };
            let method = Method::PrepareStatement;
            shared
                .begin::<_, PrepareStatementResponse>(method, &message, deadline)
                .await
        } else {
            let message = move |session_id| PrepareStatementV2Request {
                session_id,
                schema: schema.to_owned(),
                catalog: catalog.to_owned(),
                query_string: text(),
                quoting: String::new(),
            };
            let method = Method::PrepareStatementV2;
            shared
                .begin::<_, PrepareStatementResponse>(method, &message, deadline)
                .await
        };
        let (Answered { answer, session }, lease) = begun?;
        Ok(Self {
            pinned: Some(Box::new(Held {
                lease,
                next: None,
                session,
                planner: answer.engine_ip,
                query: answer.query_id,
            })),
            until: Some(deadline),
            shared: shared.clone(),
        })
    }

    async fn execute(&mut self, statement: &Statement<'_>) -> Result<(), Ended> {
        let message = |request: QueryRequest| ExecuteStatementRequest {
            engine_ip: request.engine_ip,
            session_id: request.session_id,
            query_id: request.query_id,
            should_not_cache: false,
        };
        let method = match statement.catalog.is_empty() {
            true => Method::ExecuteStatement,
            false => Method::ExecuteStatementV2,
        };
        let executed = self.call::<_, ExecuteStatementResponse>(method, Kind::Once, &message);
        executed.await.map(drop)
    }

    async fn metadata(&mut self) -> Result<Metadata, E6dataError> {
        let asked = self.ask::<GetResultMetadataResponse>(Method::GetResultMetadata, Kind::Free);
        let answer = asked
            .await
            .map_err(|ended| self.lose(ended, QueryPhase::Metadata))?;
        let decoded = decode::metadata(&answer.result_meta_data);
        decoded.map_err(|error| {
            self.discard();
            error.into()
        })
    }

    fn decode(&mut self, bytes: &[u8], metadata: &Metadata) -> Result<Option<Batch>, E6dataError> {
        decode::batch(bytes, metadata).map_err(|error| {
            self.discard();
            error.into()
        })
    }

    async fn inspect<R: Answer>(&mut self, method: Method) -> Result<R, E6dataError> {
        if self.pinned.is_none() {
            return Err(E6dataError::new(E6dataErrorKind::NoQuery));
        }
        let asked = self.ask(method, Kind::Free).await;
        asked.map_err(|ended| self.told(ended, QueryPhase::Inspect))
    }

    /// Asks something that takes nothing but the query.
    async fn ask<R: Answer>(&mut self, method: Method, kind: Kind) -> Result<R, Ended> {
        self.call(method, kind, &|request| request).await
    }

    /// One rpc of this query, on its own stack.
    async fn call<Q, R>(
        &mut self,
        method: Method,
        kind: Kind,
        message: &(dyn Fn(QueryRequest) -> Q + Send + Sync),
    ) -> Result<R, Ended>
    where
        Q: Message + 'static,
        R: Answer,
    {
        let settings = &self.shared.settings;
        let Some(held) = &mut self.pinned else {
            return Err(Ended::gone());
        };
        let limit = match self.until {
            Some(until) => until.saturating_duration_since(Instant::now()),
            None => settings.operation_timeout,
        };
        let answered = held
            .call(method, kind, message, limit, settings.lenient)
            .await?;
        held.session = answered.session;
        Ok(answered.answer)
    }

    /// The query is lost or cannot go on: forgets it, and makes the error of it.
    fn lose(&mut self, ended: Ended, phase: QueryPhase) -> E6dataError {
        let error = self.told(ended, phase);
        self.discard();
        error
    }

    /// Rows were under way that nobody waited for.
    fn interrupted(&mut self) -> E6dataError {
        let kind = match &self.pinned {
            Some(held) => E6dataErrorKind::QueryLost {
                query: held.query.clone(),
                origin: held.lease.database().clone(),
                phase: QueryPhase::Fetch,
                executed: Executed::Yes,
            },
            None => E6dataErrorKind::NoQuery,
        };
        self.discard();
        E6dataError::new(kind)
    }

    fn told(&self, ended: Ended, phase: QueryPhase) -> E6dataError {
        match &self.pinned {
            Some(held) => {
                let lenient = self.shared.settings.lenient;
                ended.tell(&held.query, held.lease.database(), phase, lenient)
            }
            None => E6dataError::new(E6dataErrorKind::NoQuery),
        }
    }

    async fn end(&mut self, method: Method) -> Result<(), E6dataError> {
        let Some(mut held) = self.pinned.take() else {
            return Ok(());
        };
        let settings = &self.shared.settings;
        let ended = held
            .end(method, settings.cleanup_timeout, settings.lenient)
            .await;
        ended.map_err(|ended| {
            let origin = held.lease.database();
            ended.tell(&held.query, origin, QueryPhase::Inspect, settings.lenient)
        })
    }

    /// Clears it at the server in the background; nobody waits for that.
    fn discard(&mut self) {
        if let Some(held) = self.pinned.take() {
            self.shared.clear_later(held);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.discard();
    }
}

impl Held {
    /// One rpc on this stack. A query is known to its stack and not to a connection: what was certainly not
    /// sent over one that has ended is sent over another one, once.
    async fn call<Q, R>(
        &mut self,
        method: Method,
        kind: Kind,
        message: &(dyn Fn(QueryRequest) -> Q + Send + Sync),
        limit: Duration,
        lenient: bool,
    ) -> Result<Answered<R>, Ended>
    where
        Q: Message + 'static,
        R: Answer,
    {
        let began = Instant::now();
        let stack = self.stack(limit).await;
        let ended = match self
            .call_over(stack, method, kind, message, limit, lenient)
            .await
        {
            Ok(answered) => return Ok(answered),
            Err(ended) => ended,
        };
        let left = limit.saturating_sub(began.elapsed());
        let unsent = matches!(
            ended.class,
            Class::NotSent(NotSent::Connect | NotSent::Lost)
        );
        if !unsent || left.is_zero() {
            return Err(ended);
        }
        let stack = self.stack(left).await;
        if stack.line.is_over() {
            return Err(ended);
        }
        self.call_over(stack, method, kind, message, left, lenient)
            .await
    }

    /// A connection to the stack: that of the lease, or the one that has taken its place, or one of its own.
    async fn stack(&mut self, limit: Duration) -> Stack {
        let stands = |stack: &&Stack| !stack.line.is_over();
        let known = self.next.as_ref().unwrap_or(self.lease.handle());
        if let Some(stack) = Some(known).filter(stands) {
            return stack.clone();
        }
        let core = self.lease.core();
        let routing = core.current();
        let active = routing.live.as_ref().map(|live| &live.conn);
        let ours = active.filter(|conn| conn.id == *self.lease.database());
        let found = match ours.map(|conn| &conn.handle).filter(stands) {
            Some(stack) => Some(stack.clone()),
            None => {
                let database = &self.lease.live().conn.database;
                let wiring = Wiring::new(Purpose::Lane, limit);
                let limit = limit.min(core.config.calls.connect_timeout);
                let connecting = connect(&core.backend, database, &wiring, Instant::now() + limit);
                let stopped = core.stop.run_until_cancelled(connecting).await;
                stopped.and_then(Result::ok)
            }
        };
        match found {
            Some(stack) => self.next.insert(stack).clone(),
            None => self.lease.handle().clone(),
        }
    }

    async fn call_over<Q, R>(
        &self,
        stack: Stack,
        method: Method,
        kind: Kind,
        message: &(dyn Fn(QueryRequest) -> Q + Send + Sync),
        limit: Duration,
        lenient: bool,
    ) -> Result<Answered<R>, Ended>
    where
        Q: Message + 'static,
        R: Answer,
    {
        let with_session = |session_id| {
            message(QueryRequest {
                engine_ip: self.planner.clone(),
                session_id,
                query_id: self.query.clone(),
            })
        };
        let rpc: Rpc<'_, Q, R> = Rpc {
            method,
            kind,
            message: &with_session,
            pinned: Some(Pinned {
                session: &self.session,
                planner: &self.planner,
                generation: self.lease.generation(),
            }),
            within: limit,
            lenient,
            answer: PhantomData,
        };
        let limits = Limits {
            response_timeout: limit,
            deadline: limit,
        };
        let ran = match self.next {
            None => self.lease.run(&rpc, limits).await,
            Some(_) => self.lease.run_over(stack, &rpc, limits).await,
        };
        ran.map_err(|error| Ended::new(error, kind, lenient))
    }

    pub(super) async fn end(
        &mut self,
        method: Method,
        limit: Duration,
        lenient: bool,
    ) -> Result<(), Ended> {
        let whole = |request| request;
        let ended = self.call::<_, ClearResponse>(method, Kind::Free, &whole, limit, lenient);
        ended.await.map(drop)
    }
}
