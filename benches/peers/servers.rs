//! Two servers that all clients share.

use crate::support::redis_server::RedisServer;

/// What a read of [`NAME`] is answered: which of the two it was.
pub(crate) const NAMES: [&str; 2] = ["a", "b"];
pub(crate) const NAME: &str = "name";

pub(crate) async fn pair() -> [RedisServer; 2] {
    let servers = [RedisServer::start().await, RedisServer::start().await];
    for (server, name) in servers.iter().zip(NAMES) {
        let () = server.cmd(&["SET", NAME, name]).await;
    }
    servers
}

pub(crate) fn addresses(servers: &[RedisServer; 2]) -> [String; 2] {
    servers.each_ref().map(|server| server.addr().to_string())
}

/// What a counter came to on both together.
pub(crate) async fn applied(servers: &[RedisServer; 2], key: &str) -> u64 {
    let mut sum = 0;
    for server in servers {
        let count: Option<u64> = server.cmd(&["GET", key]).await;
        sum += count.unwrap_or_default();
    }
    sum
}
