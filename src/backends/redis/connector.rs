//! Opening transports, and counting what goes over them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ::redis::RedisError;
use futures_util::future::BoxFuture;
use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::endpoint::RedisEndpoint;
use super::endpoint::place::Address;
use crate::engine::backend::{Fault, Wiring};
use crate::sockets::{Metered, Transport, dial, guard};

/// Opens transports to endpoints. The same driver code then runs over TCP, in memory or in a simulation.
pub trait Connector: Send + Sync + 'static {
    /// Opens one transport to an endpoint at one address: a server, a node, a sentinel. Dropped when the connect timeout passes, so it must be cancel-safe.
    ///
    /// A transport that is dropped must deliver nothing afterwards of what was written to it: an
    /// abandoned command that arrives later would run behind everybody's back.
    fn connect<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
        wiring: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>>;
}

/// Sockets of the operating system, with what a client that must not be left hanging needs. The
/// connector of a client that is given no other.
///
/// Over TCP: no delay; keepalive after 15 s, every 5 s, three times; linger 0, so that an abandoned connection
/// is reset and its unsent bytes are dropped by the kernel; on Linux a user timeout, so that sent but
/// unacknowledged bytes end it. The name is resolved anew on every connect and every address tried,
/// the next one after 250 ms at the latest, beside those that have not answered yet.
///
/// Over a unix socket nothing of this applies: there is no network to lose bytes, and what was written
/// is in the server's hands at once, also when the connection is dropped. It may still run, as with
/// bytes that TCP has delivered; the engine's fence ends it at the server before the database may serve
/// again.
#[derive(Clone, Debug, Default)]
pub struct TcpConnector {
    user_timeout: Option<Duration>,
}

impl TcpConnector {
    /// How long sent bytes may stay unacknowledged (Linux `TCP_USER_TIMEOUT`), 1 s at least, which
    /// leaves room for retransmissions. Default `calls.response_timeout`; has no effect elsewhere.
    #[must_use]
    pub fn user_timeout(mut self, timeout: Duration) -> Self {
        self.user_timeout = Some(timeout);
        self
    }

    fn prepare(&self, socket: &SockRef<'_>, wiring: &Wiring) -> io::Result<()> {
        // What nobody waits for any more need not be delivered any more.
        guard(socket, self.user_timeout.unwrap_or(wiring.response_timeout))
    }
}

impl Connector for TcpConnector {
    fn connect<'a>(
        &'a self,
        endpoint: &'a RedisEndpoint,
        wiring: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        Box::pin(async move {
            let transport: Box<dyn Transport> = match endpoint.address() {
                Some(Address::Tcp { host, port }) => {
                    let stream = dial(host, *port).await?;
                    self.prepare(&SockRef::from(&stream), wiring)?;
                    Box::new(stream)
                }
                #[cfg(unix)]
                Some(Address::Unix(path)) => Box::new(UnixStream::connect(path).await?),
                // No URL that is accepted leads here.
                #[cfg(not(unix))]
                Some(Address::Unix(_)) => return Err(io::ErrorKind::Unsupported.into()),
                // Nor does the backend: it asks for the servers that it has found.
                None => return Err(io::ErrorKind::Unsupported.into()),
            };
            Ok(transport)
        })
    }
}

/// Opens transports by the client's connector, and makes of them what every connection needs.
#[derive(Clone)]
pub(super) struct Dialer(Arc<dyn Connector>);

impl Dialer {
    pub(super) fn new(connector: impl Connector) -> Self {
        Self(Arc::new(connector))
    }

    /// A byte stream to a server that has not been greeted yet. `cap`: what it may send before a reply is
    /// complete.
    pub(super) async fn transport(
        &self,
        endpoint: &RedisEndpoint,
        wiring: &Wiring,
        cap: Arc<AtomicU64>,
    ) -> Result<Metered, Fault> {
        let transport = self.0.connect(endpoint, wiring).await;
        let transport = transport.map_err(RedisError::from)?;
        // Here and not by the connector, so that no connector can forget it; and below the meter, which
        // therefore counts plaintext: handed to TLS is as good as written.
        #[cfg(feature = "redis-rustls")]
        let transport = match endpoint.security() {
            Some(tls) => tls.secure(transport).await.map_err(RedisError::from)?,
            None => transport,
        };
        Ok(Metered::new(transport, wiring.meter.clone(), cap))
    }
}

/// What a peer may send before a reply is complete: enough for Redis's largest value.
pub(super) const REPLY_CAP: u64 = 512 << 20;
/// The same before the peer has been greeted, and for probes.
pub(super) const HANDSHAKE_CAP: u64 = 64 << 10;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::engine::backend::Purpose;
    use tokio::net::{TcpListener, TcpStream};

    async fn user_timeout(connector: TcpConnector, response_timeout: Duration) -> Duration {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let stream = stream.unwrap();
        let socket = SockRef::from(&stream);
        let wiring = Wiring::new(Purpose::Traffic, response_timeout);
        connector.prepare(&socket, &wiring).unwrap();
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
        socket.tcp_user_timeout().unwrap().unwrap()
    }

    #[tokio::test]
    async fn sent_bytes_stay_unacknowledged_as_long_as_a_reply_is_waited_for_but_a_second_at_least()
    {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let of_replies = |timeout| user_timeout(TcpConnector::default(), timeout);
        assert_eq!(of_replies(ms(500)).await, s(1));
        assert_eq!(of_replies(ms(2500)).await, ms(2500));
        assert_eq!(of_replies(Duration::MAX).await, s(86_400));
        let own = TcpConnector::default().user_timeout(s(7));
        assert_eq!(user_timeout(own, ms(500)).await, s(7));
    }
}
