//! Instructions per request, by callgrind.

use serde_json::json;

use crate::clients::{Habit, SMALL, Shape};
use crate::counted::{Connection, Work};
use crate::report::{Report, rounded, verdict};
use crate::support::redis_server::RedisServer;
use crate::valgrind::Count;

/// What is counted, and how often it is done: with many tasks the batches vary, so that takes more
/// requests for the same precision.
struct Case {
    figure: &'static str,
    name: &'static str,
    shape: Shape,
    habit: Habit,
    tasks: usize,
    requests: usize,
    bar: f64,
}

const COMMAND: Case = Case {
    figure: "instructions_ratio",
    name: "a command, own handle",
    shape: Shape::Value(SMALL),
    habit: Habit::Keep,
    tasks: 1,
    requests: 12_800,
    bar: 0.95,
};
const MANY_TASKS: Case = Case {
    tasks: 64,
    requests: 51_200,
    ..COMMAND
};

/// The ratios that were seen when this was last worked on, for the guard.
const RECORDED: [(&Case, f64); 2] = [(&COMMAND, 0.929), (&MANY_TASKS, 0.930)];
/// So much more is a change that somebody has to explain.
const LEEWAY: f64 = 1.03;

pub(crate) fn measure(server: &RedisServer, report: Report) -> Result<(), String> {
    report.title("instructions per request, all threads");
    let shaped = |figure, name, shape, requests| Case {
        figure,
        name,
        shape,
        requests,
        // Most of it is moving bytes, and reading replies one by one.
        bar: 1.02,
        ..COMMAND
    };
    let cases = [
        COMMAND,
        MANY_TASKS,
        Case {
            figure: "clone_instructions_ratio",
            name: "a command, a clone for each",
            habit: Habit::ClonePerCommand,
            ..COMMAND
        },
        shaped(
            "instructions_ratio_1k",
            "a value of 1 KiB",
            Shape::Value(1024),
            12_800,
        ),
        shaped(
            "instructions_ratio_64k",
            "a value of 64 KiB",
            Shape::Value(65_536),
            1_600,
        ),
        shaped(
            "instructions_ratio_pipeline_10",
            "a pipeline of 10",
            Shape::Pipeline(10),
            3_200,
        ),
        shaped(
            "instructions_ratio_pipeline_100",
            "a pipeline of 100",
            Shape::Pipeline(100),
            640,
        ),
    ];
    for case in cases {
        report.progress(format_args!(
            "instructions, {} tasks, {}",
            case.tasks, case.name
        ));
        let (bare, ours) = case.count(server)?;
        let ratio = rounded(ours / bare);
        report.figure(
            &json!({
                "figure": case.figure, "tasks": case.tasks, "value": ratio,
                "bare": bare.round(), "ours": ours.round(),
            }),
            format_args!(
                "{:3} tasks, {}: bare {bare:.0}, ours {ours:.0}, ratio {ratio:.3}; bar {}: {}",
                case.tasks,
                case.name,
                case.bar,
                verdict(ratio <= case.bar)
            ),
        );
    }
    Ok(())
}

/// Fails if the command path has become dearer than it was.
pub(crate) fn guard(server: &RedisServer, report: Report) -> Result<(), String> {
    report.title("instructions per command, ours / bare");
    for (case, recorded) in RECORDED {
        let (bare, ours) = case.count(server)?;
        let (ratio, most) = (rounded(ours / bare), rounded(recorded * LEEWAY));
        let tasks = case.tasks;
        report.figure(
            &json!({"figure": case.figure, "tasks": tasks, "value": ratio, "recorded": recorded}),
            format_args!("{tasks:3} tasks: {ratio:.3}; recorded {recorded:.3}, at most {most:.3}"),
        );
        if ratio > most {
            return Err(format!(
                "a command takes {ratio:.3} of the instructions of a bare one with {tasks} tasks; \
                 it was {recorded:.3}. If that is worth it, record it in {}",
                file!()
            ));
        }
    }
    Ok(())
}

impl Case {
    /// Bare and ours.
    fn count(&self, server: &RedisServer) -> Result<(f64, f64), String> {
        let count = |connection| {
            let work = Work {
                connection,
                shape: self.shape,
                habit: self.habit,
                tasks: self.tasks,
                requests: self.requests,
                url: server.url(),
            };
            work.per_request(Count::Instructions)
        };
        Ok((count(Connection::Bare)?, count(Connection::Ours)?))
    }
}
