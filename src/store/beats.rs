//! Saving the beats a daemon has heard, and asking for those that others have heard.

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Error, Pool, PoolRole,
    row::{signed, unsigned},
};
use crate::{model::LeaseId, postgres::pool::Client};

/// What a flush was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Whether this daemon is on the list of daemons; if not, it was evicted and must enter again.
    pub entered: bool,
    /// The database clock.
    pub read_at: DateTime<Utc>,
}

/// Saves beats: each lease with how many milliseconds ago it was heard. Sorted by lease id by the caller, so that two
/// daemons never wait for each other in a circle. Also says that the daemon is well, so it is called with none too.
/// `saved_up_to`: with this call, everything that was heard by then is saved.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.flush_beats", skip_all)]
pub async fn flush(
    pool: &Pool,
    daemon_id: Uuid,
    lease_ids: &[i64],
    ages_ms: &[i64],
    saved_up_to: Option<DateTime<Utc>>,
    deadline: Instant,
) -> Result<Flushed, Error> {
    let flush = async |client: &Client| {
        // The revision tells whether this is still the database that this daemon has written to.
        let sql = "SELECT entered, read_at, (SELECT revision FROM cluster_metadata WHERE id = 1) \
                   FROM muster_flush_beats($1, $2, $3, $4)";
        let statement = client.prepare_cached(sql).await?;
        client.query_one(&statement, &[&daemon_id, &lease_ids, &ages_ms, &saved_up_to]).await
    };
    let revision = |row: &Row| row.try_get::<_, Option<i64>>(2).ok().flatten().map(unsigned);
    let row = pool.run_known(PoolRole::Engine, deadline, flush, revision).await?;
    Ok(Flushed { entered: row.try_get(0)?, read_at: row.try_get(1)? })
}

/// How many milliseconds ago PostgreSQL knows each of these leases to have beaten. Leases that have ended are left out.
///
/// # Errors
/// As [`Pool::run`].
#[tracing::instrument(level = "debug", name = "db.beat_ages", skip_all)]
pub async fn ages(pool: &Pool, leases: &[LeaseId], deadline: Instant) -> Result<Vec<(LeaseId, u64)>, Error> {
    let lease_ids: Vec<i64> = leases.iter().map(|lease_id| signed(lease_id.0)).collect();
    let rows = pool
        .run(PoolRole::Engine, deadline, async |client| {
            let statement = client
                .prepare_cached(
                    // A subquery for each lease: a plan for a table that was never analysed might read all instances.
                    "SELECT asked.lease_id, ( \
                         SELECT -muster_ms_until(i.last_heartbeat, muster_now()) \
                         FROM registry_instance i WHERE i.lease_id = asked.lease_id AND i.status <> 'dead' \
                     ) FROM unnest($1::bigint[]) AS asked (lease_id)",
                )
                .await?;
            client.query(&statement, &[&lease_ids]).await
        })
        .await?;
    let mut ages = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(age_ms) = row.try_get(1)? {
            ages.push((LeaseId(unsigned(row.try_get(0)?)), unsigned(age_ms)));
        }
    }
    Ok(ages)
}
