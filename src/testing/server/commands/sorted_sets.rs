//! Sorted sets: members and their scores.

use crate::testing::server::commands::keys::{Scan, cursor, is};
use crate::testing::server::commands::lists::count_arg;
use crate::testing::server::commands::sampling::{place, sample, sample_of_pairs_arg};
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, show_double};
use crate::testing::server::sorted_set::SortedSet;

pub(super) fn zadd(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    add(database, args, AddOptions::default(), out)
}

pub(super) fn zincrby(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let options = AddOptions {
        increment: true,
        ..AddOptions::default()
    };
    add(database, args, options, out)
}

fn add(
    database: &mut Database,
    args: &[&[u8]],
    mut options: AddOptions,
    out: &mut Reply,
) -> Answer {
    let key = args[1];
    let pairs = options.parse(&args[2..])?;
    let scores = pairs.chunks_exact(2).map(|pair| score_arg(pair[0]));
    let scores = scores.collect::<Result<Vec<_>, _>>()?;
    let members = pairs.chunks_exact(2).map(|pair| pair[1]);

    let mut done = Added::default();
    if database.read::<SortedSet>(key)?.is_some() || !options.only_old {
        let set: &mut SortedSet = database.write_or_create(key)?;
        let mut result = Ok(());
        for (member, score) in members.zip(scores) {
            result = options.apply(set, member, score, &mut done);
            if result.is_err() {
                break;
            }
        }
        if done.added + done.updated > 0 {
            database.changed(key);
        }
        result?;
    }
    if options.increment {
        match done.score {
            Some(score) => out.double(score),
            None => out.null(),
        }
    } else if options.count_updates {
        out.size(done.added + done.updated);
    } else {
        out.size(done.added);
    }
    Ok(())
}

#[derive(Debug, Default)]
struct AddOptions {
    only_new: bool,
    only_old: bool,
    greater: bool,
    less: bool,
    count_updates: bool,
    increment: bool,
}

#[derive(Debug, Default)]
struct Added {
    added: usize,
    updated: usize,
    /// Of the last member that was not passed over.
    score: Option<f64>,
}

impl AddOptions {
    /// Reads the options that `args` begins with; the scores and members after them.
    fn parse<'a, 'b>(&mut self, args: &'b [&'a [u8]]) -> Result<&'b [&'a [u8]], Refusal> {
        let mut pairs = args;
        while let [option, rest @ ..] = pairs {
            match *option {
                name if is(name, "nx") => self.only_new = true,
                name if is(name, "xx") => self.only_old = true,
                name if is(name, "gt") => self.greater = true,
                name if is(name, "lt") => self.less = true,
                name if is(name, "ch") => self.count_updates = true,
                name if is(name, "incr") => self.increment = true,
                _ => break,
            }
            pairs = rest;
        }
        if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
            return Err(SYNTAX);
        }
        if self.only_new && self.only_old {
            return Err(Refusal::new(
                "ERR XX and NX options at the same time are not compatible",
            ));
        }
        if self.only_new && (self.greater || self.less) || self.greater && self.less {
            return Err(Refusal::new(
                "ERR GT, LT, and/or NX options at the same time are not compatible",
            ));
        }
        if self.increment && pairs.len() > 2 {
            return Err(Refusal::new(
                "ERR INCR option supports a single increment-element pair",
            ));
        }
        Ok(pairs)
    }

    fn apply(
        &self,
        set: &mut SortedSet,
        member: &[u8],
        mut score: f64,
        done: &mut Added,
    ) -> Answer {
        match set.score(member) {
            Some(current) => {
                if self.only_new {
                    return Ok(());
                }
                if self.increment {
                    score += current;
                    if score.is_nan() {
                        return Err(Refusal::new("ERR resulting score is not a number (NaN)"));
                    }
                }
                if self.greater && score <= current || self.less && score >= current {
                    return Ok(());
                }
                if score.partial_cmp(&current) != Some(std::cmp::Ordering::Equal) {
                    set.insert(member, score);
                    done.updated += 1;
                }
            }
            None if self.only_old => return Ok(()),
            None => {
                set.insert(member, score);
                done.added += 1;
            }
        }
        done.score = Some(score);
        Ok(())
    }
}

fn score_arg(text: &[u8]) -> Result<f64, Refusal> {
    // What a float cannot hold is none: infinity is asked for by its name, zero with zeros.
    let fits = |score: f64| {
        let mantissa = text.split(u8::is_ascii_alphabetic).next().unwrap_or(text);
        let named = !text.iter().any(u8::is_ascii_digit);
        let zeros = !mantissa.iter().any(|byte| matches!(byte, b'1'..=b'9'));
        !score.is_nan() && (score.is_finite() || named) && (score != 0.0 || zeros)
    };
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|score| fits(*score))
        .ok_or(Refusal::new("ERR value is not a valid float"))
}

pub(super) fn zrem(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let removed = match database.write::<SortedSet>(args[1])? {
        Some(set) => args[2..].iter().filter(|member| set.remove(member)).count(),
        None => 0,
    };
    if removed > 0 {
        database.changed(args[1]);
    }
    out.size(removed);
    Ok(())
}

pub(super) fn zscore(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = database.read::<SortedSet>(args[1])?;
    score_or_null(set, args[2], out);
    Ok(())
}

pub(super) fn zmscore(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = database.read::<SortedSet>(args[1])?;
    out.array(args.len() - 2);
    for member in &args[2..] {
        score_or_null(set, member, out);
    }
    Ok(())
}

fn score_or_null(set: Option<&SortedSet>, member: &[u8], out: &mut Reply) {
    match set.and_then(|set| set.score(member)) {
        Some(score) => out.double(score),
        None => out.null(),
    }
}

pub(super) fn zcard(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let set = database.read::<SortedSet>(args[1])?;
    out.size(set.map_or(0, SortedSet::len));
    Ok(())
}

pub(super) fn zrank(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    rank(database, args, false, out)
}

pub(super) fn zrevrank(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    rank(database, args, true, out)
}

fn rank(database: &Database, args: &[&[u8]], reverse: bool, out: &mut Reply) -> Answer {
    let set = database.read::<SortedSet>(args[1])?;
    let from_lowest = set.and_then(|set| {
        let place = set.iter().position(|(member, _)| member == args[2])?;
        Some(if reverse {
            set.len() - 1 - place
        } else {
            place
        })
    });
    match from_lowest {
        Some(place) => out.size(place),
        None => out.null(),
    }
    Ok(())
}

pub(super) fn zpopmin(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    pop(database, args, false, out)
}

pub(super) fn zpopmax(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    pop(database, args, true, out)
}

fn pop(database: &mut Database, args: &[&[u8]], highest: bool, out: &mut Reply) -> Answer {
    let (key, count) = match args {
        [_, key] => (*key, None),
        [_, key, count] => (*key, Some(count_arg(count)?)),
        _ => return Err(SYNTAX),
    };
    let mut popped = Vec::new();
    if let Some(set) = database.write::<SortedSet>(key)? {
        let wanted = count.unwrap_or(1);
        let owned = |(member, score): (&[u8], f64)| (member.to_vec(), score);
        popped = if highest {
            set.iter().rev().take(wanted).map(owned).collect()
        } else {
            set.iter().take(wanted).map(owned).collect()
        };
        for (member, _) in &popped {
            set.remove(member);
        }
    }
    if !popped.is_empty() {
        database.changed(key);
    }
    let popped = popped.iter().map(|(member, score)| (&**member, *score));
    if count.is_none() {
        // The one element is not grouped, whatever the protocol.
        out.array(popped.len() * 2);
        popped.for_each(|pair| scored(pair, out));
    } else {
        all_scored(popped, out);
    }
    Ok(())
}

/// Members with their scores: in pairs in RESP3, in a row in RESP2.
pub(super) fn all_scored<'a>(
    members: impl ExactSizeIterator<Item = (&'a [u8], f64)>,
    out: &mut Reply,
) {
    let pairs = out.resp3;
    out.array(if pairs {
        members.len()
    } else {
        members.len() * 2
    });
    for member in members {
        if pairs {
            out.array(2);
        }
        scored(member, out);
    }
}

fn scored((member, score): (&[u8], f64), out: &mut Reply) {
    out.bulk(member);
    out.double(score);
}

pub(super) fn zrandmember(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (count, with_scores) = match &args[2..] {
        [] => (None, false),
        [count] => (Some(sample_of_pairs_arg(count, false)?), false),
        [count, option] if is(option, "withscores") => {
            (Some(sample_of_pairs_arg(count, true)?), true)
        }
        [count, ..] => {
            sample_of_pairs_arg(count, false)?;
            return Err(SYNTAX);
        }
    };
    let set = database.read::<SortedSet>(args[1])?;
    let places = match (set.map_or(0, SortedSet::len), count) {
        (0, _) => Vec::new(),
        (length, None) => vec![place(database, length)],
        (length, Some(count)) => sample(database, length, count)?,
    };
    let set = database.read::<SortedSet>(args[1])?;
    let all: Vec<_> = set.into_iter().flat_map(SortedSet::iter).collect();
    let mut members = places.into_iter().map(|place| all[place]);
    match count {
        None => out.bulk_or_null(members.next().map(|(member, _)| member)),
        Some(_) if with_scores => all_scored(members, out),
        Some(_) => out.bulks(members.map(|(member, _)| member)),
    }
    Ok(())
}

/// Everything in one page, as Redis does for a small sorted set.
pub(super) fn zscan(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    cursor(args[2])?;
    let mut page = Vec::new();
    if let Some(set) = database.read::<SortedSet>(args[1])? {
        let scan = Scan::parse(&args[3..], false)?;
        let matching = set.iter().filter(|(member, _)| scan.matches(member));
        for (member, score) in matching {
            page.extend([member.to_vec(), show_double(score).into_bytes()]);
        }
    }
    out.array(2);
    out.bulk(b"0");
    out.bulks(page.into_iter());
    Ok(())
}
