//! What the integration tests share. Included with `mod support;` (which is why this is a
//! `mod.rs`: a `tests/support.rs` would be a test of its own).
#![allow(dead_code, reason = "every test binary uses its own part")]

pub(crate) mod held;
#[cfg(all(feature = "redis", feature = "testing"))]
pub(crate) mod load;
pub(crate) mod redis_cluster;
pub(crate) mod redis_server;
#[cfg(all(feature = "redis", feature = "testing"))]
pub(crate) mod witness;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Polls `condition` until it holds. Panics, naming `what` was expected, if that takes longer than
/// `limit`, the time a hanging condition takes included.
pub(crate) async fn eventually(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let deadline = Instant::now() + limit;
    while timeout_at(deadline, condition()).await != Ok(true) {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep(POLL).await;
    }
}

const POLL: Duration = Duration::from_millis(2);
