//! The engine: databases, circuits, probes, the machine that decides and the task that carries it out.
//!
//! It names no driver. A driver joins by implementing [`backend::Backend`].

pub mod backend;
pub mod builder;
mod calls;
pub mod circuit;
pub mod client;
pub mod config;
pub mod database;
pub mod detector;
pub mod error;
pub mod event;
pub(crate) mod followers;
pub mod health;
pub mod last_active;
pub(crate) mod live;
#[doc(hidden)]
pub mod machine;
pub mod membership;
pub(crate) mod published;
pub mod retry;
pub mod run;
pub mod snapshot;
pub mod statistics;
pub mod strategy;
mod supervisor;
mod sweep;
mod tally;
