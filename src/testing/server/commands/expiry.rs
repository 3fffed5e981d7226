//! Deadlines of keys.

use crate::testing::server::commands::keys::is;
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, integer_arg};

/// How a command tells a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Seconds,
    Millis,
    UnixSeconds,
    UnixMillis,
}

impl Unit {
    /// The option of `SET` and `GETEX` of that name.
    pub(super) fn of_option(option: &[u8]) -> Option<Self> {
        let named = [
            ("ex", Self::Seconds),
            ("px", Self::Millis),
            ("exat", Self::UnixSeconds),
            ("pxat", Self::UnixMillis),
        ];
        let (_, unit) = named.into_iter().find(|(name, _)| is(option, name))?;
        Some(unit)
    }

    /// The deadline in Unix milliseconds, `None` if there is no such time.
    fn deadline(self, time: i64, now: i64) -> Option<i64> {
        match self {
            Self::Seconds => time.checked_mul(1000)?.checked_add(now),
            Self::Millis => time.checked_add(now),
            Self::UnixSeconds => time.checked_mul(1000),
            Self::UnixMillis => Some(time),
        }
    }

    /// As [`deadline`](Self::deadline), for commands that set a value which is to live for a while.
    pub(super) fn positive_deadline(
        self,
        time: &[u8],
        now: i64,
        command: &str,
    ) -> Result<i64, Refusal> {
        let time = integer_arg(time)?;
        if time <= 0 {
            return Err(invalid_time(command));
        }
        self.deadline(time, now)
            .ok_or_else(|| invalid_time(command))
    }
}

fn invalid_time(command: &str) -> Refusal {
    Refusal::from(format!("ERR invalid expire time in '{command}' command"))
}

pub(super) fn expire(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    expire_by(database, args, out, Unit::Seconds, "expire")
}

pub(super) fn pexpire(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    expire_by(database, args, out, Unit::Millis, "pexpire")
}

pub(super) fn expireat(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    expire_by(database, args, out, Unit::UnixSeconds, "expireat")
}

pub(super) fn pexpireat(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    expire_by(database, args, out, Unit::UnixMillis, "pexpireat")
}

fn expire_by(
    database: &mut Database,
    args: &[&[u8]],
    out: &mut Reply,
    unit: Unit,
    command: &str,
) -> Answer {
    let when = Condition::parse(&args[3..])?;
    let time = integer_arg(args[2])?;
    let deadline = unit
        .deadline(time, database.now())
        .ok_or_else(|| invalid_time(command))?;
    let set = match database.deadline(args[1]) {
        Some(current) => when.permits(current, deadline),
        None => false,
    };
    if set {
        database.expire(args[1], deadline);
    }
    out.flag(set);
    Ok(())
}

/// The options of the `EXPIRE` family.
#[derive(Debug, Default)]
struct Condition {
    without: bool,
    with: bool,
    later: bool,
    earlier: bool,
}

impl Condition {
    fn parse(options: &[&[u8]]) -> Result<Self, Refusal> {
        let mut condition = Self::default();
        for option in options {
            match *option {
                name if is(name, "nx") => condition.without = true,
                name if is(name, "xx") => condition.with = true,
                name if is(name, "gt") => condition.later = true,
                name if is(name, "lt") => condition.earlier = true,
                name => {
                    let name = String::from_utf8_lossy(name);
                    return Err(Refusal::from(format!("ERR Unsupported option {name}")));
                }
            }
        }
        let Self {
            without,
            with,
            later,
            earlier,
        } = condition;
        if without && (with || later || earlier) {
            return Err(Refusal::new(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if later && earlier {
            return Err(Refusal::new(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(condition)
    }

    /// No deadline counts as the latest.
    fn permits(&self, current: Option<i64>, deadline: i64) -> bool {
        !(self.without && current.is_some()
            || self.with && current.is_none()
            || self.later && current.is_none_or(|current| deadline <= current)
            || self.earlier && current.is_some_and(|current| deadline >= current))
    }
}

pub(super) fn persist(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let had_deadline = database.persist(args[1]);
    out.flag(had_deadline);
    Ok(())
}

pub(super) fn ttl(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let now = database.now();
    tell(database, args[1], out, |deadline| seconds(deadline - now));
    Ok(())
}

pub(super) fn pttl(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let now = database.now();
    tell(database, args[1], out, |deadline| deadline - now);
    Ok(())
}

pub(super) fn expiretime(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    tell(database, args[1], out, seconds);
    Ok(())
}

pub(super) fn pexpiretime(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    tell(database, args[1], out, |deadline| deadline);
    Ok(())
}

/// Rounded to the nearest second, as Redis does.
fn seconds(millis: i64) -> i64 {
    millis.saturating_add(500) / 1000
}

fn tell(database: &Database, key: &[u8], out: &mut Reply, shown: impl Fn(i64) -> i64) {
    out.integer(match database.deadline(key) {
        None => -2,
        Some(None) => -1,
        Some(Some(deadline)) => shown(deadline),
    });
}
