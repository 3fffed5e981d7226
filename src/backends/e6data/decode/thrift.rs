//! Thrift's binary protocol, as far as a result needs it. Every length is held against the bytes left.

use super::DecodeError;

/// The types of fields and elements.
pub(super) mod kind {
    pub(in super::super) const BOOL: u8 = 2;
    pub(in super::super) const BYTE: u8 = 3;
    pub(in super::super) const DOUBLE: u8 = 4;
    pub(in super::super) const I16: u8 = 6;
    pub(in super::super) const I32: u8 = 8;
    pub(in super::super) const I64: u8 = 10;
    pub(in super::super) const BINARY: u8 = 11;
    pub(in super::super) const STRUCT: u8 = 12;
    pub(in super::super) const MAP: u8 = 13;
    pub(in super::super) const SET: u8 = 14;
    pub(in super::super) const LIST: u8 = 15;
}

/// Reads from bytes, and knows what it is reading.
pub(super) struct Reader<'a> {
    left: &'a [u8],
    place: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) kind: u8,
    pub(super) id: i16,
}

/// What nobody asked for may be nested so deep.
const DEPTH: u32 = 32;

impl<'a> Reader<'a> {
    pub(super) fn new(left: &'a [u8], place: &str) -> Self {
        Self {
            left,
            place: place.to_owned(),
        }
    }

    /// What is read from now on.
    pub(super) fn enter(&mut self, place: &str) {
        place.clone_into(&mut self.place);
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> DecodeError {
        DecodeError::at(&self.place, problem)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.left.split_at_checked(count) {
            Some((taken, left)) => {
                self.left = left;
                Ok(taken)
            }
            None => Err(self.error(format!("{count} bytes where {} are left", self.left.len()))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.u8()? != 0)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(super) fn f64(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.i32()?;
        match usize::try_from(length) {
            Ok(length) => self.bytes(length),
            Err(_) => Err(self.error("a negative length")),
        }
    }

    /// The next field of a struct; `None`: it is over.
    pub(super) fn field(&mut self) -> Result<Option<Field>, DecodeError> {
        let kind = self.u8()?;
        if kind == 0 {
            return Ok(None);
        }
        let id = i16::from_be_bytes(self.array()?);
        Ok(Some(Field { kind, id }))
    }

    /// How many elements a list has, which are of this type.
    pub(super) fn list(&mut self, wanted: u8) -> Result<usize, DecodeError> {
        let (found, count) = self.elements()?;
        // An empty list need not know of what.
        if found != wanted && count > 0 {
            return Err(self.error(format!(
                "a list of type {found} where {wanted} was expected"
            )));
        }
        Ok(count)
    }

    fn elements(&mut self) -> Result<(u8, usize), DecodeError> {
        let kind = self.u8()?;
        let count = self.i32()?;
        let least = self.least(kind)?;
        let count = usize::try_from(count).map_err(|_| self.error("a negative length"))?;
        match count.checked_mul(least) {
            Some(needed) if needed <= self.left.len() => Ok((kind, count)),
            _ => Err(self.error(format!(
                "{count} elements where {} bytes are left",
                self.left.len()
            ))),
        }
    }

    /// The least bytes that a value of a type has.
    fn least(&self, of: u8) -> Result<usize, DecodeError> {
        Ok(match of {
            kind::BOOL | kind::BYTE | kind::STRUCT => 1,
            kind::I16 => 2,
            kind::I32 | kind::BINARY => 4,
            kind::LIST | kind::SET => 5,
            kind::MAP => 6,
            kind::DOUBLE | kind::I64 => 8,
            _ => return Err(self.error(format!("the unknown type {of}"))),
        })
    }

    /// Passes over a value that nobody here wants.
    pub(super) fn skip(&mut self, of: u8) -> Result<(), DecodeError> {
        self.pass(of, DEPTH)
    }

    fn pass(&mut self, of: u8, depth: u32) -> Result<(), DecodeError> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(self.error("nested too deep"));
        };
        match of {
            kind::BINARY => {
                self.binary()?;
            }
            kind::STRUCT => {
                while let Some(field) = self.field()? {
                    self.pass(field.kind, depth)?;
                }
            }
            kind::LIST | kind::SET => {
                let (kind, count) = self.elements()?;
                for _ in 0..count {
                    self.pass(kind, depth)?;
                }
            }
            kind::MAP => {
                let (key, value, count) = (self.u8()?, self.u8()?, self.i32()?);
                self.least(key)?;
                self.least(value)?;
                // Each takes a byte at least, so that the bytes end before the count does.
                for _ in 0..count {
                    self.pass(key, depth)?;
                    self.pass(value, depth)?;
                }
            }
            fixed => {
                let width = self.least(fixed)?;
                self.bytes(width)?;
            }
        }
        Ok(())
    }
}
