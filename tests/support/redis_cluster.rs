//! A real Redis Cluster of `redis-server` processes.

use std::time::Duration;

use super::eventually;
use super::redis_server::RedisServer;

/// Nodes on 127.0.0.1: first the primaries, with equal shares of the slots, then a replica of each if
/// there are any.
pub(crate) struct RedisCluster {
    pub(crate) nodes: Vec<RedisServer>,
    primaries: usize,
}

impl RedisCluster {
    pub(crate) async fn start(primaries: usize, with_replicas: bool) -> Self {
        let count = if with_replicas {
            primaries * 2
        } else {
            primaries
        };
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(RedisServer::builder().cluster_node().start().await);
        }
        let cluster = Self { nodes, primaries };
        let share = SLOTS / primaries;
        for (n, node) in cluster.nodes.iter().enumerate() {
            let epoch = (n + 1).to_string();
            let () = node.cmd(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            if n < primaries {
                let last = if n + 1 == primaries {
                    SLOTS
                } else {
                    (n + 1) * share
                } - 1;
                let (first, last) = ((n * share).to_string(), last.to_string());
                let () = node.cmd(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            }
            let (port, bus) = (node.addr().port().to_string(), node.bus_port().to_string());
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &bus];
            let () = cluster.nodes[0].cmd(&meet).await;
        }
        cluster
            .settle("all know all", async |node| known(node).await == count)
            .await;
        for (n, replica) in cluster.nodes.iter().enumerate().skip(primaries) {
            let of = cluster.id(n - primaries).await;
            eventually(LIMIT, "a replica is taken in", async || {
                let order = ["CLUSTER", "REPLICATE", &of];
                replica.try_cmd::<()>(&order).await.is_ok()
            })
            .await;
        }
        cluster
            .settle("all find it well", async |node| is_ok(node).await)
            .await;
        for replica in &cluster.nodes[primaries..] {
            eventually(LIMIT, "a replica is up to date", async || {
                let info: String = replica.cmd(&["INFO", "replication"]).await;
                info.contains("master_link_status:up")
            })
            .await;
        }
        cluster
    }

    /// `redis-cluster://…`, by its first node.
    pub(crate) fn url(&self) -> String {
        format!("redis-cluster://{}", self.nodes[0].addr())
    }

    /// The number of the primary that serves a slot in the beginning.
    pub(crate) fn first_owner(&self, slot: u16) -> usize {
        (usize::from(slot) / (SLOTS / self.primaries)).min(self.primaries - 1)
    }

    pub(crate) async fn id(&self, node: usize) -> String {
        self.nodes[node].cmd(&["CLUSTER", "MYID"]).await
    }

    /// A key that the node served in the beginning.
    pub(crate) async fn key_of(&self, node: usize, stem: &str) -> String {
        for n in 0.. {
            let key = format!("{stem}:{n}");
            let slot: u16 = self.nodes[0].cmd(&["CLUSTER", "KEYSLOT", &key]).await;
            if self.first_owner(slot) == node {
                return key;
            }
        }
        unreachable!("every node has slots")
    }

    /// Hands the slot of a key over, which holds nothing. The one that has it then knows first.
    pub(crate) async fn hand_over(&self, key: &str, from: usize, to: usize) {
        let slot: u16 = self.nodes[0].cmd(&["CLUSTER", "KEYSLOT", key]).await;
        let (slot, to_id) = (slot.to_string(), self.id(to).await);
        for node in [to, from] {
            let order = ["CLUSTER", "SETSLOT", &slot, "NODE", &to_id];
            let () = self.nodes[node].cmd(&order).await;
        }
    }

    async fn settle(&self, what: &str, condition: impl AsyncFn(&RedisServer) -> bool) {
        for node in &self.nodes {
            eventually(LIMIT, what, async || condition(node).await).await;
        }
    }
}

async fn known(node: &RedisServer) -> usize {
    let nodes: String = node.cmd(&["CLUSTER", "NODES"]).await;
    nodes
        .lines()
        .filter(|line| !line.contains("handshake"))
        .count()
}

pub(crate) async fn is_ok(node: &RedisServer) -> bool {
    let info: String = node.cmd(&["CLUSTER", "INFO"]).await;
    info.contains("cluster_state:ok")
}

const SLOTS: usize = 16384;
const LIMIT: Duration = Duration::from_secs(20);
