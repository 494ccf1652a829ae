//! What else lives in the database of a registry and may get into its way: for `musterd check`.
//!
//! Reads the catalogue only. What a role may not see is missing from the answer, never an error.

use std::time::Duration;

use tokio_postgres::Client;

use super::examine::ExamineError;
use crate::postgres::{connect::ConnectError, database::Database, kept::Driven, server::Want};

/// Schemas that hold the two tables of a registry.
const REGISTRIES: &str = "
SELECT space.nspname::text FROM pg_namespace AS space
WHERE space.nspname !~ '^pg_'
  AND (SELECT count(*) FROM pg_class AS class WHERE class.relnamespace = space.oid AND class.relkind IN ('r', 'p')
       AND class.relname IN ('registry_instance', 'cluster_metadata')) = 2
ORDER BY 1";

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

/// Live rows without a daemon, and the age of the latest beat in seconds.
const CALLERS: &str = "
SELECT count(*), extract(epoch FROM clock_timestamp() - max(last_heartbeat))::bigint
FROM registry_instance
WHERE status <> 'dead' AND NOT EXISTS (SELECT FROM registry_daemon)";

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Schemas that hold a registry.
    pub registries: Vec<String>,
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
    /// Without a daemon: how many rows live, and how long ago the latest beat was saved.
    pub sql_callers: Option<(i64, Duration)>,
}

/// Reads what is around the registry at `url`.
///
/// # Errors
///
/// [`ExamineError::Connect`].
#[tracing::instrument(level = "debug", name = "db.examine_surroundings", skip_all)]
pub async fn surroundings(url: &str) -> Result<Surroundings, ExamineError> {
    let database = Database::at(url).map_err(ConnectError::from)?;
    let Driven { client, driver, .. } = database.open_driven(Want::Any, Duration::MAX).await?;
    let found = Surroundings {
        registries: column(&client, REGISTRIES).await,
        enums: column(&client, ENUMS).await,
        histories: pairs(&client, HISTORIES).await,
        overloads: pairs(&client, OVERLOADS).await,
        old_transactions: pairs(&client, OLD).await,
        prepared: column(&client, PREPARED).await,
        event_triggers: column(&client, EVENT_TRIGGERS).await,
        sql_callers: sql_callers(&client).await,
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

async fn sql_callers(client: &Client) -> Option<(i64, Duration)> {
    let rows = client.query_typed(CALLERS, &[]).await.ok()?;
    let row = rows.first()?;
    let (count, age): (i64, Option<i64>) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
    Some((count, Duration::from_secs(u64::try_from(age?).unwrap_or_default())))
}
