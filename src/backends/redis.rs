//! Redis: a drop-in for redis-rs's connections over many databases.

#[cfg(feature = "blocking")]
pub mod blocking;
mod checks;
mod classify;
mod cluster;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod command_table;
mod commands;
mod config;
mod connection;
mod connector;
mod credentials;
mod cursors;
mod endpoint;
mod error;
mod handle;
#[cfg(feature = "lag-aware")]
mod lag_aware;
mod lane;
mod operation;
mod pairing;
#[cfg(any(feature = "bb8", feature = "r2d2"))]
mod pool;
mod pubsub;
mod scripts;
mod sentinel;
mod server;
#[cfg(feature = "redis-rustls")]
mod tls_files;
mod watch;

pub use checks::{EveryNode, ReplicationLag, WriteProbe};
pub use config::{DatabaseConfig, RedisConfig};
pub use connection::MultiDbConnection;
pub use connector::{Connector, TcpConnector};
pub use credentials::{Credentials, CredentialsProvider};
pub use endpoint::RedisEndpoint;
pub use error::from_redis;
pub use handle::{Redis, RedisHandle};
#[cfg(feature = "lag-aware")]
pub use lag_aware::{LagAware, LagAwareBuilder};
pub use pubsub::{
    Notification, Notifications, Overlap, PubSub, PubSubSink, PubSubStream, SubscriptionKind,
};
#[cfg(feature = "redis-rustls")]
pub use tls_files::TlsFiles;

#[cfg(feature = "redis-rustls")]
pub use crate::sockets::TlsConfig;
pub use crate::sockets::Transport;

use crate::engine::builder::Builder;
use crate::engine::client::MultiDbClient;
use crate::engine::database::Database;
use crate::engine::error::Error;

impl MultiDbClient<Redis> {
    /// A builder for a client over Redis databases.
    pub fn builder() -> Builder<Redis> {
        Builder::new(Redis::new(TcpConnector::default()))
    }

    /// A client over these URLs with their weights, started with its first call. No connection is made yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming what is wrong.
    pub fn open<U: AsRef<str>>(
        databases: impl IntoIterator<Item = (U, f64)>,
    ) -> Result<Self, Error> {
        let builder = databases
            .into_iter()
            .fold(Self::builder(), |builder, (url, weight)| {
                builder.url(url, weight)
            });
        builder.connect_lazy()
    }

    /// A connection for commands; cheap, no I/O. One per task is as good as a shared one.
    #[must_use]
    pub fn connection(&self) -> MultiDbConnection {
        MultiDbConnection::new(self)
    }

    /// As [`MultiDbClient::connection`], once a database serves: what `redis::Client` has under this name.
    ///
    /// Waits within `calls.deadline`. Cancel-safe.
    ///
    /// # Errors
    /// A `RedisError` that carries ours, see [`from_redis`].
    pub async fn get_multiplexed_async_connection(
        &self,
    ) -> ::redis::RedisResult<MultiDbConnection> {
        self.lease().await.map_err(error::to_redis)?;
        Ok(self.connection())
    }

    /// As [`MultiDbClient::get_multiplexed_async_connection`], for code written against a
    /// `ConnectionManager`.
    ///
    /// # Errors
    /// A `RedisError` that carries ours, see [`from_redis`].
    pub async fn get_connection_manager(&self) -> ::redis::RedisResult<MultiDbConnection> {
        self.get_multiplexed_async_connection().await
    }
}

impl Builder<Redis> {
    /// Adds a database by its URL, such as `redis://user:password@host:6379/0?protocol=resp3`.
    ///
    /// See [`RedisEndpoint::parse`] for the forms of a URL. Its id is [`RedisEndpoint::name`]. What is wrong with the
    /// URL or the weight is told when the client is built. A `rediss://` URL reads the certificates that
    /// the system trusts.
    pub fn url(self, url: impl AsRef<str>, weight: f64) -> Self {
        let database = RedisEndpoint::parse(url.as_ref()).and_then(|endpoint| {
            let endpoint = endpoint.ready()?;
            let database = Database::new(endpoint.id()?, endpoint)?.weight(weight);
            database.map_err(|error| error.renamed("weight"))
        });
        self.try_database(database)
    }

    /// Opens transports in another way than [`TcpConnector`]: through a proxy, in memory, in a simulation.
    pub fn connector(self, connector: impl Connector) -> Self {
        self.with_backend(|backend| backend.connect_by(connector))
    }

    /// Commands, such as those of a module, that only read: they are tried again, elsewhere if need be,
    /// even when an earlier attempt may have run. Redis's own are known.
    ///
    /// A name has at most two words, such as `FT.SEARCH` or `XINFO HELP`.
    pub fn read_only_commands<N: AsRef<str>>(self, names: impl IntoIterator<Item = N>) -> Self {
        self.with_backend(|backend| {
            backend.add_read_only(
                names
                    .into_iter()
                    .map(|name| name.as_ref().to_ascii_uppercase()),
            );
        })
    }
}
