//! The messages of e6data's services, as they are on the wire (numbering of 2.3.10 and later).
//!
//! Written out by hand: there are few, and nobody needs a compiler of schemas to build this crate. The
//! package is empty, so a path is `/QueryEngineService/<method>`. Fields that nobody here reads are left out,
//! which a decoder skips.

#![allow(
    missing_docs,
    unnameable_types,
    reason = "facts of a protocol, each named after its field"
)]

use prost::Message;

/// A response of a query engine: with the session to go on with, and who serves.
pub(crate) trait Answer: Message + Default + Send + Sync + 'static {
    /// The session to go on with; empty: the one that was sent.
    fn next_session(&self) -> &str {
        ""
    }

    /// The colour that serves, if the server says so.
    fn announced(&self) -> Option<&str> {
        None
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$at:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Message)]
            pub(crate) struct $name {
                $($(#[$at])* pub(crate) $field: $type,)*
            }
        )*
    };
}

macro_rules! answers {
    ($($name:ident $(with $session:ident)? $(and $strategy:ident)?,)*) => {
        $(
            impl Answer for $name {
                $(fn next_session(&self) -> &str {
                    &self.$session
                })?
                $(fn announced(&self) -> Option<&str> {
                    self.$strategy.as_deref()
                })?
            }
        )*
    };
}

messages! {
    AuthenticateRequest {
        #[prost(string, tag = "1")] user: String,
        #[prost(string, tag = "2")] password: String,
    }
    AuthenticateResponse {
        #[prost(string, tag = "1")] session_id: String,
        #[prost(string, optional, tag = "2")] new_strategy: Option<String>,
    }
    PrepareStatementRequest {
        #[prost(string, tag = "1")] session_id: String,
        #[prost(string, tag = "2")] schema: String,
        #[prost(string, tag = "3")] query_string: String,
        #[prost(string, tag = "4")] quoting: String,
    }
    PrepareStatementV2Request {
        #[prost(string, tag = "1")] session_id: String,
        #[prost(string, tag = "2")] schema: String,
        #[prost(string, tag = "3")] catalog: String,
        #[prost(string, tag = "4")] query_string: String,
        #[prost(string, tag = "5")] quoting: String,
    }
    PrepareStatementResponse {
        #[prost(string, tag = "1")] engine_ip: String,
        #[prost(string, tag = "2")] query_id: String,
        #[prost(string, tag = "3")] session_id: String,
        #[prost(string, optional, tag = "4")] new_strategy: Option<String>,
    }
    /// Of both versions; the second could carry parameters.
    ExecuteStatementRequest {
        #[prost(string, tag = "1")] engine_ip: String,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, tag = "3")] query_id: String,
        #[prost(bool, tag = "4")] should_not_cache: bool,
    }
    ExecuteStatementResponse {
        #[prost(string, tag = "1")] session_id: String,
        #[prost(string, optional, tag = "2")] new_strategy: Option<String>,
    }
    /// What every request about a query that has been prepared begins with.
    QueryRequest {
        #[prost(string, tag = "1")] engine_ip: String,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, tag = "3")] query_id: String,
    }
    GetResultMetadataResponse {
        #[prost(bytes = "vec", tag = "1")] result_meta_data: Vec<u8>,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, optional, tag = "3")] new_strategy: Option<String>,
    }
    GetNextResultBatchResponse {
        #[prost(bytes = "vec", tag = "2")] result_batch: Vec<u8>,
        #[prost(string, tag = "3")] session_id: String,
        #[prost(string, optional, tag = "4")] new_strategy: Option<String>,
    }
    GetNextResultBatchV2Response {
        #[prost(bytes = "vec", repeated, tag = "1")] result_batches: Vec<Vec<u8>>,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, optional, tag = "3")] new_strategy: Option<String>,
        #[prost(bool, tag = "4")] end_of_stream: bool,
    }
    /// Of clear, cancelQuery and clearOrCancelQuery.
    ClearResponse {
        #[prost(string, tag = "1")] session_id: String,
        #[prost(string, optional, tag = "2")] new_strategy: Option<String>,
    }
    StatusResponse {
        #[prost(bool, tag = "2")] status: bool,
        #[prost(sint64, tag = "3")] row_count: i64,
        #[prost(string, tag = "4")] session_id: String,
        #[prost(string, optional, tag = "5")] new_strategy: Option<String>,
    }
    ExplainResponse {
        #[prost(string, tag = "1")] explain: String,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, optional, tag = "3")] new_strategy: Option<String>,
    }
    ExplainAnalyzeResponse {
        #[prost(string, tag = "1")] explain_analyze: String,
        #[prost(bool, tag = "2")] is_cached: bool,
        #[prost(sint64, tag = "3")] parsing_time: i64,
        #[prost(sint64, tag = "4")] queueing_time: i64,
        #[prost(string, tag = "5")] session_id: String,
        #[prost(string, optional, tag = "6")] new_strategy: Option<String>,
    }
    GetSchemaNamesV2Request {
        #[prost(string, tag = "1")] session_id: String,
        #[prost(string, tag = "2")] catalog: String,
    }
    GetSchemaNamesResponse {
        #[prost(string, repeated, tag = "1")] schemas: Vec<String>,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, optional, tag = "3")] new_strategy: Option<String>,
    }
    GetTablesV2Request {
        #[prost(string, tag = "1")] session_id: String,
        #[prost(string, tag = "2")] schema: String,
        #[prost(string, tag = "3")] catalog: String,
    }
    GetTablesResponse {
        #[prost(string, repeated, tag = "1")] tables: Vec<String>,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, optional, tag = "3")] new_strategy: Option<String>,
    }
    GetColumnsV2Request {
        #[prost(string, tag = "1")] session_id: String,
        #[prost(string, tag = "2")] schema: String,
        #[prost(string, tag = "3")] table: String,
        #[prost(string, tag = "4")] catalog: String,
    }
    FieldInfo {
        #[prost(string, tag = "1")] field_name: String,
        #[prost(string, tag = "2")] field_type: String,
    }
    GetColumnsResponse {
        #[prost(message, repeated, tag = "1")] field_info: Vec<FieldInfo>,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, optional, tag = "3")] new_strategy: Option<String>,
    }
    DryRunRequest {
        #[prost(string, tag = "1")] engine_ip: String,
        #[prost(string, tag = "2")] session_id: String,
        #[prost(string, tag = "3")] schema: String,
        #[prost(string, tag = "4")] query_string: String,
        /// Of the second version only.
        #[prost(string, tag = "5")] catalog: String,
    }
    DryRunResponse {
        #[prost(string, tag = "1")] dryrun_value: String,
    }
    Empty {}
    /// Of all three methods of the cluster service.
    ClusterRequest {
        #[prost(string, tag = "1")] user: String,
        #[prost(string, tag = "2")] password: String,
    }
    ClusterResponse {
        #[prost(string, tag = "1")] status: String,
    }
}

answers! {
    AuthenticateResponse with session_id and new_strategy,
    PrepareStatementResponse with session_id and new_strategy,
    ExecuteStatementResponse with session_id and new_strategy,
    GetResultMetadataResponse with session_id and new_strategy,
    GetNextResultBatchResponse with session_id and new_strategy,
    GetNextResultBatchV2Response with session_id and new_strategy,
    ClearResponse with session_id and new_strategy,
    StatusResponse with session_id and new_strategy,
    ExplainResponse with session_id and new_strategy,
    ExplainAnalyzeResponse with session_id and new_strategy,
    GetSchemaNamesResponse with session_id and new_strategy,
    GetTablesResponse with session_id and new_strategy,
    GetColumnsResponse with session_id and new_strategy,
    DryRunResponse,
    Empty,
    ClusterResponse,
}

/// A method of one of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Authenticate,
    PrepareStatement,
    PrepareStatementV2,
    ExecuteStatement,
    ExecuteStatementV2,
    GetResultMetadata,
    GetNextResultBatch,
    GetNextResultBatchV2,
    ClearOrCancelQuery,
    CancelQuery,
    Status,
    Explain,
    ExplainAnalyze,
    GetSchemaNamesV2,
    GetTablesV2,
    GetColumnsV2,
    DryRun,
    DryRunV2,
    HealthCheck,
    ClusterStatus,
    Resume,
}

impl Method {
    /// Every one of them.
    #[cfg(feature = "testing")]
    pub(crate) const ALL: [Self; 21] = [
        Self::Authenticate,
        Self::PrepareStatement,
        Self::PrepareStatementV2,
        Self::ExecuteStatement,
        Self::ExecuteStatementV2,
        Self::GetResultMetadata,
        Self::GetNextResultBatch,
        Self::GetNextResultBatchV2,
        Self::ClearOrCancelQuery,
        Self::CancelQuery,
        Self::Status,
        Self::Explain,
        Self::ExplainAnalyze,
        Self::GetSchemaNamesV2,
        Self::GetTablesV2,
        Self::GetColumnsV2,
        Self::DryRun,
        Self::DryRunV2,
        Self::HealthCheck,
        Self::ClusterStatus,
        Self::Resume,
    ];

    /// Its path in HTTP/2.
    #[must_use]
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Authenticate => "/QueryEngineService/authenticate",
            Self::PrepareStatement => "/QueryEngineService/prepareStatement",
            Self::PrepareStatementV2 => "/QueryEngineService/prepareStatementV2",
            Self::ExecuteStatement => "/QueryEngineService/executeStatement",
            Self::ExecuteStatementV2 => "/QueryEngineService/executeStatementV2",
            Self::GetResultMetadata => "/QueryEngineService/getResultMetadata",
            Self::GetNextResultBatch => "/QueryEngineService/getNextResultBatch",
            Self::GetNextResultBatchV2 => "/QueryEngineService/getNextResultBatchV2",
            Self::ClearOrCancelQuery => "/QueryEngineService/clearOrCancelQuery",
            Self::CancelQuery => "/QueryEngineService/cancelQuery",
            Self::Status => "/QueryEngineService/status",
            Self::Explain => "/QueryEngineService/explain",
            Self::ExplainAnalyze => "/QueryEngineService/explainAnalyze",
            Self::GetSchemaNamesV2 => "/QueryEngineService/getSchemaNamesV2",
            Self::GetTablesV2 => "/QueryEngineService/getTablesV2",
            Self::GetColumnsV2 => "/QueryEngineService/getColumnsV2",
            Self::DryRun => "/QueryEngineService/dryRun",
            Self::DryRunV2 => "/QueryEngineService/dryRunV2",
            Self::HealthCheck => "/QueryEngineService/healthCheck",
            Self::ClusterStatus => "/ClusterService/status",
            Self::Resume => "/ClusterService/resume",
        }
    }
}
