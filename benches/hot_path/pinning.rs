//! One core for the client and, by inheritance, for the server.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Says that the process has been pinned already.
pub(crate) const PINNED: &str = "--pinned";

/// Replaces this process by the same one under `taskset`; returns only if that fails, with the problem.
pub(crate) fn again_on_one_core(args: &[String]) -> String {
    match itself_on_one_core(args) {
        Ok(mut itself) => no_taskset(&itself.exec()),
        Err(problem) => problem,
    }
}

/// This program under `taskset`, to be started.
pub(crate) fn itself_on_one_core(args: &[String]) -> Result<Command, String> {
    let exe = std::env::current_exe().map_err(|error| format!("cannot find itself: {error}"))?;
    let mut itself = Command::new("taskset");
    itself
        .args(["-c", &last_allowed_core()])
        .arg(exe)
        .args(args)
        .arg(PINNED);
    Ok(itself)
}

pub(crate) fn no_taskset(error: &std::io::Error) -> String {
    format!("taskset cannot be run ({error}): install it (Debian package util-linux)")
}

/// The last one: interrupts tend to be served by the first.
fn last_allowed_core() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or("0");
    let last = allowed.trim().rsplit([',', '-']).next();
    last.unwrap_or("0").to_owned()
}
