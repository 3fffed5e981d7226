//! Waiting for a future on a thread.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

/// Runs a future of the client on this thread, and waits for it: `wait(client.switch_to("west"))`.
///
/// What it spawns runs on a runtime with one thread, which is made with the first call and is shared
/// by all clients of the process. Timers work here, too, where they are made inside of the future:
/// `wait(async { tokio::time::sleep(pause).await })`.
///
/// In a task of a runtime with several threads it blocks one of them, and the other tasks move to
/// another. In a task of a runtime with one thread it blocks all of them: what is waited for must not
/// need them, nor yield to them.
///
/// # Panics
/// If that thread cannot be started; in a task of a `LocalSet` on a runtime with several threads.
pub fn wait<F: Future>(future: F) -> F::Output {
    let around = Handle::try_current().map(|handle| handle.runtime_flavor());
    match around {
        // Not of a runtime with one thread, where it panics.
        #[allow(clippy::disallowed_methods)]
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| wait_here(future)),
        Ok(_) | Err(_) => wait_here(future),
    }
}

fn wait_here<F: Future>(future: F) -> F::Output {
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

    use tokio::sync::mpsc;
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
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for number in 0..1000 {
            sender.send(number).unwrap();
            assert_eq!(receiver.recv().await, Some(number));
        }
        spawned.await.unwrap() + 1
    }

    #[test]
    fn tasks_and_timers_of_a_future_run_while_its_thread_waits() {
        assert_eq!(wait(work()), 2);
        let begun = Instant::now();
        let never =
            async { timeout(Duration::from_millis(20), std::future::pending::<()>()).await };
        assert!(wait(never).is_err());
        assert!(begun.elapsed() >= Duration::from_millis(20));
    }

    /// A worker that yields is woken when it has nothing else to do, which would be never.
    #[test]
    fn what_yields_may_be_waited_for_by_a_worker() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build();
        let runtime = runtime.unwrap();
        let waited = runtime.spawn(async { wait(yield_now()) });
        runtime.block_on(waited).unwrap();
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
