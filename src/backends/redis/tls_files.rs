//! TLS of a configuration that is read from a file: by the names of further files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::error::ConfigError;
use crate::sockets::TlsConfig;

/// TLS of one database of a [`RedisConfig`](super::RedisConfig), see [`TlsConfig`]. The files hold PEM
/// and are read when the builder is made; a relative name is relative to the working directory.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct TlsFiles {
    /// Certificates to trust. Default: those the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to a server that asks for one, with its chain. Default: none.
    pub cert_file: Option<PathBuf>,
    /// The private key to it.
    pub key_file: Option<PathBuf>,
    /// The server to ask for and to expect. Default: the host of the URL.
    pub server_name: Option<String>,
    /// Takes whatever certificate the server shows. Default false.
    pub insecure: bool,
}

impl TlsFiles {
    pub(super) fn load(&self) -> Result<TlsConfig, ConfigError> {
        let mut config = TlsConfig::new();
        if let Some(path) = &self.ca_file {
            config = config
                .ca_pem(read("ca_file", path)?)
                .map_err(|error| error.renamed("ca_file"))?;
        }
        config = match (&self.cert_file, &self.key_file) {
            (None, None) => config,
            (Some(cert), Some(key)) => config
                .client_identity_pem(read("cert_file", cert)?, read("key_file", key)?)
                .map_err(|error| match error.field() {
                    "client_cert_pem" => error.renamed("cert_file"),
                    _ => error.renamed("key_file"),
                })?,
            (Some(_), None) => return Err(ConfigError::new("key_file", "belongs to cert_file")),
            (None, Some(_)) => return Err(ConfigError::new("cert_file", "belongs to key_file")),
        };
        if let Some(name) = &self.server_name {
            config = config.server_name(name)?;
        }
        Ok(match self.insecure {
            true => config.danger_accept_invalid_certs(),
            false => config,
        })
    }
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path)
        .map_err(|error| ConfigError::new(field, format!("cannot be read ({})", error.kind())))
}
