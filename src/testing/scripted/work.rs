//! A call to a script.

use std::fmt;

use super::connection::{ScriptHandle, Scripted};
use crate::engine::backend::{Class, Doubt, NotSent, Phase};
use crate::engine::database::DatabaseId;
use crate::engine::run::{Operation, RunError};

/// A call: a token that says which one it is, and what kind of call it is. Returns the database
/// that ran it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    token: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    RepeatableWrite,
    Read,
}

/// Why a call on a script failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScriptError {
    /// The connection has ended.
    Lost,
    /// The script answered so.
    Refused(Class),
}

impl Work {
    /// A write that must not run twice.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            kind: Kind::Write,
        }
    }

    /// A call that only reads.
    #[must_use]
    pub fn read(token: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            kind: Kind::Read,
        }
    }

    /// A write that its caller declares harmless to run twice.
    #[must_use]
    pub fn repeatable(token: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            kind: Kind::RepeatableWrite,
        }
    }

    /// Which call it is.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl Operation<Scripted> for Work {
    type Output = DatabaseId;
    type Error = RunError<ScriptError>;

    async fn attempt(&self, handle: &mut ScriptHandle) -> Result<DatabaseId, ScriptError> {
        handle.0.call(self).await
    }

    fn is_clean(&self, result: &Result<DatabaseId, ScriptError>) -> bool {
        result.is_ok()
    }

    fn is_loss(&self, error: &ScriptError) -> bool {
        *error == ScriptError::Lost
    }

    fn classify(&self, phase: Phase, result: Option<&Result<DatabaseId, ScriptError>>) -> Class {
        match (phase, result) {
            (Phase::TimedOut, _) | (Phase::Answered, None) => Class::Unknown(Doubt::TimedOut),
            (Phase::Lost { sent: false }, _) => Class::NotSent(NotSent::Lost),
            (Phase::Lost { sent: true }, _) => Class::Unknown(Doubt::Lost),
            (Phase::Answered, Some(Ok(_))) => Class::Executed,
            (Phase::Answered, Some(Err(ScriptError::Lost))) => Class::Unknown(Doubt::Lost),
            (Phase::Answered, Some(Err(ScriptError::Refused(class)))) => class.clone(),
        }
    }

    fn is_repeatable(&self) -> bool {
        match self.kind {
            Kind::Write => false,
            Kind::RepeatableWrite | Kind::Read => true,
        }
    }

    fn is_write(&self) -> bool {
        match self.kind {
            Kind::Write | Kind::RepeatableWrite => true,
            Kind::Read => false,
        }
    }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("the connection has ended"),
            Self::Refused(class) => write!(f, "answered {class:?}"),
        }
    }
}

impl std::error::Error for ScriptError {}
