//! Deaths that nobody asked for: stale leases, old epochs, purge; and the hold that suspends them.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Error, Lane, Pool,
    row::{signed, unsigned},
};
use crate::model::{Hold, input::TTL_DEFAULT};

/// A daemon that was not heard of for this long does not count as there ([`daemon_started`]).
pub const HEARD_OF: Duration = Duration::from_secs(3);

/// What one run of the stale reaper found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleReport {
    /// Instances declared dead.
    pub reaped: u64,
    /// In how long the earliest deadline falls due; zero if somebody is overdue; `None` if nobody is alive.
    pub next_deadline: Option<Duration>,
    /// Set while expiry is suspended.
    pub hold: Option<Hold>,
}

/// Declares dead whoever is silent for longer than its TTL, at most `limit`.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
pub async fn reap_stale(pool: &Pool, limit: i32, by: &str, deadline: Instant) -> Result<StaleReport, Error> {
    let default_ttl_ms = i64::try_from(TTL_DEFAULT.as_millis()).unwrap_or(i64::MAX);
    let row = pool
        .run(Lane::Engine, deadline, async |client| {
            let statement = client
                .prepare_cached(
                    "SELECT reaped, next_in_ms, held_for_ms, hold_reason FROM muster_reap_stale($1, $2, $3)",
                )
                .await?;
            client.query_one(&statement, &[&default_ttl_ms, &limit, &by]).await
        })
        .await?;
    let held_for_ms: Option<i64> = row.try_get(2)?;
    Ok(StaleReport {
        reaped: unsigned(row.try_get::<_, i32>(0)?.into()),
        next_deadline: row.try_get::<_, Option<i64>>(1)?.map(|ms| Duration::from_millis(unsigned(ms))),
        hold: held_for_ms.map(|ms| hold(ms, row.try_get(3).ok().flatten())),
    })
}

/// Writes down the deaths of instances of older epochs, at most `limit`. Returns how many.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
pub async fn reap_old_epoch(pool: &Pool, limit: i32, by: &str, deadline: Instant) -> Result<u64, Error> {
    let row = pool
        .run(Lane::Engine, deadline, async |client| {
            let statement = client.prepare_cached("SELECT muster_reap_old_epoch($1, $2)").await?;
            client.query_one(&statement, &[&limit, &by]).await
        })
        .await?;
    Ok(unsigned(row.try_get::<_, i32>(0)?.into()))
}

/// Deletes rows that have been dead for longer than `keep`, at most `limit`. Returns how many.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
pub async fn purge_dead(pool: &Pool, keep: Duration, limit: i32, deadline: Instant) -> Result<u64, Error> {
    let keep_ms = signed(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
    let row = pool
        .run(Lane::Engine, deadline, async |client| {
            client.query_one("SELECT muster_purge_dead($1, $2)", &[&keep_ms, &limit]).await
        })
        .await?;
    Ok(unsigned(row.try_get::<_, i32>(0)?.into()))
}

/// Suspends expiry for the longest TTL of the living and 5 s, so that all can be heard again. Returns for how long.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
pub async fn hold_expiry(pool: &Pool, reason: &str, deadline: Instant) -> Result<Duration, Error> {
    let row = pool
        .run(Lane::Engine, deadline, async |client| client.query_one("SELECT muster_hold_expiry($1)", &[&reason]).await)
        .await?;
    Ok(Duration::from_millis(unsigned(row.try_get(0)?)))
}

/// Enters this daemon among those that share the database. Returns for how long expiry is held because of it; `None`
/// if another one was heard of within [`HEARD_OF`], so that there is no need to.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
pub async fn daemon_started(
    pool: &Pool,
    daemon_id: Uuid,
    address: &str,
    version: &str,
    deadline: Instant,
) -> Result<Option<Duration>, Error> {
    let row = pool
        .run(Lane::Engine, deadline, async |client| {
            client.query_one("SELECT muster_daemon_started($1, $2, $3)", &[&daemon_id, &address, &version]).await
        })
        .await?;
    Ok(row.try_get::<_, Option<i64>>(0)?.map(|held_ms| Duration::from_millis(unsigned(held_ms))))
}

/// Removes this daemon, once it has saved everything.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
pub async fn daemon_stopped(pool: &Pool, daemon_id: Uuid, deadline: Instant) -> Result<(), Error> {
    pool.run(Lane::Engine, deadline, async |client| {
        client.execute("SELECT muster_daemon_stopped($1)", &[&daemon_id]).await.map(drop)
    })
    .await
}

/// A hold as PostgreSQL tells it.
pub(super) fn hold(held_for_ms: i64, reason: Option<String>) -> Hold {
    Hold { remaining: Duration::from_millis(unsigned(held_for_ms)), reason: reason.unwrap_or_default() }
}
