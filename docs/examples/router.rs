//! A router: resolves the best instance at a daemon, then picks from a cache that a watch fills.
//!
//! `cargo run --example router -- LOGICAL_ID`. `MUSTERD_ADDR` names the daemons, separated by commas.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error};

use musterd_client::{Choice, Client, Instance, Reason, Router};

fn show(what: &str, instance: Option<&Instance>) {
    match instance.and_then(|one| one.address().map(|address| (address, one.lease_id))) {
        Some((address, lease_id)) => println!("{what}: {address}, lease {lease_id}"),
        None => println!("{what}: none"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let logical_id = env::args().nth(1).ok_or("LOGICAL_ID")?;
    let client = Client::from_env()?;
    let best = client.resolve(&logical_id, &Choice::best()).await?.instance;
    show("best", Some(&best));
    // As after a failed call to it.
    match client.resolve(&logical_id, &Choice::best().without(best.instance_id)).await {
        Ok(other) => show("without that one", Some(&other.instance)),
        Err(error) if error.reason() == Reason::NoLiveInstance => show("without that one", None),
        Err(error) => return Err(error.into()),
    }

    // A pick needs no call. Send the lease along with a request: a receiver rejects a lower one than the highest seen.
    let router = Router::new(&client);
    router.ready(&logical_id).await?;
    let target = router.pick(&logical_id, &Choice::best())?;
    show(&format!("best of {} in the cache", router.instances(&logical_id).len()), Some(target.instance()));
    Ok(())
}
