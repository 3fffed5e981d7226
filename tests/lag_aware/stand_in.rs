//! A server in the place of a cluster's REST API: speaks as much HTTP/1.1 as it takes, misbehaves on
//! demand, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use multidb::redis::TlsConfig;

/// What is asked to find a database.
pub(crate) const LIST: &str = "/v1/bdbs?fields=uid,endpoints";

/// What is asked of a database with all defaults.
pub(crate) fn availability(uid: u64) -> String {
    format!("/v1/bdbs/{uid}/availability?extend_check=lag&availability_lag_tolerance_ms=5000")
}

/// What the API says of a database that lags.
pub(crate) fn lags() -> Reply {
    let body = r#"{"error_code":"bdb_unavailable","description":"BDB is not available"}"#;
    Reply::Status(503, body.to_owned())
}

/// A list of databases, each with its uid, name, address and port.
pub(crate) fn list(databases: &[(u64, &str, &str, u16)]) -> Reply {
    let databases = databases.iter().map(|(uid, name, addr, port)| {
        format!(
            r#"{{"uid":{uid},"endpoints":[{{"dns_name":"{name}","addr":["{addr}"],"port":{port}}}]}}"#
        )
    });
    let databases = databases.collect::<Vec<_>>().join(",");
    Reply::Status(200, format!("[{databases}]"))
}

// === certificates ===

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        Identity {
            cert: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn trusted(&self) -> TlsConfig {
        TlsConfig::new().ca_pem(self.0.as_ref().pem()).unwrap()
    }

    /// A server for 127.0.0.1 that this CA vouches for, and that asks for certificates of it or does not.
    fn acceptor(&self, auth_clients: bool) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.0.as_ref().der().clone()).unwrap();
        let clients = match auth_clients {
            false => WebPkiClientVerifier::no_client_auth(),
            true => WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap(),
        };
        let Identity { cert, key } = self.identity("127.0.0.1");
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

// === the server ===

/// What a path is answered with.
#[derive(Clone)]
pub(crate) enum Reply {
    Status(u16, String),
    /// 307, to this URL.
    Redirect(String),
    /// 200 and so many bytes, in chunks.
    Chunks(usize),
    /// Whatever it is.
    Raw(&'static str),
    /// Nothing, for as long as the client waits.
    Silence,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Method, path and version.
    pub(crate) line: String,
    headers: BTreeMap<String, String>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

pub(crate) struct StandIn {
    addr: SocketAddr,
    seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Bytes of bodies in chunks that were taken from it.
    sent: AtomicUsize,
    asked: Locked<Vec<Asked>>,
    replies: Locked<BTreeMap<String, Reply>>,
}

#[allow(clippy::disallowed_types, reason = "never held across an await")]
type Locked<T> = std::sync::Mutex<T>;

impl StandIn {
    pub(crate) async fn start(ca: &Ca) -> Self {
        Self::serve(Some(ca.acceptor(false))).await
    }

    pub(crate) async fn asking_for_certificates(ca: &Ca) -> Self {
        Self::serve(Some(ca.acceptor(true))).await
    }

    pub(crate) async fn plain() -> Self {
        Self::serve(None).await
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let serving = tokio::spawn({
            let seen = seen.clone();
            async move {
                let mut open = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    let (seen, tls) = (seen.clone(), tls.clone());
                    open.spawn(async move {
                        let _ = match tls {
                            None => seen.converse(stream).await,
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => seen.converse(stream).await,
                                Err(refused) => Err(refused),
                            },
                        };
                    });
                }
            }
        });
        Self {
            addr,
            seen,
            serving,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// From now on this path is answered so; one without an answer is with 404.
    pub(crate) fn answers(&self, path: impl Into<String>, reply: Reply) {
        let mut replies = self.seen.replies.lock().unwrap();
        replies.insert(path.into(), reply);
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn sent(&self) -> usize {
        self.seen.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.seen.asked.lock().unwrap().clone()
    }

    /// The paths asked for, in order.
    pub(crate) fn paths(&self) -> Vec<String> {
        let path = |asked: &Asked| asked.line.split(' ').nth(1).unwrap_or_default().to_owned();
        self.asked().iter().map(path).collect()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Seen {
    /// Requests and answers, until one of the two hangs up.
    async fn converse(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        while let Some(asked) = read(&mut stream).await? {
            let path = asked.line.split(' ').nth(1).unwrap_or_default().to_owned();
            let closes = asked.header("connection") == Some("close");
            let reply = self.replies.lock().unwrap().get(&path).cloned();
            self.asked.lock().unwrap().push(asked);
            match reply.unwrap_or(Reply::Status(404, String::new())) {
                Reply::Status(status, body) => {
                    let head = format!(
                        "HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    stream.write_all((head + &body).as_bytes()).await?;
                }
                Reply::Redirect(url) => {
                    let head = format!(
                        "HTTP/1.1 307 Elsewhere\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"
                    );
                    stream.write_all(head.as_bytes()).await?;
                }
                Reply::Chunks(bytes) => self.chunks(&mut stream, bytes).await?,
                Reply::Raw(text) => {
                    stream.write_all(text.as_bytes()).await?;
                    return stream.shutdown().await;
                }
                Reply::Silence => {
                    stream.read_u8().await?;
                }
            }
            if closes {
                return stream.shutdown().await;
            }
        }
        Ok(())
    }

    async fn chunks(&self, stream: &mut (impl AsyncWrite + Unpin), bytes: usize) -> io::Result<()> {
        const CHUNK: usize = 4096;
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let chunk = format!("{CHUNK:x}\r\n{}\r\n", " ".repeat(CHUNK));
        for _ in 0..bytes / CHUNK {
            stream.write_all(chunk.as_bytes()).await?;
            self.sent.fetch_add(CHUNK, Ordering::SeqCst);
        }
        stream.write_all(b"0\r\n\r\n").await?;
        stream.flush().await
    }
}

/// A request without a body.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Asked>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Ok(Some(Asked {
        line,
        headers: headers.collect(),
    }))
}
