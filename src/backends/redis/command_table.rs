//! What this backend believes about commands and replies, to be compared with a real server. It lives
//! here because the `testing` room may not name a backend; the crate's root shows it.

use super::classify::{classify_command, classify_pipeline};
use super::commands::{self, Route};
use crate::engine::backend::Phase;

/// Whether the library may send the command again when its outcome is unknown.
#[must_use]
pub fn is_read_only(cmd: &::redis::Cmd) -> bool {
    commands::is_read_only(cmd)
}

/// Whether the command is kept off the plain path: refused, or run on a connection of its own, or
/// tied to a database.
#[must_use]
pub fn is_special(cmd: &::redis::Cmd) -> bool {
    let plain = [
        Route::Plain,
        Route::RunScript,
        Route::LoadScript,
        Route::FlushScripts,
    ];
    !plain.contains(&commands::route(cmd))
}

/// Which of a command's words the node of a cluster is chosen by.
#[must_use]
pub fn first_key_at(cmd: &::redis::Cmd) -> Option<usize> {
    super::cluster::first_key_at(cmd)
}

/// The class of an answered command, as its `Debug` shows it.
#[must_use]
pub fn class_of(cmd: &::redis::Cmd, reply: &::redis::RedisResult<::redis::Value>) -> String {
    format!("{:?}", classify_command(cmd, Phase::Answered, reply))
}

/// The class of an answered pipeline, as its `Debug` shows it.
#[must_use]
pub fn class_of_pipeline(
    pipeline: &::redis::Pipeline,
    replies: &::redis::RedisResult<Vec<::redis::Value>>,
) -> String {
    format!(
        "{:?}",
        classify_pipeline(pipeline, Phase::Answered, replies)
    )
}
