//! The house rules that a compiler does not check: which way things flow, how long a file may get.
//!
//! Reads the text of `src`; comments, strings and documentation do not count. A rule that fails names file and line.

mod planted;
mod rules;
mod source;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use rules::{House, MAX_CODE_LINES};

#[test]
fn dependencies_flow_one_way() {
    assert_none(
        House::new(&files("src")).wrong_way(),
        "ARCHITECTURE allows no such path",
    );
}

#[test]
fn every_file_is_one_idea() {
    let house = House::new(&files("src"));
    assert_none(
        house.too_long(),
        &format!("more than {MAX_CODE_LINES} lines of code outside tests"),
    );
    assert_none(
        house.mod_rs(),
        "a module is foo.rs beside foo/, never foo/mod.rs",
    );
}

#[test]
fn unsafe_code_is_forbidden() {
    let library = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs can be read");
    assert!(
        rules::forbids_unsafe(&library),
        "src/lib.rs lacks #![forbid(unsafe_code)]"
    );
}

/// A clock that is set by an hour moves nobody.
#[test]
fn s14_nothing_asks_the_wall_clock() {
    let mut asking = Vec::new();
    // The age of a file can be told by no other clock.
    let by_files = |path: &str| path == "src/engine/last_active/file.rs";
    for (path, text) in ["src/engine", "src/backends"].into_iter().flat_map(files) {
        if by_files(&path) {
            continue;
        }
        asking.extend(text.contains("SystemTime").then_some(path));
    }
    assert_none(asking, "times are monotonic: tokio::time::Instant");
}

#[test]
fn nothing_is_left_for_later() {
    let all: Vec<_> = ["src", "tests", "benches", "examples"]
        .into_iter()
        .flat_map(files)
        .collect();
    assert_none(
        rules::left_for_later(&all),
        "finish it, or write down outside the code what is open",
    );
}

fn assert_none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Every Rust file below `folder`, as (path from the repository's root, text), in order. A folder may be missing.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut pending = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder can be listed");
            pending.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a Rust file is UTF-8");
            found.push((relative(&path), text));
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    let path = path
        .strip_prefix(root())
        .expect("a file lies below the root");
    path.components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect::<Vec<_>>()
        .join("/")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
