use std::future::{pending, poll_fn};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::*;

#[test]
fn timers_and_tasks_work_without_a_runtime_of_the_callers() {
    let late = wait(async { timeout(Duration::from_millis(1), pending::<()>()).await });
    late.unwrap_err();

    let (answer, answered) = oneshot::channel();
    let name = wait(async {
        tokio::spawn(async move {
            sleep(Duration::from_millis(1)).await;
            answer.send(thread::current().name().map(str::to_owned))
        });
        answered.await.unwrap()
    });
    assert_eq!(name.as_deref(), Some("multidb"));
}

#[test]
fn tasks_go_on_after_the_call_that_spawned_them() {
    let (tick, mut ticks) = mpsc::unbounded_channel();
    wait(async {
        tokio::spawn(async move {
            while tick.send(()).is_ok() {
                sleep(Duration::from_millis(1)).await;
            }
        });
    });
    for _ in 0..3 {
        ticks.blocking_recv().unwrap();
    }
}

#[test]
fn a_park_of_the_futures_own_does_not_swallow_its_wake() {
    let mut polls = 0;
    wait(poll_fn(|context| {
        polls += 1;
        if polls == 2 {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        // Returns at once, and takes with it what would have woken the thread.
        thread::park();
        Poll::Pending
    }));
    assert_eq!(polls, 2);
}

#[test]
fn one_wait_within_another_ends() {
    let sum = wait(async {
        let inner = wait(async {
            sleep(Duration::from_millis(1)).await;
            1
        });
        sleep(Duration::from_millis(1)).await;
        inner + 1
    });
    assert_eq!(sum, 2);
}

/// More than the steps after which tokio wants a task to yield.
const MANY: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn in_a_task_of_several_threads_it_blocks_and_ends() {
    block_in_a_task();
}

#[tokio::test]
async fn in_a_task_of_one_thread_it_blocks_and_ends() {
    block_in_a_task();
}

fn block_in_a_task() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    for step in 0..MANY {
        sender.send(step).unwrap();
        assert_eq!(wait(receiver.recv()), Some(step));
    }
    wait(async { sleep(Duration::from_millis(1)).await });
}

/// A worker keeps what it wakes for itself, and this one is blocked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_task_it_may_wait_for_a_task_that_it_wakes() {
    let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<usize>>();
    tokio::spawn(async move {
        let mut answers = 0;
        while let Some(answer) = asked.recv().await {
            answers += 1;
            let _ = answer.send(answers);
        }
    });
    let asking = tokio::spawn(async move {
        for step in 1..=MANY {
            let (answer, answered) = oneshot::channel();
            ask.send(answer).unwrap();
            assert_eq!(wait(answered), Ok(step));
        }
    });
    asking.await.unwrap();
}
