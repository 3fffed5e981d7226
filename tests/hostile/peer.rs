//! A server over TCP that greets as any other and then does what the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Answers every request as `play` says. Dropped, it ends with all its connections.
pub(crate) struct Peer {
    url: String,
    connections: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

type Play = dyn Fn(&[String]) -> Say + Send + Sync;

/// What a peer does about a request.
#[derive(Clone)]
pub(crate) enum Say {
    /// What a server would: greetings, pings.
    AsUsual,
    /// These bytes.
    Bytes(Vec<u8>),
    /// The first bytes, and so many times the second; without end for `usize::MAX`.
    Stream(Vec<u8>, Vec<u8>, usize),
    /// These bytes one by one, a pause before each.
    Drip(Vec<u8>, Duration),
    /// The first bytes at once, the second after a pause, asked for or not.
    Later(Vec<u8>, Duration, Vec<u8>),
}

pub(crate) fn bytes(text: &str) -> Say {
    Say::Bytes(text.as_bytes().to_vec())
}

impl Peer {
    pub(crate) async fn resp2(play: impl Fn(&[String]) -> Say + Send + Sync + 'static) -> Self {
        Self::start("resp2", Arc::new(play)).await
    }

    pub(crate) async fn resp3(play: impl Fn(&[String]) -> Say + Send + Sync + 'static) -> Self {
        Self::start("resp3", Arc::new(play)).await
    }

    async fn start(protocol: &str, play: Arc<Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let opened = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let id = opened.fetch_add(1, Ordering::Relaxed) + 1;
                serving.spawn(serve(stream, play.clone(), id));
            }
        });
        Self {
            url: format!("redis://{address}/?protocol={protocol}"),
            connections,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Connections that were ever made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, play: Arc<Play>, id: usize) {
    let mut input = Vec::new();
    loop {
        while let Some((request, used)) = parse(&input) {
            input.drain(..used);
            if say(&mut stream, play(&request), &request, id)
                .await
                .is_err()
            {
                return;
            }
        }
        match stream.read_buf(&mut input).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

async fn say(
    stream: &mut TcpStream,
    say: Say,
    request: &[String],
    id: usize,
) -> std::io::Result<()> {
    match say {
        Say::AsUsual => stream.write_all(usual(request, id).as_bytes()).await,
        Say::Bytes(bytes) => stream.write_all(&bytes).await,
        Say::Stream(first, unit, times) => {
            stream.write_all(&first).await?;
            let whole = unit.repeat((1 << 16) / unit.len().max(1) + 1);
            let mut left = unit.len().saturating_mul(times);
            while left > 0 {
                let now = left.min(whole.len());
                stream.write_all(&whole[..now]).await?;
                left -= now;
            }
            Ok(())
        }
        Say::Drip(bytes, pause) => {
            for byte in bytes {
                tokio::time::sleep(pause).await;
                stream.write_all(&[byte]).await?;
            }
            Ok(())
        }
        Say::Later(first, pause, second) => {
            stream.write_all(&first).await?;
            tokio::time::sleep(pause).await;
            stream.write_all(&second).await
        }
    }
}

fn usual(request: &[String], id: usize) -> String {
    let words: Vec<_> = request.iter().map(String::as_str).collect();
    match words[..] {
        ["PING"] => "+PONG\r\n".to_owned(),
        ["HELLO", ..] => "%1\r\n+proto\r\n:3\r\n".to_owned(),
        ["CLIENT", "INFO"] => {
            let info = format!("id={id} addr=10.0.0.1:{id} name=\n");
            format!("${}\r\n{info}\r\n", info.len())
        }
        ["CLIENT", "KILL", ..] => ":1\r\n".to_owned(),
        ["ECHO", word] => format!("${}\r\n{word}\r\n", word.len()),
        ["INCR", _] => ":1\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    }
}

/// The first whole request, and its length.
fn parse(input: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut lines = Vec::new();
    let mut at = 0;
    loop {
        let end = input[at..].windows(2).position(|two| two == b"\r\n")?;
        // Words of these tests hold no line ends.
        lines.push(String::from_utf8_lossy(&input[at..at + end]).into_owned());
        at += end + 2;
        let count: usize = lines[0][1..].parse().expect("a request");
        if lines.len() == 2 * count + 1 {
            return Some((lines.into_iter().skip(2).step_by(2).collect(), at));
        }
    }
}
