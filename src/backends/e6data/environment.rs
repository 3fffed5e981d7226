//! Settings from the environment: the variables that e6data's documents name.

use std::time::Duration;

use super::builder::E6dataBuilder;
use crate::engine::error::ConfigError;

impl E6dataBuilder {
    /// Reads the variables `E6DATA_…`, over what has been set before; what is set afterwards overrides them.
    ///
    /// `HOST`, `PORT`, `USERNAME`, `PASSWORD`, `CATALOG`, `DATABASE`, `CLUSTER_UUID`, `SECURE`, `AUTO_RESUME`
    /// (true or false); `AUTO_RESUME_TIMEOUT`, `PREPARE_TIMEOUT`, `STRATEGY_DETECTION_TIMEOUT` (10 to 120),
    /// `STRATEGY_CACHE_TIMEOUT` (60 to 1800: of a file that says which stack served), `RETRY_BACKOFF_FACTOR` (0.1 to
    /// 2.0) in seconds; `MAX_RETRY_ATTEMPTS` (1 to 10); `KEEPALIVE_TIME_MS`,
    /// `KEEPALIVE_TIMEOUT_MS` in milliseconds; `MAX_RECEIVE_MSG_LENGTH`, `MAX_SEND_MSG_LENGTH` in bytes, -1 for
    /// as much as there may be.
    ///
    /// # Errors
    /// [`ConfigError`] with the variable's name; its value, which may be a secret, is not repeated.
    pub fn from_env(self) -> Result<Self, ConfigError> {
        self.from_variables(|name| std::env::var(name).ok())
    }

    /// As [`E6dataBuilder::from_env`], with these variables.
    ///
    /// # Errors
    /// As [`E6dataBuilder::from_env`].
    pub fn from_variables(
        mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let read = |name: &str| {
            Some((
                format!("E6DATA_{name}"),
                variable(&format!("E6DATA_{name}"))?,
            ))
        };
        for (name, field) in [
            ("HOST", &mut self.host),
            ("USERNAME", &mut self.user),
            ("PASSWORD", &mut self.password),
            ("CATALOG", &mut self.catalog),
            ("DATABASE", &mut self.database),
            ("CLUSTER_UUID", &mut self.cluster_name),
        ] {
            if let Some((_, value)) = read(name) {
                *field = value;
            }
        }
        if let Some((name, value)) = read("PORT") {
            self.port = number(&name, &value, 1..=u16::MAX, "must be a port")?;
        }
        for (name, field) in [
            ("SECURE", &mut self.secure),
            ("AUTO_RESUME", &mut self.auto_resume),
        ] {
            if let Some((name, value)) = read(name) {
                *field = match value.trim().to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" | "on" => true,
                    "false" | "0" | "no" | "off" => false,
                    _ => return Err(ConfigError::new(name, "must be true or false")),
                };
            }
        }
        for (name, field, range) in [
            (
                "AUTO_RESUME_TIMEOUT",
                &mut self.auto_resume_timeout,
                0.001..=86_400.0,
            ),
            (
                "PREPARE_TIMEOUT",
                &mut self.operation_timeout,
                0.001..=86_400.0,
            ),
            (
                "STRATEGY_DETECTION_TIMEOUT",
                &mut self.detection_timeout,
                10.0..=120.0,
            ),
            (
                "STRATEGY_CACHE_TIMEOUT",
                &mut self.hint_max_age,
                60.0..=1800.0,
            ),
            ("RETRY_BACKOFF_FACTOR", &mut self.backoff, 0.1..=2.0),
        ] {
            if let Some((name, value)) = read(name) {
                let problem = format!("must be {} to {} seconds", range.start(), range.end());
                *field = Duration::from_secs_f64(number(&name, &value, range, &problem)?);
            }
        }
        if let Some((name, value)) = read("MAX_RETRY_ATTEMPTS") {
            self.attempts = number(&name, &value, 1..=10, "must be 1 to 10")?;
        }
        for (name, field) in [
            ("KEEPALIVE_TIME_MS", &mut self.keepalive_interval),
            ("KEEPALIVE_TIMEOUT_MS", &mut self.keepalive_timeout),
        ] {
            if let Some((name, value)) = read(name) {
                let problem = "must be 1 to 86400000 milliseconds";
                *field = Duration::from_millis(number(&name, &value, 1..=86_400_000, problem)?);
            }
        }
        for (name, field) in [
            ("MAX_RECEIVE_MSG_LENGTH", &mut self.max_receive),
            ("MAX_SEND_MSG_LENGTH", &mut self.max_send),
        ] {
            if let Some((name, value)) = read(name) {
                *field = match value.trim() {
                    "-1" => MOST,
                    value => number(
                        &name,
                        value,
                        1024..=MOST,
                        "must be -1, or 1024 bytes at least",
                    )?,
                };
            }
        }
        Ok(self)
    }
}

/// What a message of gRPC can have at most: its length is 32 bits.
const MOST: usize = u32::MAX as usize;

fn number<T: std::str::FromStr + PartialOrd>(
    name: &str,
    value: &str,
    range: std::ops::RangeInclusive<T>,
    problem: &str,
) -> Result<T, ConfigError> {
    let number = value.trim().parse().ok();
    let number = number.filter(|number| range.contains(number));
    number.ok_or_else(|| ConfigError::new(name, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[(&str, &str)]) -> Result<E6dataBuilder, ConfigError> {
        let variables = |name: &str| {
            let found = set
                .iter()
                .find(|(known, _)| format!("E6DATA_{known}") == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        E6dataBuilder::new().from_variables(variables)
    }

    #[test]
    fn every_variable_has_its_effect() {
        let builder = with(&[
            ("HOST", "db.example"),
            ("PORT", "8443"),
            ("USERNAME", "u"),
            ("PASSWORD", "p"),
            ("CATALOG", "c"),
            ("DATABASE", "d"),
            ("CLUSTER_UUID", "Prod"),
            ("SECURE", "true"),
            ("AUTO_RESUME", "off"),
            ("AUTO_RESUME_TIMEOUT", "60"),
            ("PREPARE_TIMEOUT", "1.5"),
            ("STRATEGY_DETECTION_TIMEOUT", "45"),
            ("STRATEGY_CACHE_TIMEOUT", "600"),
            ("RETRY_BACKOFF_FACTOR", "0.5"),
            ("MAX_RETRY_ATTEMPTS", "7"),
            ("KEEPALIVE_TIME_MS", "15000"),
            ("KEEPALIVE_TIMEOUT_MS", "2000"),
            ("MAX_RECEIVE_MSG_LENGTH", "-1"),
            ("MAX_SEND_MSG_LENGTH", "4096"),
        ])
        .unwrap();
        let b = &builder;
        let texts = [
            &b.host,
            &b.user,
            &b.password,
            &b.catalog,
            &b.database,
            &b.cluster_name,
        ];
        assert_eq!(texts, ["db.example", "u", "p", "c", "d", "Prod"]);
        assert_eq!(
            (b.port, b.secure, b.auto_resume, b.attempts),
            (8443, true, false, 7)
        );
        let times = [
            b.auto_resume_timeout,
            b.operation_timeout,
            b.detection_timeout,
            b.backoff,
        ];
        assert_eq!(
            times.map(|time| time.as_millis()),
            [60_000, 1_500, 45_000, 500]
        );
        assert_eq!(b.hint_max_age.as_secs(), 600);
        let keepalive = [b.keepalive_interval, b.keepalive_timeout];
        assert_eq!(keepalive.map(|time| time.as_millis()), [15_000, 2_000]);
        assert_eq!((b.max_receive, b.max_send), (MOST, 4096));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name_and_its_value_not_repeated() {
        for (name, value) in [
            ("PORT", "0"),
            ("PORT", "s3cret"),
            ("SECURE", "s3cret"),
            ("STRATEGY_DETECTION_TIMEOUT", "9"),
            ("RETRY_BACKOFF_FACTOR", "nan"),
            ("MAX_RETRY_ATTEMPTS", "11"),
            ("KEEPALIVE_TIME_MS", "-1"),
            ("MAX_SEND_MSG_LENGTH", "12"),
        ] {
            let error = with(&[(name, value)]).unwrap_err();
            assert_eq!(error.field(), format!("E6DATA_{name}"));
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
