//! What else lives in the database of a registry and may get into its way: for `musterd check`.
//!
//! Reads the catalogue only. What a role may not see is missing from the answer, never an error.

use std::time::Duration;

use tokio_postgres::{Client, Row};

use super::examine::ExamineError;
use crate::postgres::{connect::ConnectError, database::Database, kept::Driven, server::Want};

/// Schemas other than ours with the enum.
const ENUMS: &str = "
SELECT space.nspname::text FROM pg_type AS typ JOIN pg_namespace AS space ON space.oid = typ.typnamespace
WHERE typ.typname = 'instancestatus' AND typ.typtype = 'e' AND space.nspname <> coalesce(current_schema(), '')
ORDER BY 1";

/// Histories of other tools: schema and table.
const HISTORIES: &str = "
SELECT space.nspname::text || '.' || class.relname, class.relname::text
FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
WHERE class.relkind IN ('r', 'p') AND space.nspname NOT IN ('pg_catalog', 'information_schema')
  AND (class.relname IN ('alembic_version', 'schema_migrations', 'flyway_schema_history', 'databasechangelog',
                         '_sqlx_migrations', 'refinery_schema_history', 'goose_db_version', 'atlas_schema_revisions',
                         '_prisma_migrations', 'migrations')
       OR (space.nspname = 'pgroll' AND class.relname = 'migrations'))
ORDER BY 1";

/// Functions of SeedCore's interface that exist more than once, so that a call may be ambiguous.
const OVERLOADS: &str = "
SELECT proc.proname::text, string_agg(proc.oid::regprocedure::text, ', ' ORDER BY proc.oid::regprocedure::text)
FROM pg_proc AS proc
WHERE proc.pronamespace = quote_ident(current_schema())::regnamespace
  AND proc.proname IN ('set_current_epoch', 'register_instance', 'set_instance_status', 'beat', 'expire_stale_instances',
                       'expire_old_epoch_instances', 'create_graph_embed_task', 'create_graph_rag_task')
GROUP BY proc.proname HAVING count(*) > 1 ORDER BY 1";

/// Transactions that are older than a minute.
const OLD: &str = "
SELECT format('process %s (role %s, application %s, %s) has a transaction open for %s s', pid, coalesce(usename, '-'),
              coalesce(nullif(application_name, ''), '-'), coalesce(state, '-'),
              extract(epoch FROM clock_timestamp() - xact_start)::bigint), pid::text
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND xact_start < clock_timestamp() - interval '1 min'
ORDER BY xact_start";

/// Transactions that were prepared and wait for their end.
const PREPARED: &str = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared";

/// Event triggers that a migration would fire.
const EVENT_TRIGGERS: &str = "SELECT evtname::text FROM pg_event_trigger WHERE evtenabled <> 'D' ORDER BY 1";

/// Live rows of SQL callers, the age of their latest beat in seconds, how many of them are overdue for long, whether there is
/// a daemon, and how long ago a SQL caller's expiry ended a lease. Rows from before the leases, and without a daemon all rows,
/// are SQL callers'.
const CALLERS: &str = "
SELECT count(*), extract(epoch FROM clock_timestamp() - max(instance.last_heartbeat))::bigint,
       count(*) FILTER (WHERE muster_deadline(instance.last_heartbeat, instance.ttl_ms) < muster_now() - interval '30 s'),
       daemons.any,
       (SELECT extract(epoch FROM clock_timestamp() - max(died_at))::bigint FROM registry_death
        WHERE reason = 'stale' AND decided_by LIKE 'sql/%')
FROM (SELECT EXISTS (SELECT FROM registry_daemon) AS any) AS daemons
LEFT JOIN registry_instance AS instance
       ON instance.status <> 'dead'
      AND (instance.owner LIKE 'sql/%' OR NOT daemons.any
           OR instance.started_at < (SELECT applied_at FROM muster_migration WHERE version = 13))
GROUP BY daemons.any";

/// Hooks that cannot run, each with what to do.
const HOOKS: &str = "
SELECT 'hook ' || hook.name || ': ' || split_part(refusal.text, '; ', 1), split_part(refusal.text, '; ', 2)
FROM registry_hook AS hook
CROSS JOIN LATERAL (SELECT muster_hook_refusal(hook.function) AS text) AS refusal
WHERE refusal.text IS NOT NULL
ORDER BY hook.name";

/// Deaths that no hook has released for a minute: how many, for how many seconds, and why.
const UNRELEASED: &str = "
SELECT count(*), extract(epoch FROM clock_timestamp() - min(died_at))::bigint,
       (SELECT last_error FROM registry_death WHERE released_at IS NULL AND last_error IS NOT NULL
        ORDER BY attempts DESC, lease_id DESC LIMIT 1)
FROM registry_death
WHERE released_at IS NULL AND died_at < clock_timestamp() - interval '1 min'
HAVING count(*) > 0";

/// Tables of the registry with more dead rows than autovacuum leaves, or without autovacuum.
const AUTOVACUUM: &str = "
SELECT CASE
           WHEN current_setting('autovacuum') = 'off' THEN 'autovacuum is off'
           WHEN stat.n_dead_tup > 10000 + 2 * stat.n_live_tup THEN
               format('table %s has %s dead rows and %s live ones; autovacuum last ended there %s', stat.relname, stat.n_dead_tup,
                      stat.n_live_tup, coalesce(date_trunc('second', stat.last_autovacuum)::text, 'never'))
           ELSE format('autovacuum is off for table %s', stat.relname)
       END
FROM pg_stat_all_tables AS stat
JOIN pg_class AS class ON class.oid = stat.relid
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace
  AND (stat.relname ~ '^(muster|registry)_' OR stat.relname = 'cluster_metadata')
  AND (stat.n_dead_tup > 10000 + 2 * stat.n_live_tup OR class.reloptions @> ARRAY['autovacuum_enabled=false']
       OR (current_setting('autovacuum') = 'off' AND stat.relname = 'registry_instance'))
ORDER BY 1";

/// With the suite: the version of pgvector that is installed, and the one that could be.
const VECTOR: &str = "
SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')
WHERE to_regclass(quote_ident(current_schema()) || '.muster_suite_migration') IS NOT NULL";

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Other schemas that hold the enum `InstanceStatus`.
    pub enums: Vec<String>,
    /// Histories of other tools: where, and the name of the table.
    pub histories: Vec<(String, String)>,
    /// Names of functions that exist more than once, and their signatures.
    pub overloads: Vec<(String, String)>,
    /// Transactions that are older than a minute, and their process.
    pub old_transactions: Vec<(String, String)>,
    /// Transactions that were prepared.
    pub prepared: Vec<String>,
    /// Event triggers.
    pub event_triggers: Vec<String>,
    /// Callers that use SQL.
    pub sql_callers: Option<SqlCallers>,
    /// Hooks that cannot run, and what to do.
    pub hooks: Vec<(String, String)>,
    /// Deaths that no hook has released for long.
    pub unreleased: Option<Unreleased>,
    /// Tables that autovacuum does not keep up with.
    pub autovacuum: Vec<String>,
    /// With the suite: the version of pgvector that is installed, and the one that could be.
    pub vector: Option<(Option<String>, Option<String>)>,
}

/// Instances that were registered by SQL.
#[derive(Debug, Clone, Default)]
pub struct SqlCallers {
    /// How many are alive.
    pub live: i64,
    /// How long ago the latest beat was saved; `None` if none is alive.
    pub silent: Option<Duration>,
    /// How many are overdue, and nothing has ended them for half a minute.
    pub overdue: i64,
    /// Whether a daemon works with the database.
    pub has_daemon: bool,
    /// How long ago `expire_stale_instances` last ended a lease for a SQL caller.
    pub expired: Option<Duration>,
}

/// Deaths that wait for their hooks.
#[derive(Debug, Clone, Default)]
pub struct Unreleased {
    /// How many.
    pub count: i64,
    /// How long ago the first of them died.
    pub oldest: Duration,
    /// Why a hook failed, if one did.
    pub failure: Option<String>,
}

/// Reads what is around the registry at `url`, in `schema` if that is named.
///
/// # Errors
///
/// [`ExamineError::Connect`].
#[tracing::instrument(level = "debug", name = "db.examine_surroundings", skip_all)]
pub async fn surroundings(url: &str, schema: Option<&str>) -> Result<Surroundings, ExamineError> {
    let database = Database::at(url, schema).map_err(ConnectError::from)?;
    let Driven { client, driver, .. } = database.open_driven(Want::Any, Duration::MAX).await?;
    let found = Surroundings {
        enums: column(&client, ENUMS).await,
        histories: pairs(&client, HISTORIES).await,
        overloads: pairs(&client, OVERLOADS).await,
        old_transactions: pairs(&client, OLD).await,
        prepared: column(&client, PREPARED).await,
        event_triggers: column(&client, EVENT_TRIGGERS).await,
        sql_callers: sql_callers(&client).await,
        hooks: pairs(&client, HOOKS).await,
        unreleased: unreleased(&client).await,
        autovacuum: column(&client, AUTOVACUUM).await,
        vector: first(&client, VECTOR).await.and_then(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?))),
    };
    drop(client);
    driver.abort();
    Ok(found)
}

async fn column(client: &Client, query: &str) -> Vec<String> {
    let rows = client.query_typed(query, &[]).await.unwrap_or_default();
    rows.iter().filter_map(|row| row.try_get(0).ok()).collect()
}

async fn pairs(client: &Client, query: &str) -> Vec<(String, String)> {
    let rows = client.query_typed(query, &[]).await.unwrap_or_default();
    rows.iter().filter_map(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?))).collect()
}

async fn first(client: &Client, query: &str) -> Option<Row> {
    client.query_typed(query, &[]).await.ok()?.into_iter().next()
}

fn seconds(row: &Row, column: usize) -> Option<Duration> {
    let seconds: Option<i64> = row.try_get(column).ok()?;
    seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

async fn sql_callers(client: &Client) -> Option<SqlCallers> {
    let row = first(client, CALLERS).await?;
    let silent = seconds(&row, 1);
    // The row of a daemon alone, without an instance, is counted as well.
    let live = if silent.is_some() { row.try_get(0).ok()? } else { 0 };
    let (overdue, has_daemon) = (row.try_get(2).ok()?, row.try_get(3).ok()?);
    Some(SqlCallers { live, silent, overdue, has_daemon, expired: seconds(&row, 4) })
}

async fn unreleased(client: &Client) -> Option<Unreleased> {
    let row = first(client, UNRELEASED).await?;
    Some(Unreleased { count: row.try_get(0).ok()?, oldest: seconds(&row, 1)?, failure: row.try_get(2).ok()? })
}
