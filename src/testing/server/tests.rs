mod messages;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, timeout};

use super::{Server, Storage, Value};

// === A killed server ===

#[tokio::test]
async fn a_killed_server_resets_and_refuses_and_keeps_its_storage() {
    let server = Server::start().await.unwrap();
    let mut client = tcp(&server).await;
    client.ask("RPUSH q a b", ":2\r\n").await;
    let port = server.addr();

    server.kill();

    assert_eq!(server.connections(), 0);
    assert_eq!(client.end().await, io::ErrorKind::ConnectionReset);
    for _ in 0..100 {
        let refused = TcpStream::connect(port).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(server.storage().list("q"), [b"a", b"b"]);

    server.revive().await.unwrap();

    assert_eq!(server.addr(), port);
    tcp(&server).await.ask("LPOP q", "$1\r\na\r\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_executed_after_a_kill_has_returned() {
    let server = Server::start().await.unwrap();
    for round in 0..20 {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = tcp(&server).await;
            clients.push(tokio::spawn(async move {
                let burst = request("INCR n").repeat(100);
                while client.stream.write_all(&burst).await.is_ok() {}
            }));
        }
        until(|| server.storage().counter("n") > Some(round * 1000)).await;

        server.kill();
        let executed = server.storage().counter("n");

        for client in clients {
            client.await.unwrap();
        }
        assert_eq!(server.storage().counter("n"), executed);
        server.revive().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_waiter_takes_nothing_from_another_server_over_its_storage() {
    let storage = Storage::new();
    let dying = Server::builder().storage(storage.clone()).in_memory();
    let living = Server::builder().storage(storage.clone()).in_memory();
    let mut waiter = memory(&dying);
    waiter.send("BLPOP q 0").await;
    waiter.silent().await;
    let mut pusher = memory(&living);
    pusher.silent().await;

    // Both tasks are woken, the pusher's first.
    pusher.send("RPUSH q a").await;
    dying.kill();
    pusher.read(":1\r\n").await;

    assert_eq!(storage.list("q"), [b"a"]);
    assert_eq!(waiter.end().await, io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let server = Server::start().await.unwrap();
    let mut client = tcp(&server).await;
    client.ask("PING", "+PONG\r\n").await;
    let (port, endpoint) = (server.addr(), server.endpoint());

    drop(server);

    assert_eq!(client.end().await, io::ErrorKind::ConnectionReset);
    assert!(TcpStream::connect(port).await.is_err());
    assert!(endpoint.connect().is_err());
    // Nobody holds the port any more.
    let next = Server::builder().port(port.port()).start().await.unwrap();
    assert_eq!(next.addr(), port);
}

#[tokio::test]
async fn connections_can_be_killed_alone() {
    let server = Server::start().await.unwrap();
    let mut client = tcp(&server).await;
    client.ask("PING", "+PONG\r\n").await;

    server.kill_connections();

    assert_eq!(client.end().await, io::ErrorKind::ConnectionReset);
    tcp(&server).await.ask("PING", "+PONG\r\n").await;
}

// === A server that does not answer ===

#[tokio::test(start_paused = true)]
async fn a_hung_server_executes_later() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    client.ask("INCR n", ":1\r\n").await;

    server.hang();
    client.send("INCR n").await;
    client.silent().await;
    let mut another = memory(&server);
    another.send("INCR n").await;
    another.silent().await;
    assert_eq!(server.storage().counter("n"), Some(1));

    server.resume();
    let mut replies = [client.reply().await, another.reply().await];
    replies.sort();
    assert_eq!(replies, [":2\r\n", ":3\r\n"]);
}

#[tokio::test(start_paused = true)]
async fn what_falls_into_a_black_hole_is_never_executed() {
    let server = Server::in_memory();
    let mut busy = memory(&server);
    let mut quiet = memory(&server);
    busy.ask("SET n 1", "+OK\r\n").await;
    quiet.ask("PING", "+PONG\r\n").await;

    server.black_hole();
    busy.send("INCR n").await;
    busy.silent().await;
    let mut born_inside = memory(&server);
    born_inside.silent().await;

    server.heal();
    assert_eq!(busy.end().await, io::ErrorKind::UnexpectedEof);
    quiet.silent().await;
    quiet.ask("GET n", "$1\r\n1\r\n").await;
    born_inside.ask("GET n", "$1\r\n1\r\n").await;
    memory(&server).ask("INCR n", ":2\r\n").await;
}

#[tokio::test]
async fn a_black_hole_swallows_what_nobody_had_time_to_read() {
    for _ in 0..50 {
        let server = Server::start().await.unwrap();
        let mut client = tcp(&server).await;
        client.ask("PING", "+PONG\r\n").await;

        // No server task is scheduled between these three.
        server.black_hole();
        let sent = client.stream.try_write(&request("INCR n"));
        server.heal();

        assert!(sent.is_ok());
        client.end().await;
        assert_eq!(server.storage().counter("n"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_falls_due_in_a_black_hole_is_lost() {
    let storage = Storage::new();
    let server = Server::builder().storage(storage.clone()).in_memory();
    let other = Server::builder().storage(storage.clone()).in_memory();
    let mut waiter = memory(&server);
    waiter.send("BLPOP q 0").await;
    waiter.silent().await;

    server.black_hole();
    memory(&other).ask("RPUSH q a", ":1\r\n").await;
    waiter.silent().await;
    server.heal();

    assert_eq!(waiter.end().await, io::ErrorKind::UnexpectedEof);
    assert!(storage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn lost_replies_belong_to_executed_commands() {
    let server = Server::in_memory();
    let mut loser = memory(&server);
    let mut idle = memory(&server);
    idle.ask("PING", "+PONG\r\n").await;

    server.lose_replies(true);
    loser.send("INCR n").await;
    loser.silent().await;
    assert_eq!(server.storage().counter("n"), Some(1));

    server.lose_replies(false);
    assert_eq!(loser.end().await, io::ErrorKind::UnexpectedEof);
    idle.ask("GET n", "$1\r\n1\r\n").await;
}

#[tokio::test]
async fn a_cut_reply_is_followed_by_a_reset() {
    let server = Server::start().await.unwrap();
    let mut client = tcp(&server).await;
    client.ask("SET k hello", "+OK\r\n").await;

    server.cut_after(6);
    client.send("GET k").await;

    let mut start = [0; 6];
    client.stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"$5\r\nhe");
    assert_eq!(client.end().await, io::ErrorKind::ConnectionReset);
    // Only that one.
    tcp(&server).await.ask("GET k", "$5\r\nhello\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn latency_delays_every_reply_and_keeps_their_order() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    let start = Instant::now();
    server.latency(Duration::from_millis(50));

    client.send("INCR n").await;
    client.send("INCR n").await;
    client.read(":1\r\n:2\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_millis(50));

    // The network has become faster, but no reply overtakes another.
    client.send("INCR n").await;
    until(|| server.storage().counter("n") == Some(3)).await;
    server.latency(Duration::ZERO);
    client.send("INCR n").await;
    client.read(":3\r\n:4\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_millis(100));
    client.ask("INCR n", ":5\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_commands_and_client_pause_write_only_writes() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    let start = Instant::now();

    server.pause(Duration::from_secs(2));
    client.ask("PING", "+PONG\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_secs(2));

    client.ask("CLIENT PAUSE 3000 WRITE", "+OK\r\n").await;
    client.ask("GET n", "$-1\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    client.ask("INCR n", ":1\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));

    client.ask("CLIENT PAUSE 60000 WRITE", "+OK\r\n").await;
    let mut writer = memory(&server);
    writer.send("INCR n").await;
    writer.silent().await;
    client.ask("CLIENT UNPAUSE", "+OK\r\n").await;
    writer.read(":2\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_secs(6));
}

// === A server that refuses ===

#[tokio::test(start_paused = true)]
async fn while_loading_only_the_connection_can_be_talked_about() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    server.loading(true);
    let loading = "-LOADING Redis is loading the dataset in memory\r\n";

    for refused in ["PING", "GET k", "SET k v", "DBSIZE", "EVAL x 0"] {
        client.ask(refused, loading).await;
    }
    client.ask("ECHO x", "$1\r\nx\r\n").await;
    client.ask("CLIENT SETNAME me", "+OK\r\n").await;
    client.ask("SELECT 1", "+OK\r\n").await;
    client.ask("MULTI", "+OK\r\n").await;
    client.ask("GET k", loading).await;
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    client.ask("EXEC", aborted).await;

    server.loading(false);
    client.ask("PING", "+PONG\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn any_error_can_answer_writes() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    server.refuse_writes(Some("NOREPLICAS Not enough good replicas to write."));
    let refused = "-NOREPLICAS Not enough good replicas to write.\r\n";
    client.ask("SET k v", refused).await;
    client.ask("PING", "+PONG\r\n").await;
    client.ask("GET k", "$-1\r\n").await;
    server.refuse_writes(None);
    client.ask("SET k v", "+OK\r\n").await;
}

// === Waiting and watching ===

#[tokio::test(start_paused = true)]
async fn each_element_goes_to_one_waiter_in_the_order_they_came() {
    let server = Server::in_memory();
    let mut waiters = Vec::new();
    for _ in 0..3 {
        let mut waiter = memory(&server);
        waiter.send("BLPOP q 0").await;
        waiter.silent().await;
        waiters.push(waiter);
    }
    memory(&server).ask("RPUSH q a b", ":2\r\n").await;

    waiters[0].read("*2\r\n$1\r\nq\r\n$1\r\na\r\n").await;
    waiters[1].read("*2\r\n$1\r\nq\r\n$1\r\nb\r\n").await;
    waiters[2].silent().await;
    assert!(server.storage().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_has_left_takes_nothing() {
    let server = Server::in_memory();
    let mut waiter = memory(&server);
    waiter.send("BLPOP q 0").await;
    waiter.silent().await;

    drop(waiter);
    until(|| server.connections() == 0).await;

    memory(&server).ask("RPUSH q a", ":1\r\n").await;
    assert_eq!(server.storage().list("q"), [b"a"]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_times_out_and_what_was_sent_behind_it_follows() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    let start = Instant::now();
    client.send("BLPOP q 1.5").await;
    client.send("INCR n").await;
    client.read("*-1\r\n:1\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_millis(1500));

    memory(&server).ask("RPUSH q a", ":1\r\n").await;
    assert_eq!(server.storage().list("q"), [b"a"]);
}

#[tokio::test(start_paused = true)]
async fn expiry_runs_by_the_paused_clock_and_disturbs_watchers() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    client.ask("SET k v EX 60", "+OK\r\n").await;
    client.ask("WATCH k", "+OK\r\n").await;
    client.ask("MULTI", "+OK\r\n").await;
    client.ask("PING", "+QUEUED\r\n").await;

    advance(Duration::from_secs(59)).await;
    assert_eq!(
        server.storage().get("k"),
        Some(Value::String(b"v".to_vec()))
    );
    advance(Duration::from_secs(1)).await;

    assert!(!server.storage().contains("k"));
    client.ask("EXEC", "*-1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_fails_only_if_what_it_watches_was_changed() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    let mut other = memory(&server);
    for (meddling, outcome) in [
        ("GET k", "*1\r\n:1\r\n"),
        ("SET other v", "*1\r\n:2\r\n"),
        ("SET k 7", "*-1\r\n"),
        ("DEL k", "*-1\r\n"),
        ("DEL k", "*1\r\n:1\r\n"),
    ] {
        client.ask("WATCH k", "+OK\r\n").await;
        other.send(meddling).await;
        other.reply().await;
        client.ask("MULTI", "+OK\r\n").await;
        client.ask("INCR k", "+QUEUED\r\n").await;
        client.ask("EXEC", outcome).await;
    }
}

// === The protocol ===

#[tokio::test(start_paused = true)]
async fn requests_may_arrive_in_any_pieces() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    for byte in request("SET k hello") {
        client.stream.write_all(&[byte]).await.unwrap();
        yield_now().await;
    }
    client.read("+OK\r\n").await;

    // More than any buffer holds, in one go, while the replies are read.
    let count = 20_000;
    let burst = request("INCR n").repeat(count);
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let writing = tokio::spawn(async move { writer.write_all(&burst).await });
    let expected: String = (1..=count).map(|n| format!(":{n}\r\n")).collect();
    let mut replies = vec![0; expected.len()];
    reader.read_exact(&mut replies).await.unwrap();
    writing.await.unwrap().unwrap();
    assert!(replies == expected.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_broken_request_is_answered_and_ends_the_connection() {
    let server = Server::in_memory();
    for (bytes, complaint) in [
        ("*1\r\n+PING\r\n", "expected '$', got '+'"),
        ("*x\r\n", "invalid multibulk length"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
    ] {
        let mut client = memory(&server);
        client.stream.write_all(bytes.as_bytes()).await.unwrap();
        client
            .read(&format!("-ERR Protocol error: {complaint}\r\n"))
            .await;
        assert_eq!(client.end().await, io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test(start_paused = true)]
async fn a_scan_sees_every_lasting_key_once_whatever_comes_and_goes() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    for n in 0..40 {
        client.ask(&format!("SET old:{n} v"), "+OK\r\n").await;
    }
    let mut seen = Vec::new();
    let mut cursor = "0".to_owned();
    let mut round = 0;
    loop {
        client.send(&format!("SCAN {cursor} COUNT 7")).await;
        let reply = client.reply().await;
        let mut words = reply
            .split("\r\n")
            .filter(|word| !word.starts_with(['$', '*']));
        cursor = words.next().unwrap().to_owned();
        seen.extend(
            words
                .filter(|word| word.starts_with("old:"))
                .map(str::to_owned),
        );
        if cursor == "0" {
            break;
        }
        // Every fifth key goes and comes back as a new one; others are added.
        client.send(&format!("DEL gone:{round}")).await;
        client.reply().await;
        round += 1;
        client.ask(&format!("SET gone:{round} v"), "+OK\r\n").await;
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (40, 40));
}

#[tokio::test(start_paused = true)]
async fn executed_commands_are_counted_and_recorded() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    client.ask("SET a 1", "+OK\r\n").await;
    server.record(true);
    client.ask("INCR a", ":2\r\n").await;
    client.ask("MULTI", "+OK\r\n").await;
    client.ask("GET a", "+QUEUED\r\n").await;
    client.ask("EXEC", "*1\r\n$1\r\n2\r\n").await;
    client.send("GET").await;
    client.reply().await;

    let log: Vec<String> = server
        .log()
        .iter()
        .map(|args| String::from_utf8(args.join(&b' ')).unwrap())
        .collect();
    assert_eq!(log, ["INCR a", "MULTI", "EXEC", "GET a"]);
    assert_eq!(server.commands(), 5);
}

#[tokio::test(start_paused = true)]
async fn databases_are_apart() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    client.ask("SELECT 3", "+OK\r\n").await;
    client.ask("SADD s b a", ":2\r\n").await;
    client.ask("HSET h f v", ":1\r\n").await;
    let storage = server.storage();
    assert!(storage.is_empty());
    let third = storage.select(3);
    assert_eq!(third.len(), 2);
    assert_eq!(third.set("s").into_iter().collect::<Vec<_>>(), [b"a", b"b"]);
    assert_eq!(third.hash("h")[b"f".as_slice()], b"v");
    third.clear();
    client.ask("DBSIZE", ":0\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_sorted_set_and_a_stream_hold_can_be_read() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    client.ask("ZADD z 2 b 1.5 c 2 a", ":3\r\n").await;
    client.ask("XADD s 5-1 f v g w", "$3\r\n5-1\r\n").await;

    let members = server.storage().sorted_set("z");
    let stream = server.storage().stream("s");

    let expected = [("c", 1.5), ("a", 2.0), ("b", 2.0)];
    assert_eq!(members, expected.map(|(m, score)| (m.into(), score)));
    let fields = vec![("f".into(), "v".into()), ("g".into(), "w".into())];
    assert!(stream.iter().eq([("5-1".to_owned(), &fields)]));
    assert!(server.storage().sorted_set("s").is_empty());
    assert!(server.storage().stream("z").is_empty());
}

#[tokio::test(start_paused = true)]
async fn scripts_are_refused_by_a_clear_error() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    let refusal = "-ERR this in-process server runs no scripts\r\n";
    for command in ["EVAL x 0", "EVAL_RO x 0", "SCRIPT LOAD x", "SCRIPT FLUSH"] {
        client.ask(command, refusal).await;
    }
    for command in ["FCALL f 0", "FCALL_RO f 0", "FUNCTION LIST"] {
        client.ask(command, refusal).await;
    }
    let unknown = "-NOSCRIPT No matching script. Please use EVAL.\r\n";
    for command in ["EVALSHA x 0", "EVALSHA_RO x 0"] {
        client.ask(command, unknown).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_pending_ages_by_the_paused_clock_and_counts_its_deliveries() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    client.ask("XADD s 1-1 f v", "$3\r\n1-1\r\n").await;
    client.ask("XADD s 1-2 f v", "$3\r\n1-2\r\n").await;
    client.ask("XGROUP CREATE s g 0", "+OK\r\n").await;
    client.send("XREADGROUP GROUP g c STREAMS s >").await;
    client.reply().await;
    advance(Duration::from_millis(30)).await;
    client.send("XREADGROUP GROUP g c STREAMS s 1-1").await;
    client.reply().await;
    advance(Duration::from_millis(5)).await;

    let first = "*4\r\n$3\r\n1-1\r\n$1\r\nc\r\n:35\r\n:1\r\n";
    let second = "*4\r\n$3\r\n1-2\r\n$1\r\nc\r\n:5\r\n:2\r\n";

    let both = format!("*2\r\n{first}{second}");
    client.ask("XPENDING s g - + 10", &both).await;
    let old = format!("*1\r\n{first}");
    client.ask("XPENDING s g IDLE 6 - + 10 c", &old).await;
    client.ask("XPENDING s g - + 1", &old).await;
}

#[tokio::test(start_paused = true)]
async fn a_random_sample_has_different_members_and_repeats_them_when_asked_to() {
    let server = Server::in_memory();
    let mut client = memory(&server);
    client.ask("SADD s 1 2 3 4", ":4\r\n").await;
    client.ask("ZADD z 1 1 2 2 3 3 4 4", ":4\r\n").await;
    client.ask("HSET h 1 x 2 x 3 x 4 x", ":4\r\n").await;
    for command in ["SRANDMEMBER s", "ZRANDMEMBER z", "HRANDFIELD h"] {
        let mut seen = BTreeSet::new();
        for _ in 0..100 {
            let members = client.members(&format!("{command} 3")).await;
            assert_eq!(members.len(), 3);
            let different: BTreeSet<_> = members.into_iter().collect();
            assert_eq!(different.len(), 3);
            seen.extend(different);
            assert_eq!(client.members(&format!("{command} -9")).await.len(), 9);
        }
        assert_eq!(seen.len(), 4, "{command} passes a member over");
    }
    assert_eq!(server.storage().set("s").len(), 4);
}

// === A client that shows every byte ===

struct Client<S> {
    stream: S,
}

async fn tcp(server: &Server) -> Client<TcpStream> {
    let stream = TcpStream::connect(server.addr()).await.unwrap();
    Client { stream }
}

fn memory(server: &Server) -> Client<DuplexStream> {
    let stream = server.endpoint().connect().unwrap();
    Client { stream }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, command: &str) {
        self.stream.write_all(&request(command)).await.unwrap();
    }

    async fn read(&mut self, expected: &str) {
        let mut reply = vec![0; expected.len()];
        bounded(self.stream.read_exact(&mut reply)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&reply), expected);
    }

    async fn ask(&mut self, command: &str, expected: &str) {
        self.send(command).await;
        self.read(expected).await;
    }

    /// Whatever one reply brings in one piece.
    async fn reply(&mut self) -> String {
        let mut reply = vec![0; 64 * 1024];
        let length = bounded(self.stream.read(&mut reply)).await.unwrap();
        assert!(length > 0, "the connection has ended");
        String::from_utf8_lossy(&reply[..length]).into_owned()
    }

    /// The strings of a flat list.
    async fn members(&mut self, command: &str) -> Vec<String> {
        self.send(command).await;
        let reply = self.reply().await;
        reply
            .lines()
            .skip(2)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    /// Nothing comes for a second.
    async fn silent(&mut self) {
        let read = timeout(Duration::from_secs(1), self.stream.read_u8()).await;
        assert!(read.is_err(), "not silent: {read:?}");
    }

    /// How the connection ended; nothing more was sent on it.
    async fn end(&mut self) -> io::ErrorKind {
        let end = bounded(self.stream.read_u8()).await;
        end.expect_err("the end, not another byte").kind()
    }
}

fn request(command: &str) -> Vec<u8> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    request.into_bytes()
}

async fn bounded<T>(wait: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(100), wait)
        .await
        .expect("no reply for 100 seconds")
}

#[expect(
    clippy::disallowed_types,
    reason = "a limit for a broken test, which a paused clock must not reach by itself"
)]
async fn until(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it never came true");
        yield_now().await;
    }
}
