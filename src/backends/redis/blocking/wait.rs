//! Waiting for a future on a thread.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::{Builder, Runtime};

/// Runs a future of the client on this thread, and waits for it: `wait(client.switch_to("west"))`.
///
/// What it spawns runs on a runtime with one thread, which is made with the first call and is shared
/// by all clients of the process. Timers work here, too, where they are made inside of the future:
/// `wait(async { tokio::time::sleep(pause).await })`.
///
/// Works in async tasks as well, where it blocks the thread.
///
/// # Panics
/// If that thread cannot be started.
pub fn wait<F: Future>(future: F) -> F::Output {
    // Also within another runtime, which may have no thread left to watch the databases.
    let _entered = runtime().enter();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    // In a task of somebody's, its budget would run out and never be filled up while we hold the thread.
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("multidb")
            .enable_all()
            .build()
            .expect("a thread for the synchronous interface")
    })
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::yield_now;
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    async fn work() -> u32 {
        let spawned = tokio::spawn(async {
            yield_now().await;
            1
        });
        sleep(Duration::from_millis(5)).await;
        // More than the budget of a task.
        for _ in 0..1000 {
            yield_now().await;
        }
        spawned.await.unwrap() + 1
    }

    #[test]
    fn tasks_and_timers_of_a_future_run_while_its_thread_waits() {
        assert_eq!(wait(work()), 2);
        let begun = Instant::now();
        let never = timeout(Duration::from_millis(20), std::future::pending::<()>());
        assert!(wait(never).is_err());
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn within_a_task_it_blocks_and_does_not_panic() {
        for flavour in [Builder::new_multi_thread(), Builder::new_current_thread()] {
            let mut flavour = flavour;
            let runtime = flavour.enable_all().build().unwrap();
            let waited = runtime.spawn(async { wait(work()) });
            assert_eq!(runtime.block_on(waited).unwrap(), 2);
        }
    }
}
