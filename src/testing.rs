//! For tests of your own failover: servers and networks that break on command.

pub mod history;
pub mod proxy;
pub mod scripted;
pub mod server;
