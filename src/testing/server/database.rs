//! One numbered database: keys with their values, deadlines, watchers and waiters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::resp::Refusal;
use super::storage::{Kind, Value};
use super::waiting::Waiting;

/// A key; shared by the indexes that name it.
pub(super) type Key = Arc<[u8]>;

/// One numbered database.
///
/// Whoever changes a value calls [`changed`](Self::changed) afterwards, once: watchers are told,
/// waiters are marked to be served, and an emptied list, set or hash goes.
#[derive(Debug)]
pub(super) struct Database {
    entries: HashMap<Key, Entry>,
    /// By age. `SCAN` walks it: a key that is there throughout is seen exactly once, whatever
    /// comes and goes meanwhile.
    by_birth: BTreeMap<u64, Key>,
    births: u64,
    /// By deadline, so that expiry is exact and costs one look when there is nothing to expire.
    deadlines: BTreeSet<(i64, Key)>,
    watched: HashMap<Key, Watched>,
    revision: u64,
    pub(super) waiting: Waiting,
    now: i64,
    random: u64,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    /// Unix milliseconds.
    deadline: Option<i64>,
    birth: u64,
}

#[derive(Debug)]
struct Watched {
    watchers: usize,
    revision: u64,
}

impl Database {
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            by_birth: BTreeMap::new(),
            // SCAN's cursor 0 means both the beginning and the end, so nothing is born at 0.
            births: 1,
            deadlines: BTreeSet::new(),
            watched: HashMap::new(),
            revision: 0,
            waiting: Waiting::default(),
            now: 0,
            random: RandomState::new().hash_one(()) | 1,
        }
    }

    /// Moves time on to `now` (Unix milliseconds) and removes what has expired by then.
    pub(super) fn tick(&mut self, now: i64) {
        self.now = now;
        while let Some((deadline, key)) = self.deadlines.first()
            && *deadline <= now
        {
            let key = Arc::clone(key);
            self.remove(&key);
        }
    }

    /// Unix milliseconds; stands still while a batch of commands is executed.
    pub(super) fn now(&self) -> i64 {
        self.now
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many keys have a deadline.
    pub(super) fn expiring(&self) -> usize {
        self.deadlines.len()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Value> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(super) fn read<K: Kind>(&self, key: &[u8]) -> Result<Option<&K>, Refusal> {
        self.get(key).map(K::of).transpose()
    }

    pub(super) fn write<K: Kind>(&mut self, key: &[u8]) -> Result<Option<&mut K>, Refusal> {
        self.entries
            .get_mut(key)
            .map(|entry| K::of_mut(&mut entry.value))
            .transpose()
    }

    /// As [`write`](Self::write), creating an empty value where there is none.
    pub(super) fn write_or_create<K: Kind>(&mut self, key: &[u8]) -> Result<&mut K, Refusal> {
        if !self.entries.contains_key(key) {
            self.insert(key.into(), K::default().wrap());
        }
        match self.write(key)? {
            Some(value) => Ok(value),
            None => unreachable!("inserted above"),
        }
    }

    /// Sets `key` to `value`; an earlier deadline is forgotten.
    pub(super) fn put(&mut self, key: &[u8], value: Value) {
        match self.entries.get_mut(key) {
            Some(entry) => {
                if matches!(entry.value, Value::Stream(_)) {
                    self.waiting.ready(key);
                }
                entry.value = value;
                self.persist(key);
            }
            None => self.insert(key.into(), value),
        }
        self.changed(key);
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Value> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.by_birth.remove(&entry.birth);
        if matches!(entry.value, Value::Stream(_)) {
            // Who reads it in a group is told that it has gone.
            self.waiting.ready(&key);
        }
        self.touch(&key);
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        Some(entry.value)
    }

    /// `Some(None)` is a key without a deadline.
    pub(super) fn deadline(&self, key: &[u8]) -> Option<Option<i64>> {
        self.entries.get(key).map(|entry| entry.deadline)
    }

    /// Lets an existing key expire at `deadline` (Unix milliseconds), at once if that has passed.
    pub(super) fn expire(&mut self, key: &[u8], deadline: i64) {
        let Some((key, entry)) = self.entries.get_key_value(key) else {
            return;
        };
        let (key, earlier) = (Arc::clone(key), entry.deadline);
        if deadline <= self.now {
            self.remove(&key);
            return;
        }
        if let Some(earlier) = earlier {
            self.deadlines.remove(&(earlier, Arc::clone(&key)));
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.deadline = Some(deadline);
        }
        self.touch(&key);
        self.deadlines.insert((deadline, key));
    }

    /// Forgets the deadline of `key`; whether it had one.
    pub(super) fn persist(&mut self, key: &[u8]) -> bool {
        let Some((key, entry)) = self.entries.get_key_value(key) else {
            return false;
        };
        let Some(deadline) = entry.deadline else {
            return false;
        };
        let key = Arc::clone(key);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.deadline = None;
        }
        self.touch(&key);
        self.deadlines.remove(&(deadline, key));
        true
    }

    /// To be called once after a change to the value of `key`.
    pub(super) fn changed(&mut self, key: &[u8]) {
        match self.get(key) {
            Some(value) if value.is_void() => {
                self.remove(key);
                return;
            }
            Some(Value::List(_) | Value::Stream(_)) => self.waiting.ready(key),
            _ => {}
        }
        self.touch(key);
    }

    pub(super) fn clear(&mut self) {
        // Watchers of a key that was not there have seen no change.
        let keys: Vec<Key> = self.by_birth.values().map(Arc::clone).collect();
        for key in keys {
            self.remove(&key);
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.by_birth.values()
    }

    /// Up to `count` keys from `cursor` on, and the cursor of the rest (0 when there is none).
    pub(super) fn scan(&self, cursor: u64, count: usize) -> (Vec<Key>, u64) {
        let mut rest = self.by_birth.range(cursor..);
        let page = rest
            .by_ref()
            .take(count)
            .map(|(_, key)| Arc::clone(key))
            .collect();
        (page, rest.next().map_or(0, |(birth, _)| *birth))
    }

    /// Any key, not evenly chosen: what follows a random age.
    pub(super) fn random_key(&mut self) -> Option<Key> {
        let (oldest, _) = self.by_birth.first_key_value()?;
        let oldest = *oldest;
        let from = oldest + self.random() % (self.births - oldest);
        let after = self.by_birth.range(from..).next();
        after
            .or_else(|| self.by_birth.first_key_value())
            .map(|(_, key)| Arc::clone(key))
    }

    /// A pseudo-random number (xorshift): good enough to pick a member.
    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Begins to watch `key`: its revision differs from the returned one once it was changed.
    pub(super) fn watch(&mut self, key: &[u8]) -> u64 {
        let watched = self.watched.entry(key.into()).or_insert(Watched {
            watchers: 0,
            revision: self.revision,
        });
        watched.watchers += 1;
        watched.revision
    }

    /// The revision of a watched key.
    pub(super) fn revision(&self, key: &[u8]) -> Option<u64> {
        self.watched.get(key).map(|watched| watched.revision)
    }

    /// Ends one [`watch`](Self::watch).
    pub(super) fn unwatch(&mut self, key: &[u8]) {
        if let Some(watched) = self.watched.get_mut(key) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                self.watched.remove(key);
            }
        }
    }

    fn touch(&mut self, key: &[u8]) {
        if self.watched.is_empty() {
            return;
        }
        self.revision += 1;
        if let Some(watched) = self.watched.get_mut(key) {
            watched.revision = self.revision;
        }
    }

    fn insert(&mut self, key: Key, value: Value) {
        let birth = self.births;
        self.births += 1;
        self.by_birth.insert(birth, Arc::clone(&key));
        self.entries.insert(
            key,
            Entry {
                value,
                deadline: None,
                birth,
            },
        );
    }
}
