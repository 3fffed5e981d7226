//! What happens to a program, and to an idle one, when a database dies or hangs.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use multidb::ErrorKind;
use multidb::blocking::Connection;
use redis::{ConnectionLike, RedisResult, TypedCommands};
use tokio::time::Instant;

use crate::support::eventually;
use crate::support::redis_server::RedisServer;
use crate::{Databases, LIMIT, becomes, kind, rig};

const THREADS: usize = 8;
const STEPS: usize = 300;

#[test]
fn threads_go_on_when_their_database_is_killed_and_nothing_runs_twice() {
    let mut databases = Databases::start();
    let client = databases.client();
    let done = AtomicUsize::new(0);
    let told: BTreeMap<String, bool> = thread::scope(|scope| {
        let (client, done) = (&client, &done);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || count(client.get_connection().unwrap(), thread, done))
            })
            .collect();
        becomes("a quarter of the work is done", || {
            done.load(Ordering::Relaxed) > THREADS * STEPS / 4
        });
        databases.east.kill();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(told.len(), THREADS * STEPS);
    assert_eq!(client.active().unwrap(), *databases.west_id());
    let unknown = told.values().filter(|known| !**known).count();
    assert!(unknown <= THREADS, "{unknown}: more than were in flight");
    drop(client);

    rig(databases.east.restart());
    let (east, west) = (counted(&databases.east), counted(&databases.west));
    for (key, known) in told {
        let count = |counts: &BTreeMap<String, i64>| counts.get(&key).copied().unwrap_or(0);
        let times = count(&east) + count(&west);
        assert!(times == 1 || !known && times == 0, "{key}: {times} times");
    }
    assert!(east.len() >= THREADS * STEPS / 4 && west.len() >= STEPS / 4);
}

/// Each key once; whether the outcome is known. Generic: it has never heard of several databases, except
/// that it asks an error what became of the call.
fn count<C: ConnectionLike>(mut con: C, thread: usize, done: &AtomicUsize) -> Vec<(String, bool)> {
    let step = |step| {
        let key = format!("{thread}:{step}");
        let result: RedisResult<isize> = match step % 2 {
            0 => con.incr(&key, 1),
            _ => (redis::pipe().atomic().incr(&key, 1).query(&mut con)).map(|(count,)| count),
        };
        let known = match result {
            Ok(count) => {
                assert_eq!(count, 1, "{key}");
                true
            }
            Err(error) => {
                let kind = kind(&error);
                assert!(
                    matches!(kind, ErrorKind::OutcomeUnknown(_)),
                    "{key}: {error}"
                );
                false
            }
        };
        done.fetch_add(1, Ordering::Relaxed);
        (key, known)
    };
    (0..STEPS).map(step).collect()
}

fn counted(server: &RedisServer) -> BTreeMap<String, i64> {
    let keys: Vec<String> = rig(server.cmd(&["KEYS", "*"]));
    let mget: Vec<&str> = ["MGET"]
        .into_iter()
        .chain(keys.iter().map(String::as_str))
        .collect();
    let counts: Vec<i64> = rig(server.cmd(&mget));
    keys.into_iter().zip(counts).collect()
}

#[test]
fn a_call_ends_within_its_deadline_when_everything_hangs() {
    const DEADLINE: Duration = Duration::from_secs(1);
    let databases = Databases::start();
    let client = databases.client();
    let mut con = client.get_connection().unwrap();
    con.set_response_timeout(Duration::from_millis(200));
    con.set_deadline(DEADLINE);
    rig(databases.east.stop());
    rig(databases.west.stop());

    let mut ends = |what: &str, call: &mut dyn FnMut(&mut Connection) -> bool| {
        let begun = Instant::now();
        assert!(call(&mut con), "{what} failed otherwise");
        let took = begun.elapsed();
        assert!(took < DEADLINE * 2, "{what}: {took:?}");
    };
    ends("a write", &mut |con| con.incr("n", 1).is_err());
    ends("a read", &mut |con| con.get("n").is_err());
    ends("a ping", &mut |con| !con.check_connection());
    ends("a pipeline", &mut |con| {
        redis::pipe().get("n").exec(con).is_err()
    });
    ends("a blocking command", &mut |con| {
        con.blpop("queue", 0.2).is_err()
    });
    ends("a transaction", &mut |con| {
        redis::cmd("WATCH").arg("n").exec(con).is_err()
    });
}

#[test]
fn a_client_that_nobody_calls_fails_over_by_itself() {
    let mut databases = Databases::start();
    let client = databases.client();
    databases.east.kill();
    becomes("it has moved while no call was made", || {
        client.active().is_some_and(|id| id == *databases.west_id())
    });
    let mut con = client.get_connection().unwrap();
    con.set("key", "value").unwrap();
}

#[test]
fn nothing_is_left_of_a_client_once_its_last_handle_is_dropped() {
    let databases = Databases::start();
    let (held, left) = mpsc::channel::<()>();
    let client = databases
        .builder()
        .on_event(move |_| {
            let _ = &held;
        })
        .connect_blocking()
        .unwrap();
    let mut con = client.get_connection().unwrap();
    // Beside the traffic connections a private one, and one that is spare.
    redis::cmd("WATCH").arg("key").exec(&mut con).unwrap();
    let mut other = client.get_connection().unwrap();
    assert_eq!(other.blpop("queue", 0.01).unwrap(), None);
    assert!(rig(databases.east.connected_clients()) >= 3);

    drop((client, other));
    con.set("key", "value").unwrap();
    drop(con);
    rig(eventually(LIMIT, "no connection is left", async || {
        let (east, west) = (&databases.east, &databases.west);
        east.connected_clients().await + west.connected_clients().await == 0
    }));
    let listener = left.recv_timeout(LIMIT);
    assert_eq!(
        listener,
        Err(RecvTimeoutError::Disconnected),
        "it has ended"
    );
    assert_eq!(threads("multidb"), 1, "for all clients of the process");
}

/// Threads of this process with this name.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|comm| comm.trim_end() == name)
        .count()
}
