//! The synchronous interface, and a failover under it: `cargo run --features blocking --example blocking`.

use std::error::Error;

use multidb::MultiDbClient;
use multidb::redis::wait;
use multidb::testing::server::Server;
use redis::Commands;

fn main() -> Result<(), Box<dyn Error>> {
    // In place of your databases; with real ones only the URLs differ.
    let (east, west) = (wait(Server::start())?, wait(Server::start())?);
    let client = MultiDbClient::builder()
        .url(east.url(), 1.0)
        .url(west.url(), 0.5)
        .connect_blocking()?;

    // From here on it is redis-rs. A SET may run twice without harm, and saying so lets the client
    // repeat it even when its outcome is unknown.
    let mut con = client.get_connection()?.assume_idempotent();
    let () = con.set("greeting", "hello")?;
    let greeting: String = con.get("greeting")?;
    println!("{greeting:?}, says {:?}", client.active());

    east.kill();

    let (_, greeting): (String, String) = redis::pipe()
        .cmd("SET")
        .arg("greeting")
        .arg("hello again")
        .get("greeting")
        .query(&mut con)?;
    println!("{greeting:?}, says {:?}", client.active());

    // Whatever else the client can do, a thread can wait for.
    wait(client.close());
    Ok(())
}
