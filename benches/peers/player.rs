//! What a client is asked to do, whichever it is.

use std::collections::BTreeMap;

use rustix::time::{ClockId, clock_gettime};

use crate::ours::Ours;
use crate::redis_py::RedisPy;

/// A client and how it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) client: &'static str,
    pub(crate) tuning: &'static str,
}

pub(crate) const OURS: Who = Who {
    client: "multidb",
    tuning: "default",
};
pub(crate) const OURS_FAST: Who = Who {
    client: "multidb",
    tuning: "fast",
};
pub(crate) const THEIRS: Who = Who {
    client: "redis-py",
    tuning: "default",
};
pub(crate) const THEIRS_AGGRESSIVE: Who = Who {
    client: "redis-py",
    tuning: "aggressive",
};
pub(crate) const ALL: [Who; 4] = [OURS, OURS_FAST, THEIRS, THEIRS_AGGRESSIVE];
pub(crate) const DEFAULTS: [Who; 2] = [OURS, THEIRS];

/// What a reader met until it was served elsewhere.
pub(crate) struct Read {
    /// By [`now_ns`].
    pub(crate) at_ns: u64,
    pub(crate) failed: u64,
    pub(crate) longest_ms: f64,
}

/// What became of calls.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) issued: u64,
    pub(crate) acknowledged: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Counted {
    pub(crate) fn add(&mut self, other: Self) {
        self.issued += other.issued;
        self.acknowledged += other.acknowledged;
        for (name, count) in other.errors {
            *self.errors.entry(name).or_default() += count;
        }
    }

    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// One client over two databases, the first with twice the weight of the second.
pub(crate) enum Player {
    Ours(Ours),
    RedisPy(Box<RedisPy>),
}

impl Player {
    pub(crate) async fn connect(who: Who, addresses: &[String; 2]) -> Result<Self, String> {
        if who.client == OURS.client {
            return Ours::connect(who, addresses).await.map(Self::Ours);
        }
        let theirs = RedisPy::connect(who, addresses).await?;
        Ok(Self::RedisPy(Box::new(theirs)))
    }

    /// Begins to read `key`, a call every 5 ms, until the second server has answered.
    pub(crate) async fn read(&mut self, key: &str) -> Result<(), String> {
        match self {
            Self::Ours(ours) => ours.read(key),
            Self::RedisPy(theirs) => theirs.read(key).await?,
        }
        Ok(())
    }

    /// When that was.
    pub(crate) async fn elsewhere(&mut self) -> Result<Read, String> {
        match self {
            Self::Ours(ours) => ours.elsewhere().await,
            Self::RedisPy(theirs) => theirs.elsewhere().await,
        }
    }

    /// Begins to listen; messages are `SERVER:NUMBER`.
    pub(crate) async fn subscribe(&mut self, channel: &str) -> Result<(), String> {
        match self {
            Self::Ours(ours) => ours.subscribe(channel).await,
            Self::RedisPy(theirs) => theirs.subscribe(channel).await,
        }
    }

    /// When the first message of the second server came.
    pub(crate) async fn heard_elsewhere(&mut self) -> Result<u64, String> {
        match self {
            Self::Ours(ours) => ours.heard_elsewhere().await,
            Self::RedisPy(theirs) => theirs.heard_elsewhere().await,
        }
    }

    /// All numbers that came. Ends the listening.
    pub(crate) async fn received(&mut self) -> Result<Vec<u64>, String> {
        match self {
            Self::Ours(ours) => Ok(ours.received()),
            Self::RedisPy(theirs) => theirs.received().await,
        }
    }

    /// One INCR by each of so many callers at the same time.
    pub(crate) async fn incr(&mut self, key: &str, callers: usize) -> Result<Counted, String> {
        match self {
            Self::Ours(ours) => ours.incr(key, callers).await,
            Self::RedisPy(theirs) => theirs.incr(key, callers).await,
        }
    }

    /// INCR after INCR by each of so many callers, until [`unload`](Self::unload).
    pub(crate) async fn load(&mut self, key: &str, callers: usize) -> Result<(), String> {
        match self {
            Self::Ours(ours) => ours.load(key, callers),
            Self::RedisPy(theirs) => theirs.load(key, callers).await?,
        }
        Ok(())
    }

    pub(crate) async fn unload(&mut self) -> Result<Counted, String> {
        match self {
            Self::Ours(ours) => ours.unload().await,
            Self::RedisPy(theirs) => theirs.unload().await,
        }
    }

    /// A planned switch to the first or the second database.
    pub(crate) async fn switch(&mut self, to: usize) -> Result<(), String> {
        match self {
            Self::Ours(ours) => ours.switch(to).await,
            Self::RedisPy(theirs) => theirs.switch(to).await,
        }
    }
}

/// Of the clock that all processes of the machine share, which is Python's `time.monotonic_ns()`.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
