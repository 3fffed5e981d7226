//! Code written for redis-rs's synchronous interface, over many databases.
//!
//! Threads without a runtime use the client; the servers are real.

mod support;

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::Duration;

use multidb::redis::{BlockingConnection, Redis, from_redis, wait};
use multidb::{ErrorKind, MultiDbClient};
use redis::{Commands, ConnectionLike, RedisResult, Script, TypedCommands, Value, cmd, pipe};

use support::redis_server::RedisServer;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(20);

struct Databases {
    east: RedisServer,
    west: RedisServer,
}

impl Databases {
    fn start() -> Self {
        let (east, west) = wait(async { tokio::join!(RedisServer::start(), RedisServer::start()) });
        Self { east, west }
    }

    fn client(&self) -> MultiDbClient<Redis> {
        let client = MultiDbClient::builder()
            .url(self.east.url(), 1.0)
            .url(self.west.url(), 0.5)
            .connect_blocking()
            .unwrap();
        let all = |s: &multidb::Snapshot| s.members.iter().all(|m| m.connected);
        wait(client.wait_for(all)).unwrap();
        client
    }

    fn west_id(&self) -> String {
        self.west.addr().to_string()
    }
}

fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    wait(support::eventually(LIMIT, what, condition));
}

// --- unchanged code ---

/// What is said to a connection of either kind, and what it answers.
fn conversation(con: &mut impl ConnectionLike) -> Vec<String> {
    let mut said = Vec::new();
    let mut say =
        |what: &str, answer: &dyn std::fmt::Debug| said.push(format!("{what}: {answer:?}"));
    let () = Commands::set(con, "text", "hello").unwrap();
    say("get", &Commands::get::<_, String>(con, "text").unwrap());
    say("typed", &TypedCommands::incr(con, "n", 5).unwrap());
    say(
        "missing",
        &Commands::get::<_, Option<i64>>(con, "nothing").unwrap(),
    );
    let () = Commands::hset_multiple(con, "hash", &[("a", 1), ("b", 2)]).unwrap();
    let hash: HashMap<String, i64> = Commands::hgetall(con, "hash").unwrap();
    say("hash", &(hash["a"], hash["b"]));
    let plain: (i64, Vec<String>, String) = pipe()
        .rpush("list", &["x", "y"])
        .lrange("list", 0, -1)
        .get("text")
        .query(con)
        .unwrap();
    say("pipeline", &plain);
    let atomic: (i64, i64) = pipe()
        .atomic()
        .incr("n", 1)
        .set("k", 1)
        .ignore()
        .incr("n", 1)
        .query(con)
        .unwrap();
    say("transaction", &atomic);
    let script = Script::new("return {KEYS[1], tonumber(ARGV[1]) + 1}");
    let scripted: (String, i64) = script.key("key").arg(41).invoke(con).unwrap();
    say("script", &scripted);
    for number in 0..300 {
        let () = Commands::sadd(con, "set", number).unwrap();
    }
    let mut members: Vec<i64> = Commands::sscan(con, "set")
        .unwrap()
        .map(Result::unwrap)
        .collect();
    members.sort_unstable();
    say("scan", &(members.len(), members[299]));
    let result: (i64,) = redis::transaction(con, &["n"], |con, pipe| {
        let n: i64 = Commands::get(con, "n")?;
        pipe.set("n", n * 2).ignore().get("n").query(con)
    })
    .unwrap();
    say("watched", &result);
    let popped: Option<(String, String)> = Commands::blpop(con, "list", 1.0).unwrap();
    say("popped", &popped);
    let empty: Option<(String, String)> = Commands::blpop(con, "empty", 0.05).unwrap();
    say("waited", &empty);
    let wrong: RedisResult<i64> = Commands::get(con, "text");
    say("conversion", &wrong.unwrap_err().kind());
    let wrong: RedisResult<i64> = Commands::incr(con, "text", 1);
    say("error", &wrong.unwrap_err().code().map(str::to_owned));
    let wrong = pipe()
        .get("text")
        .cmd("INCR")
        .arg("text")
        .query::<Value>(con);
    say("error in a pipeline", &wrong.unwrap_err().kind());
    say(
        "open",
        &(con.is_open(), con.check_connection(), con.get_db()),
    );
    said
}

#[test]
fn code_written_for_the_drivers_connection_works_unchanged() {
    let databases = Databases::start();
    let bare = redis::Client::open(databases.west.url()).unwrap();
    let theirs = conversation(&mut bare.get_connection().unwrap());
    let client = databases.client();
    assert_eq!(conversation(&mut client.get_connection().unwrap()), theirs);
    wait(client.close());
}

/// Naive: EXEC on another connection commits what was not watched there.
#[test]
fn a_watched_key_that_somebody_touches_is_read_again() {
    let databases = Databases::start();
    let client = databases.client();
    let mut con = client.get_connection().unwrap();
    let mut other = client.get_connection().unwrap();
    let () = Commands::set(&mut con, "balance", 10).unwrap();
    let mut rounds = 0;
    let (balance,): (i64,) = redis::transaction(&mut con, &["balance"], |con, pipe| {
        let balance: i64 = Commands::get(con, "balance")?;
        rounds += 1;
        if rounds == 1 {
            let () = Commands::set(&mut other, "balance", 100)?;
        }
        pipe.set("balance", balance - 1)
            .ignore()
            .get("balance")
            .query(con)
    })
    .unwrap();
    assert_eq!((balance, rounds), (99, 2));
    wait(client.close());
}

// --- losses ---

#[test]
fn a_thread_goes_on_elsewhere_and_nothing_is_applied_twice() {
    let mut databases = Databases::start();
    let client = databases.client();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (client, west) = (client.clone(), databases.west_id());
            thread::spawn(move || {
                let mut con = client.get_connection().unwrap();
                let mut acknowledged = Vec::new();
                let mut elsewhere = 0;
                for token in 0_u32.. {
                    let token = format!("{writer}:{token}");
                    let there = client.active().is_some_and(|active| active == *west);
                    match Commands::rpush::<_, _, i64>(&mut con, "log", &token) {
                        Ok(_) if there => acknowledged.push(token),
                        Ok(_) => {}
                        Err(error) => {
                            let ours = from_redis(&error).expect("an error of ours");
                            assert!(
                                matches!(ours.kind(), ErrorKind::OutcomeUnknown(_)),
                                "{ours}"
                            );
                        }
                    }
                    elsewhere += u32::from(there);
                    if elsewhere == 100 {
                        break;
                    }
                }
                acknowledged
            })
        })
        .collect();
    wait(async { sleep(Duration::from_millis(100)).await });
    databases.east.kill();
    let acknowledged: Vec<_> = writers
        .into_iter()
        .flat_map(|writer| writer.join().unwrap())
        .collect();
    assert_eq!(acknowledged.len(), 800);
    let log = wait(databases.west.list("log"));
    let once: HashSet<_> = log.iter().collect();
    assert_eq!(once.len(), log.len(), "applied twice");
    assert!(
        acknowledged.iter().all(|token| once.contains(token)),
        "lost"
    );
    wait(client.close());
}

#[test]
fn a_call_to_databases_that_hang_ends_by_its_deadline() {
    let databases = Databases::start();
    let client = databases.client();
    let mut con = client
        .get_connection_with_timeout(Duration::from_millis(700))
        .unwrap();
    wait(databases.east.stop());
    wait(databases.west.stop());
    let begun = Instant::now();
    let error = Commands::incr::<_, _, i64>(&mut con, "n", 1).unwrap_err();
    let took = begun.elapsed();
    assert!(from_redis(&error).is_some(), "{error}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    wait(client.close());
}

/// Naive: on a runtime that only runs within calls nobody watches the databases between them.
#[test]
fn an_idle_client_fails_over_by_itself() {
    let mut databases = Databases::start();
    let client = databases.client();
    databases.east.kill();
    eventually("it has moved", async || {
        client
            .active()
            .is_some_and(|active| active == *databases.west_id())
    });
    wait(client.close());
}

// --- pub/sub ---

#[test]
fn a_reader_on_a_thread_outlives_its_database() {
    let mut databases = Databases::start();
    let client = databases.client();
    let mut con = client.get_connection().unwrap();
    let mut pubsub = con.as_pubsub();
    pubsub.subscribe("news").unwrap();
    let _: i64 = wait(databases.east.cmd(&["PUBLISH", "news", "1"]));
    assert_eq!(
        pubsub
            .get_message()
            .unwrap()
            .get_payload::<String>()
            .unwrap(),
        "1"
    );
    databases.east.kill();
    eventually("it is subscribed", async || {
        databases.west.cmd::<i64>(&["PUBLISH", "news", "2"]).await == 1
    });
    assert_eq!(
        pubsub
            .get_message()
            .unwrap()
            .get_payload::<String>()
            .unwrap(),
        "2"
    );
    pubsub
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    assert!(pubsub.get_message().unwrap_err().is_timeout());
    drop(pubsub);
    eventually("nobody is subscribed", async || {
        databases.west.cmd::<i64>(&["PUBLISH", "news", "3"]).await == 0
    });
    wait(client.close());
}

// --- where it is used ---

#[test]
fn a_client_is_a_connection_and_the_manager_of_a_pool() {
    let databases = Databases::start();
    let mut client = databases.client();
    let () = Commands::set(&mut client, "k", 7).unwrap();
    assert!(client.check_connection());

    let pool = r2d2::Pool::builder()
        .max_size(4)
        .build(client.clone())
        .unwrap();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || {
                let mut con = pool.get().unwrap();
                Commands::get::<_, i64>(&mut *con, "k").unwrap()
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 7);
    }
    let mut held = pool.get().unwrap();
    wait(client.close());
    assert!(!held.is_open());
    let error = Commands::get::<_, i64>(&mut *held, "k").unwrap_err();
    assert_eq!(from_redis(&error).unwrap().kind(), &ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_of_an_asynchronous_pool() {
    let (east, west) = tokio::join!(RedisServer::start(), RedisServer::start());
    let client = MultiDbClient::open([(east.url(), 1.0), (west.url(), 0.5)]).unwrap();
    let pool = bb8::Pool::builder()
        .max_size(4)
        .build(client.clone())
        .await
        .unwrap();
    let mut con = pool.get().await.unwrap();
    let () = redis::AsyncCommands::set(&mut *con, "k", 7).await.unwrap();
    drop(con);
    let mut con = pool.get().await.unwrap();
    assert_eq!(
        redis::AsyncCommands::get::<_, i64>(&mut *con, "k")
            .await
            .unwrap(),
        7
    );
    client.close().await;
}

/// Of a client that an async program started: its threads may use it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_of_an_asynchronous_program_use_its_client() {
    let (east, west) = tokio::join!(RedisServer::start(), RedisServer::start());
    let client = MultiDbClient::open([(east.url(), 1.0), (west.url(), 0.5)]).unwrap();
    let ping = |client: MultiDbClient<Redis>| {
        let mut con: BlockingConnection = client.get_connection().unwrap();
        cmd("PING").query::<String>(&mut con).unwrap()
    };
    let there = client.clone();
    let pong = tokio::task::spawn_blocking(move || ping(there))
        .await
        .unwrap();
    assert_eq!(pong, "PONG");
    // Within a task it blocks, and does not panic.
    assert_eq!(ping(client.clone()), "PONG");
    client.close().await;
}

#[test]
fn nothing_is_left_of_a_client_whose_last_handle_is_dropped() {
    let databases = Databases::start();
    let client = databases.client();
    let con = client.get_connection().unwrap();
    drop(client);
    assert!(wait(databases.west.connected_clients()) > 0);
    drop(con);
    eventually("no connection is left", async || {
        databases.east.connected_clients().await + databases.west.connected_clients().await == 0
    });
}
