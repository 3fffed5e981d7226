//! The rules see what they should and nothing else: planted violations, and the look-alikes beside them.

use crate::rules::{House, MAX_CODE_LINES, forbids_unsafe, left_for_later};
use crate::tokens::tokens;

/// Files enough for every room to exist.
const CLEAN: [(&str, &str); 9] = [
    (
        "src/lib.rs",
        "pub mod engine; pub mod backends; pub mod testing; pub use backends::redis::Connection; pub use engine::Event;",
    ),
    (
        "src/engine.rs",
        "pub mod event; pub mod snapshot; pub use event::Event;",
    ),
    ("src/engine/event.rs", "pub enum Event {}"),
    (
        "src/engine/snapshot.rs",
        "use super::event::Event; pub struct Snapshot(Event);",
    ),
    ("src/backends.rs", "pub mod redis; pub mod postgres;"),
    (
        "src/backends/redis.rs",
        "use ::redis::cmd; use crate::engine::Event; pub struct Connection;",
    ),
    ("src/backends/postgres.rs", "use tokio_postgres::Client;"),
    (
        "src/telemetry.rs",
        "use crate::engine::{event::Event, snapshot::Snapshot};",
    ),
    ("src/testing.rs", "use crate::engine::event::Event;"),
];

/// What the rules say once `text` is added to, or put in place of, the file at `path`.
fn with(path: &str, text: &str) -> Vec<String> {
    let kept = CLEAN.into_iter().filter(|(clean, _)| *clean != path);
    let files: Vec<_> = kept
        .chain([(path, text)])
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .collect();
    House::new(&files).wrong_way()
}

#[track_caller]
fn refused(path: &str, text: &str) {
    let found = with(path, text);
    assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
    assert!(found[0].starts_with(path), "{found:?}");
}

#[track_caller]
fn accepted(path: &str, text: &str) {
    assert_eq!(with(path, text), Vec::<String>::new(), "{path}: {text}");
}

#[test]
fn a_clean_house_is_accepted() {
    accepted(
        "src/engine/detector.rs",
        "use std::time::Duration; use tokio::sync::Notify;",
    );
}

#[test]
fn the_engine_names_no_other_room() {
    for text in [
        "use crate::backends::redis::Connection;",
        "use crate::{engine::Event, testing};",
        "use super::super::telemetry;",
        "use multidb::testing;",
        "use crate::engine::{self, event}; use self::super::super::{testing as event2};",
        "fn f() { crate::testing::script() }",
        "fn f() -> Vec<crate::backends::redis::Connection> { Vec::new() }",
        "fn f<T: crate::testing::Script>() {}",
        "mod inner { use super::super::super::testing; }",
        "mod inner { } use super::super::testing;",
        "macro_rules! m { () => { use $crate::testing::script; } }",
        "macro_rules! m { () => { $crate::testing::script() } }",
    ] {
        refused("src/engine/detector.rs", text);
    }
}

#[test]
fn a_re_export_hides_nothing() {
    refused("src/engine/detector.rs", "use crate::Connection;");
    accepted("src/engine/detector.rs", "use crate::Event;");
    let root = "pub mod engine; pub use ::redis as driver;";
    let files = [
        ("src/lib.rs", root),
        ("src/engine.rs", "fn f() { crate::driver::cmd(\"GET\"); }"),
    ];
    let found =
        House::new(&files.map(|(path, text)| (path.to_owned(), text.to_owned()))).wrong_way();
    assert_eq!(
        found,
        ["src/engine.rs:1: engine names the crate redis by `crate::driver::cmd`"]
    );
}

#[test]
fn a_driver_is_named_by_its_own_backend_alone() {
    for text in [
        "use redis::cmd;",
        "use redis;",
        "extern crate redis;",
        "fn f(c: &::redis::Client) {}",
        "use redis::{self, aio};",
    ] {
        assert!(!with("src/engine/detector.rs", text).is_empty(), "{text}");
    }
    refused("src/testing/server.rs", "use redis::Value;");
    refused("src/backends/postgres.rs", "use ::redis::Value;");
    accepted("src/backends/redis/classify.rs", "use redis::Value;");
    accepted(
        "src/engine/detector.rs",
        "fn f(redis: u8) { redis.max(1); }",
    );
}

#[test]
fn backends_do_not_know_each_other() {
    refused("src/backends/postgres.rs", "use super::redis::Connection;");
    refused("src/backends/postgres/pool.rs", "use crate::Connection;");
    accepted(
        "src/backends/postgres/pool.rs",
        "use super::super::postgres; use crate::engine::Event;",
    );
}

#[test]
fn one_backend_may_be_built_upon_another_and_not_the_other_way_round() {
    accepted("src/backends/e6data/stack.rs", "use tonic::Status;");
    refused("src/backends/grpc/channel.rs", "use prost::Message;");
}

#[test]
fn telemetry_knows_events_and_snapshots_only() {
    refused(
        "src/telemetry/metrics.rs",
        "use crate::engine::machine::Machine;",
    );
    refused(
        "src/telemetry/metrics.rs",
        "use crate::engine::backend::Backend;",
    );
    refused(
        "src/telemetry/metrics.rs",
        "use crate::backends::redis::Connection;",
    );
    accepted(
        "src/telemetry/metrics.rs",
        "use crate::engine::Event; use crate::telemetry;",
    );
}

#[test]
fn testing_serves_tests_alone() {
    refused("src/backends/redis/classify.rs", "use crate::testing;");
    refused(
        "src/testing/server.rs",
        "use crate::backends::redis::Connection;",
    );
    accepted(
        "src/backends/redis/classify.rs",
        "#[cfg(test)] mod tests { use crate::testing::script; fn f() { crate::testing::run() } }",
    );
    accepted(
        "src/backends/redis/classify.rs",
        "#[cfg(all(test, feature = \"testing\"))] pub(crate) use crate::testing::script;",
    );
    refused(
        "src/backends/redis/classify.rs",
        "#[cfg(not(test))] mod tests { use crate::testing::script; }",
    );
    refused(
        "src/backends/redis/classify.rs",
        "#[cfg(test)] mod tests { } use crate::testing::script;",
    );
    refused(
        "src/engine/detector.rs",
        "#[cfg(test)] mod tests { use crate::backends::redis; }",
    );
}

#[test]
fn a_test_module_in_its_own_file_is_a_test() {
    let detector = |text: &str| {
        let files = [
            ("src/engine.rs", "mod detector;"),
            ("src/engine/detector.rs", text),
        ];
        let tests = [
            (
                "src/engine/detector/tests.rs",
                "use crate::testing::script;",
            ),
            ("src/testing.rs", ""),
        ];
        let files = [files, tests].concat();
        let files: Vec<_> = files
            .into_iter()
            .map(|(path, text)| (path.to_owned(), text.to_owned()))
            .collect();
        House::new(&files).wrong_way()
    };
    assert_eq!(
        detector("#[cfg(test)]\n#[path = \"x\"]\nmod tests;").len(),
        0
    );
    assert_eq!(detector("mod tests;").len(), 1);
}

#[test]
fn comments_strings_and_examples_are_not_code() {
    for text in [
        "// use crate::testing::script;",
        "/// ```\n/// use redis::cmd;\n/// ```\nfn f() {}",
        "//! [`crate::backends::redis`]",
        "/* a /* nested */ use crate::testing; */",
        "const A: &str = \"use crate::testing::script;\";",
        "const A: &str = r#\"a \" crate::testing::script\"#;",
        "const A: &[u8] = b\"\\\" crate::testing::script\";",
        "const A: char = '\"'; const B: &str = \"crate::testing::script\";",
        "const A: char = '\\''; const B: &str = \"crate::testing::script\";",
        "const A: u8 = b'\"'; const B: &str = \"crate::testing::script\";",
    ] {
        accepted("src/engine/detector.rs", text);
    }
    // And what follows them is.
    for text in [
        "// a comment\nuse crate::testing::script;",
        "/* a /* nested */ comment */ use crate::testing::script;",
        "const A: &str = r##\"a \"# b\"##; use crate::testing::script;",
        "const A: &str = \"a \\\\\"; use crate::testing::script;",
        "fn f<'a>(a: &'a str, c: char) -> &'a str { c == 'a'; crate::testing::script() }",
        "const A: char = '\\u{1F600}'; use crate::testing::script;",
        "const A: char = 'é'; use crate::testing::script;",
        "fn f(r#type: u8) { crate::testing::script() }",
    ] {
        refused("src/engine/detector.rs", text);
    }
}

#[test]
fn a_path_is_found_where_it_stands() {
    let found = with(
        "src/engine/detector.rs",
        "use std::fmt;\n\nuse crate::{\n    engine::Event,\n    testing::script,\n};",
    );
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("src/engine/detector.rs:5: engine names crate::testing::script"),
        "{found:?}"
    );
}

#[test]
fn a_file_outside_the_rooms_is_refused() {
    refused("src/helpers.rs", "");
}

#[test]
fn only_code_outside_tests_makes_a_file_long() {
    let long = |text: &str| {
        House::new(&[("src/engine/machine.rs".to_owned(), text.to_owned())])
            .too_long()
            .len()
    };
    let code = "fn f() {}\n".repeat(MAX_CODE_LINES);
    let rest = "\n// a comment\n/// documentation\n\n".repeat(100);
    let tests = "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n".repeat(100);
    assert_eq!(long(&format!("{code}{rest}{tests}")), 0);
    assert_eq!(long(&format!("{code}{rest}fn g() {{}}\n")), 1);
    assert_eq!(
        long(&format!(
            "const A: &str = \"{}\";",
            "line\n".repeat(MAX_CODE_LINES)
        )),
        1
    );
    let files = [
        (
            "src/engine.rs".to_owned(),
            "#[cfg(test)] mod tests;".to_owned(),
        ),
        ("src/engine/tests.rs".to_owned(), code.repeat(2)),
    ];
    assert_eq!(House::new(&files).too_long(), Vec::<String>::new());
}

#[test]
fn mod_rs_is_refused() {
    let files =
        ["src/engine/mod.rs", "src/engine/cmod.rs"].map(|path| (path.to_owned(), String::new()));
    assert_eq!(House::new(&files).mod_rs(), ["src/engine/mod.rs"]);
}

#[test]
fn forbid_counts_as_an_attribute_only() {
    assert!(forbids_unsafe("//! A crate.\n#![forbid(unsafe_code)]\n"));
    assert!(forbids_unsafe("#![forbid(missing_docs, unsafe_code)]"));
    assert!(!forbids_unsafe("// #![forbid(unsafe_code)]"));
    assert!(!forbids_unsafe("#![deny(unsafe_code)]"));
    assert!(!forbids_unsafe(
        "#![forbid(missing_docs)] fn unsafe_code() {}"
    ));
}

#[test]
fn markers_of_unfinished_work_are_found() {
    let later = |text: &str| left_for_later(&[("src/lib.rs".to_owned(), text.to_owned())]);
    assert_eq!(later(concat!("fn f() {}\n// TO", "DO: g")).len(), 1);
    assert_eq!(later(concat!("// (FIX", "ME)")).len(), 1);
    assert_eq!(later(concat!("fn f() { to", "do!() }")).len(), 1);
    assert_eq!(
        later(concat!(
            "const TO",
            "DOS: u8 = 1; let mastodon = MASTO",
            "DON;"
        )),
        Vec::<String>::new()
    );
}

#[test]
fn tokens_keep_their_lines() {
    let lines: Vec<_> = tokens("a\n\"x\ny\" b")
        .into_iter()
        .map(|token| (token.first_line, token.last_line))
        .collect();
    assert_eq!(lines, [(1, 1), (2, 3), (3, 3)]);
}
