//! Passwords that a configuration names and does not hold.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::backends::redis::credentials::{Credentials, CredentialsProvider};
use crate::backends::redis::endpoint::RedisEndpoint;
use crate::engine::backend::{Fault, FaultKind};
use crate::engine::error::ConfigError;

/// A password in a file, read for every connection, so that a rotated one is found.
pub(super) struct PasswordFile {
    user: Option<String>,
    path: PathBuf,
}

/// Longer than any password, and than any token.
const LONGEST: u64 = 64 << 10;

impl PasswordFile {
    /// A file that can be read now.
    pub(super) fn new(path: &Path, user: Option<&str>) -> Result<Self, ConfigError> {
        match read(path) {
            Ok(_) => Ok(Self {
                user: user.map(str::to_owned),
                path: path.to_owned(),
            }),
            Err(error) => {
                let problem = format!("cannot be read ({})", error.kind());
                Err(ConfigError::new("password_file", problem))
            }
        }
    }
}

impl CredentialsProvider for PasswordFile {
    fn credentials<'a>(
        &'a self,
        _: &'a RedisEndpoint,
    ) -> BoxFuture<'a, Result<Credentials, Fault>> {
        let path = self.path.clone();
        async move {
            // A file system may be far away, and hang.
            let read = tokio::task::spawn_blocking(move || read(&path)).await;
            let password = read.map_err(io::Error::other).and_then(|read| read);
            let password = password
                .map_err(|_| Fault::new(FaultKind::Denied, "the password file cannot be read"))?;
            let credentials = Credentials::new(password);
            Ok(match &self.user {
                Some(user) => credentials.user(user),
                None => credentials,
            })
        }
        .boxed()
    }
}

/// Its text without the end of the last line.
fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let text = fs::read_to_string(path)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The value of a variable.
pub(super) fn variable(name: &str) -> Result<String, ConfigError> {
    std::env::var(name)
        .map_err(|_| ConfigError::new("password_env", "names no variable that is set to a text"))
}
