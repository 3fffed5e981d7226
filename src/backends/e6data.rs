//! e6data: a cluster of two stacks, blue and green, that its server may switch.
//!
//! The two are two databases of one client. A query is begun on whichever serves and ends there, new ones
//! follow the server's word as soon as the other stack is ready, and nothing that may have run is run again.

mod backend;
#[cfg(feature = "blocking")]
pub mod blocking;
mod builder;
mod classify;
mod client;
mod colour;
mod cursor;
pub(crate) mod decode;
mod endpoint;
mod environment;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod herald;
mod parameter;
mod query;
mod resume;
mod rpc;
mod session;
mod stack;
pub(crate) mod wire;

pub use backend::E6data;
pub use builder::E6dataBuilder;
pub use client::{E6dataClient, E6dataConnection, TableColumn};
pub use colour::Colour;
pub use cursor::Cursor;
pub use decode::{
    Batch, Column, ColumnType, Date, DateTime, Decimal, DecodeError, FromValue, Interval, Metadata,
    Row, TimestampTz, Value,
};
pub use endpoint::{E6dataEndpoint, StackCheck};
pub use error::{E6dataError, E6dataErrorKind, Executed, QueryPhase};
pub use parameter::Parameter;
pub use query::{Analysis, Progress, Query};
pub use resume::ResumeState;
pub use stack::Stack;

pub use crate::sockets::TlsConfig;
