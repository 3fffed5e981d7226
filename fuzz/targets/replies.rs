//! Any bytes in place of a reply, through the shipped driver on a paused clock.
//!
//! The call ends in time, with the first reply that the bytes hold or with an error; and once all of them have
//! come, whoever calls next is given his own reply and nobody else's.
#![no_main]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use libfuzzer_sys::fuzz_target;
use multidb::MultiDbClient;
use multidb::engine::backend::Wiring;
use multidb::redis::{Connector, RedisEndpoint, Transport};
use redis::{RedisResult, Value, cmd};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

fuzz_target!(|input: &[u8]| {
    let [shape, bytes @ ..] = input else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(told(*shape, bytes));
});

const DEADLINE: Duration = Duration::from_secs(2);

async fn told(shape: u8, bytes: &[u8]) {
    let peer = Peer(Arc::new(Script {
        armed: AtomicBool::new(true),
        bytes: bytes.to_vec(),
        pieces: usize::from(shape >> 4) + 1,
        ends: shape & 1 == 1,
    }));
    let protocol = if shape & 2 == 2 { "resp3" } else { "resp2" };
    let client = MultiDbClient::builder()
        .connector(peer)
        .url(format!("redis://peer/?protocol={protocol}"), 1.0)
        .deadline(DEADLINE)
        .response_timeout(Duration::from_millis(300))
        .health_interval(Duration::from_secs(3600))
        .auto_fallback(false)
        .sweep_in_task()
        .seed(1)
        .connect()
        .await
        .expect("it greets as any server does");
    let mut con = client.connection();
    let asked = Instant::now();
    let result: RedisResult<Value> = con.send_packed_command(cmd("INCR").arg("k")).await;
    assert!(asked.elapsed() <= DEADLINE + Duration::from_millis(50));
    // The same bytes by the driver's own parser. What RESP3 lets a server push is no reply, and what is refused
    // for the server's state is asked again.
    if let Ok(value) = result
        && let Ok(first) = redis::parse_redis_value(bytes)
        && !matches!(first, Value::Push { .. } | Value::ServerError(_))
    {
        // A number that is none is not itself.
        assert_eq!(format!("{value:?}"), format!("{first:?}"));
    }
    sleep(Duration::from_secs(1)).await;
    for word in ["first", "second", "third"] {
        let asked = Instant::now();
        let echoed = con.send_packed_command(cmd("ECHO").arg(word)).await;
        assert!(asked.elapsed() <= DEADLINE + Duration::from_millis(50));
        if let Ok(echoed) = echoed {
            assert_eq!(echoed, Value::BulkString(word.into()));
        }
    }
    client.close().await;
}

/// Greets as any server does, and answers the first INCR with the bytes.
#[derive(Clone)]
struct Peer(Arc<Script>);

struct Script {
    armed: AtomicBool,
    bytes: Vec<u8>,
    pieces: usize,
    /// The connection ends after them.
    ends: bool,
}

impl Connector for Peer {
    fn connect<'a>(
        &'a self,
        _: &'a RedisEndpoint,
        _: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let (near, far) = duplex(1 << 16);
        tokio::spawn(self.clone().serve(far));
        async { Ok(Box::new(near) as Box<dyn Transport>) }.boxed()
    }
}

impl Peer {
    async fn serve(self, mut stream: DuplexStream) -> io::Result<()> {
        let mut input = Vec::new();
        loop {
            while let Some((words, used)) = parse(&input) {
                input.drain(..used);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let answer = match words[..] {
                    ["INCR", ..] if self.0.armed.swap(false, Ordering::Relaxed) => {
                        let size = self.0.bytes.len().div_ceil(self.0.pieces).max(1);
                        for piece in self.0.bytes.chunks(size) {
                            stream.write_all(piece).await?;
                            tokio::task::yield_now().await;
                        }
                        if self.0.ends {
                            return Ok(());
                        }
                        continue;
                    }
                    ["PING"] => "+PONG\r\n".to_owned(),
                    ["HELLO", ..] => "%1\r\n+proto\r\n:3\r\n".to_owned(),
                    ["CLIENT", "INFO"] => "+id=7 addr=10.0.0.1:7 name=\r\n".to_owned(),
                    ["CLIENT", "KILL", ..] => ":1\r\n".to_owned(),
                    ["ECHO", word] => format!("${}\r\n{word}\r\n", word.len()),
                    _ => "+OK\r\n".to_owned(),
                };
                stream.write_all(answer.as_bytes()).await?;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
    }
}

/// The first whole request, and its length. Words hold no line ends.
fn parse(input: &[u8]) -> Option<(Vec<String>, usize)> {
    let (mut lines, mut at) = (Vec::new(), 0);
    loop {
        let end = input[at..].windows(2).position(|two| two == b"\r\n")?;
        lines.push(String::from_utf8_lossy(&input[at..at + end]).into_owned());
        at += end + 2;
        let count: usize = lines[0][1..].parse().expect("a request");
        if lines.len() == 2 * count + 1 {
            return Some((lines.into_iter().skip(2).step_by(2).collect(), at));
        }
    }
}
