//! Deletes old records, a batch at a time.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Error, Pool, PoolRole,
    row::{signed, unsigned},
};

/// Records that are kept for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Instances that are dead.
    Instances,
    /// Deaths whose hooks have run: the history of leases.
    Deaths,
    /// Decisions; the latest week of them is kept in any case.
    Decisions,
}

/// Deletes those older than `keep`, at most `limit`, the earliest first. Returns how many.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.purge", skip(pool, keep, limit, deadline))]
pub async fn purge(pool: &Pool, records: Records, keep: Duration, limit: i32, deadline: Instant) -> Result<u64, Error> {
    let keep_ms = signed(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
    let sql = match records {
        Records::Instances => "SELECT muster_purge_dead($1, $2)",
        Records::Deaths => "SELECT muster_purge_deaths($1, $2)",
        Records::Decisions => "SELECT muster_purge_audit($1, $2)",
    };
    let row =
        pool.run(PoolRole::Engine, deadline, async |client| client.query_one(sql, &[&keep_ms, &limit]).await).await?;
    Ok(unsigned(row.try_get::<_, i32>(0)?.into()))
}
