//! A Redis Cluster as one of a client's databases, with real servers.

mod blocking;
mod pubsub;
mod rig;
mod serving;
#[path = "../support/mod.rs"]
mod support;
