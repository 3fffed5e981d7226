//! Which nodes a command goes to: the one that serves its key, all, several, or any.

use std::collections::BTreeMap;

use ::redis::{Arg, Cmd, Value};

use super::slots::slot;

/// Where a command goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// To the node that serves this slot.
    Slot(u16),
    /// It has no key: to any primary.
    Any,
    /// To every primary.
    All(Gather),
    /// In parts, each to the node of its keys.
    Split(Split),
    /// Through one primary after the other.
    Scan,
}

/// How the replies of all primaries make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gather {
    /// They are the same.
    First,
    Sum,
    /// Of lists, all elements.
    Concat,
    /// Of lists of the same length, element by element, whether all say 1.
    Every,
}

/// A command whose keys are in several slots.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) name: String,
    kind: Kind,
    /// By slot: the numbers of the keys in it, each standing for `step` words.
    parts: BTreeMap<u16, Vec<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One reply per key.
    Values,
    /// How many of the keys.
    Count,
    /// A key and a value each; OK.
    Pairs,
}

/// Where a command goes that has not been looked at yet.
pub(super) fn plan(cmd: &Cmd) -> Plan {
    let name = name(cmd);
    let full_name = || match word(cmd, 1) {
        Some(sub) => format!(
            "{name} {}",
            String::from_utf8_lossy(sub).to_ascii_uppercase()
        ),
        None => name.clone(),
    };
    let everywhere = EVERYWHERE
        .iter()
        .find(|(known, _)| *known == name || *known == full_name());
    if let Some((_, gather)) = everywhere {
        return Plan::All(*gather);
    }
    if name == "SCAN" {
        return Plan::Scan;
    }
    match first_key_at(&name, cmd).and_then(|at| word(cmd, at)) {
        None => Plan::Any,
        Some(key) => match Split::of(&name, cmd) {
            Some(split) => Plan::Split(split),
            None => Plan::Slot(slot(key)),
        },
    }
}

/// The slot that a command of a pipeline is tied to, if it is tied to one.
pub(super) fn slot_of(cmd: &Cmd) -> Option<u16> {
    let name = name(cmd);
    let at = first_key_at(&name, cmd)?;
    word(cmd, at).map(slot)
}

pub(super) fn name(cmd: &Cmd) -> String {
    let name = word(cmd, 0).unwrap_or_default();
    String::from_utf8_lossy(name).to_ascii_uppercase()
}

pub(super) fn word(cmd: &Cmd, at: usize) -> Option<&[u8]> {
    match cmd.args_iter().nth(at) {
        Some(Arg::Simple(word)) => Some(word),
        Some(_) | None => None,
    }
}

/// The index of a command's first key. What is not known has it where nearly all have it, behind
/// the name.
pub(super) fn first_key_at(name: &str, cmd: &Cmd) -> Option<usize> {
    let counted = |count: usize| {
        let keys: usize = std::str::from_utf8(word(cmd, count)?).ok()?.parse().ok()?;
        (keys > 0).then_some(count + 1)
    };
    match name {
        _ if KEYLESS.contains(&name) => None,
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO" | "BLMPOP"
        | "BZMPOP" => counted(2),
        "LMPOP" | "ZMPOP" | "SINTERCARD" | "ZINTERCARD" | "ZUNION" | "ZINTER" | "ZDIFF" => {
            counted(1)
        }
        "BITOP" | "OBJECT" | "XINFO" | "XGROUP" | "MEMORY" | "PFDEBUG" => Some(2),
        "MIGRATE" => Some(3),
        "XREAD" | "XREADGROUP" => {
            let mut words = cmd.args_iter();
            let streams = words.position(|arg| match arg {
                Arg::Simple(word) => word.eq_ignore_ascii_case(b"STREAMS"),
                _ => false,
            });
            streams.map(|at| at + 1)
        }
        _ => Some(1),
    }
}

impl Split {
    fn of(name: &str, cmd: &Cmd) -> Option<Self> {
        let kind = match name {
            "MGET" => Kind::Values,
            "DEL" | "UNLINK" | "EXISTS" | "TOUCH" => Kind::Count,
            "MSET" => Kind::Pairs,
            _ => return None,
        };
        let step = kind.step();
        let words = cmd.args_iter().len() - 1;
        if !words.is_multiple_of(step) {
            // The server's error is the best answer.
            return None;
        }
        let mut parts = BTreeMap::<u16, Vec<usize>>::new();
        for key in 0..words / step {
            let word = word(cmd, 1 + key * step)?;
            parts.entry(slot(word)).or_default().push(key);
        }
        (parts.len() > 1).then(|| Self {
            name: name.to_owned(),
            kind,
            parts,
        })
    }

    /// Whether it only reads.
    pub(super) fn reads(&self) -> bool {
        matches!(self.name.as_str(), "MGET" | "EXISTS")
    }

    /// A command for each slot.
    pub(super) fn commands(&self, whole: &Cmd) -> Vec<Cmd> {
        let step = self.kind.step();
        let words: Vec<_> = whole.args_iter().collect();
        let part = |keys: &Vec<usize>| {
            let mut part = ::redis::cmd(&self.name);
            for key in keys {
                for arg in &words[1 + key * step..1 + (key + 1) * step] {
                    if let Arg::Simple(word) = arg {
                        part.arg(word);
                    }
                }
            }
            part
        };
        self.parts.values().map(part).collect()
    }

    /// One reply out of those to the parts, none of which is an error.
    pub(super) fn gather(&self, replies: Vec<Value>) -> Option<Value> {
        match self.kind {
            Kind::Pairs => Some(Value::Okay),
            Kind::Count => Gather::Sum.gather(replies),
            Kind::Values => {
                let keys = self.parts.values().map(Vec::len).sum();
                let mut values = vec![Value::Nil; keys];
                for (keys, reply) in self.parts.values().zip(replies) {
                    let Value::Array(found) = reply else {
                        return None;
                    };
                    for (key, value) in keys.iter().zip(found) {
                        values[*key] = value;
                    }
                }
                Some(Value::Array(values))
            }
        }
    }
}

impl Kind {
    fn step(self) -> usize {
        match self {
            Self::Values | Self::Count => 1,
            Self::Pairs => 2,
        }
    }
}

impl Gather {
    /// One reply out of several, none of which is an error. `None`: they do not fit together.
    pub(super) fn gather(self, replies: Vec<Value>) -> Option<Value> {
        match self {
            Self::First => replies.into_iter().next(),
            Self::Sum => {
                let counts = replies.iter().map(|reply| match reply {
                    Value::Int(count) => Some(*count),
                    _ => None,
                });
                Some(Value::Int(counts.sum::<Option<i64>>()?))
            }
            Self::Concat => {
                let mut all = Vec::new();
                for reply in replies {
                    match reply {
                        Value::Array(elements) | Value::Set(elements) => all.extend(elements),
                        _ => return None,
                    }
                }
                Some(Value::Array(all))
            }
            Self::Every => replies
                .into_iter()
                .reduce(|so_far, next| match (so_far, next) {
                    (Value::Array(a), Value::Array(b)) => {
                        let both = a.into_iter().zip(b);
                        let both = both.map(|(a, b)| if a == Value::Int(1) { b } else { a });
                        Value::Array(both.collect())
                    }
                    (_, other) => other,
                }),
        }
    }

    pub(super) fn reads(self) -> bool {
        match self {
            Self::First => false,
            Self::Sum | Self::Concat | Self::Every => true,
        }
    }
}

/// What every primary has to do, or has a part of.
const EVERYWHERE: &[(&str, Gather)] = &[
    ("CONFIG RESETSTAT", Gather::First),
    ("CONFIG REWRITE", Gather::First),
    ("CONFIG SET", Gather::First),
    ("DBSIZE", Gather::Sum),
    ("FLUSHALL", Gather::First),
    ("FLUSHDB", Gather::First),
    ("FUNCTION DELETE", Gather::First),
    ("FUNCTION FLUSH", Gather::First),
    ("FUNCTION LOAD", Gather::First),
    ("FUNCTION RESTORE", Gather::First),
    ("KEYS", Gather::Concat),
    ("SCRIPT EXISTS", Gather::Every),
    ("SCRIPT FLUSH", Gather::First),
    ("SCRIPT LOAD", Gather::First),
];

/// Whatever their words are.
#[rustfmt::skip]
const KEYLESS: &[&str] = &[
    "ACL", "ASKING", "AUTH", "BGREWRITEAOF", "BGSAVE", "CLIENT", "CLUSTER", "COMMAND", "CONFIG",
    "DBSIZE", "DEBUG", "DISCARD", "ECHO", "EXEC", "FAILOVER", "FLUSHALL", "FLUSHDB", "FUNCTION",
    "HELLO", "INFO", "KEYS", "LASTSAVE", "LATENCY", "LOLWUT", "MODULE", "MONITOR", "MULTI",
    "PFSELFTEST", "PING", "PSUBSCRIBE", "PSYNC", "PUBLISH", "PUBSUB", "PUNSUBSCRIBE", "QUIT",
    "RANDOMKEY", "READONLY", "READWRITE", "REPLCONF", "REPLICAOF", "RESET", "ROLE", "SAVE",
    "SCAN", "SCRIPT", "SELECT", "SHUTDOWN", "SLAVEOF", "SLOWLOG", "SUBSCRIBE", "SWAPDB", "SYNC",
    "TIME", "UNSUBSCRIBE", "UNWATCH", "WAIT", "WAITAOF",
];

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::cmd;

    fn of(words: &[&str]) -> Plan {
        plan(cmd(words[0]).arg(&words[1..]))
    }

    #[test]
    fn a_command_goes_to_the_node_of_its_key_wherever_that_stands() {
        let to_k = Plan::Slot(slot(b"k"));
        for words in [
            &["get", "k"][..],
            &["EVAL", "return 1", "1", "k", "x"],
            &["FCALL", "f", "2", "k", "x"],
            &["BLMPOP", "0", "1", "k", "LEFT"],
            &["ZUNION", "1", "k"],
            &["ZUNIONSTORE", "k", "1", "x"],
            &["BITOP", "AND", "k", "x"],
            &["OBJECT", "ENCODING", "k"],
            &["XREAD", "COUNT", "1", "STREAMS", "k", "0"],
            &["XREADGROUP", "GROUP", "g", "c", "streams", "k", ">"],
            &["XGROUP", "CREATE", "k", "g", "$"],
            &["SPUBLISH", "k", "m"],
            &["MGET", "k", "{k}2"],
            &["NEWCOMMAND", "k"],
        ] {
            assert_eq!(of(words), to_k, "{words:?}");
        }
        for words in [
            &["PING"][..],
            &["EVAL", "return 1", "0", "x"],
            &["PUBLISH", "k", "m"],
            &["XINFO", "HELP"],
            &["SCRIPT", "HELP"],
        ] {
            assert_eq!(of(words), Plan::Any, "{words:?}");
        }
        assert_eq!(of(&["script", "load", "x"]), Plan::All(Gather::First));
        assert_eq!(of(&["dbsize"]), Plan::All(Gather::Sum));
    }

    #[test]
    fn keys_of_several_slots_are_parted_and_their_values_put_back_in_order() {
        let mget = cmd("MGET").arg(&["a", "b", "{a}2", "c"]).clone();
        let Plan::Split(split) = plan(&mget) else {
            panic!("one slot");
        };
        let parts = split.commands(&mget);
        assert_eq!(parts.len(), 3);
        let echo = |part: &Cmd| {
            let keys = part.args_iter().skip(1).map(|arg| match arg {
                Arg::Simple(word) => Value::BulkString(word.to_vec()),
                _ => Value::Nil,
            });
            Value::Array(keys.collect())
        };
        let gathered = split.gather(parts.iter().map(echo).collect()).unwrap();
        let whole: Vec<Vec<u8>> = ::redis::from_redis_value(gathered).unwrap();
        assert_eq!(whole, [&b"a"[..], b"b", b"{a}2", b"c"]);

        let mset = cmd("MSET").arg(&["a", "1", "b", "2"]).clone();
        let Plan::Split(split) = plan(&mset) else {
            panic!("one slot");
        };
        let parts = split.commands(&mset);
        let mut parts: Vec<_> = parts.iter().map(Cmd::get_packed_command).collect();
        parts.sort();
        let part = |key, value| cmd("MSET").arg(key).arg(value).get_packed_command();
        assert_eq!(parts, [part("a", "1"), part("b", "2")]);
        // Odd: the server says what is wrong with it.
        assert!(matches!(of(&["MSET", "a", "1", "b"]), Plan::Slot(_)));
    }

    #[test]
    fn replies_of_all_nodes_make_one() {
        let ints = |list: &[i64]| Value::Array(list.iter().copied().map(Value::Int).collect());
        assert_eq!(
            Gather::Every.gather(vec![ints(&[1, 1, 0]), ints(&[1, 0, 1])]),
            Some(ints(&[1, 0, 0]))
        );
        let sum = Gather::Sum.gather(vec![Value::Int(2), Value::Int(3)]);
        assert_eq!(sum, Some(Value::Int(5)));
        assert_eq!(Gather::Sum.gather(vec![Value::Okay]), None);
        let all = Gather::Concat.gather(vec![ints(&[1]), ints(&[]), ints(&[2])]);
        assert_eq!(all, Some(ints(&[1, 2])));
    }
}
