//! Random elements of a hash, a set or a sorted set.

use crate::testing::server::database::Database;
use crate::testing::server::resp::{NOT_AN_INTEGER, Refusal, integer_arg};

/// How many elements are wanted: so many different ones, or, negative, so many that may repeat.
pub(super) fn sample_arg(text: &[u8]) -> Result<i64, Refusal> {
    let count = integer_arg(text)?;
    if count == i64::MIN {
        return Err(Refusal::from(format!(
            "ERR value is out of range, value must between {} and {}",
            -i64::MAX,
            i64::MAX
        )));
    }
    Ok(count)
}

/// As [`sample_arg`], where each element may be answered with its value: twice as many lines.
pub(super) fn sample_of_pairs_arg(text: &[u8], with_values: bool) -> Result<i64, Refusal> {
    let count = sample_arg(text)?;
    if with_values && count.unsigned_abs() > u64::MAX / 4 {
        return Err(Refusal::new("ERR value is out of range"));
    }
    Ok(count)
}

/// The places of `count` elements out of `length` (which is not 0).
///
/// All of them come in order, as Redis lists a whole small collection.
pub(super) fn sample(
    database: &mut Database,
    length: usize,
    count: i64,
) -> Result<Vec<usize>, Refusal> {
    let wanted = usize::try_from(count.unsigned_abs()).map_err(|_| NOT_AN_INTEGER)?;
    if count < 0 {
        return Ok((0..wanted).map(|_| place(database, length)).collect());
    }
    let mut places: Vec<usize> = (0..length).collect();
    if wanted >= length {
        return Ok(places);
    }
    // The beginning of a shuffle.
    for at in 0..wanted {
        let other = at + place(database, length - at);
        places.swap(at, other);
    }
    places.truncate(wanted);
    Ok(places)
}

/// One place out of `length` (which is not 0).
pub(super) fn place(database: &mut Database, length: usize) -> usize {
    (database.random() % length as u64) as usize
}
