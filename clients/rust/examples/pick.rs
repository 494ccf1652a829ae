//! Measures what a pick from the cache of a router costs:
//!
//! ```text
//! cargo run --release --package musterd-client --example pick
//! ```
//!
//! It needs a daemon (`MUSTERD_ADDR`), registers a few instances and gives them back.

use std::{error::Error, hint::black_box, time::Instant};

use musterd_client::{Choice, Client, Policy, Register, Router};

const INSTANCES: u16 = 5;
const PICKS: u32 = 1_000_000;
/// The best of some runs: others use the machine too.
const RUNS: usize = 5;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "prints figures")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::from_env()?;
    let name = format!("pick-{}", std::process::id());
    let mut held = Vec::new();
    for port in 1..=INSTANCES {
        held.push(client.register(Register::new(&name).address("127.0.0.1".parse()?, port)).await?);
    }
    let router = Router::new(&client);
    router.ready(&name).await?;
    let policies =
        [("best", Policy::Best), ("rendezvous", Policy::Rendezvous("key".into())), ("random", Policy::Random)];
    for (word, policy) in policies {
        let choice = Choice::by(policy);
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let begun = Instant::now();
            for _ in 0..PICKS {
                black_box(router.pick(black_box(&name), &choice)?);
            }
            best = best.min(begun.elapsed().as_secs_f64() * 1e9 / f64::from(PICKS));
        }
        println!("{word}: {best:.0} ns for a pick among {INSTANCES}");
    }
    for registration in held {
        registration.close(std::time::Duration::ZERO).await?;
    }
    Ok(())
}
