//! Indexes that are built beside the traffic: steps of the kind *concurrent*.
//!
//! `CREATE INDEX CONCURRENTLY` takes no lock that a beat waits for, runs outside a transaction, and leaves an invalid index
//! behind when it is interrupted. So a build is repeated until the catalogue says that the index is valid: a remnant is
//! dropped, then the index is built, one statement at a time.
//!
//! The lock under which migrations take turns ends with its transaction, before the statement begins, and the build of a
//! session that is gone goes on in the server. Two builds on one table would wait for each other's snapshots until the server
//! ends one as a deadlock. The turn therefore also belongs to whichever session is building, by the server's own account
//! (`pg_stat_progress_create_index`), and from the commit that announces a statement until that account shows it, to the
//! session that the history names.

use std::{collections::BTreeSet, time::Instant};

use tokio_postgres::{Client, GenericClient, types::Type};

use super::{
    apply::RetryBudget,
    error::Error,
    history::{self, BUILDING, Standing},
    repair::{self, Scope},
    transaction::{begin, lock},
};
use crate::schema::{Deviation, Difference, Kind, blocker};

/// Whether a session builds an index of this schema, or has announced to.
const IS_BUILDING: &str = "
SELECT EXISTS (
           SELECT FROM pg_stat_progress_create_index AS build
           WHERE build.pid <> pg_backend_pid() AND build.datname = current_database()
             AND (build.relid IS NULL OR build.relid IN (
                  SELECT oid FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace))
       ) OR EXISTS (
           SELECT FROM muster_migration AS announced
           JOIN pg_stat_activity AS session ON session.pid::text = announced.checksum
           WHERE announced.version = $1 AND announced.applied_at > clock_timestamp() - interval '30 s'
             AND session.pid <> pg_backend_pid() AND session.datname = current_database()
       )";

const ANNOUNCE: &str = "
INSERT INTO muster_migration (version, name, checksum, applied_by, duration_ms)
VALUES ($1, $2, pg_backend_pid()::text, current_user, 0)
ON CONFLICT (version) DO UPDATE
SET name = excluded.name, checksum = excluded.checksum, applied_by = excluded.applied_by, applied_at = clock_timestamp()";

const END: &str = "DELETE FROM muster_migration WHERE version = $1";

/// What the session needs while it builds. The last two exist in later versions of the server; with the first of them the
/// server notices within a second that the client is gone.
const SETTINGS: &str = "
SELECT given.name, current_setting(given.name, true), given.value
FROM (VALUES ('statement_timeout', '0'), ('lock_timeout', '10s'), ('default_transaction_read_only', 'off'),
             ('client_connection_check_interval', '1s'), ('transaction_timeout', '0')) AS given (name, value)
JOIN pg_settings AS known ON known.name = given.name";

/// The indexes that are to be built: with [`Scope::All`] those that are missing or differ; otherwise those that a build has left
/// behind unfinished.
pub(crate) fn due(differences: &[Difference], scope: Scope, is_announced: bool) -> Vec<Difference> {
    let is_due = |difference: &&Difference| match (difference.object.kind, &difference.deviation) {
        (Kind::Index, Deviation::Missing) => scope == Scope::All || is_announced,
        // Without a remark it is valid: its definition is another, or its comment is not there yet.
        (Kind::Index, Deviation::Changed(remarks)) => scope == Scope::All || is_announced || !remarks.is_empty(),
        _ => false,
    };
    differences.iter().filter(is_due).cloned().collect()
}

/// Whether a build was announced and has not ended.
pub(crate) async fn is_announced(client: &impl GenericClient) -> Result<bool, tokio_postgres::Error> {
    let query = "SELECT FROM muster_migration WHERE version = $1";
    Ok(!client.query_typed(query, &[(&BUILDING, Type::INT4)]).await?.is_empty())
}

/// Builds what is due. Returns what was done, by object.
pub(crate) async fn build(client: &mut Client, scope: Scope) -> Result<Vec<String>, Error> {
    let (mut done, mut dropped) = (Vec::new(), BTreeSet::new());
    let mut budget = RetryBudget::default();
    loop {
        match next(client, scope).await {
            Ok(Next::Dropped(index)) => drop(dropped.insert(index)),
            Ok(Next::Built(index)) => {
                let how = if dropped.contains(&index) { "built again" } else { "put back" };
                done.push(format!("{index}: {how}"));
            }
            Ok(Next::None) => return Ok(done),
            Err(Error::Busy { doing, .. }) => {
                // The attempt has waited for long, beside the traffic, and each one leaves a remnant.
                let blocker = blocker::of_tables(client).await.map(Box::new);
                return Err(Error::Busy { doing, blocker });
            }
            Err(error) => budget.after(client, error).await?,
        }
    }
}

/// What one statement did.
enum Next {
    Dropped(String),
    Built(String),
    /// Nothing is due.
    None,
}

async fn next(client: &mut Client, scope: Scope) -> Result<Next, Error> {
    let doing = "looking for indexes to build";
    let transaction = begin(client, doing).await?;
    if !matches!(history::standing(&transaction).await.map_err(Error::during(doing))??, Standing::Known) {
        return Ok(Next::None);
    }
    let is_begun = is_announced(&transaction).await.map_err(Error::during(doing))?;
    if !is_begun && due(&repair::deviating(&transaction).await?, scope, false).is_empty() {
        return Ok(Next::None);
    }
    lock(&transaction).await?;
    let building =
        transaction.query_typed(IS_BUILDING, &[(&BUILDING, Type::INT4)]).await.map_err(Error::during(doing))?;
    if building.first().is_some_and(|row| row.get(0)) {
        return Err(Error::Queued);
    }
    let is_begun = is_announced(&transaction).await.map_err(Error::during(doing))?;
    let due = due(&repair::deviating(&transaction).await?, scope, is_begun);
    let Some(first) = due.into_iter().next() else {
        transaction.execute(END, &[&BUILDING]).await.map_err(Error::during(doing))?;
        transaction.commit().await.map_err(Error::during(doing))?;
        return Ok(Next::None);
    };
    let index = first.object.to_string();
    transaction.execute(ANNOUNCE, &[&BUILDING, &index]).await.map_err(Error::during(doing))?;
    transaction.commit().await.map_err(Error::during(doing))?;

    let former = set(client).await.map_err(Error::during(doing))?;
    let outcome = run(client, &first, &index).await;
    restore(client, &former).await?;
    outcome
}

/// Runs the statement that comes next for an index.
async fn run(client: &Client, difference: &Difference, index: &str) -> Result<Next, Error> {
    let name = difference.object.name.split(" on ").next().unwrap_or_default();
    if difference.deviation != Deviation::Missing {
        let dropping = format!("DROP INDEX CONCURRENTLY IF EXISTS {name}");
        client.batch_execute(&dropping).await.map_err(Error::during(format!("dropping {index}")))?;
        return Ok(Next::Dropped(index.to_owned()));
    }
    let started = Instant::now();
    let (create, comment) = statements(&difference.object.text);
    client.batch_execute(&create).await.map_err(Error::during(format!("building {index}")))?;
    client.batch_execute(comment).await.map_err(Error::during(format!("describing {index}")))?;
    tracing::info!(index = name, duration = ?started.elapsed(), "built an index");
    Ok(Next::Built(index.to_owned()))
}

/// The statement that builds an index concurrently, which has to be sent alone, and those that follow it.
fn statements(text: &str) -> (String, &str) {
    let (create, rest) = text.split_once(";\n").unwrap_or((text, ""));
    (create.replacen(" INDEX ", " INDEX CONCURRENTLY ", 1), rest)
}

/// Sets what a build needs; returns the former values, because the session belongs to a caller or is used again.
async fn set(client: &Client) -> Result<Vec<(String, String)>, tokio_postgres::Error> {
    let mut former = Vec::new();
    for row in client.query_typed(SETTINGS, &[]).await? {
        let (name, value, wanted): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        set_one(client, &name, &wanted).await?;
        former.push((name, value));
    }
    Ok(former)
}

async fn restore(client: &Client, former: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in former {
        set_one(client, name, value).await.map_err(Error::during("restoring the settings of the session"))?;
    }
    Ok(())
}

async fn set_one(client: &Client, name: &str, value: &str) -> Result<(), tokio_postgres::Error> {
    let set = "SELECT set_config($1, $2, false)";
    client.query_typed(set, &[(&name, Type::TEXT), (&value, Type::TEXT)]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{migrations::embedded::SCHEMA, schema};

    #[test]
    fn every_index_of_the_snapshot_can_be_built_concurrently() {
        let objects = schema::parse(SCHEMA);
        let indexes: Vec<_> = objects.iter().filter(|one| one.kind == Kind::Index).collect();
        assert!(!indexes.is_empty());
        for index in indexes {
            let (create, comment) = statements(&index.text);
            let is_alone =
                create.starts_with("CREATE ") && !create.contains(';') && create.contains("INDEX CONCURRENTLY idx_");
            assert!(
                is_alone && (comment.is_empty() || comment.starts_with("COMMENT ON INDEX ")),
                "{create}\n{comment}"
            );
        }
    }

    #[test]
    fn missing_index_is_due_to_a_daemon_only_if_its_build_had_begun() {
        let expected = schema::parse(SCHEMA);
        let mut live = expected.clone();
        let at = live.iter().position(|one| one.kind == Kind::Index).unwrap();
        let name = live.remove(at).name;
        let next = live.iter_mut().find(|one| one.kind == Kind::Index).unwrap();
        next.text.push_str("-- it is invalid\n");
        let invalid = next.name.clone();
        let differences = schema::differences(&expected, &live);
        let names = |scope, is_announced| -> Vec<String> {
            due(&differences, scope, is_announced).into_iter().map(|one| one.object.name).collect()
        };
        assert_eq!(names(Scope::Replaced, false), std::slice::from_ref(&invalid));
        let both = [name, invalid];
        assert_eq!(names(Scope::Replaced, true), both);
        assert_eq!(names(Scope::All, false), both);
    }
}
