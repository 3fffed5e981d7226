//! TLS over any transport, and what its failures mean.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::Transport;
use super::tls::Tls;
use crate::engine::backend::{Fault, FaultKind};

/// A transport below TLS. Dropped, it says no farewell: what the driver still held is not sent.
struct Secured {
    stream: TlsStream<Box<dyn Transport>>,
    /// Why the last write failed, to be told by the next flush.
    failed: Option<io::Error>,
}

impl Tls {
    /// Shakes hands over a fresh transport. Cancel-safe: it is dropped with it.
    pub(crate) async fn secure(
        &self,
        transport: Box<dyn Transport>,
    ) -> io::Result<Box<dyn Transport>> {
        let client = self.client();
        let client = client.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connector = TlsConnector::from(client);
        let stream = connector.connect(self.name().clone(), transport).await?;
        Ok(Box::new(Secured {
            stream,
            failed: None,
        }))
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)) {
            // A server that is killed takes no leave. A reply says itself where it ends, so nobody can
            // pass a part for the whole, and this is the end that it would be over TCP.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => Poll::Ready(read),
        }
    }
}

impl AsyncWrite for Secured {
    /// Takes what it could not write, too, and fails at the next flush.
    ///
    /// Over TCP a write that fails has sent nothing, and the byte meter takes it for that proof. Here
    /// one write may become several records, of which the first ones, with whole commands in them, may
    /// have left before the last one failed. So everything that has been handed to TLS counts as
    /// written.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.failed.is_none() {
            match ready!(Pin::new(&mut this.stream).poll_write(cx, buf)) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => this.failed = Some(error),
            }
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let failed = match this.failed.take() {
            Some(error) => error,
            None => match ready!(Pin::new(&mut this.stream).poll_flush(cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => error,
            },
        };
        // Why the server hung up, such as for want of a certificate, says more than that it did. What
        // else it has sent belongs to nobody: a connection that cannot be written to has ended.
        let mut last = [0; 1024];
        match Pin::new(&mut this.stream).poll_read(cx, &mut ReadBuf::new(&mut last)) {
            Poll::Ready(Err(error)) if tls_error(&error).is_some() => Poll::Ready(Err(error)),
            _ => Poll::Ready(Err(failed)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// What a failure of TLS says of the database, if it is one. Repeats nothing of a certificate.
pub(super) fn fault(error: &io::Error) -> Option<Fault> {
    let inner = error.get_ref()?;
    if inner.is::<crate::engine::error::ConfigError>() {
        return Some(Fault::new(FaultKind::Denied, "no certificates to trust"));
    }
    let (kind, what) = match tls_error(error)? {
        TlsError::InvalidCertificate(reason) => (FaultKind::Denied, refused(reason)),
        TlsError::NoCertificatesPresented => (FaultKind::Denied, "no certificate shown"),
        TlsError::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => (FaultKind::Denied, "client certificate refused"),
            // What TLS 1.2 says to a client without a certificate, and of ciphers.
            AlertDescription::HandshakeFailure => (FaultKind::Denied, "TLS handshake refused"),
            _ => (FaultKind::Other, "TLS ended by an alert"),
        },
        TlsError::InvalidMessage(_) => (FaultKind::Other, "it does not speak TLS"),
        _ => (FaultKind::Other, "TLS failed"),
    };
    Some(Fault::new(kind, what))
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn refused(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate refused: expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate refused: not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "certificate refused: not for this host"
        }
        CertificateError::UnknownIssuer => "certificate refused: unknown issuer",
        CertificateError::Revoked => "certificate refused: revoked",
        // Not worth a word of their own each, and there may be new ones.
        _ => "certificate refused",
    }
}

#[cfg(test)]
mod tests;
