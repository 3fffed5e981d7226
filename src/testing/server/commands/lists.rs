//! Lists, and the commands that wait for them to fill.

use std::time::Duration;

use tokio::time::Instant;

use crate::testing::server::commands::keys::{is, range};
use crate::testing::server::commands::wrong_arity;
use crate::testing::server::database::{Database, Key};
use crate::testing::server::resp::{
    Answer, NOT_POSITIVE, Refusal, Reply, SYNTAX, integer, integer_arg,
};
use crate::testing::server::session::Context;
use crate::testing::server::storage::List;
use crate::testing::server::waiting::{End, Take};

pub(super) fn lpush(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    push(database, args, out, End::Left)
}

pub(super) fn rpush(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    push(database, args, out, End::Right)
}

pub(super) fn lpushx(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    push_existing(database, args, out, End::Left)
}

pub(super) fn rpushx(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    push_existing(database, args, out, End::Right)
}

fn push_existing(database: &mut Database, args: &[&[u8]], out: &mut Reply, end: End) -> Answer {
    if database.read::<List>(args[1])?.is_none() {
        out.size(0);
        return Ok(());
    }
    push(database, args, out, end)
}

fn push(database: &mut Database, args: &[&[u8]], out: &mut Reply, end: End) -> Answer {
    let list = database.write_or_create(args[1])?;
    for item in &args[2..] {
        end.push(list, item.to_vec());
    }
    out.size(list.len());
    database.changed(args[1]);
    Ok(())
}

pub(super) fn lpop(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    pop(database, args, out, End::Left)
}

pub(super) fn rpop(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    pop(database, args, out, End::Right)
}

fn pop(database: &mut Database, args: &[&[u8]], out: &mut Reply, end: End) -> Answer {
    let (key, count) = match args {
        [_, key] => (*key, None),
        [_, key, count] => (*key, Some(count_arg(count)?)),
        [name, ..] => return Err(wrong_arity(&String::from_utf8_lossy(name).to_lowercase())),
        [] => return Err(SYNTAX),
    };
    let list = database.write::<List>(key)?;
    match (list, count) {
        (None, None) => out.null(),
        (None, Some(_)) => out.null_array(),
        (Some(list), None) => {
            out.bulk_or_null(end.pop(list).as_deref());
            database.changed(key);
        }
        (Some(list), Some(count)) => {
            let items: Vec<_> = (0..count.min(list.len()))
                .filter_map(|_| end.pop(list))
                .collect();
            if !items.is_empty() {
                database.changed(key);
            }
            out.bulks(items.iter());
        }
    }
    Ok(())
}

/// A count of elements to take out.
pub(super) fn count_arg(text: &[u8]) -> Result<usize, Refusal> {
    let count = integer_arg(text).map_err(|_| NOT_POSITIVE)?;
    usize::try_from(count).map_err(|_| NOT_POSITIVE)
}

pub(super) fn llen(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    out.size(database.read::<List>(args[1])?.map_or(0, List::len));
    Ok(())
}

pub(super) fn lrange(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (start, stop) = (integer_arg(args[2])?, integer_arg(args[3])?);
    match database.read::<List>(args[1])? {
        Some(list) => out.bulks(list.range(range(start, stop, list.len()))),
        None => out.array(0),
    }
    Ok(())
}

pub(super) fn lindex(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let Some(list) = database.read::<List>(args[1])? else {
        out.null();
        return Ok(());
    };
    let index = integer_arg(args[2])?;
    let item = position(index, list.len()).and_then(|position| list.get(position));
    out.bulk_or_null(item.map(Vec::as_slice));
    Ok(())
}

pub(super) fn lset(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let list = database
        .write::<List>(args[1])?
        .ok_or(Refusal::new("ERR no such key"))?;
    let index = integer_arg(args[2])?;
    let item = position(index, list.len())
        .and_then(|position| list.get_mut(position))
        .ok_or(Refusal::new("ERR index out of range"))?;
    *item = args[3].to_vec();
    database.changed(args[1]);
    out.ok();
    Ok(())
}

pub(super) fn lpos(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (mut rank, mut count, mut depth) = (1, None, 0);
    for option in args[3..].chunks(2) {
        match option {
            [name, value] if is(name, "rank") => {
                rank = integer_arg(value)?;
                if rank == 0 {
                    return Err(RANK_ZERO);
                }
            }
            [name, value] if is(name, "count") => {
                count = Some(size_arg(value, "ERR COUNT can't be negative")?);
            }
            [name, value] if is(name, "maxlen") => {
                depth = size_arg(value, "ERR MAXLEN can't be negative")?;
            }
            _ => return Err(SYNTAX),
        }
    }
    let unlimited = |limit: usize| if limit == 0 { usize::MAX } else { limit };
    let list = database.read::<List>(args[1])?;
    let length = list.map_or(0, List::len);
    // The one rank whose opposite overflows is the last match.
    let skipped = rank.checked_abs().map_or(0, |rank| rank - 1);
    let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
    let places: Vec<usize> = (0..length)
        .map(|place| if rank < 0 { length - 1 - place } else { place })
        .take(unlimited(depth))
        .filter(|place| list.is_some_and(|list| list[*place] == args[2]))
        .skip(skipped)
        .take(count.map_or(1, unlimited))
        .collect();
    if count.is_some() {
        out.array(places.len());
        places.into_iter().for_each(|place| out.size(place));
    } else if let [place] = places[..] {
        out.size(place);
    } else {
        out.null();
    }
    Ok(())
}

fn size_arg(text: &[u8], refusal: &'static str) -> Result<usize, Refusal> {
    integer(text)
        .and_then(|size| usize::try_from(size).ok())
        .ok_or(Refusal::new(refusal))
}

const RANK_ZERO: Refusal = Refusal::new(
    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use \
     negative to start from the end of the list",
);

pub(super) fn linsert(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let after = match args[2] {
        word if is(word, "before") => 0,
        word if is(word, "after") => 1,
        _ => return Err(SYNTAX),
    };
    let Some(list) = database.write::<List>(args[1])? else {
        out.size(0);
        return Ok(());
    };
    let Some(pivot) = list.iter().position(|item| item == args[3]) else {
        out.integer(-1);
        return Ok(());
    };
    list.insert(pivot + after, args[4].to_vec());
    out.size(list.len());
    database.changed(args[1]);
    Ok(())
}

fn position(index: i64, length: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(position) => Some(position),
        Err(_) => length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

pub(super) fn lrem(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let count = integer_arg(args[2])?;
    let Some(list) = database.write::<List>(args[1])? else {
        out.size(0);
        return Ok(());
    };
    let before = list.len();
    let mut left = match count {
        0 => usize::MAX,
        _ => usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX),
    };
    let mut keep = |item: &Vec<u8>| {
        let goes = left > 0 && item.as_slice() == args[3];
        left -= usize::from(goes);
        !goes
    };
    if count < 0 {
        // The last ones: the same from the other end.
        list.make_contiguous().reverse();
        list.retain(&mut keep);
        list.make_contiguous().reverse();
    } else {
        list.retain(&mut keep);
    }
    let removed = before - list.len();
    if removed > 0 {
        database.changed(args[1]);
    }
    out.size(removed);
    Ok(())
}

pub(super) fn ltrim(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (start, stop) = (integer_arg(args[2])?, integer_arg(args[3])?);
    if let Some(list) = database.write::<List>(args[1])? {
        let kept = range(start, stop, list.len());
        list.truncate(kept.end);
        list.drain(..kept.start);
        database.changed(args[1]);
    }
    out.ok();
    Ok(())
}

pub(super) fn lmove(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let take = move_arg(args[2], args[3], args[4])?;
    take_now(database, args[1], &take, out)
}

pub(super) fn rpoplpush(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let take = move_arg(args[2], b"right", b"left")?;
    take_now(database, args[1], &take, out)
}

pub(super) fn lmpop(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (keys, take) = several_arg(&args[1..])?;
    for key in keys {
        if database.take(key, &take, out)? {
            return Ok(());
        }
    }
    out.null_array();
    Ok(())
}

/// The number of keys, the keys, which end, and how many elements.
fn several_arg<'a, 'b>(args: &'b [&'a [u8]]) -> Result<(&'b [&'a [u8]], Take), Refusal> {
    let few = Refusal::new("ERR numkeys should be greater than 0");
    let keys = integer(args[0]).filter(|keys| *keys > 0).ok_or(few)?;
    let keys = usize::try_from(keys).unwrap_or(usize::MAX);
    let (keys, rest) = args[1..].split_at_checked(keys).ok_or(SYNTAX)?;
    let (end, count) = match rest {
        [end] => (end_arg(end)?, 1),
        [end, rest @ ..] => {
            let end = end_arg(end)?;
            let [name, count, rest @ ..] = rest else {
                return Err(SYNTAX);
            };
            if !is(name, "count") {
                return Err(SYNTAX);
            }
            let few = Refusal::new("ERR count should be greater than 0");
            let count = integer(count).filter(|count| *count > 0).ok_or(few)?;
            if !rest.is_empty() {
                return Err(SYNTAX);
            }
            (end, usize::try_from(count).unwrap_or(usize::MAX))
        }
        [] => return Err(SYNTAX),
    };
    Ok((keys, Take::Several { end, count }))
}

fn take_now(database: &mut Database, key: &[u8], take: &Take, out: &mut Reply) -> Answer {
    if !database.take(key, take, out)? {
        out.null();
    }
    Ok(())
}

fn move_arg(into: &[u8], from: &[u8], to: &[u8]) -> Result<Take, Refusal> {
    Ok(Take::Move {
        from: end_arg(from)?,
        to: end_arg(to)?,
        into: into.into(),
    })
}

fn end_arg(text: &[u8]) -> Result<End, Refusal> {
    match text {
        left if is(left, "left") => Ok(End::Left),
        right if is(right, "right") => Ok(End::Right),
        _ => Err(SYNTAX),
    }
}

pub(super) fn blpop(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    blocking_pop(context, args, End::Left)
}

pub(super) fn brpop(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    blocking_pop(context, args, End::Right)
}

pub(super) fn blmove(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let take = move_arg(args[2], args[3], args[4])?;
    take_or_wait(context, &args[1..2], take, args[5])
}

pub(super) fn brpoplpush(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let take = move_arg(args[2], b"right", b"left")?;
    take_or_wait(context, &args[1..2], take, args[3])
}

pub(super) fn blmpop(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    let (keys, take) = several_arg(&args[2..])?;
    take_or_wait(context, keys, take, args[1])
}

fn blocking_pop(context: &mut Context<'_>, args: &[&[u8]], end: End) -> Answer {
    let (keys, timeout) = (&args[1..args.len() - 1], args[args.len() - 1]);
    take_or_wait(context, keys, Take::Pop(end), timeout)
}

fn take_or_wait(context: &mut Context<'_>, keys: &[&[u8]], take: Take, timeout: &[u8]) -> Answer {
    let deadline = deadline_arg(timeout)?;
    let database = &mut context.keyspace.databases[context.session.db];
    for key in keys {
        if database.take(key, &take, context.out)? {
            return Ok(());
        }
    }
    if context.session.executing {
        match take {
            Take::Pop(_) | Take::Several { .. } => context.out.null_array(),
            Take::Move { .. } | Take::Read(_) | Take::Nothing => context.out.null(),
        }
        return Ok(());
    }
    let mut nothing = Reply::new(context.out.resp3);
    nothing.null_array();
    let mut waits: Vec<Key> = Vec::with_capacity(keys.len());
    for key in keys {
        if !waits.iter().any(|wait| &**wait == *key) {
            waits.push(Key::from(*key));
        }
    }
    context.block(waits, take, deadline, nothing.bytes);
    Ok(())
}

/// A timeout in seconds; 0 is for ever.
fn deadline_arg(text: &[u8]) -> Result<Option<Instant>, Refusal> {
    let seconds = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<f64>().ok())
        .filter(|seconds| !seconds.is_nan())
        .ok_or(Refusal::new("ERR timeout is not a float or out of range"))?;
    // What is too long for Redis overflows there, and is called negative too.
    let negative = Refusal::new("ERR timeout is negative");
    let timeout = Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|timeout| timeout.as_millis() < i64::MAX as u128)
        .ok_or(negative)?;
    if timeout.is_zero() {
        return Ok(None);
    }
    // Longer than the clock can tell is for ever.
    Ok(Instant::now().checked_add(timeout))
}
