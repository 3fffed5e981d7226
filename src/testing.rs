//! For tests of your own failover: servers and networks that break on command.

#[cfg(feature = "e6data")]
pub mod e6data;
pub mod history;
pub mod proxy;
pub mod scripted;
pub mod server;
