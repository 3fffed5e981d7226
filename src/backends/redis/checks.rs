//! Health checks beside the ping.

use std::time::Duration;

use ::redis::cmd;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::endpoint::RedisEndpoint;
use super::handle::{Redis, RedisHandle};
use super::server::text_of;
use crate::engine::backend::{Fault, FaultKind, Verdict};
use crate::engine::database::Database;
use crate::engine::health::HealthCheck;

/// Checks that a database takes writes, by setting a key that expires within a second.
///
/// A ping says PONG on a database that is full, read-only or short of replicas.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteProbe;

/// Checks that a replica is up to date with its master, by `INFO replication`. A master is.
///
/// One that lags is degraded: the active database is not left for it, a heavier one is not returned to
/// before it has caught up, and in a failover it comes last. For databases that replicate from each
/// other and are promoted by somebody else; independent ones have nothing to lag behind.
#[derive(Clone, Copy, Debug)]
pub struct ReplicationLag {
    tolerance: Duration,
}

/// Checks that no node of a Redis Cluster is failing in the eyes of another one, replicas included, by
/// `CLUSTER NODES`.
///
/// A cluster is healthy by itself when every primary answers. One with a failing replica serves as well,
/// but the next loss may be one too many: it is degraded, so that it is not returned to and comes last in
/// a failover. Anything that is no cluster passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct EveryNode;

// === impl WriteProbe ===

impl HealthCheck<Redis> for WriteProbe {
    fn name(&self) -> &str {
        "write probe"
    }

    fn check<'a>(
        &'a self,
        _: &'a Database<RedisEndpoint>,
        handle: &'a RedisHandle,
    ) -> BoxFuture<'a, Verdict> {
        handle.write_probe().boxed()
    }
}

// === impl ReplicationLag ===

impl ReplicationLag {
    /// Tolerates so long a silence of the master, in whole seconds: the server counts in them, and a
    /// master that has nothing to say pings its replicas every 10 s by default (`repl-ping-replica-period`).
    #[must_use]
    pub fn up_to(tolerance: Duration) -> Self {
        Self { tolerance }
    }

    fn verdict(self, info: &str) -> Verdict {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
        };
        let seconds = |name| field(name).and_then(|text| text.parse::<u64>().ok());
        let degraded = |what: String| Verdict::Degraded(Fault::new(FaultKind::State, what));
        match field("role") {
            Some("master") => return Verdict::Healthy,
            Some("slave" | "replica") => {}
            _ => return degraded("it does not say whether it replicates".to_owned()),
        }
        if field("master_sync_in_progress") == Some("1") {
            return degraded("copying its master".to_owned());
        }
        if field("master_link_status") != Some("up") {
            let since = seconds("master_link_down_since_seconds").unwrap_or_default();
            return degraded(format!("cut off from its master for {since} s"));
        }
        // Minus one, for a link that has only just come up, is no number of seconds.
        match seconds("master_last_io_seconds_ago") {
            Some(silent) if silent <= self.tolerance.as_secs() => Verdict::Healthy,
            Some(silent) => degraded(format!("its master has been silent for {silent} s")),
            None => degraded("it has not heard of its master yet".to_owned()),
        }
    }
}

impl HealthCheck<Redis> for ReplicationLag {
    fn name(&self) -> &str {
        "replication lag"
    }

    fn check<'a>(
        &'a self,
        _: &'a Database<RedisEndpoint>,
        handle: &'a RedisHandle,
    ) -> BoxFuture<'a, Verdict> {
        async {
            match handle.ask(cmd("INFO").arg("replication")).await {
                Ok(reply) => self.verdict(&text_of(reply).unwrap_or_default()),
                Err(fault) => Verdict::Unhealthy(fault),
            }
        }
        .boxed()
    }
}

// === impl EveryNode ===

impl HealthCheck<Redis> for EveryNode {
    fn name(&self) -> &str {
        "every node"
    }

    fn check<'a>(
        &'a self,
        _: &'a Database<RedisEndpoint>,
        handle: &'a RedisHandle,
    ) -> BoxFuture<'a, Verdict> {
        async {
            match handle.ask(cmd("CLUSTER").arg("NODES")).await {
                Ok(reply) => of_nodes(&text_of(reply).unwrap_or_default()),
                // No cluster, or nobody who may ask.
                Err(fault) if fault.kind == FaultKind::Other => Verdict::Healthy,
                Err(fault) => Verdict::Unhealthy(fault),
            }
        }
        .boxed()
    }
}

/// A line is a node: its id, its address, its flags, …
fn of_nodes(text: &str) -> Verdict {
    let failing = text.lines().filter(|line| {
        let flags = line.split(' ').nth(2).unwrap_or_default();
        let mut flags = flags.split(',');
        flags.any(|flag| matches!(flag, "fail" | "fail?" | "noaddr"))
    });
    match failing.count() {
        0 => Verdict::Healthy,
        count => {
            let nodes = if count == 1 { "node is" } else { "nodes are" };
            let what = format!("{count} {nodes} failing");
            Verdict::Degraded(Fault::new(FaultKind::State, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_another_one_misses_is_a_reservation() {
        let nodes = |flags: [&str; 2]| {
            let line =
                |flags| format!("f00 10.0.0.1:6379@16379,host {flags} - 0 0 1 connected 0-5\n");
            of_nodes(&flags.map(line).concat())
        };
        assert_eq!(nodes(["myself,master", "slave"]), Verdict::Healthy);
        for flags in ["slave,fail", "slave,fail?", "master,noaddr"] {
            let Verdict::Degraded(fault) = nodes(["myself,master", flags]) else {
                panic!("{flags} is well");
            };
            assert_eq!(fault.what, "1 node is failing");
        }
        assert_eq!(of_nodes(""), Verdict::Healthy);
    }

    fn said(info: &str) -> Option<String> {
        match ReplicationLag::up_to(Duration::from_secs(10)).verdict(info) {
            Verdict::Healthy => None,
            Verdict::Degraded(fault) => Some(fault.what),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_master_and_a_replica_that_hears_of_its_master_are_up_to_date() {
        assert_eq!(
            said("# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"),
            None
        );
        let fresh = "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:10\r\n";
        assert_eq!(said(fresh), None);
    }

    #[test]
    fn what_is_said_against_a_replica_names_the_reason() {
        let link = |rest: &str| said(&format!("role:slave\r\n{rest}\r\n")).unwrap();
        let up = "master_link_status:up\r\nmaster_last_io_seconds_ago";
        assert_eq!(
            link(&format!("{up}:11")),
            "its master has been silent for 11 s"
        );
        assert_eq!(
            link(&format!("{up}:-1")),
            "it has not heard of its master yet"
        );
        let down = "master_link_status:down\r\nmaster_link_down_since_seconds:7";
        assert_eq!(link(down), "cut off from its master for 7 s");
        let copying = "master_sync_in_progress:1\r\nmaster_link_status:down";
        assert_eq!(link(copying), "copying its master");
        assert!(said("loading:0").is_some());
    }
}
