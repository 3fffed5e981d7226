//! A password, a token, a URL's userinfo or a value of the user appears in nothing that we say.

#[cfg(all(
    feature = "blocking",
    feature = "e6data",
    feature = "metrics",
    feature = "tracing"
))]
mod everywhere;

use std::error::Error as _;
use std::fmt::{Debug, Display};
use std::future::ready;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use multidb::engine::backend::Wiring;
use multidb::redis::{
    Connector, Redis, RedisConfig, RedisEndpoint, RedisHandle, Transport, from_redis,
};
use multidb::testing::server::Server;
use multidb::{
    Builder, Database, Event, Events, HealthCheck, MultiDbClient, MultiDbConnection, Verdict,
};
use proptest::prelude::*;
use redis::{AsyncCommands, RedisError, RedisResult, cmd, pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

// === what must not be seen ===

/// Survives percent-encoding unchanged nowhere: it is searched for in every form.
const PASSWORD: &str = "cAnary/pw+7f3a 9c";
const USER: &str = "cAnary_user_51d0";
const VALUE: &str = "cAnary-value-b8e2";
/// Printable, as a token is that goes into a header.
const TOKEN: &str = "cAnary.token-0c4e";

/// Everything said so far, and what must not be in it.
#[derive(Clone, Default)]
struct Said(Arc<Lines>);

#[allow(clippy::disallowed_types, reason = "never held across an await")]
type Lines = std::sync::Mutex<Vec<String>>;

impl Said {
    fn text(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    fn debug(&self, thing: &impl Debug) {
        self.text(format!("{thing:?}"));
        self.text(format!("{thing:#?}"));
    }

    fn thing(&self, thing: &(impl Debug + Display)) {
        self.debug(thing);
        self.text(format!("{thing}"));
        self.text(format!("{thing:#}"));
    }

    /// An error of ours, with everything it shows of itself and its causes.
    fn error(&self, error: &multidb::Error) {
        self.thing(error);
        self.debug(error.kind());
        let mut cause = error.source();
        while let Some(error) = cause {
            self.text(format!("{error} {error:?} {error:#?}"));
            cause = error.source();
        }
    }

    /// What a command failed with, where it was our error and not the server's reply.
    fn failure(&self, error: &RedisError) {
        self.thing(error);
        let ours = from_redis(error).unwrap_or_else(|| panic!("not ours: {error}"));
        self.error(&ours);
    }

    fn client(&self, client: &MultiDbClient<Redis>) {
        self.debug(client);
        self.debug(&client.connection());
        self.thing(&*client.snapshot());
        self.text(client.explain());
        self.debug(&client.events());
    }

    fn everything(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }

    /// # Panics
    /// If a secret was said in any form, or nothing was.
    fn is_harmless(&self) {
        let said = self.everything();
        assert!(said.len() > 20, "nothing was said");
        for secret in [PASSWORD, USER, VALUE, TOKEN] {
            for form in forms(secret) {
                if let Some(line) = said.lines().find(|line| line.contains(&form)) {
                    panic!("{form:?} in {line}");
                }
            }
        }
    }
}

/// The secret as it is, as it may be escaped, and the parts that an unlucky parser may leave of it.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![
        secret.to_owned(),
        percent_encoded(secret),
        format!("{secret:?}"),
    ];
    // Base64 of a text depends on what stands before it: its middle, at the three offsets.
    for before in ["", "x", "xx", &format!("{USER}:")] {
        let encoded = base64(format!("{before}{secret}").as_bytes());
        let hidden = before.len() * 4 / 3 + 2;
        forms.push(encoded[hidden..encoded.len() - 4].to_owned());
    }
    forms.push(secret.bytes().map(|byte| format!("{byte:02x}")).collect());
    let bytes: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
    forms.push(bytes.join(", "));
    // Of any length that could not be by chance.
    forms.extend(
        secret
            .as_bytes()
            .windows(8)
            .map(|part| std::str::from_utf8(part).unwrap().to_owned()),
    );
    forms
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(DIGITS[(group >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text + &"=".repeat((3 - bytes.len() % 3) % 3)
}

#[test]
fn the_search_finds_a_secret_in_every_form() {
    assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
    let leaks = [
        format!("AUTH {PASSWORD}"),
        format!("redis://:{}@host", percent_encoded(PASSWORD)),
        format!("Basic {}", base64(format!("{USER}:{PASSWORD}").as_bytes())),
        format!("{:?}", redis::Value::BulkString(VALUE.into())),
        format!("{:?}", VALUE.as_bytes()),
        format!("unexpected {}", &VALUE[3..14]),
    ];
    for leak in leaks {
        let said = Said::default();
        said.text(format!("an error of some length: {leak}"));
        let caught = std::panic::catch_unwind(AssertUnwindSafe(|| said.is_harmless()));
        assert!(caught.is_err(), "{leak}");
    }
}

// === a client that is listened to ===

fn url_of(server: &Server) -> String {
    let address = server.addr();
    format!("redis://{USER}:{}@{address}/", percent_encoded(PASSWORD))
}

/// Fails fast, and tells everything it sees.
fn builder(said: &Said) -> Builder<Redis> {
    let heard = said.clone();
    MultiDbClient::builder()
        .auto_fallback(false)
        .deadline(Duration::from_millis(600))
        .response_timeout(Duration::from_millis(100))
        .health_interval(Duration::from_millis(50))
        .on_event(move |event| heard.thing(event))
}

async fn heard(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    let wait = async {
        loop {
            let event = events.next().await.expect("the client lives");
            if wanted(&event) {
                return event;
            }
        }
    };
    timeout(LIMIT, wait).await.expect("the event comes")
}

/// A start that fails, and everything that is said of it. Ends with a client that goes on trying.
async fn says_of_a_failed_start(builder: impl Fn() -> Builder<Redis>, said: &Said) {
    said.error(&builder().connect().await.expect_err("it cannot start"));
    let client = builder().connect_lazy().unwrap();
    let mut events = client.events();
    said.client(&client);
    said.failure(
        &client
            .connection()
            .set::<_, _, ()>(VALUE, VALUE)
            .await
            .unwrap_err(),
    );
    heard(&mut events, |event| {
        matches!(event, Event::HealthChanged { .. })
    })
    .await;
    said.client(&client);
    client.close().await;
    said.client(&client);
    said.failure(&client.connection().get::<_, ()>(VALUE).await.unwrap_err());
}

const LIMIT: Duration = Duration::from_secs(20);

// === the tests ===

#[test]
fn descriptions_hold_no_credentials() {
    let said = Said::default();
    let url = format!("redis://{USER}:{}@127.0.0.1:1/", percent_encoded(PASSWORD));
    let endpoint = RedisEndpoint::parse(&url).unwrap();
    said.debug(&endpoint);
    said.text(endpoint.name());
    let database = Database::new("east", endpoint).unwrap();
    said.debug(&database);
    let mut config = RedisConfig::from_toml(&format!("[[databases]]\nurl = '{url}'")).unwrap();
    said.debug(&config);
    config.databases[0].id = Some("east".to_owned());
    said.debug(&config.databases[0]);
    let client = config.builder().unwrap().connect_lazy().unwrap();
    said.client(&client);
    said.debug(&Redis::new(Broken));
    said.is_harmless();
}

#[tokio::test]
async fn a_wrong_password_is_not_repeated() {
    let server = Server::builder()
        .password("another one")
        .start()
        .await
        .unwrap();
    let said = Said::default();
    says_of_a_failed_start(|| builder(&said).url(url_of(&server), 1.0), &said).await;
    let told = said.everything();
    assert!(told.contains("credentials refused"), "{told}");
    said.is_harmless();
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_described_without_its_credentials() {
    let server = Server::start().await.unwrap();
    server.kill();
    let said = Said::default();
    says_of_a_failed_start(|| builder(&said).url(url_of(&server), 1.0), &said).await;
    assert!(said.everything().contains("connection refused"));
    said.is_harmless();
}

/// What a resolver, a proxy or a TLS library puts into its errors is not ours to pass on.
#[tokio::test]
async fn a_transport_that_fails_with_the_url_in_its_error_is_not_quoted() {
    let said = Said::default();
    let url = format!("redis://{USER}:{}@127.0.0.1:1/", percent_encoded(PASSWORD));
    says_of_a_failed_start(|| builder(&said).connector(Broken).url(&url, 1.0), &said).await;
    said.is_harmless();
}

struct Broken;

impl Connector for Broken {
    fn connect<'a>(
        &'a self,
        _: &'a RedisEndpoint,
        _: &'a Wiring,
    ) -> BoxFuture<'a, io::Result<Box<dyn Transport>>> {
        let text = format!("failed to lookup {USER}:{PASSWORD}: Name or service not known");
        Box::pin(ready(Err(io::Error::other(text))))
    }
}

/// A peer that answers whatever it reads as `answer` says.
async fn peer(answer: impl Fn(&str) -> String + Clone + Send + 'static) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut sent = vec![0; 1 << 16];
                while let Ok(length @ 1..) = stream.read(&mut sent).await {
                    let answer = answer(&String::from_utf8_lossy(&sent[..length]));
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn commands(sent: &str) -> usize {
    sent.lines().filter(|line| line.starts_with('*')).count()
}

/// Naive: the code of an error is taken to be one of the server's own.
#[tokio::test]
async fn a_probe_that_is_answered_with_a_secret_does_not_quote_it() {
    let said = Said::default();
    for secret in [VALUE, PASSWORD] {
        let address = peer(move |sent| match sent.contains("PING") {
            true => format!("-{secret} {secret}\r\n"),
            false => "+OK\r\n".repeat(commands(sent)),
        })
        .await;
        let url = format!("redis://{address}/?protocol=resp2");
        says_of_a_failed_start(|| builder(&said).url(&url, 1.0), &said).await;
    }
    said.is_harmless();
}

/// Naive: the greeting's error is passed on as it came.
#[tokio::test]
async fn a_peer_that_repeats_what_it_was_sent_is_not_quoted() {
    let answers = [
        format!("-WRONGPASS no user {USER} with {PASSWORD}\r\n"),
        format!("-ERR invalid password '{PASSWORD}'\r\n"),
        format!("-{USER} is not known here\r\n"),
        format!("-{PASSWORD}\r\n"),
        format!("-NOAUTH {PASSWORD}\r\n"),
        format!("HTTP/1.1 400 Bad Request: AUTH {USER} {PASSWORD}\r\n\r\n"),
        format!("{VALUE}\r\n"),
        format!("+{VALUE}\r\n"),
        format!(":{VALUE}\r\n"),
        format!("${VALUE}\r\n"),
        format!("$5\r\n{VALUE}\r\n"),
        format!("*2\r\n+{VALUE}\r\n-ERR {VALUE}\r\n"),
        format!("%1\r\n+{VALUE}\r\n#{VALUE}\r\n"),
        format!(",{VALUE}\r\n"),
        format!("({VALUE}\r\n"),
        format!("=15\r\n{VALUE}\r\n"),
    ];
    let said = Said::default();
    let with_password = format!("{USER}:{}@", percent_encoded(PASSWORD));
    for (protocol, credentials) in [
        ("resp2", ""),
        ("resp2", &with_password),
        ("resp3", &with_password),
    ] {
        let mut waiting = Vec::new();
        for answer in &answers {
            let answer = answer.clone();
            let address = peer(move |sent| answer.repeat(commands(sent))).await;
            let url = format!("redis://{credentials}{address}/3?protocol={protocol}");
            let said = said.clone();
            waiting.push(async move {
                let builder = || builder(&said).url(&url, 1.0);
                match builder().connect().await {
                    Err(error) => said.error(&error),
                    // A peer may well take any credentials and then talk nonsense.
                    Ok(client) => {
                        nonsense(&client, &said).await;
                        client.close().await;
                    }
                }
                let client = builder().connect_lazy().unwrap();
                nonsense(&client, &said).await;
                client.close().await;
            });
        }
        futures_util::future::join_all(waiting).await;
    }
    said.is_harmless();
}

/// Calls whose replies are whatever the peer says; replies are the caller's, errors of ours are not.
async fn nonsense(client: &MultiDbClient<Redis>, said: &Said) {
    let mut con = client.connection();
    let single: RedisResult<redis::Value> = cmd("GET").arg(VALUE).query_async(&mut con).await;
    let mut batch = pipe();
    batch.set(VALUE, VALUE).get(VALUE);
    let plain: RedisResult<redis::Value> = batch.query_async(&mut con).await;
    let atomic: RedisResult<redis::Value> = batch.atomic().query_async(&mut con).await;
    let popped: RedisResult<redis::Value> = con.blpop(VALUE, 0.05).await;
    for result in [single, plain, atomic, popped] {
        if let Some(error) = result.as_ref().err().and_then(from_redis) {
            said.error(&error);
            said.thing(result.as_ref().unwrap_err());
        }
    }
    said.client(client);
}

/// Naive: the cause of a failover quotes the error reply that led to it.
#[tokio::test]
async fn errors_of_a_running_server_that_hold_values_reach_nobody_but_their_caller() {
    let said = Said::default();
    let (east, west) = (
        Server::start().await.unwrap(),
        Server::start().await.unwrap(),
    );
    let client = builder(&said)
        .response_timeout(Duration::from_secs(5))
        .url(east.url(), 1.0)
        .url(west.url(), 0.5)
        .connect()
        .await
        .unwrap();
    let mut con = client.connection();
    let _: () = con.set(VALUE, VALUE).await.unwrap();
    // The reply itself, and the driver's typed conversion of it, are the caller's own.
    let conversion = con.get::<_, i32>(VALUE).await.unwrap_err();
    assert!(from_redis(&conversion).is_none());
    let wrong = con.lpush::<_, _, ()>(VALUE, VALUE).await.unwrap_err();
    assert!(from_redis(&wrong).is_none());

    let mut events = client.events();
    east.refuse_writes(Some(&format!("NOREPLICAS {VALUE}")));
    let deadline = Instant::now() + LIMIT;
    while client.snapshot().generation == 1 {
        let _ = con.set::<_, _, ()>(VALUE, VALUE).await;
        let _ = pipe().atomic().set(VALUE, VALUE).exec_async(&mut con).await;
        assert!(Instant::now() < deadline, "it stays where it is refused");
    }
    let switch = heard(&mut events, |event| {
        matches!(event, Event::ActiveChanged { .. })
    });
    said.thing(&switch.await);
    said.client(&client);
    assert!(said.everything().contains("NOREPLICAS"));

    // Both at once, so that what cannot be repeated fails.
    west.refuse_writes(Some(&format!("MISCONF {VALUE}")));
    for _ in 0..5 {
        let _ = con.set::<_, _, ()>(VALUE, VALUE).await;
    }
    said.client(&client);
    west.refuse_writes(Some(&format!("{VALUE} {VALUE}")));
    let _ = con.set::<_, _, ()>(VALUE, VALUE).await;
    said.client(&client);
    client.close().await;
    said.client(&client);
    said.is_harmless();
}

#[tokio::test]
async fn calls_that_fail_do_not_repeat_what_they_carried() {
    let said = Said::default();
    let server = Server::start().await.unwrap();
    let client = builder(&said)
        .url(server.url(), 1.0)
        .connect()
        .await
        .unwrap();
    let con = client.connection();
    refused(con.clone(), &said).await;
    server.hang();
    fail(con.clone(), &said).await;
    server.resume();
    serves(&con).await;
    server.lose_replies(true);
    fail(con.clone(), &said).await;
    server.lose_replies(false);
    serves(&con).await;
    server.cut_after(2);
    let mut cut = con.clone();
    said.failure(&cut.set::<_, _, ()>(VALUE, VALUE).await.unwrap_err());
    server.kill();
    fail(con.clone(), &said).await;
    client.close().await;
    fail(con, &said).await;
    said.is_harmless();
}

async fn refused(mut con: MultiDbConnection, said: &Said) {
    said.failure(
        &cmd("AUTH")
            .arg(USER)
            .arg(PASSWORD)
            .exec_async(&mut con)
            .await
            .unwrap_err(),
    );
    said.failure(
        &cmd("CLIENT")
            .arg("SETNAME")
            .arg(VALUE)
            .exec_async(&mut con)
            .await
            .unwrap_err(),
    );
    let mut batch = pipe();
    batch
        .set(VALUE, VALUE)
        .cmd("HELLO")
        .arg(3)
        .arg("AUTH")
        .arg(USER)
        .arg(PASSWORD);
    said.failure(&batch.exec_async(&mut con).await.unwrap_err());
}

/// Every kind of call, on a database that answers none.
async fn fail(mut con: MultiDbConnection, said: &Said) {
    said.failure(&con.set::<_, _, ()>(VALUE, VALUE).await.unwrap_err());
    said.failure(
        &pipe()
            .set(VALUE, VALUE)
            .exec_async(&mut con)
            .await
            .unwrap_err(),
    );
    said.failure(
        &pipe()
            .atomic()
            .set(VALUE, VALUE)
            .exec_async(&mut con)
            .await
            .unwrap_err(),
    );
    said.failure(&con.blpop::<_, ()>(VALUE, 0.05).await.unwrap_err());
    said.failure(
        &cmd("WATCH")
            .arg(VALUE)
            .exec_async(&mut con)
            .await
            .unwrap_err(),
    );
}

async fn serves(con: &MultiDbConnection) {
    let deadline = Instant::now() + LIMIT;
    while con.clone().get::<_, Option<String>>("key").await.is_err() {
        assert!(Instant::now() < deadline, "it does not recover");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Naive: what the check panicked with is put into the fault.
#[tokio::test]
async fn a_check_that_panics_with_a_secret_does_not_publish_it() {
    struct Careless;
    impl HealthCheck<Redis> for Careless {
        fn name(&self) -> &str {
            "careless"
        }

        fn check<'a>(
            &'a self,
            _: &'a Database<RedisEndpoint>,
            handle: &'a RedisHandle,
        ) -> BoxFuture<'a, Verdict> {
            // Resumed, not raised: the test's own output is not under test.
            let text = format!("{handle:?} {PASSWORD}");
            async { std::panic::resume_unwind(Box::new(text)) }.boxed()
        }
    }
    let server = Server::start().await.unwrap();
    let said = Said::default();
    let start = || builder(&said).url(server.url(), 1.0).health_check(Careless);
    says_of_a_failed_start(start, &said).await;
    let told = said.everything();
    assert!(told.contains("careless: the check panicked"), "{told}");
    said.is_harmless();
}

#[tokio::test]
async fn orders_that_fail_name_the_database_and_nothing_else() {
    let said = Said::default();
    let server = Server::start().await.unwrap();
    let client = builder(&said)
        .url(server.url(), 1.0)
        .connect()
        .await
        .unwrap();
    let strict = Server::builder()
        .password("another one")
        .start()
        .await
        .unwrap();
    let endpoint = RedisEndpoint::parse(&url_of(&strict)).unwrap();
    let database = || Database::new("strict", endpoint.clone()).unwrap();
    said.error(&client.add_verified(database()).await.unwrap_err());
    client.add(database()).await.unwrap();
    said.error(&client.add(database()).await.unwrap_err());
    said.error(&client.switch_to("strict").await.unwrap_err());
    said.error(&client.set_weight("strict", f64::NAN).await.unwrap_err());
    said.error(&client.switch_to("nobody").await.unwrap_err());
    said.client(&client);
    client.close().await;
    said.is_harmless();
}

/// What may stand before and after a secret in a file or URL that somebody got wrong.
#[test]
fn a_configuration_that_is_wrong_does_not_repeat_a_secret() {
    let said = Said::default();
    let awkward = format!("{PASSWORD}\\\"{PASSWORD}`{PASSWORD}', expected {PASSWORD}");
    for secret in [PASSWORD, &awkward] {
        for text in [
            "url = \"@\"",
            "password = \"@\"",
            "[calls]\ndeadline = \"@\"",
            "[calls]\nretry_ratio = \"@\"",
            "sensitivity = \"@\"",
            "sensitivity = { \"@\" = \"1s\" }",
            "[health]\npolicy = \"@\"",
            "[failover]\ndrain = \"@\"",
            "[[databases]]\nurl = \"@\"",
            "[[databases]]\nurl = \"redis://user:@\"",
            "[[databases]]\nurl = \"redis://:@/host\"",
            "[[databases]]\nurl = \"rediss://:@@host\"",
            "[[databases]]\nurl = \"redis://:@@host:port\"",
            "[[databases]]\nurl = \"redis://:@@host/db\"",
            "[[databases]]\nurl = \"redis://h\"\nweight = \"@\"",
            "[[databases]]\nurl = \"redis://h\"\nenabled = \"@\"",
            "[[databases]]\nurl = \"redis://h\"\npass = \"@\"",
            "[[databases]]\nurl = \"redis://h\"\ngrace_period = \"@\"",
            "databases = \"@\"",
            "databases = [\"@\"]",
            "\"redis://:@@host\" = 1.0",
            "\"@\" = 1",
            "url = \"@",
            "url = @",
            "@",
            "[@]",
        ] {
            let text = text.replacen('@', secret, 1);
            wrong(&text, &said);
            let json =
                toml::from_str::<toml::Table>(&text).map(|table| serde_json::to_string(&table));
            if let Ok(Ok(json)) = json {
                wrong(&json, &said);
            }
            wrong(&format!("{{\"url\": \"{secret}\""), &said);
            wrong(&format!("{{\"url\": {secret}}}"), &said);
        }
    }
    said.is_harmless();
}

fn wrong(text: &str, said: &Said) {
    for read in [RedisConfig::from_toml(text), RedisConfig::from_json(text)] {
        match read.and_then(RedisConfig::builder) {
            Err(error) => said.thing(&error),
            // Wrong in the eyes of a reader only: an id, say. Then nobody has complained.
            Ok(_) => said.text("accepted"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_url_that_is_refused_is_repeated(
        scheme in "(redis|rediss|valkey|unix|http|redis\\+unix|)(://|:|)",
        before in "[a-z0-9:/@?#%\\[\\] ]{0,6}",
        after in "[a-z0-9:/@?#%\\[\\] ]{0,12}",
    ) {
        let said = Said::default();
        let url = format!("{scheme}{before}{PASSWORD}{after}");
        match RedisEndpoint::parse(&url) {
            Err(error) => {
                said.thing(&error);
                said.error(&MultiDbClient::open([(&url, 1.0)]).unwrap_err());
                said.is_harmless();
            }
            // As a password, a user or an option it is hidden; as a host or in a path it is none.
            Ok(endpoint) => {
                if endpoint.socket().is_some_and(|path| path.to_string_lossy().contains(PASSWORD)) {
                    return Ok(());
                }
                let userinfo = url.rfind('@').is_some_and(|at| url[..at].contains(PASSWORD));
                if userinfo {
                    said.debug(&endpoint);
                    said.text(endpoint.name());
                    said.is_harmless();
                }
            }
        }
    }
}
