//! Decisions: what has no transaction of its own is written here; all of them are read here.

use tokio::time::Instant;
use tokio_postgres::{Row, types::Json};

use super::{
    Error, Pool, PoolRole,
    row::{Time, signed, unsigned},
};
use crate::model::{Decision, DecisionFilter, Note, Revision};

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
