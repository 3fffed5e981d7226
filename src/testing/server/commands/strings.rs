//! Strings and counters.

use crate::testing::server::commands::expiry::Unit;
use crate::testing::server::commands::keys::{is, pairs, range};
use crate::testing::server::database::Database;
use crate::testing::server::extended;
use crate::testing::server::resp::{
    Answer, MAX_STRING, NOT_AN_INTEGER, Refusal, Reply, SYNTAX, integer, integer_arg,
};
use crate::testing::server::storage::Value;

type Text = Vec<u8>;

pub(super) fn get(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let value = database.read::<Text>(args[1])?;
    out.bulk_or_null(value.map(Vec::as_slice));
    Ok(())
}

pub(super) fn getdel(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    get(database, args, out)?;
    database.remove(args[1]);
    Ok(())
}

pub(super) fn getset(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    get(database, args, out)?;
    put(database, args[1], args[2]);
    Ok(())
}

pub(super) fn getex(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let key = args[1];
    let life = match &args[2..] {
        [] => None,
        [option] if is(option, "persist") => Some(None),
        [option, time] => {
            let unit = Unit::of_option(option).ok_or(SYNTAX)?;
            Some(Some((unit, *time)))
        }
        _ => return Err(SYNTAX),
    };
    // A key of another type, or none, is told before a wrong time is.
    get(database, args, out)?;
    if database.get(key).is_none() {
        return Ok(());
    }
    match life {
        None => {}
        Some(None) => {
            database.persist(key);
        }
        Some(Some((unit, time))) => {
            let deadline = unit.positive_deadline(time, database.now(), "getex")?;
            database.expire(key, deadline);
        }
    }
    Ok(())
}

pub(super) fn set(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (key, value) = (args[1], args[2]);
    let options = SetOptions::parse(&args[3..])?;
    let deadline = match options.life {
        Life::For(unit, time) => Some(unit.positive_deadline(time, database.now(), "set")?),
        Life::Kept => database.deadline(key).flatten(),
        Life::Endless => None,
    };
    if options.get {
        get(database, args, out)?;
    }
    let exists = database.get(key).is_some();
    if options.only_new && exists || options.only_old && !exists {
        if !options.get {
            out.null();
        }
        return Ok(());
    }
    put(database, key, value);
    if let Some(deadline) = deadline {
        database.expire(key, deadline);
    }
    if !options.get {
        out.ok();
    }
    Ok(())
}

#[derive(Debug)]
struct SetOptions<'a> {
    only_new: bool,
    only_old: bool,
    get: bool,
    life: Life<'a>,
}

#[derive(Debug)]
enum Life<'a> {
    Endless,
    Kept,
    For(Unit, &'a [u8]),
}

impl<'a> SetOptions<'a> {
    fn parse(args: &[&'a [u8]]) -> Result<Self, Refusal> {
        let mut options = Self {
            only_new: false,
            only_old: false,
            get: false,
            life: Life::Endless,
        };
        let mut args = args.iter();
        while let Some(option) = args.next() {
            if is(option, "nx") {
                options.only_new = true;
            } else if is(option, "xx") {
                options.only_old = true;
            } else if is(option, "get") {
                options.get = true;
            } else {
                let life = if is(option, "keepttl") {
                    Life::Kept
                } else {
                    let unit = Unit::of_option(option).ok_or(SYNTAX)?;
                    Life::For(unit, args.next().ok_or(SYNTAX)?)
                };
                if !matches!(options.life, Life::Endless) {
                    return Err(SYNTAX);
                }
                options.life = life;
            }
        }
        if options.only_new && options.only_old {
            return Err(SYNTAX);
        }
        Ok(options)
    }
}

pub(super) fn setnx(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let absent = database.get(args[1]).is_none();
    if absent {
        put(database, args[1], args[2]);
    }
    out.flag(absent);
    Ok(())
}

pub(super) fn setex(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    set_for(database, args, out, Unit::Seconds, "setex")
}

pub(super) fn psetex(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    set_for(database, args, out, Unit::Millis, "psetex")
}

fn set_for(
    database: &mut Database,
    args: &[&[u8]],
    out: &mut Reply,
    unit: Unit,
    command: &str,
) -> Answer {
    let deadline = unit.positive_deadline(args[2], database.now(), command)?;
    put(database, args[1], args[3]);
    database.expire(args[1], deadline);
    out.ok();
    Ok(())
}

pub(super) fn mget(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    out.array(args.len() - 1);
    for key in &args[1..] {
        // MGET alone takes a key of another type for one that is not there.
        let value = database.read::<Text>(key).ok().flatten();
        out.bulk_or_null(value.map(Vec::as_slice));
    }
    Ok(())
}

pub(super) fn mset(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    for (key, value) in pairs(&args[1..], "mset")? {
        put(database, key, value);
    }
    out.ok();
    Ok(())
}

pub(super) fn msetnx(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let absent = pairs(&args[1..], "msetnx")?.all(|(key, _)| database.get(key).is_none());
    if absent {
        for (key, value) in pairs(&args[1..], "msetnx")? {
            put(database, key, value);
        }
    }
    out.flag(absent);
    Ok(())
}

pub(super) fn append(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (key, tail) = (args[1], args[2]);
    let length = database.read::<Text>(key)?.map_or(0, Vec::len);
    fits(length.saturating_add(tail.len()))?;
    let text: &mut Text = database.write_or_create(key)?;
    text.extend_from_slice(tail);
    out.size(text.len());
    database.changed(key);
    Ok(())
}

pub(super) fn strlen(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    out.size(database.read::<Text>(args[1])?.map_or(0, Vec::len));
    Ok(())
}

pub(super) fn getrange(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (start, stop) = (integer_arg(args[2])?, integer_arg(args[3])?);
    let empty = Text::new();
    let text = database.read::<Text>(args[1])?.unwrap_or(&empty);
    // Two negative indexes the wrong way round select nothing, even where clamping to the
    // beginning would make them the same.
    if start < 0 && stop < 0 && start > stop {
        out.bulk(b"");
        return Ok(());
    }
    // Here, unlike in lists, an end before the beginning is the first byte.
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    let stop = if stop < -length { -length } else { stop };
    out.bulk(&text[range(start, stop, text.len())]);
    Ok(())
}

pub(super) fn setrange(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (key, part) = (args[1], args[3]);
    let offset = usize::try_from(integer_arg(args[2])?)
        .map_err(|_| Refusal::new("ERR offset is out of range"))?;
    let length = database.read::<Text>(key)?.map_or(0, Vec::len);
    if part.is_empty() {
        out.size(length);
        return Ok(());
    }
    let end = offset.saturating_add(part.len());
    fits(end)?;
    let text: &mut Text = database.write_or_create(key)?;
    if text.len() < end {
        text.resize(end, 0);
    }
    text[offset..end].copy_from_slice(part);
    out.size(text.len());
    database.changed(key);
    Ok(())
}

pub(super) fn incr(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    add(database, args[1], 1, out)
}

pub(super) fn decr(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    add(database, args[1], -1, out)
}

pub(super) fn incrby(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    add(database, args[1], integer_arg(args[2])?, out)
}

pub(super) fn decrby(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let negated = integer_arg(args[2])?
        .checked_neg()
        .ok_or(Refusal::new("ERR decrement would overflow"))?;
    add(database, args[1], negated, out)
}

fn add(database: &mut Database, key: &[u8], increment: i64, out: &mut Reply) -> Answer {
    let current = match database.read::<Text>(key)? {
        Some(text) => integer(text).ok_or(NOT_AN_INTEGER)?,
        None => 0,
    };
    let sum = current.checked_add(increment).ok_or(OVERFLOW)?;
    *database.write_or_create::<Text>(key)? = sum.to_string().into_bytes();
    database.changed(key);
    out.integer(sum);
    Ok(())
}

pub(super) const OVERFLOW: Refusal = Refusal::new("ERR increment or decrement would overflow");

pub(super) fn incrbyfloat(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let current = database.read::<Text>(args[1])?;
    let current = current.map_or(b"0".as_slice(), Vec::as_slice);
    let sum = float_sum(current, args[2], NOT_A_FLOAT)?;
    out.bulk(sum.as_bytes());
    *database.write_or_create::<Text>(args[1])? = sum.into_bytes();
    database.changed(args[1]);
    Ok(())
}

/// A text that is a finite float; `INCRBYFLOAT` finds an infinite one only in the sum.
pub(super) fn finite_arg(text: &[u8]) -> Result<&[u8], Refusal> {
    match float(text) {
        Some(number) if number.is_finite() => Ok(text),
        Some(_) => Err(Refusal::new("ERR value is NaN or Infinity")),
        None => Err(NOT_A_FLOAT),
    }
}

/// `current + increment` as Redis prints it; `refusal` is for a `current` that is no float.
pub(super) fn float_sum(
    current: &[u8],
    increment: &[u8],
    refusal: Refusal,
) -> Result<String, Refusal> {
    if let Some(sum) = extended::sum(current, increment) {
        return Ok(sum);
    }
    let current = float(current).ok_or(refusal)?;
    let sum = current + float(increment).ok_or(NOT_A_FLOAT)?;
    if !sum.is_finite() {
        return Err(Refusal::new("ERR increment would produce NaN or Infinity"));
    }
    Ok(trimmed(format!("{sum:.17}")))
}

const NOT_A_FLOAT: Refusal = Refusal::new("ERR value is not a valid float");

fn trimmed(number: String) -> String {
    number
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

fn float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().filter(|number: &f64| !number.is_nan())
}

fn put(database: &mut Database, key: &[u8], value: &[u8]) {
    database.put(key, Value::String(value.to_vec()));
}

fn fits(length: usize) -> Answer {
    if length > MAX_STRING {
        return Err(Refusal::new(
            "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
        ));
    }
    Ok(())
}
