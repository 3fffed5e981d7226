//! The same for synchronous code: `cargo run --features blocking --example blocking`.

use std::error::Error;

use multidb::MultiDbClient;
use multidb::blocking::wait;
use multidb::testing::server::Server;
use redis::{ConnectionLike, RedisResult, TypedCommands};

fn main() -> Result<(), Box<dyn Error>> {
    // In place of your databases; with real ones only the URLs differ.
    let (east, west) = (wait(Server::start())?, wait(Server::start())?);

    let client = MultiDbClient::builder()
        .url(east.url(), 1.0)
        .url(west.url(), 0.5)
        .on_event(|event| println!("   event: {event}"))
        .connect_blocking()?;

    let mut con = client.get_connection()?.assume_idempotent();
    println!("{:?}, says {:?}", greet(&mut con)?, client.active());

    // The client lives on a thread of its own, and notices between two calls, too.
    east.kill();
    println!("{:?}, says {:?}", greet(&mut con)?, client.active());

    println!("{}", client.explain());
    // Any other method of the client is waited for like this.
    wait(client.close());
    Ok(())
}

/// Written for redis-rs, which has no idea of two databases.
fn greet(con: &mut impl ConnectionLike) -> RedisResult<Option<String>> {
    con.set("greeting", "hello")?;
    con.get("greeting")
}
