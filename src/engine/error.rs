//! What goes wrong, named after the database it went wrong on.

use std::fmt;
use std::sync::Arc;

use super::backend::{Class, Doubt};
use super::database::DatabaseId;

/// A configuration that cannot work. Found before any I/O; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    field: String,
    problem: String,
}

/// Why a call, a start or an operator's order failed.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    database: Option<DatabaseId>,
    generation: u64,
    attempts: u32,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of [`Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operation may or may not have run, and it is not known to be harmless to run it again.
    OutcomeUnknown(Doubt),
    /// The operation was proven not to have run, and the budget for trying again is spent.
    NotExecuted,
    /// The operation ran, and what it returned is no success.
    Executed,
    /// No database could be used within the deadline. Temporary.
    Unavailable,
    /// No database has been usable for longer than the failover budget; fails at once until one is.
    NoHealthyDatabase,
    /// The client has been closed, or its runtime has ended.
    Closed,
    /// The operation needs a session that this connection cannot carry. Nothing was sent.
    Unsupported {
        /// The command refused.
        command: &'static str,
    },
    /// A cursor of another database: continuing it here would skip or repeat elements. Nothing was sent.
    CursorMoved,
    /// No member has this id.
    UnknownDatabase,
    /// A member has this id already.
    DuplicateDatabase,
    /// The last member cannot be removed.
    LastDatabase,
    /// The target of a switch is not fit to serve. Nothing has changed.
    Unhealthy,
    /// The switch was refused because the world had moved on: its generation is an older one.
    Superseded,
    /// A value given is not valid.
    Invalid(ConfigError),
    /// The start policy was not met in time.
    NotStarted,
}

// === impl ConfigError ===

impl ConfigError {
    /// A problem with one field, named by its path.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The path of the field that is wrong.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    pub(crate) fn within(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }

    pub(crate) fn renamed(mut self, field: &str) -> Self {
        self.field = field.to_owned();
        self
    }
}

// === impl Error ===

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self {
            kind,
            database: None,
            generation: 0,
            attempts: 0,
            source: None,
        }
    }

    pub(crate) fn on(mut self, database: &DatabaseId, generation: u64) -> Self {
        self.database = Some(database.clone());
        self.generation = generation;
        self
    }

    pub(crate) fn about(mut self, database: &DatabaseId) -> Self {
        self.database = Some(database.clone());
        self
    }

    pub(crate) fn after(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    pub(crate) fn caused_by(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The error of an attempt that ended in `class` and will not be tried again.
    pub(crate) fn from_class(class: &Class) -> Self {
        Self::new(match class {
            Class::Unknown(doubt) => ErrorKind::OutcomeUnknown(*doubt),
            Class::Executed => ErrorKind::Executed,
            Class::NotSent(_)
            | Class::NotExecuted(_)
            | Class::Redirect { .. }
            | Class::NotServing(_)
            | Class::SessionInvalid => ErrorKind::NotExecuted,
        })
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The database it went wrong on, where one was involved.
    #[must_use]
    pub fn database(&self) -> Option<&DatabaseId> {
        self.database.as_ref()
    }

    /// The client's generation at that time: how often the active database had changed. 0 if none was involved.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How often the operation had been attempted.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the operation certainly did not run, so that the caller may run it again.
    #[must_use]
    pub fn is_retry_safe(&self) -> bool {
        !matches!(
            self.kind,
            ErrorKind::OutcomeUnknown(_) | ErrorKind::Executed
        )
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::OutcomeUnknown(_)
                | ErrorKind::NotExecuted
                | ErrorKind::Unavailable
                | ErrorKind::NoHealthyDatabase
                | ErrorKind::NotStarted
                | ErrorKind::Unhealthy
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ErrorKind::OutcomeUnknown(Doubt::TimedOut) => {
                f.write_str("no reply in time; the operation may have run")
            }
            ErrorKind::OutcomeUnknown(Doubt::Lost) => {
                f.write_str("connection lost after sending; the operation may have run")
            }
            ErrorKind::OutcomeUnknown(Doubt::Protocol) => {
                f.write_str("reply not understood; the operation may have run")
            }
            ErrorKind::OutcomeUnknown(Doubt::Cancelled) => {
                f.write_str("abandoned by the caller; the operation may have run")
            }
            ErrorKind::NotExecuted => f.write_str("the operation did not run; a retry is safe"),
            ErrorKind::Executed => f.write_str("the operation ran and failed"),
            ErrorKind::Unavailable => {
                f.write_str("no database is available for now; nothing was run")
            }
            ErrorKind::NoHealthyDatabase => {
                f.write_str("no healthy database for longer than the failover budget; nothing was run")
            }
            ErrorKind::Closed => f.write_str("the client is closed; nothing was run"),
            ErrorKind::Unsupported { command } => write!(
                f,
                "{command} needs a session of its own, which a connection that may move between databases cannot carry; nothing was sent"
            ),
            ErrorKind::CursorMoved => f.write_str(
                "the cursor was issued by another database than the active one; start the scan again",
            ),
            ErrorKind::UnknownDatabase => f.write_str("no database has this id"),
            ErrorKind::DuplicateDatabase => f.write_str("a database has this id already"),
            ErrorKind::LastDatabase => f.write_str("the last database cannot be removed"),
            ErrorKind::Unhealthy => f.write_str("the database is not fit to serve; nothing has changed"),
            ErrorKind::Superseded => {
                f.write_str("the active database had changed already; nothing has changed")
            }
            ErrorKind::Invalid(error) => write!(f, "invalid {error}"),
            ErrorKind::NotStarted => f.write_str("the start policy was not met in time"),
        }?;
        if let Some(database) = &self.database {
            write!(f, " [database {database}")?;
            if self.generation > 0 {
                write!(f, ", generation {}", self.generation)?;
            }
            if self.attempts > 1 {
                write!(f, ", {} attempts", self.attempts)?;
            }
            f.write_str("]")?;
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorKind::Invalid(error))
    }
}
