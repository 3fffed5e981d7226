//! RESP on the server's side: requests in, replies out.

use std::borrow::Cow;

/// Reads the request that `input` begins with into `args`, which borrow from it.
///
/// `Ok(Some(n))` is a request of `n` bytes (an empty one leaves `args` empty), `Ok(None)` one that
/// has not arrived in full. After an error the stream has no known place to go on from: answer it
/// and close.
pub(super) fn parse<'a>(
    input: &'a [u8],
    args: &mut Vec<&'a [u8]>,
) -> Result<Option<usize>, Refusal> {
    args.clear();
    let Some((line, mut at)) = line_at(input, 0) else {
        return too_long(input, 0, "too big inline request");
    };
    let Some(count) = line.strip_prefix(b"*") else {
        args.extend(
            line.split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty()),
        );
        return Ok(Some(at));
    };
    let count = integer(count)
        .filter(|count| *count <= MAX_ARGS)
        .ok_or_else(|| broken("invalid multibulk length"))?;
    for _ in 0..count {
        let Some((line, body)) = line_at(input, at) else {
            return too_long(input, at, "too big bulk count string");
        };
        let Some(length) = line.strip_prefix(b"$") else {
            let got = line.first().map_or(' ', |byte| char::from(*byte));
            return Err(broken(&format!("expected '$', got '{got}'")));
        };
        let length = integer(length)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= MAX_STRING)
            .ok_or_else(|| broken("invalid bulk length"))?;
        if input.len() < body + length + 2 {
            return Ok(None);
        }
        args.push(&input[body..body + length]);
        at = body + length + 2;
    }
    Ok(Some(at))
}

/// Replies being written, in the protocol the connection has chosen.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// What has been written so far.
    pub(super) bytes: Vec<u8>,
    /// Whether the types only RESP3 has may be used.
    pub(super) resp3: bool,
}

impl Reply {
    pub(super) fn new(resp3: bool) -> Self {
        Self {
            bytes: Vec::new(),
            resp3,
        }
    }

    pub(super) fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    pub(super) fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        // A line break inside an error would end it early: Redis writes a space instead.
        let text = refusal.0.replace(['\r', '\n'], " ");
        self.line(b'-', text.as_bytes());
    }

    pub(super) fn integer(&mut self, number: i64) {
        self.head(b':', number);
    }

    pub(super) fn flag(&mut self, set: bool) {
        self.integer(i64::from(set));
    }

    pub(super) fn size(&mut self, length: usize) {
        self.count(b':', length);
    }

    pub(super) fn double(&mut self, number: f64) {
        let text = show_double(number);
        if self.resp3 {
            self.line(b',', text.as_bytes());
        } else {
            self.bulk(text.as_bytes());
        }
    }

    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.count(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Text for people: a verbatim string in RESP3.
    pub(super) fn text(&mut self, text: &str) {
        if self.resp3 {
            self.count(b'=', text.len() + 4);
            self.bytes.extend_from_slice(b"txt:");
            self.bytes.extend_from_slice(text.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }

    pub(super) fn null(&mut self) {
        let null: &[u8] = if self.resp3 { b"_\r\n" } else { b"$-1\r\n" };
        self.bytes.extend_from_slice(null);
    }

    pub(super) fn null_array(&mut self) {
        let null: &[u8] = if self.resp3 { b"_\r\n" } else { b"*-1\r\n" };
        self.bytes.extend_from_slice(null);
    }

    pub(super) fn array(&mut self, length: usize) {
        self.count(b'*', length);
    }

    /// The head of something that nobody asked for; RESP2 knows no difference.
    pub(super) fn push(&mut self, length: usize) {
        self.count(if self.resp3 { b'>' } else { b'*' }, length);
    }

    pub(super) fn set(&mut self, length: usize) {
        self.count(if self.resp3 { b'~' } else { b'*' }, length);
    }

    /// The head of a map of so many pairs; RESP2 sends twice as many elements.
    pub(super) fn map(&mut self, pairs: usize) {
        if self.resp3 {
            self.count(b'%', pairs);
        } else {
            self.count(b'*', pairs * 2);
        }
    }

    pub(super) fn bulks<T: AsRef<[u8]>>(&mut self, items: impl ExactSizeIterator<Item = T>) {
        self.array(items.len());
        for item in items {
            self.bulk(item.as_ref());
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn count(&mut self, kind: u8, length: usize) {
        self.head(kind, i64::try_from(length).unwrap_or(i64::MAX));
    }

    // Every reply passes here; the formatting machinery of `write!` would be its largest cost.
    fn head(&mut self, kind: u8, number: i64) {
        self.bytes.push(kind);
        if number < 0 {
            self.bytes.push(b'-');
        }
        let mut digits = [0; 20];
        let mut start = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(&digits[start..]);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// An error reply, without its leading `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) Cow<'static, str>);

impl Refusal {
    pub(super) const fn new(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

/// What a command's code returns: either it has written its reply, or it is refused with an error.
pub(super) type Answer = Result<(), Refusal>;

pub(super) const SYNTAX: Refusal = Refusal::new("ERR syntax error");
pub(super) const NOT_AN_INTEGER: Refusal =
    Refusal::new("ERR value is not an integer or out of range");
pub(super) const NOT_POSITIVE: Refusal =
    Refusal::new("ERR value is out of range, must be positive");

/// A number as Redis 7.0 prints it: C's `%.17g`, where 0.1 is 0.10000000000000001.
pub(super) fn show_double(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if !(-4..17).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(16 - exponent).unwrap_or_default();
    trimmed(&format!("{number:.decimals$}"))
}

/// A decimal integer as Redis reads one: no sign `+`, no spaces, no leading zeros.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// As [`integer`], refused as Redis refuses it.
pub(super) fn integer_arg(text: &[u8]) -> Result<i64, Refusal> {
    integer(text).ok_or(NOT_AN_INTEGER)
}

fn line_at(input: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = &input[at..];
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    Some((line, at + end + 1))
}

fn too_long(input: &[u8], at: usize, what: &str) -> Result<Option<usize>, Refusal> {
    if input.len() - at > MAX_LINE {
        return Err(broken(what));
    }
    Ok(None)
}

fn broken(what: &str) -> Refusal {
    Refusal::from(format!("ERR Protocol error: {what}"))
}

/// Redis's own limits (`PROTO_INLINE_MAX_SIZE`, `proto-max-bulk-len`).
const MAX_LINE: usize = 64 * 1024;
const MAX_ARGS: i64 = 1024 * 1024;
pub(super) const MAX_STRING: usize = 512 * 1024 * 1024;
