//! What a database is called, how much it is wanted, and what it is for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::config::{self, CallConfig};
use super::error::ConfigError;

/// The user's name for a database. Equality of databases is equality of ids.
///
/// Never holds credentials: an id derived from an endpoint is built from host, port and database
/// number only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatabaseId(Arc<str>);

/// How much a database is wanted: finite and not negative. The highest weight is served from.
///
/// Weight 0 is never chosen automatically; only an operator or a server's directive selects it.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Weight(f64);

/// What a database may be used for, when the members of a client differ in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Role {
    /// Takes reads and writes.
    #[default]
    Primary,
    /// Takes reads only.
    Replica,
}

/// One database of a client: its name, its weight and where it is.
///
/// `E` is the endpoint type of the backend.
#[derive(Clone, Debug)]
pub struct Database<E> {
    pub(crate) id: DatabaseId,
    pub(crate) endpoint: E,
    pub(crate) weight: Weight,
    pub(crate) failure_domain: Arc<str>,
    pub(crate) enabled: bool,
    pub(crate) role: Role,
    pub(crate) grace_period: Option<Duration>,
    response_timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
}

// === impl DatabaseId ===

impl DatabaseId {
    /// The longest id accepted, in bytes.
    pub const MAX_LEN: usize = 128;

    /// A name of 1 to [`DatabaseId::MAX_LEN`] bytes without control characters.
    ///
    /// # Errors
    /// [`ConfigError`] for anything else.
    pub fn new(name: impl AsRef<str>) -> Result<Self, ConfigError> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(ConfigError::new("id", "must not be empty"));
        }
        if name.len() > Self::MAX_LEN {
            return Err(ConfigError::new("id", "must not be longer than 128 bytes"));
        }
        if name.chars().any(char::is_control) {
            return Err(ConfigError::new(
                "id",
                "must not contain control characters",
            ));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn to_arc(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for DatabaseId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for DatabaseId {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for DatabaseId {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

// === impl Weight ===

impl Weight {
    /// Never chosen automatically.
    pub const ZERO: Self = Self(0.0);
    /// The default.
    pub const ONE: Self = Self(1.0);

    /// A finite weight of at least 0.
    ///
    /// # Errors
    /// [`ConfigError`] for NaN, an infinity or a negative number.
    pub fn new(weight: f64) -> Result<Self, ConfigError> {
        if weight.is_nan() {
            return Err(ConfigError::new("weight", "must be a number"));
        }
        if weight.is_infinite() {
            return Err(ConfigError::new("weight", "must be finite"));
        }
        if weight < 0.0 {
            return Err(ConfigError::new("weight", "must not be negative"));
        }
        // -0.0 would compare equal to 0.0 and print differently.
        Ok(Self(weight + 0.0))
    }

    /// The weight as a number.
    #[must_use]
    pub fn value(self) -> f64 {
        self.0
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Database ===

impl<E> Database<E> {
    /// A database with weight 1, enabled, in a failure domain of its own.
    ///
    /// # Errors
    /// [`ConfigError`] for an invalid id.
    pub fn new(id: impl AsRef<str>, endpoint: E) -> Result<Self, ConfigError> {
        let id = DatabaseId::new(id)?;
        Ok(Self {
            failure_domain: id.to_arc(),
            id,
            endpoint,
            weight: Weight::ONE,
            enabled: true,
            role: Role::Primary,
            grace_period: None,
            response_timeout: None,
            connect_timeout: None,
        })
    }

    /// Sets the weight. Default 1.
    ///
    /// # Errors
    /// [`ConfigError`] for NaN, an infinity or a negative number.
    pub fn weight(mut self, weight: f64) -> Result<Self, ConfigError> {
        self.weight =
            Weight::new(weight).map_err(|e| e.within(&format!("databases[{}]", self.id)))?;
        Ok(self)
    }

    /// Databases of one failure domain share a circuit: what shows one down shows all down.
    ///
    /// Default: the id, so every database has a circuit of its own.
    ///
    /// # Errors
    /// [`ConfigError`] for an empty name or one longer than [`DatabaseId::MAX_LEN`].
    pub fn failure_domain(mut self, name: impl AsRef<str>) -> Result<Self, ConfigError> {
        self.failure_domain = DatabaseId::new(name)
            .map_err(|e| e.renamed("failure_domain"))?
            .to_arc();
        Ok(self)
    }

    /// A disabled database is watched but never served from. Default: enabled.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// What the database may be used for. Default [`Role::Primary`].
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// How long its circuit stays open at least, instead of the client's `grace_period`.
    #[must_use]
    pub fn grace_period(mut self, grace: Duration) -> Self {
        self.grace_period = Some(grace);
        self
    }

    /// How long an attempt of a call may wait for its reply here, instead of the client's
    /// `calls.response_timeout`: for a database that is far away. A handle that has been given a response
    /// timeout of its own keeps that.
    #[must_use]
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = Some(timeout);
        self
    }

    /// How long a connection may take to be made and greeted, instead of the client's
    /// `calls.connect_timeout`.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    pub(crate) fn response_timeout_or(&self, client: Duration) -> Duration {
        self.response_timeout.unwrap_or(client)
    }

    /// The client's settings, with those of the database in their place.
    pub(crate) fn calls(&self, calls: &CallConfig) -> CallConfig {
        CallConfig {
            response_timeout: self.response_timeout_or(calls.response_timeout),
            connect_timeout: self.connect_timeout.unwrap_or(calls.connect_timeout),
            ..calls.clone()
        }
    }

    /// What the setters could not refuse.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for (field, time) in [
            ("grace_period", self.grace_period),
            ("response_timeout", self.response_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if let Some(time) = time {
                config::duration(field, time, config::TIMES)?;
            }
        }
        Ok(())
    }

    /// The user's name for it.
    #[must_use]
    pub fn id(&self) -> &DatabaseId {
        &self.id
    }

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &E {
        &self.endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_finite_and_not_negative() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1] {
            assert_eq!(Weight::new(bad).unwrap_err().field(), "weight");
        }
        assert_eq!(Weight::new(-0.0).unwrap().to_string(), "0");
        assert_eq!(Weight::new(2.5).unwrap().value(), 2.5);
    }

    #[test]
    fn ids_are_short_printable_names() {
        for bad in ["", "a\nb", &"x".repeat(129)] {
            assert_eq!(DatabaseId::new(bad).unwrap_err().field(), "id");
        }
        assert_eq!(DatabaseId::new("eu-west").unwrap(), "eu-west");
    }

    #[test]
    fn a_bad_weight_names_the_database() {
        let error = Database::new("a", ()).unwrap().weight(-1.0).unwrap_err();
        assert_eq!(error.field(), "databases[a].weight");
    }
}
