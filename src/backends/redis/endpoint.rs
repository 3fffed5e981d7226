//! Where a Redis database is and how to greet it.

use std::fmt;

use ::redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use crate::engine::database::DatabaseId;
use crate::engine::error::ConfigError;

/// Where a Redis database is, who we are there, and which of its databases we want.
///
/// The password is never shown.
#[derive(Clone)]
pub struct RedisEndpoint {
    host: String,
    port: u16,
    info: RedisConnectionInfo,
}

impl RedisEndpoint {
    /// Parses `redis://[user][:password@]host[:port][/db][?protocol=resp3]`.
    ///
    /// # Errors
    /// [`ConfigError`] for the field `url`; it never repeats the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        let wrong = |problem: &str| ConfigError::new("url", problem);
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("redis" | "valkey") => {}
            Some("rediss" | "valkeys") => {
                return Err(wrong("TLS is not supported; use redis://"));
            }
            Some("unix" | "redis+unix" | "valkey+unix") => {
                return Err(wrong("unix sockets are not supported; use redis://"));
            }
            _ => {
                return Err(wrong(
                    "is not of the form redis://[user][:password@]host[:port][/db]",
                ));
            }
        }
        // The driver's message may hold a part of the URL; its category does not.
        let parsed = url
            .into_connection_info()
            .map_err(|error| wrong(&format!("cannot be parsed ({})", error.category())))?;
        let ConnectionAddr::Tcp(host, port) = parsed.addr().clone() else {
            return Err(wrong("does not name a host"));
        };
        if host.is_empty() || port == 0 {
            return Err(wrong("does not name a host and a port"));
        }
        if parsed.redis_settings().db() < 0 {
            return Err(wrong("has a negative database number"));
        }
        let info = parsed
            .redis_settings()
            .clone()
            .set_lib_name("multidb", env!("CARGO_PKG_VERSION"));
        Ok(Self { host, port, info })
    }

    /// `host:port`, with `/db` for a database number other than 0.
    #[must_use]
    pub fn name(&self) -> String {
        let db = self.info.db();
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match db {
            0 => format!("{host}:{}", self.port),
            db => format!("{host}:{}/{db}", self.port),
        }
    }

    /// The name as an id, for a database that has been given none.
    pub(super) fn id(&self) -> Result<DatabaseId, ConfigError> {
        DatabaseId::new(self.name()).map_err(|_| {
            ConfigError::new(
                "url",
                "names a host too long for an id; give the database one",
            )
        })
    }

    /// The host, a name or an address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
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

    pub(crate) fn info(&self) -> &RedisConnectionInfo {
        &self.info
    }
}

impl fmt::Debug for RedisEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisEndpoint")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("db", &self.info.db())
            .field("protocol", &self.info.protocol())
            .field("authenticated", &self.info.password().is_some())
            .finish()
    }
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
        assert_eq!((endpoint.db(), endpoint.port()), (3, 7000));
        assert_eq!(endpoint.protocol(), ProtocolVersion::RESP3);
        assert!(!format!("{endpoint:?}").contains(SECRET));
    }

    #[test]
    fn an_ipv6_host_keeps_its_brackets() {
        let endpoint = RedisEndpoint::parse("redis://[::1]:6380").unwrap();
        assert_eq!(endpoint.name(), "[::1]:6380");
    }

    #[test]
    fn what_cannot_work_is_refused_without_repeating_it() {
        for scheme in ["rediss", "unix", "http", "valkeys"] {
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
        ] {
            let error = RedisEndpoint::parse(url).unwrap_err();
            assert_eq!(error.field(), "url", "{url}");
        }
    }
}
