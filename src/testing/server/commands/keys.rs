//! Keys of any type.

use std::ops::Range;

use crate::testing::server::commands::wrong_arity;
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer_arg};
use crate::testing::server::session::Context;
use crate::testing::server::storage::{DATABASES, Value};

pub(super) fn flushall(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    flush_mode(args)?;
    for database in &mut context.keyspace.databases {
        database.clear();
    }
    context.out.ok();
    Ok(())
}

pub(super) fn flushdb(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    flush_mode(args)?;
    database.clear();
    out.ok();
    Ok(())
}

fn flush_mode(args: &[&[u8]]) -> Answer {
    match args {
        [_] => Ok(()),
        [_, mode] if is(mode, "sync") || is(mode, "async") => Ok(()),
        _ => Err(SYNTAX),
    }
}

pub(super) fn dbsize(database: &mut Database, _: &[&[u8]], out: &mut Reply) -> Answer {
    out.size(database.len());
    Ok(())
}

pub(super) fn del(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let removed = args[1..]
        .iter()
        .filter(|key| database.remove(key).is_some())
        .count();
    out.size(removed);
    Ok(())
}

pub(super) fn exists(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let found = args[1..]
        .iter()
        .filter(|key| database.get(key).is_some())
        .count();
    out.size(found);
    Ok(())
}

pub(super) fn keys(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let matching: Vec<_> = database
        .keys()
        .filter(|key| matches_glob(args[1], key))
        .collect();
    out.bulks(matching.into_iter());
    Ok(())
}

pub(super) fn randomkey(database: &mut Database, _: &[&[u8]], out: &mut Reply) -> Answer {
    out.bulk_or_null(database.random_key().as_deref());
    Ok(())
}

pub(super) fn rename(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    rename_to(database, args[1], args[2])?;
    out.ok();
    Ok(())
}

pub(super) fn renamenx(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (from, to) = (args[1], args[2]);
    if database.get(from).is_none() {
        return Err(NO_KEY);
    }
    let absent = database.get(to).is_none();
    if absent {
        rename_to(database, from, to)?;
    }
    out.flag(absent);
    Ok(())
}

fn rename_to(database: &mut Database, from: &[u8], to: &[u8]) -> Answer {
    let deadline = database.deadline(from).ok_or(NO_KEY)?;
    if from != to
        && let Some(value) = database.remove(from)
    {
        put(database, to, value, deadline);
    }
    Ok(())
}

fn put(database: &mut Database, key: &[u8], value: Value, deadline: Option<i64>) {
    database.put(key, value);
    if let Some(deadline) = deadline {
        database.expire(key, deadline);
    }
}

const NO_KEY: Refusal = Refusal::new("ERR no such key");

pub(super) fn copy(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let (from, to) = (args[1], args[2]);
    let home = context.session.db;
    let (mut away, mut replaces) = (home, false);
    let mut rest = &args[3..];
    while let [option, after @ ..] = rest {
        rest = match after {
            [index, after @ ..] if is(option, "db") => {
                away = database_arg(index)?;
                after
            }
            _ if is(option, "replace") => {
                replaces = true;
                after
            }
            _ => return Err(SYNTAX),
        };
    }
    if home == away && from == to {
        return Err(Refusal::new(
            "ERR source and destination objects are the same",
        ));
    }
    let source = &context.keyspace.databases[home];
    let copied = source.get(from).cloned().zip(source.deadline(from));
    let target = &mut context.keyspace.databases[away];
    let free = replaces || target.get(to).is_none();
    match copied {
        Some((value, deadline)) if free => {
            put(target, to, value, deadline);
            context.out.flag(true);
        }
        _ => context.out.flag(false),
    }
    Ok(())
}

fn database_arg(text: &[u8]) -> Result<usize, Refusal> {
    let index = integer_arg(text)?;
    if i32::try_from(index).is_err() {
        return Err(Refusal::from(format!(
            "ERR value is out of range, value must between {} and {}",
            i32::MIN,
            i32::MAX
        )));
    }
    usize::try_from(index)
        .ok()
        .filter(|index| *index < DATABASES)
        .ok_or(Refusal::new("ERR DB index is out of range"))
}

pub(super) fn kind(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    out.simple(database.get(args[1]).map_or("none", |value| value.kind()));
    Ok(())
}

pub(super) fn scan(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let cursor = cursor(args[1])?;
    let scan = Scan::parse(&args[2..], true)?;
    let (mut page, next) = database.scan(cursor, scan.count);
    page.retain(|key| {
        let kind = database.get(key).map_or("none", |value| value.kind());
        scan.matches(key) && scan.kind.is_none_or(|wanted| is(wanted, kind))
    });
    out.array(2);
    out.bulk(next.to_string().as_bytes());
    out.bulks(page.iter());
    Ok(())
}

/// A cursor of the `SCAN` family.
pub(super) fn cursor(text: &[u8]) -> Result<u64, Refusal> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Refusal::new("ERR invalid cursor"))
}

/// The options of the `SCAN` family.
pub(super) struct Scan<'a> {
    count: usize,
    pattern: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
}

impl<'a> Scan<'a> {
    pub(super) fn parse(options: &[&'a [u8]], typed: bool) -> Result<Self, Refusal> {
        let mut scan = Self {
            count: 10,
            pattern: None,
            kind: None,
        };
        for option in options.chunks(2) {
            match option {
                [name, value] if is(name, "count") => {
                    let count = integer_arg(value)?;
                    if count < 1 {
                        return Err(SYNTAX);
                    }
                    scan.count = usize::try_from(count).unwrap_or(usize::MAX);
                }
                [name, value] if is(name, "match") => scan.pattern = Some(value),
                [name, value] if typed && is(name, "type") => scan.kind = Some(value),
                _ => return Err(SYNTAX),
            }
        }
        Ok(scan)
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        self.pattern
            .is_none_or(|pattern| matches_glob(pattern, name))
    }
}

/// Whether an option's name is `word`, in whatever case.
pub(super) fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// `key value` pairs from `pairs`, refused as a wrong arity of `name` when one lacks its value.
pub(super) fn pairs<'a, 'b>(
    pairs: &'b [&'a [u8]],
    name: &str,
) -> Result<impl Iterator<Item = (&'a [u8], &'a [u8])> + 'b, Refusal> {
    if !pairs.len().is_multiple_of(2) {
        return Err(wrong_arity(name));
    }
    Ok(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])))
}

/// The half-open range that an inclusive pair of Redis indexes selects of `length` items.
pub(super) fn range(start: i64, stop: i64, length: usize) -> Range<usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let absolute = |index: i64| if index < 0 { length + index } else { index };
    let start = absolute(start).clamp(0, length);
    let stop = absolute(stop).saturating_add(1).clamp(start, length);
    let index = |index: i64| usize::try_from(index).unwrap_or_default();
    index(start)..index(stop)
}

/// Redis's glob: `*`, `?`, `[a-z]`, `[^a]` and `\` before a literal.
pub(super) fn matches_glob(pattern: &[u8], name: &[u8]) -> bool {
    // Where to resume after a mismatch: the last `*`, and what it has taken so far. One place is
    // enough, so that no pattern takes exponential time.
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, n));
            continue;
        }
        match name.get(n) {
            None if p == pattern.len() => return true,
            None => return false,
            Some(byte) => {
                if let Some(after) = match_one(&pattern[p..], *byte) {
                    p += after;
                    n += 1;
                    continue;
                }
            }
        }
        let Some((after_star, taken)) = star else {
            return false;
        };
        star = Some((after_star, taken + 1));
        (p, n) = (after_star, taken + 1);
    }
}

/// Matches one byte against the element `pattern` begins with; the element's length if it does.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', class @ ..] => {
            let negated = class.first() == Some(&b'^');
            let mut at = usize::from(negated);
            let mut inside = false;
            loop {
                match &class[at.min(class.len())..] {
                    // An unclosed class ends with the pattern.
                    [] => break,
                    [b']', ..] => {
                        at += 1;
                        break;
                    }
                    [b'\\', literal, ..] => {
                        inside |= *literal == byte;
                        at += 2;
                    }
                    [from, b'-', to, ..] => {
                        inside |= (from.min(to)..=from.max(to)).contains(&&byte);
                        at += 3;
                    }
                    [literal, ..] => {
                        inside |= *literal == byte;
                        at += 1;
                    }
                }
            }
            (inside != negated).then_some(1 + at)
        }
        [literal, ..] => (*literal == byte).then_some(1),
    }
}
