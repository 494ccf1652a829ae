//! Which session holds a lock that a migration did not get: what an operator has to end.
//!
//! `pg_locks`, and process, role and application in `pg_stat_activity`, are visible to every role. State and start of other
//! roles' transactions are visible to superusers and members of `pg_read_all_stats`.

use std::fmt::{self, Write as _};

use tokio_postgres::{GenericClient, types::Type};

/// The oldest transaction that holds a lock on a table of the registry. A prepared transaction has no process and is not
/// found.
const OF_TABLES: &str = "
SELECT lock.pid, coalesce(activity.usename, '')::text, coalesce(activity.application_name, ''),
       coalesce(activity.state, ''), extract(epoch FROM clock_timestamp() - activity.xact_start)::bigint,
       'a lock on ' || class.relname
FROM pg_locks AS lock
JOIN pg_class AS class ON class.oid = lock.relation
JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
WHERE lock.granted AND lock.locktype = 'relation' AND lock.pid <> pg_backend_pid()
  AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND class.relnamespace = quote_ident(current_schema())::regnamespace
  AND (class.relname ~ '^(muster|registry)_' OR class.relname = 'cluster_metadata')
ORDER BY activity.xact_start, lock.pid
LIMIT 1";

/// The session that migrates.
const OF_TURN: &str = "
SELECT lock.pid, coalesce(activity.usename, '')::text, coalesce(activity.application_name, ''),
       coalesce(activity.state, ''), extract(epoch FROM clock_timestamp() - activity.xact_start)::bigint,
       'the lock of the migrations'
FROM pg_locks AS lock
JOIN pg_stat_activity AS activity ON activity.pid = lock.pid
WHERE lock.granted AND lock.locktype = 'advisory' AND lock.pid <> pg_backend_pid()
  AND lock.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (lock.classid::bigint << 32 | lock.objid::bigint) = $1
LIMIT 1";

/// A session that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// Its process id, for `pg_terminate_backend`.
    pub pid: i32,
    role: String,
    application: String,
    state: String,
    open_for_s: Option<i64>,
    holds: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, role, application, state, open_for_s, holds } = self;
        let mut about = format!("role {role}");
        if !application.is_empty() {
            let _ = write!(about, ", application {application}");
        }
        if !state.is_empty() {
            let _ = write!(about, ", {state}");
        }
        if let Some(seconds) = open_for_s {
            let _ = write!(about, ", transaction open for {seconds} s");
        }
        write!(formatter, "process {pid} ({about}) holds {holds}")
    }
}

/// The holder of a lock on one of the registry's tables.
pub(crate) async fn of_tables(client: &impl GenericClient) -> Option<Blocker> {
    find(client, OF_TABLES, &[]).await
}

/// The holder of the advisory lock with this key.
pub(crate) async fn of_turn(client: &impl GenericClient, key: i64) -> Option<Blocker> {
    find(client, OF_TURN, &[key]).await
}

/// `None` also if it cannot be found out: the error that it belongs to is reported without it.
async fn find(client: &impl GenericClient, query: &str, keys: &[i64]) -> Option<Blocker> {
    let parameters: Vec<_> =
        keys.iter().map(|key| (key as &(dyn tokio_postgres::types::ToSql + Sync), Type::INT8)).collect();
    let rows = client.query_typed(query, &parameters).await.ok()?;
    let row = rows.first()?;
    Some(Blocker {
        pid: row.try_get(0).ok()?,
        role: row.try_get(1).ok()?,
        application: row.try_get(2).ok()?,
        state: row.try_get(3).ok()?,
        open_for_s: row.try_get(4).ok()?,
        holds: row.try_get(5).ok()?,
    })
}
