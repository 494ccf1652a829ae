//! Brings a database to the schema this binary needs, and tells when it is not there.
//!
//! The migrations are numbered SQL files (`migrations/`), embedded in the binary. What a database has gone through
//! stands in its table `muster_migration`, with a checksum of each text.
//!
//! Four decisions carry the rest:
//!
//! - **One transaction for each migration**, its entry in the history included: it has happened or it has not.
//! - **A transaction-level advisory lock**, never a session-level one, and the history read again under it. Daemons
//!   that start together queue up, the first one migrates, the others find nothing to do. Nothing is left behind when a
//!   daemon dies on the way.
//! - **Everything is made by the owner of the registry's tables**, whichever of its members, or superuser, runs the
//!   migration: the functions act with the rights of their owner, which must be those over the tables.
//! - **The search path is pinned** to the schema the connection works in. The functions carry it along
//!   (`SET search_path FROM CURRENT`), so a caller cannot put another `registry_instance` before ours.
//!
//! The database may be shared with the seed system, which runs its own migration scripts again at every deployment and
//! so puts its functions and views back in the place of ours, faults included. No checksum notices that. Therefore [`up`]
//! ends by comparing functions and views with `migrations/schema.sql` and creates anew those that differ, and [`verify`]
//! compares everything.

mod embedded;
mod error;
mod history;
mod repair;
pub mod schema;
mod transaction;

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use self::transaction::{begin, lock};
pub use self::{
    error::Error,
    history::{State, Status},
};
use crate::postgres::database::{self, Driver};

/// How often a migration that met somebody else's lock is tried, with [`PAUSE`] times the attempt in between: about
/// half a minute for locks on tables, several minutes in the queue of daemons.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);

/// How long the end of a connection is awaited.
const FAREWELL: Duration = Duration::from_secs(1);

/// How [`verify`] begins a line about a table whose rows a policy may hide.
pub const ROW_SECURITY: &str = "row-level security may hide rows of table";

fn row_security_fix(table: &str) -> String {
    format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
}

/// What [`up`] did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The migrations it applied, in order.
    pub applied: Vec<Applied>,
    /// Functions, views and the like that others had changed and that it put back, by name.
    pub repaired: Vec<String>,
    /// The highest version the database has now; 0 for none.
    pub current: i32,
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

/// Applies every migration the database at `url` lacks, then puts back functions and views of ours that others have
/// overwritten. `applied_by` is kept in the history. Safe to call from any number of daemons at once.
///
/// # Errors
///
/// Any [`Error`] but [`Error::Pending`]. What was applied before the error stays applied.
pub async fn up(url: &str, applied_by: &str) -> Result<Report, Error> {
    let (mut client, driver) = database::for_changes(url).await?;
    let applied = apply_up_to(&mut client, embedded::HEAD, applied_by).await?;
    let repaired = repair(&mut client).await?;
    close(client, driver).await;
    Ok(Report { applied, repaired, current: embedded::HEAD })
}

/// Applies migrations up to `version` only, and repairs nothing. Tests use it to see what an earlier state does, and to
/// make `migrations/schema.sql`, from which a repair would come.
///
/// # Errors
///
/// As [`up`].
pub async fn up_to(url: &str, version: i32) -> Result<Report, Error> {
    let (mut client, driver) = database::for_changes(url).await?;
    let applied = apply_up_to(&mut client, version, "musterd").await?;
    let transaction = begin(&mut client, "reading the migration history").await?;
    let statuses = history::read(&transaction).await?;
    drop(transaction);
    close(client, driver).await;
    let current = statuses.iter().filter(|status| status.state == State::Applied).map(|status| status.version).max();
    Ok(Report { applied, repaired: Vec::new(), current: current.unwrap_or(0) })
}

/// Tells where every migration stands, by number.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure. A database that was never migrated is no error: everything is pending.
pub async fn status(url: &str) -> Result<Vec<Status>, Error> {
    let (mut client, driver) = database::for_reading(url).await?;
    let transaction = begin(&mut client, "reading the migration history").await?;
    let statuses = history::read(&transaction).await?;
    drop(transaction);
    close(client, driver).await;
    Ok(statuses)
}

/// Refuses a database that is not exactly where this binary needs it: for a daemon that was told not to migrate.
///
/// # Errors
///
/// [`Error::Newer`], [`Error::Changed`], [`Error::Pending`], or what kept it from finding out.
pub async fn check(url: &str) -> Result<(), Error> {
    let statuses = status(url).await?;
    history::accept(&statuses)?;
    let count = history::missing(&statuses).count();
    match history::missing(&statuses).next() {
        Some(first) => Err(Error::Pending { count, first: first.version, name: first.name }),
        None => Ok(()),
    }
}

/// Compares the live schema with what the migrations make, object by object, and returns one line for each difference.
///
/// While migrations are pending, unknown or changed it names those instead: there is no schema to compare with.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure.
pub async fn verify(url: &str) -> Result<Vec<String>, Error> {
    let (mut client, driver) = database::for_reading(url).await?;
    let transaction = begin(&mut client, "comparing the schema").await?;
    let statuses = history::read(&transaction).await?;
    let mut lines: Vec<String> = statuses
        .iter()
        .filter(|status| status.state != State::Applied)
        .map(|status| {
            let state = match status.state {
                State::Applied | State::Pending => "is pending",
                State::Changed => "was applied with a different text",
                State::Unknown => "is unknown to this binary",
            };
            format!("migration {} ({}) {state}", status.version, status.name)
        })
        .collect();
    if lines.is_empty() {
        let live = schema::read(&transaction).await.map_err(Error::during("comparing the schema"))?;
        let expected = schema::parse(embedded::SCHEMA);
        lines = schema::differences(&expected, &live).iter().map(ToString::to_string).collect();
        let filtered = schema::filtered_tables(&transaction).await.map_err(Error::during("comparing the schema"))?;
        lines.extend(filtered.iter().map(|table| format!("{ROW_SECURITY} {table}; {}", row_security_fix(table))));
    }
    drop(transaction);
    close(client, driver).await;
    Ok(lines)
}

async fn apply_up_to(client: &mut Client, last: i32, applied_by: &str) -> Result<Vec<Applied>, Error> {
    let mut applied = Vec::new();
    let mut patience = Patience::default();
    loop {
        match apply_next(client, last, applied_by).await {
            Ok(Some(step)) => applied.push(step),
            Ok(None) => return Ok(applied),
            Err(error) => patience.after(error).await?,
        }
    }
}

async fn repair(client: &mut Client) -> Result<Vec<String>, Error> {
    let mut patience = Patience::default();
    loop {
        match repair::run(client).await {
            Ok(repaired) => return Ok(repaired),
            Err(error) => patience.after(error).await?,
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
struct Patience {
    tries: u32,
}

impl Patience {
    /// Waits before the next attempt, or returns the error if it is of another kind or patience is at its end.
    async fn after(&mut self, error: Error) -> Result<(), Error> {
        self.tries += 1;
        if !error.is_worth_retrying() || self.tries >= ATTEMPTS {
            return Err(error);
        }
        tracing::info!(attempt = self.tries, %error, "migration met a lock, trying again");
        sleep(PAUSE * self.tries).await;
        Ok(())
    }
}

/// Lets the connection say goodbye, so that whoever drops the database next finds nobody in it.
async fn close(client: Client, driver: Driver) {
    drop(client);
    if timeout(FAREWELL, driver).await.is_err() {
        tracing::debug!("the connection did not close in time");
    }
}
