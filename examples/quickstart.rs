//! One client over two databases, and a failover: `cargo run --example quickstart`.

use std::error::Error;

use multidb::MultiDbClient;
use multidb::testing::server::Server;
use redis::AsyncCommands;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In place of your databases; with real ones only the URLs differ.
    let (east, west) = (Server::start().await?, Server::start().await?);

    let client = MultiDbClient::builder()
        .url(east.url(), 1.0)
        .url(west.url(), 0.5)
        .on_event(|event| println!("   event: {event}"))
        .connect()
        .await?;

    // From here on it is redis-rs. A SET may run twice without harm, and saying so lets the client
    // repeat it even when its outcome is unknown.
    let mut con = client.connection().assume_idempotent();
    let () = con.set("greeting", "hello").await?;
    let greeting: String = con.get("greeting").await?;
    println!("{greeting:?}, says {:?}", client.active());

    east.kill();

    // The databases are independent, so this one has not heard of the greeting yet.
    let () = con.set("greeting", "hello again").await?;
    let greeting: String = con.get("greeting").await?;
    println!("{greeting:?}, says {:?}", client.active());

    println!("{}", client.explain());
    client.close().await;
    Ok(())
}
