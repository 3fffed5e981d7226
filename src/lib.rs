//! One client, many weighted databases.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod backends;
pub mod engine;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "redis")]
pub use backends::redis;
#[cfg(all(feature = "redis", feature = "testing"))]
#[doc(hidden)]
pub use backends::redis::command_table;

#[cfg(feature = "redis")]
pub use backends::redis::MultiDbConnection;
pub use engine::backend::{Class, Doubt, Fault, FaultKind, NotSent, Refusal, Verdict};
pub use engine::builder::Builder;
pub use engine::circuit::CircuitState;
pub use engine::client::{Lease, MultiDbClient};
pub use engine::config::{Config, Drain, ProbePolicy, Sensitivity, StartPolicy};
pub use engine::database::{Database, DatabaseId, Role, Weight};
pub use engine::detector::{FailureDetector, SlidingWindow};
pub use engine::error::{ConfigError, Error, ErrorKind};
pub use engine::event::{Event, Events, Reason};
pub use engine::health::HealthCheck;
pub use engine::snapshot::{MemberView, Obstacle, Snapshot, Status};
pub use engine::strategy::{Candidate, FailoverStrategy, HighestWeight};
