//! Our errors inside redis-rs's error type, and out of it again.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use ::redis::{ErrorKind as RedisErrorKind, RedisError};

use super::commands::{Route, route};
use crate::engine::backend::Doubt;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::run::RunError;

/// Our error inside a `RedisError`, if it is one of ours.
///
/// It says which database was involved, what became of the operation and whether a retry is safe.
/// Errors of the driver and replies of the server have none.
#[must_use]
pub fn from_redis(error: &RedisError) -> Option<Error> {
    if error.kind() == RedisErrorKind::InvalidClientConfig {
        return refused(error.detail()?);
    }
    let source = error.source()?;
    let io = match source.downcast_ref::<io::Error>() {
        Some(io) => io,
        // The driver shows the `Arc` around its cause, not the cause.
        None => source
            .downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?
            .downcast_ref::<io::Error>()?,
    };
    io.get_ref()?.downcast_ref::<Error>().cloned()
}

/// An error of this kind can carry nothing but text; what ours say is known.
fn refused(detail: &str) -> Option<Error> {
    let moved = Error::new(ErrorKind::CursorMoved);
    if detail.starts_with(&moved.to_string()) {
        return Some(moved);
    }
    let (command, _) = detail.split_once(" needs a session of its own")?;
    let mut cmd = ::redis::Cmd::new();
    for word in command.split(' ') {
        cmd.arg(word);
    }
    let command = match route(&cmd) {
        Route::Unsupported(command) => command,
        // Refused inside a pipeline.
        Route::Watch => "WATCH",
        Route::Unwatch => "UNWATCH",
        Route::Scan { .. } => BLOCKING_SCAN,
        Route::Plain
        | Route::Empty
        | Route::RunScript
        | Route::LoadScript
        | Route::FlushScripts
        | Route::Blocking(_) => return None,
    };
    Some(Error::new(ErrorKind::Unsupported { command }))
}

/// What a pipeline that holds both is refused as.
pub(super) const BLOCKING_SCAN: &str = "SCAN beside a blocking command";

pub(super) fn to_redis(error: Error) -> RedisError {
    let kind = match error.kind() {
        ErrorKind::OutcomeUnknown(Doubt::TimedOut) => io::ErrorKind::TimedOut,
        ErrorKind::OutcomeUnknown(Doubt::Lost | Doubt::Protocol | Doubt::Cancelled)
        | ErrorKind::Executed => io::ErrorKind::BrokenPipe,
        ErrorKind::NotExecuted
        | ErrorKind::Unavailable
        | ErrorKind::NoHealthyDatabase
        | ErrorKind::Closed
        | ErrorKind::NotStarted
        | ErrorKind::Unhealthy
        | ErrorKind::Superseded => io::ErrorKind::NotConnected,
        ErrorKind::Unsupported { .. }
        | ErrorKind::CursorMoved
        | ErrorKind::UnknownDatabase
        | ErrorKind::DuplicateDatabase
        | ErrorKind::LastDatabase
        | ErrorKind::Invalid(_) => {
            let text = error.to_string();
            return RedisError::from((RedisErrorKind::InvalidClientConfig, "refused", text));
        }
    };
    io::Error::new(kind, error).into()
}

/// So that `?` works in functions that return a `RedisResult`, as code written for redis-rs does.
impl From<Error> for RedisError {
    fn from(error: Error) -> Self {
        to_redis(error)
    }
}

impl From<RunError<RedisError>> for RedisError {
    fn from(error: RunError<RedisError>) -> Self {
        match error {
            RunError::Driver(error) => error,
            RunError::Engine(error) => to_redis(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::database::DatabaseId;

    #[test]
    fn our_errors_survive_the_drivers_type() {
        let id = DatabaseId::new("east").unwrap();
        for kind in [
            ErrorKind::OutcomeUnknown(Doubt::TimedOut),
            ErrorKind::OutcomeUnknown(Doubt::Lost),
            ErrorKind::Unavailable,
            ErrorKind::NoHealthyDatabase,
            ErrorKind::Closed,
            ErrorKind::NotExecuted,
        ] {
            let error = to_redis(Error::new(kind.clone()).on(&id, 3));
            let ours = from_redis(&error).expect("ours");
            assert_eq!(ours.kind(), &kind);
            assert_eq!(ours.database(), Some(&id));
        }
        for kind in [
            ErrorKind::Unsupported { command: "SELECT" },
            ErrorKind::CursorMoved,
        ] {
            let error = to_redis(Error::new(kind.clone()).on(&id, 3));
            assert_eq!(error.kind(), RedisErrorKind::InvalidClientConfig);
            assert_eq!(from_redis(&error).expect("ours").kind(), &kind);
        }
    }

    #[test]
    fn they_look_to_redis_rs_as_what_they_are() {
        let error = |kind| to_redis(Error::new(kind));
        assert!(error(ErrorKind::OutcomeUnknown(Doubt::TimedOut)).is_timeout());
        assert!(error(ErrorKind::OutcomeUnknown(Doubt::Lost)).is_connection_dropped());
        assert!(error(ErrorKind::Unavailable).is_connection_dropped());
        let theirs = RedisError::from((RedisErrorKind::InvalidClientConfig, "theirs"));
        assert!(from_redis(&theirs).is_none());
    }
}
