//! One column of a batch.

use std::sync::Arc;

use super::DecodeError;
use super::thrift::{Reader, kind};
use super::value::{Date, DateTime, Decimal, Interval, TimestampTz, Value};

/// The values of one column, in the form they take least room in.
pub(super) struct Vector {
    values: Values,
    /// Whether the value of a row is null; none is if it is empty.
    nulls: Vec<bool>,
    /// One value for all rows.
    constant: bool,
    /// As many rows as it says it has.
    size: i32,
}

enum Values {
    Null,
    Booleans(Vec<bool>),
    Integers(Vec<i32>),
    Longs(Vec<i64>),
    Doubles(Vec<f64>),
    Texts(Vec<Box<str>>),
    Binaries(Vec<Box<[u8]>>),
    Dates(Vec<i64>),
    DateTimes(Vec<i64>),
    /// The zones of a whole vector are few: rows share them.
    Zoned(Vec<(i64, Arc<str>)>),
    Decimals(Vec<Decimal>),
    Intervals(Vec<i64>),
}

/// What a vector carries, before it is known what for.
enum Data<'a> {
    Booleans(Vec<bool>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    Doubles(Vec<f64>),
    Bytes(Vec<&'a [u8]>),
    Times(Vec<i64>, Vec<&'a [u8]>),
    Decimals(Vec<&'a [u8]>, i32),
    Nothing,
}

/// The types of vectors.
pub(super) mod vector_type {
    pub(in super::super) const BINARY: i32 = 0;
    pub(in super::super) const BOOLEAN: i32 = 1;
    pub(in super::super) const DOUBLE: i32 = 2;
    pub(in super::super) const FLOAT: i32 = 3;
    pub(in super::super) const INTEGER: i32 = 5;
    pub(in super::super) const LONG: i32 = 6;
    pub(in super::super) const STRING: i32 = 7;
    pub(in super::super) const DATE: i32 = 8;
    pub(in super::super) const DATETIME: i32 = 9;
    pub(in super::super) const STRUCT: i32 = 11;
    pub(in super::super) const MAP: i32 = 12;
    pub(in super::super) const ARRAY: i32 = 13;
    pub(in super::super) const NULL: i32 = 14;
    pub(in super::super) const TIMESTAMP_TZ: i32 = 15;
    pub(in super::super) const DECIMAL128: i32 = 16;
    pub(in super::super) const INTERVAL_DAY_SECOND: i32 = 17;
}

/// Beyond any scale that a decimal of 38 digits has a use for.
const MAX_SCALE: i32 = 128;

impl Vector {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut size, mut of, mut constant) = (0, None, false);
        let (mut nulls, mut data) = (Vec::new(), Data::Nothing);
        while let Some(field) = reader.field()? {
            match (field.id, field.kind) {
                (1, kind::I32) => size = reader.i32()?,
                (2, kind::I32) => of = Some(reader.i32()?),
                (3, kind::LIST) => nulls = all(reader, kind::BOOL, Reader::bool)?,
                (4, kind::STRUCT) => data = Data::read(reader)?,
                (5, kind::BOOL) => constant = reader.bool()?,
                (1..=5, _) => return Err(reader.error("a field of another type than expected")),
                _ => reader.skip(field.kind)?,
            }
        }
        let of = of.ok_or_else(|| reader.error("a vector without a type"))?;
        let values = match constant && nulls.first() == Some(&true) {
            true => Values::Null,
            false => data.of_type(of, reader)?,
        };
        Ok(Self {
            values,
            nulls,
            constant,
            size,
        })
    }

    /// Whether there is a value for each of so many rows, and for no more.
    pub(super) fn has_rows(&self, rows: usize) -> bool {
        let said = usize::try_from(self.size) == Ok(rows);
        let values = self.values.len().is_none_or(|len| match self.constant {
            true => len == 1,
            false => len == rows,
        });
        let nulls = self.constant || self.nulls.is_empty() || self.nulls.len() == rows;
        said && values && nulls
    }

    pub(super) fn value(&self, row: usize) -> Value {
        let row = if self.constant { 0 } else { row };
        match self.nulls.get(row) {
            Some(true) => Value::Null,
            _ => self.values.at(row),
        }
    }
}

impl Values {
    fn len(&self) -> Option<usize> {
        Some(match self {
            Self::Null => return None,
            Self::Booleans(values) => values.len(),
            Self::Integers(values) => values.len(),
            Self::Doubles(values) => values.len(),
            Self::Texts(values) => values.len(),
            Self::Binaries(values) => values.len(),
            Self::Longs(values)
            | Self::Dates(values)
            | Self::DateTimes(values)
            | Self::Intervals(values) => values.len(),
            Self::Zoned(values) => values.len(),
            Self::Decimals(values) => values.len(),
        })
    }

    fn at(&self, row: usize) -> Value {
        let made = match self {
            Self::Null => None,
            Self::Booleans(values) => values.get(row).map(|&v| Value::Boolean(v)),
            Self::Integers(values) => values.get(row).map(|&v| Value::Integer(v)),
            Self::Longs(values) => values.get(row).map(|&v| Value::Long(v)),
            Self::Doubles(values) => values.get(row).map(|&v| Value::Double(v)),
            Self::Texts(values) => values.get(row).map(|v| Value::Text(v.to_string())),
            Self::Binaries(values) => values.get(row).map(|v| Value::Binary(v.to_vec())),
            Self::Dates(values) => values.get(row).map(|&v| Value::Date(Date::of_micros(v))),
            Self::DateTimes(values) => {
                let value = values.get(row);
                value.map(|&micros| Value::DateTime(DateTime { micros }))
            }
            Self::Zoned(values) => values.get(row).map(|(micros, zone)| {
                Value::TimestampTz(TimestampTz {
                    micros: *micros,
                    zone: zone.clone(),
                })
            }),
            Self::Decimals(values) => values.get(row).map(|&v| Value::Decimal(v)),
            Self::Intervals(values) => {
                let value = values.get(row);
                value.map(|&micros| Value::Interval(Interval { micros }))
            }
        };
        made.unwrap_or(Value::Null)
    }
}

impl<'a> Data<'a> {
    /// A union: one field, which is a structure with its value in field 1.
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut data = Self::Nothing;
        while let Some(field) = reader.field()? {
            if field.kind != kind::STRUCT {
                reader.skip(field.kind)?;
                continue;
            }
            let (mut zones, mut scale) = (Vec::new(), 0);
            while let Some(inner) = reader.field()? {
                match (field.id, inner.id, inner.kind) {
                    (1, 1, kind::LIST) => {
                        data = Self::Booleans(all(reader, kind::BOOL, Reader::bool)?)
                    }
                    (2, 1, kind::LIST) => data = Self::I32(all(reader, kind::I32, Reader::i32)?),
                    (3 | 4, 1, kind::LIST) => {
                        data = Self::I64(all(reader, kind::I64, Reader::i64)?)
                    }
                    (5 | 6, 1, kind::LIST) => {
                        data = Self::Doubles(all(reader, kind::DOUBLE, Reader::f64)?);
                    }
                    (7, 1, kind::LIST) => {
                        data = Self::Bytes(all(reader, kind::BINARY, Reader::binary)?)
                    }
                    (8, 1, kind::BOOL) => data = Self::Booleans(vec![reader.bool()?]),
                    (9 | 11, 1, kind::I64) => data = Self::I64(vec![reader.i64()?]),
                    (12, 1, kind::DOUBLE) => data = Self::Doubles(vec![reader.f64()?]),
                    (14, 1, kind::I64) => data = Self::Times(vec![reader.i64()?], Vec::new()),
                    (14, 2, kind::BINARY) => zones = vec![reader.binary()?],
                    (15, 1, kind::BINARY) => data = Self::Bytes(vec![reader.binary()?]),
                    (16, 1, kind::LIST) => {
                        data = Self::Times(all(reader, kind::I64, Reader::i64)?, Vec::new());
                    }
                    (16, 2, kind::LIST) => zones = all(reader, kind::BINARY, Reader::binary)?,
                    (17, 1, kind::LIST) => {
                        data = Self::Decimals(all(reader, kind::BINARY, Reader::binary)?, 0);
                    }
                    (18, 1, kind::BINARY) => data = Self::Decimals(vec![reader.binary()?], 0),
                    (17 | 18, 2, kind::I32) => scale = reader.i32()?,
                    _ => reader.skip(inner.kind)?,
                }
            }
            match &mut data {
                Self::Times(_, known) => *known = zones,
                Self::Decimals(_, known) => *known = scale,
                _ => {}
            }
        }
        Ok(data)
    }

    /// What it is worth in a vector of this type.
    fn of_type(self, of: i32, reader: &Reader<'_>) -> Result<Values, DecodeError> {
        use vector_type as t;
        Ok(match (of, self) {
            (t::NULL, _) => Values::Null,
            (t::BOOLEAN, Self::Booleans(values)) => Values::Booleans(values),
            (t::INTEGER, Self::I32(values)) => Values::Integers(values),
            (t::INTEGER, Self::I64(values)) => Values::Integers(narrowed(&values, reader)?),
            (t::LONG, Self::I64(values)) => Values::Longs(values),
            (t::DOUBLE | t::FLOAT, Self::Doubles(values)) => Values::Doubles(values),
            (t::STRING | t::STRUCT | t::MAP | t::ARRAY, Self::Bytes(values)) => Values::Texts(
                values
                    .iter()
                    .map(|v| text(v, reader))
                    .collect::<Result<_, _>>()?,
            ),
            (t::BINARY, Self::Bytes(values)) => {
                Values::Binaries(values.into_iter().map(Into::into).collect())
            }
            (t::DATE, Self::I64(values)) => Values::Dates(values),
            (t::DATETIME, Self::Times(values, _)) => Values::DateTimes(values),
            (t::TIMESTAMP_TZ, Self::Times(values, zones)) => {
                Values::Zoned(zoned(values, &zones, reader)?)
            }
            (t::DECIMAL128, Self::Decimals(values, scale)) => {
                if !(-MAX_SCALE..=MAX_SCALE).contains(&scale) {
                    return Err(reader.error(format!("a decimal with the scale {scale}")));
                }
                let decimals = values.iter().map(|v| decimal(v, scale, reader));
                Values::Decimals(decimals.collect::<Result<_, _>>()?)
            }
            (t::INTERVAL_DAY_SECOND, Self::I64(values)) => Values::Intervals(values),
            (0..=3 | 5..=9 | 11..=17, _) => {
                return Err(reader.error(format!("a vector of type {of} with data of another one")));
            }
            (other, _) => {
                return Err(reader.error(format!("a vector of type {other}, which has no decoder")));
            }
        })
    }
}

/// All elements of a list of this type.
fn all<'a, T>(
    reader: &mut Reader<'a>,
    of: u8,
    next: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.list(of)?;
    (0..count).map(|_| next(reader)).collect()
}

fn text(bytes: &[u8], reader: &Reader<'_>) -> Result<Box<str>, DecodeError> {
    let text = std::str::from_utf8(bytes);
    text.map(Into::into)
        .map_err(|_| reader.error("text that is not UTF-8"))
}

fn narrowed(values: &[i64], reader: &Reader<'_>) -> Result<Vec<i32>, DecodeError> {
    let narrow =
        |&value| i32::try_from(value).map_err(|_| reader.error("an integer of more than 32 bits"));
    values.iter().map(narrow).collect()
}

/// A vector has few zones, and often the same one in row after row.
fn zoned(
    values: Vec<i64>,
    zones: &[&[u8]],
    reader: &Reader<'_>,
) -> Result<Vec<(i64, Arc<str>)>, DecodeError> {
    if !zones.is_empty() && zones.len() != values.len() {
        return Err(reader.error("another number of zones than of times"));
    }
    let mut last: (&[u8], Arc<str>) = (b"", "".into());
    let mut made = Vec::with_capacity(values.len());
    for (index, micros) in values.into_iter().enumerate() {
        if let Some(zone) = zones.get(index).filter(|zone| **zone != last.0) {
            last = (zone, text(zone, reader)?.into());
        }
        made.push((micros, last.1.clone()));
    }
    Ok(made)
}

/// Sixteen bytes are the number itself, whatever they may look like. Older engines send it as text, which is
/// never taken for the other: it is of another length, or else is not told apart by anybody.
fn decimal(bytes: &[u8], scale: i32, reader: &Reader<'_>) -> Result<Decimal, DecodeError> {
    if let Ok(whole) = <[u8; 16]>::try_from(bytes) {
        return Ok(Decimal {
            unscaled: i128::from_be_bytes(whole),
            scale,
        });
    }
    // A null has no digits; its place is taken by the null flag.
    if bytes.is_empty() {
        return Ok(Decimal { unscaled: 0, scale });
    }
    let text = std::str::from_utf8(bytes).ok();
    let decimal = text.and_then(Decimal::parse);
    decimal.ok_or_else(|| reader.error(format!("a decimal of {} bytes", bytes.len())))
}
