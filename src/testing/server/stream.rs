//! The value of a stream: entries in the order of their ids, and the groups that read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use super::resp::Refusal;
use super::storage::{Kind, Value, WRONG_TYPE};

/// Entries in the order of their ids, and consumer groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub(super) entries: BTreeMap<Id, Fields>,
    /// Of all entries ever added, those removed since included.
    pub(super) last: Id,
    pub(super) groups: BTreeMap<Vec<u8>, Group>,
}

/// An entry's fields with their values, in the order they were given.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

impl Stream {
    /// All entries, the oldest first: the id as Redis writes it, fields and values.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (String, &Fields)> {
        let entries = self.entries.iter();
        entries.map(|(id, fields)| (id.to_string(), fields))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry. Redis keeps such a stream.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries of `range`, which may be the wrong way round and is then empty.
    pub(super) fn range(
        &self,
        range: RangeInclusive<Id>,
    ) -> impl DoubleEndedIterator<Item = (&Id, &Fields)> {
        let range = (!range.is_empty()).then_some(range);
        range
            .into_iter()
            .flat_map(|range| self.entries.range(range))
    }
}

/// A consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) delivered: Id,
    pub(super) pending: BTreeMap<Id, Pending>,
    pub(super) consumers: BTreeSet<Vec<u8>>,
}

/// An entry that was delivered to a consumer and is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) consumer: Vec<u8>,
    /// Unix milliseconds.
    pub(super) delivered_at: i64,
    pub(super) deliveries: i64,
}

/// An entry's id: Unix milliseconds, and a number that tells the entries of one millisecond apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) millis: u64,
    pub(super) number: u64,
}

impl Id {
    pub(super) const MIN: Self = Self {
        millis: 0,
        number: 0,
    };
    pub(super) const MAX: Self = Self {
        millis: u64::MAX,
        number: u64::MAX,
    };

    /// Reads `millis-number`, or `millis` alone, which is completed with `number`.
    pub(super) fn parse(text: &[u8], number: u64) -> Result<Self, Refusal> {
        let parse = |text: &str| {
            let (millis, number) = match text.split_once('-') {
                Some((millis, number)) => (millis, number.parse().ok()?),
                None => (text, number),
            };
            let millis = millis.parse().ok()?;
            Some(Self { millis, number })
        };
        std::str::from_utf8(text)
            .ok()
            .and_then(parse)
            .ok_or(INVALID_ID)
    }

    pub(super) fn next(self) -> Option<Self> {
        let Self { millis, number } = self;
        match number.checked_add(1) {
            Some(number) => Some(Self { millis, number }),
            None => Some(Self {
                millis: millis.checked_add(1)?,
                number: 0,
            }),
        }
    }

    pub(super) fn previous(self) -> Option<Self> {
        let Self { millis, number } = self;
        match number.checked_sub(1) {
            Some(number) => Some(Self { millis, number }),
            None => Some(Self {
                millis: millis.checked_sub(1)?,
                number: u64::MAX,
            }),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

const INVALID_ID: Refusal =
    Refusal::new("ERR Invalid stream ID specified as stream command argument");

impl Kind for Stream {
    fn of(value: &Value) -> Result<&Self, Refusal> {
        match value {
            Value::Stream(stream) => Ok(stream),
            _ => Err(WRONG_TYPE),
        }
    }

    fn of_mut(value: &mut Value) -> Result<&mut Self, Refusal> {
        match value {
            Value::Stream(stream) => Ok(stream),
            _ => Err(WRONG_TYPE),
        }
    }

    fn wrap(self) -> Value {
        Value::Stream(self)
    }
}
