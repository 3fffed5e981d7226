//! A whole client as plain data, to be read from a file.

#[cfg(feature = "serde")]
mod environment;
mod secret;

use std::fmt;
use std::path::PathBuf;

#[cfg(feature = "serde")]
use std::time::Duration;

use super::endpoint::RedisEndpoint;
use super::handle::Redis;
#[cfg(feature = "redis-rustls")]
use super::tls_files::TlsFiles;
use crate::engine::builder::Builder;
use crate::engine::client::MultiDbClient;
use crate::engine::config::{
    CallConfig, CircuitConfig, Config, DetectorConfig, FailoverConfig, HealthConfig, Sensitivity,
    StartConfig,
};
use crate::engine::database::{Database, DatabaseId};
use crate::engine::error::ConfigError;

/// Databases and settings of a client.
///
/// ```toml
/// sensitivity = "fast"
///
/// [calls]
/// deadline = "2s"
///
/// [[databases]]
/// id = "east"
/// url = "redis://east.example:6379"
///
/// [[databases]]
/// url = "redis://west.example:6379"
/// weight = 0.5
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct RedisConfig {
    /// The databases. At least one.
    pub databases: Vec<DatabaseConfig>,
    /// See [`Config::calls`].
    pub calls: CallConfig,
    /// See [`Config::sensitivity`].
    pub sensitivity: Sensitivity,
    /// See [`Config::health`].
    pub health: HealthConfig,
    /// See [`Config::detector`].
    pub detector: DetectorConfig,
    /// See [`Config::circuit`].
    pub circuit: CircuitConfig,
    /// See [`Config::failover`].
    pub failover: FailoverConfig,
    /// See [`Config::start`].
    pub start: StartConfig,
}

/// One database of a [`RedisConfig`].
#[derive(Clone, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct DatabaseConfig {
    /// Its name. Default: [`RedisEndpoint::name`] of the URL.
    pub id: Option<String>,
    /// See [`RedisEndpoint::parse`]. Never shown.
    pub url: String,
    /// Of a `rediss://` URL. Default: the system's certificates are trusted, none is shown.
    #[cfg(feature = "redis-rustls")]
    pub tls: Option<TlsFiles>,
    /// The user, in place of the one of the URL.
    pub user: Option<String>,
    /// The variable of the environment that holds the password, in place of the one of the URL; read when
    /// the builder is made.
    pub password_env: Option<String>,
    /// The file that holds the password, in place of the one of the URL; read for every connection, so
    /// that a rotated password is found.
    pub password_file: Option<PathBuf>,
    /// The user at the sentinels of a `redis-sentinel://` URL.
    pub sentinel_user: Option<String>,
    /// The variable of the environment that holds the password of the sentinels; read when the builder is
    /// made.
    pub sentinel_password_env: Option<String>,
    /// See [`RedisEndpoint::client_name`]. Default: none.
    pub client_name: Option<String>,
    /// Default 1.
    pub weight: Option<f64>,
    /// Default: the id.
    pub failure_domain: Option<String>,
    /// Default true.
    pub enabled: Option<bool>,
    /// Default: `circuit.grace_period`.
    #[cfg(feature = "serde")]
    #[serde(with = "humantime_serde")]
    pub grace_period: Option<Duration>,
    /// Default: `calls.response_timeout`.
    #[cfg(feature = "serde")]
    #[serde(with = "humantime_serde")]
    pub response_timeout: Option<Duration>,
    /// Default: `calls.connect_timeout`.
    #[cfg(feature = "serde")]
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Option<Duration>,
}

impl RedisConfig {
    /// The largest configuration text accepted: 1 MiB.
    #[cfg(feature = "serde")]
    pub const MAX_TEXT: usize = 1 << 20;

    /// Reads TOML.
    ///
    /// # Errors
    /// [`ConfigError`] with the path of the field; values, which may be secrets, are not repeated.
    #[cfg(feature = "serde")]
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        within_size(text)?;
        serde_path_to_error::deserialize(toml::Value::Table(table(text)?))
            .map_err(|error| field_error("toml", error.path(), error.inner().message()))
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// [`ConfigError`] with the path of the field; values, which may be secrets, are not repeated.
    #[cfg(feature = "serde")]
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        within_size(text)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let config = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            match error.inner() {
                // Of the text itself, of which the parser quotes nothing.
                inner if !inner.is_data() => ConfigError::new("json", inner.to_string()),
                inner => field_error("json", error.path(), &inner.to_string()),
            }
        })?;
        let end = deserializer.end();
        end.map_err(|error| ConfigError::new("json", error.to_string()))?;
        Ok(config)
    }

    /// Whether a client can be made of it.
    ///
    /// # Errors
    /// As [`RedisConfig::builder`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.clone().builder().map(drop)
    }

    /// A builder with these databases and settings.
    ///
    /// # Errors
    /// [`ConfigError`] with the path of the first field that cannot work. Reads what `tls`
    /// and passwords need, and nothing else.
    pub fn builder(self) -> Result<Builder<Redis>, ConfigError> {
        let config = Config {
            calls: self.calls,
            sensitivity: self.sensitivity,
            health: self.health,
            detector: self.detector,
            circuit: self.circuit,
            failover: self.failover,
            start: self.start,
        };
        config.validate()?;
        if self.databases.is_empty() {
            return Err(ConfigError::new("databases", "must not be empty"));
        }
        let mut builder = MultiDbClient::builder().config(config);
        for (index, described) in self.databases.iter().enumerate() {
            let place = format!("databases[{index}]");
            let database = described.database().map_err(|e| e.within(&place))?;
            builder = builder.database(database);
        }
        Ok(builder)
    }
}

impl DatabaseConfig {
    fn database(&self) -> Result<Database<RedisEndpoint>, ConfigError> {
        let endpoint = self.endpoint()?.ready()?;
        let id = match &self.id {
            Some(id) => DatabaseId::new(id)?,
            None => endpoint.id()?,
        };
        let mut database = Database::new(id, endpoint)?
            .weight(self.weight.unwrap_or(1.0))
            .map_err(|error| error.renamed("weight"))?
            .enabled(self.enabled.unwrap_or(true));
        if let Some(domain) = &self.failure_domain {
            database = database.failure_domain(domain)?;
        }
        #[cfg(feature = "serde")]
        {
            if let Some(grace) = self.grace_period {
                database = database.grace_period(grace);
            }
            if let Some(timeout) = self.response_timeout {
                database = database.response_timeout(timeout);
            }
            if let Some(timeout) = self.connect_timeout {
                database = database.connect_timeout(timeout);
            }
        }
        Ok(database)
    }

    fn endpoint(&self) -> Result<RedisEndpoint, ConfigError> {
        let mut endpoint = RedisEndpoint::parse(&self.url)?;
        if let Some(name) = &self.client_name {
            endpoint = endpoint.client_name(name)?;
        }
        let password = match (&self.password_env, &self.password_file) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::new(
                    "password_file",
                    "stands beside password_env",
                ));
            }
            (Some(name), None) => Some(secret::variable(name)?),
            (None, _) => None,
        };
        endpoint = endpoint.with_user(self.user.as_deref(), password.as_deref());
        if let Some(path) = &self.password_file {
            let user = endpoint.info().username();
            let file = secret::PasswordFile::new(path, user)?;
            endpoint = endpoint.credentials(file);
        }
        let sentinel_user = self.sentinel_user.as_deref();
        match &self.sentinel_password_env {
            Some(name) => {
                let password = secret::variable(name)
                    .map_err(|error| error.renamed("sentinel_password_env"))?;
                endpoint = endpoint.sentinel_credentials(sentinel_user, &password)?;
            }
            None if sentinel_user.is_some() => {
                let problem = "needs a sentinel_password_env";
                return Err(ConfigError::new("sentinel_user", problem));
            }
            None => {}
        }
        #[cfg(feature = "redis-rustls")]
        if let Some(files) = &self.tls {
            let config = files.load().map_err(|error| error.within("tls"))?;
            return endpoint.tls(config);
        }
        Ok(endpoint)
    }
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("id", &self.id)
            .field("weight", &self.weight)
            .field("failure_domain", &self.failure_domain)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "serde")]
fn within_size(text: &str) -> Result<(), ConfigError> {
    if text.len() <= RedisConfig::MAX_TEXT {
        return Ok(());
    }
    Err(ConfigError::new("text", "is longer than 1 MiB"))
}

#[cfg(feature = "serde")]
fn table(text: &str) -> Result<toml::Table, ConfigError> {
    text.parse::<toml::Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        let problem = format!("{} at line {line}", unquoted(error.message()));
        ConfigError::new("toml", problem)
    })
}

#[cfg(feature = "serde")]
fn field_error(format: &str, path: &serde_path_to_error::Path, message: &str) -> ConfigError {
    // What is no name of a field, such as a URL in the wrong place, is not repeated either.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-[].".contains(c);
    let path = path.to_string();
    let field = match path.as_str() {
        "" | "." => format,
        path if path.chars().all(is_name) => path,
        _ => "unknown field",
    };
    ConfigError::new(field, unquoted(message))
}

/// The parser's message without what it quotes of the text: that may be a password in the wrong place.
///
/// Such as "invalid type: string "secret", expected f64" and "unknown variant `secret`, expected ...".
#[cfg(feature = "serde")]
fn unquoted(message: &str) -> String {
    let (found, expected) = match message.rsplit_once(", expected ") {
        Some((found, expected)) => (found, Some(expected)),
        None => (message, None),
    };
    let found = found.split(['"', '`', '\'']).next().unwrap_or_default();
    match expected {
        Some(expected) => format!("{}, expected {expected}", found.trim_end()),
        None => found.trim_end().to_owned(),
    }
}
