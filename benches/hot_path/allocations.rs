//! Allocations per command, ours minus bare, by memcheck.
//!
//! A counting allocator would do as well, but none can be written without `unsafe`.

use serde_json::json;

use crate::clients::{Habit, SMALL, Shape};
use crate::counted::{Connection, Work};
use crate::report::{Report, rounded, verdict};
use crate::support::redis_server::RedisServer;
use crate::valgrind::Count;

pub(crate) fn measure(server: &RedisServer, report: Report) -> Result<(), String> {
    report.title("allocations per command, all threads");
    for tasks in [1, 64] {
        report.progress(format_args!("allocations, {tasks} tasks"));
        let count = |connection| {
            let work = Work {
                connection,
                shape: Shape::Value(SMALL),
                habit: Habit::Keep,
                tasks,
                requests: REQUESTS,
                url: server.url(),
            };
            work.per_request(Count::Allocations)
        };
        let (bare, ours) = (count(Connection::Bare)?, count(Connection::Ours)?);
        let extra = rounded(ours - bare);
        report.figure(
            &json!({"figure": "extra_allocations", "tasks": tasks, "value": extra}),
            format_args!(
                "{tasks:3} tasks: bare {bare:.3}, ours {ours:.3}, extra {extra:.3}; bar 0: {}",
                verdict(extra < STRAY)
            ),
        );
    }
    Ok(())
}

const REQUESTS: usize = 12_800;

/// What one look or one reconnect of the supervisor may still allocate, spread over all commands.
const STRAY: f64 = 0.01;
