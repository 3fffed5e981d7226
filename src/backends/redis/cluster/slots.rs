//! Slots: which one a key is in, and who serves it.

use std::collections::BTreeSet;

use ::redis::Value;

use crate::backends::redis::endpoint::place::Address;

/// As many as there are.
pub(super) const SLOTS: usize = 16384;

/// Who serves which slots, as a node tells it (`CLUSTER SLOTS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backends::redis) struct Layout {
    ranges: Vec<(u16, u16, Address)>,
}

/// The slot of a key: of the part in braces, if there is one.
pub(in crate::backends::redis) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key)) % SLOTS as u16
}

fn tag(key: &[u8]) -> &[u8] {
    let inner = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    inner.unwrap_or(key)
}

/// CRC-16/XMODEM, which the cluster specification prescribes.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc << 1) ^ (0x1021 * (crc >> 15));
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

impl Layout {
    #[cfg(test)]
    pub(in crate::backends::redis) fn of(ranges: Vec<(u16, u16, Address)>) -> Self {
        Self { ranges }
    }

    /// `told_by` is the host of the node that says it: it may leave out its own.
    pub(super) fn parse(reply: &Value, told_by: &str) -> Option<Self> {
        let Value::Array(entries) = reply else {
            return None;
        };
        let ranges = entries.iter().map(|entry| match entry {
            Value::Array(parts) => match parts.as_slice() {
                [
                    Value::Int(first),
                    Value::Int(last),
                    Value::Array(primary),
                    ..,
                ] => {
                    let within = |slot: &i64| u16::try_from(*slot).ok();
                    let within = |slot| within(slot).filter(|slot| usize::from(*slot) < SLOTS);
                    Some((within(first)?, within(last)?, node(primary, told_by)?))
                }
                _ => None,
            },
            _ => None,
        });
        let ranges = ranges.collect::<Option<Vec<_>>>()?;
        Some(Self { ranges })
    }

    pub(super) fn primaries(&self) -> BTreeSet<&Address> {
        self.ranges.iter().map(|(_, _, primary)| primary).collect()
    }

    pub(in crate::backends::redis) fn owner(&self, slot: u16) -> Option<&Address> {
        let mut ranges = self.ranges();
        ranges.find_map(|(range, primary)| range.contains(&slot).then_some(primary))
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = (std::ops::RangeInclusive<u16>, &Address)> {
        self.ranges
            .iter()
            .map(|(first, last, primary)| (*first..=*last, primary))
    }
}

fn node(parts: &[Value], told_by: &str) -> Option<Address> {
    let [host, Value::Int(port), ..] = parts else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) if host.is_empty() => told_by.to_owned(),
        // "?" stands for a name that the node has not been told.
        Value::BulkString(host) if host == b"?" => told_by.to_owned(),
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        Value::Nil => told_by.to_owned(),
        _ => return None,
    };
    let port = u16::try_from(*port).ok().filter(|port| *port != 0)?;
    Some(Address::Tcp { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_the_slot_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % 16384);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"foo{bar"), crc16(b"foo{bar") % 16384);
    }

    fn entry(first: i64, last: i64, host: Value, port: i64) -> Value {
        let primary = Value::Array(vec![host, Value::Int(port)]);
        Value::Array(vec![Value::Int(first), Value::Int(last), primary])
    }

    #[test]
    fn a_node_that_does_not_know_its_host_has_the_one_that_it_was_asked_at() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        for unknown in [Value::Nil, bulk(""), bulk("?")] {
            let reply = Value::Array(vec![
                entry(0, 99, unknown, 7000),
                entry(100, 16383, bulk("b"), 7001),
            ]);
            let layout = Layout::parse(&reply, "asked").unwrap();
            let names: Vec<_> = layout.primaries().iter().map(|a| a.to_string()).collect();
            assert_eq!(names, ["asked:7000", "b:7001"]);
        }
        for malformed in [
            Value::Nil,
            Value::Array(vec![Value::Okay]),
            Value::Array(vec![entry(0, 16384, bulk("a"), 1)]),
            Value::Array(vec![entry(-1, 5, bulk("a"), 1)]),
            Value::Array(vec![entry(0, 5, bulk("a"), 0)]),
            Value::Array(vec![entry(0, 5, Value::Okay, 1)]),
        ] {
            assert_eq!(Layout::parse(&malformed, "asked"), None, "{malformed:?}");
        }
    }
}
