//! Commands read back from the bytes that redis-rs has packed them into.
//!
//! Its synchronous interface hands over bytes, and what may be done with a command (repeated, moved,
//! sent on a shared connection) is decided from its words.

use ::redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult};

/// The one command in these bytes.
pub(super) fn read_one(bytes: &[u8]) -> RedisResult<Cmd> {
    let mut reader = Reader { rest: bytes };
    let cmd = reader.command()?;
    match reader.rest {
        [] => Ok(cmd),
        _ => Err(malformed("more than one command")),
    }
}

/// The commands in these bytes; with MULTI and EXEC around them, as an atomic pipeline without the two.
pub(super) fn read_batch(bytes: &[u8]) -> RedisResult<Pipeline> {
    let mut reader = Reader { rest: bytes };
    let mut commands = Vec::new();
    while !reader.rest.is_empty() {
        commands.push(reader.command()?);
    }
    let mut pipeline = Pipeline::with_capacity(commands.len());
    let enclosed = commands.first().is_some_and(|first| is(first, b"MULTI"))
        && commands.last().is_some_and(|last| is(last, b"EXEC"));
    if enclosed {
        commands.pop();
        pipeline.atomic();
    }
    for cmd in commands.into_iter().skip(usize::from(enclosed)) {
        pipeline.add_command(cmd);
    }
    Ok(pipeline)
}

/// What is left to read.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn command(&mut self) -> RedisResult<Cmd> {
        let words = self.number(b'*')?;
        if words == 0 {
            // A server says nothing to it: the caller would take the reply to the next one.
            return Err(malformed("a command without a name"));
        }
        if words > self.rest.len() / SHORTEST_WORD {
            return Err(malformed("it ends within a command"));
        }
        let mut cmd = Cmd::with_capacity(words, 0);
        for _ in 0..words {
            cmd.arg(self.word()?);
        }
        Ok(cmd)
    }

    fn word(&mut self) -> RedisResult<&'a [u8]> {
        let len = self.number(b'$')?;
        let cut = || malformed("it ends within a word");
        let (word, rest) = self.rest.split_at_checked(len).ok_or_else(cut)?;
        self.rest = rest.strip_prefix(b"\r\n").ok_or_else(cut)?;
        Ok(word)
    }

    /// A line with a sigil and a number.
    fn number(&mut self, sigil: u8) -> RedisResult<usize> {
        let no_number = || malformed("no RESP array of bulk strings");
        let end = self.rest.iter().position(|&byte| byte == b'\r');
        let (line, rest) = self.rest.split_at(end.ok_or_else(no_number)?);
        self.rest = rest.strip_prefix(b"\r\n").ok_or_else(no_number)?;
        let [first, digits @ ..] = line else {
            return Err(no_number());
        };
        // Rust's own parser takes a plus sign, too.
        if *first != sigil || !digits.iter().all(u8::is_ascii_digit) {
            return Err(no_number());
        }
        let digits = std::str::from_utf8(digits).map_err(|_| no_number())?;
        digits.parse().map_err(|_| no_number())
    }
}

/// `$0\r\n\r\n`: a number of words that the bytes cannot hold is not believed, and no room made for it.
const SHORTEST_WORD: usize = 6;

fn is(cmd: &Cmd, name: &[u8]) -> bool {
    let mut words = cmd.args_iter();
    match (words.next(), words.next()) {
        (Some(::redis::Arg::Simple(word)), None) => word.eq_ignore_ascii_case(name),
        _ => false,
    }
}

/// Says nothing of what the bytes are: they may hold a password.
fn malformed(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Client, "malformed request", why.to_owned()))
}

#[cfg(test)]
mod tests;
