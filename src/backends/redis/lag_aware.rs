//! Whether Redis Enterprise finds a database available and caught up, by the REST API of its cluster.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Deserialize;

use super::endpoint::RedisEndpoint;
use super::handle::{Redis, RedisHandle};
use crate::engine::backend::{Fault, FaultKind, Verdict};
use crate::engine::config::{self, TIMES};
use crate::engine::database::Database;
use crate::engine::error::ConfigError;
use crate::engine::health::HealthCheck;
use crate::sockets::{Tls, TlsConfig};

mod bdbs;
mod rest;

use bdbs::{Place, Uids};
use rest::{Answer, Base, Client};

/// Asks the REST API of a database's Redis Enterprise cluster whether the database is available and its
/// replication has caught up, see [`LagAware::builder`].
///
/// A database that is not is degraded: the active one is not left for it, a heavier one is not returned to
/// before it has caught up, and in a failover it comes last. So is one that cannot be asked about: the API
/// does not answer, refuses us, or knows no such database. Which it is, is said in the fault.
///
/// The API is asked at `https://{host of the database}:9443`, once for the uid of the database (by its
/// host, among names and addresses, and its port) and then in each look for its availability. Each request
/// has a connection of its own. Redirects are not followed, and no proxy of the environment is asked.
///
/// What is not promised:
///
/// * Available databases may still lack writes: lag is measured by the server, now and then, and "database
///   availability does not guarantee data availability", says its manual.
/// * The lag is that of Active-Active databases. Of any other, servers are reported (8.0.22) to say 503,
///   whatever the tolerance: ask with [`extended(false)`](LagAwareBuilder::extended) there.
/// * 503 is the same for a database that lags and for one that is down; the ping tells.
/// * A database that is reached at a host or port which its cluster does not know, such as an alias or a
///   mapped port, is not found.
///
/// ```no_run
/// use multidb::MultiDbClient;
/// use multidb::redis::{LagAware, TlsConfig};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // A cluster signs its own certificate: one after the other, each cluster's.
/// let tls = TlsConfig::new()
///     .ca_pem(std::fs::read("east-cluster.pem")?)?
///     .ca_pem(std::fs::read("west-cluster.pem")?)?;
/// let lag_aware = LagAware::builder()
///     .basic_auth("monitor@example.com", std::env::var("REST_PASSWORD")?)
///     .tls(tls)
///     .build()?;
/// let client = MultiDbClient::builder()
///     .url("redis://redis-12000.east.example:12000", 1.0)
///     .url("redis://redis-12000.west.example:12000", 0.5)
///     .health_check(lag_aware)
///     .connect()
///     .await?;
/// # client.close().await;
/// # Ok(())
/// # }
/// ```
pub struct LagAware {
    port: u16,
    /// What comes after the path of a database's availability.
    query: String,
    timeout: Duration,
    evicting: bool,
    plain_http: bool,
    /// Of no particular host; each request names its own.
    tls: Tls,
    authorization: Option<HeaderValue>,
    ask: Ask,
    uids: Uids,
}

/// Makes a [`LagAware`].
#[must_use]
pub struct LagAwareBuilder {
    port: u16,
    tolerance: Duration,
    timeout: Duration,
    extended: bool,
    evicting: bool,
    plain_http: bool,
    tls: TlsConfig,
    basic_auth: Option<(String, String)>,
    ask: Ask,
}

type PerDatabase<T> = Arc<dyn Fn(&Database<RedisEndpoint>) -> Option<T> + Send + Sync>;

/// What is asked for anew with each look.
#[derive(Clone, Default)]
struct Ask {
    url: Option<PerDatabase<String>>,
    basic_auth: Option<PerDatabase<(String, String)>>,
}

/// What an answer about availability says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Available,
    /// In the API's own words: the database is not.
    Unavailable(Fault),
    /// Anything else.
    Unclear(Fault),
}

// === impl LagAware ===

impl LagAware {
    /// The defaults: port 9443, a tolerance of 5 s, an answer within 3 s, no credentials, the system's
    /// certificates.
    pub fn builder() -> LagAwareBuilder {
        LagAwareBuilder {
            port: 9443,
            tolerance: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            extended: true,
            evicting: false,
            plain_http: false,
            tls: TlsConfig::new(),
            basic_auth: None,
            ask: Ask::default(),
        }
    }

    /// Cancel-safe: what is learned is kept when an answer is complete.
    async fn look(&self, database: &Database<RedisEndpoint>) -> Result<Said, Fault> {
        let place = self.place(database)?;
        let client = Client {
            base: &place.base,
            tls: &self.tls,
            authorization: self.authorization(database)?,
        };
        let uid = match self.uids.of(&place) {
            Some(uid) => uid,
            None => {
                let uid = uid(&client, &place).await?;
                self.uids.learn(place.clone(), uid);
                uid
            }
        };
        let path = format!("/v1/bdbs/{uid}/availability{}", self.query);
        let answer = client.get(&path).await?;
        if is_outdated(&answer) {
            self.uids.forget(&place);
        }
        Ok(said(&answer))
    }

    fn place(&self, database: &Database<RedisEndpoint>) -> Result<Place, Fault> {
        let other = |what: String| Fault::new(FaultKind::Other, what);
        let endpoint = database.endpoint();
        let (Some(host), Some(port)) = (endpoint.host(), endpoint.port()) else {
            return Err(other("a unix socket has no host to ask about".to_owned()));
        };
        let url = self.ask.url.as_ref().and_then(|url_for| url_for(database));
        let base = match url {
            None => Base::of(host, self.port),
            Some(url) => Base::parse(&url, self.port, self.plain_http)
                .map_err(|problem| other(format!("the URL given for it {problem}")))?,
        };
        Ok(Place {
            id: database.id().clone(),
            host: host.to_owned(),
            port,
            base,
        })
    }

    fn authorization(
        &self,
        database: &Database<RedisEndpoint>,
    ) -> Result<Option<HeaderValue>, Fault> {
        let own = self.ask.basic_auth.as_ref();
        let Some((user, password)) = own.and_then(|auth_for| auth_for(database)) else {
            return Ok(self.authorization.clone());
        };
        let header = rest::basic(&user, &password);
        let unfit = || Fault::new(FaultKind::Denied, "the credentials given for it are unfit");
        header.ok_or_else(unfit).map(Some)
    }
}

impl HealthCheck<Redis> for LagAware {
    fn name(&self) -> &str {
        "lag aware"
    }

    fn check<'a>(
        &'a self,
        database: &'a Database<RedisEndpoint>,
        _: &'a RedisHandle,
    ) -> BoxFuture<'a, Verdict> {
        async {
            let looking = tokio::time::timeout(self.timeout, self.look(database));
            let looked = looking.await.unwrap_or_else(|_| {
                let silent = format!("no answer within {} ms", self.timeout.as_millis());
                Err(Fault::new(FaultKind::Silent, silent))
            });
            let by_api = |Fault { kind, what }| Fault::new(kind, format!("REST API: {what}"));
            match looked {
                Ok(Said::Available) => Verdict::Healthy,
                Ok(Said::Unavailable(fault)) if self.evicting => Verdict::Unhealthy(by_api(fault)),
                Ok(Said::Unavailable(fault) | Said::Unclear(fault)) | Err(fault) => {
                    Verdict::Degraded(by_api(fault))
                }
            }
        }
        .boxed()
    }

    /// The API is another server than the database.
    fn is_advisory(&self) -> bool {
        true
    }
}

impl fmt::Debug for LagAware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LagAware")
            .field("port", &self.port)
            .field("query", &self.query)
            .field("timeout", &self.timeout)
            .field("evicting", &self.evicting)
            .field("plain_http", &self.plain_http)
            .field("tls", &self.tls)
            .field("basic_auth", &self.authorization.is_some())
            .field("ask", &self.ask)
            .finish_non_exhaustive()
    }
}

// === impl LagAwareBuilder ===

impl LagAwareBuilder {
    /// The port of the API. Default 9443, that of Redis Enterprise.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// How far replication may be behind, in whole milliseconds. Default 5 s, which Jedis, Lettuce and
    /// redis-py send; a server that is not told takes 100 ms (`availability_lag_tolerance_ms`), which a
    /// link between continents does not keep.
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Whether lag counts. Default: yes, as in Jedis, Lettuce and redis-py. If not, the API is asked for
    /// availability alone: whether the cluster can serve the database.
    pub fn extended(mut self, extended: bool) -> Self {
        self.extended = extended;
        self
    }

    /// How long a look may take, both requests together. Default 3 s, the default of `health.timeout`,
    /// which ends it as well.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Who asks: a user of the cluster, not of the database, with the permission `view_bdb_info`; the role
    /// `db_viewer` is enough. Default: nobody. The same for every database without an answer of
    /// [`basic_auth_for`](Self::basic_auth_for), so every cluster gets to see it.
    pub fn basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.basic_auth = Some((user.into(), password.into()));
        self
    }

    /// Who asks about this database: user and password, or `None` for those of
    /// [`basic_auth`](Self::basic_auth). Called for each look, so that a password may change; it must not
    /// block.
    pub fn basic_auth_for<F>(mut self, auth_for: F) -> Self
    where
        F: Fn(&Database<RedisEndpoint>) -> Option<(String, String)> + Send + Sync + 'static,
    {
        self.ask.basic_auth = Some(Arc::new(auth_for));
        self
    }

    /// Whom to trust, and which certificate to show to an API that asks for one; as for databases. A server
    /// name holds for every API. Default: what the system trusts.
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = tls;
        self
    }

    /// Where the API of this database is, `https://host[:port][/path]`, or `None` for the host of the
    /// database. Without a port it is that of [`port`](Self::port). Called for each look; it must not
    /// block. A URL that cannot be asked at makes the database degraded.
    pub fn url_for<F>(mut self, url_for: F) -> Self
    where
        F: Fn(&Database<RedisEndpoint>) -> Option<String> + Send + Sync + 'static,
    {
        self.ask.url = Some(Arc::new(url_for));
        self
    }

    /// Lets [`url_for`](Self::url_for) name an `http://` URL, for a proxy on the same host: credentials are
    /// sent as they are, and anybody on the way can answer. Default: it may not.
    pub fn plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// A database that the API says is not available is unhealthy, so that the active one is left. Default:
    /// it is degraded.
    ///
    /// That is an answer 503 whose `error_code` begins with `bdb_`, and nothing else: an API that is silent,
    /// refuses us or has no quorum says nothing about the database. With [`extended`](Self::extended) a
    /// database that serves well is left for its lag, and one that is not Active-Active for good.
    pub fn evicting(mut self) -> Self {
        self.evicting = true;
        self
    }

    /// The check.
    ///
    /// # Errors
    /// [`ConfigError`] for the fields `port` (0), `tolerance` and `timeout` (1 ms to one day), `basic_auth`
    /// (a colon in the user, or control characters), and for `tls` on a system that trusts nobody, see
    /// [`TlsConfig::ca_pem`], unless [`plain_http`](Self::plain_http) may make it needless.
    pub fn build(self) -> Result<LagAware, ConfigError> {
        if self.port == 0 {
            return Err(ConfigError::new("port", "must not be 0"));
        }
        config::duration("tolerance", self.tolerance, TIMES)?;
        config::duration("timeout", self.timeout, TIMES)?;
        let authorization = match &self.basic_auth {
            None => None,
            Some((user, password)) => Some(rest::basic(user, password).ok_or_else(|| {
                let problem = "has a colon in the user, or control characters";
                ConfigError::new("basic_auth", problem)
            })?),
        };
        let tls = Tls::new("localhost", self.tls)?;
        if !self.plain_http {
            tls.client()?;
        }
        let tolerance = self.tolerance.as_millis();
        let query = match self.extended {
            true => format!("?extend_check=lag&availability_lag_tolerance_ms={tolerance}"),
            false => String::new(),
        };
        Ok(LagAware {
            port: self.port,
            query,
            timeout: self.timeout,
            evicting: self.evicting,
            plain_http: self.plain_http,
            tls,
            authorization,
            ask: self.ask,
            uids: Uids::default(),
        })
    }
}

impl fmt::Debug for LagAwareBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LagAwareBuilder")
            .field("port", &self.port)
            .field("tolerance", &self.tolerance)
            .field("timeout", &self.timeout)
            .field("extended", &self.extended)
            .field("evicting", &self.evicting)
            .field("plain_http", &self.plain_http)
            .field("tls", &self.tls)
            .field("basic_auth", &self.basic_auth.is_some())
            .field("ask", &self.ask)
            .finish()
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("url_for", &self.url.is_some())
            .field("basic_auth_for", &self.basic_auth.is_some())
            .finish()
    }
}

// === helpers ===

async fn uid(client: &Client<'_>, place: &Place) -> Result<u64, Fault> {
    // No more fields: without the filter, the list has the databases' passwords.
    let answer = client.get("/v1/bdbs?fields=uid,endpoints").await?;
    if answer.status != StatusCode::OK {
        return Err(refusal(&answer));
    }
    let found = bdbs::find(&answer.body, &place.host, place.port)
        .map_err(|_| Fault::new(FaultKind::Other, "no list of databases in its answer"))?;
    let unknown = "it knows no database at this host and port";
    found.ok_or_else(|| Fault::new(FaultKind::Other, unknown))
}

fn said(answer: &Answer) -> Said {
    match (answer.status, error_code(answer)) {
        (StatusCode::OK, _) => Said::Available,
        (StatusCode::SERVICE_UNAVAILABLE, Some(code)) if code.starts_with("bdb_") => {
            Said::Unavailable(refusal(answer))
        }
        _ => Said::Unclear(refusal(answer)),
    }
}

/// Whether the uid asked about may be one no longer. That a database is down does not make it another.
fn is_outdated(answer: &Answer) -> bool {
    let known = matches!(
        answer.status,
        StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE
    );
    !known || error_code(answer).as_deref() == Some("db_not_found")
}

/// What an answer that is none to the question says.
fn refusal(answer: &Answer) -> Fault {
    let mut status = answer.status.as_u16().to_string();
    if let Some(code) = error_code(answer) {
        status = format!("{status} {code}");
    }
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Fault::new(FaultKind::Denied, format!("credentials refused ({status})"))
        }
        code if code.is_redirection() => {
            let what = format!("a redirect, which is not followed ({status})");
            Fault::new(FaultKind::Other, what)
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            Fault::new(FaultKind::State, format!("not available ({status})"))
        }
        _ => Fault::new(FaultKind::Other, format!("no answer to use ({status})")),
    }
}

/// The API's code for what is wrong, if it looks like one: the body may be anybody's text, too.
fn error_code(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        error_code: String,
    }
    let Problem { error_code: code } = serde_json::from_slice(&answer.body).ok()?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let fits = (1..=MAX_CODE).contains(&code.len()) && code.bytes().all(plain);
    fits.then_some(code)
}

/// The longest code known has 46 bytes.
const MAX_CODE: usize = 64;

#[cfg(test)]
mod tests;
