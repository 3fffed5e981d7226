//! Where cursors come from: each means something to the database that gave it, and nothing to another.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use ::redis::{Arg, Cmd, Value};

use crate::engine::database::DatabaseId;

/// The latest cursors given, and by whom.
///
/// A handle remembers those of its own scans, so that two scans which happen to stand at the same
/// number on two databases are told apart. The client remembers those a caller steps through by hand,
/// who may come back with one on any handle. A cursor that both have forgotten is nobody's.
#[derive(Clone, Debug)]
pub(super) struct Cursors {
    given: VecDeque<(Step, DatabaseId)>,
    limit: usize,
}

/// Command, key and number of a step, as a hash. Options such as COUNT may change between steps.
type Step = u64;

impl Cursors {
    /// For a handle: more scans one inside the other than anybody writes.
    pub(super) fn of_a_handle() -> Self {
        Self::up_to(32)
    }

    /// For a client: pages of a service that somebody may still turn.
    pub(super) fn of_a_client() -> Self {
        Self::up_to(4096)
    }

    fn up_to(limit: usize) -> Self {
        Self {
            given: VecDeque::new(),
            limit,
        }
    }

    /// Remembers who gave the cursor in the reply to a step.
    pub(super) fn remember(&mut self, step: &Cmd, reply: &Value, from: &DatabaseId) {
        let Some(step) = given(reply).and_then(|cursor| step_at(step, cursor)) else {
            return;
        };
        if self.given.len() == self.limit {
            self.given.pop_front();
        }
        self.given.push_back((step, from.clone()));
    }

    /// Who gave the cursor of this step.
    pub(super) fn origin(&self, step: &Cmd) -> Option<&DatabaseId> {
        let step = step_at(step, asked(step)?)?;
        let mut latest_first = self.given.iter().rev();
        let found = latest_first.find(|(given, _)| *given == step);
        found.map(|(_, from)| from)
    }
}

/// Whether the caller writes the cursor himself. Otherwise an iterator of the driver does, which
/// never leaves its handle.
pub(super) fn is_by_hand(step: &Cmd) -> bool {
    matches!(step.args_iter().nth(cursor_at(step)), Some(Arg::Simple(_)))
}

fn step_at(step: &Cmd, cursor: u64) -> Option<Step> {
    let mut hasher = DefaultHasher::new();
    for (at, arg) in step.args_iter().take(cursor_at(step)).enumerate() {
        match arg {
            Arg::Simple(name) if at == 0 => name.to_ascii_uppercase().hash(&mut hasher),
            Arg::Simple(key) => key.hash(&mut hasher),
            _ => return None,
        }
    }
    cursor.hash(&mut hasher);
    Some(hasher.finish())
}

/// `SCAN cursor`, but `SSCAN key cursor`.
fn cursor_at(step: &Cmd) -> usize {
    match step.args_iter().next() {
        Some(Arg::Simple(name)) if name.eq_ignore_ascii_case(b"SCAN") => 1,
        _ => 2,
    }
}

/// The cursor of a step. The driver does not show the number of its own, so it is read as the server
/// reads it: `*3\r\n$5\r\nSSCAN\r\n$3\r\nkey\r\n$2\r\n17\r\n`.
fn asked(step: &Cmd) -> Option<u64> {
    let packed = step.get_packed_command();
    let mut rest = line(&packed)?.1;
    for _ in 0..cursor_at(step) {
        let (length, word) = line(rest)?;
        let length: usize = number(length.strip_prefix(b"$")?)?;
        rest = word.get(length + 2..)?;
    }
    let (_, cursor) = line(rest)?;
    number(line(cursor)?.0)
}

/// The cursor in a reply; `None` at the end of a scan.
fn given(reply: &Value) -> Option<u64> {
    let Value::Array(parts) = reply else {
        return None;
    };
    let cursor = match parts.first()? {
        Value::BulkString(digits) => number(digits)?,
        Value::SimpleString(digits) => number(digits.as_bytes())?,
        Value::Int(cursor) => u64::try_from(*cursor).ok()?,
        _ => return None,
    };
    (cursor != 0).then_some(cursor)
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::cmd;

    fn id(name: &str) -> DatabaseId {
        DatabaseId::new(name).unwrap()
    }

    fn reply(cursor: &str) -> Value {
        let cursor = Value::BulkString(cursor.into());
        Value::Array(vec![cursor, Value::Array(Vec::new())])
    }

    #[test]
    fn the_next_step_is_recognised_whoever_writes_its_cursor() {
        let mut cursors = Cursors::of_a_handle();
        let mut first = cmd("SSCAN");
        first.arg("k\r\ney").cursor_arg(0).arg("COUNT").arg(10);
        cursors.remember(&first, &reply("17"), &id("east"));
        let mut driver = cmd("SSCAN");
        driver.arg("k\r\ney").cursor_arg(17).arg("COUNT").arg(10);
        let mut by_hand = cmd("sscan");
        by_hand.arg("k\r\ney").arg(17);
        assert_eq!(cursors.origin(&driver), Some(&id("east")));
        assert_eq!(cursors.origin(&by_hand), Some(&id("east")));
        assert!(is_by_hand(&by_hand) && !is_by_hand(&driver));
    }

    #[test]
    fn another_key_command_or_number_is_another_step() {
        let mut cursors = Cursors::of_a_handle();
        let scan = |verb: &str, key: Option<&str>, cursor: u64| {
            let mut scan = cmd(verb);
            scan.arg(key).arg(cursor);
            scan
        };
        cursors.remember(&scan("HSCAN", Some("a"), 0), &reply("5"), &id("east"));
        cursors.remember(&scan("SCAN", None, 0), &reply("5"), &id("west"));
        assert_eq!(cursors.origin(&scan("HSCAN", Some("b"), 5)), None);
        assert_eq!(cursors.origin(&scan("SSCAN", Some("a"), 5)), None);
        assert_eq!(cursors.origin(&scan("HSCAN", Some("a"), 6)), None);
        assert_eq!(cursors.origin(&scan("SCAN", None, 5)), Some(&id("west")));
    }

    #[test]
    fn the_latest_giver_counts_and_memory_is_bounded() {
        let mut cursors = Cursors::up_to(3);
        let scan = |cursor: u64| cmd("SCAN").arg(cursor).clone();
        cursors.remember(&scan(0), &reply("1"), &id("east"));
        cursors.remember(&scan(0), &reply("1"), &id("west"));
        assert_eq!(cursors.origin(&scan(1)), Some(&id("west")));
        cursors.remember(&scan(1), &reply("0"), &id("west"));
        assert_eq!(cursors.given.len(), 2, "the end of a scan is no cursor");
        for cursor in ["2", "3", "4"] {
            cursors.remember(&scan(1), &reply(cursor), &id("east"));
        }
        assert_eq!(cursors.origin(&scan(1)), None);
        assert_eq!(cursors.given.len(), 3);
    }

    #[test]
    fn what_is_no_cursor_is_remembered_by_nobody() {
        let mut cursors = Cursors::of_a_handle();
        for odd in [Value::Nil, Value::Array(Vec::new()), reply("soon")] {
            cursors.remember(cmd("SCAN").arg(0), &odd, &id("east"));
        }
        assert!(cursors.given.is_empty());
        assert_eq!(cursors.origin(cmd("SCAN").arg("soon")), None);
        assert_eq!(cursors.origin(&cmd("SSCAN")), None);
        assert_eq!(cursors.origin(&Cmd::new()), None);
    }
}
