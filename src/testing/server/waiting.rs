//! Clients blocked on lists and streams: who waits for which key, and who is served when it fills.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::commands::Reading;
use super::database::{Database, Key};
use super::resp::{Refusal, Reply};
use super::storage::{List, Value};

/// Which end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Left,
    Right,
}

impl End {
    pub(super) fn push(self, list: &mut List, item: Vec<u8>) {
        match self {
            Self::Left => list.push_front(item),
            Self::Right => list.push_back(item),
        }
    }

    pub(super) fn pop(self, list: &mut List) -> Option<Vec<u8>> {
        match self {
            Self::Left => list.pop_front(),
            Self::Right => list.pop_back(),
        }
    }
}

/// What a blocked client does once there is something for it.
#[derive(Clone, Debug)]
pub(super) enum Take {
    /// `BLPOP`, `BRPOP`: answered with the key and the element.
    Pop(End),
    /// `BLMPOP`: answered with the key and up to so many elements.
    Several { end: End, count: usize },
    /// `BLMOVE`: pushed to the list `into`, answered with the element.
    Move { from: End, to: End, into: Key },
    /// `XREAD`, `XREADGROUP`: reads what the stream has got.
    Read(Reading),
    /// `WAIT`: nothing; only a timeout ends it.
    Nothing,
}

impl Take {
    /// Whether it can be done with `value`: who waits for a list is not woken by a stream.
    fn fits(&self, value: &Value) -> bool {
        match self {
            Self::Pop(_) | Self::Several { .. } | Self::Move { .. } => {
                matches!(value, Value::List(_))
            }
            Self::Read(_) => matches!(value, Value::Stream(_)),
            Self::Nothing => false,
        }
    }
}

/// A blocked client.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The server it is connected to: a kill forgets its waiters, not those of another server
    /// over the same storage.
    pub(super) server: u64,
    /// Its connection there.
    pub(super) client: u64,
    pub(super) keys: Vec<Key>,
    pub(super) take: Take,
    pub(super) resp3: bool,
    pub(super) reply: oneshot::Sender<Served>,
}

/// How a wait ended.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) reply: Vec<u8>,
    /// The server closes the connection after this reply.
    pub(super) close: bool,
}

/// The blocked clients of one database, first come first served for every key.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waiters: HashMap<u64, Waiter>,
    queues: HashMap<Key, VecDeque<u64>>,
    ready: VecDeque<Key>,
    last: u64,
}

impl Waiting {
    /// Queues `waiter` at each of its keys; the number takes it back.
    pub(super) fn add(&mut self, waiter: Waiter) -> u64 {
        self.last += 1;
        for key in &waiter.keys {
            self.queues
                .entry(Key::clone(key))
                .or_default()
                .push_back(self.last);
        }
        self.waiters.insert(self.last, waiter);
        self.last
    }

    /// Takes a waiter out; `None` if it has been served or forgotten.
    pub(super) fn remove(&mut self, number: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&number)?;
        for key in &waiter.keys {
            if let Some(queue) = self.queues.get_mut(key) {
                queue.retain(|queued| *queued != number);
                if queue.is_empty() {
                    self.queues.remove(key);
                }
            }
        }
        Some(waiter)
    }

    /// Takes out all waiters of `server`, or that of one connection to it.
    pub(super) fn remove_all(&mut self, server: u64, client: Option<u64>) -> Vec<Waiter> {
        let meant = |waiter: &Waiter| {
            waiter.server == server && client.is_none_or(|client| waiter.client == client)
        };
        let waiters = self.waiters.iter().filter(|(_, waiter)| meant(waiter));
        let mut numbers: Vec<u64> = waiters.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers
            .into_iter()
            .filter_map(|number| self.remove(number))
            .collect()
    }

    /// How many clients are blocked.
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Notes that the list or stream at `key` was filled, or that the stream has gone.
    pub(super) fn ready(&mut self, key: &[u8]) {
        if let Some((key, _)) = self.queues.get_key_value(key)
            && !self.ready.contains(key)
        {
            self.ready.push_back(Key::clone(key));
        }
    }

    /// Who waits for `key`, by age.
    fn queue(&self, key: &Key) -> Vec<(u64, Take, bool)> {
        let queue = self.queues.get(key).into_iter().flatten();
        queue
            .filter_map(|number| {
                let waiter = self.waiters.get(number)?;
                Some((*number, waiter.take.clone(), waiter.resp3))
            })
            .collect()
    }
}

impl Database {
    /// Serves those who wait for what the command (or transaction) just executed has filled.
    pub(super) fn serve_waiters(&mut self) {
        // Moving an element may fill another list somebody waits for: it joins the queue.
        while let Some(key) = self.waiting.ready.pop_front() {
            for (number, take, resp3) in self.waiting.queue(&key) {
                let mut reply = Reply::new(resp3);
                let value = self.get(&key);
                if value.is_some_and(|value| take.fits(value)) {
                    match self.take(&key, &take, &mut reply) {
                        Ok(true) => {}
                        Ok(false) => continue,
                        Err(refusal) => reply.refuse(&refusal),
                    }
                } else if matches!(&take, Take::Read(reading) if reading.needs_stream(&key)) {
                    reply.refuse(&NO_STREAM);
                } else {
                    continue;
                }
                let Some(waiter) = self.waiting.remove(number) else {
                    continue;
                };
                // The receiver goes only after its waiter has been taken out under the same lock
                // (or with its whole runtime), so nobody is left to be told of a failure.
                let _ = waiter.reply.send(Served {
                    reply: reply.bytes,
                    close: false,
                });
            }
        }
    }

    /// Does `take` with the list or stream at `key` if there is something; whether it did.
    pub(super) fn take(
        &mut self,
        key: &[u8],
        take: &Take,
        reply: &mut Reply,
    ) -> Result<bool, Refusal> {
        match take {
            Take::Pop(end) => {
                let Some(item) = self.write::<List>(key)?.and_then(|list| end.pop(list)) else {
                    return Ok(false);
                };
                self.changed(key);
                reply.bulks([key, &item].into_iter());
                Ok(true)
            }
            Take::Several { end, count } => {
                let Some(list) = self.write::<List>(key)? else {
                    return Ok(false);
                };
                let items: Vec<_> = (0..*count.min(&list.len()))
                    .filter_map(|_| end.pop(list))
                    .collect();
                self.changed(key);
                reply.array(2);
                reply.bulk(key);
                reply.bulks(items.iter());
                Ok(true)
            }
            Take::Move { from, to, into } => {
                if self.read::<List>(key)?.is_none() {
                    return Ok(false);
                }
                // Before anything moves: a destination of another type leaves the element where it is.
                self.read::<List>(into)?;
                let Some(item) = self.write::<List>(key)?.and_then(|list| from.pop(list)) else {
                    return Ok(false);
                };
                reply.bulk(&item);
                to.push(self.write_or_create(into)?, item);
                self.changed(into);
                self.changed(key);
                Ok(true)
            }
            Take::Read(reading) => reading.filled(self, key, reply),
            Take::Nothing => Ok(false),
        }
    }
}

const NO_STREAM: Refusal = Refusal::new("UNBLOCKED the stream key no longer exists");
