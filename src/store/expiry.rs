//! Deaths without a caller: stale leases, old epochs; and the hold that suspends them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{Error, Pool, PoolRole, deaths::within, epoch, row::unsigned};
use crate::{
    clock::gap::Reading,
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
    /// The database clock was further on than expected, and no lease could expire.
    pub is_late: bool,
}

/// What a caller knows of the database clock: what it must show about now, if it has not been stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedClock {
    /// What it must show.
    pub now: DateTime<Utc>,
    /// By how much it may differ.
    pub tolerance: Duration,
    /// The clock was stepped forward, and not the request held up.
    pub is_step_certain: bool,
}

/// A database clock that is off by more was stepped, or was asked late.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

impl ExpectedClock {
    /// What the clock must show now if it goes on from what is known, as precisely as can be known.
    #[must_use]
    pub fn after(known: Reading, now_ms: u64, is_step_certain: bool) -> Self {
        // The way there counts on both sides: that of the last answer, and that of the question about to be asked.
        Self { now: known.continued(now_ms), tolerance: CLOCK_TOLERANCE + known.uncertainty(), is_step_certain }
    }
}

/// A look that comes late takes a limit of zero, and no clock is compared: only the caller can find out why it was late.
const REAP: &str = "\
SELECT stale.reaped, stale.next_in_ms, stale.held_for_ms, stale.hold_reason, stale.brake, stale.read_at, asked.is_late
FROM (SELECT NOT $6 AND coalesce(muster_ms_until(muster_now(), $4) > $5, false) AS is_late OFFSET 0) AS asked,
    LATERAL muster_reap_stale(
        $1, CASE WHEN asked.is_late THEN 0 ELSE $2 END, $3, CASE WHEN asked.is_late THEN NULL ELSE $4 END, $5) AS stale";

/// Ends leases that were silent for longer than their TTL, at most `limit`. If the clock is behind what `clock` says right
/// before the question, or was certainly stepped forward, expiry is put on hold instead; if it is only further on, nothing
/// is done. Within a bound, hooks of mode `commit` run in its transaction.
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
        let types = [Type::INT8, Type::INT4, Type::TEXT, Type::TIMESTAMPTZ, Type::INT8, Type::BOOL];
        let statement = client.prepare_typed_cached(REAP, &types).await?;
        // Now, and not before there was a connection: waiting for one is no step of the clock.
        let clock = clock();
        let expected = clock.map(|clock| clock.now);
        let tolerance = clock.map(|clock| clock.tolerance).unwrap_or_default();
        let tolerance_ms = i64::try_from(tolerance.as_millis()).unwrap_or(i64::MAX);
        let is_step_certain = clock.is_some_and(|clock| clock.is_step_certain);
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&default_ttl_ms, &limit, &by, &expected, &tolerance_ms, &is_step_certain];
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
        is_late: row.try_get(6)?,
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

/// Puts the fingerprint of the policy that this daemon has in use on the list of daemons.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.daemon_policy", skip_all)]
pub async fn daemon_policy(pool: &Pool, daemon_id: Uuid, policy: &str, deadline: Instant) -> Result<(), Error> {
    pool.run(PoolRole::Engine, deadline, async |client| {
        client.execute("SELECT muster_daemon_policy($1, $2)", &[&daemon_id, &policy]).await.map(drop)
    })
    .await
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
