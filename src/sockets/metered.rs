//! Counting what goes over a byte stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Transport;
use crate::engine::backend::Meter;

/// Counts bytes, and refuses a reply without end.
pub(crate) struct Metered {
    inner: Box<dyn Transport>,
    meter: Arc<Meter>,
    cap: Arc<AtomicU64>,
}

impl Metered {
    pub(crate) fn new(inner: Box<dyn Transport>, meter: Arc<Meter>, cap: Arc<AtomicU64>) -> Self {
        meter.arm();
        Self { inner, meter, cap }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        this.meter.got(buf.filled().len() - before);
        if this.meter.unreplied() > this.cap.load(Ordering::Relaxed) {
            let error = io::Error::new(io::ErrorKind::InvalidData, "a reply exceeds the cap");
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }
}

/// Not vectored: the driver writes from one buffer, and would only prepare a list of one every time.
impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        this.meter.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
