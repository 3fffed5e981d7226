//! The other way round: results as a server encodes them, for the stand-in and the tests.

use super::columns::{Column, ColumnType};
use super::thrift::kind;
use super::value::Value;
use super::vector::vector_type as t;

/// What a server says of the columns of a result.
pub(crate) fn metadata(rows: i64, columns: &[Column]) -> Vec<u8> {
    let mut out = rows.to_be_bytes().to_vec();
    out.extend(len(columns.len()).to_be_bytes());
    for column in columns {
        for text in [
            &*column.name,
            column.kind.as_str(),
            &column.zone,
            &column.format,
        ] {
            let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
            out.extend(length.to_be_bytes());
            out.extend(&text.as_bytes()[..length.into()]);
        }
    }
    out
}

/// The rows of a batch. `constants`: a column that has one value is sent as that value alone.
///
/// A value that does not belong to the type of its column is sent as null.
pub(crate) fn batch(columns: &[Column], rows: &[Vec<Value>], constants: bool) -> Vec<u8> {
    let mut out = Writer::default();
    out.field(kind::I32, 1)
        .extend(len(rows.len()).to_be_bytes());
    out.field(kind::LIST, 2).list(kind::STRUCT, columns.len());
    for (index, column) in columns.iter().enumerate() {
        let values: Vec<&Value> = rows.iter().map(|row| &row[index]).collect();
        let constant = constants && values.windows(2).all(|pair| pair[0] == pair[1]);
        out.vector(&column.kind, &values, constant);
    }
    out.stop();
    out.0
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn extend(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    fn field(&mut self, of: u8, id: i16) -> &mut Self {
        self.extend([of]).extend(id.to_be_bytes())
    }

    fn list(&mut self, of: u8, count: usize) -> &mut Self {
        self.extend([of]).extend(len(count).to_be_bytes())
    }

    fn binary(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend(len(bytes.len()).to_be_bytes()).extend(bytes)
    }

    fn stop(&mut self) -> &mut Self {
        self.extend([0])
    }

    fn vector(&mut self, of: &ColumnType, values: &[&Value], constant: bool) {
        let rows = len(values.len());
        let values = if constant {
            &values[..values.len().min(1)]
        } else {
            values
        };
        self.field(kind::I32, 1).extend(rows.to_be_bytes());
        self.field(kind::I32, 2).extend(code(of).to_be_bytes());
        self.field(kind::LIST, 3).list(kind::BOOL, values.len());
        for value in values {
            self.extend([u8::from(!belongs(of, value))]);
        }
        self.field(kind::STRUCT, 4);
        self.data(of, values, constant);
        self.stop();
        self.field(kind::BOOL, 5).extend([u8::from(constant)]);
        self.stop();
    }

    fn data(&mut self, of: &ColumnType, values: &[&Value], constant: bool) {
        let (list, single, element) = places(of);
        if constant {
            self.field(kind::STRUCT, single);
            match single {
                10 => self.field(kind::BYTE, 1).extend([0]),
                // A constant integer of any width is a long.
                11 => {
                    let value = values.first().map_or(0, |value| whole(value));
                    self.field(kind::I64, 1).extend(value.to_be_bytes())
                }
                _ => {
                    self.field(element, 1);
                    self.element(of, values.first().copied().unwrap_or(&Value::Null))
                }
            };
        } else {
            self.field(kind::STRUCT, list);
            self.field(kind::LIST, 1).list(element, values.len());
            for value in values {
                self.element(of, value);
            }
        }
        match of {
            ColumnType::TimestampTz => {
                let zone = |value: &Value| match value {
                    Value::TimestampTz(time) => time.zone.as_bytes().to_vec(),
                    _ => Vec::new(),
                };
                if constant {
                    let zone = values.first().map(|value| zone(value)).unwrap_or_default();
                    self.field(kind::BINARY, 2).binary(&zone);
                } else {
                    self.field(kind::LIST, 2).list(kind::BINARY, values.len());
                    for value in values {
                        self.binary(&zone(value));
                    }
                }
            }
            ColumnType::Decimal => {
                let scale = values.iter().find_map(|value| match value {
                    Value::Decimal(decimal) => Some(decimal.scale),
                    _ => None,
                });
                self.field(kind::I32, 2)
                    .extend(scale.unwrap_or(0).to_be_bytes());
            }
            _ => {}
        }
        self.stop();
    }

    fn element(&mut self, of: &ColumnType, value: &Value) -> &mut Self {
        match (of, value) {
            (ColumnType::Boolean, Value::Boolean(v)) => self.extend([u8::from(*v)]),
            (ColumnType::Boolean, _) => self.extend([0]),
            (ColumnType::Integer, Value::Integer(v)) => self.extend(v.to_be_bytes()),
            (ColumnType::Integer, _) => self.extend(0_i32.to_be_bytes()),
            (ColumnType::Double | ColumnType::Float, Value::Double(v)) => {
                self.extend(v.to_be_bytes())
            }
            (ColumnType::Double | ColumnType::Float, _) => self.extend(0_f64.to_be_bytes()),
            (ColumnType::Decimal, Value::Decimal(v)) => self.binary(&v.unscaled.to_be_bytes()),
            (_, Value::Text(v)) => self.binary(v.as_bytes()),
            (_, Value::Binary(v)) => self.binary(v),
            (
                ColumnType::Decimal
                | ColumnType::String
                | ColumnType::Struct
                | ColumnType::Map
                | ColumnType::Array
                | ColumnType::Binary,
                _,
            ) => self.binary(b""),
            (_, value) => self.extend(whole(value).to_be_bytes()),
        }
    }
}

fn len(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// What travels as a whole number.
fn whole(value: &Value) -> i64 {
    match value {
        Value::Integer(v) => (*v).into(),
        Value::Long(v) => *v,
        Value::Date(v) => v.days.saturating_mul(86_400_000_000),
        Value::DateTime(v) => v.micros,
        Value::TimestampTz(v) => v.micros,
        Value::Interval(v) => v.micros,
        _ => 0,
    }
}

fn belongs(of: &ColumnType, value: &Value) -> bool {
    use ColumnType as T;
    match value {
        Value::Null => false,
        Value::Boolean(_) => *of == T::Boolean,
        Value::Integer(_) => *of == T::Integer,
        Value::Long(_) => *of == T::Long,
        Value::Double(_) => matches!(of, T::Double | T::Float),
        Value::Text(_) => matches!(of, T::String | T::Struct | T::Map | T::Array),
        Value::Binary(_) => *of == T::Binary,
        Value::Date(_) => *of == T::Date,
        Value::DateTime(_) => *of == T::DateTime,
        Value::TimestampTz(_) => *of == T::TimestampTz,
        Value::Decimal(_) => *of == T::Decimal,
        Value::Interval(_) => *of == T::Interval,
    }
}

fn code(of: &ColumnType) -> i32 {
    match of {
        ColumnType::Binary => t::BINARY,
        ColumnType::Boolean => t::BOOLEAN,
        ColumnType::Double => t::DOUBLE,
        ColumnType::Float => t::FLOAT,
        ColumnType::Integer => t::INTEGER,
        ColumnType::Long => t::LONG,
        ColumnType::String => t::STRING,
        ColumnType::Date => t::DATE,
        ColumnType::DateTime => t::DATETIME,
        ColumnType::TimestampTz => t::TIMESTAMP_TZ,
        ColumnType::Decimal => t::DECIMAL128,
        ColumnType::Interval => t::INTERVAL_DAY_SECOND,
        ColumnType::Struct => t::STRUCT,
        ColumnType::Map => t::MAP,
        ColumnType::Array => t::ARRAY,
        ColumnType::Null => t::NULL,
        // INT96, which nobody can decode.
        ColumnType::Other(_) => 4,
    }
}

/// The fields of the union for many values and for one, and the type of one.
fn places(of: &ColumnType) -> (i16, i16, u8) {
    match of {
        ColumnType::Boolean => (1, 8, kind::BOOL),
        ColumnType::Integer => (2, 11, kind::I32),
        ColumnType::Long | ColumnType::Interval => (3, 11, kind::I64),
        ColumnType::Date => (4, 9, kind::I64),
        ColumnType::Float => (5, 12, kind::DOUBLE),
        ColumnType::Double => (6, 12, kind::DOUBLE),
        ColumnType::DateTime | ColumnType::TimestampTz => (16, 14, kind::I64),
        ColumnType::Decimal => (17, 18, kind::BINARY),
        ColumnType::Null | ColumnType::Other(_) => (3, 10, kind::I64),
        ColumnType::String
        | ColumnType::Struct
        | ColumnType::Map
        | ColumnType::Array
        | ColumnType::Binary => (7, 15, kind::BINARY),
    }
}
