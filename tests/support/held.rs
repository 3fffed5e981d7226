//! What may not grow.

use std::time::Duration;

use super::eventually;

/// What a process holds that can leak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    tasks: usize,
    threads: usize,
    files: usize,
    /// Resident, in KiB.
    memory: usize,
}

impl Held {
    /// Once what has just been ordered has been done.
    pub(crate) async fn at_rest() -> Self {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Self::now()
    }

    fn now() -> Self {
        let count = |path| std::fs::read_dir(path).expect("Linux's /proc").count();
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux's /proc");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|text| text.trim().strip_suffix(" kB"));
        Self {
            tasks: tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks(),
            threads: count("/proc/self/task"),
            files: count("/proc/self/fd"),
            memory: memory.expect("a size").trim().parse().expect("a number"),
        }
    }

    /// Waits until no more is held than `before`, give or take what comes and goes.
    pub(crate) async fn is_no_more_than(before: Self, what: &str) {
        eventually(Duration::from_secs(10), what, async || {
            let now = Self::now();
            now.tasks <= before.tasks && now.files <= before.files && now.threads <= before.threads
        })
        .await;
        let now = Self::now();
        // What an allocator keeps for the next time is not lost; what grows without end is.
        let bound = before.memory + before.memory / 20 + 2048;
        assert!(now.memory <= bound, "{what}: {before:?}, then {now:?}");
        eprintln!("{what}: {before:?}, then {now:?}");
    }
}
