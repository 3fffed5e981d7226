//! What the stacks answer.

use prost::Message;

use super::http::{Asked, Reply};
use super::{InFlight, Mishap, RefusalStyle, Running, SessionScope, Stage, columns, row};
use crate::backends::e6data::Colour;
use crate::backends::e6data::decode::encode;
use crate::backends::e6data::wire::{
    AuthenticateRequest, AuthenticateResponse, ClearResponse, ClusterResponse, DryRunRequest,
    DryRunResponse, Empty, ExecuteStatementRequest, ExecuteStatementResponse,
    ExplainAnalyzeResponse, ExplainResponse, FieldInfo, GetColumnsResponse, GetColumnsV2Request,
    GetNextResultBatchResponse, GetNextResultBatchV2Response, GetResultMetadataResponse,
    GetSchemaNamesResponse, GetSchemaNamesV2Request, GetTablesResponse, GetTablesV2Request, Method,
    PrepareStatementRequest, PrepareStatementResponse, PrepareStatementV2Request, QueryRequest,
    StatusResponse,
};

/// Codes of gRPC.
const UNKNOWN: u8 = 2;
const INVALID_ARGUMENT: u8 = 3;
const NOT_FOUND: u8 = 5;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;

const BATCH: usize = 2;

/// What goes into every answer beside its content.
struct Beside {
    session_id: String,
    new_strategy: Option<String>,
}

impl Stage {
    /// What is to happen to an rpc instead of an answer.
    pub(super) fn mishap(&mut self, path: &str) -> Option<Mishap> {
        let fits = |(method, _): &(&str, Mishap)| path.rsplit('/').next() == Some(method);
        let at = self.mishaps.iter().position(fits)?;
        Some(self.mishaps.remove(at).1)
    }

    /// `named`: the colour that the answer names, whatever is announced.
    pub(super) fn answer(&mut self, asked: &Asked, named: Option<String>) -> Reply {
        let Some(method) = Method::ALL.into_iter().find(|m| m.path() == asked.method) else {
            return Err((UNIMPLEMENTED, "no such method".to_owned()));
        };
        let name = method.path().rsplit('/').next().unwrap_or_default();
        *self.account.rpcs.entry((asked.colour, name)).or_default() += 1;
        match method {
            Method::ClusterStatus | Method::Resume => return Ok(self.cluster(method)),
            Method::HealthCheck => {}
            _ if self.suspended.is_some() => {
                return Err((UNAVAILABLE, "status: 503, cluster is suspended".to_owned()));
            }
            _ => {}
        }
        let about = match method {
            // All of them begin with the same three fields.
            Method::ExecuteStatement
            | Method::ExecuteStatementV2
            | Method::GetResultMetadata
            | Method::GetNextResultBatch
            | Method::GetNextResultBatchV2
            | Method::ClearOrCancelQuery
            | Method::CancelQuery
            | Method::Status
            | Method::Explain
            | Method::ExplainAnalyze => Some(read::<QueryRequest>(asked)?),
            _ => None,
        };
        self.served(asked.colour, about.as_ref())?;
        let beside = |stage: &mut Self, session_id: String| Beside {
            session_id,
            new_strategy: named.clone().or_else(|| stage.announced.clone()),
        };
        if let Some(about) = about {
            let session = self.known(asked, &about.session_id)?;
            let beside = beside(self, session);
            return self.of_query(method, asked, &about, beside);
        }
        match method {
            Method::Authenticate => {
                let request: AuthenticateRequest = read(asked)?;
                if (request.user, request.password) != self.password {
                    return Err((INTERNAL, "Access denied for the user".to_owned()));
                }
                let session_id = self.new_session(asked.colour);
                let beside = beside(self, session_id);
                give(AuthenticateResponse {
                    session_id: beside.session_id,
                    new_strategy: beside.new_strategy,
                })
            }
            Method::HealthCheck => give(Empty {}),
            Method::PrepareStatement => {
                let request: PrepareStatementRequest = read(asked)?;
                let session = self.known(asked, &request.session_id)?;
                let beside = beside(self, session);
                self.prepare(asked.colour, request.query_string, beside)
            }
            Method::PrepareStatementV2 => {
                let request: PrepareStatementV2Request = read(asked)?;
                let session = self.known(asked, &request.session_id)?;
                let beside = beside(self, session);
                self.prepare(asked.colour, request.query_string, beside)
            }
            Method::GetSchemaNamesV2 => {
                let request: GetSchemaNamesV2Request = read(asked)?;
                let session = self.known(asked, &request.session_id)?;
                let Beside {
                    session_id,
                    new_strategy,
                } = beside(self, session);
                give(GetSchemaNamesResponse {
                    schemas: vec![
                        format!("{}_a", request.catalog),
                        format!("{}_b", request.catalog),
                    ],
                    session_id,
                    new_strategy,
                })
            }
            Method::GetTablesV2 => {
                let request: GetTablesV2Request = read(asked)?;
                let session = self.known(asked, &request.session_id)?;
                let Beside {
                    session_id,
                    new_strategy,
                } = beside(self, session);
                give(GetTablesResponse {
                    tables: vec![format!("{}_t", request.schema)],
                    session_id,
                    new_strategy,
                })
            }
            Method::GetColumnsV2 => {
                let request: GetColumnsV2Request = read(asked)?;
                let session = self.known(asked, &request.session_id)?;
                let Beside {
                    session_id,
                    new_strategy,
                } = beside(self, session);
                let field_info = columns().into_iter().map(|column| FieldInfo {
                    field_name: column.name,
                    field_type: column.kind.as_str().to_owned(),
                });
                give(GetColumnsResponse {
                    field_info: field_info.collect(),
                    session_id,
                    new_strategy,
                })
            }
            Method::DryRun | Method::DryRunV2 => {
                let request: DryRunRequest = read(asked)?;
                self.known(asked, &request.session_id)?;
                give(DryRunResponse {
                    dryrun_value: format!("plan of {}", request.query_string),
                })
            }
            _ => Err((UNIMPLEMENTED, "no such method".to_owned())),
        }
    }

    /// Whether this colour is served; for a query that runs, by the rule for those.
    fn served(
        &self,
        colour: Option<Colour>,
        about: Option<&QueryRequest>,
    ) -> Result<(), (u8, String)> {
        let Some(colour) = colour else { return Ok(()) };
        let runs = |about: &QueryRequest| {
            self.queries
                .get(&about.query_id)
                .is_some_and(|query| query.colour == Some(colour))
        };
        let kept = self.in_flight == InFlight::Kept && about.is_some_and(runs);
        if self.serving.contains(&colour) || kept {
            return Ok(());
        }
        Err(match self.style {
            RefusalStyle::Gateway => (UNKNOWN, "status: 456".to_owned()),
            RefusalStyle::Mock => {
                let expected = colour.other();
                let text =
                    format!("Wrong strategy. Status: 456. Expected: {expected}, Got: {colour}");
                (INVALID_ARGUMENT, text)
            }
        })
    }

    /// Whether the session is one; the session to go on with.
    fn known(&mut self, asked: &Asked, session: &str) -> Result<String, (u8, String)> {
        if asked.bearer && session.is_empty() {
            return Ok(String::new());
        }
        let known = self
            .sessions
            .get(session)
            .is_some_and(|of| match self.scope {
                SessionScope::Cluster => true,
                SessionScope::Stack => *of == asked.colour,
            });
        if !known {
            return Err((INTERNAL, "Access denied, session is not valid".to_owned()));
        }
        match self.rotates {
            true => Ok(self.new_session(asked.colour)),
            false => Ok(session.to_owned()),
        }
    }

    fn new_session(&mut self, colour: Option<Colour>) -> String {
        self.next += 1;
        let session = format!("session-{}", self.next);
        self.account.sessions += 1;
        self.sessions.insert(session.clone(), colour);
        session
    }

    fn prepare(&mut self, colour: Option<Colour>, sql: String, beside: Beside) -> Reply {
        if sql.contains("syntax error") {
            return Err((INTERNAL, format!("cannot parse: {sql}")));
        }
        self.next += 1;
        let query_id = format!("query-{}", self.next);
        *self.account.prepared.entry(colour).or_default() += 1;
        self.queries.insert(
            query_id.clone(),
            Running {
                colour,
                session: beside.session_id.clone(),
                sql,
                executed: false,
                given: 0,
            },
        );
        give(PrepareStatementResponse {
            engine_ip: planner(colour),
            query_id,
            session_id: beside.session_id,
            new_strategy: beside.new_strategy,
        })
    }

    fn of_query(
        &mut self,
        method: Method,
        asked: &Asked,
        about: &QueryRequest,
        beside: Beside,
    ) -> Reply {
        let Beside {
            session_id,
            new_strategy,
        } = beside;
        let colour = asked.colour;
        let known = self.queries.get(&about.query_id);
        let known = known.filter(|query| query.colour == colour);
        let expected = planner(colour);
        let pinned = asked.planner.as_deref() == Some(&expected) && about.engine_ip == expected;
        if !pinned || known.is_none() {
            self.account.strays += 1;
        }
        let Some(query) = self
            .queries
            .get_mut(&about.query_id)
            .filter(|query| query.colour == colour)
        else {
            return Err((NOT_FOUND, format!("{} is not known here", about.query_id)));
        };
        query.session.clone_from(&session_id);
        let left = self.rows.saturating_sub(query.given);
        match method {
            Method::ExecuteStatement | Method::ExecuteStatementV2 => {
                let _: ExecuteStatementRequest = read(asked)?;
                query.executed = true;
                let ran = self
                    .account
                    .executed
                    .entry(query.sql.clone())
                    .or_insert((0, colour));
                ran.0 += 1;
                give(ExecuteStatementResponse {
                    session_id,
                    new_strategy,
                })
            }
            Method::GetResultMetadata => give(GetResultMetadataResponse {
                result_meta_data: encode::metadata(self.rows as i64, &columns()),
                session_id,
                new_strategy,
            }),
            Method::GetNextResultBatch => {
                let result_batch = batch(query.given, left, colour);
                query.given += left.min(BATCH);
                give(GetNextResultBatchResponse {
                    result_batch,
                    session_id,
                    new_strategy,
                })
            }
            Method::GetNextResultBatchV2 => {
                let (mut result_batches, mut left) = (Vec::new(), left);
                while left > 0 && result_batches.len() < 2 {
                    result_batches.push(batch(query.given, left, colour));
                    query.given += left.min(BATCH);
                    left = left.saturating_sub(BATCH);
                }
                give(GetNextResultBatchV2Response {
                    result_batches,
                    session_id,
                    new_strategy,
                    end_of_stream: left == 0,
                })
            }
            Method::Status => give(StatusResponse {
                status: query.executed,
                row_count: self.rows as i64,
                session_id,
                new_strategy,
            }),
            Method::Explain => give(ExplainResponse {
                explain: format!("plan of {}", query.sql),
                session_id,
                new_strategy,
            }),
            Method::ExplainAnalyze => give(ExplainAnalyzeResponse {
                explain_analyze: format!("plan of {}", query.sql),
                is_cached: false,
                parsing_time: 3,
                queueing_time: 4,
                session_id,
                new_strategy,
            }),
            _ => {
                self.queries.remove(&about.query_id);
                give(ClearResponse {
                    session_id,
                    new_strategy,
                })
            }
        }
    }

    fn cluster(&mut self, method: Method) -> Vec<u8> {
        let status = match &mut self.suspended {
            None => "active",
            Some(suspension) => match (method, &mut suspension.looks) {
                (Method::Resume, looks) => {
                    looks.get_or_insert(0);
                    "resuming"
                }
                (_, None) => "suspended",
                (_, Some(looks)) => {
                    *looks += 1;
                    match *looks > suspension.after {
                        true => "active",
                        false => "resuming",
                    }
                }
            },
        };
        if status == "active" {
            self.suspended = None;
        }
        ClusterResponse {
            status: status.to_owned(),
        }
        .encode_to_vec()
    }
}

fn planner(colour: Option<Colour>) -> String {
    format!("10.0.0.{}", colour.map_or(0, |colour| 1 + colour as u8))
}

/// Empty at the end of the result.
fn batch(from: usize, left: usize, colour: Option<Colour>) -> Vec<u8> {
    if left == 0 {
        return Vec::new();
    }
    let rows: Vec<_> = (from..from + left.min(BATCH))
        .map(|n| row(n, colour))
        .collect();
    encode::batch(&columns(), &rows, true)
}

fn read<M: Message + Default>(asked: &Asked) -> Result<M, (u8, String)> {
    let wrong = |_| (INVALID_ARGUMENT, "a malformed message".to_owned());
    M::decode(asked.message.clone()).map_err(wrong)
}

fn give(message: impl Message) -> Reply {
    Ok(message.encode_to_vec())
}
