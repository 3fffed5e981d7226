//! Waiting for a future on the calling thread, and the runtime that goes on meanwhile and afterwards.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use tokio::task::{block_in_place, try_id, unconstrained};

/// Runs a future to its end and blocks the thread meanwhile: how synchronous code uses an async method
/// of the client, such as `wait(client.switch_to("west"))` or `wait(client.close())`.
///
/// The future is polled on the calling thread. What it spawns, a client that it is the first to use
/// included, runs on this module's runtime of one thread. A future that is made outside, and needs a
/// runtime for that (`tokio::time::sleep`), is wrapped: `wait(async { sleep(time).await })`.
///
/// Allowed on any thread: in `spawn_blocking`, in listeners of
/// [`Builder::on_event`](crate::Builder::on_event), and by mistake in an async task, too, where it blocks
/// what should not be blocked. A client whose own runtime has one thread cannot go on while that is
/// blocked, nor can a client in whose health check or policy it is; then the call ends with its deadline.
///
/// # Panics
/// If the system has no thread left for the runtime, as `std::thread::spawn` does. In a task of a
/// `LocalSet` on a runtime of several threads, as `tokio::task::block_in_place` does.
pub fn wait<F: IntoFuture>(future: F) -> F::Output {
    match try_wait(future) {
        Ok(output) => output,
        Err(error) => panic!("no runtime to wait on: {error}"),
    }
}

/// As [`wait`]; an error if there is no runtime and none can be made.
///
/// Not `Runtime::block_on`, which panics inside another runtime; nor `Handle::current()`, which may
/// belong to a runtime of one thread: the one that is blocked here.
pub(crate) fn try_wait<F: IntoFuture>(future: F) -> io::Result<F::Output> {
    let runtime = runtime()?;
    let wait = || {
        let _entered = runtime.enter();
        poll_to_the_end(future.into_future())
    };
    Ok(match is_in_a_workers_task() {
        #[expect(clippy::disallowed_methods, reason = "not on a current-thread runtime")]
        true => block_in_place(wait),
        false => wait(),
    })
}

/// Whether this thread may have to run the very tasks it waits for: what a worker wakes it keeps for
/// itself, where no other worker takes it from. A client that was started on the same runtime would
/// be taken to hang.
fn is_in_a_workers_task() -> bool {
    let on_several_threads = |handle: Handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread;
    try_id().is_some() && Handle::try_current().is_ok_and(on_several_threads)
}

fn poll_to_the_end<F: Future>(future: F) -> F::Output {
    // Inside a task tokio lets so much be done before the task must yield, which this thread cannot:
    // from then on nothing would be ready any more.
    let mut future = pin!(unconstrained(future));
    let bell = Arc::new(Bell {
        thread: thread::current(),
        rung: AtomicBool::new(false),
    });
    let waker = Waker::from(bell.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        bell.wait();
    }
}

/// Wakes a thread. The flag because a park inside the future's own code may eat the thread's token.
struct Bell {
    thread: Thread,
    rung: AtomicBool,
}

impl Bell {
    fn wait(&self) {
        while !self.rung.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// One for the process: a client is a few tasks, and a thread for each client would be one more thing
/// to end. It never ends, as nothing on it outlives its client.
fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    // Not a current-thread runtime: its tasks would stand still between calls.
    let made = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("multidb")
        .enable_all()
        .build()?;
    let mut made = Some(made);
    let runtime = RUNTIME.get_or_init(|| made.take().expect("made above, taken once"));
    if let Some(surplus) = made {
        // Another thread was quicker. A plain drop would wait, which an async task must not.
        surplus.shutdown_background();
    }
    Ok(runtime)
}

#[cfg(test)]
mod tests;
