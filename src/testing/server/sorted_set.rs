//! The value of a sorted set.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use super::resp::Refusal;
use super::storage::{Kind, Value, WRONG_TYPE};

/// Members with scores, sorted by score and, where scores are equal, by member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SortedSet {
    scores: HashMap<Vec<u8>, Score>,
    order: BTreeSet<(Score, Vec<u8>)>,
}

impl SortedSet {
    /// The score of `member`; `None` if it is not there.
    #[must_use]
    pub fn score(&self, member: impl AsRef<[u8]>) -> Option<f64> {
        self.scores.get(member.as_ref()).map(|score| score.0)
    }

    /// All members with their scores, the lowest score first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], f64)> {
        let order = self.order.iter();
        order.map(|(score, member)| (member.as_slice(), score.0))
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// Gives `member` a score, which is a number.
    pub(super) fn insert(&mut self, member: &[u8], score: f64) {
        self.remove(member);
        // A small sorted set of Redis keeps whole numbers as such, and so no -0.
        let score = score + 0.0;
        self.scores.insert(member.to_vec(), Score(score));
        self.order.insert((Score(score), member.to_vec()));
    }

    /// Takes `member` out; whether it was there.
    pub(super) fn remove(&mut self, member: &[u8]) -> bool {
        let Some((member, score)) = self.scores.remove_entry(member) else {
            return false;
        };
        self.order.remove(&(score, member))
    }
}

impl Kind for SortedSet {
    fn of(value: &Value) -> Result<&Self, Refusal> {
        match value {
            Value::SortedSet(members) => Ok(members),
            _ => Err(WRONG_TYPE),
        }
    }

    fn of_mut(value: &mut Value) -> Result<&mut Self, Refusal> {
        match value {
            Value::SortedSet(members) => Ok(members),
            _ => Err(WRONG_TYPE),
        }
    }

    fn wrap(self) -> Value {
        Value::SortedSet(self)
    }
}

// Never NaN: Redis refuses what would make one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Score(f64);

impl Eq for Score {}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
