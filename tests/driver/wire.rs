//! Transports in memory, under the shipped driver: to the in-process server, or to a peer that a
//! test plays itself. A line can be held still, cut, or refuse to be made.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::engine::backend::Wiring;
use multidb::redis::{Connector, RedisEndpoint, Transport};
use multidb::testing::server::{self, Server};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use crate::peer::{Lock, Peer};

/// Where hosts lead.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Lock<HashMap<String, Line>>>);

/// The way to one host; clones are the same.
#[derive(Clone)]
pub(crate) struct Line(Arc<Lock<State>>);

struct State {
    station: Station,
    refused: bool,
    /// Nothing is taken from writers any more; they wait.
    held: bool,
    /// Counts cuts: transports of an earlier one are dead.
    cuts: u64,
    wakers: Vec<Waker>,
    opened: usize,
}

#[derive(Clone)]
enum Station {
    Server(server::Endpoint),
    Peer(Peer),
}

impl Network {
    pub(crate) fn server(&self, host: &str, server: &Server) -> Line {
        self.add(host, Station::Server(server.endpoint()))
    }

    pub(crate) fn peer(&self, host: &str, peer: &Peer) -> Line {
        self.add(host, Station::Peer(peer.clone()))
    }

    fn add(&self, host: &str, station: Station) -> Line {
        let line = Line(Arc::new(Lock::new(State {
            station,
            refused: false,
            held: false,
            cuts: 0,
            wakers: Vec::new(),
            opened: 0,
        })));
        self.0.lock().unwrap().insert(host.to_owned(), line.clone());
        line
    }
}

impl Connector for Network {
    fn connect<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
        _: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let host = endpoint.host().expect("a host");
        let line = self.0.lock().unwrap().get(host).cloned();
        std::future::ready(
            line.ok_or(io::ErrorKind::NotFound.into())
                .and_then(|l| l.open()),
        )
        .boxed()
    }
}

impl Line {
    /// Writers wait from now on: not a byte leaves the client.
    pub(crate) fn hold(&self) {
        self.lock().held = true;
    }

    /// Every transport ends, for readers and writers alike.
    pub(crate) fn cut(&self) {
        let mut state = self.lock();
        state.cuts += 1;
        state.held = false;
        for waker in state.wakers.drain(..) {
            waker.wake();
        }
    }

    /// Every transport ends, and no new one is made.
    pub(crate) fn refuse(&self) {
        self.lock().refused = true;
        self.cut();
    }

    /// Transports made so far.
    pub(crate) fn opened(&self) -> usize {
        self.lock().opened
    }

    fn open(&self) -> io::Result<Box<dyn Transport>> {
        let mut state = self.lock();
        if state.refused {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        state.opened += 1;
        let stream = match &state.station {
            Station::Server(server) => server.connect()?,
            Station::Peer(peer) => {
                let (near, far) = duplex(64 * 1024);
                tokio::spawn(peer.clone().serve(far));
                near
            }
        };
        let cuts = state.cuts;
        drop(state);
        Ok(Box::new(Wire {
            stream,
            line: self.clone(),
            cuts,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

struct Wire {
    stream: DuplexStream,
    line: Line,
    cuts: u64,
}

impl Wire {
    /// Pending while `held` applies, an error once cut.
    fn ready(&self, cx: &Context<'_>, writing: bool) -> Poll<io::Result<()>> {
        let mut state = self.line.lock();
        if state.cuts != self.cuts {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if !state.wakers.iter().any(|known| known.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        match writing && state.held {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.ready(cx, false))?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.ready(cx, true))?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
