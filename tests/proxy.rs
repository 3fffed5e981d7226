//! The fault proxy, byte by byte, in front of an upstream that echoes and remembers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use multidb::testing::proxy::FaultProxy;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};

mod support;
use support::eventually;

#[tokio::test]
async fn passes_everything_and_counts_it() {
    let (upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    // More than any buffer on the way, so that writing has to wait for reading.
    let big: Vec<u8> = (0..8 << 20).map(|n: u32| (n % 251) as u8).collect();
    let (mut read, mut write) = client.split();
    let mut back = vec![0; big.len()];
    let (sent, received) = tokio::join!(write.write_all(&big), read.read_exact(&mut back));
    sent.unwrap();
    received.unwrap();
    assert!(back == big);

    let counts = proxy.counts();
    assert_eq!((counts.accepted, counts.open, counts.resets), (1, 1, 0));
    assert_eq!((counts.bytes_up, counts.bytes_down), (8 << 20, 8 << 20));

    // A half-close travels, the echo's end comes back, and the connection is over.
    client.shutdown().await.unwrap();
    assert_eq!(next(&mut client).await.unwrap(), b"");
    let ended = Some(io::ErrorKind::UnexpectedEof);
    eventually(SECOND, "the echo ends", async || upstream.ends() == [ended]).await;
    eventually(SECOND, "the link closes", async || proxy.counts().open == 0).await;
    assert_eq!(proxy.counts().resets, 0);
}

#[tokio::test]
async fn a_black_hole_swallows_for_good_and_spares_the_idle() {
    let (upstream, proxy) = rig().await;
    let mut speaker = connect(&proxy).await;
    let mut idle = connect(&proxy).await;
    echo(&mut speaker).await;
    echo(&mut idle).await;

    proxy.black_hole();
    speaker.write_all(b"lost").await.unwrap();
    let mut newcomer = connect(&proxy).await;
    newcomer.write_all(b"lost").await.unwrap();
    let mut patient = connect(&proxy).await;
    let mut leaver = connect(&proxy).await;
    leaver.shutdown().await.unwrap();
    silent(&mut speaker).await;
    silent(&mut newcomer).await;
    assert_eq!(upstream.connections(), 2);

    proxy.pass();
    assert_reset(next(&mut speaker).await);
    assert_reset(next(&mut newcomer).await);
    assert_reset(next(&mut leaver).await);
    echo(&mut idle).await;
    echo(&mut patient).await;
    assert!(!upstream.heard(b"lost"));
    assert_eq!((proxy.counts().open, proxy.counts().resets), (2, 3));
}

/// No await between the fault, the write and the healing: nothing had the time to notice.
#[tokio::test]
async fn a_fault_holds_from_the_moment_its_method_returns() {
    let (upstream, proxy) = rig().await;
    for round in 0..50 {
        let mut client = connect(&proxy).await;
        echo(&mut client).await;
        proxy.black_hole();
        assert_eq!(client.try_write(b"lost").unwrap(), 4);
        // As does a connection that is still in the kernel's backlog.
        let backlog = std::net::TcpStream::connect(proxy.addr()).unwrap();
        io::Write::write_all(&mut &backlog, b"lost").unwrap();
        proxy.pass();
        assert_reset(next(&mut client).await);
        backlog.set_nonblocking(true).unwrap();
        assert_reset(next(&mut TcpStream::from_std(backlog).unwrap()).await);
        assert!(!upstream.heard(b"lost"), "round {round}");
    }
}

#[tokio::test]
async fn the_upstreams_words_are_swallowed_as_exactly() {
    let upstream = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let proxy = FaultProxy::start(upstream.local_addr().unwrap())
        .await
        .unwrap();
    for _ in 0..10 {
        let mut client = connect(&proxy).await;
        silent(&mut client).await;
        let (mut served, _) = upstream.accept().unwrap();
        proxy.lose_replies();
        io::Write::write_all(&mut served, b"lost").unwrap();
        proxy.pass();
        assert_reset(next(&mut client).await);
    }
}

#[tokio::test]
async fn what_is_under_way_into_a_black_hole_is_lost() {
    let (upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    proxy.delay(60 * SECOND);
    client.write_all(b"slow").await.unwrap();
    silent(&mut client).await;
    proxy.black_hole();
    proxy.pass();
    assert_reset(next(&mut client).await);
    assert!(!upstream.heard(b"slow"));
}

#[tokio::test]
async fn what_was_held_arrives_in_order() {
    let (upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    proxy.hold();
    client.write_all(b"one ").await.unwrap();
    silent(&mut client).await;
    client.write_all(b"two").await.unwrap();
    silent(&mut client).await;
    assert!(!upstream.heard(b"one"));

    proxy.release();
    let mut back = [0; 7];
    within(client.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"one two");
    proxy.release();
    echo(&mut client).await;
}

#[tokio::test]
async fn what_was_held_arrives_even_if_its_sender_is_gone() {
    let (upstream, proxy) = rig().await;
    let client = connect(&proxy).await;
    proxy.hold();
    client.try_write(b"zombie").unwrap();
    abort(client);
    proxy.release();
    eventually(SECOND, "the zombie arrives", async || {
        upstream.heard(b"zombie")
    })
    .await;
    let reset = Some(io::ErrorKind::ConnectionReset);
    eventually(SECOND, "and then the reset", async || {
        upstream.ends() == [reset]
    })
    .await;
}

#[tokio::test]
async fn lost_replies_were_executed_and_stay_lost() {
    let (upstream, proxy) = rig().await;
    let mut speaker = connect(&proxy).await;
    let mut idle = connect(&proxy).await;
    echo(&mut speaker).await;
    echo(&mut idle).await;

    proxy.lose_replies();
    speaker.write_all(b"executed").await.unwrap();
    eventually(SECOND, "the upstream hears", async || {
        upstream.heard(b"executed")
    })
    .await;
    silent(&mut speaker).await;
    // Not even the upstream's death gets through.
    upstream.order(1, Order::Reset);
    silent(&mut idle).await;

    proxy.pass();
    assert_reset(next(&mut speaker).await);
    assert_reset(next(&mut idle).await);
}

#[tokio::test]
async fn a_write_to_a_dead_upstream_is_not_betrayed_while_replies_are_lost() {
    let (upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    echo(&mut client).await;
    proxy.lose_replies();
    upstream.order(0, Order::Reset);
    for _ in 0..3 {
        client.write_all(b"x").await.unwrap();
        silent(&mut client).await;
    }
}

#[tokio::test]
async fn lost_requests_never_arrive_but_news_does() {
    let (upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    echo(&mut client).await;
    proxy.lose_requests();
    client.write_all(b"lost").await.unwrap();
    silent(&mut client).await;
    upstream.order(0, Order::Say(b"news"));
    assert_eq!(next(&mut client).await.unwrap(), b"news");

    proxy.pass();
    assert_reset(next(&mut client).await);
    assert!(!upstream.heard(b"lost"));
}

#[tokio::test]
async fn a_refused_port_comes_back_as_the_same_port() {
    let (_upstream, proxy) = rig().await;
    for _ in 0..50 {
        let mut client = connect(&proxy).await;
        echo(&mut client).await;
        proxy.refuse();
        assert_reset(next(&mut client).await);
        let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(proxy.counts().open, 0);
        proxy.pass();
    }
    echo(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn accept_and_hang_is_for_newcomers() {
    let (upstream, proxy) = rig().await;
    let mut old = connect(&proxy).await;
    echo(&mut old).await;
    proxy.accept_and_hang();
    let mut speaker = connect(&proxy).await;
    speaker.write_all(b"lost").await.unwrap();
    let mut patient = connect(&proxy).await;
    let mut leaver = connect(&proxy).await;
    leaver.write_all(b"lost").await.unwrap();
    silent(&mut speaker).await;
    echo(&mut old).await;
    drop(leaver);
    eventually(SECOND, "the leaver is noticed", async || {
        proxy.counts().open == 3
    })
    .await;
    assert_eq!(upstream.connections(), 1);

    proxy.pass();
    assert_reset(next(&mut speaker).await);
    echo(&mut patient).await;
    echo(&mut old).await;
    assert!(!upstream.heard(b"lost"));
}

#[tokio::test]
async fn reset_all_resets_both_sides_and_is_no_mode() {
    let (upstream, proxy) = rig().await;
    let mut clients = [connect(&proxy).await, connect(&proxy).await];
    for client in &mut clients {
        echo(client).await;
    }
    assert_eq!(proxy.reset_all(), 2);
    for client in &mut clients {
        assert_reset(next(client).await);
    }
    let reset = Some(io::ErrorKind::ConnectionReset);
    eventually(SECOND, "the upstream sees it", async || {
        upstream.ends() == [reset, reset]
    })
    .await;
    echo(&mut connect(&proxy).await).await;
    assert_eq!(proxy.counts().resets, 2);
}

#[tokio::test]
async fn delay_is_one_way_and_ends_at_once() {
    let (_upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    echo(&mut client).await;
    let each_way = Duration::from_millis(40);
    proxy.delay(each_way);
    let start = Instant::now();
    echo(&mut client).await;
    assert!(start.elapsed() >= 2 * each_way);

    proxy.delay(60 * SECOND);
    client.write_all(b"x").await.unwrap();
    silent(&mut client).await;
    proxy.delay(Duration::ZERO);
    assert_eq!(next(&mut client).await.unwrap(), b"x");
}

#[tokio::test]
async fn slices_arrive_one_by_one_and_complete() {
    let (upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    proxy.slice(1);
    let text = b"*1\r\n$4\r\nPING\r\n".repeat(20);
    client.write_all(&text).await.unwrap();
    let mut back = vec![0; text.len()];
    within(client.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, text);
    assert_eq!(proxy.counts().commands, 20);
    assert!(upstream.reads() > 20, "only {} reads", upstream.reads());
}

#[tokio::test]
async fn a_cut_reply_ends_after_exactly_so_many_bytes_once() {
    let (_upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    let mut other = connect(&proxy).await;
    echo(&mut other).await;
    proxy.cut_replies_after(3);
    client.write_all(b"abcdef").await.unwrap();
    let mut got = Vec::new();
    assert_reset(
        within(client.read_to_end(&mut got))
            .await
            .map(|_| Vec::new()),
    );
    assert_eq!(got, b"abc");
    echo(&mut other).await;
    assert_eq!(proxy.counts().resets, 1);

    proxy.cut_replies_after(0);
    other.write_all(b"abcdef").await.unwrap();
    assert_reset(next(&mut other).await);
}

#[tokio::test]
async fn a_cut_request_arrives_incomplete() {
    let (upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    proxy.cut_requests_after(5);
    client.write_all(b"abcdefgh").await.unwrap();
    let mut got = Vec::new();
    assert_reset(
        within(client.read_to_end(&mut got))
            .await
            .map(|_| Vec::new()),
    );
    let reset = Some(io::ErrorKind::ConnectionReset);
    eventually(SECOND, "the upstream is reset", async || {
        upstream.ends() == [reset]
    })
    .await;
    assert!(upstream.heard(b"abcde") && !upstream.heard(b"abcdef"));
    echo(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn injected_bytes_reach_every_served_client_and_not_the_upstream() {
    let (upstream, proxy) = rig().await;
    let mut clients = [connect(&proxy).await, connect(&proxy).await];
    for client in &mut clients {
        echo(client).await;
    }
    assert_eq!(proxy.inject(b"push"), 2);
    for client in &mut clients {
        assert_eq!(next(client).await.unwrap(), b"push");
        echo(client).await;
    }
    assert!(!upstream.heard(b"push"));
}

#[tokio::test]
async fn an_unreachable_upstream_is_a_reset() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap())
        .await
        .unwrap();
    drop(listener);
    let mut client = connect(&proxy).await;
    assert_reset(next(&mut client).await);
    assert_eq!((proxy.counts().open, proxy.counts().resets), (0, 1));
}

#[tokio::test]
async fn dropping_it_ends_everything() {
    let (upstream, proxy) = rig().await;
    let mut client = connect(&proxy).await;
    echo(&mut client).await;
    let addr = proxy.addr();
    drop(proxy);
    let refused = TcpStream::connect(addr).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_reset(next(&mut client).await);
    let reset = Some(io::ErrorKind::ConnectionReset);
    eventually(SECOND, "the upstream is reset", async || {
        upstream.ends() == [reset]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_may_come_from_any_thread() {
    let (upstream, proxy) = rig().await;
    let addr = proxy.addr();
    let faults = std::thread::spawn(move || {
        for _ in 0..100 {
            proxy.refuse();
            proxy.hold();
            proxy.black_hole();
            proxy.lose_replies();
            proxy.pass();
        }
        proxy
    });
    while !faults.is_finished() {
        // Either outcome is right here; what counts is that the proxy is sound afterwards.
        if let Ok(mut client) = TcpStream::connect(addr).await {
            let _ = client.write_all(b"noise").await;
        }
    }
    let proxy = faults.join().unwrap();
    echo(&mut connect(&proxy).await).await;
    eventually(SECOND, "the noise is over", async || {
        proxy.counts().open == 0
    })
    .await;
    let sent = proxy.counts().bytes_up;
    eventually(SECOND, "the upstream has it all", async || {
        upstream.total() == sent
    })
    .await;
}

/// A server that sends back whatever it hears.
#[derive(Clone, Default)]
struct Echo {
    seen: Arc<Lock<Vec<Seen>>>,
}

#[allow(clippy::disallowed_types, reason = "never held across an await")]
type Lock<T> = std::sync::Mutex<T>;

/// One connection, as the upstream sees it.
struct Seen {
    heard: Vec<u8>,
    reads: usize,
    end: Option<io::ErrorKind>,
    orders: UnboundedSender<Order>,
}

enum Order {
    Say(&'static [u8]),
    Reset,
}

impl Echo {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let echo = Self::default();
        let server = echo.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                server.adopt(socket);
            }
        });
        (echo, addr)
    }

    fn adopt(&self, socket: TcpStream) {
        let (orders, received) = unbounded_channel();
        let mut seen = self.seen.lock().unwrap();
        tokio::spawn(self.clone().serve(seen.len(), socket, received));
        seen.push(Seen {
            heard: Vec::new(),
            reads: 0,
            end: None,
            orders,
        });
    }

    async fn serve(
        self,
        index: usize,
        mut socket: TcpStream,
        mut orders: UnboundedReceiver<Order>,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        let mut answers = true;
        let end = loop {
            tokio::select! {
                read = socket.read(&mut buffer) => match read {
                    // A failed write takes the error away from the reads after it.
                    Ok(0) if !answers => break io::ErrorKind::ConnectionReset,
                    Ok(0) => break io::ErrorKind::UnexpectedEof,
                    Ok(count) => {
                        let heard = &buffer[..count];
                        self.note(index, heard);
                        answers = answers && socket.write_all(heard).await.is_ok();
                    }
                    Err(error) => break error.kind(),
                },
                order = orders.recv() => match order.unwrap() {
                    Order::Say(bytes) => socket.write_all(bytes).await.unwrap(),
                    Order::Reset => {
                        abort(socket);
                        return;
                    }
                },
            }
        };
        self.seen.lock().unwrap()[index].end = Some(end);
    }

    fn note(&self, index: usize, heard: &[u8]) {
        let seen = &mut self.seen.lock().unwrap()[index];
        seen.heard.extend_from_slice(heard);
        seen.reads += 1;
    }

    fn order(&self, index: usize, order: Order) {
        assert!(self.seen.lock().unwrap()[index].orders.send(order).is_ok());
    }

    fn connections(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn heard(&self, bytes: &[u8]) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.iter().any(|seen| {
            seen.heard
                .windows(bytes.len())
                .any(|window| window == bytes)
        })
    }

    fn total(&self) -> u64 {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|seen| seen.heard.len() as u64)
            .sum()
    }

    fn reads(&self) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|seen| seen.reads)
            .sum()
    }

    /// How each connection ended, if it has.
    fn ends(&self) -> Vec<Option<io::ErrorKind>> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|seen| seen.end)
            .collect()
    }
}

async fn rig() -> (Echo, FaultProxy) {
    let (echo, addr) = Echo::start().await;
    (echo, FaultProxy::start(addr).await.unwrap())
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    within(TcpStream::connect(proxy.addr())).await.unwrap()
}

async fn echo(client: &mut TcpStream) {
    client.write_all(b"echo").await.unwrap();
    let mut back = [0; 4];
    within(client.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"echo");
}

/// What the client hears next.
async fn next(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    let count = within(client.read(&mut buffer)).await?;
    buffer.truncate(count);
    Ok(buffer)
}

/// Nothing comes, not even an end, for long enough that anything wrong would have.
async fn silent(client: &mut TcpStream) {
    let heard = timeout(Duration::from_millis(30), client.read(&mut [0])).await;
    assert!(heard.is_err(), "{heard:?}");
}

fn assert_reset(heard: io::Result<Vec<u8>>) {
    assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

fn abort(socket: TcpStream) {
    SockRef::from(&socket)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(10 * SECOND, work)
        .await
        .expect("an answer within 10 s")
}

const SECOND: Duration = Duration::from_secs(1);
