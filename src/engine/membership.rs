//! Where the set of databases comes from: a fixed list, or a topology that changes.

use futures_util::future::BoxFuture;

use super::database::Database;

/// Discovers the databases of a client while it runs.
///
/// Without one, the members are those given to the builder and those an operator adds.
pub trait Membership<E>: Send + 'static {
    /// Waits for the next topology; `None` ends the discovery and leaves the members as they are.
    ///
    /// The supervisor never waits for it: it runs in a task of its own and is dropped at the end of
    /// the client, so it must be cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Option<Topology<E>>>;
}

/// All databases at one moment. Applied in one step: members that are not in it leave, those with a
/// known id keep their state and get its weight, role and `enabled`.
#[derive(Clone, Debug)]
pub struct Topology<E> {
    /// Orders topologies; one that is not newer than the last is dropped.
    pub epoch: u64,
    /// Every member; must not be empty.
    pub databases: Vec<Database<E>>,
}
