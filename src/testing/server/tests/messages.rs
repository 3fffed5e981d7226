//! Messages under faults, faults of one connection, and users.

use super::*;

const SUBSCRIBED: &str = "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";

fn message(text: &str) -> String {
    let length = text.len();
    format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n${length}\r\n{text}\r\n")
}

async fn listener(server: &Server) -> Client<DuplexStream> {
    let mut listener = memory(server);
    listener.ask("SUBSCRIBE c", SUBSCRIBED).await;
    listener
}

#[tokio::test(start_paused = true)]
async fn a_message_is_held_lost_and_delayed_as_a_reply_is() {
    let server = Server::in_memory();
    let mut listener = listener(&server).await;
    let mut speaker = memory(&server);
    speaker.ask("PUBLISH c one", ":1\r\n").await;
    listener.read(&message("one")).await;

    server.latency(Duration::from_secs(2));
    speaker.send("PUBLISH c two").await;
    listener.silent().await;
    listener.read(&message("two")).await;
    speaker.read(":1\r\n").await;
    server.latency(Duration::ZERO);

    server.hang();
    listener.silent().await;
    server.resume();
    speaker.ask("PUBLISH c three", ":1\r\n").await;
    listener.read(&message("three")).await;

    server.lose_replies(true);
    speaker.send("PUBLISH c lost").await;
    listener.silent().await;
    server.lose_replies(false);
    // What came after a lost message would show the gap.
    assert_eq!(listener.end().await, io::ErrorKind::UnexpectedEof);
}

#[tokio::test(start_paused = true)]
async fn a_message_published_into_a_black_hole_is_gone_with_its_listener() {
    let server = Server::in_memory();
    let mut listener = listener(&server).await;
    let mut speaker = memory(&server);
    speaker.send("PUBLISH c gone").await;
    server.black_hole();
    listener.silent().await;
    server.heal();
    yield_now().await;
    let mut next = memory(&server);
    next.ask("PUBSUB NUMSUB c", "*2\r\n$1\r\nc\r\n:1\r\n").await;
    next.ask("PUBLISH c after", ":1\r\n").await;
    listener.read(&message("after")).await;
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_has_left_hears_nothing_and_counts_for_nothing() {
    let server = Server::in_memory();
    let listener = listener(&server).await;
    let mut speaker = memory(&server);
    drop(listener);
    until(|| server.connections() == 1).await;
    speaker.ask("PUBLISH c nobody", ":0\r\n").await;
    let again = self::listener(&server).await;
    server.kill();
    server.revive().await.unwrap();
    drop(again);
    memory(&server).ask("PUBLISH c nobody", ":0\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn one_connection_can_be_broken_while_others_go_on() {
    let server = Server::in_memory();
    let (mut one, mut other) = (memory(&server), memory(&server));
    one.ask("CLIENT SETNAME one", "+OK\r\n").await;
    other.ask("PING", "+PONG\r\n").await;
    let clients = server.clients();
    let [a, b] = clients.as_slice() else {
        panic!("two connections, not {clients:?}");
    };
    assert_eq!((a.name().as_str(), b.name().as_str()), ("one", ""));
    assert_eq!(a.last_command(), "client|setname");
    assert_ne!(a.id(), b.id());

    a.hang(true);
    one.send("INCR n").await;
    one.silent().await;
    other.ask("GET n", "$-1\r\n").await;
    a.hang(false);
    one.read(":1\r\n").await;

    a.latency(Duration::from_secs(3));
    let start = Instant::now();
    one.ask("PING", "+PONG\r\n").await;
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    a.latency(Duration::ZERO);

    a.lose_replies(true);
    one.send("INCR n").await;
    one.silent().await;
    other.ask("GET n", "$1\r\n2\r\n").await;
    a.lose_replies(false);
    assert_eq!(one.end().await, io::ErrorKind::UnexpectedEof);
    until(|| !a.is_alive()).await;

    b.kill();
    assert!(!b.is_alive());
    assert_eq!(other.end().await, io::ErrorKind::UnexpectedEof);
    until(|| server.clients().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_user_given_to_the_builder_may_do_everything_but_what_is_forbidden_to_it() {
    let server = Server::builder().password("pw").user("ann", "secret");
    let server = server.in_memory();
    let mut client = memory(&server);
    client
        .ask("GET k", "-NOAUTH Authentication required.\r\n")
        .await;
    client.ask("AUTH ann secret", "+OK\r\n").await;
    client.ask("ACL WHOAMI", "$3\r\nann\r\n").await;
    client.ask("SET k v", "+OK\r\n").await;
    client.ask("ACL SETUSER ann -set", "+OK\r\n").await;
    let refused = "-NOPERM this user has no permissions to run the 'set' command\r\n";
    client.ask("SET k w", refused).await;
    client.ask("AUTH pw", "+OK\r\n").await;
    client.ask("SET k w", "+OK\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_connection_was_killed_takes_nothing() {
    let server = Server::in_memory();
    let mut other = memory(&server);
    other.ask("PING", "+PONG\r\n").await;
    let wait = async || {
        let mut waiter = memory(&server);
        waiter.send("BLPOP q 0").await;
        waiter.silent().await;
        waiter
    };
    let _waiter = wait().await;
    let clients = server.clients();
    let client = clients.last().unwrap();
    let id = client.id();
    client.kill();
    other.ask("RPUSH q a", ":1\r\n").await;
    other.ask("LPOP q", "$1\r\na\r\n").await;

    let _waiter = wait().await;
    // Both in one batch: the waiter's own task has no turn between them.
    let kill = format!("CLIENT KILL ID {}", id + 1);
    other.send(&kill).await;
    other.send("RPUSH q b").await;
    other.read(":1\r\n:1\r\n").await;
    other.ask("LPOP q", "$1\r\nb\r\n").await;
}
