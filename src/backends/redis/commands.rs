//! What a command is: may it be repeated, and may it travel on a shared connection?
//!
//! Both questions are answered from the command's words alone, without allocating. `route` is asked
//! about every command, so it must be nearly free: it loads the name's length and first byte and
//! looks up one byte of [`FIRST`]. That is some 25 instructions, where `GET`, `SET`, `INCR`, `HGET`
//! and `DEL` end. A name that shares length and initial with a special one (`SADD` with `SCAN`,
//! `RPUSH` with `RESET`) is compared with those few besides. A `match` on the whole name would ask
//! every command what few need to be asked.

mod read_only;

use std::collections::BTreeSet;
use std::time::Duration;

use ::redis::{Arg, Cmd, Pipeline};

use self::read_only::READ_ONLY;

/// Where a command may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// On the shared connection of the active database.
    Plain,
    /// It may hold back every reply behind it: on a connection of its own.
    Blocking(BlockingKind),
    /// Opens optimistic locking, which belongs to one connection.
    Watch,
    /// Ends it.
    Unwatch,
    /// One step of an iteration; its cursor means something to one database only.
    Scan { cursor: Cursor },
    /// Without words: a server says nothing to it, and every later reply would be another's.
    Empty,
    /// Runs a script by its name, which has to be loaded: plain but in a pipeline.
    RunScript,
    /// Loads one.
    LoadScript,
    /// Forgets all of them.
    FlushScripts,
    /// Changes the state of its connection, which others share. The name is for the error.
    Unsupported(&'static str),
}

/// Where a pipeline may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PipelineRoute {
    Plain,
    /// An element has no words.
    Empty,
    /// An element runs a script by its name.
    RunsScripts,
    /// An element may hold back the replies behind it.
    Blocking,
    /// It iterates: `Continue` if any element does, since one stale cursor spoils the batch.
    Scan {
        cursor: Cursor,
        blocking: bool,
    },
    /// An element that cannot be one, by name.
    Unsupported(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// A new iteration, at home on any database.
    Start,
    /// A step after the first.
    Continue,
}

/// Where a blocking command keeps its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockingKind {
    /// `BLPOP key [key ...] timeout`, in seconds.
    LastSeconds,
    /// `BLMPOP timeout numkeys ...`, in seconds.
    FirstSeconds,
    /// `XREAD ... BLOCK milliseconds ...`: the argument at this index.
    Millis { at: usize },
}

/// Whether sending the command once more changes nothing.
pub(crate) fn is_read_only(cmd: &Cmd) -> bool {
    let Some(name) = argument(cmd, 0).and_then(Name::folded) else {
        return false;
    };
    let with_subcommand = || name.join(argument(cmd, 1)?);
    name.is_in(READ_ONLY) || with_subcommand().is_some_and(|name| name.is_in(READ_ONLY))
}

/// Whether its name, or its name and its subcommand, is one of these.
pub(crate) fn is_among(cmd: &Cmd, names: &BTreeSet<String>) -> bool {
    let word = |at| {
        let word = std::str::from_utf8(argument(cmd, at)?).ok()?;
        Some(word.to_ascii_uppercase())
    };
    let Some(name) = word(0) else { return false };
    names.contains(&name)
        || word(1).is_some_and(|subcommand| names.contains(&format!("{name} {subcommand}")))
}

/// Whether sending the whole pipeline once more changes nothing.
pub(crate) fn pipeline_is_read_only(pipeline: &Pipeline) -> bool {
    pipeline.cmd_iter().all(is_read_only)
}

/// Where a command may run.
#[inline]
pub(crate) fn route(cmd: &Cmd) -> Route {
    let Some(name) = argument(cmd, 0) else {
        return match cmd.args_iter().len() {
            0 => Route::Empty,
            _ => Route::Plain,
        };
    };
    match candidates(name) {
        Some(from) => special(from, name, cmd),
        None => Route::Plain,
    }
}

/// Where a pipeline may run. The strictest element decides.
pub(crate) fn route_pipeline(pipeline: &Pipeline) -> PipelineRoute {
    let mut blocking = false;
    let mut scan = None;
    let mut scripts = false;
    for (at, cmd) in pipeline.cmd_iter().enumerate() {
        match route(cmd) {
            Route::Plain | Route::LoadScript | Route::FlushScripts => {}
            Route::Empty => return PipelineRoute::Empty,
            Route::RunScript => scripts = true,
            Route::Blocking(_) => blocking = true,
            Route::Scan { cursor } => {
                if scan != Some(Cursor::Continue) {
                    scan = Some(cursor);
                }
            }
            // Behind writes of its own batch it has a meaning again: on a connection that carries
            // nothing else, those are the writes it speaks of.
            Route::Unsupported("WAIT" | "WAITAOF") if writes_before(pipeline, at) => {
                blocking = true;
            }
            Route::Watch => return PipelineRoute::Unsupported("WATCH"),
            Route::Unwatch => return PipelineRoute::Unsupported("UNWATCH"),
            Route::Unsupported(name) => return PipelineRoute::Unsupported(name),
        }
    }
    // Inside MULTI the server never blocks, it answers at once. A private connection would only
    // cost the transaction the connection its WATCH is on.
    blocking &= !pipeline.is_transaction();
    match (scan, blocking) {
        (Some(cursor), blocking) => PipelineRoute::Scan { cursor, blocking },
        (None, true) => PipelineRoute::Blocking,
        (None, false) if scripts => PipelineRoute::RunsScripts,
        (None, false) => PipelineRoute::Plain,
    }
}

/// How long a blocking command may wait on the server; `None` is forever. A text the server will
/// not accept is `None` too: its error comes at once.
pub(crate) fn timeout(cmd: &Cmd) -> Option<Duration> {
    let Route::Blocking(kind) = route(cmd) else {
        return None;
    };
    let text = std::str::from_utf8(argument(cmd, kind.timeout_at(cmd))?).ok()?;
    let timeout = match kind {
        BlockingKind::LastSeconds | BlockingKind::FirstSeconds => {
            Duration::try_from_secs_f64(text.parse().ok()?).ok()?
        }
        BlockingKind::Millis { .. } => Duration::from_millis(text.parse().ok()?),
    };
    (!timeout.is_zero()).then_some(timeout)
}

/// The same blocking command, waiting for `left`, rounded up to whole milliseconds and never to 0,
/// which would mean forever. One that waits forever stays as it is.
pub(crate) fn with_timeout(cmd: &Cmd, left: Duration) -> Cmd {
    let (Route::Blocking(kind), Some(_)) = (route(cmd), timeout(cmd)) else {
        return cmd.clone();
    };
    let at = kind.timeout_at(cmd);
    let millis = left.as_micros().div_ceil(1000).max(1);
    let text = match kind {
        BlockingKind::LastSeconds | BlockingKind::FirstSeconds => {
            format!("{}.{:03}", millis / 1000, millis % 1000)
        }
        BlockingKind::Millis { .. } => millis.to_string(),
    };

    let mut shortened = Cmd::with_capacity(cmd.args_iter().len(), 0);
    for (index, arg) in cmd.args_iter().enumerate() {
        // No blocking command takes a cursor. Whoever adds one gets the server's error at once, so
        // there is nothing to wait for again.
        let Arg::Simple(word) = arg else {
            return cmd.clone();
        };
        shortened.arg(if index == at { text.as_bytes() } else { word });
    }
    shortened.set_no_response(cmd.is_no_response());
    shortened
}

impl BlockingKind {
    fn timeout_at(self, cmd: &Cmd) -> usize {
        match self {
            Self::LastSeconds => cmd.args_iter().len() - 1,
            Self::FirstSeconds => 1,
            Self::Millis { at } => at,
        }
    }
}

/// How a special command's route is found.
#[derive(Clone, Copy)]
enum Verb {
    /// It blocks whatever its arguments are.
    Pops(BlockingKind),
    /// It blocks with a `BLOCK` option.
    ReadsStream,
    Watches,
    Unwatches,
    /// It iterates; its cursor is the argument at this index.
    Scans(usize),
    /// It runs a script by its name.
    RunsScript,
    /// Its subcommands load scripts and flush them, and set a mode of the connection.
    Scripts,
    /// It changes its connection.
    Session,
    /// Some of its subcommands change their connection.
    SessionBy(&'static [(&'static str, &'static str)]),
}

/// Where in [`VERBS`] the commands with this length and initial begin, if there are any.
fn candidates(name: &[u8]) -> Option<usize> {
    let row = FIRST.get(name.len())?;
    match row[usize::from(name.first()? & 31)] {
        NONE => None,
        at => Some(usize::from(at)),
    }
}

#[inline(never)]
fn special(from: usize, name: &[u8], cmd: &Cmd) -> Route {
    let same = |verb: &str| verb.as_bytes().eq_ignore_ascii_case(name);
    let near = |verb: &str| verb.len() == name.len() && verb.as_bytes()[0] & 31 == name[0] & 31;
    let mut candidates = VERBS[from..].iter().take_while(|(verb, _)| near(verb));
    let Some((name, verb)) = candidates.find(|(verb, _)| same(verb)) else {
        return Route::Plain;
    };
    match *verb {
        Verb::Pops(kind) => Route::Blocking(kind),
        Verb::ReadsStream => match block_option(cmd) {
            Some(at) => Route::Blocking(BlockingKind::Millis { at }),
            None => Route::Plain,
        },
        Verb::Watches => Route::Watch,
        Verb::Unwatches => Route::Unwatch,
        Verb::Scans(at) => Route::Scan {
            cursor: cursor(cmd, at),
        },
        Verb::RunsScript => Route::RunScript,
        Verb::Scripts => {
            let sub = argument(cmd, 1).unwrap_or_default();
            let is = |name: &[u8]| sub.eq_ignore_ascii_case(name);
            if is(b"LOAD") {
                Route::LoadScript
            } else if is(b"FLUSH") {
                Route::FlushScripts
            } else if is(b"DEBUG") {
                // It sets the mode of the scripts that the same connection runs next.
                Route::Unsupported("SCRIPT DEBUG")
            } else {
                Route::Plain
            }
        }
        Verb::Session => Route::Unsupported(name),
        Verb::SessionBy(subcommands) => argument(cmd, 1)
            .and_then(|sub| {
                subcommands
                    .iter()
                    .find(|(name, _)| sub.eq_ignore_ascii_case(name.as_bytes()))
            })
            .map_or(Route::Plain, |(_, full_name)| Route::Unsupported(full_name)),
    }
}

/// The index of the value of `BLOCK` among the options of `XREAD` and `XREADGROUP`. A group,
/// consumer, key or id may be called `BLOCK` as well, so the options are read in their grammar.
fn block_option(cmd: &Cmd) -> Option<usize> {
    let mut args = cmd.args_iter().enumerate().skip(1);
    while let Some((at, Arg::Simple(word))) = args.next() {
        let is = |option: &[u8]| word.eq_ignore_ascii_case(option);
        if is(b"BLOCK") {
            return Some(at + 1);
        }
        if is(b"STREAMS") {
            return None;
        }
        let values = if is(b"GROUP") {
            2
        } else if is(b"COUNT") || is(b"CLAIM") {
            1
        } else {
            0
        };
        for _ in 0..values {
            args.next();
        }
    }
    None
}

fn cursor(cmd: &Cmd, at: usize) -> Cursor {
    let starts = match cmd.args_iter().nth(at) {
        // The server reads "00" as 0 too, and answers a missing cursor with an error.
        Some(Arg::Simple(digits)) => digits.iter().all(|digit| *digit == b'0'),
        None => true,
        // `Arg` is open to new forms, and `Arg::Cursor` does not show its number: ask the bytes.
        Some(_) => packs_as_a_start(cmd),
    };
    if starts {
        Cursor::Start
    } else {
        Cursor::Continue
    }
}

/// Whether a command made with `cursor_arg` stands at 0. The driver keeps the number to itself, but
/// a twin that starts at 0 packs to the same bytes exactly if this one does. Parsing the packed
/// command would copy as much and be longer; an iteration's step costs far more than either.
fn packs_as_a_start(cmd: &Cmd) -> bool {
    let mut twin = Cmd::new();
    for arg in cmd.args_iter() {
        match arg {
            Arg::Simple(word) => twin.arg(word),
            _ => twin.cursor_arg(0),
        };
    }
    twin.get_packed_command() == cmd.get_packed_command()
}

fn writes_before(pipeline: &Pipeline, at: usize) -> bool {
    pipeline.cmd_iter().take(at).any(|cmd| !is_read_only(cmd))
}

/// The argument at an index, unless the driver fills it in.
#[inline]
fn argument(cmd: &Cmd, at: usize) -> Option<&[u8]> {
    match cmd.args_iter().nth(at) {
        Some(Arg::Simple(word)) => Some(word),
        Some(_) | None => None,
    }
}

/// A command's name in upper case, on the stack. What does not fit is in no table.
#[derive(Clone, Copy)]
struct Name {
    bytes: [u8; Name::MAX],
    len: usize,
}

impl Name {
    const MAX: usize = 32;

    fn folded(word: &[u8]) -> Option<Self> {
        let empty = Self {
            bytes: [0; Self::MAX],
            len: 0,
        };
        empty.push(word)
    }

    /// `CONFIG` and `get` make `CONFIG|GET`.
    fn join(self, subcommand: &[u8]) -> Option<Self> {
        self.push(b"|")?.push(subcommand)
    }

    fn push(mut self, word: &[u8]) -> Option<Self> {
        let end = self.len + word.len();
        let place = self.bytes.get_mut(self.len..end)?;
        place.copy_from_slice(word);
        place.make_ascii_uppercase();
        self.len = end;
        Some(self)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn is_in(&self, table: &[&str]) -> bool {
        table
            .binary_search_by(|name| name.as_bytes().cmp(self.as_bytes()))
            .is_ok()
    }
}

/// Every command that is not simply `Plain`, by length and then by name.
///
/// Sessions are refused rather than silently shared: one caller's `SELECT` or `CLIENT REPLY OFF`
/// would change or stop the replies of all. `REPLCONF ACK` is answered by nothing at all, which
/// would shift every later reply by one. `WAIT` and `WAITAOF` speak of the writes of their own
/// connection, which on a shared one are everybody's.
const VERBS: &[(&str, Verb)] = &[
    ("AUTH", Verb::Session),
    ("EXEC", Verb::Session),
    ("QUIT", Verb::Session),
    ("SCAN", Verb::Scans(1)),
    ("SYNC", Verb::Session),
    ("WAIT", Verb::Session),
    ("BLPOP", Verb::Pops(BlockingKind::LastSeconds)),
    ("BRPOP", Verb::Pops(BlockingKind::LastSeconds)),
    ("HELLO", Verb::Session),
    ("HSCAN", Verb::Scans(2)),
    ("MULTI", Verb::Session),
    ("PSYNC", Verb::Session),
    ("RESET", Verb::Session),
    ("SSCAN", Verb::Scans(2)),
    ("WATCH", Verb::Watches),
    ("XREAD", Verb::ReadsStream),
    ("ZSCAN", Verb::Scans(2)),
    ("ASKING", Verb::Session),
    ("BLMOVE", Verb::Pops(BlockingKind::LastSeconds)),
    ("BLMPOP", Verb::Pops(BlockingKind::FirstSeconds)),
    ("BZMPOP", Verb::Pops(BlockingKind::FirstSeconds)),
    ("CLIENT", Verb::SessionBy(CLIENT_SESSION)),
    ("SCRIPT", Verb::Scripts),
    ("SELECT", Verb::Session),
    ("DISCARD", Verb::Session),
    ("EVALSHA", Verb::RunsScript),
    ("MONITOR", Verb::Session),
    ("UNWATCH", Verb::Unwatches),
    ("WAITAOF", Verb::Session),
    ("BZPOPMAX", Verb::Pops(BlockingKind::LastSeconds)),
    ("BZPOPMIN", Verb::Pops(BlockingKind::LastSeconds)),
    ("READONLY", Verb::Session),
    ("REPLCONF", Verb::Session),
    ("READWRITE", Verb::Session),
    ("SUBSCRIBE", Verb::Session),
    ("BRPOPLPUSH", Verb::Pops(BlockingKind::LastSeconds)),
    ("EVALSHA_RO", Verb::RunsScript),
    ("PSUBSCRIBE", Verb::Session),
    ("SSUBSCRIBE", Verb::Session),
    ("XREADGROUP", Verb::ReadsStream),
    ("UNSUBSCRIBE", Verb::Session),
    ("PUNSUBSCRIBE", Verb::Session),
    ("SUNSUBSCRIBE", Verb::Session),
];

const CLIENT_SESSION: &[(&str, &str)] = &[
    ("CACHING", "CLIENT CACHING"),
    // Valkey: what the client can do, and that it imports data.
    ("CAPA", "CLIENT CAPA"),
    ("IMPORT-SOURCE", "CLIENT IMPORT-SOURCE"),
    ("NO-EVICT", "CLIENT NO-EVICT"),
    ("NO-TOUCH", "CLIENT NO-TOUCH"),
    ("REPLY", "CLIENT REPLY"),
    ("SETINFO", "CLIENT SETINFO"),
    ("SETNAME", "CLIENT SETNAME"),
    ("TRACKING", "CLIENT TRACKING"),
];

/// By a name's length and initial, the index of the first such command in [`VERBS`]. The low five
/// bits of a letter are the same in both cases.
const FIRST: [[u8; 32]; LONGEST + 1] = {
    let mut first = [[NONE; 32]; LONGEST + 1];
    let mut at = VERBS.len();
    while at > 0 {
        at -= 1;
        let name = VERBS[at].0.as_bytes();
        first[name.len()][(name[0] & 31) as usize] = at as u8;
    }
    first
};

const NONE: u8 = u8::MAX;

const LONGEST: usize = VERBS[VERBS.len() - 1].0.len();

#[cfg(test)]
mod tests;
