//! Strings as rows of bits, the highest of each byte first.

use crate::testing::server::commands::keys::{is, range};
use crate::testing::server::database::Database;
use crate::testing::server::resp::{
    Answer, MAX_STRING, Refusal, Reply, SYNTAX, integer, integer_arg,
};

pub(super) fn setbit(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let offset = offset_arg(args[2])?;
    let set = match args[3] {
        b"0" => false,
        b"1" => true,
        _ => return Err(Refusal::new("ERR bit is not an integer or out of range")),
    };
    let bits: &mut Vec<u8> = database.write_or_create(args[1])?;
    let grown = bits.len() <= offset / 8;
    if grown {
        bits.resize(offset / 8 + 1, 0);
    }
    let (byte, mask) = (&mut bits[offset / 8], mask(offset));
    let was_set = *byte & mask != 0;
    if set {
        *byte |= mask;
    } else {
        *byte &= !mask;
    }
    if grown || set != was_set {
        database.changed(args[1]);
    }
    out.flag(was_set);
    Ok(())
}

pub(super) fn getbit(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let offset = offset_arg(args[2])?;
    let bits = database.read::<Vec<u8>>(args[1])?;
    let byte = bits.and_then(|bits| bits.get(offset / 8));
    out.flag(byte.is_some_and(|byte| byte & mask(offset) != 0));
    Ok(())
}

fn offset_arg(text: &[u8]) -> Result<usize, Refusal> {
    integer(text)
        .and_then(|offset| usize::try_from(offset).ok())
        .filter(|offset| offset / 8 < MAX_STRING)
        .ok_or(Refusal::new(
            "ERR bit offset is not an integer or out of range",
        ))
}

fn mask(offset: usize) -> u8 {
    0x80 >> (offset % 8)
}

pub(super) fn bitcount(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    let Some(bits) = database.read::<Vec<u8>>(args[1])? else {
        out.size(0);
        return Ok(());
    };
    let (start, stop, unit) = match args[2..] {
        [] => (0, -1, None),
        [start, stop] => (integer_arg(start)?, integer_arg(stop)?, None),
        [start, stop, unit] => (integer_arg(start)?, integer_arg(stop)?, Some(unit)),
        _ => return Err(SYNTAX),
    };
    let by_bit = unit.is_some_and(|unit| is(unit, "bit"));
    let by_byte = unit.is_none_or(|unit| is(unit, "byte"));
    // Two negative indexes the wrong way round select nothing, whatever they count.
    if start < 0 && stop < 0 && start > stop {
        out.size(0);
        return Ok(());
    }
    if !by_bit && !by_byte {
        return Err(SYNTAX);
    }
    let length = if by_bit { bits.len() * 8 } else { bits.len() };
    // As in GETRANGE, an end before the beginning is the first one.
    let stop = stop.max(-i64::try_from(length).unwrap_or(i64::MAX));
    let selected = range(start, stop, length);
    let count = if by_bit {
        selected
            .filter(|offset| bits[offset / 8] & mask(*offset) != 0)
            .count()
    } else {
        let ones = bits[selected].iter().map(|byte| byte.count_ones());
        ones.sum::<u32>() as usize
    };
    out.size(count);
    Ok(())
}
