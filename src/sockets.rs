//! What the backends' connections are made of: byte streams, opened, guarded and secured.

mod dial;
mod metered;
#[cfg(any(feature = "grpc", feature = "redis-rustls"))]
mod secured;
#[cfg(any(feature = "grpc", feature = "redis-rustls"))]
mod tls;

pub(crate) use dial::dial;
pub(crate) use metered::Metered;
#[cfg(any(feature = "grpc", feature = "redis-rustls"))]
pub(crate) use tls::Tls;
#[cfg(any(feature = "grpc", feature = "redis-rustls"))]
pub use tls::TlsConfig;

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::engine::backend::{Fault, FaultKind};

/// A byte stream in both directions.
#[cfg_attr(
    not(feature = "redis"),
    expect(unreachable_pub, reason = "of the Redis backend's interface")
)]
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for T {}

/// Readies a TCP socket for a client that must not be left hanging: no delay; keepalive after 15 s, every
/// 5 s, three times; linger 0, so that an abandoned connection is reset and its unsent bytes are dropped
/// by the kernel; on Linux, `unacknowledged` bytes end it, after 1 s at least, which leaves room for
/// retransmissions.
pub(crate) fn guard(socket: &SockRef<'_>, unacknowledged: Duration) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5));
    #[cfg(unix)]
    let keepalive = keepalive.with_retries(3);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_linger(Some(Duration::ZERO))?;
    let timeout = unacknowledged.clamp(Duration::from_secs(1), LONGEST_USER_TIMEOUT);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    socket.set_tcp_user_timeout(Some(timeout))?;
    #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
    let _ = timeout;
    Ok(())
}

/// The kernel counts milliseconds in 32 bits, and takes what overflows them for less.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Whether it is this process or this machine that is at its limit.
#[cfg(unix)]
fn is_ours(io: &io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS, ENOMEM; ports run out as "address not available".
    const LIMITS: [i32; 4] = [24, 23, if cfg!(target_os = "linux") { 105 } else { 55 }, 12];
    let limit = io.raw_os_error().is_some_and(|code| LIMITS.contains(&code));
    limit || io.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(not(unix))]
fn is_ours(io: &io::Error) -> bool {
    io.kind() == io::ErrorKind::AddrNotAvailable
}

/// Why a transport could not be opened or used.
pub(crate) fn io_fault(io: &io::Error) -> Fault {
    #[cfg(any(feature = "grpc", feature = "redis-rustls"))]
    if let Some(fault) = secured::fault(io) {
        return fault;
    }
    if is_ours(io) {
        return Fault::new(FaultKind::Local, "this process has no socket left");
    }
    let (kind, what) = match io.kind() {
        io::ErrorKind::ConnectionRefused => (FaultKind::Unreachable, "connection refused"),
        io::ErrorKind::HostUnreachable => (FaultKind::Unreachable, "host unreachable"),
        io::ErrorKind::NetworkUnreachable => (FaultKind::Unreachable, "network unreachable"),
        io::ErrorKind::NotFound => (FaultKind::Unreachable, "no such host or socket"),
        io::ErrorKind::PermissionDenied => (FaultKind::Unreachable, "permission denied"),
        io::ErrorKind::TimedOut => (FaultKind::Silent, "timed out"),
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::UnexpectedEof => (FaultKind::Lost, "connection lost"),
        _ => (FaultKind::Other, "connection failed"),
    };
    Fault::new(kind, what)
}
