//! Three lines: register, find, call.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::error::Error;

use musterd_client::{Choice, Client, Register, Router};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::from_env()?;
    let registration = client.register(Register::new("cognitive_organ_1").address("127.0.0.1".parse()?, 8000)).await?;
    let router = Router::new(&client);
    router.ready("cognitive_organ_1").await?;
    let target = router.pick("cognitive_organ_1", &Choice::best())?; // a live instance, from a cache
    println!("call {:?} with lease {}", target.instance().address(), target.instance().lease_id);
    registration.close(std::time::Duration::ZERO).await?;
    Ok(())
}
