//! What became of a command: from the phase the engine tracked and the reply, to a class.
//!
//! The phase decides first, because the driver's errors cannot: it returns the same one for a queue
//! that died and for a reply that was lost. The driver's error counts only for an attempt that was
//! answered, and there its kind says who spoke.
//!
//! Server errors arrive as `Ok(Value::ServerError)`, in place of a reply. Which of them prove that
//! the command did not run is decided by their code; for a script by the exact wording besides,
//! since a script may write, and then fail, or answer with any error it likes.

mod wording;

use std::sync::Arc;

use ::redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerError, Value};

use self::wording::{is_script, server_speaks, started_nothing};
use super::commands::{Cursor, Route, route};
use crate::engine::backend::{Class, Doubt, NotSent, Phase, Refusal, ServerState};

/// Whether a command was answered without an error: the only question on the hot path.
#[inline]
pub(crate) fn clean(result: &RedisResult<Value>) -> bool {
    match result {
        Ok(value) => server_error(value).is_none(),
        Err(_) => false,
    }
}

/// Whether no element of a pipeline was answered with an error. Looks into a lone array as well,
/// which is what `EXEC` returns.
pub(crate) fn clean_pipeline(result: &RedisResult<Vec<Value>>) -> bool {
    let clean = |values: &[Value]| values.iter().all(|value| server_error(value).is_none());
    match result.as_deref() {
        Ok([Value::Array(values)]) => clean(values),
        Ok(values) => clean(values),
        Err(_) => false,
    }
}

/// What became of a command.
pub(crate) fn classify_command(cmd: &Cmd, phase: Phase, result: &RedisResult<Value>) -> Class {
    if let Some(class) = unanswered(phase) {
        return class;
    }
    match result {
        Ok(value) => reply_class(cmd, server_error(value)),
        Err(error) => match server_errors(error) {
            Ok(errors) => reply_class(cmd, errors.first().map(|(_, error)| error)),
            Err(class) => class,
        },
    }
}

/// What became of a pipeline as a whole: refused only if every element was. A transaction is one
/// unit: what `EXEC` answers with an array or nil ran, or was decided, whatever is inside.
pub(crate) fn classify_pipeline(
    pipeline: &Pipeline,
    phase: Phase,
    result: &RedisResult<Vec<Value>>,
) -> Class {
    if let Some(class) = unanswered(phase) {
        return class;
    }
    match (result, pipeline.is_transaction()) {
        (Ok(values), true) => match values.as_slice() {
            [exec] => exec_class(pipeline, server_error(exec)),
            _ => Class::Unknown(Doubt::Protocol),
        },
        (Ok(values), false) if values.len() == pipeline.len() => {
            elements_class(pipeline, values.iter().map(server_error))
        }
        (Ok(_), false) => Class::Unknown(Doubt::Protocol),
        (Err(error), atomic) => match server_errors(error) {
            Ok(errors) if atomic && was_queued(pipeline, &errors) => {
                aborted_class(pipeline, &errors)
            }
            Ok(errors) => {
                let error_at = |at| errors.iter().find(|(index, _)| *index == at);
                let errors = (0..pipeline.len()).map(|at| error_at(at).map(|(_, error)| error));
                elements_class(pipeline, errors)
            }
            Err(class) => class,
        },
    }
}

/// The server's word on its own state in the reply to a command, whatever the command's class. A
/// script that had started is `Executed`, and its `READONLY` is evidence all the same; then
/// `elsewhere` is false. An error that a script made up is no evidence.
pub(crate) fn refusal(cmd: &Cmd, value: &Value) -> Option<ServerState> {
    let error = server_error(value)?;
    let Some(Refusal::State(mut state)) = refused(error) else {
        return None;
    };
    if is_script(cmd) {
        if !server_speaks(error) {
            return None;
        }
        state.elsewhere = started_nothing(cmd, error);
    }
    state.elsewhere &= is_portable(cmd);
    Some(state)
}

/// The first such word among the replies to a pipeline, of which other elements may have run.
pub(crate) fn refusal_in(pipeline: &Pipeline, values: &[Value]) -> Option<ServerState> {
    let values = match values {
        [Value::Array(values)] if pipeline.is_transaction() => values,
        [exec] if pipeline.is_transaction() => {
            return match refused(server_error(exec)?)? {
                Refusal::State(state) => Some(state),
                Refusal::Caller | Refusal::Denied => None,
            };
        }
        values => values,
    };
    let mut replies = pipeline.cmd_iter().zip(values);
    replies.find_map(|(cmd, value)| refusal(cmd, value))
}

fn unanswered(phase: Phase) -> Option<Class> {
    match phase {
        Phase::Answered => None,
        Phase::TimedOut => Some(Class::Unknown(Doubt::TimedOut)),
        Phase::Lost { sent: false } => Some(Class::NotSent(NotSent::Lost)),
        Phase::Lost { sent: true } => Some(Class::Unknown(Doubt::Lost)),
    }
}

fn reply_class(cmd: &Cmd, error: Option<&ServerError>) -> Class {
    match error.and_then(|error| refused_command(cmd, error)) {
        Some(refusal) => Class::NotExecuted(refusal),
        None => Class::Executed,
    }
}

/// A plain pipeline: one element that ran makes the whole unrepeatable.
fn elements_class<'a>(
    pipeline: &Pipeline,
    errors: impl Iterator<Item = Option<&'a ServerError>>,
) -> Class {
    let mut whole = None;
    for (cmd, error) in pipeline.cmd_iter().zip(errors) {
        let Some(refusal) = error.and_then(|error| refused_command(cmd, error)) else {
            return Class::Executed;
        };
        whole = Some(match whole {
            None => refusal,
            Some(before) => both(before, refusal),
        });
    }
    whole.map_or(Class::Executed, Class::NotExecuted)
}

/// What `EXEC` itself answered. An error other than a refusal proves nothing: "EXEC without MULTI"
/// says that the elements ran one by one.
fn exec_class(pipeline: &Pipeline, error: Option<&ServerError>) -> Class {
    match error.and_then(refused) {
        Some(refusal) => Class::NotExecuted(carried(pipeline, refusal)),
        None => Class::Executed,
    }
}

/// Whether `MULTI` was accepted. If not, the elements ran one by one, each for itself. The driver
/// numbers the error of `MULTI` one below that of the first element, which wraps around.
fn was_queued(pipeline: &Pipeline, errors: &[(usize, ServerError)]) -> bool {
    errors.iter().all(|(at, _)| *at < pipeline.len())
}

/// A transaction that the server discarded, since an element was refused while it was queued. (None
/// runs instead of being queued: `route_pipeline` refuses those verbs.) The gravest error counts.
fn aborted_class(pipeline: &Pipeline, errors: &[(usize, ServerError)]) -> Class {
    let refusals = errors.iter().map(|(_, error)| refused(error));
    let gravest = refusals
        .map(|refusal| refusal.unwrap_or(Refusal::Caller))
        .reduce(|before, next| match (before, next) {
            (Refusal::Denied, _) | (_, Refusal::Denied) => Refusal::Denied,
            (Refusal::State(state), _) | (_, Refusal::State(state)) => Refusal::State(state),
            (Refusal::Caller, Refusal::Caller) => Refusal::Caller,
        });
    Class::NotExecuted(carried(pipeline, gravest.unwrap_or(Refusal::Caller)))
}

/// Two elements, both refused. As one they may be retried only where both may.
fn both(before: Refusal, next: Refusal) -> Refusal {
    match (before, next) {
        (Refusal::Denied, _) | (_, Refusal::Denied) => Refusal::Denied,
        (Refusal::Caller, _) | (_, Refusal::Caller) => Refusal::Caller,
        (Refusal::State(first), Refusal::State(second)) => Refusal::State(ServerState {
            elsewhere: first.elsewhere && second.elsewhere,
            ..first
        }),
    }
}

/// A refusal of a whole transaction: it may be retried elsewhere if each element may.
fn carried(pipeline: &Pipeline, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::State(state) => Refusal::State(ServerState {
            elsewhere: state.elsewhere && pipeline.cmd_iter().all(is_portable),
            ..state
        }),
        Refusal::Caller | Refusal::Denied => refusal,
    }
}

/// Whether an error reply proves that this command did not run.
fn refused_command(cmd: &Cmd, error: &ServerError) -> Option<Refusal> {
    if is_script(cmd) && !started_nothing(cmd, error) {
        return None;
    }
    match refused(error)? {
        Refusal::State(state) => Some(Refusal::State(ServerState {
            elsewhere: is_portable(cmd),
            ..state
        })),
        refusal @ (Refusal::Caller | Refusal::Denied) => Some(refusal),
    }
}

/// Whether an error reply proves that a command which is no script did not run.
fn refused(error: &ServerError) -> Option<Refusal> {
    let detail = error.details().unwrap_or_default();
    if error.code() != "EXECABORT" {
        return refused_by(error.code(), detail);
    }
    // Refused at EXEC, the cause is in the text. Refused while queued, this is all there is to see,
    // and the driver returns the errors of the elements in its place.
    let cause = detail
        .strip_prefix("Transaction discarded because of: ")
        .and_then(|cause| cause.split_once(' '))
        .and_then(|(code, detail)| refused_by(code, detail));
    Some(cause.unwrap_or(Refusal::Caller))
}

/// Codes, and texts where the code is a mere `ERR`. What is not named here ran: `WRONGTYPE`, a value
/// out of range and `BUSYGROUP` are answers of the command itself.
fn refused_by(code: &str, detail: &str) -> Option<Refusal> {
    let state = |code, at_once| {
        Some(Refusal::State(ServerState {
            code,
            at_once,
            elsewhere: true,
        }))
    };
    match code {
        "LOADING" => state("LOADING", true),
        "READONLY" => state("READONLY", true),
        "MASTERDOWN" => state("MASTERDOWN", true),
        "CLUSTERDOWN" => state("CLUSTERDOWN", true),
        // A blocked command was let go with nothing taken, since the server is a replica now. The
        // same code by `CLIENT UNBLOCK ... ERROR` is somebody's wish, and ends with the caller.
        "UNBLOCKED" if detail.starts_with("force unblock") => state("UNBLOCKED", true),
        "OOM" => state("OOM", false),
        "MISCONF" => state("MISCONF", false),
        "NOREPLICAS" => state("NOREPLICAS", false),
        "BUSY" => state("BUSY", false),
        "TRYAGAIN" => state("TRYAGAIN", false),
        "ERR" if detail.starts_with("max number of clients reached") => state("MAXCLIENTS", false),
        "NOAUTH" | "WRONGPASS" | "DENIED" => Some(Refusal::Denied),
        "NOSCRIPT" | "NOPERM" | "CROSSSLOT" | "MOVED" | "ASK" => Some(Refusal::Caller),
        "ERR"
            if UNDERSTOOD_NOTHING
                .iter()
                .any(|text| detail.starts_with(text)) =>
        {
            Some(Refusal::Caller)
        }
        _ => None,
    }
}

/// A step of an iteration makes sense on the database that gave the cursor, and nowhere else.
fn is_portable(cmd: &Cmd) -> bool {
    route(cmd)
        != Route::Scan {
            cursor: Cursor::Continue,
        }
}

fn server_error(mut value: &Value) -> Option<&ServerError> {
    loop {
        match value {
            Value::ServerError(error) => return Some(error),
            Value::Attribute { data, .. } => value = data,
            Value::Nil
            | Value::Int(_)
            | Value::BulkString(_)
            | Value::Array(_)
            | Value::SimpleString(_)
            | Value::Okay
            | Value::Map(_)
            | Value::Set(_)
            | Value::Double(_)
            | Value::Boolean(_)
            | Value::VerbatimString { .. }
            | Value::BigNumber(_)
            | Value::Push { .. } => return None,
            // The driver may learn new forms of reply. None of them is an error it knows.
            _ => return None,
        }
    }
}

/// The server's errors inside a driver's error, or the class of an error that is the driver's own.
fn server_errors(error: &RedisError) -> Result<Arc<[(usize, ServerError)]>, Class> {
    match error.kind() {
        ErrorKind::Client | ErrorKind::InvalidClientConfig => Err(Class::NotSent(NotSent::Local)),
        // Said while a connection is being made, before the first command.
        ErrorKind::RESP3NotSupported
        | ErrorKind::EmptySentinelList
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel
        // Of a cluster: no connection to the node of a key.
        | ErrorKind::ClusterConnectionNotFound => Err(Class::NotSent(NotSent::Connect)),
        ErrorKind::AuthenticationFailed => Err(Class::NotExecuted(Refusal::Denied)),
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            Err(Class::Unknown(Doubt::Protocol))
        }
        ErrorKind::Server(_) | ErrorKind::Extension => match error.clone().into_server_errors() {
            Some(errors) => Ok(errors),
            None => Err(Class::Unknown(Doubt::Protocol)),
        },
        // A kind the driver adds later, or behind a feature we do not use. It proves nothing.
        _ => Err(Class::Unknown(Doubt::Protocol)),
    }
}

/// Said by the server before it looks for the command's keys.
const UNDERSTOOD_NOTHING: &[&str] = &[
    "syntax error",
    "unknown command",
    "unknown subcommand",
    "Unknown subcommand or wrong number of arguments",
    "wrong number of arguments for ",
];

#[cfg(test)]
mod tests;
