//! `musterd migrate adopt`: records 011 and 012 in a database where SeedCore has made their objects.
//!
//! `up` would run the two again, which changes nothing where everything is there. This is for a database in which nothing
//! of the kind may run: it proves that every object is there, with a definition that SeedCore or musterd makes, and then
//! writes two rows. What is missing is never made here, and half of a suite is never recorded as the whole.

use std::time::Duration;

use tokio_postgres::Client;

use super::detect::{Detected, Presence, detect};
use crate::{
    migrations::embedded::{MIGRATIONS, Migration},
    runner::{
        decision,
        error::Error,
        history::{self, State},
        transaction::{begin, lock},
    },
};

/// The migrations whose objects SeedCore makes.
const SEEDCORE: i32 = 12;

/// Records what is there. Returns the names of what it recorded; none if both are recorded already.
pub(super) async fn run(client: &mut Client, applied_by: &str) -> Result<Vec<&'static str>, Error> {
    let transaction = begin(client, "recording what SeedCore has made").await?;
    lock(&transaction).await?;
    let detection = detect(&transaction).await?;
    let statuses: Vec<_> = detection.migrations.iter().map(|one| one.recorded.clone()).collect();
    history::accept(&statuses)?;
    history::refuse_ejected(&statuses)?;
    let pending: Vec<&Migration> = history::missing(&statuses).filter(|one| one.version <= SEEDCORE).collect();
    let found: Vec<&Detected> = detection
        .migrations
        .iter()
        .filter(|one| one.recorded.state == State::Pending && one.recorded.version <= SEEDCORE)
        .collect();
    let obstacles: Vec<String> =
        found.iter().filter(|one| one.presence != Presence::Present).map(|one| one.describe()).collect();
    if !obstacles.is_empty() {
        let foreign = found.iter().any(|one| one.presence == Presence::Foreign);
        return Err(Error::NotAdoptable { found: obstacles, foreign });
    }
    if pending.is_empty() {
        return Ok(Vec::new());
    }
    history::ensure(&transaction).await?;
    for migration in MIGRATIONS.iter().filter(|one| pending.iter().any(|other| other.version == one.version)) {
        history::record(&transaction, migration, applied_by, Some(Duration::ZERO)).await?;
        decision::record_if_kept(&transaction, "migrate_adopt", applied_by, &migration.file()).await?;
    }
    transaction.commit().await.map_err(Error::during("recording what SeedCore has made"))?;
    Ok(pending.iter().map(|migration| migration.name).collect())
}
