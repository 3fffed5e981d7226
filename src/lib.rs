//! One client, many weighted databases.
//!
//! Each database sits behind a circuit breaker, watched by health probes and by the outcomes of the
//! callers' own commands. When the active one dies, hangs or goes bad, the client moves to the best
//! other one within milliseconds, tells its listeners, and comes back when it may.
//!
//! ```text
//!                         ┌ circuit ─ probes ─ east (weight 1.0)   active
//! application ── client ──┼ circuit ─ probes ─ west (weight 0.5)   standby, kept warm
//!                         └ circuit ─ probes ─ south (weight 0.1)  standby, kept warm
//! ```
//!
//! For Redis it is a drop-in: [`MultiDbConnection`] is a `redis::aio::ConnectionLike`, so code written
//! against redis-rs changes its constructor and nothing else.
//!
//! ```no_run
//! use multidb::MultiDbClient;
//! use redis::AsyncCommands;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = MultiDbClient::builder()
//!     .url("redis://east.example:6379", 1.0)
//!     .url("redis://west.example:6379", 0.5)
//!     .on_event(|event| eprintln!("{event}"))
//!     .connect()
//!     .await?;
//!
//! let mut con = client.connection();
//! let () = con.set("greeting", "hello").await?;
//! # Ok(())
//! # }
//! ```
//!
//! The public interface is:
//!
//! * [`MultiDbClient`], its [`Builder`] and [`Config`]: making, operating and closing a client;
//! * [`MultiDbConnection`] and [`redis`]: commands;
//! * [`Event`], [`Snapshot`], [`Error`]: what happened, what is the case, what went wrong;
//! * [`FailoverStrategy`], [`FailureDetector`], [`HealthCheck`]: policies of your own;
//! * [`engine`]: what is needed to write another backend;
//! * `blocking` (feature): the same for synchronous code;
//! * `grpc` (feature): a drop-in for tonic's channel under a generated client;
//! * `e6data` (feature): queries to a cluster of two stacks that its server may switch;
//! * `telemetry` (features `metrics`, `tracing`): what operators look at;
//! * `testing` (feature): servers and networks that break on command.
//!
//! The book in `docs` says what is guaranteed and what is not, how failures are noticed, and what each
//! setting is for.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backends;
pub mod engine;
#[cfg(feature = "blocking")]
mod runtime;
#[cfg(any(feature = "grpc", feature = "redis"))]
mod sockets;
#[cfg(any(feature = "metrics", feature = "tracing"))]
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "e6data")]
pub use backends::e6data;
#[cfg(feature = "grpc")]
pub use backends::grpc;
#[cfg(feature = "redis")]
pub use backends::redis;
#[cfg(all(feature = "redis", feature = "testing"))]
#[doc(hidden)]
pub use backends::redis::command_table;

#[cfg(feature = "redis")]
pub use backends::redis::MultiDbConnection;
#[cfg(feature = "blocking")]
pub use backends::redis::blocking;
pub use engine::backend::{Class, Doubt, Fault, FaultKind, NotSent, Refusal, Verdict};
pub use engine::builder::Builder;
pub use engine::circuit::CircuitState;
pub use engine::client::{Lease, MultiDbClient};
pub use engine::config::{Config, Drain, ProbePolicy, Sensitivity, StartPolicy};
pub use engine::database::{Database, DatabaseId, Role, Weight};
pub use engine::detector::{FailsafePolicy, FailureDetector, SlidingWindow};
pub use engine::error::{ConfigError, Error, ErrorKind};
pub use engine::event::{Event, Events, Reason};
pub use engine::health::HealthCheck;
#[cfg(all(unix, feature = "last-active-file"))]
pub use engine::last_active::LastActiveFile;
pub use engine::last_active::{LastActive, LastActiveInMemory};
pub use engine::snapshot::{MemberView, Obstacle, Snapshot, Status};
pub use engine::statistics::Statistics;
pub use engine::strategy::{Candidate, FailoverStrategy, HighestWeight};

/// The pages of the book and the README, as doctests.
#[cfg(all(doctest, feature = "redis", feature = "testing", feature = "serde"))]
mod book {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/src/introduction.md")]
    mod introduction {}
    #[doc = include_str!("../docs/src/guarantees.md")]
    mod guarantees {}
    #[doc = include_str!("../docs/src/detection.md")]
    mod detection {}
    #[doc = include_str!("../docs/src/faults.md")]
    mod faults {}
    #[doc = include_str!("../docs/src/health.md")]
    mod health {}
    #[doc = include_str!("../docs/src/configuration.md")]
    mod configuration {}
    #[doc = include_str!("../docs/src/operating.md")]
    mod operating {}
    #[doc = include_str!("../docs/src/telemetry.md")]
    mod telemetry {}
    #[doc = include_str!("../docs/src/redis.md")]
    mod redis {}
    #[doc = include_str!("../docs/src/tls.md")]
    mod tls {}
    #[doc = include_str!("../docs/src/transactions.md")]
    mod transactions {}
    #[doc = include_str!("../docs/src/cluster.md")]
    mod cluster {}
    #[doc = include_str!("../docs/src/pubsub.md")]
    mod pubsub {}
    #[cfg(feature = "e6data")]
    #[doc = include_str!("../docs/src/e6data.md")]
    mod e6data {}
    #[doc = include_str!("../docs/src/migration.md")]
    mod migration {}
    #[doc = include_str!("../docs/src/testing.md")]
    mod testing {}
}
