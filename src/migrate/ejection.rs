//! `musterd migrate eject`: gives the runtime registry back to SeedCore; and the way back.
//!
//! SeedCore's functions, views and two indexes return as 011 and 012 make them. Columns, rows and triggers stay: the
//! triggers number what the old functions write, so dead stays final, epochs stay unique, and the leases and revisions of
//! today are those of a later return. Leases get their TTL once more, because the old expiry knows no TTL but 15 s; the
//! triggers hold it to that. A row of the history says that the database was given back: no daemon takes it over by itself.

use tokio_postgres::Client;

use crate::{
    migrations::{
        embedded::{FIRST, MIGRATIONS},
        statements::{LIVE, RIGHTS},
    },
    runner::{
        decision,
        error::Error,
        history::{self, EJECTED},
        transaction::{begin, hold_leases, lock},
    },
};

/// Ends the state in which the registry is SeedCore's.
pub(super) const REMOVE_MARK: &str = "DELETE FROM muster_migration WHERE version = $1";

/// Gives the registry back. Returns whether there was anything to do. With `keep_roles`, only the roles that may call the
/// functions now may do so afterwards.
pub(super) async fn eject(client: &mut Client, keep_roles: bool, by: &str) -> Result<bool, Error> {
    let doing = "giving the registry back to SeedCore";
    let transaction = begin(client, doing).await?;
    lock(&transaction).await?;
    let statuses = history::read(&transaction).await?;
    history::accept(&statuses)?;
    if history::refuse_ejected(&statuses).is_err() {
        return Ok(false);
    }
    // The old functions rely on all of the triggers.
    if history::missing(&statuses).next().is_some() {
        return Err(history::pending(&statuses));
    }
    let live = transaction.query_typed(LIVE, &[]).await.map_err(Error::during(doing))?;
    if !live.is_empty() {
        return Err(Error::DaemonsLive(live.iter().map(|row| row.get(0)).collect()));
    }
    hold_leases(&transaction).await?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version <= FIRST + 1) {
        transaction.batch_execute(&migration.sql()).await.map_err(Error::during(doing))?;
    }
    if !keep_roles {
        transaction.batch_execute(RIGHTS).await.map_err(Error::during(doing))?;
    }
    let mark = "INSERT INTO muster_migration (version, name, checksum, applied_by, duration_ms)
                VALUES ($1, 'ejected', '', $2, 0)";
    transaction.execute(mark, &[&EJECTED, &by]).await.map_err(Error::during(doing))?;
    decision::record(&transaction, "migrate_eject", by, "registry").await?;
    transaction.commit().await.map_err(Error::during(doing))?;
    tracing::warn!("the registry was given back to SeedCore");
    Ok(true)
}

/// Takes back what [`eject`] gave: afterwards the usual repair finds SeedCore's functions. Returns whether there was
/// anything to take back.
pub(super) async fn take_back(client: &mut Client, hold: bool, by: &str) -> Result<bool, Error> {
    let doing = "taking the registry over again";
    let transaction = begin(client, doing).await?;
    if history::refuse_ejected(&history::read(&transaction).await?).is_ok() {
        return Ok(false);
    }
    lock(&transaction).await?;
    transaction.execute(REMOVE_MARK, &[&EJECTED]).await.map_err(Error::during(doing))?;
    if hold {
        hold_leases(&transaction).await?;
    }
    // A database that was given back by a binary that kept no such record has no table for it yet.
    decision::record_if_kept(&transaction, "migrate_return", by, "registry").await?;
    transaction.commit().await.map_err(Error::during(doing))?;
    Ok(true)
}
