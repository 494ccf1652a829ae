//! Deaths without a caller: stale leases, old epochs; and the hold that suspends them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{Error, Pool, PoolRole, deaths::within, epoch, row::unsigned};
use crate::{
    model::{BrakeMode, Hold, input::TTL_DEFAULT},
    postgres::pool::Client,
};

/// What one run of the stale reaper found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleReport {
    /// Instances declared dead.
    pub reaped: u64,
    /// In how long a lease can expire, a hold included; zero if one is overdue; `None` if no lease is alive.
    pub next_deadline: Option<Duration>,
    /// Set while expiry is suspended.
    pub hold: Option<Hold>,
    /// Set while it is braked.
    pub brake: Option<BrakeMode>,
    /// The database clock at the decision.
    pub read_at: DateTime<Utc>,
}

/// What a caller knows of the database clock: what it must show about now, if it has not been stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedClock {
    /// What it must show.
    pub now: DateTime<Utc>,
    /// By how much it may differ.
    pub tolerance: Duration,
}

/// Ends leases that were silent for longer than their TTL, at most `limit`. If the clock is not where `clock` says
/// right before the question, expiry is put on hold instead. Within a bound, hooks of mode `commit` run in its transaction.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.reap_stale", skip_all)]
pub async fn reap_stale(
    pool: &Pool,
    limit: i32,
    by: &str,
    clock: impl Fn() -> Option<ExpectedClock>,
    bound: Option<Duration>,
    deadline: Instant,
) -> Result<StaleReport, Error> {
    let default_ttl_ms = i64::try_from(TTL_DEFAULT.as_millis()).unwrap_or(i64::MAX);
    let call = async |client: &Client| {
        let statement = client
            .prepare_cached(
                "SELECT reaped, next_in_ms, held_for_ms, hold_reason, brake, read_at \
                     FROM muster_reap_stale($1, $2, $3, $4, $5)",
            )
            .await?;
        // Now, and not before there was a connection: waiting for one is no step of the clock.
        let clock = clock();
        let expected = clock.map(|clock| clock.now);
        let tolerance = clock.map(|clock| clock.tolerance).unwrap_or_default();
        let tolerance_ms = i64::try_from(tolerance.as_millis()).unwrap_or(i64::MAX);
        let parameters: [&(dyn ToSql + Sync); 5] = [&default_ttl_ms, &limit, &by, &expected, &tolerance_ms];
        within(client, bound, client.query_one(&statement, &parameters)).await
    };
    // A hook of mode `commit` may have left something in the session.
    let row = pool.run_checked(PoolRole::Engine, deadline, call, |_| None, |_| bound.is_none()).await?;
    let held_for_ms: Option<i64> = row.try_get(2)?;
    Ok(StaleReport {
        reaped: unsigned(row.try_get::<_, i32>(0)?.into()),
        next_deadline: row.try_get::<_, Option<i64>>(1)?.map(|ms| Duration::from_millis(unsigned(ms))),
        hold: held_for_ms.map(|ms| hold(ms, row.try_get(3).ok().flatten())),
        brake: row.try_get::<_, Option<&str>>(4)?.and_then(BrakeMode::from_word),
        read_at: row.try_get(5)?,
    })
}

/// Writes down the deaths of instances of older epochs, at most `limit`. Returns how many.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.reap_old_epoch", skip_all)]
pub async fn reap_old_epoch(
    pool: &Pool,
    limit: i32,
    by: &str,
    bound: Option<Duration>,
    deadline: Instant,
) -> Result<u64, Error> {
    let call = async |client: &Client| {
        let statement = client.prepare_cached("SELECT muster_reap_old_epoch($1, $2)").await?;
        within(client, bound, client.query_one(&statement, &[&limit, &by])).await
    };
    let row = pool.run_checked(PoolRole::Engine, deadline, call, |_| None, |_| bound.is_none()).await?;
    Ok(unsigned(row.try_get::<_, i32>(0)?.into()))
}

/// Puts expiry on hold for an operator: for `for_`, or for the longest TTL of a live lease and 5 s. Returns for how long.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.hold_expiry", skip_all)]
pub async fn hold_expiry(
    pool: &Pool,
    reason: &str,
    for_: Option<Duration>,
    by: &str,
    deadline: Instant,
) -> Result<Duration, Error> {
    let for_ms = for_.map(|for_| i64::try_from(for_.as_millis()).unwrap_or(i64::MAX));
    let row = pool
        .run(PoolRole::Operator, deadline, async |client| {
            client.query_one("SELECT muster_hold_expiry_for($1, $2, $3)", &[&reason, &for_ms, &by]).await
        })
        .await?;
    Ok(Duration::from_millis(unsigned(row.try_get(0)?)))
}

/// Records the end of a disruption: from now on each lease has its TTL and 5 s before it can expire. Returns for how long
/// the lease with the longest TTL is held.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.note_disruption", skip_all)]
pub async fn note_disruption(pool: &Pool, reason: &str, deadline: Instant) -> Result<Duration, Error> {
    let row = pool
        .run(PoolRole::Engine, deadline, async |client| {
            client.query_one("SELECT muster_note_disruption($1)", &[&reason]).await
        })
        .await?;
    Ok(Duration::from_millis(unsigned(row.try_get(0)?)))
}

/// Ends a hold, and takes the brake off for `for_`.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.release_expiry", skip_all)]
pub async fn release_expiry(pool: &Pool, for_: Duration, by: &str, deadline: Instant) -> Result<(), Error> {
    let for_ms = i64::try_from(for_.as_millis()).unwrap_or(i64::MAX);
    pool.run(PoolRole::Operator, deadline, async |client| {
        client.execute("SELECT muster_release_expiry_for($1, $2)", &[&for_ms, &by]).await.map(drop)
    })
    .await
}

/// A daemon, as it enters.
#[derive(Clone, Copy, Debug)]
pub struct DaemonEntry<'a> {
    /// This run of it.
    pub daemon_id: Uuid,
    /// Where it is reached.
    pub address: &'a str,
    /// What it runs.
    pub version: &'a str,
    /// The machine it runs on; empty if unknown.
    pub host: &'a str,
}

/// Enters this daemon among those that share the database, in an epoch that begins now if there is none and `epoch_by` is
/// given. Returns for how long expiry is held because of it.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.daemon_started", skip_all)]
pub async fn daemon_started(
    pool: &Pool,
    epoch_by: Option<&str>,
    daemon: &DaemonEntry<'_>,
    deadline: Instant,
) -> Result<Duration, Error> {
    let DaemonEntry { daemon_id, address, version, host } = daemon;
    let row = pool
        .run(PoolRole::Engine, deadline, async |client| {
            let epoch = async {
                let Some(by) = epoch_by else { return Ok(()) };
                epoch::ensure(client, by).await
            };
            let sql = "SELECT muster_daemon_started($1, $2, $3, $4)";
            let (id, address) = ((daemon_id as &(dyn ToSql + Sync), Type::UUID), (address as _, Type::TEXT));
            let entry = [id, address, (version as _, Type::TEXT), (host as _, Type::TEXT)];
            // Sent one behind the other: one round trip.
            let ((), row) = tokio::try_join!(biased; epoch, client.query_typed_one(sql, &entry))?;
            Ok(row)
        })
        .await?;
    Ok(Duration::from_millis(unsigned(row.try_get(0)?)))
}

/// Removes this daemon, once it has saved everything.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.daemon_stopped", skip_all)]
pub async fn daemon_stopped(pool: &Pool, daemon_id: Uuid, deadline: Instant) -> Result<(), Error> {
    pool.run(PoolRole::Engine, deadline, async |client| {
        client.execute("SELECT muster_daemon_stopped($1)", &[&daemon_id]).await.map(drop)
    })
    .await
}

/// A hold as PostgreSQL tells it.
pub(super) fn hold(held_for_ms: i64, reason: Option<String>) -> Hold {
    Hold { remaining: Duration::from_millis(unsigned(held_for_ms)), reason: reason.unwrap_or_default() }
}
