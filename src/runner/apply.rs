//! Applies migrations, each in a transaction of its own unless it leaves a danger to the next one, and waits for sessions that hold the tables.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::{Client, GenericClient, Transaction};

use super::{
    error::Error,
    history::{self, Standing},
    transaction::{LOCK_KEY, begin, hold_leases, lock, may_become},
};
use crate::migrations::{
    embedded::{FIRST, HEAD, Migration, SCHEMA},
    shape,
};
use crate::schema::{self, blocker};

/// How often a migration that met the lock of another session is tried, with [`PAUSE`] times the attempt in between: about
/// half a minute.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);
/// How often a daemon asks for its turn, and for how long.
const QUEUE_PAUSE: Duration = Duration::from_millis(100);
const QUEUE_PATIENCE: Duration = Duration::from_secs(240);

/// The migration that numbers every row under one lock.
pub(crate) const NUMBERING: i32 = 13;

/// How far a database is migrated, and under which conditions.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UpOptions {
    /// The last migration to apply.
    pub to: i32,
    /// The rows that a migration may number under one lock.
    pub max_rows: Option<i64>,
    /// Whether the dead rows of a registry that is not numbered yet are deleted first, in batches.
    pub purge_dead: bool,
    /// Whether each lease gets its TTL once more afterwards. Without it, leases whose beats waited may expire at once.
    pub hold: bool,
}

impl Default for UpOptions {
    fn default() -> Self {
        Self { to: HEAD, max_rows: None, purge_dead: false, hold: true }
    }
}

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

/// Applies what is pending up to `last`. Also returns how the database then relates to this binary.
pub(crate) async fn apply_up_to(
    client: &mut Client,
    options: &UpOptions,
    applied_by: &str,
) -> Result<(Vec<Applied>, Standing), Error> {
    let mut applied = Vec::new();
    let mut budget = RetryBudget::default();
    loop {
        match apply_next(client, options, applied_by).await {
            Ok(Step::Applied(steps)) => applied.extend(steps),
            Ok(Step::Last(standing)) => return Ok((applied, standing)),
            Err(error) => budget.after(client, error).await?,
        }
    }
}

/// What one transaction did.
enum Step {
    Applied(Vec<Applied>),
    /// There was nothing to apply.
    Last(Standing),
}

/// Applies the first pending migration up to `last`, if there is one; 013 together with all that follow it.
///
/// While 013 holds its lock, a call of SeedCore's own expiry may wait behind it, and goes on with its old text as soon as the lock
/// is gone. No beat has been saved meanwhile. From then on that call has to meet the trigger that holds it to TTL and hold (016), and
/// the hold itself, which comes last.
async fn apply_next(client: &mut Client, options: &UpOptions, applied_by: &str) -> Result<Step, Error> {
    let transaction = begin(client, "migrating").await?;
    lock(&transaction).await?;
    let statuses = history::read(&transaction).await?;
    let standing = history::accept(&statuses)?;
    let Some(migration) = history::missing(&statuses).next().filter(|migration| migration.version <= options.to) else {
        return Ok(Step::Last(standing));
    };
    if let Standing::Ahead(_) = standing {
        // What it lacks was left out by the newer binary, and must not be made by this one.
        return Err(history::pending(&statuses));
    }
    let group: Vec<&Migration> = match migration.version {
        NUMBERING => {
            history::missing(&statuses).filter(|one| (NUMBERING..=options.to).contains(&one.version)).collect()
        }
        _ => vec![migration],
    };
    if migration.version == NUMBERING {
        check_rows(&transaction, options.max_rows).await?;
    }
    history::ensure(&transaction).await?;
    let mut applied = Vec::with_capacity(group.len());
    for migration in group {
        applied.push(apply(&transaction, migration, options.hold, applied_by).await?);
    }
    let doing = format!("migration {} ({})", migration.version, migration.name);
    transaction.commit().await.map_err(Error::during(doing))?;
    for Applied { version, name, duration } in &applied {
        tracing::info!(version, name, ?duration, "applied a migration");
    }
    Ok(Step::Applied(applied))
}

/// Applies one in the transaction.
async fn apply(
    transaction: &Transaction<'_>,
    migration: &Migration,
    hold: bool,
    applied_by: &str,
) -> Result<Applied, Error> {
    let doing = format!("migration {} ({})", migration.version, migration.name);
    let started = Instant::now();
    transaction.batch_execute(&migration.sql()).await.map_err(Error::during(doing))?;
    if migration.version == FIRST {
        check_shape(transaction).await?;
    }
    if migration.version == HEAD && hold {
        hold_leases(transaction).await?;
    }
    let duration = started.elapsed();
    history::record(transaction, migration, applied_by, Some(duration)).await?;
    Ok(Applied { version: migration.version, name: migration.name.to_owned(), duration })
}

/// Refuses tables and an enum of another shape, after 011 has run and before it is committed.
async fn check_shape(client: &impl GenericClient) -> Result<(), Error> {
    let live = schema::read(client).await.map_err(Error::during("comparing the tables"))?;
    let differences = shape::differences(&schema::parse(SCHEMA), &live);
    if differences.is_empty() { Ok(()) } else { Err(Error::Foreign { differences }) }
}

/// Counts before the lock is taken: the count reads the whole table.
async fn check_rows(client: &impl GenericClient, allowed: Option<i64>) -> Result<(), Error> {
    let Some(allowed) = allowed else { return Ok(()) };
    let counted = client.query_typed("SELECT count(*) FROM registry_instance", &[]).await;
    let rows = counted.map_err(Error::during("counting rows"))?.first().map_or(0, |row| row.get(0));
    if rows > allowed { Err(Error::TooManyRows { rows, allowed }) } else { Ok(()) }
}

/// Counts attempts that met a lock of another session. To repeat an attempt is safe: it is one transaction.
#[derive(Default)]
pub(crate) struct RetryBudget {
    tries: u32,
    queued_since: Option<Instant>,
}

impl RetryBudget {
    /// Waits before the next attempt, or returns the error, with what can be found out about it, if it is of another kind or
    /// the budget is used up.
    pub(crate) async fn after(&mut self, client: &Client, error: Error) -> Result<(), Error> {
        match error {
            Error::Queued => {
                if self.queued_since.get_or_insert_with(Instant::now).elapsed() < QUEUE_PATIENCE {
                    sleep(QUEUE_PAUSE).await;
                    return Ok(());
                }
                let blocker = blocker::of_turn(client, LOCK_KEY).await.map(Box::new);
                Err(Error::Busy { doing: "waiting for another migration".to_owned(), blocker })
            }
            Error::Busy { doing, .. } if self.tries + 1 >= ATTEMPTS => {
                let blocker = blocker::of_tables(client).await.map(Box::new);
                Err(Error::Busy { doing, blocker })
            }
            Error::Busy { .. } => {
                self.tries += 1;
                tracing::info!(attempt = self.tries, %error, "migration met a lock, trying again");
                sleep(PAUSE * self.tries).await;
                Ok(())
            }
            Error::MissingRights { doing, message, .. } => {
                let owner = foreign_owner(client).await.map(Box::new);
                Err(Error::MissingRights { doing, message, owner })
            }
            error => Err(error),
        }
    }
}

/// The owner of the registry's tables and the role of the session, if it is another one that may not become the owner.
async fn foreign_owner(client: &Client) -> Option<(String, String)> {
    let query = format!(
        "SELECT pg_get_userbyid(class.relowner)::text, current_user::text
         FROM pg_class AS class
         WHERE class.oid = to_regclass(quote_ident(current_schema()) || '.registry_instance')
           AND class.relowner <> quote_ident(current_user)::regrole AND NOT {}",
        may_become("current_user", "class.relowner")
    );
    let rows = client.query_typed(&query, &[]).await.ok()?;
    rows.first().and_then(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)))
}
