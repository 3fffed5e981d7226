//! Where a Redis database is and how to greet it.

pub(super) mod place;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ::redis::{IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use self::place::{Address, Place};
use super::cluster::Seeds;
use super::credentials::{CredentialsProvider, Provider};
use super::sentinel::{self, Sentinels};
use crate::engine::backend::Fault;
#[cfg(feature = "redis-rustls")]
use crate::engine::backend::FaultKind;
use crate::engine::database::DatabaseId;
use crate::engine::error::ConfigError;

#[cfg(feature = "redis-rustls")]
use crate::sockets::{Tls, TlsConfig};

/// Where a Redis database is, who we are there, and which of its databases we want.
///
/// The password is never shown.
#[derive(Clone)]
pub struct RedisEndpoint {
    place: Place,
    /// What an address is greeted with before Redis is.
    #[cfg(feature = "redis-rustls")]
    tls: Option<Tls>,
    provider: Option<Provider>,
    client_name: Option<String>,
    info: RedisConnectionInfo,
}

/// What servers listen on.
const PORT: u16 = 6379;

impl RedisEndpoint {
    /// Parses a URL as redis-rs does:
    ///
    /// * `redis://[user][:password@]host[:port][/db][?protocol=resp3]`, also `valkey://`;
    /// * `rediss://…[#insecure]`, also `valkeys://`: the same by TLS, with the feature `redis-rustls`; see
    ///   `tls` for what is trusted. With `#insecure` any certificate is;
    /// * `unix:///path[?db=1][&user=user][&pass=password][&protocol=resp3]`, also `redis+unix://` and
    ///   `valkey+unix://`, on Unix;
    /// * `redis-sentinel://[user][:password@]host[:port][,host[:port]]…[/db][?protocol=resp3]#master`, also
    ///   `valkey-sentinel://`: the master of this name, wherever the sentinels at these hosts (port 26379)
    ///   say that it is. `rediss-sentinel://` and `valkeys-sentinel://` reach both by TLS. User and password
    ///   are those of the master; see [`RedisEndpoint::sentinel_credentials`];
    /// * `redis-cluster://[user][:password@]host[:port][,host[:port]]…[/0][?protocol=resp3]`, also
    ///   `valkey-cluster://`: the cluster that these nodes belong to; one that answers is enough.
    ///   `rediss-cluster://…[#insecure]` and `valkeys-cluster://` reach all of its nodes by TLS.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `url`; it never repeats the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        match url.split_once("://") {
            Some(("redis" | "valkey", _)) => Self::plain(url),
            Some(("rediss" | "valkeys", rest)) => Self::secure(rest),
            Some(("redis-sentinel" | "valkey-sentinel", rest)) => Self::watched(rest),
            Some(("rediss-sentinel" | "valkeys-sentinel", rest)) => {
                Self::watched(rest)?.over_tls(false)
            }
            Some(("redis-cluster" | "valkey-cluster", rest)) => Self::cluster(rest),
            Some(("rediss-cluster" | "valkeys-cluster", rest)) => {
                let (rest, insecure) = insecure(rest)?;
                Self::cluster(rest)?.over_tls(insecure)
            }
            Some(("unix" | "redis+unix" | "valkey+unix", _)) if cfg!(unix) => Self::plain(url),
            Some(("unix" | "redis+unix" | "valkey+unix", _)) => {
                Err(wrong("names a unix socket, which this platform has not"))
            }
            _ => Err(wrong(
                "is not of the form redis://[user][:password@]host[:port][/db]",
            )),
        }
    }

    fn plain(url: &str) -> Result<Self, ConfigError> {
        // The driver's message may hold a part of the URL; its category does not.
        let parsed = url
            .into_connection_info()
            .map_err(|error| wrong(&format!("cannot be parsed ({})", error.category())))?;
        if parsed.redis_settings().db() < 0 {
            return Err(wrong("has a negative database number"));
        }
        let info = parsed
            .redis_settings()
            .clone()
            .set_lib_name("multidb", env!("CARGO_PKG_VERSION"));
        let address = Address::of(parsed.addr())?;
        Ok(Self {
            place: Place::At(address),
            #[cfg(feature = "redis-rustls")]
            tls: None,
            provider: None,
            client_name: None,
            info,
        })
    }

    /// The driver knows `rediss://` only with a TLS of its own, so the scheme and the fragment are ours.
    fn secure(rest: &str) -> Result<Self, ConfigError> {
        let (rest, insecure) = insecure(rest)?;
        Self::plain(&format!("redis://{rest}"))?.over_tls(insecure)
    }

    #[cfg(feature = "redis-rustls")]
    fn over_tls(mut self, insecure: bool) -> Result<Self, ConfigError> {
        let config = match insecure {
            true => TlsConfig::new().danger_accept_invalid_certs(),
            false => TlsConfig::new(),
        };
        self.tls = Some(Tls::new(self.some_host(), config)?);
        Ok(self)
    }

    #[cfg(not(feature = "redis-rustls"))]
    fn over_tls(self, _: bool) -> Result<Self, ConfigError> {
        Err(wrong(
            "asks for TLS, which needs the feature `redis-rustls`",
        ))
    }

    /// A host of the URL, to begin with.
    #[cfg(feature = "redis-rustls")]
    fn some_host(&self) -> &str {
        let address = match &self.place {
            Place::At(address) => Some(address),
            Place::Sentinel(sentinels) => sentinels.addresses().first(),
            Place::Cluster(seeds) => seeds.given().first(),
        };
        match address {
            Some(Address::Tcp { host, .. }) => host,
            Some(Address::Unix(_)) | None => "",
        }
    }

    /// By sentinels.
    fn watched(rest: &str) -> Result<Self, ConfigError> {
        let (rest, master) = match rest.split_once('#') {
            Some((rest, master)) if !master.is_empty() => (rest, master),
            _ => return Err(wrong("does not end in # and the name of a master")),
        };
        let (mut endpoint, addresses) = Self::across(rest, sentinel::PORT)?;
        endpoint.place = Place::Sentinel(Arc::new(Sentinels::new(master, addresses)?));
        Ok(endpoint)
    }

    /// A cluster, by some of its nodes.
    fn cluster(rest: &str) -> Result<Self, ConfigError> {
        let (mut endpoint, addresses) = Self::across(rest, PORT)?;
        if endpoint.db() != 0 {
            return Err(wrong(
                "names a database number, of which a cluster has only 0",
            ));
        }
        endpoint.place = Place::Cluster(Arc::new(Seeds::new(addresses)));
        Ok(endpoint)
    }

    /// A URL without its scheme that names several hosts, and their addresses.
    fn across(rest: &str, default_port: u16) -> Result<(Self, Vec<Address>), ConfigError> {
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let mut described = None;
        let mut addresses = Vec::new();
        for host in hosts.split(',') {
            // An IPv6 address stands in brackets.
            let named = host.rsplit(']').next().unwrap_or_default();
            let port = match named.contains(':') {
                true => String::new(),
                false => format!(":{default_port}"),
            };
            let endpoint = Self::plain(&format!("redis://{user}{host}{port}{tail}"))?;
            addresses.extend(endpoint.address().cloned());
            described.get_or_insert(endpoint);
        }
        let endpoint = described.ok_or_else(|| wrong("does not name a host and a port"))?;
        Ok((endpoint, addresses))
    }

    /// What the sentinels of a `redis-sentinel://` URL are greeted with. Default: nothing.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `sentinel_credentials`, of another URL.
    pub fn sentinel_credentials(
        mut self,
        user: Option<&str>,
        password: &str,
    ) -> Result<Self, ConfigError> {
        let Place::Sentinel(sentinels) = &mut self.place else {
            let problem = "needs a redis-sentinel:// URL";
            return Err(ConfigError::new("sentinel_credentials", problem));
        };
        Arc::make_mut(sentinels).authenticate(user, password);
        Ok(self)
    }

    /// The same, at this address: where it has been found to lead.
    pub(super) fn at(&self, address: Address) -> Result<Self, Fault> {
        #[cfg(feature = "redis-rustls")]
        let tls = match (&self.tls, &address) {
            (Some(tls), Address::Tcp { host, .. }) => Some(tls.at(host).map_err(|_| {
                Fault::new(FaultKind::Denied, "at a host that no certificate can name")
            })?),
            (_, _) => None,
        };
        Ok(Self {
            place: Place::At(address),
            #[cfg(feature = "redis-rustls")]
            tls,
            ..self.clone()
        })
    }

    /// The same, greeted as by another client.
    pub(super) fn greeted(mut self, info: RedisConnectionInfo) -> Self {
        self.provider = None;
        self.client_name = None;
        self.info = info;
        self
    }

    /// Whom to trust and who we are, instead of the defaults. What the URL says by `#insecure` stays.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `tls`: of a URL that asks for no TLS, or on a system that trusts
    /// nobody, see [`TlsConfig::ca_pem`].
    #[cfg(feature = "redis-rustls")]
    pub fn tls(mut self, config: TlsConfig) -> Result<Self, ConfigError> {
        let Some(tls) = &self.tls else {
            return Err(ConfigError::new("tls", "needs a rediss:// URL"));
        };
        let config = match tls.is_insecure() {
            true => config.danger_accept_invalid_certs(),
            false => config,
        };
        self.tls = Some(Tls::new(self.some_host(), config)?);
        self.ready()
    }

    /// With everything loaded that it takes to connect. An endpoint that is not asked for this loads it
    /// when it first connects.
    pub(super) fn ready(self) -> Result<Self, ConfigError> {
        #[cfg(feature = "redis-rustls")]
        if let Some(tls) = &self.tls {
            tls.client()?;
        }
        Ok(self)
    }

    #[cfg(feature = "redis-rustls")]
    pub(super) fn security(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// `host:port`, with `/db` for a database number other than 0; of a socket its path, with `?db=`; behind
    /// sentinels `master@host:port,host:port`, of a cluster `host:port,host:port` as given.
    #[must_use]
    pub fn name(&self) -> String {
        let place = self.place.name();
        match (self.address(), self.info.db()) {
            (_, 0) => place,
            (Some(Address::Unix(_)), db) => format!("{place}?db={db}"),
            (_, db) => format!("{place}/{db}"),
        }
    }

    /// The name as an id, for a database that has been given none.
    pub(super) fn id(&self) -> Result<DatabaseId, ConfigError> {
        DatabaseId::new(self.name()).map_err(|_| {
            wrong("names a host or a socket that is no id (1 to 128 bytes, no control characters); give the database one")
        })
    }

    /// The host, a name or an address; none of a unix socket, nor where there are several.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match self.address()? {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) => None,
        }
    }

    /// The TCP port, 6379 by default; none where there is no [`RedisEndpoint::host`].
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self.address()? {
            Address::Tcp { port, .. } => Some(*port),
            Address::Unix(_) => None,
        }
    }

    /// The path of a unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        match self.address()? {
            Address::Tcp { .. } => None,
            Address::Unix(path) => Some(path),
        }
    }

    /// The database number.
    #[must_use]
    pub fn db(&self) -> i64 {
        self.info.db()
    }

    /// RESP2 or RESP3.
    #[must_use]
    pub fn protocol(&self) -> ProtocolVersion {
        self.info.protocol()
    }

    /// Asks this provider who we are, for every connection, in place of what the URL says.
    #[must_use]
    pub fn credentials(mut self, provider: impl CredentialsProvider) -> Self {
        self.provider = Some(Provider::new(provider));
        self
    }

    /// What connections for commands call themselves (`CLIENT SETNAME`), to be seen in `CLIENT LIST`.
    ///
    /// # Errors
    /// [`ConfigError`] for a name that Redis does not take: empty, or with anything but visible ASCII.
    pub fn client_name(mut self, name: impl Into<String>) -> Result<Self, ConfigError> {
        let name = name.into();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let problem = "must be visible ASCII without spaces";
            return Err(ConfigError::new("client_name", problem));
        }
        self.client_name = Some(name);
        Ok(self)
    }

    /// In place of what the URL says.
    pub(super) fn with_user(mut self, user: Option<&str>, password: Option<&str>) -> Self {
        if let Some(user) = user {
            self.info = self.info.set_username(user);
        }
        if let Some(password) = password {
            self.info = self.info.set_password(password);
        }
        self
    }

    pub(super) fn provider(&self) -> Option<&Provider> {
        self.provider.as_ref()
    }

    pub(super) fn name_for_clients(&self) -> Option<&str> {
        self.client_name.as_deref()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn address(&self) -> Option<&Address> {
        self.place.address()
    }

    pub(crate) fn info(&self) -> &RedisConnectionInfo {
        &self.info
    }
}

impl fmt::Debug for RedisEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RedisEndpoint");
        shown.field("place", &self.place);
        #[cfg(feature = "redis-rustls")]
        shown.field("tls", &self.tls);
        shown
            .field("db", &self.info.db())
            .field("protocol", &self.info.protocol())
            .field(
                "authenticated",
                &(self.info.password().is_some() || self.provider.is_some()),
            )
            .finish()
    }
}

/// What stands before the fragment, and whether that takes any certificate.
fn insecure(rest: &str) -> Result<(&str, bool), ConfigError> {
    match rest.split_once('#') {
        None => Ok((rest, false)),
        Some((rest, "insecure")) => Ok((rest, true)),
        Some(_) => Err(wrong("ends in a # other than #insecure")),
    }
}

fn wrong(problem: &str) -> ConfigError {
    ConfigError::new("url", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "canary-7f3a";

    #[test]
    fn a_url_is_taken_apart_and_its_password_never_shown() {
        let url = format!("redis://bob:{SECRET}@db.example:7000/3?protocol=resp3");
        let endpoint = RedisEndpoint::parse(&url).unwrap();
        assert_eq!(endpoint.name(), "db.example:7000/3");
        assert_eq!((endpoint.db(), endpoint.port()), (3, Some(7000)));
        assert_eq!(endpoint.protocol(), ProtocolVersion::RESP3);
        assert!(!format!("{endpoint:?}").contains(SECRET));
    }

    #[test]
    fn an_ipv6_host_keeps_its_brackets() {
        let endpoint = RedisEndpoint::parse("redis://[::1]:6380").unwrap();
        assert_eq!(endpoint.name(), "[::1]:6380");
    }

    #[cfg(unix)]
    #[test]
    fn a_socket_is_named_by_its_path_and_its_password_never_shown() {
        for scheme in ["unix", "redis+unix", "valkey+unix"] {
            let url = format!("{scheme}:///run/a%20b.sock?db=2&user=bob&pass={SECRET}&protocol=3");
            let endpoint = RedisEndpoint::parse(&url).unwrap();
            assert_eq!(endpoint.name(), "/run/a b.sock?db=2");
            assert_eq!(endpoint.socket(), Some(Path::new("/run/a b.sock")));
            assert_eq!((endpoint.host(), endpoint.port()), (None, None));
            assert_eq!(endpoint.info().username(), Some("bob"));
            assert_eq!(endpoint.info().password(), Some(SECRET));
            assert_eq!(endpoint.protocol(), ProtocolVersion::RESP3);
            assert!(!format!("{endpoint:?}").contains(SECRET));
        }
        let plain = RedisEndpoint::parse("unix:///run/redis.sock").unwrap();
        assert_eq!(plain.name(), "/run/redis.sock");
        assert_eq!(plain.id().unwrap(), *"/run/redis.sock");
    }

    #[test]
    fn sentinels_are_named_with_their_master_and_the_password_never_shown() {
        for scheme in ["redis-sentinel", "valkey-sentinel"] {
            let url = format!("{scheme}://bob:{SECRET}@a,b:7000,[::1]/3?protocol=resp3#main");
            let endpoint = RedisEndpoint::parse(&url).unwrap();
            assert_eq!(endpoint.name(), "main@a:26379,b:7000,[::1]:26379/3");
            assert_eq!((endpoint.host(), endpoint.port()), (None, None));
            assert_eq!(endpoint.info().username(), Some("bob"));
            assert_eq!(endpoint.info().password(), Some(SECRET));
            assert_eq!(endpoint.protocol(), ProtocolVersion::RESP3);
            assert!(!format!("{endpoint:?}").contains(SECRET));
            let endpoint = endpoint.sentinel_credentials(None, "of the sentinel");
            assert!(!format!("{endpoint:?}").contains("of the sentinel"));
        }
        let plain = RedisEndpoint::parse("redis://a").unwrap();
        let error = plain.sentinel_credentials(None, SECRET).unwrap_err();
        assert_eq!(error.field(), "sentinel_credentials");
    }

    #[test]
    fn a_cluster_is_named_by_the_nodes_that_are_given() {
        let url = format!("redis-cluster://:{SECRET}@a:7000,b?protocol=resp3");
        let endpoint = RedisEndpoint::parse(&url).unwrap();
        assert_eq!(endpoint.name(), "a:7000,b:6379");
        assert_eq!(endpoint.info().password(), Some(SECRET));
        assert!(!format!("{endpoint:?}").contains(SECRET));
    }

    #[cfg(not(feature = "redis-rustls"))]
    #[test]
    fn tls_without_the_feature_is_refused_by_its_name() {
        for scheme in ["rediss", "valkeys", "rediss-sentinel", "valkeys-sentinel"] {
            let url = format!("{scheme}://bob:{SECRET}@host:1/#insecure");
            let error = RedisEndpoint::parse(&url).unwrap_err();
            assert_eq!(error.field(), "url");
            assert!(error.problem().contains("redis-rustls"), "{error}");
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
    }

    #[cfg(feature = "redis-rustls")]
    #[test]
    fn tls_is_asked_for_by_the_scheme_and_made_insecure_by_the_fragment() {
        for scheme in ["rediss", "valkeys"] {
            let parsed = |end: &str| {
                let url = format!("{scheme}://bob:{SECRET}@db.example:7000/3?protocol=3{end}");
                RedisEndpoint::parse(&url)
            };
            let endpoint = parsed("").unwrap();
            assert_eq!(endpoint.name(), "db.example:7000/3");
            assert_eq!(endpoint.info().password(), Some(SECRET));
            assert!(!endpoint.security().unwrap().is_insecure());
            assert!(!format!("{endpoint:?}").contains(SECRET));
            let insecure = parsed("#insecure").unwrap();
            assert!(insecure.security().unwrap().is_insecure());
            let insecure = insecure.tls(TlsConfig::new()).unwrap();
            assert!(insecure.security().unwrap().is_insecure());
            for end in ["#", "#secure", "#insecure#"] {
                let error = parsed(end).unwrap_err();
                assert_eq!(error.field(), "url", "{end}");
                assert!(!error.to_string().contains(SECRET), "{error}");
            }
        }
    }

    #[cfg(feature = "redis-rustls")]
    #[test]
    fn what_is_said_of_tls_does_not_go_unheard_without_it() {
        for url in ["redis://host", "unix:///run/redis.sock"] {
            let plain = RedisEndpoint::parse(url).unwrap();
            assert!(plain.security().is_none());
            assert_eq!(plain.tls(TlsConfig::new()).unwrap_err().field(), "tls");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_without_repeating_it() {
        for scheme in ["unix", "http", "redis+tls"] {
            let url = format!("{scheme}://bob:{SECRET}@host:1/");
            let error = RedisEndpoint::parse(&url).unwrap_err();
            assert_eq!(error.field(), "url");
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
        for url in [
            "",
            "host:6379",
            "redis://",
            "redis://h:99999",
            "redis://h/x",
            "redis://h/-1",
            "unix://",
            "unix:///",
            "unix:///run/redis.sock?db=-1",
            "unix:///run/redis.sock?db=x",
            "redis-sentinel://a:1,b:2",
            "redis-sentinel://a:1,b:2#",
            "redis-sentinel://a:1,b:2#two words",
            "redis-sentinel://a:1,,b:2#main",
            "redis-sentinel://#main",
            "redis-sentinel://a:1/x#main",
            "redis-cluster://",
            "redis-cluster://a:1/3",
            "redis-cluster://a:1,b:x",
        ] {
            let error = RedisEndpoint::parse(url).unwrap_err();
            assert_eq!(error.field(), "url", "{url}");
        }
    }
}
