//! A router of gRPC calls: a client of tonic over the live instances of a name.
//!
//! `cargo run --example channel -- LOGICAL_ID`. It serves and calls; `MUSTERD_ADDR` names the daemons, separated by commas.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error, time::Duration};

use musterd_client::{Client, MusterChannel, Register, Router};
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

async fn call(client: Client, logical_id: &str, port: u16) -> Result<(), Box<dyn Error>> {
    let registration = client.register(Register::new(logical_id).address("127.0.0.1".parse()?, port)).await?;
    // One for each name, for the life of the process. It connects ahead of calls, to the best 8 instances.
    let channel = MusterChannel::new(&Router::new(&client), logical_id);
    // A request that did not reach its instance goes to another one. This one may be repeated, so it does so too if its
    // connection breaks before the answer.
    let mut health = HealthClient::new(channel.idempotent());
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(Duration::from_secs(2));
    println!("{logical_id} is {:?}", health.check(request).await?.into_inner().status());
    registration.close(Duration::ZERO).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let logical_id = env::args().nth(1).ok_or("LOGICAL_ID")?;
    let client = Client::from_env()?;
    // A server of stock gRPC: the calls above know it by its name alone.
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let port = incoming.local_addr()?.port();
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().add_service(health).serve_with_incoming(incoming);
    tokio::select! {
        ended = server => Ok(ended?),
        called = call(client, &logical_id, port) => called,
    }
}
