//! Instructions per command, by callgrind.

use serde_json::json;

use crate::clients::Habit;
use crate::counted::{Connection, Work};
use crate::report::{Report, rounded, verdict};
use crate::support::redis_server::RedisServer;
use crate::valgrind::Count;

pub(crate) fn measure(server: &RedisServer, report: Report) -> Result<(), String> {
    report.title("instructions per command, all threads");
    // With many tasks the batches vary, so that takes more commands for the same precision.
    for (habit, tasks, commands) in [
        (Habit::Keep, 1, 12_800),
        (Habit::Keep, 64, 51_200),
        (Habit::ClonePerCommand, 1, 12_800),
    ] {
        report.progress(format_args!("instructions, {tasks} tasks, {habit:?}"));
        let count = |connection| {
            let work = Work {
                connection,
                habit,
                tasks,
                commands,
                url: server.url(),
            };
            work.per_command(Count::Instructions)
        };
        let (bare, ours) = (count(Connection::Bare)?, count(Connection::Ours)?);
        let ratio = rounded(ours / bare);
        let (figure, name) = match habit {
            Habit::Keep => ("instructions_ratio", "own handle"),
            Habit::ClonePerCommand => ("clone_instructions_ratio", "clone per command"),
        };
        report.figure(
            &json!({
                "figure": figure, "tasks": tasks, "value": ratio,
                "bare": bare.round(), "ours": ours.round(),
            }),
            format_args!(
                "{tasks:3} tasks, {name}: bare {bare:.0}, ours {ours:.0}, ratio {ratio:.3}; \
                 bar {BAR}: {}",
                verdict(ratio <= BAR)
            ),
        );
    }
    Ok(())
}

const BAR: f64 = 0.95;
