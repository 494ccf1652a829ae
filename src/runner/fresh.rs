//! Applies all migrations to a database that has nothing of a registry, in one transaction.
//!
//! Migrations are otherwise applied one by one ([`super::apply`]), so that each holds its locks for a short time and what was
//! applied before a failure stays. Where there is no table yet, no session waits for a lock and no row is rewritten, and
//! what counts is the latency of the database: one round trip for each statement makes the first start with a database
//! across regions take half a minute. Here all statements are sent one behind the other.

use std::time::Instant;

use futures_util::future::try_join_all;
use tokio::try_join;
use tokio_postgres::Client;

use super::{
    apply::Applied,
    error::Error,
    history,
    transaction::{lock, settle},
};
use crate::migrations::embedded::{MIGRATIONS, Migration};

const IS_EMPTY: &str = "
SELECT to_regclass(schema.name || '.muster_migration') IS NULL
   AND to_regclass(schema.name || '.registry_instance') IS NULL
   AND to_regclass(schema.name || '.cluster_metadata') IS NULL
   AND to_regtype(schema.name || '.instancestatus') IS NULL
FROM (SELECT quote_ident(current_schema()) AS name) AS schema";

const BEGIN: &str = "START TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE";

/// Applies all migrations, if the database has nothing of a registry. `None`: it has something; then, and after an error,
/// the caller ends the transaction, which is not the driver's because that one waits for the answer to its beginning.
///
/// # Errors
/// [`Error::Queued`] if another daemon is about to migrate, or that of a statement. Nothing is applied then.
pub(crate) async fn apply_all(client: &Client, applied_by: &str) -> Result<Option<Vec<Applied>>, Error> {
    let begin = async { client.batch_execute(BEGIN).await.map_err(Error::during("migrating")) };
    let asking = async {
        let answer = client.query_typed(IS_EMPTY, &[]).await;
        answer.map_err(Error::during("looking for a registry"))
    };
    // Sent one behind the other: the question is asked under the lock.
    let ((), (), (), answer) = try_join!(biased; begin, settle(client, "migrating"), lock(client), asking)?;
    if !answer.first().is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    let started = Instant::now();
    let applying = try_join_all(MIGRATIONS.iter().map(|migration| apply(client, migration, applied_by)));
    let commit = async { client.batch_execute("COMMIT").await.map_err(Error::during("migrating")) };
    // What follows a failure in the transaction fails as well, and the first failure is the one that is told; the end of
    // a transaction that has failed undoes it.
    let ((), ended, ()) = try_join!(biased; history::create(client), applying, commit)?;
    let mut before = started;
    let applied = MIGRATIONS.iter().zip(ended).map(|(migration, at)| {
        let (Migration { version, name, .. }, duration) = (migration, at.saturating_duration_since(before));
        before = at;
        tracing::info!(version, name, ?duration, "applied a migration");
        Applied { version: *version, name: (*name).to_owned(), duration }
    });
    Ok(Some(applied.collect()))
}

/// Applies one, and returns when it was answered.
async fn apply(client: &Client, migration: &Migration, applied_by: &str) -> Result<Instant, Error> {
    let sql = migration.sql();
    let running = async {
        let doing = format!("migration {} ({})", migration.version, migration.name);
        client.batch_execute(&sql).await.map_err(Error::during(doing))
    };
    let recording = history::record(client, migration, applied_by, None);
    let ((), ()) = try_join!(biased; running, recording)?;
    Ok(Instant::now())
}
