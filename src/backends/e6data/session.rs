//! The session with one stack: shared by its connections, renewed by one of them at a time.

// Held for a few instructions, never across an await.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{Arc, PoisonError};

/// The session of one database of one client.
#[derive(Default)]
pub(super) struct Sessions {
    #[allow(clippy::disallowed_types)]
    current: Mutex<Option<Arc<str>>>,
    /// Held by whoever authenticates; the others wait for what comes of it.
    pub(super) renewing: tokio::sync::Mutex<()>,
}

impl Sessions {
    /// The current one, unless it is the one known to be bad.
    pub(super) fn current(&self, bad: Option<&str>) -> Option<Arc<str>> {
        let current = self.lock().clone();
        current.filter(|session| bad != Some(session))
    }

    /// What authentication gave; for whoever begins from now on.
    pub(super) fn set(&self, session: &str) -> Arc<str> {
        let session: Arc<str> = session.into();
        *self.lock() = Some(session.clone());
        session
    }

    /// The stack went on to another session in its answer to `sent`. Says which one to go on with.
    pub(super) fn adopt(&self, sent: &Arc<str>, answered: &str) -> Arc<str> {
        if answered.is_empty() || **sent == *answered {
            return sent.clone();
        }
        let next: Arc<str> = answered.into();
        let mut current = self.lock();
        // One that has been renewed meanwhile is younger than this answer.
        if current.as_deref() == Some(sent) {
            *current = Some(next.clone());
        }
        next
    }

    /// The stack does not know it any more.
    pub(super) fn expire(&self, bad: &str) {
        let mut current = self.lock();
        if current.as_deref() == Some(bad) {
            *current = None;
        }
    }

    #[allow(clippy::disallowed_types)]
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<str>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_replaced_only_by_news_of_itself() {
        let sessions = Sessions::default();
        let first = sessions.set("1");
        let rotated = sessions.adopt(&first, "2");
        assert_eq!(
            (&*rotated, sessions.current(None).as_deref()),
            ("2", Some("2"))
        );
        assert_eq!(&*sessions.adopt(&first, "3"), "3", "for this query alone");
        assert_eq!(sessions.current(None).as_deref(), Some("2"));
        assert_eq!(&*sessions.adopt(&rotated, ""), "2");
        sessions.expire("1");
        assert_eq!(
            sessions.current(None).as_deref(),
            Some("2"),
            "that was another one"
        );
        assert_eq!(sessions.current(Some("2")), None);
        sessions.expire("2");
        assert_eq!(sessions.current(None), None);
    }
}
