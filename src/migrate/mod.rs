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

mod adopt;
mod apply;
mod copy;
mod detect;
mod drift;
mod ejection;
mod error;
mod fresh;
mod history;
mod migrator;
mod plan;
mod repair;
mod rights;
mod session;
mod shape;
mod suite;
mod transaction;

use std::time::Duration;

use tokio_postgres::Client;

pub use self::{
    apply::{Applied, UpOptions},
    copy::{Copied, copy},
    detect::{Detected, Detection, Layout, Presence},
    drift::{Drift, drift, newer},
    error::Error,
    history::{State, Status},
    migrator::Migrator,
    plan::{Plan, Step},
    repair::Repair,
    session::{ROW_SECURITY, Report},
    suite::{SEEDCORE, SuiteReport, SuiteStatus},
};
use self::{
    apply::{apply_up_to, open},
    repair::Scope,
    session::{bring_up, put_back, read_history},
    transaction::begin_reading,
};
use crate::postgres::{Database, server::Want};
pub use crate::schema::{self, blocker::Blocker};

/// Applies every migration the database at `url` lacks, then puts back functions and views of ours that others have
/// overwritten. `applied_by` is kept in the history. Safe to call from any number of daemons at once.
///
/// # Errors
///
/// Any [`Error`] but [`Error::Pending`]. What was applied before the error stays applied.
pub async fn up(url: &str, applied_by: &str) -> Result<Report, Error> {
    up_with(url, &UpOptions::default(), applied_by).await
}

/// As [`up`], with a last migration, a limit or without a hold. Takes over again what was given back to SeedCore.
///
/// # Errors
///
/// As [`up`], and [`Error::TooManyRows`].
pub async fn up_with(url: &str, options: &UpOptions, applied_by: &str) -> Result<Report, Error> {
    at(url, Want::Primary, async |client| session::take_over(client, options, applied_by).await).await
}

/// Runs one piece of work over a session of its own.
async fn at<T>(url: &str, want: Want, work: impl AsyncFnOnce(&mut Client) -> Result<T, Error>) -> Result<T, Error> {
    let (database, mut session) = open(url, want).await?;
    let outcome = work(&mut session.client).await;
    database.close(session).await;
    outcome
}

/// Compares each migration with what is there.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure.
pub async fn detect(url: &str) -> Result<Detection, Error> {
    at(url, Want::Any, session::detect).await
}

/// Makes the text of what [`up`] would run.
///
/// # Errors
///
/// As [`up`], where the database could not be migrated as it is.
pub async fn plan(url: &str, applied_by: &str) -> Result<Plan, Error> {
    at(url, Want::Any, async |client| plan::plan(client, applied_by).await).await
}

/// Records the migrations whose objects SeedCore has made. Returns their names.
///
/// # Errors
///
/// [`Error::NotAdoptable`] unless all of their objects are there with a known definition.
pub async fn adopt(url: &str, applied_by: &str) -> Result<Vec<&'static str>, Error> {
    at(url, Want::Primary, async |client| adopt::run(client, applied_by).await).await
}

/// Gives the registry back to SeedCore. Returns whether there was anything to do.
///
/// # Errors
///
/// [`Error::DaemonsLive`] while daemons work with the database.
pub async fn eject(url: &str, applied_by: &str) -> Result<bool, Error> {
    at(url, Want::Primary, async |client| ejection::eject(client, applied_by).await).await
}

/// Puts back everything that holds no data and differs: functions, views, triggers, comments, indexes. Without `apply` it
/// returns what it would do.
///
/// # Errors
///
/// As [`up`].
pub async fn repair(url: &str, apply: bool) -> Result<Repair, Error> {
    let want = if apply { Want::Primary } else { Want::Any };
    at(url, want, async |client| session::repair(client, apply).await).await
}

/// Tells where each file of the suite `seedcore` stands.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure.
pub async fn suite_status(url: &str) -> Result<Vec<SuiteStatus>, Error> {
    at(url, Want::Any, suite::status).await
}

/// Applies the files of the suite `seedcore` that are pending and can be applied; `samples` adds its sample rows.
///
/// # Errors
///
/// As [`up`], and [`Error::OtherLayout`].
pub async fn suite_up(url: &str, samples: bool, applied_by: &str) -> Result<SuiteReport, Error> {
    at(url, Want::Primary, async |client| suite::up(client, samples, applied_by).await).await
}

/// Compares the objects of the suite with what its files make. Returns one line for each difference.
///
/// # Errors
///
/// As [`suite_status`].
pub async fn suite_verify(url: &str) -> Result<Vec<String>, Error> {
    at(url, Want::Any, suite::verify).await
}

/// Returns the objects of the suite in the form of `migrations/suites/seedcore/schema.sql`.
///
/// # Errors
///
/// As [`suite_status`].
pub async fn suite_describe(url: &str) -> Result<String, Error> {
    at(url, Want::Any, suite::describe).await
}

/// What of the registry belongs to another role than its tables, each with the statement that hands it over.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure.
pub async fn other_owners(url: &str) -> Result<Vec<String>, Error> {
    at(url, Want::Any, session::other_owners).await
}

/// Compares the live schemas of two databases. Returns one line for each difference; of the second as the one that is
/// expected.
///
/// # Errors
///
/// [`Error::Connect`] for either, or an SQL failure.
pub async fn verify_against(url: &str, expected: &str) -> Result<Vec<String>, Error> {
    let (theirs, their_history) = at(expected, Want::Any, session::describe).await?;
    let (ours, our_history) = at(url, Want::Any, session::describe).await?;
    let differences = schema::differences(&theirs, &ours);
    let mut lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    // Tables of ours that the other one lacks are no tables of another application.
    let unknown =
        ours.iter().filter(|one| one.kind == schema::Kind::Table && theirs.iter().all(|other| other.name != one.name));
    lines.extend(unknown.map(|object| format!("{object} is an unexpected object")));
    let only = |some: &[String], others: &[String], place: &str| -> Vec<String> {
        let missing = some.iter().filter(|one| !others.contains(one));
        missing.map(|one| format!("{one} is recorded {place} alone")).collect()
    };
    lines.extend(only(&our_history, &their_history, "here"));
    lines.extend(only(&their_history, &our_history, "there"));
    Ok(lines)
}

/// As [`up`], in a database whose sessions the caller shares: the session is left to the next that needs one.
///
/// # Errors
///
/// As [`up`].
pub async fn up_in(database: &Database, applied_by: &str) -> Result<Report, Error> {
    let mut session = database.open_driven(Want::Primary, Duration::MAX).await?;
    history::refuse_ejected(&read_history(&mut session.client).await?)?;
    let report = bring_up(&mut session.client, &UpOptions::default(), applied_by).await?;
    database.keep(session);
    Ok(report)
}

/// Puts back what [`drift`] finds, and nothing else, over a session of its own.
///
/// # Errors
///
/// As [`up`].
pub async fn restore_in(database: &Database) -> Result<(), Error> {
    let mut session = database.open_driven(Want::Primary, Duration::MAX).await?;
    let outcome = put_back(&mut session.client, Scope::Replaced).await;
    database.close(session).await;
    outcome.map(drop)
}

/// Applies migrations up to `version` only, and repairs nothing. Tests use it to see what an earlier state does, and to
/// make `migrations/schema.sql`, from which a repair would come.
///
/// # Errors
///
/// As [`up`].
pub async fn up_to(url: &str, version: i32) -> Result<Report, Error> {
    let (database, mut session) = open(url, Want::Primary).await?;
    let options = UpOptions { to: version, ..UpOptions::default() };
    let (applied, _) = apply_up_to(&mut session.client, &options, "musterd").await?;
    let transaction = begin_reading(&mut session.client, "reading the migration history").await?;
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
    history::refuse_ejected(statuses)?;
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
    at(url, Want::Any, session::verify).await
}
