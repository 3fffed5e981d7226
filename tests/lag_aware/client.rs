//! The check in a client: what a database's lag keeps it from, and what it does not.

use multidb::redis::Redis;
use multidb::testing::server::Server;
use multidb::{
    Config, Event, Events, FaultKind, MultiDbClient, Obstacle, Reason, Snapshot, Verdict,
};
use tokio::time::{Duration, timeout};

use crate::stand_in::{Ca, LIST, Reply, StandIn, availability, lags, list};
use crate::support::eventually;
use crate::{LIMIT, database, trusting};

/// Two databases of one cluster, east wanted more, and a client of both.
struct Pair {
    east: Server,
    west: Server,
    api: StandIn,
    client: MultiDbClient<Redis>,
}

const EAST: u64 = 1;
const WEST: u64 = 2;

fn well() -> Reply {
    Reply::Status(200, String::new())
}

impl Pair {
    /// Health is looked at every 50 ms; the API's own time is up after `patience`.
    async fn start(patience: Duration) -> Self {
        let ca = Ca::new("cluster");
        let api = StandIn::start(&ca).await;
        let (east, west) = (
            Server::start().await.unwrap(),
            Server::start().await.unwrap(),
        );
        let at = |uid, server: &Server| (uid, "db.example", "127.0.0.1", server.addr().port());
        api.answers(LIST, list(&[at(EAST, &east), at(WEST, &west)]));
        api.answers(availability(EAST), well());
        api.answers(availability(WEST), well());
        let mut config = Config::default();
        config.health.interval = Duration::from_millis(50);
        config.health.timeout = Duration::from_millis(500);
        config.circuit.grace_period = Duration::from_millis(50);
        config.failover.fallback_interval = Duration::from_millis(50);
        let check = trusting(ca.trusted()).port(api.port()).timeout(patience);
        let west_database = database("west", &west.url()).weight(0.5).unwrap();
        let client = MultiDbClient::builder()
            .config(config)
            .database(database("east", &east.url()))
            .database(west_database)
            .health_check(check.build().unwrap())
            .connect()
            .await
            .unwrap();
        let pair = Self {
            east,
            west,
            api,
            client,
        };
        pair.until("both are well", |now| {
            let well = |id| now.member(id).unwrap().verdict == Some(Verdict::Healthy);
            serves(now, "east") && well("east") && well("west")
        })
        .await;
        pair
    }

    async fn until(&self, what: &str, condition: impl FnMut(&Snapshot) -> bool) {
        let waited = timeout(LIMIT, self.client.wait_for(condition)).await;
        let shown = waited.unwrap_or_else(|_| panic!("{what}: {}", self.client.explain()));
        shown.unwrap();
    }

    /// East has been asked about so many times more.
    async fn rounds(&self, rounds: usize) {
        let path = availability(EAST);
        let asked = || {
            self.api
                .paths()
                .iter()
                .filter(|asked| **asked == path)
                .count()
        };
        let before = asked();
        eventually(LIMIT, "rounds go on", async || asked() >= before + rounds).await;
    }
}

fn serves(now: &Snapshot, id: &str) -> bool {
    now.active.as_ref().is_some_and(|active| *active == *id)
}

fn is_reserved(now: &Snapshot, id: &str) -> bool {
    matches!(now.member(id).unwrap().verdict, Some(Verdict::Degraded(_)))
}

async fn next<T>(events: &mut Events, which: impl Fn(&Event) -> Option<T>) -> T {
    let wanted = async {
        loop {
            let event = events.next().await.expect("the client is closed");
            if let Some(found) = which(&event) {
                return found;
            }
        }
    };
    timeout(LIMIT, wanted).await.expect("no such event")
}

#[tokio::test]
async fn a_database_that_lags_is_not_left_not_returned_to_and_better_than_none() {
    let pair = Pair::start(Duration::from_secs(3)).await;
    let mut events = pair.client.events();
    let lagging = "REST API: not available (503 bdb_unavailable)";

    pair.api.answers(availability(EAST), lags());
    pair.until("the lag is told", |now| is_reserved(now, "east"))
        .await;
    pair.rounds(5).await;
    assert!(serves(&pair.client.snapshot(), "east"), "not left");
    assert_eq!(pair.client.snapshot().generation, 1);

    pair.east.kill();
    pair.until("a dead one is", |now| serves(now, "west")).await;
    pair.east.revive().await.unwrap();
    let held_back = [Obstacle::Degraded {
        cause: lagging.to_owned(),
    }];
    pair.until("the lag alone is in the way", |now| {
        now.member("east").unwrap().obstacles == held_back
    })
    .await;
    pair.rounds(5).await;
    assert!(serves(&pair.client.snapshot(), "west"), "not returned to");

    pair.api.answers(availability(EAST), well());
    pair.until("the lag is over", |now| serves(now, "east"))
        .await;

    pair.api.answers(availability(EAST), lags());
    pair.until("it lags again", |now| is_reserved(now, "east"))
        .await;
    pair.client.switch_to("west").await.unwrap();
    pair.client.unpin().await.unwrap();
    pair.rounds(5).await;
    assert!(serves(&pair.client.snapshot(), "west"));
    pair.west.kill();
    let told = next(&mut events, |event| match event {
        Event::ChosenDegraded { database, cause } => Some((database.clone(), cause.clone())),
        _ => None,
    });
    let (chosen, cause) = told.await;
    assert_eq!((chosen.as_str(), cause.as_str()), ("east", lagging));
    assert!(
        serves(&pair.client.snapshot(), "east"),
        "nobody else is left"
    );
    pair.client.close().await;
}

/// Naive: the API's silence is taken for the database's.
#[tokio::test]
async fn an_api_that_hangs_costs_no_database_its_place() {
    // Longer than the time of a whole look, so that it is the engine that loses its patience.
    let pair = Pair::start(Duration::from_secs(60)).await;
    let mut events = pair.client.events();
    pair.api.answers(availability(EAST), Reply::Silence);
    pair.api.answers(availability(WEST), Reply::Silence);
    pair.until("the silence is told", |now| {
        is_reserved(now, "east") && is_reserved(now, "west")
    })
    .await;
    pair.rounds(2).await;
    let now = pair.client.snapshot();
    let Some(Verdict::Degraded(fault)) = &now.member("east").unwrap().verdict else {
        panic!("{now:?}");
    };
    assert_eq!(fault.kind, FaultKind::Silent);
    assert!(
        fault.what.starts_with("lag aware: no answer within"),
        "{fault}"
    );
    assert_eq!((now.generation, serves(&now, "east")), (1, true));

    pair.east.kill();
    let moved = next(&mut events, |event| match event {
        Event::ActiveChanged { to, reason, .. } => Some((to.clone(), *reason)),
        _ => None,
    });
    let (to, reason) = moved.await;
    assert_eq!(to, "west");
    assert_ne!(reason, Reason::HealthCheck);
    pair.client.close().await;
}
