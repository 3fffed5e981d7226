//! gRPC over HTTP/2: a drop-in for tonic's `Channel` under a generated client.
//!
//! ```no_run
//! use multidb::grpc::MultiDbChannel;
//!
//! # async fn example() -> Result<(), multidb::Error> {
//! let client = MultiDbChannel::builder()
//!     .endpoint("https://east.example:443", 1.0)
//!     .endpoint("https://west.example:443", 0.5)
//!     .idempotent_methods(["/shop.Orders/Get"])
//!     .connect()
//!     .await?;
//! let channel = client.channel();   // where generated code wants a `Channel`: OrdersClient::new(channel)
//! # let _ = channel;
//! # Ok(())
//! # }
//! ```

mod backend;
mod body;
mod channel;
mod health;
mod line;

pub use backend::{Grpc, GrpcEndpoint, GrpcError, GrpcHandle};
pub use channel::MultiDbChannel;

#[cfg(feature = "e6data")]
pub(crate) use line::{Http2, Line, Site, is_loss, is_timeout, never_ran};

pub use crate::sockets::TlsConfig;

use std::time::Duration;

use crate::engine::builder::Builder;
use crate::engine::client::MultiDbClient;
use crate::engine::config::{Config, Sensitivity};
use crate::engine::database::Database;

impl MultiDbChannel {
    /// A builder for a client over gRPC servers.
    ///
    /// A call waits 30 s for the head of its response and 60 s in all, by default, and for as long as its own
    /// `grpc-timeout` says at most; a hang is believed after 1 s ([`Sensitivity::Conservative`]).
    pub fn builder() -> Builder<Grpc> {
        let mut config = Config::default();
        config.calls.response_timeout = Duration::from_secs(30);
        config.calls.deadline = Duration::from_secs(60);
        config.sensitivity = Sensitivity::Conservative;
        Builder::new(Grpc::default()).config(config)
    }
}

impl MultiDbClient<Grpc> {
    /// What generated clients are made with; cheap, no I/O.
    #[must_use]
    pub fn channel(&self) -> MultiDbChannel {
        MultiDbChannel::new(self)
    }
}

impl Builder<Grpc> {
    /// Adds a server by its URI, `http://host:port` or `https://host:port`; its id is `host:port`. What is wrong
    /// with either is told when the client is built.
    pub fn endpoint(self, uri: impl AsRef<str>, weight: f64) -> Self {
        let database = GrpcEndpoint::new(uri).and_then(|endpoint| {
            let id = endpoint.name().to_owned();
            let database = Database::new(id, endpoint)?.weight(weight);
            database.map_err(|error| error.renamed("weight"))
        });
        self.try_database(database)
    }

    /// Methods, such as `/shop.Orders/Get`, that do no harm when they run twice: they are tried again even if
    /// an earlier attempt may have run.
    pub fn idempotent_methods<P: AsRef<str>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        self.with_backend(|backend| {
            let paths = paths.into_iter().map(|path| path.as_ref().to_owned());
            backend.idempotent.extend(paths);
        })
    }
}
