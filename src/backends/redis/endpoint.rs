//! Where a Redis database is and how to greet it.

use std::fmt;
use std::path::{Path, PathBuf};

use ::redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use super::credentials::{CredentialsProvider, Provider};
use crate::engine::database::DatabaseId;
use crate::engine::error::ConfigError;

#[cfg(feature = "redis-rustls")]
use super::tls::{Tls, TlsConfig};

/// Where a Redis database is, who we are there, and which of its databases we want.
///
/// The password is never shown.
#[derive(Clone)]
pub struct RedisEndpoint {
    address: Address,
    /// What the address is greeted with before Redis is.
    #[cfg(feature = "redis-rustls")]
    tls: Option<Tls>,
    provider: Option<Provider>,
    client_name: Option<String>,
    info: RedisConnectionInfo,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl RedisEndpoint {
    /// Parses a URL as redis-rs does:
    ///
    /// * `redis://[user][:password@]host[:port][/db][?protocol=resp3]`, also `valkey://`;
    /// * `rediss://…[#insecure]`, also `valkeys://`: the same by TLS, with the feature `redis-rustls`; see
    ///   `tls` for what is trusted. With `#insecure` any certificate is;
    /// * `unix:///path[?db=1][&user=user][&pass=password][&protocol=resp3]`, also `redis+unix://` and
    ///   `valkey+unix://`, on Unix.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `url`; it never repeats the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        match url.split_once("://") {
            Some(("redis" | "valkey", _)) => Self::plain(url),
            Some(("rediss" | "valkeys", rest)) => Self::secure(rest),
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
            address,
            #[cfg(feature = "redis-rustls")]
            tls: None,
            provider: None,
            client_name: None,
            info,
        })
    }

    /// The driver knows `rediss://` only with a TLS of its own, so the scheme and the fragment are ours.
    #[cfg(feature = "redis-rustls")]
    fn secure(rest: &str) -> Result<Self, ConfigError> {
        let (rest, config) = match rest.split_once('#') {
            None => (rest, TlsConfig::new()),
            Some((rest, "insecure")) => (rest, TlsConfig::new().danger_accept_invalid_certs()),
            Some(_) => return Err(wrong("ends in a # other than #insecure")),
        };
        let mut endpoint = Self::plain(&format!("redis://{rest}"))?;
        endpoint.tls = Some(Tls::new(endpoint.host().unwrap_or_default(), config)?);
        Ok(endpoint)
    }

    #[cfg(not(feature = "redis-rustls"))]
    fn secure(_: &str) -> Result<Self, ConfigError> {
        Err(wrong(
            "asks for TLS, which needs the feature `redis-rustls`",
        ))
    }

    /// Whom to trust and who we are, instead of the defaults. What the URL says by `#insecure` stays.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `tls`: of a URL that asks for no TLS, or on a system that trusts
    /// nobody, see [`TlsConfig::ca_pem`].
    #[cfg(feature = "redis-rustls")]
    pub fn tls(mut self, config: TlsConfig) -> Result<Self, ConfigError> {
        let (Some(tls), Some(host)) = (&self.tls, self.host()) else {
            return Err(ConfigError::new("tls", "needs a rediss:// URL"));
        };
        let config = match tls.is_insecure() {
            true => config.danger_accept_invalid_certs(),
            false => config,
        };
        self.tls = Some(Tls::new(host, config)?);
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

    /// `host:port`, with `/db` for a database number other than 0; of a socket its path, with `?db=`.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.address, self.info.db()) {
            (Address::Unix(_), 0) | (Address::Tcp { .. }, 0) => self.address.to_string(),
            (Address::Unix(_), db) => format!("{}?db={db}", self.address),
            (Address::Tcp { .. }, db) => format!("{}/{db}", self.address),
        }
    }

    /// The name as an id, for a database that has been given none.
    pub(super) fn id(&self) -> Result<DatabaseId, ConfigError> {
        DatabaseId::new(self.name()).map_err(|_| {
            wrong("names a host or a socket that is no id (1 to 128 bytes, no control characters); give the database one")
        })
    }

    /// The host, a name or an address; none of a unix socket.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp { host, .. } => Some(host),
            Address::Unix(_) => None,
        }
    }

    /// The TCP port, 6379 by default; none of a unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.address {
            Address::Tcp { port, .. } => Some(*port),
            Address::Unix(_) => None,
        }
    }

    /// The path of a unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        match &self.address {
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

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn info(&self) -> &RedisConnectionInfo {
        &self.info
    }
}

impl fmt::Debug for RedisEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RedisEndpoint");
        shown.field("address", &self.address);
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

// === impl Address ===

impl Address {
    fn of(parsed: &ConnectionAddr) -> Result<Self, ConfigError> {
        match parsed {
            ConnectionAddr::Tcp(host, port) if !host.is_empty() && *port != 0 => Ok(Self::Tcp {
                host: host.clone(),
                port: *port,
            }),
            // `unix://` alone names the root.
            ConnectionAddr::Unix(path) if path.file_name().is_some() => {
                Ok(Self::Unix(path.clone()))
            }
            ConnectionAddr::Unix(_) => Err(wrong("does not name a socket")),
            _ => Err(wrong("does not name a host and a port")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
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

    #[cfg(not(feature = "redis-rustls"))]
    #[test]
    fn tls_without_the_feature_is_refused_by_its_name() {
        for scheme in ["rediss", "valkeys"] {
            let url = format!("{scheme}://bob:{SECRET}@host:1/");
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
        ] {
            let error = RedisEndpoint::parse(url).unwrap_err();
            assert_eq!(error.field(), "url", "{url}");
        }
    }
}
