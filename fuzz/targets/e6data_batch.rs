//! Any bytes as the rows of a result whose columns are of any kinds.
//!
//! What is kept is a small multiple of the bytes, which the limit on memory sees; every row that there is said to
//! be can be read, and no more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use multidb::e6data::fuzzing::{batch, metadata_of};

fuzz_target!(|input: &[u8]| {
    let [count, rest @ ..] = input else { return };
    let count = usize::from(count % 5).min(rest.len());
    let (kinds, bytes) = rest.split_at(count);
    let metadata = metadata_of(kinds);
    let Ok(Some(rows)) = batch(bytes, &metadata) else {
        return;
    };
    assert!(!rows.is_empty());
    assert_eq!(rows.columns().len(), metadata.columns.len());
    assert!(rows.row(rows.len()).is_none());
    let places = (0..64).chain([rows.len() / 2, rows.len() - 1]);
    for row in places.filter_map(|index| rows.row(index)) {
        assert_eq!(row.values().count(), metadata.columns.len());
        for column in 0..metadata.columns.len() {
            let value = row.value(column).expect("a column that there is");
            let _ = format!("{value:?} {value}");
            let _ = (row.get::<i64>(column), row.get::<Option<String>>(column));
        }
        assert!(row.value(metadata.columns.len()).is_none());
    }
});
