//! Sums as Redis computes them: in the 80-bit floats of x86, printed with 17 decimals.
//!
//! This language has no such float, and one of 64 bits would show: 0.1 + 0.2 is 0.3 in 80 bits and
//! 0.30000000000000004 in 64.

/// `a + b` for two decimal numbers below 2^63 with no more than 17 decimals; `None` for others.
pub(super) fn sum(a: &[u8], b: &[u8]) -> Option<String> {
    Some(Extended::parse(a)?.plus(Extended::parse(b)?).show())
}

/// `mantissa / 2^shift`. The mantissa uses all its bits, or is 0.
#[derive(Clone, Copy)]
struct Extended {
    negative: bool,
    mantissa: u64,
    shift: u32,
}

impl Extended {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (digits, exponent) = match text.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, exponent.parse().ok()?),
            None => (text, 0_i32),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        // In units of the last decimal that is printed.
        let zeros = exponent
            .checked_sub(i32::try_from(fraction.len()).ok()?)?
            .checked_add(i32::try_from(DECIMALS).ok()?)?;
        let scale = 10_u128.checked_pow(u32::try_from(zeros).ok()?)?;
        let units = digits.parse::<u128>().ok()?.checked_mul(scale)?;
        if units >= UNIT << 63 {
            return None;
        }
        // As many bits as there is room for, so that what the division loses is far below the
        // mantissa's last one.
        let shift = units.leading_zeros().min(127);
        let units = units << shift;
        let quotient = (units / UNIT) | u128::from(!units.is_multiple_of(UNIT));
        Some(Self::round(negative, quotient, shift))
    }

    fn plus(self, other: Self) -> Self {
        if self.mantissa == 0 || other.mantissa == 0 {
            return if self.mantissa == 0 { other } else { self };
        }
        let (large, small) = if (self.shift, other.mantissa) <= (other.shift, self.mantissa) {
            (self, other)
        } else {
            (other, self)
        };
        // The smaller one's bits that find no room leave a trace, which is enough to round by.
        let apart = small.shift - large.shift;
        let room = apart.min(62);
        let lost = (apart - room).min(127);
        let shifted = u128::from(large.mantissa) << room;
        let bits = u128::from(small.mantissa);
        let rest = (bits >> lost) | u128::from(bits & ((1 << lost) - 1) != 0);
        let sum = if large.negative == small.negative {
            shifted + rest
        } else {
            shifted - rest
        };
        Self::round(large.negative, sum, large.shift + room)
    }

    /// Half to even.
    fn round(negative: bool, bits: u128, shift: u32) -> Self {
        let used = 128 - bits.leading_zeros();
        let (mantissa, shift) = if used <= 64 {
            let unused = if used == 0 { 0 } else { 64 - used };
            (bits << unused, shift + unused)
        } else {
            let rounded = halved(bits, used - 64);
            match rounded >> 64 {
                0 => (rounded, shift - (used - 64)),
                _ => (rounded >> 1, shift - (used - 64) - 1),
            }
        };
        Self {
            negative,
            mantissa: u64::try_from(mantissa).unwrap_or(u64::MAX),
            shift,
        }
    }

    fn show(self) -> String {
        let units = match self.shift {
            shift @ 0..=127 => halved(u128::from(self.mantissa) * UNIT, shift),
            _ => 0,
        };
        let sign = if self.negative && units > 0 { "-" } else { "" };
        let text = format!("{sign}{}.{:0DECIMALS$}", units / UNIT, units % UNIT);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// `bits / 2^times`, rounded half to even.
fn halved(bits: u128, times: u32) -> u128 {
    if times == 0 {
        return bits;
    }
    let (quotient, rest, half) = (
        bits >> times,
        bits & ((1 << times) - 1),
        1_u128 << (times - 1),
    );
    quotient + u128::from(rest > half || rest == half && quotient % 2 == 1)
}

const DECIMALS: usize = 17;
const UNIT: u128 = 10_u128.pow(DECIMALS as u32);
