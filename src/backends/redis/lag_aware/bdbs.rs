//! Which of a cluster's databases is meant: by the host and the port it is reached at.

use std::collections::VecDeque;
use std::net::IpAddr;
// Taken before and after a request, never while one is under way.
#[allow(clippy::disallowed_types)]
use std::sync::Mutex;
use std::sync::{MutexGuard, PoisonError};

use serde::Deserialize;

use super::rest::Base;
use crate::engine::database::DatabaseId;

/// A database as its client and its cluster know it. One that was given another endpoint is another.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: DatabaseId,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) base: Base,
}

/// The uids of the places asked for last.
#[derive(Default)]
pub(super) struct Uids {
    /// The one asked for last comes last.
    #[allow(clippy::disallowed_types)]
    known: Mutex<VecDeque<(Place, u64)>>,
}

/// Nobody says when a database is removed, so those asked for longest ago are forgotten. One forgotten
/// too early costs one more request.
const MOST_KNOWN: usize = 256;

/// One database of a cluster, of the fields asked for. What a future cluster leaves out or adds does no
/// harm.
#[derive(Deserialize)]
struct Bdb {
    uid: u64,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize)]
struct Endpoint {
    dns_name: Option<String>,
    addr: Option<Vec<String>>,
    port: Option<u16>,
}

/// What came is no list of databases.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoList;

/// The uid of the database at this host and port, if the list has one.
pub(super) fn find(list: &[u8], host: &str, port: u16) -> Result<Option<u64>, NoList> {
    let list: Vec<Bdb> = serde_json::from_slice(list).map_err(|_| NoList)?;
    let found = list.iter().find(|bdb| {
        let mut endpoints = bdb.endpoints.iter().flatten();
        endpoints.any(|endpoint| endpoint.is_at(host, port))
    });
    Ok(found.map(|bdb| bdb.uid))
}

// === impl Endpoint ===

impl Endpoint {
    fn is_at(&self, host: &str, port: u16) -> bool {
        let mut names = self.dns_name.iter().chain(self.addr.iter().flatten());
        self.port == Some(port) && names.any(|name| is_same_host(name, host))
    }
}

/// An address may be written in many ways, a name in upper case and with the dot of the root.
fn is_same_host(a: &str, b: &str) -> bool {
    if let (Ok(a), Ok(b)) = (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        return a.to_canonical() == b.to_canonical();
    }
    let bare = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    !a.is_empty() && bare(a) == bare(b)
}

// === impl Uids ===

impl Uids {
    pub(super) fn of(&self, place: &Place) -> Option<u64> {
        let mut known = self.lock();
        let index = known.iter().position(|(known, _)| known == place)?;
        let (place, uid) = known.remove(index)?;
        known.push_back((place, uid));
        Some(uid)
    }

    pub(super) fn learn(&self, place: Place, uid: u64) {
        let mut known = self.lock();
        known.retain(|(known, _)| known.id != place.id);
        if known.len() == MOST_KNOWN {
            known.pop_front();
        }
        known.push_back((place, uid));
    }

    pub(super) fn forget(&self, place: &Place) {
        self.lock().retain(|(known, _)| known != place);
    }

    #[allow(clippy::disallowed_types)]
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Place, u64)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = br#"[
        {"uid": 1, "endpoints": []},
        {"uid": 2},
        {"uid": 3, "endpoints": [{"dns_name": null, "addr": null, "port": null, "uid": "3:1"}]},
        {"uid": 4, "endpoints": [
            {"dns_name": "db.example", "addr": ["10.0.0.1", "2001:DB8:0::1"], "port": 12000},
            {"dns_name": "internal.db.example", "addr": ["10.1.0.1"], "port": 12001}]},
        {"uid": 5, "endpoints": [{"dns_name": "DB.example.", "addr": ["10.0.0.1"], "port": 12005}]},
        {"uid": 6, "endpoints": [{"dns_name": "", "addr": [""], "port": 12006, "later": {}}]}
    ]"#;

    #[test]
    fn a_database_is_found_by_its_host_and_its_port_together() {
        for (host, port, uid) in [
            ("db.example", 12000, Some(4)),
            ("db.example", 12005, Some(5)),
            ("Db.Example.", 12000, Some(4)),
            ("10.0.0.1", 12005, Some(5)),
            ("10.0.0.1", 12000, Some(4)),
            ("2001:db8::1", 12000, Some(4)),
            ("::ffff:10.1.0.1", 12001, Some(4)),
            ("10.1.0.1", 12000, None),
            ("db.example", 12001, None),
            ("b.example", 12000, None),
            ("db.example", 6379, None),
            ("", 12006, None),
            (".", 12006, None),
        ] {
            assert_eq!(find(LIST, host, port), Ok(uid), "{host}:{port}");
        }
    }

    #[test]
    fn what_is_no_list_of_databases_is_told_from_one_without_a_match() {
        assert_eq!(find(b"[]", "db.example", 1), Ok(None));
        let deep = vec![b'['; 100_000];
        for no_list in [
            &b""[..],
            b"{}",
            b"null",
            b"[{\"uid\":\"../4\"}]",
            b"[",
            &deep,
        ] {
            assert_eq!(find(no_list, "db.example", 1), Err(NoList));
        }
    }

    fn place(id: &str, port: u16) -> Place {
        Place {
            id: DatabaseId::new(id).unwrap(),
            host: "db.example".to_owned(),
            port,
            base: Base::of("db.example", 9443),
        }
    }

    #[test]
    fn a_database_that_moved_is_another_and_what_it_was_is_forgotten() {
        let uids = Uids::default();
        uids.learn(place("east", 1), 4);
        assert_eq!(uids.of(&place("east", 1)), Some(4));
        assert_eq!(uids.of(&place("west", 1)), None);
        let elsewhere = Place {
            base: Base::of("rest.example", 9443),
            ..place("east", 1)
        };
        assert_eq!(uids.of(&elsewhere), None);
        uids.learn(place("east", 2), 5);
        assert_eq!(uids.of(&place("east", 1)), None);
        assert_eq!(uids.of(&place("east", 2)), Some(5));
        uids.forget(&place("east", 2));
        assert_eq!(uids.of(&place("east", 2)), None);
    }

    #[test]
    fn databases_that_come_and_go_do_not_pile_up() {
        let uids = Uids::default();
        uids.learn(place("stays", 1), 1);
        for number in 0..10_000 {
            uids.learn(place(&format!("guest {number}"), 1), 2);
            assert_eq!(uids.of(&place("stays", 1)), Some(1));
        }
        assert_eq!(uids.lock().len(), MOST_KNOWN);
    }
}
