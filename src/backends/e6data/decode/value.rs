//! Values, as what they are.

use std::fmt;
use std::sync::Arc;

/// A value of a result.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// No value.
    Null,
    /// True or false.
    Boolean(bool),
    /// 32 bits.
    Integer(i32),
    /// 64 bits.
    Long(i64),
    /// A double or a float: both travel as doubles.
    Double(f64),
    /// Text. Arrays, maps and structures are text, too; the column tells which.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// A day.
    Date(Date),
    /// A time in UTC.
    DateTime(DateTime),
    /// A time with a zone.
    TimestampTz(TimestampTz),
    /// A decimal, exactly.
    Decimal(Decimal),
    /// A span of time.
    Interval(Interval),
}

/// A day of the Gregorian calendar, extended to all times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    /// Days since 1970-01-01.
    pub days: i64,
}

/// A time in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime {
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub micros: i64,
}

/// A time with a zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimestampTz {
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub micros: i64,
    /// The zone as the server writes it: an offset such as `+05:30`, `Z`, or a name. Empty: UTC.
    pub zone: Arc<str>,
}

/// A decimal: `unscaled / 10^scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    /// All digits, as a whole number.
    pub unscaled: i128,
    /// How many of them come after the point.
    pub scale: i32,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval {
    /// Its length in microseconds.
    pub micros: i64,
}

/// What a value can become. Says what is wrong if it cannot.
pub trait FromValue: Sized {
    /// Makes it of a value.
    ///
    /// # Errors
    /// What is wrong, for people.
    fn from_value(value: Value) -> Result<Self, String>;
}

const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;
const SECOND: i64 = 1_000_000;

// === impl Date ===

impl Date {
    /// The day of a time in microseconds since 1970-01-01 00:00 UTC.
    #[must_use]
    pub fn of_micros(micros: i64) -> Self {
        Self {
            days: micros.div_euclid(DAY),
        }
    }

    /// Year, month and day. There is a year 0, before which come negative ones.
    #[must_use]
    pub fn parts(self) -> (i64, u8, u8) {
        // Years are counted from March, so that the day that comes and goes is the last one, and in eras of
        // 400 years, which are all alike.
        let days = self.days.saturating_add(719_468);
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + i64::from(month <= 2);
        (year, month as u8, day as u8)
    }
}

impl fmt::Display for Date {
    /// `2022-01-08`; years beyond 9999 with a sign, as ISO 8601 has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.parts();
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+05}")?,
        }
        write!(f, "-{month:02}-{day:02}")
    }
}

// === times ===

/// Day and time of day, to the microsecond.
fn write_time(f: &mut fmt::Formatter<'_>, micros: i64) -> fmt::Result {
    let time = micros.rem_euclid(DAY);
    write!(
        f,
        "{}T{:02}:{:02}:{:02}.{:06}",
        Date::of_micros(micros),
        time / HOUR,
        time % HOUR / MINUTE,
        time % MINUTE / SECOND,
        time % SECOND
    )
}

impl fmt::Display for DateTime {
    /// `2022-01-08T12:00:00.000001+00:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_time(f, self.micros)?;
        f.write_str("+00:00")
    }
}

impl TimestampTz {
    /// How far ahead of UTC its zone is, in microseconds; `None` for a zone by name, of which nothing is known
    /// here.
    #[must_use]
    pub fn offset(&self) -> Option<i64> {
        let zone = &*self.zone;
        if matches!(zone, "" | "Z" | "UTC" | "GMT") {
            return Some(0);
        }
        let sign = match zone.as_bytes().first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let mut parts = zone[1..].split(':');
        let mut part = |limit: i64| match parts.next() {
            None => Some(0),
            Some(digits) if digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|n| *n <= limit)
            }
            Some(_) => None,
        };
        let (hours, minutes, seconds) = (part(18)?, part(59)?, part(59)?);
        match parts.next() {
            None => Some(sign * (hours * HOUR + minutes * MINUTE + seconds * SECOND)),
            Some(_) => None,
        }
    }
}

impl fmt::Display for TimestampTz {
    /// In its zone: `2022-01-08T17:30:00.000000+05:30`. A zone by name is put after the time in UTC:
    /// `2022-01-08T12:00:00.000000+00:00[Asia/Kolkata]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset() {
            Some(0) => DateTime {
                micros: self.micros,
            }
            .fmt(f),
            Some(offset) => {
                write_time(f, self.micros.saturating_add(offset))?;
                f.write_str(&self.zone)
            }
            None => write!(
                f,
                "{}[{}]",
                DateTime {
                    micros: self.micros
                },
                self.zone
            ),
        }
    }
}

impl fmt::Display for Interval {
    /// Days, and the rest as a time: `-1 02:03:04.000005`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.micros.unsigned_abs();
        let part = |unit: i64| unit.unsigned_abs();
        if self.micros < 0 {
            f.write_str("-")?;
        }
        write!(
            f,
            "{} {:02}:{:02}:{:02}.{:06}",
            length / part(DAY),
            length % part(DAY) / part(HOUR),
            length % part(HOUR) / part(MINUTE),
            length % part(MINUTE) / part(SECOND),
            length % part(SECOND)
        )
    }
}

// === impl Decimal ===

impl Decimal {
    /// Of text such as `-1.50`: digits with a sign and a point at most, no exponent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + part.len() == 0 || !plain(whole) || !plain(part) {
            return None;
        }
        let sign = if text.starts_with('-') { "-" } else { "" };
        Some(Self {
            unscaled: format!("{sign}{whole}{part}").parse().ok()?,
            scale: i32::try_from(part.len()).ok()?,
        })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.unscaled.unsigned_abs().to_string();
        if self.unscaled < 0 {
            f.write_str("-")?;
        }
        match usize::try_from(self.scale) {
            Ok(0) => f.write_str(&digits),
            Ok(scale) => {
                let padded = format!("{digits:0>width$}", width = scale + 1);
                let (whole, part) = padded.split_at(padded.len() - scale);
                write!(f, "{whole}.{part}")
            }
            Err(_) if self.unscaled == 0 => f.write_str("0"),
            Err(_) => {
                let zeros = self.scale.unsigned_abs() as usize;
                write!(f, "{digits}{:0<zeros$}", "")
            }
        }
    }
}

// === impl Value ===

impl Value {
    /// Whether there is none.
    #[must_use]
    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Long(_) => "a long",
            Self::Double(_) => "a double",
            Self::Text(_) => "text",
            Self::Binary(_) => "bytes",
            Self::Date(_) => "a date",
            Self::DateTime(_) => "a time",
            Self::TimestampTz(_) => "a time with a zone",
            Self::Decimal(_) => "a decimal",
            Self::Interval(_) => "an interval",
        }
    }
}

impl fmt::Display for Value {
    /// As text; `NULL` for null, and bytes as hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Long(value) => value.fmt(f),
            Self::Double(value) => write!(f, "{value:?}"),
            Self::Text(value) => f.write_str(value),
            Self::Binary(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::Date(value) => value.fmt(f),
            Self::DateTime(value) => value.fmt(f),
            Self::TimestampTz(value) => value.fmt(f),
            Self::Decimal(value) => value.fmt(f),
            Self::Interval(value) => value.fmt(f),
        }
    }
}

// === becoming types of Rust's ===

/// For each type: the values it can be made of.
macro_rules! from_values {
    ($($type:ty: $wanted:literal { $($pattern:pat => $made:expr,)+ })*) => {
        $(
            impl FromValue for $type {
                fn from_value(value: Value) -> Result<Self, String> {
                    match value {
                        $($pattern => Ok($made),)+
                        other => Err(format!("{} where {} was asked for", other.kind(), $wanted)),
                    }
                }
            }
        )*
    };
}

from_values! {
    bool: "a boolean" { Value::Boolean(v) => v, }
    i32: "an integer" { Value::Integer(v) => v, }
    i64: "a long" { Value::Long(v) => v, Value::Integer(v) => v.into(), }
    f64: "a double" { Value::Double(v) => v, Value::Integer(v) => v.into(), }
    String: "text" { Value::Text(v) => v, }
    Vec<u8>: "bytes" { Value::Binary(v) => v, }
    Date: "a date" { Value::Date(v) => v, }
    DateTime: "a time" {
        Value::DateTime(v) => v,
        Value::TimestampTz(v) => DateTime { micros: v.micros },
    }
    TimestampTz: "a time with a zone" { Value::TimestampTz(v) => v, }
    Decimal: "a decimal" {
        Value::Decimal(v) => v,
        Value::Integer(v) => Decimal { unscaled: v.into(), scale: 0 },
        Value::Long(v) => Decimal { unscaled: v.into(), scale: 0 },
    }
    Interval: "an interval" { Value::Interval(v) => v, }
}

impl FromValue for Value {
    fn from_value(value: Value) -> Result<Self, String> {
        Ok(value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}
