//! Streams: consumer groups and what they have pending.

use std::ops::RangeInclusive;

use crate::testing::server::commands::keys::is;
use crate::testing::server::commands::streams::{ids, interval_arg};
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer_arg};
use crate::testing::server::stream::{Group, Id, Stream};

pub(super) fn create(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (key, name) = (args[2], args[3]);
    let creates_stream = options(args, true)?;
    let stream = database.read::<Stream>(key)?;
    if stream.is_none() && !creates_stream {
        return Err(NO_KEY);
    }
    let delivered = delivered_arg(stream, args[4])?;
    if stream.is_none() {
        database.write_or_create::<Stream>(key)?;
        database.changed(key);
    }
    let stream: &mut Stream = database.write_or_create(key)?;
    if stream.groups.contains_key(name) {
        return Err(Refusal::new("BUSYGROUP Consumer Group name already exists"));
    }
    let group = Group {
        delivered,
        ..Group::default()
    };
    stream.groups.insert(name.to_vec(), group);
    out.ok();
    Ok(())
}

pub(super) fn setid(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    options(args, false)?;
    existing(database, args)?;
    let delivered = delivered_arg(database.read(args[2])?, args[4])?;
    existing(database, args)?.delivered = delivered;
    out.ok();
    Ok(())
}

/// The options of `CREATE` and `SETID`; whether `MKSTREAM` is among them.
fn options(args: &[&[u8]], creating: bool) -> Result<bool, Refusal> {
    let mut creates_stream = false;
    let mut rest = &args[5..];
    loop {
        rest = match rest {
            [] => return Ok(creates_stream),
            [name, after @ ..] if creating && is(name, "mkstream") => {
                creates_stream = true;
                after
            }
            // Only `XINFO`, which this server has not, would tell the number.
            [name, number, after @ ..] if is(name, "entriesread") => {
                if integer_arg(number)? < -1 {
                    return Err(Refusal::new(
                        "ERR value for ENTRIESREAD must be positive or -1",
                    ));
                }
                after
            }
            _ => {
                let sub = String::from_utf8_lossy(args[1]);
                return Err(Refusal::from(format!(
                    "ERR unknown subcommand or wrong number of arguments for '{sub}'. Try XGROUP \
                     HELP."
                )));
            }
        };
    }
}

/// Where a group begins to read; `$` is the end.
fn delivered_arg(stream: Option<&Stream>, text: &[u8]) -> Result<Id, Refusal> {
    match text {
        b"$" => Ok(stream.map_or(Id::MIN, |stream| stream.last)),
        _ => Id::parse(text, 0),
    }
}

pub(super) fn destroy(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let stream = database.write::<Stream>(args[2])?.ok_or(NO_KEY)?;
    let removed = stream.groups.remove(args[3]).is_some();
    if removed {
        // Who waits for the group is told that it has gone.
        database.waiting.ready(args[2]);
    }
    out.flag(removed);
    Ok(())
}

pub(super) fn createconsumer(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let group = existing(database, args)?;
    out.flag(group.consumers.insert(args[4].to_vec()));
    Ok(())
}

pub(super) fn delconsumer(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let group = existing(database, args)?;
    let before = group.pending.len();
    group
        .pending
        .retain(|_, pending| pending.consumer != args[4]);
    group.consumers.remove(args[4]);
    out.size(before - group.pending.len());
    Ok(())
}

fn existing<'a>(database: &'a mut Database, args: &[&[u8]]) -> Result<&'a mut Group, Refusal> {
    let (key, name) = (args[2], args[3]);
    let stream = database.write::<Stream>(key)?.ok_or(NO_KEY)?;
    stream.groups.get_mut(name).ok_or_else(|| {
        let (key, name) = (String::from_utf8_lossy(key), String::from_utf8_lossy(name));
        Refusal::from(format!(
            "NOGROUP No such consumer group '{name}' for key name '{key}'"
        ))
    })
}

const NO_KEY: Refusal = Refusal::new(
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use \
     the MKSTREAM option to create an empty stream automatically.",
);

pub(super) fn xack(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let stream = database.write::<Stream>(args[1])?;
    let Some(group) = stream.and_then(|stream| stream.groups.get_mut(args[2])) else {
        out.size(0);
        return Ok(());
    };
    let acknowledged = ids(&args[3..])?
        .iter()
        .filter(|id| group.pending.remove(id).is_some())
        .count();
    out.size(acknowledged);
    Ok(())
}

pub(super) fn xpending(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let (key, name) = (args[1], args[2]);
    let wanted = match &args[3..] {
        [] => None,
        rest @ [_, _, _, ..] if rest.len() <= 6 => Some(Wanted::parse(rest)?),
        _ => return Err(SYNTAX),
    };
    let now = database.now();
    let stream = database.read::<Stream>(key)?;
    let group = stream.and_then(|stream| stream.groups.get(name));
    let group = group.ok_or_else(|| {
        let (key, name) = (String::from_utf8_lossy(key), String::from_utf8_lossy(name));
        Refusal::from(format!(
            "NOGROUP No such key '{key}' or consumer group '{name}'"
        ))
    })?;
    match wanted {
        None => summary(group, out),
        Some(wanted) => wanted.list(group, now, out),
    }
    Ok(())
}

fn summary(group: &Group, out: &mut Reply) {
    out.array(4);
    out.size(group.pending.len());
    let ends = group.pending.keys().next().zip(group.pending.keys().last());
    let Some((first, last)) = ends else {
        out.null();
        out.null();
        out.null_array();
        return;
    };
    out.bulk(first.to_string().as_bytes());
    out.bulk(last.to_string().as_bytes());
    let shares: Vec<_> = group
        .consumers
        .iter()
        .map(|name| {
            let pending = group.pending.values();
            (
                name,
                pending.filter(|pending| pending.consumer == *name).count(),
            )
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    out.array(shares.len());
    for (name, count) in shares {
        out.array(2);
        out.bulk(name);
        out.bulk(count.to_string().as_bytes());
    }
}

/// What `XPENDING` is to list.
#[derive(Debug)]
struct Wanted<'a> {
    idle: i64,
    interval: RangeInclusive<Id>,
    count: usize,
    consumer: Option<&'a [u8]>,
}

impl<'a> Wanted<'a> {
    fn parse(args: &[&'a [u8]]) -> Result<Self, Refusal> {
        let (idle, args) = match args {
            [name, idle, rest @ ..] if is(name, "idle") => (integer_arg(idle)?, rest),
            _ => (0, args),
        };
        let (start, end, count, consumer) = match args {
            [start, end, count] => (start, end, count, None),
            [start, end, count, consumer, ..] => (start, end, count, Some(*consumer)),
            _ => return Err(SYNTAX),
        };
        let count = integer_arg(count)?.max(0);
        Ok(Self {
            idle,
            interval: interval_arg(start, end)?,
            count: usize::try_from(count).unwrap_or(usize::MAX),
            consumer,
        })
    }

    fn list(&self, group: &Group, now: i64, out: &mut Reply) {
        let selected: Vec<_> = group
            .pending
            .iter()
            .filter(|(id, pending)| {
                self.interval.contains(id)
                    && now - pending.delivered_at >= self.idle
                    && self.consumer.is_none_or(|name| pending.consumer == name)
            })
            .take(self.count)
            .collect();
        out.array(selected.len());
        for (id, pending) in selected {
            out.array(4);
            out.bulk(id.to_string().as_bytes());
            out.bulk(&pending.consumer);
            out.integer(now - pending.delivered_at);
            out.integer(pending.deliveries);
        }
    }
}
