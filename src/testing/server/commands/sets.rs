//! Sets.

use crate::testing::server::commands::keys::{Scan, cursor};
use crate::testing::server::commands::lists::count_arg;
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX};
use crate::testing::server::storage::Set;

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
