//! Whoever keeps something of its own on the active database, such as subscriptions, and wants to be
//! on the next one before calls go there.

use std::collections::BTreeMap;
// Touched when a follower joins, arrives or leaves.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::machine::MemberKey;

/// All followers of a client, and where they are.
#[derive(Default)]
pub(crate) struct Followers {
    #[allow(clippy::disallowed_types)]
    places: Mutex<Places>,
    moved: Notify,
}

#[derive(Default)]
struct Places {
    next: u64,
    ready_on: BTreeMap<u64, Option<MemberKey>>,
}

/// One of them; dropped, it is waited for no longer.
pub(crate) struct Follower {
    number: u64,
    followers: Arc<Followers>,
}

impl Followers {
    #[cfg_attr(
        not(any(test, feature = "redis")),
        expect(dead_code, reason = "for backends")
    )]
    pub(crate) fn join(self: &Arc<Self>) -> Follower {
        let mut places = self.lock();
        places.next += 1;
        let number = places.next;
        places.ready_on.insert(number, None);
        Follower {
            number,
            followers: self.clone(),
        }
    }

    pub(crate) fn are_on(&self, member: MemberKey) -> bool {
        let places = self.lock();
        places.ready_on.values().all(|&on| on == Some(member))
    }

    /// Nobody is being sent anywhere: where they went before says nothing of where they are now.
    pub(crate) fn call_back(&self) {
        for on in self.lock().ready_on.values_mut() {
            *on = None;
        }
    }

    /// Ends when all are there. Cancel-safe.
    pub(crate) async fn wait_for(&self, member: MemberKey) {
        loop {
            // Made before the look, so that a move after it is not missed.
            let moved = self.moved.notified();
            if self.are_on(member) {
                return;
            }
            moved.await;
        }
    }

    #[allow(clippy::disallowed_types)]
    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// All that this one needs is on `member`.
    #[cfg_attr(
        not(any(test, feature = "redis")),
        expect(dead_code, reason = "for backends")
    )]
    pub(crate) fn is_ready_on(&self, member: MemberKey) {
        let mut places = self.followers.lock();
        places.ready_on.insert(self.number, Some(member));
        drop(places);
        self.followers.moved.notify_waiters();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.followers.lock().ready_on.remove(&self.number);
        self.followers.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn all_must_be_there_and_who_leaves_is_not_waited_for() {
        let followers = Arc::new(Followers::default());
        let (east, west) = (MemberKey(1), MemberKey(2));
        assert!(followers.are_on(east), "there is nobody");
        let (one, two) = (followers.join(), followers.join());
        let mut waiting = Box::pin(followers.wait_for(west));
        one.is_ready_on(west);
        two.is_ready_on(east);
        assert!((&mut waiting).now_or_never().is_none());
        drop(two);
        assert!(waiting.now_or_never().is_some());
        followers.call_back();
        assert!(
            !followers.are_on(west),
            "for the next time it must say so again"
        );
    }
}
