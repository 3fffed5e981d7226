//! What one connection listens to.

/// Channels, patterns and shard channels, each in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    channels: Vec<Vec<u8>>,
    patterns: Vec<Vec<u8>>,
    shards: Vec<Vec<u8>>,
}

/// The kinds of things that can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Channel,
    Pattern,
    Shard,
}

impl Subscriptions {
    pub(super) fn of(&self, topic: Topic) -> &[Vec<u8>] {
        match topic {
            Topic::Channel => &self.channels,
            Topic::Pattern => &self.patterns,
            Topic::Shard => &self.shards,
        }
    }

    pub(super) fn add(&mut self, topic: Topic, name: &[u8]) {
        if !self.has(topic, name) {
            self.names(topic).push(name.to_vec());
        }
    }

    pub(super) fn remove(&mut self, topic: Topic, name: &[u8]) {
        self.names(topic).retain(|known| known != name);
    }

    pub(super) fn has(&self, topic: Topic, name: &[u8]) -> bool {
        self.of(topic).iter().any(|known| known == name)
    }

    /// What an acknowledgement counts: shard channels apart, all others together.
    pub(super) fn count(&self, topic: Topic) -> usize {
        match topic {
            Topic::Channel | Topic::Pattern => self.channels.len() + self.patterns.len(),
            Topic::Shard => self.shards.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count(Topic::Channel) + self.count(Topic::Shard) == 0
    }

    fn names(&mut self, topic: Topic) -> &mut Vec<Vec<u8>> {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
            Topic::Shard => &mut self.shards,
        }
    }
}
