//! Hashes.

use crate::testing::server::commands::keys::{Scan, cursor, is, pairs};
use crate::testing::server::commands::sampling::{place, sample, sample_of_pairs_arg};
use crate::testing::server::commands::strings::{OVERFLOW, finite_arg, float_sum};
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer, integer_arg};
use crate::testing::server::storage::Hash;

pub(super) fn hset(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let added = insert(database, args, "hset")?;
    out.size(added);
    Ok(())
}

pub(super) fn hmset(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    insert(database, args, "hmset")?;
    out.ok();
    Ok(())
}

/// Sets every pair of `args`; how many fields are new.
fn insert(database: &mut Database, args: &[&[u8]], command: &str) -> Result<usize, Refusal> {
    let pairs = pairs(&args[2..], command)?;
    let hash: &mut Hash = database.write_or_create(args[1])?;
    let added = pairs
        .filter(|(field, value)| hash.insert(field.to_vec(), value.to_vec()).is_none())
        .count();
    database.changed(args[1]);
    Ok(added)
}

pub(super) fn hsetnx(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let hash: &mut Hash = database.write_or_create(args[1])?;
    let absent = !hash.contains_key(args[2]);
    if absent {
        hash.insert(args[2].to_vec(), args[3].to_vec());
        database.changed(args[1]);
    }
    out.flag(absent);
    Ok(())
}

pub(super) fn hget(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let hash = database.read::<Hash>(args[1])?;
    let value = hash.and_then(|hash| hash.get(args[2]));
    out.bulk_or_null(value.map(Vec::as_slice));
    Ok(())
}

pub(super) fn hmget(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let hash = database.read::<Hash>(args[1])?;
    out.array(args.len() - 2);
    for field in &args[2..] {
        let value = hash.and_then(|hash| hash.get(*field));
        out.bulk_or_null(value.map(Vec::as_slice));
    }
    Ok(())
}

pub(super) fn hdel(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let removed = match database.write::<Hash>(args[1])? {
        Some(hash) => args[2..]
            .iter()
            .filter(|field| hash.remove(**field).is_some())
            .count(),
        None => 0,
    };
    if removed > 0 {
        database.changed(args[1]);
    }
    out.size(removed);
    Ok(())
}

pub(super) fn hgetall(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let hash = database.read::<Hash>(args[1])?;
    out.map(hash.map_or(0, Hash::len));
    for (field, value) in hash.into_iter().flatten() {
        out.bulk(field);
        out.bulk(value);
    }
    Ok(())
}

pub(super) fn hkeys(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    match database.read::<Hash>(args[1])? {
        Some(hash) => out.bulks(hash.keys()),
        None => out.array(0),
    }
    Ok(())
}

pub(super) fn hvals(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    match database.read::<Hash>(args[1])? {
        Some(hash) => out.bulks(hash.values()),
        None => out.array(0),
    }
    Ok(())
}

pub(super) fn hexists(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let hash = database.read::<Hash>(args[1])?;
    out.flag(hash.is_some_and(|hash| hash.contains_key(args[2])));
    Ok(())
}

pub(super) fn hlen(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    out.size(database.read::<Hash>(args[1])?.map_or(0, Hash::len));
    Ok(())
}

pub(super) fn hstrlen(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let hash = database.read::<Hash>(args[1])?;
    let value = hash.and_then(|hash| hash.get(args[2]));
    out.size(value.map_or(0, Vec::len));
    Ok(())
}

pub(super) fn hrandfield(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    if args.len() == 2 {
        return one_at_random(database, args[1], out);
    }
    let (count, with_values) = match &args[2..] {
        [count] => (sample_of_pairs_arg(count, false)?, false),
        [count, option] if is(option, "withvalues") => (sample_of_pairs_arg(count, true)?, true),
        [count, ..] => {
            sample_of_pairs_arg(count, false)?;
            return Err(SYNTAX);
        }
        [] => return Err(SYNTAX),
    };
    let length = database.read::<Hash>(args[1])?.map_or(0, Hash::len);
    let places = match length {
        0 => Vec::new(),
        _ => sample(database, length, count)?,
    };
    let hash = database.read::<Hash>(args[1])?;
    let all: Vec<_> = hash.into_iter().flatten().collect();
    // RESP3 groups a field with its value, RESP2 lists them in a row.
    let grouped = with_values && out.resp3;
    out.array(if with_values && !grouped {
        places.len() * 2
    } else {
        places.len()
    });
    for place in places {
        let (field, value) = all[place];
        if grouped {
            out.array(2);
        }
        out.bulk(field);
        if with_values {
            out.bulk(value);
        }
    }
    Ok(())
}

fn one_at_random(database: &mut Database, key: &[u8], out: &mut Reply) -> Answer {
    let length = database.read::<Hash>(key)?.map_or(1, Hash::len);
    let place = place(database, length);
    let hash = database.read::<Hash>(key)?;
    let field = hash.and_then(|hash| hash.keys().nth(place));
    out.bulk_or_null(field.map(Vec::as_slice));
    Ok(())
}

pub(super) fn hincrby(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let increment = integer_arg(args[3])?;
    let current = match database
        .read::<Hash>(args[1])?
        .and_then(|hash| hash.get(args[2]))
    {
        Some(text) => integer(text).ok_or(Refusal::new("ERR hash value is not an integer"))?,
        None => 0,
    };
    let sum = current.checked_add(increment).ok_or(OVERFLOW)?;
    database
        .write_or_create::<Hash>(args[1])?
        .insert(args[2].to_vec(), sum.to_string().into_bytes());
    database.changed(args[1]);
    out.integer(sum);
    Ok(())
}

pub(super) fn hincrbyfloat(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let increment = finite_arg(args[3])?;
    let hash = database.read::<Hash>(args[1])?;
    let current = hash.and_then(|hash| hash.get(args[2]));
    let current = current.map_or(b"0".as_slice(), Vec::as_slice);
    let sum = float_sum(
        current,
        increment,
        Refusal::new("ERR hash value is not a float"),
    )?;
    out.bulk(sum.as_bytes());
    database
        .write_or_create::<Hash>(args[1])?
        .insert(args[2].to_vec(), sum.into_bytes());
    database.changed(args[1]);
    Ok(())
}

/// Everything in one page, as Redis does for a small hash.
pub(super) fn hscan(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    cursor(args[2])?;
    let mut page = Vec::new();
    if let Some(hash) = database.read::<Hash>(args[1])? {
        let scan = Scan::parse(&args[3..], false)?;
        let matching = hash.iter().filter(|(field, _)| scan.matches(field));
        page.extend(matching.flat_map(|(field, value)| [field, value]));
    }
    out.array(2);
    out.bulk(b"0");
    out.bulks(page.into_iter());
    Ok(())
}
