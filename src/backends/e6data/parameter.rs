//! Values in a statement, written as literals where it has a `?`.

use std::fmt::Write as _;

use crate::engine::error::ConfigError;

/// A value for a `?` of a statement.
///
/// It becomes a literal of the statement before that is sent, quoted as SQL wants it, which is what the
/// server's other clients do. A `?` within quotes or a comment is left alone.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Parameter {
    /// `NULL`.
    Null,
    /// `TRUE` or `FALSE`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number. One that is not finite is refused.
    Double(f64),
    /// Text, also for dates, decimals and whatever else has a literal of its own in the statement, such as
    /// `DATE ?`.
    Text(String),
}

impl From<bool> for Parameter {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i32> for Parameter {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<i64> for Parameter {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Parameter {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<&str> for Parameter {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Parameter {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<T: Into<Self>> From<Option<T>> for Parameter {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Parameter {
    fn write(&self, sql: &mut String) -> Result<(), ConfigError> {
        match self {
            Self::Null => sql.push_str("NULL"),
            Self::Boolean(true) => sql.push_str("TRUE"),
            Self::Boolean(false) => sql.push_str("FALSE"),
            Self::Integer(n) => {
                let _ = write!(sql, "{n}");
            }
            Self::Double(n) if n.is_finite() => {
                let _ = write!(sql, "{n:e}");
            }
            Self::Double(_) => return Err(wrong("is a number without a literal")),
            Self::Text(text) if text.contains('\0') => return Err(wrong("holds a NUL")),
            Self::Text(text) => {
                sql.push('\'');
                sql.push_str(&text.replace('\'', "''"));
                sql.push('\'');
            }
        }
        Ok(())
    }
}

fn wrong(problem: &str) -> ConfigError {
    ConfigError::new("parameters", problem)
}

/// The statement with its values in place, without blanks around it and a semicolon at its end.
pub(super) fn bind(statement: &str, parameters: &[Parameter]) -> Result<String, ConfigError> {
    let statement = statement.trim().trim_end_matches(';').trim_end();
    if statement.is_empty() {
        return Err(ConfigError::new("statement", "must not be empty"));
    }
    if parameters.is_empty() {
        return Ok(statement.to_owned());
    }
    let mut sql = String::with_capacity(statement.len() + 16 * parameters.len());
    let mut left = parameters.iter();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        let part = match first {
            '\'' | '"' | '`' => quoted(rest, first),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            '?' => {
                let value = left
                    .next()
                    .ok_or_else(|| wrong("are fewer than the statement has"))?;
                value.write(&mut sql)?;
                rest = &rest[1..];
                continue;
            }
            _ => first.len_utf8(),
        };
        let (kept, after) = rest.split_at(part);
        sql.push_str(kept);
        rest = after;
    }
    match left.next() {
        None => Ok(sql),
        Some(_) => Err(wrong("are more than the statement has")),
    }
}

/// How long the quoted part is that the text begins with. A doubled quote begins the next one.
fn quoted(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(text.len(), |at| at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(statement: &str, parameters: &[Parameter]) -> String {
        bind(statement, parameters).unwrap()
    }

    #[test]
    fn values_take_the_places_of_question_marks_and_of_nothing_else() {
        let sql = "SELECT '?', \"?\", `?` /* ? */, ? -- ?\n, ?, 'it''s ?', ?;";
        let values = ["o'x".into(), Parameter::Null, 7.into()];
        assert_eq!(
            bound(sql, &values),
            "SELECT '?', \"?\", `?` /* ? */, 'o''x' -- ?\n, NULL, 'it''s ?', 7"
        );
        assert_eq!(bound(" select 1 ; ", &[]), "select 1");
        assert_eq!(bound("?", &[true.into()]), "TRUE");
        assert_eq!(bound("?", &[0.1.into()]), "1e-1");
        assert_eq!(bound("?", &[i64::MIN.into()]), "-9223372036854775808");
        assert_eq!(bound("'open ?", &[]), "'open ?");
    }

    /// What is text stays text: it cannot end its literal.
    #[test]
    fn a_value_cannot_break_out() {
        for evil in ["'; DROP TABLE t; --", "''", "\\'", "'", "?", "ü'"] {
            let sql = bound("SELECT ?", &[evil.into()]);
            let literal = sql
                .strip_prefix("SELECT '")
                .unwrap()
                .strip_suffix('\'')
                .unwrap();
            assert_eq!(literal.replace("''", ""), evil.replace('\'', ""), "{sql}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let of = |sql, values: &[Parameter]| bind(sql, values).unwrap_err().field().to_owned();
        assert_eq!(of("SELECT ?", &[1.into(), 2.into()]), "parameters");
        assert_eq!(of("SELECT ?, ?", &[1.into()]), "parameters");
        assert_eq!(of("SELECT ?", &[f64::NAN.into()]), "parameters");
        assert_eq!(of("SELECT ?", &["a\0b".into()]), "parameters");
        assert_eq!(of(" ; ", &[]), "statement");
    }
}
