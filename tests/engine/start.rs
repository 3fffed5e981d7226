//! Starting: what `connect()` waits for, and what it does not.

use multidb::engine::backend::{Depth, Purpose};
use multidb::engine::config::StartCounts;
use multidb::testing::scripted::{Script, Scripted, Work};
use multidb::{Builder, Config, ErrorKind, MultiDbClient, Reason, StartPolicy, Status};
use tokio::time::Instant;

use super::*;

/// Five databases of falling weight: the first `up` answer, the next `down` refuse, the rest hang.
fn five(up: usize, down: usize, policy: StartPolicy) -> (Builder<Scripted>, Vec<Script>) {
    let mut config = Config::default();
    config.start.policy = policy;
    config.start.deadline = secs(2);
    let scripts: Vec<_> = (0..5).map(|_| Script::new()).collect();
    let mut five = builder().config(config);
    for (n, script) in scripts.iter().enumerate() {
        five = five.database(database(&format!("db{n}"), script, 1.0 - 0.1 * n as f64));
        if n >= up + down {
            script.hang();
        } else if n >= up {
            script.kill();
        }
    }
    (five, scripts)
}

#[tokio::test(start_paused = true)]
async fn a_start_is_decided_as_soon_as_it_is_certain_and_at_its_deadline_at_the_latest() {
    use StartPolicy::{All, Custom, Majority, One};
    let two: StartPolicy = Custom(|counts| (counts.available >= 2).then_some(true));
    // Who answers, who refuses, the policy, whether it starts, and after how many ms.
    for (up, down, policy, starts, after) in [
        (5, 0, All, true, 0),
        (4, 1, All, false, 0),
        (4, 0, All, false, 1000),
        (3, 0, Majority, true, 0),
        (2, 3, Majority, false, 0),
        (2, 0, Majority, false, 1000),
        (1, 0, One, true, 0),
        (0, 5, One, false, 0),
        (0, 0, One, false, 1000),
        (2, 1, two, true, 0),
        (1, 4, two, false, 0),
    ] {
        let (five, _scripts) = five(up, down, policy);
        let start = Instant::now();
        let client = five.connect().await;
        let case = format!("{up} up, {down} down, {policy:?}: {client:?}");
        assert_eq!(client.is_ok(), starts, "{case}");
        // A connect that hangs is given up after the connect timeout of 1 s.
        assert_eq!(start.elapsed(), ms(after), "{case}");
        match client {
            Ok(client) => assert_eq!(active(&client), "db0", "{case}"),
            Err(error) => {
                assert_eq!(*error.kind(), ErrorKind::NotStarted, "{case}");
                assert!(
                    error.database().is_some(),
                    "it names one that failed: {case}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nothing_decides_ends_at_its_deadline() {
    let (five, _scripts) = five(5, 0, StartPolicy::Custom(|_: StartCounts| None));
    let start = Instant::now();
    assert!(five.connect().await.is_err());
    assert!(start.elapsed() <= secs(2) + ms(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_start_during_an_outage_works_and_who_comes_late_is_a_full_member() {
    let (east, west) = scripts();
    east.kill();
    let client = over(&east, &west).connect().await.unwrap();
    assert_eq!(active(&client), "west");
    let mut events = client.events();
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
    east.heal();
    let (_, to, reason) = next(&mut events, switched).await;
    assert_eq!((to.as_str(), reason), ("east", Reason::Fallback));
}

#[tokio::test(start_paused = true)]
async fn the_heaviest_is_preferred_and_a_hung_one_is_not_waited_for_long() {
    let (east, west) = scripts();
    east.latency(ms(30));
    let client = over(&east, &west).connect().await.unwrap();
    assert_eq!(active(&client), "east");

    let (east, west) = scripts();
    east.hang();
    let start = Instant::now();
    let client = over(&east, &west).connect().await.unwrap();
    assert_eq!(active(&client), "west");
    assert!(start.elapsed() <= ms(160), "{:?}", start.elapsed());
    assert_eq!(call(&client, Work::new("a")).await.unwrap(), "west");
}

#[tokio::test(start_paused = true)]
async fn a_database_of_weight_zero_is_never_started_with() {
    let (east, west) = scripts();
    let client = builder()
        .database(database("east", &east, 0.0))
        .database(database("west", &west, 0.1));
    let client = client.connect().await.unwrap();
    assert_eq!(active(&client), "west");
    west.kill();
    let error = kind(call(&client, Work::new("a")).await);
    assert_eq!(error, ErrorKind::Unavailable);
    assert!(east.called().is_empty());
    // An operator may choose it.
    client.switch_to("east").await.unwrap();
    assert_eq!(call(&client, Work::new("b")).await.unwrap(), "east");
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_leaves_nothing_behind() {
    let (five, scripts) = five(3, 1, StartPolicy::All);
    assert!(five.connect().await.is_err());
    nothing_runs(&scripts).await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_dropped_half_way_leaves_nothing_behind() {
    let (five, scripts) = five(3, 0, StartPolicy::All);
    let start = tokio::time::timeout(ms(100), five.connect());
    assert!(start.await.is_err());
    tokio::time::sleep(ms(1)).await;
    nothing_runs(&scripts).await;
}

/// No connection is open, and nothing is asked any more.
async fn nothing_runs(scripts: &[Script]) {
    for script in scripts {
        script.forget();
    }
    tokio::time::sleep(secs(120)).await;
    for script in scripts {
        assert_eq!(script.open(), 0);
        assert!(script.log().is_empty(), "{:?}", script.log());
    }
}

// === lazily ===

#[tokio::test(start_paused = true)]
async fn a_lazy_client_does_nothing_before_its_first_call() {
    let (east, west) = scripts();
    let client = over(&east, &west).connect_lazy().unwrap();
    let clone = client.clone();
    let _ = (
        client.snapshot(),
        client.explain(),
        client.active(),
        client.router(),
    );
    let _ = (client.events(), format!("{client:?}"));
    tokio::time::sleep(secs(3600)).await;
    assert!(east.log().is_empty() && west.log().is_empty());
    assert_eq!(client.snapshot().status, Status::Starting);

    let start = Instant::now();
    assert_eq!(call(&clone, Work::new("a")).await.unwrap(), "east");
    assert_eq!(start.elapsed(), ms(0));
    assert_eq!(east.connects(Purpose::Traffic), 1);
    assert_eq!(west.checks(Depth::Alive), 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_call_of_a_lazy_client_has_its_usual_deadline() {
    let (east, west) = scripts();
    east.kill();
    west.kill();
    let client = over(&east, &west).connect_lazy().unwrap();
    let start = Instant::now();
    assert_eq!(
        kind(call(&client, Work::new("a")).await),
        ErrorKind::Unavailable
    );
    let took = start.elapsed();
    assert!(took >= secs(5) && took <= secs(5) + ms(10), "{took:?}");
    west.heal();
    assert_eq!(call(&client, Work::new("b")).await.unwrap(), "west");
}

#[tokio::test(start_paused = true)]
async fn verbs_and_waiting_start_a_lazy_client_too() {
    let (east, west) = scripts();
    let client = over(&east, &west).connect_lazy().unwrap();
    client.set_weight("west", 2.0).await.unwrap();
    until_active(&client, "west").await;
    let client = over(&east, &west).connect_lazy().unwrap();
    until_active(&client, "east").await;
    let client = over(&east, &west).connect_lazy().unwrap();
    assert_eq!(client.lease().await.unwrap().database(), &"east");
}

#[test]
fn a_lazy_client_needs_no_runtime_to_be_made_or_dropped() {
    let (east, west) = scripts();
    let client = over(&east, &west).connect_lazy().unwrap();
    let router = client.router();
    drop(client);
    drop(router);
    assert!(east.log().is_empty());
    // The scripts are held by nobody else any more.
    let client = over(&east, &west).connect_lazy().unwrap();
    let runtime = paused();
    assert_eq!(
        runtime.block_on(call(&client, Work::new("a"))).unwrap(),
        "east"
    );
    runtime.block_on(client.close());
}

fn paused() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap()
}

// === what is wrong is said before anything is done ===

#[test]
fn what_cannot_work_is_refused_by_name_without_any_io() {
    let script = Script::new();
    let field = |builder: Builder<Scripted>| match builder.connect_lazy() {
        Err(error) => match error.kind() {
            ErrorKind::Invalid(flaw) => flaw.field().to_owned(),
            other => panic!("{other:?}"),
        },
        Ok(client) => panic!("accepted: {client:?}"),
    };
    let one = || builder().database(database("a", &script, 1.0));
    assert_eq!(field(builder()), "databases");
    assert_eq!(
        field(one().database(database("a", &script, 2.0))),
        "databases[1].id"
    );
    assert_eq!(field(one().deadline(ms(0))), "calls.deadline");
    let graceless = database("b", &script, 1.0).grace_period(ms(0));
    assert_eq!(
        field(one().database(graceless)),
        "databases[1].grace_period"
    );
    assert!(script.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_client_of_many_members_starts_as_fast_as_the_first() {
    let mut builder = builder();
    let scripts: Vec<_> = (0..50).map(|_| Script::new()).collect();
    for (n, script) in scripts.iter().enumerate() {
        script.latency(ms(20));
        builder = builder.database(database(&format!("db{n}"), script, 1.0));
    }
    let start = Instant::now();
    let client: MultiDbClient<Scripted> = builder.connect().await.unwrap();
    assert_eq!(
        start.elapsed(),
        ms(40),
        "in parallel: a connect and a check"
    );
    assert_eq!(active(&client), "db0", "ties go to the one added first");
}

/// Tells a test what it was told, which comes from a thread of its own.
struct Telling(
    multidb::LastActiveInMemory,
    std::sync::mpsc::Sender<DatabaseId>,
);

impl multidb::LastActive for Telling {
    fn recall(&self) -> Option<DatabaseId> {
        self.0.recall()
    }

    fn remember(&self, database: &DatabaseId) {
        self.0.remember(database);
        let _ = self.1.send(database.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_begins_where_the_last_one_was() {
    let (east, west) = scripts();
    let known = multidb::LastActiveInMemory::default();
    let mut config = multidb::Config::default();
    config.failover.auto_fallback = false;
    let (tell, told) = std::sync::mpsc::channel();
    let make = || {
        let hint = Telling(known.clone(), tell.clone());
        over(&east, &west).config(config.clone()).last_active(hint)
    };
    let first = serving(make()).await;
    first.switch_to("west").await.unwrap();
    for expected in ["east", "west"] {
        assert_eq!(told.recv_timeout(secs(10)).unwrap(), expected);
    }
    first.close().await;
    let second = serving(make()).await;
    assert_eq!(active(&second), "west");
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_panics_is_none() {
    struct Panics;
    impl multidb::LastActive for Panics {
        fn recall(&self) -> Option<DatabaseId> {
            panic!("as it likes")
        }
        fn remember(&self, _: &DatabaseId) {
            panic!("as it likes")
        }
    }
    let (east, west) = scripts();
    let client = serving(over(&east, &west).last_active(Panics)).await;
    assert_eq!(active(&client), "east");
    client.switch_to("west").await.unwrap();
}
