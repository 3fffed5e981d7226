//! Replies belong to requests by their order alone, so both are counted where they pass.
//!
//! The driver hands a reply to whoever waits longest. One that nobody asked for (a proxy that answers twice,
//! a server that lost count) would go to the next caller, and from then on everybody would be given somebody
//! else's. Here the connection ends before that. What the driver would wait for in vain, or keep in memory
//! without need, ends it, too: a length that cannot be, a line or a list without end.
//!
//! A reply that the server makes up in place of the true one cannot be told from it. One that is left out, or
//! comes too many while others are awaited, is not noticed before they have all come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connector::REPLY_CAP;

/// A connection of requests and replies. Not for one with subscriptions, whose messages nobody asks for.
pub(super) struct Paired<T> {
    inner: T,
    requests: Requests,
    replies: Replies,
    /// Requests written whose replies have not been read whole.
    owed: u64,
    /// Why nothing is read any more.
    broken: Option<&'static str>,
}

/// A reply may say that it has as many values. Each takes 56 bytes of memory, and may come as 3.
const MOST_VALUES: u64 = 1 << 24;
/// The longest line: the text of an error or a status, a number.
const LONGEST_LINE: u64 = 1 << 20;
const UNASKED: &str = "a reply that nobody asked for";
const TOO_LARGE: &str = "a reply exceeds the cap";
const NO_LENGTH: &str = "a reply of a length that cannot be";
const NO_REPLY: &str = "what is no reply";

// === impl Paired ===

impl<T> Paired<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            requests: Requests::default(),
            replies: Replies::default(),
            owed: 0,
            broken: None,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paired<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.broken.is_none() {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            let greeted = this.requests.begun;
            match this.replies.read(read, &mut this.owed, greeted) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(Odd { whole, what }) => {
                    this.broken = Some(what);
                    // Whoever's reply came before it has been answered.
                    buf.set_filled(before + whole);
                    if whole > 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        let what = this.broken.unwrap_or(UNASKED);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paired<T> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        this.owed += this.requests.wrote(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

// === requests ===

/// Counts requests as they are written: arrays of byte strings, by the driver, so without a fault.
#[derive(Default)]
struct Requests {
    /// Words that the request under way lacks.
    lacking: u64,
    step: Asking,
    /// One at least has begun.
    begun: bool,
}

#[derive(Clone, Copy, Default)]
enum Asking {
    #[default]
    Kind,
    /// How many words follow.
    Words(u64),
    /// How long the word is that follows.
    Length(u64),
    /// The rest of a word, its end of line included.
    Skip(u64),
}

impl Requests {
    /// How many requests begin in what was written.
    #[inline]
    fn wrote(&mut self, bytes: &[u8]) -> u64 {
        let (mut begun, mut rest) = (0, bytes);
        if let Asking::Kind = self.step {
            let mut lacking = self.lacking;
            // As long as whole words are there, which is nearly always to the end.
            while let [_, after @ ..] = rest
                && let Some((n, used)) = number(after)
            {
                if lacking == 0 {
                    (lacking, begun) = (n as u64, begun + 1);
                    rest = &after[used..];
                } else if let Some(next) = after.get(used + n + 2..) {
                    lacking -= 1;
                    rest = next;
                } else {
                    break;
                }
            }
            self.lacking = lacking;
        }
        if !rest.is_empty() {
            begun += self.wrote_part(rest);
        }
        self.begun |= begun > 0;
        begun
    }

    fn wrote_part(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while let [first, rest @ ..] = bytes {
            bytes = rest;
            self.step = match self.step {
                Asking::Kind if self.lacking == 0 => {
                    begun += 1;
                    Asking::Words(0)
                }
                Asking::Kind => Asking::Length(0),
                Asking::Words(n) => match digit(*first) {
                    Some(digit) => Asking::Words(n * 10 + digit),
                    None if *first == b'\n' => {
                        self.lacking = n;
                        Asking::Kind
                    }
                    None => continue,
                },
                Asking::Length(n) => match digit(*first) {
                    Some(digit) => Asking::Length(n * 10 + digit),
                    None if *first == b'\n' => Asking::Skip(n + 2),
                    None => continue,
                },
                Asking::Skip(n) => {
                    let more = rest.len().min(n as usize - 1);
                    bytes = &rest[more..];
                    match n - 1 - more as u64 {
                        0 => {
                            self.lacking -= 1;
                            Asking::Kind
                        }
                        left => Asking::Skip(left),
                    }
                }
            };
        }
        begun
    }
}

// === replies ===

/// Follows replies from one to the next, without looking into them.
#[derive(Default)]
struct Replies {
    /// Values that the reply under way lacks; between replies none.
    lacking: u64,
    /// Values that it has so far.
    values: u64,
    /// Sent by the server of its own accord, which RESP3 lets it.
    is_push: bool,
    step: Step,
}

#[derive(Clone, Copy, Default)]
enum Step {
    #[default]
    Kind,
    /// The rest of a line, of so many bytes up to now.
    Line { length: u64, ending: bool },
    /// The number after this kind.
    Length(Length),
    /// The rest of a byte string, its end of line included.
    Skip(u64),
}

#[derive(Clone, Copy)]
struct Length {
    kind: u8,
    n: u64,
    negative: bool,
    ending: bool,
}

/// Where a connection has to end, and why.
#[derive(Debug, PartialEq)]
struct Odd {
    /// The replies that end before it, in bytes.
    whole: usize,
    what: &'static str,
}

impl Replies {
    #[inline]
    fn read(&mut self, bytes: &[u8], owed: &mut u64, greeted: bool) -> Result<(), Odd> {
        let (mut rest, mut left) = (bytes, *owed);
        // As long as whole short replies are there that were asked for, which is nearly always to the end.
        while self.lacking == 0 && left > 0 {
            let next = match rest {
                [b'$', after @ ..] => number(after).and_then(|(n, used)| after.get(used + n + 2..)),
                [b'+', b'O', b'K', b'\r', b'\n', next @ ..] => Some(next),
                _ => None,
            };
            match next {
                Some(next) => (rest, left) = (next, left - 1),
                None => break,
            }
        }
        *owed = left;
        if rest.is_empty() {
            return Ok(());
        }
        let read = bytes.len() - rest.len();
        self.read_part(rest, owed, greeted).map_err(|odd| Odd {
            whole: odd.whole + read,
            ..odd
        })
    }

    fn read_part(&mut self, bytes: &[u8], owed: &mut u64, greeted: bool) -> Result<(), Odd> {
        let (mut at, mut whole) = (0, 0);
        let odd = |whole, what| Err(Odd { whole, what });
        // Not the protocol: the driver finds out, and says so better. If not, nothing more is read.
        let garbage = || odd(bytes.len(), NO_REPLY);
        while at < bytes.len() {
            let ended = match &mut self.step {
                Step::Kind => {
                    let kind = bytes[at];
                    at += 1;
                    if self.lacking == 0 {
                        self.is_push = kind == b'>';
                        // A server that is full or protected says so to whoever connects.
                        let refusal = !greeted && kind == b'-';
                        if *owed == 0 && !self.is_push && !refusal {
                            return odd(whole, UNASKED);
                        }
                        (self.lacking, self.values) = (1, 0);
                    }
                    self.values += 1;
                    match Step::of(kind) {
                        Some(step) => {
                            self.step = step;
                            false
                        }
                        None => return garbage(),
                    }
                }
                Step::Length(length) => {
                    let byte = bytes[at];
                    at += 1;
                    match (length.ending, byte) {
                        (false, b'0'..=b'9') => {
                            let digit = u64::from(byte - b'0');
                            length.n = length.n.saturating_mul(10).saturating_add(digit);
                            false
                        }
                        (false, b'-') if length.n == 0 && !length.negative => {
                            length.negative = true;
                            false
                        }
                        (false, b'\r') => {
                            length.ending = true;
                            false
                        }
                        (true, b'\n') => {
                            let length = *length;
                            match self.measured(length) {
                                Ok(ended) => ended,
                                Err(what) => return odd(whole, what),
                            }
                        }
                        _ => return garbage(),
                    }
                }
                Step::Skip(left) => {
                    let skipped = (*left).min((bytes.len() - at) as u64);
                    *left -= skipped;
                    at += skipped as usize;
                    *left == 0
                }
                Step::Line { length, ending } => {
                    let rest = &bytes[at..];
                    let end = rest.iter().position(|byte| *byte == b'\n');
                    let line = end.map_or(rest, |end| &rest[..end]);
                    let returned = match line.last() {
                        Some(last) => *last == b'\r',
                        None => *ending,
                    };
                    *length += line.len() as u64;
                    *ending = returned && end.is_none();
                    if *length > LONGEST_LINE {
                        return odd(whole, TOO_LARGE);
                    }
                    at += line.len() + usize::from(end.is_some());
                    end.is_some() && returned
                }
            };
            if ended && self.value_ended() {
                if !self.is_push {
                    *owed = owed.saturating_sub(1);
                }
                whole = at;
            }
        }
        Ok(())
    }

    /// What follows from a length; whether the value ends with it.
    fn measured(&mut self, length: Length) -> Result<bool, &'static str> {
        let Length { kind, n, .. } = length;
        self.step = Step::Kind;
        // The older protocol's way to say that there is nothing. Any other kind with such a length, or a push
        // that is not said to be one of anything, is something that the driver would wait behind.
        let is_nothing = length.negative && n == 1 && matches!(kind, b'$' | b'*');
        if is_nothing {
            return Ok(true);
        }
        if length.negative || (kind == b'>' && n == 0) {
            return Err(NO_LENGTH);
        }
        if let b'$' | b'!' | b'=' = kind {
            if n > REPLY_CAP {
                return Err(TOO_LARGE);
            }
            self.step = Step::Skip(n + 2);
            return Ok(false);
        }
        let values = match kind {
            b'%' | b'|' => n.saturating_mul(2),
            _ => n,
        };
        if values.saturating_add(self.values + self.lacking) > MOST_VALUES {
            return Err(TOO_LARGE);
        }
        self.lacking += values;
        // What an attribute says is said of the value that follows.
        Ok(kind != b'|')
    }

    /// Whether the reply ends with this value.
    fn value_ended(&mut self) -> bool {
        self.step = Step::Kind;
        self.lacking -= 1;
        self.lacking == 0
    }
}

impl Step {
    /// After the first byte of a value, if it is one.
    fn of(kind: u8) -> Option<Self> {
        Some(match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Self::Line {
                length: 0,
                ending: false,
            },
            b'$' | b'*' | b'%' | b'~' | b'>' | b'|' | b'!' | b'=' => Self::Length(Length {
                kind,
                n: 0,
                negative: false,
                ending: false,
            }),
            _ => return None,
        })
    }
}

/// A small number with its end of line, and how long both are.
///
/// What is nearly always written and read takes a few dozen instructions this way: a step for each byte
/// would cost a command 5 %.
#[inline]
fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let value = |byte: u8| usize::from(byte - b'0');
    match *bytes {
        [a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((value(a), 3)),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => Some((value(a) * 10 + value(b), 4)),
        [
            a @ b'0'..=b'9',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            b'\r',
            b'\n',
            ..,
        ] => Some((value(a) * 100 + value(b) * 10 + value(c), 5)),
        _ => None,
    }
}

#[inline]
fn digit(byte: u8) -> Option<u64> {
    byte.is_ascii_digit().then(|| u64::from(byte - b'0'))
}

#[cfg(test)]
mod tests;
