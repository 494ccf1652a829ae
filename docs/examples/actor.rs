//! An actor: registers, works while it holds its lease, drains on SIGTERM.
//!
//! `cargo run --example actor -- LOGICAL_ID IP PORT`. `MUSTERD_ADDR` names the daemons, separated by commas.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error, time::Duration};

use musterd_client::{Client, Register, State};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [logical_id, ip, port] =
        env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "LOGICAL_ID IP PORT")?;
    let client = Client::from_env()?;
    let node = env::var("HOSTNAME").unwrap_or_default();
    let instance = Register::new(logical_id).address(ip.parse()?, port.parse()?).node(node).ttl(Duration::from_secs(6));
    // From here on a thread of the client keeps the lease, and registers again if it is lost.
    let registration = client.register(instance).await?;

    let mut told_to_end = signal(SignalKind::terminate())?;
    let mut states = registration.states();
    loop {
        match *states.borrow_and_update() {
            State::Held(lease) => println!("registered: lease {}, epoch {}", lease.lease_id, lease.epoch_number),
            // Stop what the lease allowed: another instance may have taken over.
            State::Lost(lost) => println!("{lost}"),
            State::Ended => return Err("the registration has ended".into()),
            _ => {}
        }
        tokio::select! {
            changed = states.changed() => changed?,
            _ = told_to_end.recv() => break,
        }
    }
    // Draining: routers send nothing new, and the lease is kept while the actor finishes its work.
    registration.close(Duration::from_secs(2)).await?;
    println!("the lease is given back");
    Ok(())
}
