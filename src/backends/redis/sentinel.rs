//! A master behind sentinels: where it is now, and whether it is still there.
//!
//! The sentinels are asked all at once, and the first whose answer proves true is believed: the server
//! that it names says itself that it is a master. A sentinel that has slept through a failover names one
//! that is none any more, or hangs; neither keeps anybody waiting.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, RedisConnectionInfo, Value, cmd};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::connector::{Dialer, HANDSHAKE_CAP, REPLY_CAP};
use super::credentials::greeting;
use super::endpoint::RedisEndpoint;
use super::endpoint::place::{Address, list};
use super::server::{fault, says_master};
use crate::engine::backend::{Fault, FaultKind, Purpose, Wiring};
use crate::engine::error::ConfigError;
use crate::sockets::Metered;

/// Who knows where a master is.
#[derive(Clone)]
pub(crate) struct Sentinels {
    master: String,
    addresses: Vec<Address>,
    info: RedisConnectionInfo,
}

/// What sentinels listen on.
pub(super) const PORT: u16 = 26379;

/// What a sentinel publishes when the master has moved: its name, and the old and the new address.
const SWITCHED: &str = "+switch-master";

/// How often the sentinels are asked besides, should the one that is listened to have gone deaf.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long one of them may take for all that it is asked, and between two attempts to listen.
const PATIENCE: Duration = Duration::from_secs(1);

impl Sentinels {
    pub(super) fn new(master: &str, addresses: Vec<Address>) -> Result<Self, ConfigError> {
        if !master.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem = "names a master by more than visible ASCII";
            return Err(ConfigError::new("url", problem));
        }
        Ok(Self {
            master: master.to_owned(),
            addresses,
            info: RedisConnectionInfo::default(),
        })
    }

    pub(super) fn authenticate(&mut self, user: Option<&str>, password: &str) {
        let mut info = RedisConnectionInfo::default().set_password(password);
        if let Some(user) = user {
            info = info.set_username(user);
        }
        self.info = info;
    }

    #[cfg(feature = "redis-rustls")]
    pub(super) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The endpoint at the master's present address, which has said that it is one.
    ///
    /// # Errors
    /// What the last of those who were asked said. Cancel-safe.
    pub(super) async fn find(
        &self,
        dialer: &Dialer,
        endpoint: &RedisEndpoint,
    ) -> Result<RedisEndpoint, Fault> {
        let mut asked: FuturesUnordered<_> = (self.addresses.iter())
            .map(async |sentinel| {
                let asked = self.ask(dialer, endpoint, sentinel).await;
                let found = asked.and_then(|address| endpoint.at(address));
                let found = found.map_err(|fault| (false, fault))?;
                match is_master(dialer, &found).await {
                    Ok(true) => Ok(found),
                    Ok(false) => Err((true, Fault::new(FaultKind::State, "no master any more"))),
                    Err(fault) => Err((true, fault)),
                }
            })
            .collect();
        // What a server says is more to the point than that somebody else does not answer.
        let mut last = (
            false,
            Fault::new(FaultKind::Unreachable, "no sentinel answers"),
        );
        while let Some(found) = asked.next().await {
            match found {
                Ok(found) => return Ok(found),
                Err(fault) if fault.0 >= last.0 => last = fault,
                Err(_) => {}
            }
        }
        Err(last.1)
    }

    async fn ask(
        &self,
        dialer: &Dialer,
        endpoint: &RedisEndpoint,
        sentinel: &Address,
    ) -> Result<Address, Fault> {
        let sentinel = self.sentinel(endpoint, sentinel)?;
        let mut visit = Visit::to(dialer, &sentinel).await?;
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.master);
        let Value::Array(answer) = visit.ask(&question).await? else {
            let what = "a sentinel does not know the master";
            return Err(Fault::new(FaultKind::Unreachable, what));
        };
        let word = |at: usize| match answer.get(at) {
            Some(Value::BulkString(word)) => std::str::from_utf8(word).ok(),
            _ => None,
        };
        (word(0).zip(word(1)))
            .and_then(|(host, port)| address(host, port))
            .ok_or_else(|| Fault::new(FaultKind::Other, "a sentinel names no address"))
    }

    fn sentinel(
        &self,
        endpoint: &RedisEndpoint,
        address: &Address,
    ) -> Result<RedisEndpoint, Fault> {
        Ok(endpoint.at(address.clone())?.greeted(self.info.clone()))
    }

    /// Ends the connection behind `driver`, to the master at `at`, when another is found to be it.
    ///
    /// A master that is demoted alive ends its clients by itself, as a rule; this is for one that does
    /// not, or that cannot be reached any more.
    pub(super) async fn follow(
        self: Arc<Self>,
        dialer: Dialer,
        endpoint: RedisEndpoint,
        at: Address,
        driver: AbortHandle,
    ) {
        for sentinel in self.addresses.iter().cycle() {
            let listening = async {
                let sentinel = self.sentinel(&endpoint, sentinel).ok()?;
                timeout(PATIENCE, listen(&dialer, &sentinel)).await.ok()?
            };
            let Some(mut pubsub) = listening.await else {
                sleep(PATIENCE).await;
                continue;
            };
            loop {
                let told = timeout(INTERVAL, pubsub.next()).await;
                let found = match &told {
                    Ok(None) => break,
                    Ok(Some(message)) => match self.moved(message.get_payload_bytes()) {
                        Some(address) => self.confirm(&dialer, &endpoint, address).await,
                        None => continue,
                    },
                    Err(_) => timeout(PATIENCE, self.find(&dialer, &endpoint)).await.ok(),
                };
                if let Some(Ok(found)) = found
                    && found.address() != Some(&at)
                {
                    driver.abort();
                    return;
                }
            }
        }
    }

    /// Where the master is now, if a message is about ours.
    fn moved(&self, message: &[u8]) -> Option<Address> {
        let message = std::str::from_utf8(message).ok()?;
        let words: Vec<_> = message.split(' ').collect();
        match words[..] {
            [master, _, _, host, port] if master == self.master => address(host, port),
            _ => None,
        }
    }

    async fn confirm(
        &self,
        dialer: &Dialer,
        endpoint: &RedisEndpoint,
        address: Address,
    ) -> Option<Result<RedisEndpoint, Fault>> {
        let found = endpoint.at(address).ok()?;
        let confirmed = timeout(PATIENCE, is_master(dialer, &found)).await;
        matches!(confirmed, Ok(Ok(true))).then_some(Ok(found))
    }
}

/// `master@host:port,host:port`
impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.master, list(&self.addresses))
    }
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A short conversation with a server.
struct Visit {
    con: MultiplexedConnection,
    _driver: AbortOnDropHandle<()>,
}

impl Visit {
    async fn to(dialer: &Dialer, endpoint: &RedisEndpoint) -> Result<Self, Fault> {
        let (info, _) = greeting(endpoint).await?;
        let stream = stream(dialer, endpoint, HANDSHAKE_CAP).await?;
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None);
        let (con, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Self {
            con,
            _driver: driver,
        })
    }

    async fn ask(&mut self, question: &::redis::Cmd) -> Result<Value, Fault> {
        let answer = self.con.send_packed_command(question).await;
        let answer = answer.and_then(Value::extract_error);
        answer.map_err(|error| fault(&error))
    }
}

async fn listen(dialer: &Dialer, sentinel: &RedisEndpoint) -> Option<::redis::aio::PubSubStream> {
    let stream = stream(dialer, sentinel, REPLY_CAP).await.ok()?;
    let pubsub = ::redis::aio::PubSub::new(sentinel.info(), stream).await;
    let (mut sink, messages) = pubsub.ok()?.split();
    sink.subscribe(SWITCHED).await.ok()?;
    Some(messages)
}

async fn stream(dialer: &Dialer, endpoint: &RedisEndpoint, cap: u64) -> Result<Metered, Fault> {
    let wiring = Wiring::new(Purpose::Probe, PATIENCE);
    let cap = Arc::new(AtomicU64::new(cap));
    dialer.transport(endpoint, &wiring, cap).await
}

async fn is_master(dialer: &Dialer, endpoint: &RedisEndpoint) -> Result<bool, Fault> {
    let mut visit = Visit::to(dialer, endpoint).await?;
    match visit.ask(&cmd("ROLE")).await? {
        Value::Array(role) => Ok(says_master(&role)),
        _ => Ok(false),
    }
}

fn address(host: &str, port: &str) -> Option<Address> {
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = host.to_owned();
    (!host.is_empty()).then_some(Address::Tcp { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinels() -> Sentinels {
        let at = Address::Tcp {
            host: "a".to_owned(),
            port: PORT,
        };
        Sentinels::new("main", vec![at]).unwrap()
    }

    #[test]
    fn only_a_complete_message_about_our_master_moves_it() {
        let moved = |text: &str| sentinels().moved(text.as_bytes());
        let to = moved("main 10.0.0.1 6379 10.0.0.2 6380").unwrap();
        assert_eq!(to.to_string(), "10.0.0.2:6380");
        for other in [
            "other 10.0.0.1 6379 10.0.0.2 6380",
            "main 10.0.0.1 6379 10.0.0.2",
            "main 10.0.0.1 6379 10.0.0.2 0",
            "main 10.0.0.1 6379 10.0.0.2 port",
            "main 10.0.0.1 6379  6380",
            "",
        ] {
            assert_eq!(moved(other), None, "{other}");
        }
        assert_eq!(sentinels().moved(b"main a 1 \xff 2"), None);
    }

    #[test]
    fn the_password_of_a_sentinel_is_never_shown() {
        let mut sentinels = sentinels();
        sentinels.authenticate(Some("watcher"), "canary-31c9");
        assert_eq!(format!("{sentinels:?}"), "main@a:26379");
        assert_eq!(sentinels.info.password(), Some("canary-31c9"));
    }
}
