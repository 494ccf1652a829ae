//! Brings a database to the schema this binary needs, and tells when it is not there.
//!
//! The migrations are numbered SQL files (`migrations/`), embedded in the binary. What a database has gone through
//! stands in its table `muster_migration`, with a checksum of each text.
//!
//! Four decisions carry the rest:
//!
//! - **One transaction for each migration**, its entry in the history included: it has happened or it has not.
//! - **A transaction-level advisory lock**, never a session-level one, and the history read again under it. Of daemons
//!   that start together the first one migrates, the others ask again until it has finished, and find nothing to do. Nothing
//!   is left behind when a daemon dies on the way.
//! - **Everything is made by the owner of the registry's tables**, whichever of its members, or superuser, runs the
//!   migration: the functions act with the rights of their owner, which must be those over the tables.
//! - **The search path is pinned** to the schema the connection works in. The functions carry it along
//!   (`SET search_path FROM CURRENT`), so a caller cannot put another `registry_instance` before ours.
//!
//! The database may be shared with SeedCore, which runs its own migration scripts again at every deployment and
//! so puts its functions and views back in the place of ours, faults included. No checksum notices that. Therefore [`up`]
//! ends by comparing functions and views with `migrations/schema.sql` and creates those that differ again, running daemons
//! do the same every few seconds ([`drift`]), and [`verify`] compares everything.

mod adoption;
mod apply;
mod blocker;
mod copy;
mod drift;
mod embedded;
mod error;
mod fresh;
mod history;
mod repair;
pub mod schema;
mod transaction;

use std::time::Duration;

use tokio::try_join;
use tokio_postgres::Client;

pub use self::{
    apply::Applied,
    blocker::Blocker,
    copy::{Copied, copy},
    drift::{Drift, drift},
    error::Error,
    history::{State, Status},
};
use self::{
    apply::{RetryBudget, apply_up_to, open},
    history::Standing,
    repair::Repair,
    transaction::begin,
};
use crate::postgres::{Database, server::Want};

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
    /// Views that it could not put back, each with the reason. No daemon reads them.
    pub left: Vec<String>,
    /// The highest version the database has now; 0 for none. Higher than what this binary knows if a newer one has migrated
    /// it and admits this one: then nothing is applied or put back.
    pub current: i32,
}

/// Applies every migration the database at `url` lacks, then puts back functions and views of ours that others have
/// overwritten. `applied_by` is kept in the history. Safe to call from any number of daemons at once.
///
/// # Errors
///
/// Any [`Error`] but [`Error::Pending`]. What was applied before the error stays applied.
pub async fn up(url: &str, applied_by: &str) -> Result<Report, Error> {
    let (database, mut session) = open(url, Want::Primary).await?;
    let report = bring_up(&mut session.client, applied_by).await?;
    database.close(session).await;
    Ok(report)
}

/// As [`up`], in a database whose sessions the caller shares: the session is left to the next that needs one.
///
/// # Errors
///
/// As [`up`].
pub async fn up_in(database: &Database, applied_by: &str) -> Result<Report, Error> {
    let mut session = database.open_driven(Want::Primary, Duration::MAX).await?;
    let report = bring_up(&mut session.client, applied_by).await?;
    database.keep(session);
    Ok(report)
}

async fn bring_up(client: &mut Client, applied_by: &str) -> Result<Report, Error> {
    // What keeps this from being answered is met again below, with all rights and locks.
    let report = |applied| Report { applied, repaired: Vec::new(), left: Vec::new(), current: embedded::HEAD };
    match survey(client).await {
        Ok(Survey::UpToDate) => return Ok(report(Vec::new())),
        Ok(Survey::Unmigrated) => {
            // What goes wrong there does so below as well, where it is tried again.
            if let Ok(Some(applied)) = fresh::apply_all(client, applied_by).await {
                return Ok(report(applied));
            }
        }
        Ok(Survey::Other) | Err(_) => {}
    }
    let (applied, standing) = apply_up_to(client, embedded::HEAD, applied_by).await?;
    let (current, repair) = match standing {
        Standing::Known => (embedded::HEAD, repair(client).await?),
        Standing::Ahead(version) => {
            tracing::warn!(
                version,
                known = embedded::HEAD,
                "schema is newer than this binary, serving without migrating"
            );
            (version, Repair::default())
        }
    };
    Ok(Report { applied, repaired: repair.done, left: repair.left, current })
}

/// Puts back what [`drift`] finds, and nothing else, over a session of its own.
///
/// # Errors
///
/// As [`up`].
pub async fn restore_in(database: &Database) -> Result<(), Error> {
    let mut session = database.open_driven(Want::Primary, Duration::MAX).await?;
    let outcome = repair(&mut session.client).await;
    database.close(session).await;
    outcome.map(drop)
}

/// What there is to do.
enum Survey {
    /// Nothing to apply and nothing to put back.
    UpToDate,
    /// No migration is recorded.
    Unmigrated,
    Other,
}

/// The usual answer at a daemon's start is that there is nothing to do, had without a lock and in two round trips.
async fn survey(client: &Client) -> Result<Survey, Error> {
    let differences =
        async { repair::differences(client).await.map_err(Error::during("comparing functions and views")) };
    let (statuses, differences) = try_join!(history::read(client), differences)?;
    let are_all = |state| statuses.iter().all(|status| status.state == state);
    Ok(match differences.is_empty() && are_all(State::Applied) {
        true => Survey::UpToDate,
        false if are_all(State::Pending) => Survey::Unmigrated,
        false => Survey::Other,
    })
}

/// Applies migrations up to `version` only, and repairs nothing. Tests use it to see what an earlier state does, and to
/// make `migrations/schema.sql`, from which a repair would come.
///
/// # Errors
///
/// As [`up`].
pub async fn up_to(url: &str, version: i32) -> Result<Report, Error> {
    let (database, mut session) = open(url, Want::Primary).await?;
    let (applied, _) = apply_up_to(&mut session.client, version, "musterd").await?;
    let transaction = begin(&mut session.client, "reading the migration history").await?;
    let statuses = history::read(&transaction).await?;
    drop(transaction);
    database.close(session).await;
    let current = statuses.iter().filter(|status| status.state == State::Applied).map(|status| status.version).max();
    Ok(Report { applied, repaired: Vec::new(), left: Vec::new(), current: current.unwrap_or(0) })
}

/// Tells where every migration stands, by number.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure. A database that was never migrated is no error: everything is pending.
pub async fn status(url: &str) -> Result<Vec<Status>, Error> {
    let (database, mut session) = open(url, Want::Any).await?;
    let statuses = read_history(&mut session.client).await?;
    database.close(session).await;
    Ok(statuses)
}

async fn read_history(client: &mut Client) -> Result<Vec<Status>, Error> {
    let transaction = begin(client, "reading the migration history").await?;
    history::read(&transaction).await
}

/// Refuses a database that is not where this binary needs it, or newer and closed to it: for a daemon that was told not to
/// migrate.
///
/// # Errors
///
/// [`Error::Newer`], [`Error::Changed`], [`Error::Pending`], or what kept it from finding out.
pub async fn check(url: &str) -> Result<(), Error> {
    is_where_needed(&status(url).await?)
}

/// As [`check`], in a database whose sessions the caller shares: the session is left to the next that needs one.
///
/// # Errors
///
/// As [`check`].
pub async fn check_in(database: &Database) -> Result<(), Error> {
    let mut session = database.open_driven(Want::Primary, Duration::MAX).await?;
    is_where_needed(&read_history(&mut session.client).await?)?;
    database.keep(session);
    Ok(())
}

fn is_where_needed(statuses: &[Status]) -> Result<(), Error> {
    history::accept(statuses)?;
    if history::missing(statuses).next().is_some() { Err(history::pending(statuses)) } else { Ok(()) }
}

/// Compares the live schema with what the migrations make, object by object, and returns one line for each difference.
///
/// While migrations are pending, unknown or changed it names those instead: there is no schema to compare with.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure.
pub async fn verify(url: &str) -> Result<Vec<String>, Error> {
    let (database, mut session) = open(url, Want::Any).await?;
    let transaction = begin(&mut session.client, "comparing the schema").await?;
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
    database.close(session).await;
    Ok(lines)
}

async fn repair(client: &mut Client) -> Result<Repair, Error> {
    let mut budget = RetryBudget::default();
    loop {
        match repair::run(client).await {
            Ok(repair) => return Ok(repair),
            Err(error) => budget.after(client, error).await?,
        }
    }
}
