//! One gRPC connection, from connect to abort.
//!
//! tonic's channel makes its connection anew by itself, behind everybody's back. Here it may do so in one
//! case only: the server asked us to leave (GOAWAY) while streams are still running, so that they end
//! where they began and new ones begin on the next connection. Once the last transport has ended the line
//! is lost for good, and the engine makes another one.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::TimeoutExpired;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::engine::backend::{Fault, FaultKind, LostSignal, Wiring};
use crate::engine::error::ConfigError;
use crate::sockets::{Metered, Tls, TlsConfig, Transport, dial, guard, io_fault};

/// Where a server is, and how it is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    host: Arc<str>,
    port: u16,
    tls: Option<Tls>,
    uri: Uri,
    http2: Http2,
}

/// HTTP/2's own settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Http2 {
    /// How long nothing may come before the server is asked for a sign of life.
    pub(crate) keepalive_interval: Duration,
    /// How long that sign may take, and on Linux how long sent bytes may stay unacknowledged.
    pub(crate) keepalive_timeout: Duration,
}

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) struct Line {
    channel: Channel,
    ties: Arc<Ties>,
}

/// What the transports of one line have in common.
struct Ties {
    ended: CancellationToken,
    /// Transports that stand: more than one only after the server has asked us to leave.
    open: AtomicUsize,
    lost: LostSignal,
}

// === impl Site ===

impl Site {
    /// # Errors
    /// [`ConfigError`] for the fields `host` and `server_name`.
    pub(crate) fn new(
        host: &str,
        port: u16,
        tls: Option<TlsConfig>,
        http2: Http2,
    ) -> Result<Self, ConfigError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let named = match bare.contains(':') {
            true => format!("[{bare}]"),
            false => bare.to_owned(),
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(format!("{named}:{port}"))
            .path_and_query("/")
            .build();
        let wrong = |problem| ConfigError::new("host", problem);
        let uri = uri.map_err(|_| wrong("is neither a host name nor an address"))?;
        if uri.host().is_none_or(str::is_empty) || bare.contains('@') {
            return Err(wrong("is neither a host name nor an address"));
        }
        let tls = tls.map(|config| Tls::new(bare, config)).transpose()?;
        Ok(Self {
            host: bare.into(),
            port,
            tls: tls.map(|tls| tls.speaking(b"h2")),
            uri,
            http2,
        })
    }

    /// The same, trusting whom `config` says.
    pub(crate) fn secured(mut self, config: TlsConfig) -> Result<Self, ConfigError> {
        if self.tls.is_none() {
            return Err(ConfigError::new("tls", "is not spoken with this URI"));
        }
        self.tls = Some(Tls::new(&self.host, config)?.speaking(b"h2"));
        Ok(self)
    }

    /// The same, with other settings of HTTP/2's.
    pub(crate) fn tuned(self, http2: Http2) -> Self {
        Self { http2, ..self }
    }

    /// Host and port, for people and for names.
    pub(crate) fn name(&self) -> &str {
        self.uri
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    async fn transport(&self) -> io::Result<Box<dyn Transport>> {
        let stream = dial(&self.host, self.port).await?;
        guard(&SockRef::from(&stream), self.http2.keepalive_timeout)?;
        match &self.tls {
            Some(tls) => tls.secure(Box::new(stream)).await,
            None => Ok(Box::new(stream)),
        }
    }
}

// === impl Line ===

impl Line {
    /// Connects and shakes hands. Cancel-safe: what was opened is dropped, and with it reset.
    pub(crate) async fn open(site: &Site, wiring: &Wiring) -> Result<Self, Fault> {
        let ties = Arc::new(Ties {
            ended: CancellationToken::new(),
            open: AtomicUsize::new(0),
            lost: wiring.lost.clone(),
        });
        let transport = site.transport().await.map_err(|io| io_fault(&io))?;
        let first = Tied::new(transport, wiring, &ties);
        let endpoint = Endpoint::from(site.uri.clone())
            .http2_keep_alive_interval(site.http2.keepalive_interval)
            .keep_alive_timeout(site.http2.keepalive_timeout)
            .keep_alive_while_idle(true)
            .http2_adaptive_window(true);
        let dialing = Dialing {
            site: site.clone(),
            wiring: wiring.clone(),
            ties: ties.clone(),
            first: Some(first),
        };
        let channel = endpoint.connect_with_connector(dialing).await;
        let channel =
            channel.map_err(|_| Fault::new(FaultKind::Other, "it does not speak HTTP/2"))?;
        Ok(Self { channel, ties })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whether it has ended.
    #[cfg(feature = "e6data")]
    pub(crate) fn is_over(&self) -> bool {
        self.ties.ended.is_cancelled()
    }

    /// Ends it: every stream fails at once, and nothing leaves any more.
    pub(crate) fn abort(&self) {
        self.ties.ended.cancel();
    }
}

/// Opens the line's transports, for tonic: the first one is there already.
struct Dialing {
    site: Site,
    wiring: Wiring,
    ties: Arc<Ties>,
    first: Option<Tied>,
}

impl Service<Uri> for Dialing {
    type Response = TokioIo<Tied>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Tied>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        if let Some(first) = self.first.take() {
            return Box::pin(std::future::ready(Ok(TokioIo::new(first))));
        }
        let (site, wiring, ties) = (self.site.clone(), self.wiring.clone(), self.ties.clone());
        Box::pin(async move {
            if ties.ended.is_cancelled() || wiring.lost.is_lost() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            let transport = site.transport().await?;
            Ok(TokioIo::new(Tied::new(transport, &wiring, &ties)))
        })
    }
}

/// A transport that ends with its line, and tells when it has ended.
struct Tied {
    io: Metered,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    ties: Arc<Ties>,
}

impl Tied {
    fn new(transport: Box<dyn Transport>, wiring: &Wiring, ties: &Arc<Ties>) -> Self {
        ties.open.fetch_add(1, Ordering::AcqRel);
        let uncapped = Arc::new(AtomicU64::new(u64::MAX));
        Self {
            io: Metered::new(transport, wiring.meter.clone(), uncapped),
            over: Box::pin(ties.ended.clone().cancelled_owned()),
            ties: ties.clone(),
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.over.as_mut().poll(cx).is_ready()
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        if self.ties.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ties.ended.cancel();
            self.ties.lost.report();
        }
    }
}

impl AsyncRead for Tied {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tied {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === what an error says of the connection ===

/// Whether it was not a server that said so, but the end of the connection. An error without a cause is a
/// status that came over it.
pub(crate) fn is_loss(error: &(dyn StdError + 'static)) -> bool {
    match find::<h2::Error>(error) {
        // One stream was reset; the connection stands.
        Some(error) if error.is_reset() => false,
        Some(_) => true,
        None => error.source().is_some() && !is_timeout(error),
    }
}

/// Whether the time was up that the request itself had named.
pub(crate) fn is_timeout(error: &(dyn StdError + 'static)) -> bool {
    find::<TimeoutExpired>(error).is_some()
}

/// Whether the server proved that it never looked at the request (RFC 9113, 8.7).
pub(crate) fn never_ran(error: &(dyn StdError + 'static)) -> bool {
    find::<h2::Error>(error).is_some_and(|error| {
        error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || error.is_remote()
                && error.is_go_away()
                && error.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// Whether we reset the stream ourselves: the request's own body failed, which says nothing of the server.
pub(crate) fn is_own_doing(error: &(dyn StdError + 'static)) -> bool {
    find::<h2::Error>(error)
        .is_some_and(|error| error.is_reset() && !error.is_remote() && !error.is_library())
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        at = error.source();
    }
    None
}
