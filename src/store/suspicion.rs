//! What the daemons tell each other of instances they have lost contact with. A hint: no lease ends by it.

use tokio::time::Instant;

use super::{
    Error, Pool, PoolRole,
    row::{signed, unsigned},
};
use crate::model::LeaseId;

/// Tells of leases with which contact was lost (each with how many milliseconds ago it was last heard of) and of those
/// that were heard of since, and asks who is suspect now by what any daemon has told, in the same form.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.exchange_suspicions", skip_all)]
pub async fn exchange(
    pool: &Pool,
    lost: &[(LeaseId, u64)],
    heard: &[LeaseId],
    deadline: Instant,
) -> Result<Vec<(LeaseId, u64)>, Error> {
    let lost_ids: Vec<i64> = lost.iter().map(|(lease_id, _)| signed(lease_id.0)).collect();
    let ages_ms: Vec<i64> = lost.iter().map(|(_, age_ms)| signed(*age_ms)).collect();
    let heard_ids: Vec<i64> = heard.iter().map(|lease_id| signed(lease_id.0)).collect();
    let rows = pool
        .run(PoolRole::Engine, deadline, async |client| {
            let sql = "SELECT lease_id, age_ms FROM muster_exchange_suspicions($1, $2, $3)";
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, &[&lost_ids, &ages_ms, &heard_ids]).await
        })
        .await?;
    rows.iter()
        .map(|row| Ok((LeaseId(unsigned(row.try_get(0)?)), unsigned(row.try_get(1)?))))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(Error::from)
}
