//! Where a database is: at one address, behind sentinels, or across a cluster.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ::redis::ConnectionAddr;

use super::wrong;
use crate::backends::redis::cluster::Seeds;
use crate::backends::redis::sentinel::Sentinels;
use crate::engine::error::ConfigError;

/// What an endpoint leads to.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    At(Address),
    /// Wherever the sentinels say that the master is.
    Sentinel(Arc<Sentinels>),
    /// All over the nodes of a cluster, which is found by these.
    Cluster(Arc<Seeds>),
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Place {
    pub(super) fn name(&self) -> String {
        match self {
            Self::At(address) => address.to_string(),
            Self::Sentinel(sentinels) => sentinels.to_string(),
            Self::Cluster(seeds) => seeds.to_string(),
        }
    }

    pub(crate) fn address(&self) -> Option<&Address> {
        match self {
            Self::At(address) => Some(address),
            Self::Sentinel(_) | Self::Cluster(_) => None,
        }
    }
}

impl Address {
    pub(super) fn of(parsed: &ConnectionAddr) -> Result<Self, ConfigError> {
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

/// `a:1,b:2`
pub(crate) fn list(addresses: &[Address]) -> String {
    let names: Vec<_> = addresses.iter().map(Address::to_string).collect();
    names.join(",")
}
