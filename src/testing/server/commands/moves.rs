//! Lists: what is moved, or popped off the first of several, now or once there is something.

use std::time::Duration;

use tokio::time::Instant;

use crate::testing::server::commands::keys::is;
use crate::testing::server::database::{Database, Key};
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer};
use crate::testing::server::session::Context;
use crate::testing::server::waiting::{End, Take};

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
