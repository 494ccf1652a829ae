//! The table that remembers what was applied, and what it says about this binary.
//!
//! `muster_migration` is the one object that no migration makes, because the first of them has to be recorded in it.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use tokio_postgres::GenericClient;

use super::{
    embedded::{HEAD, MIGRATIONS, Migration},
    error::Error,
};

const CREATE: &str = "
CREATE TABLE muster_migration (
    version     integer     PRIMARY KEY,
    name        text        NOT NULL,
    checksum    text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by  text        NOT NULL,
    duration_ms bigint      NOT NULL
);
COMMENT ON TABLE muster_migration IS 'The migrations of musterd that this database has gone through.';
COMMENT ON COLUMN muster_migration.version IS 'Number of the migration.';
COMMENT ON COLUMN muster_migration.name IS 'Name of its file, without number and ending.';
COMMENT ON COLUMN muster_migration.checksum IS 'SHA-256 of its text (LF line ends), hexadecimal. A binary with another text refuses this database.';
COMMENT ON COLUMN muster_migration.applied_at IS 'When it was applied, by the database clock.';
COMMENT ON COLUMN muster_migration.applied_by IS 'Who applied it.';
COMMENT ON COLUMN muster_migration.duration_ms IS 'How long its statements took, in milliseconds.';
";

/// What the database and this binary say about one migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Applied, with the text this binary has.
    Applied,
    /// Not applied yet.
    Pending,
    /// Applied, with another text than this binary has.
    Changed,
    /// Applied, and this binary does not know it.
    Unknown,
}

/// One line of `musterd migrate status`.
#[derive(Debug, Clone)]
pub struct Status {
    /// Number of the migration.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// When it was applied, by the database clock.
    pub applied_at: Option<DateTime<Utc>>,
    /// Who applied it.
    pub applied_by: Option<String>,
    /// How long its statements took.
    pub duration: Option<Duration>,
}

/// Reads where every migration stands, those of this binary and those of the database, by number.
pub(super) async fn read(client: &impl GenericClient) -> Result<Vec<Status>, Error> {
    let mut statuses: BTreeMap<i32, Status> =
        MIGRATIONS.iter().map(|migration| (migration.version, pending(migration))).collect();
    if exists(client).await? {
        let rows = client
            .query_typed(
                "SELECT version, name, checksum, applied_at, applied_by, duration_ms FROM muster_migration",
                &[],
            )
            .await
            .map_err(Error::during("reading the migration history"))?;
        for row in rows {
            let version: i32 = row.get("version");
            let checksum: String = row.get("checksum");
            let state = match MIGRATIONS.iter().find(|migration| migration.version == version) {
                None => State::Unknown,
                Some(migration) if migration.checksum() == checksum => State::Applied,
                Some(_) => State::Changed,
            };
            let status = Status {
                version,
                name: row.get("name"),
                state,
                applied_at: row.get("applied_at"),
                applied_by: row.get("applied_by"),
                duration: u64::try_from(row.get::<_, i64>("duration_ms")).ok().map(Duration::from_millis),
            };
            statuses.insert(version, status);
        }
    }
    Ok(statuses.into_values().collect())
}

fn pending(migration: &Migration) -> Status {
    Status {
        version: migration.version,
        name: migration.name.to_owned(),
        state: State::Pending,
        applied_at: None,
        applied_by: None,
        duration: None,
    }
}

/// Refuses a history that this binary must not work with.
pub(super) fn accept(statuses: &[Status]) -> Result<(), Error> {
    if let Some(newest) = statuses.iter().rev().find(|status| status.state == State::Unknown) {
        return Err(Error::Newer { found: newest.version, name: newest.name.clone(), known: HEAD });
    }
    match statuses.iter().find(|status| status.state == State::Changed) {
        Some(changed) => Err(Error::Changed { version: changed.version, name: changed.name.clone() }),
        None => Ok(()),
    }
}

/// The migrations that are still to be applied, in order.
pub(super) fn missing(statuses: &[Status]) -> impl Iterator<Item = &'static Migration> {
    MIGRATIONS.iter().filter(|migration| {
        statuses.iter().any(|status| status.version == migration.version && status.state == State::Pending)
    })
}

/// Records that `migration` was applied, making the table first if this is the first one.
pub(super) async fn record(
    client: &impl GenericClient,
    migration: &Migration,
    applied_by: &str,
    took: Duration,
) -> Result<(), Error> {
    let duration_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    client
        .execute(
            "INSERT INTO muster_migration (version, name, checksum, applied_by, duration_ms) VALUES ($1, $2, $3, $4, $5)",
            &[&migration.version, &migration.name, &migration.checksum(), &applied_by, &duration_ms],
        )
        .await
        .map_err(Error::during("recording a migration"))?;
    Ok(())
}

/// Makes the table if it is not there. `CREATE TABLE IF NOT EXISTS` would ask for the right to create even where it is.
pub(super) async fn ensure(client: &impl GenericClient) -> Result<(), Error> {
    if exists(client).await? {
        return Ok(());
    }
    client.batch_execute(CREATE).await.map_err(Error::during("creating the migration history"))
}

async fn exists(client: &impl GenericClient) -> Result<bool, Error> {
    let rows = client
        .query_typed("SELECT to_regclass(quote_ident(current_schema()) || '.muster_migration') IS NOT NULL", &[])
        .await
        .map_err(Error::during("looking for the migration history"))?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}
