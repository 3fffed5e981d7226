//! One TCP connection to a name that may have many addresses.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// How long an address may keep the next one waiting: RFC 8305's connection attempt delay.
const HEAD_START: Duration = Duration::from_millis(250);

/// Resolves the name anew and connects to the first of its addresses that answers.
///
/// One after the other, as `TcpStream::connect` does it, an address that swallows packets takes the
/// whole connect timeout, and a standby that would have answered is never asked. So the next one is
/// tried, beside it, after [`HEAD_START`] or as soon as one fails. Losers are dropped unused.
/// Cancel-safe.
///
/// # Errors
/// That of the address that failed last; `NotFound` for a name without addresses.
pub(crate) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    dial_by(async { Ok(lookup_host((host, port)).await?.collect()) }).await
}

async fn dial_by(
    lookup: impl Future<Output = io::Result<Vec<SocketAddr>>>,
) -> io::Result<TcpStream> {
    // A resolver's own errors have no kind, and a text that is not ours to pass on.
    let addresses = lookup.await.map_err(|error| match error.raw_os_error() {
        Some(_) => error,
        None => io::ErrorKind::NotFound.into(),
    })?;
    let mut addresses = alternating(&addresses).into_iter().peekable();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    loop {
        match addresses.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let ended = match addresses.peek() {
            Some(_) => timeout(HEAD_START, attempts.next()).await.unwrap_or(None),
            None => attempts.next().await,
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = error,
            None => {}
        }
    }
}

/// In the resolver's order, but IPv6 and IPv4 by turns: a family without a route costs one turn.
fn alternating(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let preferred = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let of = |ipv6| addresses.iter().filter(move |a| a.is_ipv6() == ipv6);
    let (mut ours, mut others) = (of(preferred), of(!preferred));
    let mut sorted = Vec::with_capacity(addresses.len());
    while sorted.len() < addresses.len() {
        sorted.extend(ours.next());
        sorted.extend(others.next());
    }
    sorted
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use socket2::{Domain, Socket, Type};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Nobody listens here; bound, so that nobody else does either.
    fn refusing() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any_port = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
        socket.bind(&any_port.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    /// Never accepts, and its queue is full: the kernel drops what asks for a connection.
    async fn hanging() -> (Socket, Vec<TcpStream>, SocketAddr) {
        let (socket, address) = refusing();
        socket.listen(0).unwrap();
        let mut queue = Vec::new();
        let patience = Duration::from_millis(100);
        while let Ok(stream) = timeout(patience, TcpStream::connect(address)).await {
            queue.push(stream.unwrap());
            assert!(queue.len() < 16, "the queue has no end");
        }
        (socket, queue, address)
    }

    async fn dial_all(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
        dial_by(std::future::ready(Ok(addresses))).await
    }

    #[tokio::test]
    async fn an_address_that_hangs_costs_its_head_start_and_not_the_connect_timeout() {
        let (_socket, _queue, hangs) = hanging().await;
        let (_listener, answers) = listening().await;
        let asked = Instant::now();
        let stream = dial_all(vec![hangs, answers]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), answers);
        assert!(asked.elapsed() >= HEAD_START, "{:?}", asked.elapsed());
        assert!(asked.elapsed() < HEAD_START * 3, "{:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_nothing_beside_one_that_hangs() {
        let (_socket, _queue, hangs) = hanging().await;
        let (_bound, refuses) = refusing();
        let (_listener, answers) = listening().await;
        let asked = Instant::now();
        let stream = dial_all(vec![refuses, hangs, refuses, answers]).await;
        assert_eq!(stream.unwrap().peer_addr().unwrap(), answers);
        assert!(asked.elapsed() < HEAD_START * 2, "{:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn the_first_that_answers_wins_and_nobody_else_is_asked() {
        let (first, preferred) = listening().await;
        let (second, other) = listening().await;
        let stream = dial_all(vec![preferred, other]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), preferred);
        first.accept().await.unwrap();
        let asked = timeout(Duration::from_millis(50), second.accept()).await;
        assert!(asked.is_err(), "{asked:?}");
    }

    #[tokio::test]
    async fn when_all_fail_the_last_error_is_told() {
        let (_bound, refuses) = refusing();
        let error = dial_all(vec![refuses, refuses]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let broadcast = SocketAddr::from((Ipv4Addr::BROADCAST, 1));
        let error = dial_all(vec![broadcast, refuses]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = dial_all(vec![refuses, broadcast]).await.unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_not_found() {
        let error = dial_all(Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let lookup = async { Err(io::Error::other("Name or service not known")) };
        let error = dial_by(lookup).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_families_take_turns_in_the_resolvers_order() {
        let parsed = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter()
                .map(|address| address.parse().unwrap())
                .collect()
        };
        let given = parsed(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let sorted = parsed(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(alternating(&given), sorted);
    }
}
