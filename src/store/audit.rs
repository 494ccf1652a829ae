//! Decisions: what has no transaction of its own is written here; all of them are read here.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::Instant;
use tokio_postgres::{Row, types::Json};

use super::{
    Error, Pool, PoolRole,
    row::{Time, signed, unsigned},
};
use crate::model::{Decision, DecisionFilter, Revision};

/// An entry that a daemon writes apart from what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// `denied` or `reload`.
    pub action: &'static str,
    /// The identity, or the daemon.
    pub by: String,
    /// Of what.
    pub object: String,
    /// What else is known.
    pub detail: BTreeMap<&'static str, String>,
    /// How often, of a refusal.
    pub count: u64,
}

/// Writes entries, all of them or none.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call after an unknown outcome may count twice.
#[tracing::instrument(level = "debug", name = "db.audit_note", skip_all)]
pub async fn note(pool: &Pool, notes: &[Note], deadline: Instant) -> Result<(), Error> {
    pool.run(PoolRole::Engine, deadline, async |client| {
        client.execute("SELECT muster_audit_note($1)", &[&Json(notes)]).await.map(drop)
    })
    .await
}

/// The decisions that match, the newest first, of those numbered below `before`.
///
/// # Errors
/// As [`Pool::run`].
#[tracing::instrument(level = "debug", name = "db.list_decisions", skip_all)]
pub async fn list(
    pool: &Pool,
    filter: &DecisionFilter,
    before: u64,
    limit: u32,
    deadline: Instant,
) -> Result<Vec<Decision>, Error> {
    let DecisionFilter { since, action, by } = filter;
    let sql = "SELECT id, at, action, by, by_role, object, detail::text, revision FROM registry_audit \
               WHERE id < $1 AND ($2::timestamptz IS NULL OR at >= $2) AND ($3::text IS NULL OR action = $3) \
                 AND ($4::text IS NULL OR by = $4) ORDER BY id DESC LIMIT $5";
    let rows = pool
        .run(PoolRole::Operator, deadline, async |client| {
            client.query(sql, &[&signed(before), since, action, by, &i64::from(limit)]).await
        })
        .await?;
    rows.iter().map(decision).collect()
}

fn decision(row: &Row) -> Result<Decision, Error> {
    Ok(Decision {
        id: unsigned(row.try_get(0)?),
        at: row.try_get::<_, Time>(1)?.0,
        action: row.try_get(2)?,
        by: row.try_get(3)?,
        by_role: row.try_get(4)?,
        object: row.try_get(5)?,
        detail: row.try_get(6)?,
        revision: row.try_get::<_, Option<i64>>(7)?.map(|revision| Revision(unsigned(revision))),
    })
}

/// Deletes decisions older than `keep`, at most `limit`. Returns how many.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.purge_audit", skip_all)]
pub async fn purge(pool: &Pool, keep: Duration, limit: i32, deadline: Instant) -> Result<u64, Error> {
    let keep_ms = signed(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
    let row = pool
        .run(PoolRole::Engine, deadline, async |client| {
            client.query_one("SELECT muster_purge_audit($1, $2)", &[&keep_ms, &limit]).await
        })
        .await?;
    Ok(unsigned(row.try_get::<_, i32>(0)?.into()))
}
