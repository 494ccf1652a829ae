//! What operators, daemons and programs ask of the schema of a database: to bring it up to date, to tell where it stands and
//! what is there, to plan, to verify, to put back, to adopt it from SeedCore and to give it back.
//!
//! Each command is a function over a session: with a URL here, over a client of the caller in [`Migrator`]. The statements that
//! change a database, and the rules they follow, are in `runner` below; this room chooses among them and reports.
//!
//! The database may be shared with SeedCore, which runs its own migration scripts again at every deployment and
//! so puts its functions and views back in the place of ours, faults included. No checksum notices that. Therefore [`up`]
//! ends by comparing functions and views with `migrations/schema.sql` and creates those that differ again, running daemons
//! do the same every few seconds ([`drift`]), and [`verify`] compares everything.

mod adopt;
mod detect;
mod drift;
mod ejection;
mod migrator;
mod place;
mod plan;
mod rights;
pub(crate) mod session;

use std::time::Duration;

use tokio_postgres::Client;

pub use self::{
    detect::{Detected, Detection, Presence},
    drift::{Drift, drift, newer},
    migrator::Migrator,
    place::Place,
    plan::{Plan, PlanOptions, Step, StepKind},
    rights::Rights,
    session::{ROW_SECURITY, Report},
};
use self::{
    place::open,
    session::{bring_up, put_back, read_history},
};
pub use crate::{
    migrations::forms::Layout,
    runner::{
        apply::{Applied, UpOptions},
        error::Error,
        history::{State, Status},
        repair::Repair,
    },
    schema::{self, blocker::Blocker},
};
use crate::{
    postgres::{Database, server::Want},
    runner::{apply::apply_up_to, history, repair::Scope, transaction::begin_reading},
};

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
pub async fn up_with(place: impl Into<Place<'_>>, options: &UpOptions, applied_by: &str) -> Result<Report, Error> {
    at(place, Want::Primary, async |client| session::take_over(client, options, applied_by).await).await
}

/// The schemas of a database that hold a registry, by name.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure.
pub async fn registries(url: &str) -> Result<Vec<String>, Error> {
    let catalogue = Place { url, schema: Some("pg_catalog") };
    at(catalogue, Want::Any, session::registries).await
}

/// Runs one piece of work over a session of its own.
pub(crate) async fn at<T>(
    place: impl Into<Place<'_>>,
    want: Want,
    work: impl AsyncFnOnce(&mut Client) -> Result<T, Error>,
) -> Result<T, Error> {
    let (database, mut session) = open(place.into(), want).await?;
    let outcome = work(&mut session.client).await;
    database.close(session).await;
    outcome
}

/// Compares each migration with what is there.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure.
pub async fn detect(place: impl Into<Place<'_>>) -> Result<Detection, Error> {
    at(place, Want::Any, session::detect).await
}

/// Makes the text of what [`up`] would run.
///
/// # Errors
///
/// As [`up`], where the database could not be migrated as it is.
pub async fn plan(place: impl Into<Place<'_>>, applied_by: &str) -> Result<Plan, Error> {
    plan_with(place, &PlanOptions::default(), applied_by).await
}

/// As [`plan`], for another role or with a step that deletes dead rows.
///
/// # Errors
///
/// As [`plan`], and an SQL failure if there is no such role.
pub async fn plan_with(place: impl Into<Place<'_>>, options: &PlanOptions, applied_by: &str) -> Result<Plan, Error> {
    at(place, Want::Any, async |client| plan::plan(client, options, applied_by).await).await
}

/// Records the migrations whose objects SeedCore has made. Returns their names.
///
/// # Errors
///
/// [`Error::NotAdoptable`] unless all of their objects are there with a known definition.
pub async fn adopt(place: impl Into<Place<'_>>, applied_by: &str) -> Result<Vec<&'static str>, Error> {
    at(place, Want::Primary, async |client| adopt::run(client, applied_by).await).await
}

/// Gives the registry back to SeedCore. Returns whether there was anything to do. Without `keep_roles` every role may call the
/// functions again, as with SeedCore.
///
/// # Errors
///
/// [`Error::DaemonsLive`] while daemons work with the database.
pub async fn eject(place: impl Into<Place<'_>>, keep_roles: bool, applied_by: &str) -> Result<bool, Error> {
    at(place, Want::Primary, async |client| ejection::eject(client, keep_roles, applied_by).await).await
}

/// Puts back everything that holds no data and differs: functions, views, triggers, comments, indexes. Without `apply` it
/// returns what it would do.
///
/// # Errors
///
/// As [`up`].
pub async fn repair(place: impl Into<Place<'_>>, apply: bool) -> Result<Repair, Error> {
    let want = if apply { Want::Primary } else { Want::Any };
    at(place, want, async |client| session::repair(client, apply, "musterd migrate repair").await).await
}

/// What the role of a session there may do to the schema, and what of the registry belongs to another role than its tables.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure.
pub async fn rights(place: impl Into<Place<'_>>) -> Result<Rights, Error> {
    at(place, Want::Any, session::rights).await
}

/// Compares the live schemas of two databases. Returns one line for each difference; of the second as the one that is
/// expected.
///
/// # Errors
///
/// [`Error::Connect`] for either, or an SQL failure.
pub async fn verify_against(place: impl Into<Place<'_>>, expected: &str) -> Result<Vec<String>, Error> {
    let (theirs, their_history) = at(expected, Want::Any, session::describe).await?;
    let (ours, our_history) = at(place, Want::Any, session::describe).await?;
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
    let report = bring_up(&mut session.client, &UpOptions::default(), applied_by, true).await?;
    database.keep(session);
    Ok(report)
}

/// Makes a schema that does not exist: for a registry whose schema was named.
///
/// # Errors
///
/// [`Error::Connect`], or the role may not make it.
pub async fn ensure_schema(url: &str, schema: &str) -> Result<(), Error> {
    let catalogue = Place { url, schema: Some("pg_catalog") };
    at(catalogue, Want::Primary, async |client| place::make_schema(client, schema).await).await
}

/// As [`ensure_schema`], in a database whose sessions the caller shares: the session is left to the next that needs one.
///
/// # Errors
///
/// As [`ensure_schema`].
pub async fn ensure_schema_in(database: &Database, schema: &str) -> Result<(), Error> {
    let session = database.open_driven(Want::Primary, Duration::MAX).await?;
    place::make_schema(&session.client, schema).await?;
    database.keep(session);
    Ok(())
}

/// Puts back what [`drift`] finds, and nothing else, over a session of its own, recorded as done by `by`.
///
/// # Errors
///
/// As [`up`].
pub async fn restore_in(database: &Database, by: &str) -> Result<(), Error> {
    let mut session = database.open_driven(Want::Primary, Duration::MAX).await?;
    let outcome = put_back(&mut session.client, Scope::Replaced, by).await;
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
    let (database, mut session) = open(url.into(), Want::Primary).await?;
    let options = UpOptions { to: version, ..UpOptions::default() };
    let (applied, _) = apply_up_to(&mut session.client, &options, "musterd").await?;
    let transaction = begin_reading(&mut session.client, "reading the migration history").await?;
    let statuses = history::read(&transaction).await?;
    drop(transaction);
    database.close(session).await;
    let current = statuses.iter().filter(|status| status.state == State::Applied).map(|status| status.version).max();
    Ok(Report { applied, repaired: Vec::new(), purged: 0, left: Vec::new(), current: current.unwrap_or(0) })
}

/// Tells where every migration stands, by number.
///
/// # Errors
///
/// [`Error::Connect`], or an SQL failure. A database that was never migrated is no error: everything is pending.
pub async fn status(place: impl Into<Place<'_>>) -> Result<Vec<Status>, Error> {
    at(place, Want::Any, read_history).await
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
pub async fn verify(place: impl Into<Place<'_>>) -> Result<Vec<String>, Error> {
    at(place, Want::Any, session::verify).await
}
