//! A peer played by the test: it reads requests and answers with whatever bytes it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A server whose every answer is the test's; greetings and pings are answered by itself.
#[derive(Clone)]
pub(crate) struct Peer(Arc<Inner>);

struct Inner {
    play: Box<Play>,
    requests: Lock<Vec<Vec<String>>>,
    connections: AtomicU64,
}

type Play = dyn Fn(&[String]) -> Say + Send + Sync;

#[expect(clippy::disallowed_types, reason = "never held across an await")]
pub(crate) type Lock<T> = std::sync::Mutex<T>;

/// What a peer does about a request.
pub(crate) enum Say {
    /// Answers it as a server would: greetings, pings, `CLIENT`.
    AsUsual,
    /// Sends these bytes.
    Bytes(Vec<u8>),
    /// Sends these bytes and ends the connection.
    Last(Vec<u8>),
    /// Sends nothing.
    Nothing,
}

pub(crate) fn bytes(text: &str) -> Say {
    Say::Bytes(text.as_bytes().to_vec())
}

pub(crate) fn last(text: &str) -> Say {
    Say::Last(text.as_bytes().to_vec())
}

impl Peer {
    /// A peer that is asked about every request but those of the greeting.
    pub(crate) fn new(play: impl Fn(&[String]) -> Say + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            play: Box::new(play),
            requests: Lock::default(),
            connections: AtomicU64::new(0),
        }))
    }

    /// Every request read so far, over all connections.
    pub(crate) fn requests(&self) -> Vec<Vec<String>> {
        self.0.requests.lock().unwrap().clone()
    }

    /// How many requests begin with these words.
    pub(crate) fn count(&self, words: &[&str]) -> usize {
        let starts = |request: &&Vec<String>| {
            request.len() >= words.len() && request.iter().zip(words).all(|(a, b)| a == b)
        };
        self.requests().iter().filter(starts).count()
    }

    pub(crate) async fn serve(self, mut stream: DuplexStream) {
        let id = self.0.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let mut input = Vec::new();
        loop {
            while let Some((request, used)) = parse(&input) {
                input.drain(..used);
                self.0.requests.lock().unwrap().push(request.clone());
                let say = match (self.0.play)(&request) {
                    Say::AsUsual => Say::Bytes(usual(&request, id)),
                    other => other,
                };
                let sent = match say {
                    Say::AsUsual | Say::Nothing => Ok(()),
                    Say::Bytes(bytes) => stream.write_all(&bytes).await,
                    Say::Last(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                        return;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
            match stream.read_buf(&mut input).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

fn usual(request: &[String], id: u64) -> Vec<u8> {
    let words: Vec<_> = request.iter().map(String::as_str).collect();
    let reply = match words[..] {
        ["PING"] => "+PONG\r\n".to_owned(),
        ["CLIENT", "INFO"] => {
            let info = format!("id={id} addr=10.0.0.1:{id} name=\n");
            format!("${}\r\n{info}\r\n", info.len())
        }
        ["CLIENT", "KILL", ..] => ":1\r\n".to_owned(),
        ["CLIENT", ..] | ["SET", ..] => "+OK\r\n".to_owned(),
        _ => format!("-ERR unknown command '{}'\r\n", words[0]),
    };
    reply.into_bytes()
}

/// The first whole request, and its length.
fn parse(input: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let mut line = || -> Option<&[u8]> {
        let end = input[at..].windows(2).position(|two| two == b"\r\n")?;
        let line = &input[at..at + end];
        at += end + 2;
        Some(line)
    };
    let number = |line: &[u8]| {
        std::str::from_utf8(&line[1..])
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    let count = number(line()?);
    let mut request = Vec::new();
    for _ in 0..count {
        let length = number(line()?);
        let word = line()?;
        // Arguments of these tests hold no line ends.
        assert_eq!(word.len(), length);
        request.push(String::from_utf8_lossy(word).into_owned());
    }
    Some((request, at))
}
