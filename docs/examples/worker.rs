//! A worker of a pool: what it writes is committed only while its lease is alive.
//!
//! `cargo run --example worker -- LOGICAL_ID`. `MUSTERD_ADDR` names the daemons, `MUSTERD_DATABASE_URL` the database, which has
//! a table `work (item bigint, done_by bigint)`.

#![expect(clippy::print_stdout, reason = "an example says what it does")]

use std::{env, error::Error, time::Duration};

use musterd_client::{Client, Register, Registration};
use tokio_postgres::NoTls;

/// Takes one item that no other worker has.
const TAKE: &str = "UPDATE work SET done_by = $1
    WHERE item = (SELECT item FROM work WHERE done_by IS NULL ORDER BY item LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING item";

/// Does one item; `None` if none is left.
async fn work(
    registration: &Registration,
    database: &mut tokio_postgres::Client,
) -> Result<Option<i64>, Box<dyn Error>> {
    // By the clock of this process, without a call: the lease holds for at least the time of the transaction.
    let lease_id = i64::try_from(registration.require_for(Duration::from_secs(2))?)?;
    let transaction = database.transaction().await?;
    // By PostgreSQL: fails if the lease has ended, and keeps it alive until the commit.
    transaction.execute("SELECT assert_lease($1)", &[&lease_id]).await?;
    let item = transaction.query_opt(TAKE, &[&lease_id]).await?.map(|row| row.get("item"));
    transaction.commit().await?;
    Ok(item)
}

async fn run(logical_id: String, mut database: tokio_postgres::Client) -> Result<(), Box<dyn Error>> {
    let registration = Client::from_env()?.register(Register::new(logical_id).ttl(Duration::from_secs(6))).await?;
    while let Some(item) = work(&registration, &mut database).await? {
        println!("item {item} is done under lease {}", registration.require()?);
    }
    registration.close(Duration::ZERO).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let logical_id = env::args().nth(1).ok_or("LOGICAL_ID")?;
    let (database, connection) = tokio_postgres::connect(&env::var("MUSTERD_DATABASE_URL")?, NoTls).await?;
    tokio::select! {
        ended = connection => Ok(ended?),
        done = run(logical_id, database) => done,
    }
}
