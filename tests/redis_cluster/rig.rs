//! What the tests share: databases, a client that has somewhere to go, and a limit on time.

use std::time::Duration;

use multidb::redis::{Redis, RedisEndpoint};
use multidb::{Builder, Database, MultiDbClient};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) async fn bounded(test: impl Future<Output = ()>) {
    timeout(LIMIT, test).await.expect("the test hangs");
}

pub(crate) fn builder() -> Builder<Redis> {
    MultiDbClient::builder()
}

/// Given another chance after half a second.
pub(crate) fn database(name: &str, url: &str, weight: f64) -> Database<RedisEndpoint> {
    let endpoint = RedisEndpoint::parse(url).unwrap();
    let database = Database::new(name, endpoint).unwrap();
    let database = database.weight(weight).unwrap();
    database.grace_period(Duration::from_millis(500))
}

/// On a cluster, with a server to go to.
pub(crate) async fn pair(cluster: &str, other: &str) -> MultiDbClient<Redis> {
    let client = builder()
        .database(database("cluster", cluster, 1.0))
        .database(database("other", other, 0.5))
        .connect()
        .await
        .unwrap();
    assert_eq!(client.active().unwrap(), *"cluster");
    client
}
