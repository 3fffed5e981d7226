//! Real faults of real servers and of the network before them: what callers are told, how long it
//! takes, where the traffic goes, and that nothing is lost or done twice.

mod access;
mod limits;
mod namespace;
mod nemesis;
mod network;
mod planned;
mod process;
mod rig;
mod slowness;
mod states;
#[path = "../support/mod.rs"]
mod support;
