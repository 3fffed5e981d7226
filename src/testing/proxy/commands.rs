//! Counting the commands in a stream of RESP requests.

use tokio::time::Instant;

use super::Counts;

/// A complete command that a [`FaultProxy`](super::FaultProxy) handed to its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenCommand {
    /// Which connection carried it: they are numbered from 0 in the order they were accepted.
    pub connection: u64,
    /// When its last byte was handed over.
    pub at: Instant,
    /// The command's name and arguments: the first 16, of each the first 256 bytes.
    pub args: Vec<Vec<u8>>,
}

/// The first `limit` commands.
#[derive(Debug, Default)]
pub(super) struct CommandLog {
    limit: usize,
    pub(super) seen: Vec<SeenCommand>,
}

impl CommandLog {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: Vec::new(),
        }
    }

    fn note(&mut self, connection: u64, args: &mut Vec<Vec<u8>>) {
        let args = std::mem::take(args);
        if self.seen.len() < self.limit {
            self.seen.push(SeenCommand {
                connection,
                at: Instant::now(),
                args,
            });
        }
    }
}

/// Follows the requests of one connection through any fragmentation.
#[derive(Debug, Default)]
pub(super) struct CommandReader {
    expect: Expect,
    line: Vec<u8>,
    args: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Expect {
    /// `*3\r\n`, or a command in plain words.
    #[default]
    Command,
    /// `$5\r\n` of one of the `args` still to come.
    Length { args: usize },
    /// `left` bytes of an argument, then CR LF, then `args` more arguments.
    Argument {
        left: usize,
        args: usize,
        keep: bool,
    },
    /// This is not RESP: no telling where a command ends.
    Lost,
}

impl CommandReader {
    /// Reads the next bytes of `connection`, and counts and logs the commands that end in them.
    pub(super) fn read(
        &mut self,
        connection: u64,
        mut bytes: &[u8],
        counts: &mut Counts,
        log: &mut CommandLog,
    ) {
        while !bytes.is_empty() {
            match self.expect {
                Expect::Lost => return,
                Expect::Argument { left, args, keep } => {
                    bytes = self.argument(bytes, left, args, keep);
                }
                Expect::Command | Expect::Length { .. } => {
                    let Some(rest) = self.line(bytes) else {
                        return self.check_length(counts);
                    };
                    bytes = rest;
                    self.end_of_line(counts);
                }
            }
            if let Expect::Length { args: 0 } = self.expect {
                self.expect = Expect::Command;
                counts.commands += 1;
                log.note(connection, &mut self.args);
            }
        }
    }

    /// Gathers a line; the bytes behind it once it is complete.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.line.extend_from_slice(bytes);
            return None;
        };
        self.line.extend_from_slice(&bytes[..end]);
        Some(&bytes[end + 1..])
    }

    fn check_length(&mut self, counts: &mut Counts) {
        if self.line.len() > LONGEST_LINE {
            self.lose(counts);
        }
    }

    fn end_of_line(&mut self, counts: &mut Counts) {
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<i64>().ok();
        let next = match (self.expect, line.split_first()) {
            (Expect::Command, Some((b'*', digits))) => match number(digits).map(usize::try_from) {
                // As servers do, an empty or null array is passed over.
                Some(Ok(0) | Err(_)) => Some(Expect::Command),
                Some(Ok(args)) => Some(Expect::Length { args }),
                None => None,
            },
            (Expect::Command, _) => self.words(&line),
            (Expect::Length { args }, Some((b'$', digits))) => number(digits)
                .and_then(|left| usize::try_from(left).ok())
                .map(|left| self.begin_argument(left, args - 1)),
            _ => None,
        };
        match next {
            Some(next) => self.expect = next,
            None => self.lose(counts),
        }
    }

    fn begin_argument(&mut self, left: usize, args: usize) -> Expect {
        let keep = self.args.len() < KEPT_ARGS;
        if keep {
            self.args.push(Vec::new());
        }
        Expect::Argument { left, args, keep }
    }

    /// An inline command: what a human types into a raw connection.
    fn words(&mut self, line: &[u8]) -> Option<Expect> {
        let text = std::str::from_utf8(line).ok()?;
        self.args = text
            .split_whitespace()
            .take(KEPT_ARGS)
            .map(|word| word.bytes().take(KEPT_BYTES).collect())
            .collect();
        Some(match self.args.is_empty() {
            true => Expect::Command,
            false => Expect::Length { args: 0 },
        })
    }

    fn argument<'a>(&mut self, bytes: &'a [u8], left: usize, args: usize, keep: bool) -> &'a [u8] {
        if left == 0 {
            // The CR LF behind the argument.
            if bytes[0] == b'\n' {
                self.expect = Expect::Length { args };
            }
            return &bytes[1..];
        }
        let (part, rest) = bytes.split_at(bytes.len().min(left));
        if keep && let Some(arg) = self.args.last_mut() {
            let room = KEPT_BYTES.saturating_sub(arg.len()).min(part.len());
            arg.extend_from_slice(&part[..room]);
        }
        let left = left - part.len();
        self.expect = Expect::Argument { left, args, keep };
        rest
    }

    fn lose(&mut self, counts: &mut Counts) {
        counts.garbled += 1;
        self.expect = Expect::Lost;
    }
}

const KEPT_ARGS: usize = 16;
const KEPT_BYTES: usize = 256;

/// The longest line a Redis server takes.
const LONGEST_LINE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts and the logged commands of `stream`, read in pieces of `size` bytes.
    fn read(stream: &[u8], size: usize) -> (Counts, Vec<Vec<Vec<u8>>>) {
        let mut counts = Counts::default();
        let mut log = CommandLog::new(100);
        let mut reader = CommandReader::default();
        for piece in stream.chunks(size) {
            reader.read(7, piece, &mut counts, &mut log);
        }
        assert!(log.seen.iter().all(|command| command.connection == 7));
        (
            counts,
            log.seen.into_iter().map(|command| command.args).collect(),
        )
    }

    #[test]
    fn any_fragmentation_gives_the_same_commands() {
        let stream = b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\nPING now\r\n*0\r\n\r\n*1\r\n$0\r\n\r\n";
        let commands: [&[&[u8]]; 3] = [&[b"GET", b"a\r\n"], &[b"PING", b"now"], &[b""]];
        for size in 1..=stream.len() {
            let (counts, seen) = read(stream, size);
            assert_eq!(
                (counts.commands, counts.garbled),
                (3, 0),
                "in pieces of {size}"
            );
            assert_eq!(seen, commands, "in pieces of {size}");
        }
    }

    #[test]
    fn a_command_counts_with_its_last_byte() {
        let stream = b"*1\r\n$4\r\nPING\r\n";
        assert_eq!(read(&stream[..stream.len() - 1], 4).0.commands, 0);
        assert_eq!(read(stream, 4).0.commands, 1);
    }

    #[test]
    fn what_is_not_resp_is_reported_and_stops_the_count() {
        for garbage in [
            &b"*x\r\n"[..],
            b"*1\r\n+OK\r\n",
            b"*1\r\n$-1\r\n",
            b"\xff\r\n",
        ] {
            let stream = [b"PING\r\n", garbage, b"PING\r\n"].concat();
            let (counts, _) = read(&stream, 3);
            assert_eq!((counts.commands, counts.garbled), (1, 1), "{garbage:?}");
        }
        let endless = vec![b'x'; LONGEST_LINE + 1];
        assert_eq!(read(&endless, 1000).0.garbled, 1);
    }

    #[test]
    fn the_log_is_bounded_in_every_direction() {
        let mut stream = format!("*{}\r\n", KEPT_ARGS + 1).into_bytes();
        for _ in 0..=KEPT_ARGS {
            stream.extend(format!("${}\r\n{}\r\n", 1000, "v".repeat(1000)).bytes());
        }
        let (counts, seen) = read(&stream.repeat(101), 4096);
        assert_eq!((counts.commands, seen.len()), (101, 100));
        assert_eq!(seen[0], vec![vec![b'v'; KEPT_BYTES]; KEPT_ARGS]);
    }
}
