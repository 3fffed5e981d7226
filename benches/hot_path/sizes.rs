//! Bytes: of a handle, and of the future that `ConnectionLike` boxes for every command.

use multidb::MultiDbConnection;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use crate::clients::{SMALL, bare, key, ours};
use crate::report::Report;
use crate::support::redis_server::RedisServer;

pub(crate) async fn measure(server: &RedisServer, report: Report) {
    let url = server.url();
    let (mut bare, mut ours) = (bare(&url).await, ours(&url).await);
    let mut get = redis::cmd("GET");
    get.arg(key(SMALL));
    report.title("bytes");
    let tell = |figure: &str, what: &str, bare: usize, ours: usize| {
        report.figure(
            &json!({"figure": figure, "bare": bare, "value": ours}),
            format_args!("{what}: bare {bare}, ours {ours}"),
        );
    };
    tell(
        "handle_bytes",
        "a handle",
        size_of::<MultiplexedConnection>(),
        size_of::<MultiDbConnection>(),
    );
    tell(
        "future_bytes",
        "a command's future",
        size_of_val(&bare.send_packed_command(&get)),
        size_of_val(&ours.send_packed_command(&get)),
    );
}
