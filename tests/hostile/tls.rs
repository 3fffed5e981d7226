//! Whoever does not speak TLS where it was asked for is told nothing, however friendly he is.

use std::sync::Arc;

use multidb::redis::{RedisEndpoint, TlsConfig};
use multidb::{Config, Database, ErrorKind, Fault, FaultKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::*;

const PASSWORD: &str = "a-password-9f2c";

#[derive(Clone, Copy)]
enum Manner {
    /// Answers the first bytes with these and waits.
    Answers(&'static [u8]),
    HangsUp,
    Hangs,
}

#[allow(clippy::disallowed_types, reason = "never held across an await")]
type Read = Arc<std::sync::Mutex<Vec<Vec<u8>>>>;

/// Notes what it is sent, by connection.
async fn listener(manner: Manner) -> (std::net::SocketAddr, Read) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let read = Read::default();
    let noted = read.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let noted = noted.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                let mut all = Vec::new();
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let first = all.is_empty();
                    all.extend_from_slice(&buffer[..length]);
                    match manner {
                        Manner::Answers(bytes) if first => {
                            let _ = stream.write_all(bytes).await;
                        }
                        Manner::HangsUp => break,
                        Manner::Answers(_) | Manner::Hangs => {}
                    }
                }
                noted.lock().unwrap().push(all);
            });
        }
    });
    (address, read)
}

#[tokio::test]
async fn f14_a_server_without_tls_is_told_nothing_and_never_spoken_to_in_plain_text() {
    let tries = [
        (
            Manner::Answers(b"+OK\r\n"),
            &[FaultKind::Denied, FaultKind::Other][..],
        ),
        (
            Manner::Answers(b"-ERR Protocol error: unbalanced quotes\r\n"),
            &[FaultKind::Denied, FaultKind::Other],
        ),
        (
            Manner::Answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            &[FaultKind::Denied, FaultKind::Other],
        ),
        // An alert: no such version of the protocol.
        (
            Manner::Answers(b"\x15\x03\x01\x00\x02\x02\x46"),
            &[FaultKind::Denied, FaultKind::Other],
        ),
        // A record of the largest length, and nothing in it.
        (
            Manner::Answers(b"\x16\x03\x03\x40\x00"),
            &[FaultKind::Silent],
        ),
        (Manner::HangsUp, &[FaultKind::Lost]),
        (Manner::Hangs, &[FaultKind::Silent]),
    ];
    let tries = tries.map(|(manner, kinds)| is_told_nothing(manner, kinds));
    futures_util::future::join_all(tries).await;
}

async fn is_told_nothing(manner: Manner, kinds: &[FaultKind]) {
    let (address, read) = listener(manner).await;
    let url = format!("rediss://user:{PASSWORD}@{address}/");
    let tls = TlsConfig::new().danger_accept_invalid_certs();
    let endpoint = RedisEndpoint::parse(&url).unwrap().tls(tls).unwrap();
    let mut config = Config::default();
    config.calls.connect_timeout = TIMEOUT;
    config.health.interval = Duration::from_millis(50);
    let builder = || {
        let database = Database::new("east", endpoint.clone()).unwrap();
        MultiDbClient::builder()
            .config(config.clone())
            .deadline(DEADLINE)
            .database(database)
    };
    let asked = Instant::now();
    let error = builder().connect().await.unwrap_err();
    assert!(asked.elapsed() < TIMEOUT + SLACK, "{:?}", asked.elapsed());
    assert_eq!(error.kind(), &ErrorKind::NotStarted);
    let source = std::error::Error::source(&error).expect("the fault");
    let fault = source.downcast_ref::<Fault>().expect("a fault");
    assert!(kinds.contains(&fault.kind), "{fault:?}");

    // Nor when it is tried again and again, with a call that waits.
    let client = builder().connect_lazy().unwrap();
    let asked = Instant::now();
    let error = ask::<i64>(&mut client.connection(), &["INCR", "secret"]).await;
    assert!(ours(&error.unwrap_err()).is_retry_safe());
    assert!(asked.elapsed() < DEADLINE + SLACK, "{:?}", asked.elapsed());
    client.close().await;
    sleep(Duration::from_millis(50)).await;
    let read = read.lock().unwrap();
    assert!(read.len() >= 2, "{}", read.len());
    for sent in &*read {
        assert_eq!(sent.first(), Some(&0x16), "no handshake: {sent:02x?}");
        let text = String::from_utf8_lossy(sent);
        for word in [PASSWORD, "INCR", "HELLO", "AUTH", "PING"] {
            assert!(!text.contains(word), "{word} in plain text");
        }
    }
}
