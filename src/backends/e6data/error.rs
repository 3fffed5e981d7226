//! What goes wrong with a query, named after the stack it went wrong on.

use std::fmt;
use std::sync::Arc;

use tonic::{Code, Status};

use super::classify::{Kind, Said, class, said};
use super::decode::DecodeError;
use crate::backends::grpc::is_loss;
use crate::engine::backend::{Class, NotSent, Phase as AttemptPhase};
use crate::engine::database::DatabaseId;
use crate::engine::error::{ConfigError, Error, ErrorKind};
use crate::engine::run::RunError;

/// Why a query or a look at the catalog failed.
#[derive(Clone, Debug)]
pub struct E6dataError {
    kind: E6dataErrorKind,
    database: Option<DatabaseId>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of [`E6dataError`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum E6dataErrorKind {
    /// Neither stack serves, and none began to within the deadline. Nothing was run.
    NoServingStack,
    /// The cluster is suspended, and did not come back within the deadline. Nothing was run.
    Suspended,
    /// Who asks may not: wrong password, token or rights. Nothing was run.
    Denied,
    /// The server answered that it cannot: most likely the statement is wrong. The code is the server's; its
    /// text is the error's source.
    Refused {
        /// As gRPC calls it, such as `Internal`.
        code: String,
    },
    /// A query that had begun cannot go on: its stack refuses it, or the connection to it is gone.
    QueryLost {
        /// The server's name for the query.
        query: String,
        /// The stack that it began on, and the only one that knows it.
        origin: DatabaseId,
        /// How far it had come.
        phase: QueryPhase,
        /// Whether it ran.
        executed: Executed,
    },
    /// An answer came that cannot be understood.
    Decode,
    /// The cursor has no query to do this with: nothing was executed on it, or it has been cleared.
    NoQuery,
    /// The engine's own word: closed, out of time, no database.
    Engine(ErrorKind),
    /// A value given is not valid.
    Invalid(ConfigError),
}

/// How far a query had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QueryPhase {
    /// The statement was handed over to run.
    Execute,
    /// It ran, and what its rows look like was asked.
    Metadata,
    /// Rows were being read.
    Fetch,
    /// It was asked how it is, or what it was planned like.
    Inspect,
}

/// Whether a query ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Executed {
    /// It did.
    Yes,
    /// It did not: it may be run again.
    No,
    /// Nobody knows.
    Unknown,
}

impl E6dataError {
    pub(super) fn new(kind: E6dataErrorKind) -> Self {
        Self {
            kind,
            database: None,
            source: None,
        }
    }

    pub(super) fn on(mut self, database: &DatabaseId) -> Self {
        self.database = Some(database.clone());
        self
    }

    pub(super) fn caused_by(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Of a call that belongs to no query yet.
    pub(super) fn of_call(error: RunError<Status>) -> Self {
        match error {
            RunError::Driver(status) => Self::of_status(status),
            RunError::Engine(error) => Self::of_engine(error),
        }
    }

    pub(super) fn of_status(status: Status) -> Self {
        let kind = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => E6dataErrorKind::Denied,
            code => E6dataErrorKind::Refused {
                code: format!("{code:?}"),
            },
        };
        Self::new(kind).caused_by(status)
    }

    fn of_engine(error: Error) -> Self {
        let database = error.database().cloned();
        let kind = E6dataErrorKind::Engine(error.kind().clone());
        Self {
            database,
            ..Self::new(kind).caused_by(error)
        }
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> &E6dataErrorKind {
        &self.kind
    }

    /// The stack it went wrong on, where one was involved.
    #[must_use]
    pub fn database(&self) -> Option<&DatabaseId> {
        match &self.kind {
            E6dataErrorKind::QueryLost { origin, .. } => Some(origin),
            _ => self.database.as_ref(),
        }
    }

    /// The server's answer, where one is the cause.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            if let Some(status) = error.downcast_ref() {
                return Some(status);
            }
            source = error.source();
        }
        None
    }

    /// Whether the statement certainly did not run, so that the caller may run it again.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        match &self.kind {
            E6dataErrorKind::NoServingStack
            | E6dataErrorKind::Suspended
            | E6dataErrorKind::Denied
            | E6dataErrorKind::NoQuery
            | E6dataErrorKind::Invalid(_) => true,
            E6dataErrorKind::QueryLost { executed, .. } => *executed == Executed::No,
            E6dataErrorKind::Refused { .. } | E6dataErrorKind::Decode => false,
            E6dataErrorKind::Engine(kind) => {
                !matches!(kind, ErrorKind::OutcomeUnknown(_) | ErrorKind::Executed)
            }
        }
    }
}

/// How a pinned call of a query ended badly, before it is decided what to tell.
pub(super) struct Ended {
    pub(super) class: Class,
    pub(super) error: RunError<Status>,
}

impl Ended {
    pub(super) fn new(error: RunError<Status>, kind: Kind, lenient: bool) -> Self {
        let class = match &error {
            RunError::Driver(status) => class(phase_of(status), Some(status), kind, lenient),
            RunError::Engine(error) => match error.kind() {
                ErrorKind::OutcomeUnknown(doubt) => Class::Unknown(*doubt),
                _ if error.is_retry_safe() => Class::NotSent(NotSent::Lost),
                _ => Class::Executed,
            },
        };
        Self { class, error }
    }

    /// There was nothing to call.
    pub(super) fn gone() -> Self {
        Self {
            class: Class::NotSent(NotSent::Local),
            error: RunError::Engine(Error::new(ErrorKind::Closed)),
        }
    }

    /// Whether the server does not know the method.
    pub(super) fn is_unimplemented(&self) -> bool {
        matches!(&self.error, RunError::Driver(status) if status.code() == Code::Unimplemented)
    }

    /// Whether the stack refused the call for good, or cannot be asked any more.
    pub(super) fn is_lost(&self, lenient: bool) -> bool {
        match &self.error {
            RunError::Engine(_) => true,
            RunError::Driver(status) => {
                is_loss(status)
                    || matches!(
                        said(status, lenient),
                        Said::Standby | Said::Suspended | Said::Denied
                    )
            }
        }
    }

    /// The error for the caller of a query that had come so far.
    pub(super) fn tell(
        self,
        query: &str,
        origin: &DatabaseId,
        phase: QueryPhase,
        lenient: bool,
    ) -> E6dataError {
        let executed = match phase {
            QueryPhase::Execute if self.class.is_retry_safe() => Executed::No,
            QueryPhase::Execute => Executed::Unknown,
            QueryPhase::Metadata | QueryPhase::Fetch | QueryPhase::Inspect => Executed::Yes,
        };
        let doubtful = phase == QueryPhase::Execute && matches!(self.class, Class::Unknown(_));
        if self.is_lost(lenient) || doubtful {
            let kind = E6dataErrorKind::QueryLost {
                query: query.to_owned(),
                origin: origin.clone(),
                phase,
                executed,
            };
            let error = E6dataError::new(kind);
            return match self.error {
                RunError::Driver(status) => error.caused_by(status),
                RunError::Engine(engine) => error.caused_by(engine),
            };
        }
        E6dataError::of_call(self.error).on(origin)
    }
}

fn phase_of(status: &Status) -> AttemptPhase {
    match is_loss(status) {
        // The engine has told apart what was not sent.
        true => AttemptPhase::Lost { sent: true },
        false => AttemptPhase::Answered,
    }
}

impl fmt::Display for E6dataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            E6dataErrorKind::NoServingStack => {
                f.write_str("neither stack serves; nothing was run")?;
            }
            E6dataErrorKind::Suspended => {
                f.write_str("the cluster is suspended; nothing was run")?
            }
            E6dataErrorKind::Denied => {
                f.write_str("credentials or rights refused; nothing was run")?
            }
            E6dataErrorKind::Refused { code } => write!(f, "the server answered {code}")?,
            E6dataErrorKind::QueryLost {
                query,
                origin,
                phase,
                executed,
            } => {
                let executed = match executed {
                    Executed::Yes => "it ran",
                    Executed::No => "it did not run; a retry is safe",
                    Executed::Unknown => "it may have run",
                };
                let query = if query.is_empty() {
                    "without an id"
                } else {
                    query
                };
                write!(
                    f,
                    "query {query} was lost on {origin} ({phase}); {executed}"
                )?;
            }
            E6dataErrorKind::Decode => f.write_str("the answer is malformed")?,
            E6dataErrorKind::NoQuery => f.write_str("there is no query on this cursor")?,
            E6dataErrorKind::Engine(_) => {}
            E6dataErrorKind::Invalid(error) => write!(f, "invalid {error}")?,
        }
        if let Some(database) = &self.database {
            write!(f, " [{database}]")?;
        }
        match (&self.kind, &self.source) {
            // Says it all, with the database.
            (E6dataErrorKind::Engine(_), Some(source)) => write!(f, "{source}"),
            (_, Some(source)) => match source.downcast_ref::<Status>() {
                Some(status) if !status.message().is_empty() => write!(f, ": {}", status.message()),
                Some(_) => Ok(()),
                None => write!(f, ": {source}"),
            },
            (_, None) => Ok(()),
        }
    }
}

impl fmt::Display for QueryPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Execute => "executing",
            Self::Metadata => "asking for the columns",
            Self::Fetch => "fetching",
            Self::Inspect => "inspecting",
        })
    }
}

impl std::error::Error for E6dataError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<ConfigError> for E6dataError {
    fn from(error: ConfigError) -> Self {
        Self::new(E6dataErrorKind::Invalid(error))
    }
}

impl From<Error> for E6dataError {
    fn from(error: Error) -> Self {
        Self::of_engine(error)
    }
}

impl From<DecodeError> for E6dataError {
    fn from(error: DecodeError) -> Self {
        Self::new(E6dataErrorKind::Decode).caused_by(error)
    }
}
