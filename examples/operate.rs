//! An operator's verbs on a running client: `cargo run --example operate`.

use std::error::Error;
use std::time::Duration;

use multidb::redis::{Redis, RedisEndpoint};
use multidb::testing::server::Server;
use multidb::{ConfigError, Database, MultiDbClient};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (east, west) = (Server::start().await?, Server::start().await?);
    let client = MultiDbClient::builder()
        .database(database("east", &east, 1.0)?)
        .connect()
        .await?;
    show("one database", &client);

    client.add_verified(database("west", &west, 0.5)?).await?;
    show("a second one, added once it had answered", &client);

    client.set_weight("west", 2.0).await?;
    until_active("west", &client).await?;
    show("the heavier one serves; no call was needed", &client);

    client.switch_to("east").await?;
    show("pinned to the lighter one", &client);

    east.kill();
    until_active("west", &client).await?;
    show("the pinned one was killed and lost its pin", &client);

    let refused = client.switch_to("east").await;
    println!("a switch to it is refused: {}\n", refused.unwrap_err());

    east.revive().await?;
    let minute = Some(Duration::from_secs(60));
    client.force_active("east", minute).await?;
    show("forced, although its circuit is open", &client);

    client.close().await;
    Ok(())
}

fn database(id: &str, at: &Server, weight: f64) -> Result<Database<RedisEndpoint>, ConfigError> {
    Database::new(id, RedisEndpoint::parse(&at.url())?)?.weight(weight)
}

async fn until_active(id: &str, client: &MultiDbClient<Redis>) -> Result<(), multidb::Error> {
    let is_active = |active: &multidb::DatabaseId| *active == *id;
    client
        .wait_for(|now| now.active.as_ref().is_some_and(is_active))
        .await?;
    Ok(())
}

fn show(what: &str, client: &MultiDbClient<Redis>) {
    println!("{what}:\n{}\n", client.explain());
}
