//! The nodes of a cluster that we are connected to, and which of them serves a slot.

use super::slots::{Layout, SLOTS};
use crate::backends::redis::endpoint::place::Address;
use crate::backends::redis::server::Server;

/// Never changed: a change makes another one.
#[derive(Clone)]
pub(super) struct Map {
    /// By slot, the index of the node that serves it.
    owners: Vec<u16>,
    /// In the order of their addresses.
    nodes: Vec<Node>,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) connected: Option<Connected>,
}

#[derive(Clone)]
pub(super) struct Connected {
    pub(super) handle: Server,
    /// Distinguishes connections to the same address.
    pub(super) serial: u64,
}

const NOBODY: u16 = u16::MAX;

impl Map {
    pub(super) fn empty() -> Self {
        Self {
            owners: vec![NOBODY; SLOTS],
            nodes: Vec::new(),
        }
    }

    /// As the layout has it. Connections to nodes that stay are kept.
    pub(super) fn arranged(&self, layout: &Layout) -> Self {
        let mut map = Self::empty();
        let primaries = layout.primaries().into_iter();
        map.nodes = (primaries.map(|address| Node {
            address: address.clone(),
            connected: self.node(address).and_then(|node| node.connected.clone()),
        }))
        .collect();
        for (range, address) in layout.ranges() {
            let index = map.index(address).map_or(NOBODY, |index| index as u16);
            for slot in range {
                map.owners[usize::from(slot)] = index;
            }
        }
        map
    }

    /// With a slot served by another node, which may be new.
    pub(super) fn moved(&self, slot: u16, to: &Address) -> Self {
        let mut map = self.with(to, None);
        if let Some(index) = map.index(to) {
            map.owners[usize::from(slot)] = index as u16;
        }
        map
    }

    /// With a node, connected like this.
    pub(super) fn with(&self, address: &Address, connected: Option<Connected>) -> Self {
        let mut map = self.clone();
        match map.nodes.binary_search_by(|node| node.address.cmp(address)) {
            Ok(at) => {
                let known = &mut map.nodes[at].connected;
                *known = connected.or(known.take());
            }
            Err(at) => {
                for owner in map.owners.iter_mut().filter(|owner| **owner != NOBODY) {
                    *owner += u16::from(usize::from(*owner) >= at);
                }
                map.nodes.insert(
                    at,
                    Node {
                        address: address.clone(),
                        connected,
                    },
                );
            }
        }
        map
    }

    /// Without this connection.
    pub(super) fn without(&self, address: &Address, serial: u64) -> Self {
        let mut map = self.clone();
        if let Some(index) = map.index(address) {
            let connected = &mut map.nodes[index].connected;
            if connected
                .as_ref()
                .is_some_and(|known| known.serial == serial)
            {
                *connected = None;
            }
        }
        map
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Node> {
        let owner = *self.owners.get(usize::from(slot))?;
        self.nodes.get(usize::from(owner))
    }

    pub(super) fn node(&self, address: &Address) -> Option<&Node> {
        self.nodes.get(self.index(address)?)
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn is_owner(&self, address: &Address) -> bool {
        let index = self.index(address).map(|index| index as u16);
        index.is_some_and(|index| self.owners.contains(&index))
    }

    /// Those that serve slots, in the order of their addresses.
    pub(super) fn primaries(&self) -> Vec<Address> {
        let mut serves = vec![false; self.nodes.len()];
        for owner in &self.owners {
            if let Some(serves) = serves.get_mut(usize::from(*owner)) {
                *serves = true;
            }
        }
        let nodes = self.nodes.iter().zip(serves);
        nodes
            .filter(|(_, serves)| *serves)
            .map(|(node, _)| node.address.clone())
            .collect()
    }

    /// Ends all connections. Idempotent.
    pub(super) fn end(&self) {
        let connected = self.nodes.iter().filter_map(|node| node.connected.as_ref());
        connected.for_each(|connected| connected.handle.abort());
    }

    pub(super) fn is_complete(&self) -> bool {
        !self.owners.contains(&NOBODY)
    }

    fn index(&self, address: &Address) -> Option<usize> {
        let found = (self.nodes).binary_search_by(|node| node.address.cmp(address));
        found.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::Value;

    fn at(name: &str) -> Address {
        Address::Tcp {
            host: name.to_owned(),
            port: 1,
        }
    }

    fn layout(ranges: &[(i64, i64, &str)]) -> Layout {
        let entry = |(first, last, host): &(i64, i64, &str)| {
            let host = Value::BulkString(host.as_bytes().to_vec());
            let primary = Value::Array(vec![host, Value::Int(1)]);
            Value::Array(vec![Value::Int(*first), Value::Int(*last), primary])
        };
        Layout::parse(&Value::Array(ranges.iter().map(entry).collect()), "").unwrap()
    }

    fn owner(map: &Map, slot: u16) -> Option<Address> {
        map.owner(slot).map(|node| node.address.clone())
    }

    #[test]
    fn a_new_node_takes_no_slot_from_the_others() {
        let map = Map::empty().arranged(&layout(&[(0, 99, "b"), (100, 16383, "d")]));
        assert!(map.is_complete());
        for newcomer in ["a", "c", "e"] {
            let map = map.moved(7, &at(newcomer));
            assert_eq!(owner(&map, 7), Some(at(newcomer)));
            assert_eq!(owner(&map, 8), Some(at("b")));
            assert_eq!(owner(&map, 100), Some(at("d")));
            assert_eq!(map.primaries().len(), 3);
        }
        let map = map.with(&at("a"), None);
        assert_eq!(map.primaries(), [at("b"), at("d")], "it serves nothing");
        assert!(!map.is_owner(&at("a")));
    }

    #[test]
    fn slots_without_a_node_are_seen() {
        let map = Map::empty().arranged(&layout(&[(0, 99, "b")]));
        assert!(!map.is_complete());
        assert_eq!(owner(&map, 100), None);
    }
}
