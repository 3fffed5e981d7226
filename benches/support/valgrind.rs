//! Counting what a process of a bench does: valgrind counts the same whatever its neighbours do.
#![allow(dead_code, reason = "every bench counts something else")]

use std::process::{Command, Stdio};

/// What to count, and where valgrind's tool for it leaves the count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    Instructions,
    /// Reallocations included.
    Allocations,
    /// Bytes on the heap that are in use when the process exits.
    Held,
}

impl Count {
    /// Runs this program again with these arguments, under valgrind.
    pub(crate) fn of(self, args: &[String]) -> Result<u64, String> {
        let exe =
            std::env::current_exe().map_err(|error| format!("cannot find itself: {error}"))?;
        let dir = tempfile::tempdir().map_err(|error| format!("no directory: {error}"))?;
        let (log, profile) = (dir.path().join("log"), dir.path().join("profile"));
        let mut valgrind = Command::new("valgrind");
        valgrind.arg(format!("--log-file={}", log.display()));
        match self {
            Self::Instructions => valgrind
                .arg("--tool=callgrind")
                .arg(format!("--callgrind-out-file={}", profile.display())),
            Self::Allocations | Self::Held => valgrind.args([
                "--tool=memcheck",
                "--undef-value-errors=no",
                "--leak-check=no",
            ]),
        };
        let status = valgrind
            .arg(exe)
            .args(args)
            .stdout(Stdio::null())
            .status()
            .map_err(|error| {
                format!("valgrind cannot be run ({error}): install it (Debian package valgrind)")
            })?;
        if !status.success() {
            return Err(format!("the counted process failed: {status}"));
        }
        let (file, label) = match self {
            Self::Instructions => (profile, "totals: "),
            Self::Allocations => (log, "total heap usage: "),
            Self::Held => (log, "in use at exit: "),
        };
        let text = std::fs::read_to_string(file).map_err(|error| format!("no count: {error}"))?;
        let count = text.lines().find_map(|line| {
            let number = line.split_once(label)?.1.split(' ').next()?;
            number.replace(',', "").parse().ok()
        });
        count.ok_or_else(|| format!("no {label:?} in what valgrind wrote"))
    }
}
