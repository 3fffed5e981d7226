//! Streams: their entries.

use std::ops::RangeInclusive;

use crate::testing::server::commands::keys::is;
use crate::testing::server::commands::wrong_arity;
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer_arg};
use crate::testing::server::stream::{Fields, Id, Stream};

pub(super) fn xadd(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let mut options = Options::default();
    let (id, fields) = match options.parse(&args[2..], true)? {
        [id, fields @ ..] => (NewId::parse(id)?, fields),
        [] => return Err(wrong_arity("xadd")),
    };
    options.check(true)?;
    if fields.is_empty() || !fields.len().is_multiple_of(2) {
        return Err(wrong_arity("xadd"));
    }
    if matches!(id, NewId::Given(Id::MIN)) {
        return Err(Refusal::new(
            "ERR The ID specified in XADD must be greater than 0-0",
        ));
    }
    let (key, now) = (args[1], database.now());
    let last = match database.read::<Stream>(key)? {
        Some(stream) => stream.last,
        None if options.only_existing => {
            out.null();
            return Ok(());
        }
        None => Id::MIN,
    };
    let id = id.after(last, now)?;
    let stream: &mut Stream = database.write_or_create(key)?;
    let pairs = fields.chunks_exact(2);
    let fields = pairs.map(|pair| (pair[0].to_vec(), pair[1].to_vec()));
    stream.entries.insert(id, fields.collect());
    stream.last = id;
    options.trim(stream);
    database.changed(key);
    out.bulk(id.to_string().as_bytes());
    Ok(())
}

/// The id an entry is to have.
#[derive(Debug)]
enum NewId {
    Given(Id),
    /// Numbered by the server within this millisecond.
    Within(u64),
    Now,
}

impl NewId {
    fn parse(text: &[u8]) -> Result<Self, Refusal> {
        if text == b"*" {
            return Ok(Self::Now);
        }
        match text.strip_suffix(b"-*") {
            Some(millis) if !millis.contains(&b'-') => {
                Ok(Self::Within(Id::parse(millis, 0)?.millis))
            }
            _ => Ok(Self::Given(Id::parse(text, 0)?)),
        }
    }

    fn after(&self, last: Id, now: i64) -> Result<Id, Refusal> {
        let next = last.next().ok_or(Refusal::new(
            "ERR The stream has exhausted the last possible ID, unable to add more items",
        ))?;
        let id = match *self {
            Self::Given(id) => id,
            Self::Within(millis) if millis == last.millis => Id {
                millis,
                // That no number is left is told in the words of another error.
                number: last
                    .number
                    .checked_add(1)
                    .ok_or(Refusal::new("ERR Elements are too large to be stored"))?,
            },
            Self::Within(millis) => Id { millis, number: 0 },
            Self::Now => {
                let millis = u64::try_from(now).unwrap_or_default();
                // A clock that goes backwards does not make ids that do.
                next.max(Id { millis, number: 0 })
            }
        };
        if id <= last {
            return Err(Refusal::new(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item",
            ));
        }
        Ok(id)
    }
}

pub(super) fn xtrim(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let mut options = Options::default();
    if !options.parse(&args[2..], false)?.is_empty() {
        return Err(SYNTAX);
    }
    options.check(false)?;
    let trimmed = match database.write::<Stream>(args[1])? {
        Some(stream) => options.trim(stream),
        None => 0,
    };
    if trimmed > 0 {
        database.changed(args[1]);
    }
    out.size(trimmed);
    Ok(())
}

/// The options of `XADD` and `XTRIM`.
#[derive(Debug, Default)]
struct Options {
    only_existing: bool,
    trim: Option<Trim>,
    approximate: bool,
    limit: Option<i64>,
}

#[derive(Debug)]
enum Trim {
    Longest(i64),
    Oldest(Id),
}

impl Options {
    /// Reads the options that `args` begins with; what follows them.
    fn parse<'a, 'b>(
        &mut self,
        args: &'b [&'a [u8]],
        adding: bool,
    ) -> Result<&'b [&'a [u8]], Refusal> {
        let mut rest = args;
        loop {
            rest = match rest {
                [name, after @ ..] if adding && is(name, "nomkstream") => {
                    self.only_existing = true;
                    after
                }
                [name, limit, after @ ..] if is(name, "limit") => {
                    let limit = integer_arg(limit)?;
                    if limit < 0 {
                        return Err(Refusal::new("ERR The LIMIT argument must be >= 0."));
                    }
                    self.limit = Some(limit);
                    after
                }
                [name, after @ ..]
                    if !after.is_empty() && (is(name, "maxlen") || is(name, "minid")) =>
                {
                    self.parse_trim(is(name, "maxlen"), after)?
                }
                _ => return Ok(rest),
            };
        }
    }

    fn parse_trim<'a, 'b>(
        &mut self,
        longest: bool,
        args: &'b [&'a [u8]],
    ) -> Result<&'b [&'a [u8]], Refusal> {
        if self.trim.is_some() {
            return Err(Refusal::new(
                "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
            ));
        }
        let (approximate, args) = match args {
            [b"~", args @ ..] if !args.is_empty() => (true, args),
            [b"=", args @ ..] if !args.is_empty() => (false, args),
            _ => (false, args),
        };
        self.approximate = approximate;
        let [threshold, rest @ ..] = args else {
            return Err(SYNTAX);
        };
        self.trim = Some(if longest {
            let length = integer_arg(threshold)?;
            if length < 0 {
                return Err(Refusal::new("ERR The MAXLEN argument must be >= 0."));
            }
            Trim::Longest(length)
        } else {
            Trim::Oldest(Id::parse(threshold, 0)?)
        });
        Ok(rest)
    }

    fn check(&self, adding: bool) -> Answer {
        let trims = self.trim.is_some();
        if self.limit.is_some_and(|limit| limit > 0) && !trims {
            return Err(Refusal::new(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            ));
        }
        if !adding && !trims {
            return Err(Refusal::new(
                "ERR syntax error, XTRIM must be called with a trimming strategy",
            ));
        }
        if self.limit.is_some() && !self.approximate {
            return Err(Refusal::new(
                "ERR syntax error, LIMIT cannot be used without the special ~ option",
            ));
        }
        Ok(())
    }

    /// Removes the oldest entries; how many.
    fn trim(&self, stream: &mut Stream) -> usize {
        let surplus = match self.trim {
            None => return 0,
            Some(Trim::Longest(length)) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                stream.len().saturating_sub(length)
            }
            Some(Trim::Oldest(id)) => stream.entries.range(..id).count(),
        };
        let mut trimmed = surplus;
        if self.approximate {
            // Redis then removes whole nodes only, and not much work at once.
            let limit = match self.limit {
                Some(0) => usize::MAX,
                Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
                None => 100 * NODE,
            };
            let most = surplus.min(limit);
            trimmed = most / NODE * NODE;
            // The last node may be a small one.
            if most == stream.len() {
                trimmed = most;
            }
        }
        for _ in 0..trimmed {
            stream.entries.pop_first();
        }
        trimmed
    }
}

/// How many entries a node of Redis holds by default (`stream-node-max-entries`).
const NODE: usize = 100;

pub(super) fn xlen(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let stream = database.read::<Stream>(args[1])?;
    out.size(stream.map_or(0, Stream::len));
    Ok(())
}

pub(super) fn xrange(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let interval = interval_arg(args[2], args[3])?;
    list(database, args, interval, false, out)
}

pub(super) fn xrevrange(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let interval = interval_arg(args[3], args[2])?;
    list(database, args, interval, true, out)
}

fn list(
    database: &Database,
    args: &[&[u8]],
    interval: RangeInclusive<Id>,
    reverse: bool,
    out: &mut Reply,
) -> Answer {
    let mut count = usize::MAX;
    for option in args[4..].chunks(2) {
        match option {
            [name, number] if is(name, "count") => {
                let number = integer_arg(number)?.max(0);
                count = usize::try_from(number).unwrap_or(usize::MAX);
            }
            _ => return Err(SYNTAX),
        }
    }
    let Some(stream) = database.read::<Stream>(args[1])? else {
        out.array(0);
        return Ok(());
    };
    if count == 0 {
        out.null_array();
        return Ok(());
    }
    let range = stream.range(interval);
    let selected: Vec<_> = if reverse {
        range.rev().take(count).collect()
    } else {
        range.take(count).collect()
    };
    out.array(selected.len());
    for (id, fields) in selected {
        entry(*id, fields, out);
    }
    Ok(())
}

/// An interval of ids: `-` and `+` are its utmost ends, `(` excludes the id that follows.
pub(super) fn interval_arg(start: &[u8], end: &[u8]) -> Result<RangeInclusive<Id>, Refusal> {
    let start = match start {
        [b'(', id @ ..] if !id.is_empty() => Id::parse(id, 0)?
            .next()
            .ok_or(Refusal::new("ERR invalid start ID for the interval"))?,
        _ => end_arg(start, 0)?,
    };
    let end = match end {
        [b'(', id @ ..] if !id.is_empty() => Id::parse(id, u64::MAX)?
            .previous()
            .ok_or(Refusal::new("ERR invalid end ID for the interval"))?,
        _ => end_arg(end, u64::MAX)?,
    };
    Ok(start..=end)
}

fn end_arg(text: &[u8], number: u64) -> Result<Id, Refusal> {
    match text {
        b"-" => Ok(Id::MIN),
        b"+" => Ok(Id::MAX),
        _ => Id::parse(text, number),
    }
}

pub(super) fn entry(id: Id, fields: &Fields, out: &mut Reply) {
    out.array(2);
    out.bulk(id.to_string().as_bytes());
    out.array(fields.len() * 2);
    for (field, value) in fields {
        out.bulk(field);
        out.bulk(value);
    }
}

pub(super) fn xdel(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let Some(stream) = database.write::<Stream>(args[1])? else {
        out.size(0);
        return Ok(());
    };
    let removed = ids(&args[2..])?
        .iter()
        .filter(|id| stream.entries.remove(id).is_some())
        .count();
    if removed > 0 {
        database.changed(args[1]);
    }
    out.size(removed);
    Ok(())
}

pub(super) fn ids(args: &[&[u8]]) -> Result<Vec<Id>, Refusal> {
    args.iter().map(|id| Id::parse(id, 0)).collect()
}
