//! Streams: reading several at once, alone or as a consumer of a group, and waiting for more.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use tokio::time::Instant;

use crate::testing::server::commands::keys::is;
use crate::testing::server::commands::streams::entry;
use crate::testing::server::database::{Database, Key};
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer, integer_arg};
use crate::testing::server::session::Context;
use crate::testing::server::stream::{Fields, Group, Id, Pending, Stream};
use crate::testing::server::waiting::Take;

pub(super) fn xread(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    read_or_wait(context, args, false)
}

pub(super) fn xreadgroup(context: &mut Context<'_>, args: &[&[u8]]) -> Answer {
    read_or_wait(context, args, true)
}

fn read_or_wait(context: &mut Context<'_>, args: &[&[u8]], grouped: bool) -> Answer {
    let request = Request::parse(&args[1..], grouped)?;
    let database = &mut context.keyspace.databases[context.session.db];
    let reading = request.resolve(database)?;
    if reading.all(database, context.out)? {
        return Ok(());
    }
    match request.wait {
        Some(wait) if !context.session.executing => {
            let mut nothing = Reply::new(context.out.resp3);
            nothing.null_array();
            let mut keys: Vec<Key> = Vec::with_capacity(reading.streams.len());
            for (key, _) in &reading.streams {
                if !keys.contains(key) {
                    keys.push(Key::clone(key));
                }
            }
            context.block(keys, Take::Read(reading), wait.deadline, nothing.bytes);
        }
        _ => context.out.null_array(),
    }
    Ok(())
}

/// What was asked for.
#[derive(Debug)]
struct Request<'a> {
    keys: &'a [&'a [u8]],
    from: &'a [&'a [u8]],
    count: usize,
    wait: Option<Wait>,
    reader: Option<Reader>,
}

/// How long to wait; without a deadline for ever.
#[derive(Debug)]
struct Wait {
    deadline: Option<Instant>,
}

impl<'a> Request<'a> {
    fn parse(args: &'a [&'a [u8]], grouped: bool) -> Result<Self, Refusal> {
        let mut request = Self {
            keys: &[],
            from: &[],
            count: usize::MAX,
            wait: None,
            reader: None,
        };
        let (mut unacknowledged, mut rest) = (false, args);
        loop {
            rest = match rest {
                [name, timeout, after @ ..] if is(name, "block") => {
                    request.wait = Some(Wait::parse(timeout)?);
                    after
                }
                [name, count, after @ ..] if is(name, "count") => {
                    // None, or less, is no limit.
                    let count = usize::try_from(integer_arg(count)?).unwrap_or_default();
                    request.count = if count == 0 { usize::MAX } else { count };
                    after
                }
                [name, streams @ ..] if !streams.is_empty() && is(name, "streams") => {
                    if !streams.len().is_multiple_of(2) {
                        return Err(UNBALANCED);
                    }
                    (request.keys, request.from) = streams.split_at(streams.len() / 2);
                    break;
                }
                [name, group, consumer, after @ ..] if is(name, "group") => {
                    if !grouped {
                        return Err(GROUP_NOT_SUPPORTED);
                    }
                    request.reader = Some(Reader {
                        group: group.to_vec(),
                        consumer: consumer.to_vec(),
                        unacknowledged: false,
                    });
                    after
                }
                [name, after @ ..] if is(name, "noack") => {
                    if !grouped {
                        return Err(NOACK_NOT_SUPPORTED);
                    }
                    unacknowledged = true;
                    after
                }
                _ => return Err(SYNTAX),
            };
        }
        match &mut request.reader {
            Some(reader) => reader.unacknowledged = unacknowledged,
            None if grouped => return Err(Refusal::new("ERR Missing GROUP option for XREADGROUP")),
            None => {}
        }
        Ok(request)
    }

    /// Finds out where to begin in each stream.
    fn resolve(&self, database: &Database) -> Result<Reading, Refusal> {
        let mut streams = Vec::with_capacity(self.keys.len());
        for (key, from) in self.keys.iter().zip(self.from) {
            let stream = database.read::<Stream>(key)?;
            if let Some(reader) = &self.reader
                && !stream.is_some_and(|stream| stream.groups.contains_key(&reader.group))
            {
                let key = String::from_utf8_lossy(key);
                let group = String::from_utf8_lossy(&reader.group);
                return Err(Refusal::from(format!(
                    "NOGROUP No such key '{key}' or consumer group '{group}' in XREADGROUP with \
                     GROUP option"
                )));
            }
            let from = match (*from, &self.reader) {
                (b"$", Some(_)) => return Err(END_IN_GROUP),
                (b"$", None) => From::After(stream.map_or(Id::MIN, |stream| stream.last)),
                (b">", Some(reader)) => From::Undelivered(reader.clone()),
                (b">", None) => return Err(NEW_WITHOUT_GROUP),
                (id, reader) => match (Id::parse(id, 0)?, reader) {
                    (id, None) => From::After(id),
                    (Id::MAX, Some(reader)) => From::Undelivered(reader.clone()),
                    (id, Some(reader)) => From::Delivered(id, reader.clone()),
                },
            };
            streams.push((Key::from(*key), from));
        }
        Ok(Reading {
            streams,
            count: self.count,
        })
    }
}

impl Wait {
    fn parse(timeout: &[u8]) -> Result<Self, Refusal> {
        let millis = integer(timeout).ok_or(Refusal::new(
            "ERR timeout is not an integer or out of range",
        ))?;
        let millis = u64::try_from(millis).map_err(|_| Refusal::new("ERR timeout is negative"))?;
        let deadline = match millis {
            0 => None,
            // Longer than the clock can tell is for ever.
            _ => Instant::now().checked_add(Duration::from_millis(millis)),
        };
        Ok(Self { deadline })
    }
}

/// Which streams are read from where, and for whom.
#[derive(Clone, Debug)]
pub(in crate::testing::server) struct Reading {
    streams: Vec<(Key, From)>,
    count: usize,
}

#[derive(Clone, Debug)]
enum From {
    After(Id),
    /// What nobody in the group has been given.
    Undelivered(Reader),
    /// What the consumer has been given after that and has not acknowledged.
    Delivered(Id, Reader),
}

/// A consumer of a group.
#[derive(Clone, Debug)]
struct Reader {
    group: Vec<u8>,
    consumer: Vec<u8>,
    /// Nothing it is given is pending.
    unacknowledged: bool,
}

impl Reading {
    /// Answers with what there is; whether there is anything.
    fn all(&self, database: &mut Database, out: &mut Reply) -> Result<bool, Refusal> {
        let mut answered = Reply::new(out.resp3);
        let mut count = 0;
        for (key, from) in &self.streams {
            if self.one(database, key, from, false, &mut answered)? {
                count += 1;
            }
        }
        finish(count, answered, out);
        Ok(count > 0)
    }

    /// Answers a waiting client with what the stream at `key` has got; whether there is anything.
    pub(in crate::testing::server) fn filled(
        &self,
        database: &mut Database,
        key: &[u8],
        out: &mut Reply,
    ) -> Result<bool, Refusal> {
        let Some((_, from)) = self.streams.iter().find(|(wanted, _)| **wanted == *key) else {
            return Ok(false);
        };
        let mut answered = Reply::new(out.resp3);
        let any = self.one(database, key, from, true, &mut answered)?;
        finish(usize::from(any), answered, out);
        Ok(any)
    }

    /// Whether who waits for `key` waits in vain once there is no stream any more: its group has
    /// gone with it. One without a group waits for the next stream there.
    pub(in crate::testing::server) fn needs_stream(&self, key: &[u8]) -> bool {
        let mut streams = self.streams.iter();
        streams.any(|(wanted, from)| **wanted == *key && !matches!(from, From::After(_)))
    }

    /// A client that was `woken` is told of an entry that has gone already, by an empty list.
    fn one(
        &self,
        database: &mut Database,
        key: &[u8],
        from: &From,
        woken: bool,
        out: &mut Reply,
    ) -> Result<bool, Refusal> {
        let now = database.now();
        let Some(stream) = database.write::<Stream>(key)? else {
            return Ok(false);
        };
        let Stream {
            entries,
            groups,
            last,
        } = stream;
        let answers;
        let selected: Vec<(Id, Option<&Fields>)> = match from {
            From::After(id) => {
                answers = woken && *last > *id;
                self.after(entries, *id)
            }
            From::Undelivered(reader) => {
                let group = groups.get_mut(&reader.group).ok_or(GONE)?;
                answers = woken && *last > group.delivered;
                let selected = self.after(entries, group.delivered);
                if answers || !selected.is_empty() {
                    group.deliver(reader, selected.iter().map(|(id, _)| *id), now);
                }
                selected
            }
            From::Delivered(id, reader) => {
                // What a consumer has pending is an answer even when it is nothing.
                answers = true;
                let group = groups.get_mut(&reader.group).ok_or(GONE)?;
                let again = group.deliver_again(reader, *id, self.count, now);
                let again = again.into_iter();
                again.map(|id| (id, entries.get(&id))).collect()
            }
        };
        if selected.is_empty() && !answers {
            return Ok(false);
        }
        if !out.resp3 {
            out.array(2);
        }
        out.bulk(key);
        out.array(selected.len());
        for (id, fields) in selected {
            match fields {
                Some(fields) => entry(id, fields, out),
                // Delivered, not acknowledged, and deleted meanwhile.
                None => {
                    out.array(2);
                    out.bulk(id.to_string().as_bytes());
                    out.null_array();
                }
            }
        }
        Ok(true)
    }

    fn after<'a>(
        &self,
        entries: &'a BTreeMap<Id, Fields>,
        id: Id,
    ) -> Vec<(Id, Option<&'a Fields>)> {
        let later = entries.range((Bound::Excluded(id), Bound::Unbounded));
        let later = later.map(|(id, fields)| (*id, Some(fields)));
        later.take(self.count).collect()
    }
}

/// Streams by name: a map in RESP3, pairs in RESP2.
fn finish(streams: usize, mut answered: Reply, out: &mut Reply) {
    if streams == 0 {
        return;
    }
    if out.resp3 {
        out.map(streams);
    } else {
        out.array(streams);
    }
    out.bytes.append(&mut answered.bytes);
}

impl Group {
    fn deliver(&mut self, reader: &Reader, ids: impl Iterator<Item = Id>, now: i64) {
        self.consumers.insert(reader.consumer.clone());
        for id in ids {
            self.delivered = self.delivered.max(id);
            if !reader.unacknowledged {
                // What another consumer has pending goes over, after SETID to an earlier id.
                let pending = Pending {
                    consumer: reader.consumer.clone(),
                    delivered_at: now,
                    deliveries: 1,
                };
                self.pending.insert(id, pending);
            }
        }
    }

    /// Delivers what the consumer has pending after `id` once more.
    fn deliver_again(&mut self, reader: &Reader, id: Id, count: usize, now: i64) -> Vec<Id> {
        self.consumers.insert(reader.consumer.clone());
        let later = (Bound::Excluded(id), Bound::Unbounded);
        self.pending
            .range_mut(later)
            .filter(|(_, pending)| pending.consumer == reader.consumer)
            .take(count)
            .map(|(id, pending)| {
                pending.delivered_at = now;
                pending.deliveries += 1;
                *id
            })
            .collect()
    }
}

const UNBALANCED: Refusal = Refusal::new(
    "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
);
const GONE: Refusal =
    Refusal::new("NOGROUP the consumer group this client was blocked on no longer exists");
const GROUP_NOT_SUPPORTED: Refusal =
    Refusal::new("ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.");
const NOACK_NOT_SUPPORTED: Refusal =
    Refusal::new("ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.");
const END_IN_GROUP: Refusal = Refusal::new(
    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of \
     this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would \
     just return an empty result set.",
);
const NEW_WITHOUT_GROUP: Refusal = Refusal::new(
    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
     <consumer> option.",
);
