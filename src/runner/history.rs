//! The table that remembers what was applied, and what it says about this binary.
//!
//! `muster_migration` is the one object that no migration makes, because the first of them has to be recorded in it.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use tokio::try_join;
use tokio_postgres::{GenericClient, types::Type};

use super::{decision, error::Error};
use crate::migrations::embedded::{HEAD, MIGRATIONS, Migration};

pub(crate) const CREATE: &str = "
CREATE TABLE muster_migration (
    version     integer     PRIMARY KEY,
    name        text        NOT NULL,
    checksum    text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by  text        NOT NULL,
    duration_ms bigint      NOT NULL,
    oldest_head integer
);
COMMENT ON TABLE muster_migration IS 'The migrations of musterd that this database has gone through.';
COMMENT ON COLUMN muster_migration.version IS 'Number of the migration.';
COMMENT ON COLUMN muster_migration.name IS 'Name of its file, without number and ending.';
COMMENT ON COLUMN muster_migration.checksum IS 'SHA-256 of its text (LF line ends), hexadecimal. A binary with another text refuses this database.';
COMMENT ON COLUMN muster_migration.applied_at IS 'When it was applied, by the database clock.';
COMMENT ON COLUMN muster_migration.applied_by IS 'Who applied it.';
COMMENT ON COLUMN muster_migration.duration_ms IS 'How long its statements took, in milliseconds.';
COMMENT ON COLUMN muster_migration.oldest_head IS 'Daemons that know the migrations up to this one may still serve, without migrating. Null: only those that know the migration itself.';
";

/// The number under which it is noted that the registry was given back to SeedCore. Binaries that do not know this pass over
/// numbers below their own.
pub(crate) const EJECTED: i32 = 0;

/// The number under which a session announces that it builds an index, by the text of its process id in place of a checksum.
/// It is no migration, and only the next build reads it.
pub(crate) const BUILDING: i32 = -1;

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
    /// No migration: the registry was given back to SeedCore.
    Ejected,
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
    /// Binaries that know the migrations up to this one may work with the database; `None`: only those that know this
    /// migration.
    pub oldest_head: Option<i32>,
}

/// Reads where every migration stands, those of this binary and those of the database, by number.
pub(crate) async fn read(client: &impl GenericClient) -> Result<Vec<Status>, Error> {
    let mut statuses: BTreeMap<i32, Status> =
        MIGRATIONS.iter().map(|migration| (migration.version, unapplied(migration))).collect();
    if exists(client).await? {
        let rows = client
            .query_typed(
                "SELECT version, name, checksum, applied_at, applied_by, duration_ms, oldest_head FROM muster_migration
                 WHERE version <> $1",
                &[(&BUILDING, Type::INT4)],
            )
            .await
            .map_err(Error::during("reading the migration history"))?;
        for row in rows {
            let version: i32 = row.get("version");
            let checksum: String = row.get("checksum");
            let state = match MIGRATIONS.iter().find(|migration| migration.version == version) {
                None if version == EJECTED => State::Ejected,
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
                oldest_head: row.get("oldest_head"),
            };
            statuses.insert(version, status);
        }
    }
    Ok(statuses.into_values().collect())
}

fn unapplied(migration: &Migration) -> Status {
    Status {
        version: migration.version,
        name: migration.name.to_owned(),
        state: State::Pending,
        applied_at: None,
        applied_by: None,
        duration: None,
        oldest_head: Some(migration.oldest_head()),
    }
}

/// How the history of a database relates to this binary, where it may work with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is applied that this binary does not know.
    Known,
    /// A newer binary has migrated it up to this version, and admits this one: it may serve, and must neither migrate nor
    /// restore objects, because its own are older.
    Ahead(i32),
}

/// Refuses a history that this binary must not work with.
pub(crate) fn accept(statuses: &[Status]) -> Result<Standing, Error> {
    // A lower number that is not known says nothing about what is newer.
    let newer = || statuses.iter().filter(|status| status.state == State::Unknown && status.version > HEAD);
    let newest = newer().next_back();
    let needed = newer().map(|status| status.oldest_head.unwrap_or(status.version)).max();
    if let (Some(newest), Some(needed)) = (newest, needed.filter(|needed| *needed > HEAD)) {
        return Err(Error::Newer { found: newest.version, name: newest.name.clone(), known: HEAD, needed });
    }
    match statuses.iter().find(|status| status.state == State::Changed) {
        Some(changed) => Err(Error::Changed { version: changed.version, name: changed.name.clone() }),
        None => Ok(newest.map_or(Standing::Known, |newest| Standing::Ahead(newest.version))),
    }
}

/// Reads the migrations that are newer than all of this binary, and how they relate to it. The table must be there.
pub(crate) async fn standing(client: &impl GenericClient) -> Result<Result<Standing, Error>, tokio_postgres::Error> {
    let query = "SELECT version, name, oldest_head FROM muster_migration WHERE version > $1 ORDER BY version";
    let rows = client.query_typed(query, &[(&HEAD, Type::INT4)]).await?;
    let newer = rows.iter().map(|row| {
        let (state, applied_at, applied_by, duration) = (State::Unknown, None, None, None);
        let (version, name, oldest_head) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(Status { version, name, state, applied_at, applied_by, duration, oldest_head })
    });
    Ok(accept(&newer.collect::<Result<Vec<_>, tokio_postgres::Error>>()?))
}

/// The migrations that are still to be applied, in order.
pub(crate) fn missing(statuses: &[Status]) -> impl Iterator<Item = &'static Migration> {
    MIGRATIONS.iter().filter(|migration| {
        statuses.iter().any(|status| status.version == migration.version && status.state == State::Pending)
    })
}

/// The error that names what is missing.
pub(crate) fn pending(statuses: &[Status]) -> Error {
    let count = missing(statuses).count();
    let (first, name) = missing(statuses).next().map_or((0, ""), |first| (first.version, first.name));
    Error::Pending { count, first, name }
}

/// Records that `migration` was applied, in one round trip. How long it took: without `took`, since the last one was
/// recorded, or since the transaction began.
pub(crate) async fn record(
    client: &impl GenericClient,
    migration: &Migration,
    applied_by: &str,
    took: Option<Duration>,
) -> Result<(), Error> {
    let duration_ms = took.map(|took| i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
    let (checksum, oldest_head) = (migration.checksum(), migration.oldest_head());
    let recording = async {
        let sql = "INSERT INTO muster_migration (version, name, checksum, applied_by, duration_ms, oldest_head)
             VALUES ($1, $2, $3, $4, coalesce($5, 1000 * extract(epoch FROM clock_timestamp() - coalesce(
                 (SELECT max(applied_at) FROM muster_migration WHERE applied_at >= now()), now()))::double precision), $6)";
        let values = [
            (&migration.version as _, Type::INT4),
            (&migration.name as _, Type::TEXT),
            (&checksum as _, Type::TEXT),
            (&applied_by as _, Type::TEXT),
            (&duration_ms as _, Type::INT8),
            (&oldest_head as _, Type::INT4),
        ];
        client.query_typed(sql, &values).await.map(drop).map_err(Error::during("recording a migration"))
    };
    if migration.version < decision::FIRST {
        return recording.await;
    }
    // Sent one behind the other.
    let object = migration.file();
    let deciding = decision::record(client, "migrate_up", applied_by, &object);
    try_join!(biased; recording, deciding).map(|_| ())
}

/// Makes the table.
pub(crate) async fn create(client: &impl GenericClient) -> Result<(), Error> {
    client.batch_execute(CREATE).await.map_err(Error::during("creating the migration history"))
}

/// The same as a statement; how long it takes is not known.
pub(crate) fn record_text(migration: &Migration, applied_by: &str) -> String {
    let (version, name, oldest_head) = (migration.version, migration.name, migration.oldest_head());
    let (checksum, applied_by) = (migration.checksum(), applied_by.replace('\'', "''"));
    let decided = match version < decision::FIRST {
        true => String::new(),
        false => format!(";\nSELECT muster_audit('migrate_up', '{applied_by}', '{}', NULL, NULL)", migration.file()),
    };
    format!(
        "INSERT INTO muster_migration (version, name, checksum, applied_by, duration_ms, oldest_head)\n\
         VALUES ({version}, '{name}', '{checksum}', '{applied_by}', 0, {oldest_head}){decided}"
    )
}

/// Makes the table if it is not there. `CREATE TABLE IF NOT EXISTS` would ask for the right to create even where it is.
pub(crate) async fn ensure(client: &impl GenericClient) -> Result<(), Error> {
    if exists(client).await? {
        return Ok(());
    }
    create(client).await
}

/// Refuses a database that was given back to SeedCore. A daemon does not take it over by itself.
pub(crate) fn refuse_ejected(statuses: &[Status]) -> Result<(), Error> {
    let ejected = statuses.iter().find(|status| status.state == State::Ejected);
    let at = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    ejected.map_or(Ok(()), |status| {
        let by = status.applied_by.clone().unwrap_or_default();
        Err(Error::Ejected { at: status.applied_at.map(at).unwrap_or_default(), by })
    })
}

pub(crate) async fn exists(client: &impl GenericClient) -> Result<bool, Error> {
    let rows = client
        .query_typed("SELECT to_regclass(quote_ident(current_schema()) || '.muster_migration') IS NOT NULL", &[])
        .await
        .map_err(Error::during("looking for the migration history"))?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(version: i32, oldest_head: Option<i32>) -> Status {
        let (applied_at, applied_by, duration) = (None, None, None);
        Status {
            version,
            name: "later".to_owned(),
            state: State::Unknown,
            applied_at,
            applied_by,
            duration,
            oldest_head,
        }
    }

    #[test]
    fn newer_schema_is_accepted_down_to_the_oldest_head_of_all_its_migrations() {
        let standing = |rows: &[Status]| accept(rows).map_err(|error| error.to_string());
        assert_eq!(standing(&[]), Ok(Standing::Known));
        assert_eq!(standing(&[unknown(5, None)]), Ok(Standing::Known), "a lower number");
        let (next, later) = (HEAD + 1, HEAD + 2);
        let both = [unknown(next, Some(HEAD)), unknown(later, Some(HEAD - 1))];
        assert_eq!(standing(&both), Ok(Standing::Ahead(later)));
        for refused in [vec![unknown(next, None)], vec![unknown(next, Some(next)), unknown(later, Some(HEAD))]] {
            let error = standing(&refused).unwrap_err();
            assert!(error.contains(&format!("needs a binary that knows migration {next}")), "{error}");
        }
    }
}
