//! A reader across a planned switch and a failover: `cargo run --example pubsub`.

use std::error::Error;

use futures_util::StreamExt;
use multidb::MultiDbClient;
use multidb::redis::Notification;
use multidb::testing::server::Server;
use redis::AsyncCommands;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // In place of your databases; with real ones only the URLs differ.
    let (east, west) = (Server::start().await?, Server::start().await?);
    let client = MultiDbClient::open([(east.url(), 1.0), (west.url(), 0.5)])?;

    let mut pubsub = client.get_async_pubsub().await?;
    pubsub.subscribe("news").await?;
    let reader = tokio::spawn(async move {
        let mut notifications = pubsub.on_notification();
        while let Some(notification) = notifications.next().await {
            match notification {
                Notification::Message(msg) => {
                    let text: String = msg.get_payload().unwrap_or_default();
                    println!("read {text:?}");
                    if text == "the end" {
                        break;
                    }
                }
                notice => println!("   {notice:?}"),
            }
        }
    });

    let mut con = client.connection();
    let () = con.publish("news", "from the east").await?;
    client.switch_to(west.addr().to_string()).await?;
    let () = con
        .publish("news", "from the west, and nothing was missed")
        .await?;
    west.kill();
    // Until somebody has read it: pub/sub keeps nothing, and what met the kill may be lost with it.
    while !(con.publish::<_, _, i64>("news", "the end").await).is_ok_and(|readers| readers > 0) {}
    reader.await?;
    client.close().await;
    Ok(())
}
