//! Settings from variables of the environment, over those of a file.

use std::ffi::OsString;

use toml::{Table, Value};

use super::{RedisConfig, field_error, table, within_size};
use crate::engine::error::ConfigError;

/// What the names of our variables begin with.
const PREFIX: &str = "MULTIDB_";

impl RedisConfig {
    /// Reads the environment: `MULTIDB_DATABASES__0__URL=redis://east.example:6379`,
    /// `MULTIDB_CALLS__DEADLINE=2s`, `MULTIDB_SENSITIVITY=fast`.
    ///
    /// A name is the path of a field in upper case, with two underscores between its parts. A value is
    /// written as in TOML, where a text needs no quotes: `MULTIDB_FAILOVER__DRAIN={ cancel = "10s" }`.
    ///
    /// # Errors
    /// [`ConfigError`] with the path of the field, also for one that does not exist; values, which may
    /// be secrets, are not repeated.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_toml_and_env("")
    }

    /// Reads TOML, and then the environment, which overrides it: see [`RedisConfig::from_env`].
    ///
    /// # Errors
    /// As [`RedisConfig::from_env`] and [`RedisConfig::from_toml`].
    pub fn from_toml_and_env(text: &str) -> Result<Self, ConfigError> {
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name.strip_prefix(PREFIX)?.to_owned(), value))
        });
        Self::from_toml_and_variables(text, ours)
    }

    /// As [`RedisConfig::from_toml_and_env`] with these variables, named without `MULTIDB_`.
    ///
    /// # Errors
    /// As [`RedisConfig::from_toml_and_env`].
    pub fn from_toml_and_variables(
        text: &str,
        variables: impl IntoIterator<Item = (String, OsString)>,
    ) -> Result<Self, ConfigError> {
        within_size(text)?;
        let mut config = Value::Table(table(text)?);
        // In the order of their names, so that the elements of a list come one after the other.
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort();
        for (name, value) in variables {
            let wrong = |problem| ConfigError::new(format!("{PREFIX}{name}"), problem);
            let value = value.to_str().ok_or_else(|| wrong("is no text"))?;
            let path = name.to_ascii_lowercase();
            let place = place(&mut config, &path).ok_or_else(|| wrong("names no field"))?;
            *place = parse(value);
        }
        serde_path_to_error::deserialize(config)
            .map_err(|error| field_error("environment", error.path(), error.inner().message()))
    }
}

/// Where a field is, made if need be. A number is an element of a list, the next one at most.
fn place<'a>(mut at: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    for part in path.split("__") {
        if part.is_empty() {
            return None;
        }
        let unset = matches!(at, Value::Table(table) if table.is_empty());
        at = match part.parse::<usize>() {
            Ok(index) => {
                if unset {
                    *at = Value::Array(Vec::new());
                }
                let list = at.as_array_mut()?;
                if index == list.len() {
                    list.push(Value::Table(Table::new()));
                }
                list.get_mut(index)?
            }
            Err(_) => {
                let table = at.as_table_mut()?;
                table
                    .entry(part)
                    .or_insert_with(|| Value::Table(Table::new()))
            }
        };
    }
    Some(at)
}

/// A value as TOML has it, or else a text.
fn parse(value: &str) -> Value {
    let one_line = !value.contains(['\n', '\r']);
    let parsed = one_line.then(|| format!("value = {value}").parse::<Table>());
    match parsed
        .and_then(Result::ok)
        .and_then(|mut table| table.remove("value"))
    {
        None | Some(Value::Datetime(_)) => Value::String(value.to_owned()),
        Some(value) => value,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::config::{Drain, Sensitivity};

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<RedisConfig, ConfigError> {
        let variables = variables.iter();
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).into()));
        RedisConfig::from_toml_and_variables(text, variables)
    }

    #[test]
    fn variables_alone_make_a_configuration() {
        let config = read(
            "",
            &[
                ("DATABASES__1__URL", "redis://west:6379"),
                ("DATABASES__1__WEIGHT", "0.5"),
                ("DATABASES__0__URL", "redis://east:6379"),
                ("DATABASES__0__ID", "east"),
                ("CALLS__DEADLINE", "2s"),
                ("SENSITIVITY", "fast"),
                ("FAILOVER__DRAIN", "{ cancel = \"3s\" }"),
                ("FAILOVER__AUTO_FALLBACK", "false"),
            ],
        )
        .unwrap();
        assert_eq!(config.databases[0].id.as_deref(), Some("east"));
        assert_eq!(config.databases[1].weight, Some(0.5));
        assert_eq!(config.calls.deadline, Duration::from_secs(2));
        assert_eq!(config.sensitivity, Sensitivity::Fast);
        assert_eq!(config.failover.drain, Drain::Cancel(Duration::from_secs(3)));
        assert!(!config.failover.auto_fallback);
        config.validate().unwrap();
    }

    #[test]
    fn a_variable_overrides_the_file_and_leaves_the_rest() {
        let text = "[calls]\ndeadline = '9s'\nmax_waiting = 5\n[[databases]]\nurl = 'redis://a'\nid = 'a'\n";
        let over = [
            ("CALLS__DEADLINE", "1s"),
            ("DATABASES__0__URL", "redis://b"),
        ];
        let config = read(text, &over).unwrap();
        assert_eq!(config.calls.deadline, Duration::from_secs(1));
        assert_eq!(config.calls.max_waiting, 5);
        assert_eq!(config.databases[0].url, "redis://b");
        assert_eq!(config.databases[0].id.as_deref(), Some("a"));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_repeated() {
        let secret = "canary-9b1c";
        for (name, value, field) in [
            ("CALLS__DEADLINE", secret, "calls.deadline"),
            ("CALLS__NOSUCH", secret, "calls.nosuch"),
            ("DATABASES__7__URL", secret, "MULTIDB_DATABASES__7__URL"),
            ("CALLS____DEADLINE", secret, "MULTIDB_CALLS____DEADLINE"),
            ("SENSITIVITY", secret, "sensitivity"),
        ] {
            let error = read("", &[(name, value)]).unwrap_err();
            assert_eq!(error.field(), field, "{error}");
            assert!(!error.to_string().contains(secret), "{error}");
        }
    }

    #[test]
    fn a_value_is_a_text_unless_it_is_toml() {
        for text in ["fast", "2s", "redis://a:b@c", "2026-11-27", "1\nx = 2", ""] {
            assert_eq!(parse(text), Value::String(text.to_owned()));
        }
        assert_eq!(parse("7"), Value::Integer(7));
        assert_eq!(parse("\"7\""), Value::String("7".to_owned()));
        assert_eq!(parse("true"), Value::Boolean(true));
    }
}
