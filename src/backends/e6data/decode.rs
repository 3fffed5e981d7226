//! Results as e6data encodes them: Java's own primitives for the columns, Thrift's for the rows.
//!
//! Everything that is read is bounded by the bytes that are there: a length that lies is an error before
//! anything is made of it, and what is kept of a batch is a small multiple of its bytes, however many rows it
//! claims to have. Values are made when they are asked for.

mod columns;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod encode;
mod thrift;
mod value;
mod vector;

#[cfg(test)]
mod tests;

#[cfg(any(test, fuzzing))]
pub(crate) use columns::every_kind;
pub use columns::{Column, ColumnType, Metadata};
pub use value::{Date, DateTime, Decimal, FromValue, Interval, TimestampTz, Value};

use std::fmt;
use std::sync::Arc;

use thrift::{Reader, kind};
use vector::Vector;

/// Why an answer cannot be understood, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct DecodeError {
    place: String,
    problem: String,
}

/// Rows, as many as came at once. Clones share them.
#[derive(Clone)]
pub struct Batch(Arc<Chunk>);

/// One row of a batch. Clones share it.
#[derive(Clone)]
pub struct Row {
    chunk: Arc<Chunk>,
    index: usize,
}

struct Chunk {
    columns: Arc<[Column]>,
    vectors: Vec<Vector>,
    rows: usize,
}

/// What the columns of a result are.
///
/// # Errors
/// [`DecodeError`].
pub(crate) fn metadata(bytes: &[u8]) -> Result<Metadata, DecodeError> {
    columns::decode(bytes)
}

/// The rows of one batch; `None`: there are no more.
///
/// # Errors
/// [`DecodeError`].
pub(crate) fn batch(bytes: &[u8], metadata: &Metadata) -> Result<Option<Batch>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(bytes, "batch");
    let (mut size, mut vectors) = (0, Vec::new());
    while let Some(field) = reader.field()? {
        match (field.id, field.kind) {
            (1, kind::I32) => size = reader.i32()?,
            (2, kind::LIST) => {
                let count = reader.list(kind::STRUCT)?;
                if count > metadata.columns.len() {
                    return Err(reader.error("more vectors than the result has columns"));
                }
                for column in &metadata.columns[..count] {
                    reader.enter(&column.name);
                    vectors.push(Vector::read(&mut reader)?);
                }
                reader.enter("batch");
            }
            (1 | 2, _) => return Err(reader.error("a field of another type than expected")),
            _ => reader.skip(field.kind)?,
        }
    }
    let Ok(rows) = usize::try_from(size) else {
        return Ok(None);
    };
    if rows == 0 {
        return Ok(None);
    }
    if vectors.len() != metadata.columns.len() {
        return Err(reader.error("fewer vectors than the result has columns"));
    }
    for (vector, column) in vectors.iter().zip(&*metadata.columns) {
        if !vector.has_rows(rows) {
            return Err(DecodeError::at(
                &column.name,
                "another number of rows than the batch",
            ));
        }
    }
    Ok(Some(Batch(Arc::new(Chunk {
        columns: metadata.columns.clone(),
        vectors,
        rows,
    }))))
}

impl DecodeError {
    fn at(place: &str, problem: impl Into<String>) -> Self {
        // A name is the server's, and as long as it likes.
        let place = place.chars().take(64).collect();
        Self {
            place,
            problem: problem.into(),
        }
    }

    /// The column it was found in, or what else was being read.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }
}

// === impl Batch ===

impl Batch {
    /// How many rows there are; at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.rows
    }

    /// False: a batch without rows is the end of a result, and no batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.rows == 0
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.0.columns
    }

    /// One row.
    #[must_use]
    pub fn row(&self, index: usize) -> Option<Row> {
        (index < self.0.rows).then(|| Row {
            chunk: self.0.clone(),
            index,
        })
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<> {
        let chunk = self.0.clone();
        (0..chunk.rows).map(move |index| Row {
            chunk: chunk.clone(),
            index,
        })
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("rows", &self.0.rows)
            .field("columns", &self.0.columns.len())
            .finish()
    }
}

// === impl Row ===

impl Row {
    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.chunk.columns
    }

    /// The value of a column, counted from 0; `None` if there is no such column.
    #[must_use]
    pub fn value(&self, column: usize) -> Option<Value> {
        let vector = self.chunk.vectors.get(column)?;
        Some(vector.value(self.index))
    }

    /// All values, in order.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        self.chunk
            .vectors
            .iter()
            .map(|vector| vector.value(self.index))
    }

    /// The value of a column, counted from 0, as a type of Rust's; `Option` of one where it may be null.
    ///
    /// # Errors
    /// [`DecodeError`] if there is no such column, or its value is of another type or null.
    pub fn get<T: FromValue>(&self, column: usize) -> Result<T, DecodeError> {
        let value = self.value(column);
        let value = value.ok_or_else(|| DecodeError::at(&column.to_string(), "no such column"))?;
        T::from_value(value)
            .map_err(|problem| DecodeError::at(&self.chunk.columns[column].name, problem))
    }

    /// As [`Row::get`], by the name of the column; the first one, if several have it.
    ///
    /// # Errors
    /// As [`Row::get`].
    pub fn named<T: FromValue>(&self, column: &str) -> Result<T, DecodeError> {
        let mut columns = self.chunk.columns.iter();
        let place = columns.position(|known| known.name == column);
        let place = place.ok_or_else(|| DecodeError::at(column, "no such column"))?;
        self.get(place)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.values()).finish()
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.values().eq(other.values())
    }
}
