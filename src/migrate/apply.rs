//! Applies migrations one by one, each in a transaction of its own, and waits for those who hold the tables.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::Client;

use super::{
    error::Error,
    history,
    transaction::{begin, lock},
};
use crate::postgres::{Database, connect::ConnectError, kept::Driven, server::Want};

/// How often a migration that met somebody else's lock is tried, with [`PAUSE`] times the attempt in between: about
/// half a minute for locks on tables, several minutes in the queue of daemons.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);

/// One migration that was applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its number.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// How long its statements took.
    pub duration: Duration,
}

/// Opens a session of its own for a command.
pub(super) async fn open(url: &str, want: Want) -> Result<(Database, Driven), Error> {
    let database = Database::at(url).map_err(ConnectError::from)?;
    let session = database.open_driven(want, Duration::MAX).await?;
    Ok((database, session))
}

/// Applies what is pending up to `last`.
pub(super) async fn apply_up_to(client: &mut Client, last: i32, applied_by: &str) -> Result<Vec<Applied>, Error> {
    let mut applied = Vec::new();
    let mut budget = RetryBudget::default();
    loop {
        match apply_next(client, last, applied_by).await {
            Ok(Some(step)) => applied.push(step),
            Ok(None) => return Ok(applied),
            Err(error) => budget.after(error).await?,
        }
    }
}

/// Applies the first pending migration up to `last`, if there is one.
async fn apply_next(client: &mut Client, last: i32, applied_by: &str) -> Result<Option<Applied>, Error> {
    let transaction = begin(client, "migrating").await?;
    lock(&transaction).await?;
    let statuses = history::read(&transaction).await?;
    history::accept(&statuses)?;
    let Some(migration) = history::missing(&statuses).next().filter(|migration| migration.version <= last) else {
        return Ok(None);
    };
    let doing = format!("migration {} ({})", migration.version, migration.name);
    history::ensure(&transaction).await?;
    let started = Instant::now();
    transaction.batch_execute(&migration.sql()).await.map_err(Error::during(doing.clone()))?;
    let duration = started.elapsed();
    history::record(&transaction, migration, applied_by, duration).await?;
    transaction.commit().await.map_err(Error::during(doing))?;
    tracing::info!(version = migration.version, name = migration.name, ?duration, "applied a migration");
    Ok(Some(Applied { version: migration.version, name: migration.name.to_owned(), duration }))
}

/// Counts attempts that met a lock of somebody else's. To repeat an attempt is safe: it is one transaction.
#[derive(Default)]
pub(super) struct RetryBudget {
    tries: u32,
}

impl RetryBudget {
    /// Waits before the next attempt, or returns the error if it is of another kind or the budget is used up.
    pub(super) async fn after(&mut self, error: Error) -> Result<(), Error> {
        self.tries += 1;
        if !error.is_worth_retrying() || self.tries >= ATTEMPTS {
            return Err(error);
        }
        tracing::info!(attempt = self.tries, %error, "migration met a lock, trying again");
        sleep(PAUSE * self.tries).await;
        Ok(())
    }
}
