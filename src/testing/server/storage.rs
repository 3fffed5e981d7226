//! What a server keeps: sixteen numbered databases that outlive any kill.

#![expect(
    clippy::disallowed_types,
    reason = "one batch of commands is one critical section, and awaits nothing; EXPIREAT is in \
              wall-clock time"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::database::Database;
use super::resp::Refusal;
use super::sorted_set::SortedSet;
use super::stream::Stream;

/// A server's data: what would be on its disk.
///
/// Clones share one set of databases. It survives [`Server::kill`](super::Server::kill), can be
/// given to the next server ([`Builder::storage`](super::Builder::storage)) and to several at once,
/// which are then several doors to the same data. It can be read at any time, also while every
/// server over it is down: that is how a test or a demo decides what was really executed.
///
/// Reading looks at database 0 unless [`select`](Self::select) has chosen another.
#[derive(Clone)]
pub struct Storage {
    keyspace: Arc<Mutex<Keyspace>>,
    index: usize,
}

impl Storage {
    /// Empty databases.
    ///
    /// Expiry runs by [`tokio::time::Instant`], so that a paused clock governs it too.
    #[must_use]
    pub fn new() -> Self {
        Self {
            keyspace: Arc::new(Mutex::new(Keyspace::new())),
            index: 0,
        }
    }

    /// The same data, read in database `index`.
    ///
    /// # Panics
    ///
    /// There are sixteen databases, 0 to 15; any other index panics.
    #[must_use]
    pub fn select(&self, index: usize) -> Self {
        assert!(
            index < DATABASES,
            "there is no database {index}: they are numbered 0 to {}",
            DATABASES - 1
        );
        Self {
            keyspace: Arc::clone(&self.keyspace),
            index,
        }
    }

    /// A copy of the value of `key`.
    #[must_use]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Value> {
        self.lock().databases[self.index].get(key.as_ref()).cloned()
    }

    /// The string at `key`; `None` if there is none or it is of another type.
    #[must_use]
    pub fn string(&self, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        match self.get(key)? {
            Value::String(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The integer at `key`, as `INCR` leaves it; `None` if there is none.
    #[must_use]
    pub fn counter(&self, key: impl AsRef<[u8]>) -> Option<i64> {
        super::resp::integer(&self.string(key)?)
    }

    /// The items of the list at `key`, from left to right; empty if there is no such list.
    #[must_use]
    pub fn list(&self, key: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
        match self.get(key) {
            Some(Value::List(items)) => items.into(),
            _ => Vec::new(),
        }
    }

    /// The members of the set at `key`; empty if there is no such set.
    #[must_use]
    pub fn set(&self, key: impl AsRef<[u8]>) -> BTreeSet<Vec<u8>> {
        match self.get(key) {
            Some(Value::Set(members)) => members,
            _ => BTreeSet::new(),
        }
    }

    /// The fields of the hash at `key`; empty if there is no such hash.
    #[must_use]
    pub fn hash(&self, key: impl AsRef<[u8]>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        match self.get(key) {
            Some(Value::Hash(fields)) => fields,
            _ => BTreeMap::new(),
        }
    }

    /// The members of the sorted set at `key` with their scores, the lowest first; empty if there is
    /// no such sorted set.
    #[must_use]
    pub fn sorted_set(&self, key: impl AsRef<[u8]>) -> Vec<(Vec<u8>, f64)> {
        match self.get(key) {
            Some(Value::SortedSet(members)) => members
                .iter()
                .map(|(member, score)| (member.to_vec(), score))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The stream at `key`; an empty one without groups if there is none.
    #[must_use]
    pub fn stream(&self, key: impl AsRef<[u8]>) -> Stream {
        match self.get(key) {
            Some(Value::Stream(stream)) => stream,
            _ => Stream::default(),
        }
    }

    /// Whether `key` exists, whatever its type.
    #[must_use]
    pub fn contains(&self, key: impl AsRef<[u8]>) -> bool {
        self.lock().databases[self.index]
            .get(key.as_ref())
            .is_some()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().databases[self.index].len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes every key, as `FLUSHDB`.
    pub fn clear(&self) {
        self.lock().databases[self.index].clear();
    }

    /// The data as of now: what has expired is gone before anybody looks.
    pub(super) fn lock(&self) -> MutexGuard<'_, Keyspace> {
        let mut keyspace = self.keyspace.lock().unwrap_or_else(PoisonError::into_inner);
        keyspace.tick();
        keyspace
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage")
            .field("database", &self.index)
            .field("keys", &self.len())
            .finish()
    }
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// A string, or a counter in decimal digits.
    String(Vec<u8>),
    /// A list, from left to right.
    List(VecDeque<Vec<u8>>),
    /// A set. Kept sorted, so that replies are the same in every run.
    Set(BTreeSet<Vec<u8>>),
    /// A hash. Kept sorted by field, so that replies are the same in every run.
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// A sorted set.
    SortedSet(SortedSet),
    /// A stream with its consumer groups.
    Stream(Stream),
}

impl Value {
    /// The type's name as `TYPE` tells it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "string",
            Self::List(_) => "list",
            Self::Set(_) => "set",
            Self::Hash(_) => "hash",
            Self::SortedSet(_) => "zset",
            Self::Stream(_) => "stream",
        }
    }

    /// Redis keeps no empty list, set, hash or sorted set: such a key does not exist.
    pub(super) fn is_void(&self) -> bool {
        match self {
            Self::String(_) | Self::Stream(_) => false,
            Self::List(items) => items.is_empty(),
            Self::Set(members) => members.is_empty(),
            Self::Hash(fields) => fields.is_empty(),
            Self::SortedSet(members) => members.is_empty(),
        }
    }
}

/// One of the types a value can have, to ask for it by type.
pub(super) trait Kind: Default {
    fn of(value: &Value) -> Result<&Self, Refusal>;
    fn of_mut(value: &mut Value) -> Result<&mut Self, Refusal>;
    fn wrap(self) -> Value;
}

pub(super) type List = VecDeque<Vec<u8>>;
pub(super) type Set = BTreeSet<Vec<u8>>;
pub(super) type Hash = BTreeMap<Vec<u8>, Vec<u8>>;

impl Kind for Vec<u8> {
    fn of(value: &Value) -> Result<&Self, Refusal> {
        match value {
            Value::String(bytes) => Ok(bytes),
            _ => Err(WRONG_TYPE),
        }
    }

    fn of_mut(value: &mut Value) -> Result<&mut Self, Refusal> {
        match value {
            Value::String(bytes) => Ok(bytes),
            _ => Err(WRONG_TYPE),
        }
    }

    fn wrap(self) -> Value {
        Value::String(self)
    }
}

impl Kind for List {
    fn of(value: &Value) -> Result<&Self, Refusal> {
        match value {
            Value::List(items) => Ok(items),
            _ => Err(WRONG_TYPE),
        }
    }

    fn of_mut(value: &mut Value) -> Result<&mut Self, Refusal> {
        match value {
            Value::List(items) => Ok(items),
            _ => Err(WRONG_TYPE),
        }
    }

    fn wrap(self) -> Value {
        Value::List(self)
    }
}

impl Kind for Set {
    fn of(value: &Value) -> Result<&Self, Refusal> {
        match value {
            Value::Set(members) => Ok(members),
            _ => Err(WRONG_TYPE),
        }
    }

    fn of_mut(value: &mut Value) -> Result<&mut Self, Refusal> {
        match value {
            Value::Set(members) => Ok(members),
            _ => Err(WRONG_TYPE),
        }
    }

    fn wrap(self) -> Value {
        Value::Set(self)
    }
}

impl Kind for Hash {
    fn of(value: &Value) -> Result<&Self, Refusal> {
        match value {
            Value::Hash(fields) => Ok(fields),
            _ => Err(WRONG_TYPE),
        }
    }

    fn of_mut(value: &mut Value) -> Result<&mut Self, Refusal> {
        match value {
            Value::Hash(fields) => Ok(fields),
            _ => Err(WRONG_TYPE),
        }
    }

    fn wrap(self) -> Value {
        Value::Hash(self)
    }
}

pub(super) const WRONG_TYPE: Refusal =
    Refusal::new("WRONGTYPE Operation against a key holding the wrong kind of value");

/// All databases, and the clock they expire by.
#[derive(Debug)]
pub(super) struct Keyspace {
    pub(super) databases: Vec<Database>,
    /// Wall-clock time is read once; from then on time is the runtime's, which a test can pause.
    born: (Instant, i64),
}

impl Keyspace {
    fn new() -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            databases: (0..DATABASES).map(|_| Database::new()).collect(),
            born: (
                Instant::now(),
                i64::try_from(unix.as_micros()).unwrap_or_default(),
            ),
        }
    }

    /// Whoever waits on `server`, or one connection to it, is to be served no more.
    pub(super) fn forget(&mut self, server: u64, client: Option<u64>) {
        for database in &mut self.databases {
            database.waiting.remove_all(server, client);
        }
    }

    /// The time of this storage in microseconds since the Unix epoch.
    pub(super) fn unix_micros(&self) -> i64 {
        let (instant, unix) = self.born;
        let age = instant.elapsed().as_micros();
        unix.saturating_add(i64::try_from(age).unwrap_or(i64::MAX))
    }

    fn tick(&mut self) {
        let now = self.unix_micros() / 1000;
        for database in &mut self.databases {
            database.tick(now);
        }
    }
}

/// As many as Redis has by default.
pub(super) const DATABASES: usize = 16;
