//! What a set of connections has left at the nodes.

use std::collections::BTreeSet;
// Held for a few instructions.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::backends::redis::endpoint::place::Address;
use crate::backends::redis::server::{ClientMark, Server};

/// What names our connections at the nodes; grows as nodes come.
#[derive(Debug, Default)]
#[allow(clippy::disallowed_types)]
pub(in crate::backends::redis) struct Marks(Mutex<Vec<(Address, Option<ClientMark>)>>);

/// The nodes that something was sent to, or is about to be.
#[derive(Debug, Default)]
#[allow(clippy::disallowed_types)]
pub(super) struct Used(Mutex<BTreeSet<Address>>);

// === impl Marks ===

impl Marks {
    pub(super) fn add(&self, address: &Address, handle: &Server) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() >= MOST_MARKS {
            marks.remove(0);
        }
        marks.push((address.clone(), handle.mark().cloned()));
    }

    pub(super) fn all(&self) -> Vec<(Address, Option<ClientMark>)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Of one set of connections; nodes come and go for as long as it stands.
const MOST_MARKS: usize = 1024;

// === impl Used ===

impl Used {
    pub(super) fn add(&self, address: &Address) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.contains(address) {
            used.insert(address.clone());
        }
    }

    pub(super) fn contains(&self, address: &Address) -> bool {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.contains(address)
    }
}
