//! Lists.

use crate::testing::server::commands::keys::{is, range};
use crate::testing::server::commands::wrong_arity;
use crate::testing::server::database::Database;
use crate::testing::server::resp::{
    Answer, NOT_POSITIVE, Refusal, Reply, SYNTAX, integer, integer_arg,
};
use crate::testing::server::storage::List;
use crate::testing::server::waiting::End;

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
