//! Sets.

use crate::testing::server::commands::keys::{Scan, cursor, is};
use crate::testing::server::commands::lists::count_arg;
use crate::testing::server::commands::sampling::{place, sample, sample_arg};
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer};
use crate::testing::server::storage::{Kind as _, Set};

pub(super) fn sadd(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set: &mut Set = database.write_or_create(args[1])?;
    let added = args[2..]
        .iter()
        .filter(|member| set.insert(member.to_vec()))
        .count();
    if added > 0 {
        database.changed(args[1]);
    }
    out.size(added);
    Ok(())
}

pub(super) fn srem(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let removed = match database.write::<Set>(args[1])? {
        Some(set) => args[2..]
            .iter()
            .filter(|member| set.remove(**member))
            .count(),
        None => 0,
    };
    if removed > 0 {
        database.changed(args[1]);
    }
    out.size(removed);
    Ok(())
}

pub(super) fn smembers(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = database.read::<Set>(args[1])?;
    out.set(set.map_or(0, Set::len));
    for member in set.into_iter().flatten() {
        out.bulk(member);
    }
    Ok(())
}

pub(super) fn sismember(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = database.read::<Set>(args[1])?;
    out.flag(set.is_some_and(|set| set.contains(args[2])));
    Ok(())
}

pub(super) fn smismember(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = database.read::<Set>(args[1])?;
    out.array(args.len() - 2);
    for member in &args[2..] {
        out.flag(set.is_some_and(|set| set.contains(*member)));
    }
    Ok(())
}

pub(super) fn smove(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (from, to, member) = (args[1], args[2], args[3]);
    let Some(source) = database.read::<Set>(from)? else {
        out.flag(false);
        return Ok(());
    };
    let there = source.contains(member);
    // A destination of another type is told even when there is nothing to move.
    database.read::<Set>(to)?;
    if there && from != to {
        if let Some(source) = database.write::<Set>(from)? {
            source.remove(member);
        }
        database.changed(from);
        database.write_or_create::<Set>(to)?.insert(member.to_vec());
        database.changed(to);
    }
    out.flag(there);
    Ok(())
}

pub(super) fn scard(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    out.size(database.read::<Set>(args[1])?.map_or(0, Set::len));
    Ok(())
}

pub(super) fn spop(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (key, count) = match args {
        [_, key] => (*key, None),
        [_, key, count] => (*key, Some(count_arg(count)?)),
        _ => return Err(SYNTAX),
    };
    let popped = pick(database, key, count.unwrap_or(1))?;
    if !popped.is_empty() {
        database.changed(key);
    }
    if count.is_some() {
        out.set(popped.len());
        popped.iter().for_each(|member| out.bulk(member));
    } else {
        out.bulk_or_null(popped.first().map(Vec::as_slice));
    }
    Ok(())
}

/// Takes `count` random members out of a set, all of them in order if it has no more.
fn pick(database: &mut Database, key: &[u8], count: usize) -> Result<Vec<Vec<u8>>, Refusal> {
    let dice = database.random();
    let Some(set) = database.write::<Set>(key)? else {
        return Ok(Vec::new());
    };
    if count >= set.len() {
        return Ok(std::mem::take(set).into_iter().collect());
    }
    let mut picked = Vec::with_capacity(count);
    for turn in 0..count as u64 {
        // One throw, turned a little further each time.
        let index = dice.wrapping_add(turn.wrapping_mul(dice | 1)) % set.len() as u64;
        let member = set.iter().nth(index as usize).cloned();
        picked.extend(member.and_then(|member| set.take(&member)));
    }
    Ok(picked)
}

pub(super) fn srandmember(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let count = match &args[2..] {
        [] => None,
        [count] => Some(sample_arg(count)?),
        _ => return Err(SYNTAX),
    };
    let length = database.read::<Set>(args[1])?.map_or(0, Set::len);
    let places = match (length, count) {
        (0, _) => Vec::new(),
        (_, None) => vec![place(database, length)],
        (_, Some(count)) => sample(database, length, count)?,
    };
    let set = database.read::<Set>(args[1])?;
    let all: Vec<_> = set.into_iter().flatten().collect();
    let mut members = places.into_iter().map(|place| all[place]);
    match count {
        None => out.bulk_or_null(members.next().map(Vec::as_slice)),
        Some(_) => out.bulks(members),
    }
    Ok(())
}

pub(super) fn sinter(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(&intersection(database, &args[1..])?, out);
    Ok(())
}

pub(super) fn sunion(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(&union(database, &args[1..])?, out);
    Ok(())
}

pub(super) fn sdiff(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(&difference(database, &args[1..])?, out);
    Ok(())
}

fn list(set: &Set, out: &mut Reply) {
    out.set(set.len());
    set.iter().for_each(|member| out.bulk(member));
}

pub(super) fn sinterstore(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = intersection(database, &args[2..])?;
    store(database, args[1], set, out);
    Ok(())
}

pub(super) fn sunionstore(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = union(database, &args[2..])?;
    store(database, args[1], set, out);
    Ok(())
}

pub(super) fn sdiffstore(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = difference(database, &args[2..])?;
    store(database, args[1], set, out);
    Ok(())
}

fn store(database: &mut Database, key: &[u8], set: Set, out: &mut Reply) {
    out.size(set.len());
    if set.is_empty() {
        database.remove(key);
    } else {
        database.put(key, set.wrap());
    }
}

pub(super) fn sintercard(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let count = integer(args[1])
        .filter(|count| *count > 0)
        .ok_or(Refusal::new("ERR numkeys should be greater than 0"))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > args.len() - 2 {
        return Err(Refusal::new(
            "ERR Number of keys can't be greater than number of args",
        ));
    }
    let (keys, options) = args[2..].split_at(count);
    let mut limit = 0;
    for option in options.chunks(2) {
        match option {
            [name, value] if is(name, "limit") => {
                limit = integer(value)
                    .and_then(|limit| usize::try_from(limit).ok())
                    .ok_or(Refusal::new("ERR LIMIT can't be negative"))?;
            }
            _ => return Err(SYNTAX),
        }
    }
    let size = intersection(database, keys)?.len();
    out.size(if limit == 0 { size } else { size.min(limit) });
    Ok(())
}

fn intersection(database: &Database, keys: &[&[u8]]) -> Result<Set, Refusal> {
    let sets = operands(database, keys)?;
    let Some(sets) = sets.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(Set::new());
    };
    let common = |member: &&Vec<u8>| sets[1..].iter().all(|set| set.contains(*member));
    Ok(sets[0].iter().filter(common).cloned().collect())
}

fn union(database: &Database, keys: &[&[u8]]) -> Result<Set, Refusal> {
    let sets = operands(database, keys)?;
    Ok(sets.into_iter().flatten().flatten().cloned().collect())
}

fn difference(database: &Database, keys: &[&[u8]]) -> Result<Set, Refusal> {
    let sets = operands(database, keys)?;
    let own = |member: &&Vec<u8>| {
        let mut others = sets[1..].iter().flatten();
        !others.any(|set| set.contains(*member))
    };
    Ok(sets[0].into_iter().flatten().filter(own).cloned().collect())
}

fn operands<'a>(database: &'a Database, keys: &[&[u8]]) -> Result<Vec<Option<&'a Set>>, Refusal> {
    keys.iter().map(|key| database.read::<Set>(key)).collect()
}

/// Everything in one page, as Redis does for a small set.
pub(super) fn sscan(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    cursor(args[2])?;
    let mut page = Vec::new();
    if let Some(set) = database.read::<Set>(args[1])? {
        let scan = Scan::parse(&args[3..], false)?;
        page.extend(set.iter().filter(|member| scan.matches(member)));
    }
    out.array(2);
    out.bulk(b"0");
    out.bulks(page.into_iter());
    Ok(())
}
