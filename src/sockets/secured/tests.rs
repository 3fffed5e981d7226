use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server;

use super::super::TlsConfig;
use super::super::metered::Metered;
use super::*;
use crate::engine::backend::Meter;

/// A network that takes so many bytes and then none.
struct Budgeted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Budgeted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Budgeted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let left = this.1.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let taken = ready!(Pin::new(&mut this.0).poll_write(cx, &buf[..buf.len().min(left)]))?;
        this.1.fetch_sub(taken, Ordering::Relaxed);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

struct Pair {
    client: Metered,
    server: server::TlsStream<DuplexStream>,
    budget: Arc<AtomicUsize>,
    meter: Arc<Meter>,
}

/// Two ends of TLS that have shaken hands.
async fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(["db.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let trusting = TlsConfig::new().ca_pem(made.cert.pem()).unwrap();
    let tls = Tls::new("db.example", trusting).unwrap();

    let (ours, theirs) = duplex(1 << 20);
    let budget = Arc::new(AtomicUsize::new(usize::MAX));
    let transport = Box::new(Budgeted(ours, budget.clone()));
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let (client, server) = tokio::join!(tls.secure(transport), acceptor.accept(theirs));
    let meter = Arc::new(Meter::default());
    let cap = Arc::new(AtomicU64::new(u64::MAX));
    Pair {
        client: Metered::new(client.unwrap(), meter.clone(), cap),
        server: server.unwrap(),
        budget,
        meter,
    }
}

/// Naive: a write that failed has sent nothing. The first records had left, and were executed.
#[tokio::test]
async fn a_write_that_fails_half_way_counts_as_written() {
    let mut pair = pair().await;
    pair.budget.store(20_000, Ordering::Relaxed);
    let commands = vec![b'x'; 50_000];
    let sent = async {
        pair.client.write_all(&commands).await?;
        pair.client.flush().await
    };
    let error = sent.await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let mut arrived = vec![0; 1024];
    assert!(pair.server.read(&mut arrived).await.unwrap() > 0);
    assert!(pair.meter.written() > 0, "no proof that nothing was sent");
}

/// The last word stands for an alert, which only a server's own TLS can send.
#[tokio::test]
async fn a_servers_last_word_says_more_than_that_it_hung_up() {
    let mut pair = pair().await;
    let raw = pair.server.get_mut().0;
    raw.write_all(b"-ERR max number of clients reached\r\n")
        .await
        .unwrap();
    pair.budget.store(0, Ordering::Relaxed);
    pair.client.write_all(b"PING\r\n").await.unwrap();
    let error = pair.client.flush().await.unwrap_err();
    assert_eq!(fault(&error).unwrap().what, "it does not speak TLS");
}

#[tokio::test]
async fn a_server_that_is_killed_ends_the_stream_as_it_does_over_tcp() {
    let mut pair = pair().await;
    pair.server.write_all(b"+OK\r\n").await.unwrap();
    pair.server.flush().await.unwrap();
    drop(pair.server);
    let mut read = Vec::new();
    assert_eq!(pair.client.read_to_end(&mut read).await.unwrap(), 5);
}

#[tokio::test]
async fn the_meter_counts_what_is_said_and_not_its_encryption() {
    let mut pair = pair().await;
    pair.client.write_all(b"PING\r\n").await.unwrap();
    pair.client.flush().await.unwrap();
    let mut heard = [0; 6];
    pair.server.read_exact(&mut heard).await.unwrap();
    assert_eq!((&heard, pair.meter.written()), (b"PING\r\n", 6));
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_told_from_one_that_hangs_up() {
    let tls = || {
        let made = rcgen::generate_simple_self_signed(["db.example".to_owned()]).unwrap();
        let trusting = TlsConfig::new().ca_pem(made.cert.pem()).unwrap();
        Tls::new("db.example", trusting).unwrap()
    };
    let (ours, mut theirs) = duplex(1 << 16);
    theirs.write_all(b"-ERR unknown command\r\n").await.unwrap();
    let error = tls().secure(Box::new(ours)).await.err().unwrap();
    assert_eq!(fault(&error).unwrap().what, "it does not speak TLS");
    let (ours, theirs) = duplex(1 << 16);
    drop(theirs);
    let error = tls().secure(Box::new(ours)).await.err().unwrap();
    assert!(fault(&error).is_none(), "{error}");
}
