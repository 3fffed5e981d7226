//! A value that one writes and many look at and wait for.

// Held for the time of a clone.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The latest value, and those who wait for another one.
///
/// As tokio's `watch`, except that whoever waits is woken in the order of coming. `watch` shuffles
/// them: here the call that has waited longest goes on first, and a simulation can be repeated to the
/// letter.
pub(crate) struct Published<T> {
    #[allow(clippy::disallowed_types)]
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Clone> Published<T> {
    #[allow(clippy::disallowed_types)]
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Notify::new(),
        }
    }

    pub(crate) fn get(&self) -> T {
        self.lock().clone()
    }

    pub(crate) fn set(&self, value: T) {
        // Dropped outside the lock: it may own a connection.
        let _old = std::mem::replace(&mut *self.lock(), value);
        self.changed.notify_waiters();
    }

    /// The first value from now on for which it holds. Cancel-safe.
    pub(crate) async fn wait_for(&self, mut condition: impl FnMut(&T) -> bool) -> T {
        loop {
            // Made before the look, so that a change after it is not missed.
            let changed = self.changed.notified();
            let value = self.get();
            if condition(&value) {
                return value;
            }
            changed.await;
        }
    }

    #[allow(clippy::disallowed_types)]
    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn who_waits_sees_a_change_made_at_any_moment() {
        let published = Arc::new(Published::new(0));
        assert_eq!(published.wait_for(|&n| n == 0).await, 0, "at once");
        let waiting = tokio::spawn({
            let published = published.clone();
            async move { published.wait_for(|&n| n >= 2).await }
        });
        for n in 1..=2 {
            yield_now().await;
            published.set(n);
        }
        assert_eq!(waiting.await.unwrap(), 2);
        assert_eq!(published.get(), 2);
    }

    #[tokio::test]
    async fn whoever_has_waited_longest_goes_on_first() {
        let published = Arc::new(Published::new(0));
        let (told, mut order) = mpsc::unbounded_channel();
        for waiter in 0..40 {
            let (published, told) = (published.clone(), told.clone());
            tokio::spawn(async move {
                published.wait_for(|&n| n == 2).await;
                told.send(waiter).unwrap();
            });
        }
        for n in 1..=2 {
            yield_now().await;
            published.set(n);
        }
        for waiter in 0..40 {
            assert_eq!(order.recv().await, Some(waiter));
        }
    }
}
