//! The transaction that changes wait for: who holds the row of `cluster_metadata`, or a row behind it, and keeps it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Error, Pool, PoolRole};
use crate::model::{Blocker, blocker::Details};

/// Begins at sessions of this role and application name that wait for a lock and have locked rows of `cluster_metadata`
/// or wait for the table, as the first step of every change does, and follows `pg_blocking_pids` to the transaction that
/// waits for none. `$1` is one that was found before: it is returned, though nothing waits for it at the moment, as long
/// as it is open. A prepared transaction has no session, and is not found.
///
/// `pg_locks`, and pid, role and application name in `pg_stat_activity`, show to every role. Of the sessions of other
/// roles the rest shows to members of `pg_read_all_stats`.
const FIND: &str = "
WITH RECURSIVE locks AS MATERIALIZED (
    SELECT pid, virtualtransaction AS vxid, mode, granted,
           relation IS NOT DISTINCT FROM 'cluster_metadata'::regclass
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AS is_ours
    FROM pg_locks
), waiter AS (
    SELECT DISTINCT waiting.pid
    FROM locks AS waiting
    JOIN pg_stat_activity AS activity USING (pid)
    WHERE NOT waiting.granted
      AND activity.datname = current_database()
      AND activity.usename = session_user
      AND activity.application_name = current_setting('application_name')
      AND EXISTS (
          SELECT FROM locks AS own
          WHERE own.pid = waiting.pid AND own.is_ours AND (own.mode <> 'AccessShareLock' OR NOT own.granted)
      )
), edge AS (
    SELECT waiter.pid AS waits, blocking.pid
    FROM waiter, unnest(pg_blocking_pids(waiter.pid)) AS blocking (pid)
    UNION
    SELECT edge.pid, blocking.pid
    FROM edge, unnest(pg_blocking_pids(edge.pid)) AS blocking (pid)
    WHERE edge.pid <> 0
), candidate AS (
    SELECT locks.vxid, true AS is_waited_for
    FROM edge
    JOIN locks ON locks.pid = edge.pid
    WHERE NOT EXISTS (SELECT FROM edge AS further WHERE further.waits = edge.pid)
    UNION
    SELECT vxid, false FROM locks WHERE vxid = $1
)
SELECT candidate.vxid,
       activity.pid,
       coalesce(activity.usename, '')::text AS role,
       coalesce(activity.application_name, '') AS application,
       activity.query = '<insufficient privilege>' AS is_hidden,
       host(activity.client_addr) AS client,
       coalesce(activity.state, '') AS state,
       coalesce(1000 * extract(epoch FROM clock_timestamp() - activity.xact_start), 0)::bigint AS open_ms
FROM candidate
JOIN LATERAL (SELECT locks.pid FROM locks WHERE locks.vxid = candidate.vxid LIMIT 1) AS holder ON true
JOIN pg_stat_activity AS activity ON activity.pid = holder.pid
ORDER BY candidate.is_waited_for DESC, open_ms DESC
LIMIT 1";

/// What blocks changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The transaction, as `pg_locks` names it; another one of the same session has another name.
    pub transaction: String,
    /// Who holds it.
    pub blocker: Blocker,
}

/// Finds the transaction that changes of this daemon wait for. `known` is one that was found before, and is found again
/// while it is open, unless they wait for another one.
///
/// # Errors
/// As [`Pool::run`].
#[tracing::instrument(level = "debug", name = "db.blocking_session", skip_all)]
pub async fn find(pool: &Pool, known: Option<&str>, deadline: Instant) -> Result<Option<Found>, Error> {
    let row = pool
        .run(PoolRole::Engine, deadline, async |client| {
            let statement = client.prepare_cached(FIND).await?;
            client.query_opt(&statement, &[&known]).await
        })
        .await?;
    let Some(row) = row else { return Ok(None) };
    let details = Details { client: row.try_get("client")?, state: row.try_get("state")? };
    let is_hidden = row.try_get::<_, Option<bool>>("is_hidden")?.unwrap_or_default();
    let blocker = Blocker {
        pid: row.try_get("pid")?,
        user: row.try_get("role")?,
        application: row.try_get("application")?,
        details: (!is_hidden).then_some(details),
        open_for: Duration::from_millis(row.try_get::<_, i64>("open_ms")?.try_into().unwrap_or_default()),
    };
    Ok(Some(Found { transaction: row.try_get("vxid")?, blocker }))
}
