//! Connections that fall silent for good while nothing else does, as a lost NAT flow leaves them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use multidb::engine::backend::{Purpose, Wiring};
use multidb::redis::Transport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Stands at the client's end of every connection to a database; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Deafener(Arc<Counts>);

#[derive(Default)]
struct Counts {
    deafenings: AtomicU64,
    open: AtomicUsize,
}

/// A transport that hears nothing any more once its callers' connections have been deafened. What is
/// written to it then goes nowhere. Probes are spared, and find that all is well.
struct Ear<T> {
    transport: T,
    deafener: Deafener,
    /// `None`: spared.
    born: Option<u64>,
}

impl Deafener {
    pub(crate) fn deafen(&self) {
        self.0.deafenings.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that the client holds now.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    pub(crate) fn over(&self, transport: impl Transport, wiring: &Wiring) -> Box<dyn Transport> {
        let is_callers = wiring.purpose == Purpose::Traffic;
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Box::new(Ear {
            transport,
            born: is_callers.then(|| self.0.deafenings.load(Ordering::Relaxed)),
            deafener: self.clone(),
        })
    }
}

impl<T> Ear<T> {
    fn is_deaf(&self) -> bool {
        let now = self.deafener.0.deafenings.load(Ordering::Relaxed);
        self.born.is_some_and(|born| born != now)
    }
}

impl<T> Drop for Ear<T> {
    fn drop(&mut self) {
        self.deafener.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T: Transport> AsyncRead for Ear<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Nobody is woken: nothing will ever come.
        match self.is_deaf() {
            true => Poll::Pending,
            false => Pin::new(&mut self.transport).poll_read(cx, buf),
        }
    }
}

impl<T: Transport> AsyncWrite for Ear<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.is_deaf() {
            true => Poll::Ready(Ok(bytes.len())),
            false => Pin::new(&mut self.transport).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
