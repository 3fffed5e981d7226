//! What is subscribed to.

use std::fmt;
use std::sync::Arc;

use ::redis::{PushKind, ToRedisArgs};

/// How a message is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// `SUBSCRIBE`.
    Channel,
    /// `PSUBSCRIBE`.
    Pattern,
    /// `SSUBSCRIBE`; Redis 7 and later, over RESP3.
    ShardChannel,
}

/// A channel or a pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) kind: Kind,
    pub(super) bytes: Arc<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Add,
    Remove,
}

/// One step from what is subscribed to towards what should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) verb: Verb,
    pub(super) name: Name,
}

impl Kind {
    pub(super) fn command(self, verb: Verb) -> &'static str {
        match (verb, self) {
            (Verb::Add, Self::Channel) => "SUBSCRIBE",
            (Verb::Add, Self::Pattern) => "PSUBSCRIBE",
            (Verb::Add, Self::ShardChannel) => "SSUBSCRIBE",
            (Verb::Remove, Self::Channel) => "UNSUBSCRIBE",
            (Verb::Remove, Self::Pattern) => "PUNSUBSCRIBE",
            (Verb::Remove, Self::ShardChannel) => "SUNSUBSCRIBE",
        }
    }

    /// What a server pushes in answer.
    pub(super) fn confirmation(self, verb: Verb) -> PushKind {
        match (verb, self) {
            (Verb::Add, Self::Channel) => PushKind::Subscribe,
            (Verb::Add, Self::Pattern) => PushKind::PSubscribe,
            (Verb::Add, Self::ShardChannel) => PushKind::SSubscribe,
            (Verb::Remove, Self::Channel) => PushKind::Unsubscribe,
            (Verb::Remove, Self::Pattern) => PushKind::PUnsubscribe,
            (Verb::Remove, Self::ShardChannel) => PushKind::SUnsubscribe,
        }
    }
}

impl Name {
    pub(super) fn all(kind: Kind, names: &impl ToRedisArgs) -> Vec<Self> {
        let names = names.to_redis_args().into_iter();
        names
            .map(|bytes| Self {
                kind,
                bytes: bytes.into(),
            })
            .collect()
    }
}

/// A user's names are not shown.
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} bytes", self.kind, self.bytes.len())
    }
}
