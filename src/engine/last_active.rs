//! What was active last, kept for whoever starts next.

use std::sync::Arc;
// Held for a few instructions.
#[allow(clippy::disallowed_types)]
use std::sync::{Mutex, PoisonError};

use super::database::DatabaseId;

#[cfg(all(unix, feature = "last-active-file"))]
mod file;

#[cfg(all(unix, feature = "last-active-file"))]
pub use file::LastActiveFile;

/// Knows which database was active last, so that a client that starts anew begins with that one.
///
/// It is a hint and no more: it says which database is chosen first where several serve, and is waited for
/// as the heaviest one would be. Whatever it says, a database that does not serve is not chosen, and from the
/// first choice on the weights and the servers decide. See
/// [`Builder::last_active`](super::builder::Builder::last_active).
pub trait LastActive: Send + Sync + 'static {
    /// The one that was active last; `None`: nobody knows. Called once, on the thread that makes the client.
    fn recall(&self) -> Option<DatabaseId>;

    /// Another one is active now. Called on a thread of its own: it may block, and a panic harms nobody.
    fn remember(&self, database: &DatabaseId);
}

/// Within a process: clones know what any of them has been told.
#[derive(Clone, Debug, Default)]
pub struct LastActiveInMemory(#[allow(clippy::disallowed_types)] Arc<Mutex<Option<DatabaseId>>>);

impl LastActive for LastActiveInMemory {
    fn recall(&self) -> Option<DatabaseId> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn remember(&self, database: &DatabaseId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(database.clone());
    }
}

impl<T: LastActive> LastActive for Arc<T> {
    fn recall(&self) -> Option<DatabaseId> {
        T::recall(self)
    }

    fn remember(&self, database: &DatabaseId) {
        T::remember(self, database);
    }
}
