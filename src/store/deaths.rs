//! Ended leases: the hooks that free what they held, and the record of them.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;

use super::{
    Error, Pool, PoolRole,
    row::{Time, unsigned},
};
use crate::{
    model::{Death, DeathReason, Ended, EndedLease, Holder, InstanceId, LeaseId, LogicalId},
    postgres::pool::Client,
};

/// A hook that takes longer has failed.
pub const HOOK_LIMIT: Duration = Duration::from_secs(5);
/// A hook in the transaction of a death that takes longer has failed: `muster_release_at_commit` asks for this limit.
const COMMIT_LIMIT: Duration = Duration::from_secs(1);

/// What one hook did for a batch of deaths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRun {
    /// Its name.
    pub hook: String,
    /// For how many deaths it ran.
    pub deaths: u64,
    /// How many of them need no other hook.
    pub released: u64,
    /// Rows that it freed.
    pub freed: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Why it failed; nothing of what it did remains then.
    pub failure: Option<String>,
}

/// How the release of deaths gets on. The default is a registry without hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseState {
    /// Deaths that hooks have to run for, counted up to 100,000.
    pub unreleased: u64,
    /// How long ago the first of them died.
    pub oldest: Duration,
    /// Which hook failed last for one of them, and why.
    pub failure: Option<String>,
    /// Hooks that do not run until an operator acts, and why.
    pub waiting: Vec<String>,
    /// Whether there are hooks.
    pub has_hooks: bool,
    /// Whether there are hooks that run in the transaction of a death.
    pub has_at_commit: bool,
}

impl ReleaseState {
    /// How long the statement of a death may take; `None`: any time.
    #[must_use]
    pub fn bound(&self) -> Option<Duration> {
        self.has_at_commit.then_some(COMMIT_LIMIT)
    }
}

/// Runs the hooks for at most `limit` deaths. Returns what each hook did; nothing if no death is due.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call is safe.
#[tracing::instrument(level = "debug", name = "db.release_deaths", skip_all)]
pub async fn release(pool: &Pool, limit: i32, deadline: Instant) -> Result<Vec<HookRun>, Error> {
    let call = async |client: &Client| {
        let sql = "SELECT hook, deaths, released, freed, elapsed_ms, failure FROM muster_release_batch($1)";
        let statement = client.prepare_cached(sql).await?;
        within(client, Some(HOOK_LIMIT), client.query(&statement, &[&limit])).await
    };
    // What a hook that failed has prepared in the session stays there after the rollback of everything else.
    let is_clean = |rows: &Vec<Row>| rows.iter().all(|row| matches!(row.try_get::<_, Option<&str>>(5), Ok(None)));
    let rows = pool.run_checked(PoolRole::Engine, deadline, call, |_| None, is_clean).await?;
    rows.iter().map(hook_run).collect()
}

fn hook_run(row: &Row) -> Result<HookRun, Error> {
    let number = |column| Ok::<_, Error>(unsigned(row.try_get::<_, i32>(column)?.into()));
    Ok(HookRun {
        hook: row.try_get(0)?,
        deaths: number(1)?,
        released: number(2)?,
        freed: unsigned(row.try_get(3)?),
        elapsed: Duration::try_from_secs_f64(row.try_get::<_, f64>(4)? / 1e3).unwrap_or_default(),
        failure: row.try_get(5)?,
    })
}

/// How the release of deaths gets on.
///
/// # Errors
/// As [`Pool::run`].
#[tracing::instrument(level = "debug", name = "db.release_state", skip_all)]
pub async fn release_state(pool: &Pool, deadline: Instant) -> Result<ReleaseState, Error> {
    let row = pool
        .run(PoolRole::Engine, deadline, async |client| {
            let sql =
                "SELECT unreleased, oldest_ms, failure, waiting, has_hooks, has_at_commit FROM muster_release_state()";
            let statement = client.prepare_cached(sql).await?;
            client.query_one(&statement, &[]).await
        })
        .await?;
    Ok(ReleaseState {
        unreleased: unsigned(row.try_get(0)?),
        oldest: Duration::from_millis(unsigned(row.try_get::<_, Option<i64>>(1)?.unwrap_or_default())),
        failure: row.try_get(2)?,
        waiting: row.try_get(3)?,
        has_hooks: row.try_get(4)?,
        has_at_commit: row.try_get(5)?,
    })
}

/// Leases that have ended, at most `limit`, the latest first.
///
/// # Errors
/// As [`Pool::run`].
#[tracing::instrument(level = "debug", name = "db.ended_leases", skip_all)]
pub async fn ended(pool: &Pool, ended: &Ended, limit: usize, deadline: Instant) -> Result<Vec<EndedLease>, Error> {
    let columns = "lease_id, instance_id, logical_id, actor_name, node_id, owner, epoch_number, started_at, died_at, \
                   reason, decided_by";
    let rest = "AND ($2::timestamptz IS NULL OR (started_at <= $2 AND died_at > $2)) \
                ORDER BY died_at DESC, lease_id DESC LIMIT $3";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = pool
        .run(PoolRole::Operator, deadline, async |client| match &ended.holder {
            Holder::LogicalId(name) => {
                let sql = format!("SELECT {columns} FROM registry_death WHERE logical_id = $1 {rest}");
                client.query(&sql, &[name, &ended.alive_at, &limit]).await
            }
            Holder::Instance(instance_id) => {
                let sql = format!("SELECT {columns} FROM registry_death WHERE instance_id = $1 {rest}");
                client.query(&sql, &[&instance_id.0, &ended.alive_at, &limit]).await
            }
        })
        .await?;
    rows.iter().map(ended_lease).collect()
}

fn ended_lease(row: &Row) -> Result<EndedLease, Error> {
    Ok(EndedLease {
        lease_id: LeaseId(unsigned(row.try_get(0)?)),
        instance_id: InstanceId(row.try_get(1)?),
        logical_id: LogicalId::from_record(row.try_get(2)?),
        actor_name: row.try_get(3)?,
        node_id: row.try_get(4)?,
        owner: row.try_get(5)?,
        epoch_number: unsigned(row.try_get(6)?),
        started_at: row.try_get::<_, Time>(7)?.0,
        death: Death {
            at: Some(row.try_get::<_, Time>(8)?.0),
            deadline: None,
            reason: DeathReason::from_word(row.try_get(9)?),
            decided_by: row.try_get::<_, Option<&str>>(10)?.map(Into::into),
        },
    })
}

/// The answer to `call`, whose statement the server ends after `limit`. In the round trip of the call.
pub(super) async fn within<T>(
    client: &Client,
    limit: Option<Duration>,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, tokio_postgres::Error> {
    let Some(limit) = limit else { return call.await };
    let set = format!("SET statement_timeout = {}", limit.as_millis());
    let (set, answer, reset) =
        tokio::join!(biased; client.batch_execute(&set), call, client.batch_execute("SET statement_timeout = 0"));
    set.and(answer).and_then(|answer| reset.map(|()| answer))
}
