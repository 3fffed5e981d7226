//! Error replies to scripts: who speaks, and had the script started?
//!
//! As Redis 7.0 words them. An error that a command raises inside a script names the script behind
//! it ("... script: 2f3ab1, on @user_script:1."), but a script may also return the error of a
//! `pcall` as it came, or one of its own making (`redis.error_reply('BUSY later')`). So the code
//! alone proves nothing; the text proves as much as is said at each entry.

use ::redis::{Arg, Cmd, ServerError};

pub(super) fn is_script(cmd: &Cmd) -> bool {
    runs(cmd, BODIES) || runs(cmd, HASHES) || runs(cmd, FUNCTIONS)
}

/// Whether the server itself speaks of its state, before the script or inside it.
pub(super) fn server_speaks(error: &ServerError) -> bool {
    spoken(error).is_some()
}

/// Whether the reply proves that the script had not started.
pub(super) fn started_nothing(cmd: &Cmd, error: &ServerError) -> bool {
    let detail = error.details().unwrap_or_default();
    if detail.contains(" script: ") {
        return false;
    }
    match error.code() {
        "NOAUTH" => detail.starts_with("Authentication required"),
        "NOSCRIPT" => detail.starts_with("No matching script"),
        // Inside a script, Redis 7.0 says "ERR The user executing the script" and 7.2 "NOPERM ACL
        // failure in script".
        "NOPERM" => detail.contains(" has no permissions ") && !detail.contains("in script"),
        // Inside it is "Wrong number of args calling Redis command from script".
        "ERR" => {
            detail.starts_with("wrong number of arguments for ")
                || detail.starts_with("unknown command")
                || detail.starts_with("max number of clients reached")
        }
        _ => match spoken(error) {
            Some(Raised::Before) => true,
            Some(Raised::BeforeDeclared) => declares_itself(cmd),
            Some(Raised::Anywhere) | None => false,
        },
    }
}

/// When the server says something.
#[derive(Clone, Copy)]
enum Raised {
    /// Only instead of starting a script.
    Before,
    /// Instead of starting a script that declares what it does; to others, inside.
    BeforeDeclared,
    /// Inside a declared script as well: the state may change while it runs.
    Anywhere,
}

fn spoken(error: &ServerError) -> Option<Raised> {
    let detail = error.details()?;
    let entry = SPOKEN
        .iter()
        .find(|(code, text, _)| *code == error.code() && detail.contains(text));
    entry.map(|(_, _, raised)| *raised)
}

/// Whether the server knows beforehand if the script writes, and so refuses it as a whole: a
/// function always, a script by its first line, of which a hash tells nothing.
fn declares_itself(cmd: &Cmd) -> bool {
    let body = || match cmd.args_iter().nth(1) {
        Some(Arg::Simple(body)) => Some(body),
        Some(_) | None => None,
    };
    runs(cmd, FUNCTIONS) || runs(cmd, BODIES) && body().is_some_and(|body| body.starts_with(b"#!"))
}

fn runs(cmd: &Cmd, names: &[&str]) -> bool {
    let Some(Arg::Simple(verb)) = cmd.args_iter().next() else {
        return false;
    };
    names
        .iter()
        .any(|name| verb.eq_ignore_ascii_case(name.as_bytes()))
}

const BODIES: &[&str] = &["EVAL", "EVAL_RO"];
const HASHES: &[&str] = &["EVALSHA", "EVALSHA_RO"];
const FUNCTIONS: &[&str] = &["FCALL", "FCALL_RO"];

/// Without the name of the product, which differs between Redis, Valkey and others.
const SPOKEN: &[(&str, &str, Raised)] = &[
    (
        "LOADING",
        "is loading the dataset in memory",
        Raised::Before,
    ),
    ("BUSY", "is busy running a ", Raised::Before),
    ("MASTERDOWN", "Link with MASTER is down", Raised::Before),
    ("CLUSTERDOWN", "Hash slot not served", Raised::Before),
    ("CLUSTERDOWN", "The cluster is down", Raised::Before),
    ("TRYAGAIN", "during rehashing of slot", Raised::Before),
    // The role does not change while a script runs, nor does the memory that counts for it.
    (
        "READONLY",
        "You can't write against a read only",
        Raised::BeforeDeclared,
    ),
    (
        "OOM",
        "command not allowed when used memory",
        Raised::BeforeDeclared,
    ),
    // A replica may leave, and the append-only file fail, in the middle of a long one.
    (
        "NOREPLICAS",
        "Not enough good replicas to write",
        Raised::Anywhere,
    ),
    (
        "MISCONF",
        "is configured to save RDB snapshots",
        Raised::Anywhere,
    ),
    (
        "MISCONF",
        "Errors writing to the AOF file",
        Raised::Anywhere,
    ),
];
