//! A generated gRPC client over two servers: only its channel is another one.
//!
//! `cargo run --features e6data,testing --example grpc_channel`. The servers are stand-ins of `multidb::testing`; the
//! method that is called is one that they have.

use http::uri::PathAndQuery;
use multidb::grpc::MultiDbChannel;
use multidb::testing::e6data::E6dataServer;
use tonic::client::Grpc;
use tonic::{Request, Response};
use tonic_prost::ProstCodec;

const METHOD: &str = "/QueryEngineService/healthCheck";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (east, west) = (E6dataServer::start().await?, E6dataServer::start().await?);
    let client = MultiDbChannel::builder()
        .endpoint(format!("http://{}", east.address()), 1.0)
        .endpoint(format!("http://{}", west.address()), 0.5)
        .idempotent_methods([METHOD])
        .on_event(|event| println!("  {event}"))
        .connect()
        .await?;

    // What a generated client has inside: `OrdersClient::new(client.channel())`.
    let mut orders = Grpc::new(client.channel());
    let mut east = Some(east);
    for call in 1..=6 {
        if call == 4 {
            println!("east dies");
            drop(east.take());
        }
        orders.ready().await?;
        let (path, codec) = (PathAndQuery::from_static(METHOD), ProstCodec::default());
        let _: Response<()> = orders.unary(Request::new(()), path, codec).await?;
        let active = client.active().map(|id| id.to_string());
        println!(
            "call {call} answered, active: {}",
            active.unwrap_or_default()
        );
    }
    client.close().await;
    Ok(())
}
