//! What the columns of a result are.

use std::fmt;
use std::sync::Arc;

use super::DecodeError;
use super::thrift::Reader;

/// What a result looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// How many rows the server says there are.
    pub rows: i64,
    /// The columns, in order.
    pub columns: Arc<[Column]>,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
    /// The time zone that the server names for it; empty: none.
    pub zone: String,
    /// The format that the server names for it; empty: none.
    pub format: String,
}

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ColumnType {
    /// Bytes.
    Binary,
    /// True or false.
    Boolean,
    /// A double.
    Double,
    /// A float, which travels as a double.
    Float,
    /// 32 bits.
    Integer,
    /// 64 bits.
    Long,
    /// Text.
    String,
    /// A day.
    Date,
    /// A time in UTC, to the microsecond.
    DateTime,
    /// A time with a zone of its own, to the microsecond.
    TimestampTz,
    /// A decimal of up to 38 digits.
    Decimal,
    /// A span of time, to the microsecond.
    Interval,
    /// A structure, as text.
    Struct,
    /// A map, as text.
    Map,
    /// An array, as text.
    Array,
    /// Always null.
    Null,
    /// Any other, by the server's name for it.
    Other(String),
}

/// All that have a name.
#[cfg(any(test, fuzzing))]
pub(crate) fn every_kind() -> [ColumnType; 16] {
    use ColumnType as T;
    [
        T::Binary,
        T::Boolean,
        T::Double,
        T::Float,
        T::Integer,
        T::Long,
        T::String,
        T::Date,
        T::DateTime,
        T::TimestampTz,
        T::Decimal,
        T::Interval,
        T::Struct,
        T::Map,
        T::Array,
        T::Null,
    ]
}

impl Column {
    /// A column without a zone and a format.
    pub fn new(name: impl Into<String>, kind: ColumnType) -> Self {
        Self {
            name: name.into(),
            kind,
            zone: String::new(),
            format: String::new(),
        }
    }
}

impl ColumnType {
    const NAMES: [(&'static str, Self); 16] = [
        ("BINARY", Self::Binary),
        ("BOOLEAN", Self::Boolean),
        ("DOUBLE", Self::Double),
        ("FLOAT", Self::Float),
        ("INTEGER", Self::Integer),
        ("LONG", Self::Long),
        ("STRING", Self::String),
        ("DATE", Self::Date),
        ("DATETIME", Self::DateTime),
        ("TIMESTAMP_TZ", Self::TimestampTz),
        ("DECIMAL128", Self::Decimal),
        ("INTERVAL_DAY_SECOND", Self::Interval),
        ("STRUCT", Self::Struct),
        ("MAP", Self::Map),
        ("ARRAY", Self::Array),
        ("NULL", Self::Null),
    ];

    /// As the server writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => {
                let mut names = Self::NAMES.iter();
                names
                    .find(|(_, kind)| kind == known)
                    .map_or("", |(name, _)| name)
            }
        }
    }

    fn named(name: String) -> Self {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map_or(Self::Other(name), |(_, kind)| kind.clone())
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Metadata, DecodeError> {
    let mut reader = Reader::new(bytes, "metadata");
    let rows = reader.i64()?;
    let count = reader.i32()?;
    let count = usize::try_from(count).map_err(|_| reader.error("a negative number of columns"))?;
    // Four lengths each: what cannot be there is not made room for.
    if count > bytes.len() / 8 {
        return Err(reader.error(format!("{count} columns in {} bytes", bytes.len())));
    }
    let mut columns = Vec::with_capacity(count);
    for index in 0..count {
        reader.enter(&format!("column {index}"));
        columns.push(Column {
            name: text(&mut reader)?,
            kind: ColumnType::named(text(&mut reader)?),
            zone: text(&mut reader)?,
            format: text(&mut reader)?,
        });
    }
    Ok(Metadata {
        rows,
        columns: columns.into(),
    })
}

fn text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let length = reader.u16()?;
    let bytes = reader.bytes(length.into())?;
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.to_owned()),
        Err(_) => modified_utf8(bytes),
    };
    text.ok_or_else(|| reader.error("a name that is no text"))
}

/// What Java's `writeUTF` makes of text: UTF-16 with each unit written as if it were a character, and NUL in
/// two bytes.
fn modified_utf8(bytes: &[u8]) -> Option<String> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut left = bytes.iter().map(|&byte| u16::from(byte));
    while let Some(first) = left.next() {
        let mut more = || {
            left.next()
                .filter(|byte| byte & 0xC0 == 0x80)
                .map(|byte| byte & 0x3F)
        };
        units.push(match first {
            0x00..=0x7F => first,
            0xC0..=0xDF => (first & 0x1F) << 6 | more()?,
            0xE0..=0xEF => (first & 0x0F) << 12 | more()? << 6 | more()?,
            _ => return None,
        });
    }
    String::from_utf16(&units).ok()
}
