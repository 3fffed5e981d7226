//! The in-process server answers as Redis does, byte for byte.
//!
//! `server_corpus.txt` is executed by both, once in RESP2 and once in RESP3, and every reply is
//! compared. One line is one step:
//!
//! ```text
//! == name          a section: empty databases, new connections; "password" after the name sets one
//! GET key          connection A sends it and reads the reply; "quoted words" may hold spaces
//! B: GET key       another connection, made at its first use
//! A& BLPOP q 0     sends and does not read
//! A?               reads what is owed
//! A closed         reads the end of the connection
//! wait 20          milliseconds pass
//! blocked 2        goes on when so many clients are blocked
//! fault oom on     also: readonly, misconf
//! ```
#![cfg(feature = "testing")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "both servers are spoken to from the test's own thread, outside of any runtime"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use multidb::testing::server::Server;
use tokio::runtime::Runtime;

#[test]
fn replies_are_those_of_redis_in_resp2() {
    compare(2);
}

#[test]
fn replies_are_those_of_redis_in_resp3() {
    compare(3);
}

#[cfg(feature = "redis")]
#[test]
fn redis_rs_speaks_to_it_in_both_protocols() {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let server = Server::builder().password("p@ss/word").start();
        let server = server.await.expect("a free port");
        for url in [server.url(), server.url_resp3()] {
            let client = redis::Client::open(url).expect("a valid URL");
            let mut connection = client
                .get_multiplexed_async_connection()
                .await
                .expect("to be let in");
            let (counted, all): (i64, BTreeMap<String, i64>) = redis::pipe()
                .atomic()
                .cmd("HINCRBY")
                .arg("h")
                .arg("f")
                .arg(1)
                .cmd("HGETALL")
                .arg("h")
                .query_async(&mut connection)
                .await
                .expect("a transaction");
            assert_eq!(all["f"], counted);
        }
        assert_eq!(server.storage().hash("h")[b"f".as_slice()], b"2");
    });
}

fn compare(protocol: u8) {
    let redis = Redis::start();
    let runtime = Runtime::new().expect("a runtime");
    let mut differences = Vec::new();
    let mut compared = 0;
    for section in sections() {
        let server = Server::builder();
        let server = match section.password {
            true => server.password(PASSWORD),
            false => server,
        };
        let server = runtime.block_on(server.start()).expect("a free port");
        let ours = transcript(&Ours(server), &section, protocol);
        let theirs = transcript(&redis, &section, protocol);
        assert_eq!(ours.len(), theirs.len());
        compared += ours.len();
        for ((number, line, ours), (_, _, theirs)) in ours.iter().zip(&theirs) {
            if ours != theirs {
                differences.push(format!(
                    "line {number} ({}), {line}\n  redis  {theirs}\n  server {ours}",
                    section.name
                ));
            }
        }
    }
    assert!(compared > 300, "only {compared} replies were compared");
    assert!(
        differences.is_empty(),
        "{} of {compared} replies differ in RESP{protocol}:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

struct Section {
    name: String,
    password: bool,
    steps: Vec<(usize, &'static str)>,
}

fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    for (index, line) in include_str!("server_corpus.txt").lines().enumerate() {
        let line = line.trim();
        if let Some(title) = line.strip_prefix("== ") {
            let name = title.trim_end_matches(" password");
            sections.push(Section {
                name: name.to_owned(),
                password: name != title,
                steps: Vec::new(),
            });
        } else if !line.is_empty() && !line.starts_with('#') {
            let section = sections.last_mut().expect("a section before its steps");
            section.steps.push((index + 1, line));
        }
    }
    sections
}

/// What was answered, line by line.
fn transcript(
    target: &dyn Target,
    section: &Section,
    protocol: u8,
) -> Vec<(usize, &'static str, String)> {
    let mut connections: BTreeMap<String, Connection> = BTreeMap::new();
    let mut answers = Vec::new();
    let mut control = Connection(BufReader::new(target.connect()));
    target.prepare(&mut control, section.password);
    for (number, line) in &section.steps {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first {
            "wait" => std::thread::sleep(millis(rest)),
            "blocked" => control.wait_for(&format!("blocked_clients:{rest}\r\n")),
            "fault" => {
                let (fault, state) = rest.split_once(' ').expect("fault NAME on|off");
                target.fault(&mut control, fault, state == "on");
            }
            _ => {
                let (name, command) = match first.strip_suffix([':', '&', '?']) {
                    Some(name) => (name, rest),
                    None if rest == "closed" => (first, rest),
                    None => ("A", *line),
                };
                let connection = connections.entry(name.to_owned()).or_insert_with(|| {
                    let mut connection = Connection(BufReader::new(target.connect()));
                    // Before a password is given, the protocol cannot be chosen.
                    if protocol == 3 && !section.password {
                        connection.send("HELLO 3");
                        connection.reply();
                    }
                    connection
                });
                if !first.ends_with('?') && command != "closed" {
                    connection.send(command);
                }
                if !first.ends_with('&') {
                    answers.push((*number, *line, connection.reply()));
                }
            }
        }
    }
    target.restore(&mut control, section.password);
    answers
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.parse().expect("milliseconds"))
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// One side of the comparison.
trait Target {
    fn connect(&self) -> Box<dyn Stream>;
    fn prepare(&self, control: &mut Connection, password: bool);
    fn fault(&self, control: &mut Connection, fault: &str, on: bool);
    fn restore(&self, control: &mut Connection, password: bool);
}

struct Ours(Server);

impl Target for Ours {
    fn connect(&self) -> Box<dyn Stream> {
        let stream = TcpStream::connect(self.0.addr()).expect("our server to listen");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Box::new(stream)
    }

    fn prepare(&self, control: &mut Connection, password: bool) {
        if password {
            control.expect(&format!("AUTH {PASSWORD}"), "+OK");
        }
    }

    fn fault(&self, _: &mut Connection, fault: &str, on: bool) {
        match fault {
            "oom" => self.0.out_of_memory(on),
            "readonly" => self.0.read_only(on),
            "misconf" => self.0.refuse_writes(on.then_some(MISCONF)),
            _ => panic!("no fault {fault}"),
        }
    }

    fn restore(&self, _: &mut Connection, _: bool) {}
}

/// A real server, reached by a socket file so that no port can be taken by somebody else.
struct Redis {
    child: Child,
    directory: PathBuf,
}

impl Redis {
    fn start() -> Self {
        let unique = format!(
            "server-corpus-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let directory = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket", "redis.sock"])
            .args(["--enable-protected-configs", "yes"])
            .current_dir(&directory)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is not installed: tests/run installs it");
        let redis = Self { child, directory };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(redis.socket()).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(2));
        }
        redis
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("redis.sock")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Target for Redis {
    fn connect(&self) -> Box<dyn Stream> {
        let stream = UnixStream::connect(self.socket()).expect("redis-server to listen");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Box::new(stream)
    }

    fn prepare(&self, control: &mut Connection, password: bool) {
        control.expect("FLUSHALL", "+OK");
        if password {
            control.expect(&format!("CONFIG SET requirepass {PASSWORD}"), "+OK");
        }
    }

    fn fault(&self, control: &mut Connection, fault: &str, on: bool) {
        match (fault, on) {
            ("oom", true) => control.expect("CONFIG SET maxmemory 1", "+OK"),
            ("oom", false) => control.expect("CONFIG SET maxmemory 0", "+OK"),
            // Nobody listens there: a replica that never finds its master.
            ("readonly", true) => control.expect("REPLICAOF 127.0.0.1 1", "+OK"),
            ("readonly", false) => control.expect("REPLICAOF NO ONE", "+OK"),
            ("misconf", true) => {
                // A save to a directory that is not there fails, and from then on writes do.
                control.expect("CONFIG SET save \"1 1\"", "+OK");
                std::fs::remove_dir_all(self.directory.join("gone")).ok();
                std::fs::create_dir(self.directory.join("gone")).expect("a directory");
                control.expect("CONFIG SET dir gone", "+OK");
                std::fs::remove_dir(self.directory.join("gone")).expect("to remove it");
                control.expect("SET save me", "+OK");
                control.send("BGSAVE");
                control.reply();
                control.wait_for("rdb_last_bgsave_status:err\r\n");
            }
            ("misconf", false) => {
                let directory = self.directory.display();
                control.expect(&format!("CONFIG SET dir {directory}"), "+OK");
                control.expect("CONFIG SET save \"\"", "+OK");
                control.send("BGSAVE");
                control.reply();
                control.wait_for("rdb_last_bgsave_status:ok\r\n");
            }
            _ => panic!("no fault {fault}"),
        }
    }

    fn restore(&self, control: &mut Connection, password: bool) {
        if password {
            control.expect("CONFIG SET requirepass \"\"", "+OK");
        }
    }
}

struct Connection(BufReader<Box<dyn Stream>>);

impl Connection {
    fn send(&mut self, command: &str) {
        let words = words(command);
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        // A connection that the server has closed is seen when its reply is read.
        let _ = self.0.get_mut().write_all(request.as_bytes());
    }

    /// The next reply, as it came, with line ends made visible and connection numbers hidden.
    fn reply(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.frame(&mut bytes) {
            Ok(()) => {
                let text = String::from_utf8_lossy(&bytes).replace("\r\n", " ");
                let mut parts = text.split("$2 id :");
                let mut shown = parts.next().unwrap_or_default().to_owned();
                for part in parts {
                    shown += "$2 id :N";
                    shown += part.trim_start_matches(|c: char| c.is_ascii_digit());
                }
                shown
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => "closed".to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                "closed".to_owned()
            }
            Err(error) => format!("no reply: {error}"),
        }
    }

    fn frame(&mut self, bytes: &mut Vec<u8>) -> std::io::Result<()> {
        let start = bytes.len();
        self.0.read_until(b'\n', bytes)?;
        if bytes.len() == start {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let kind = bytes[start];
        let head = String::from_utf8_lossy(&bytes[start + 1..]);
        let count = head.trim().parse().unwrap_or(-1);
        match kind {
            b'$' | b'=' if count >= 0 => {
                let end = bytes.len();
                bytes.resize(end + usize::try_from(count).expect("a length") + 2, 0);
                self.0.read_exact(&mut bytes[end..])
            }
            b'*' | b'~' | b'>' => (0..count).try_for_each(|_| self.frame(bytes)),
            b'%' => (0..count * 2).try_for_each(|_| self.frame(bytes)),
            _ => Ok(()),
        }
    }

    fn expect(&mut self, command: &str, reply: &str) {
        self.send(command);
        assert_eq!(self.reply().trim(), reply, "{command}");
    }

    fn wait_for(&mut self, info: &str) {
        let info = info.replace("\r\n", " ");
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.send("INFO everything");
            if self.reply().contains(&info) {
                return;
            }
            assert!(Instant::now() < deadline, "never {info}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut quoted = false;
    for (index, part) in line.split('"').enumerate() {
        quoted = index % 2 == 1;
        if quoted {
            words.push(part.replace("\\r\\n", "\r\n"));
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    assert!(!quoted, "an open quote in {line}");
    words
}

const PASSWORD: &str = "secret";
const PATIENCE: Duration = Duration::from_secs(10);
const MISCONF: &str = "MISCONF Redis is configured to save RDB snapshots, but it's currently \
unable to persist to disk. Commands that may modify the data set are disabled, because this \
instance is configured to report errors during writes if RDB snapshotting fails \
(stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error.";
