//! What there is to know about a PostgreSQL before a registry is trusted to it: for the doctor, `musterd check`.
//!
//! Reads only, and needs no more rights than to connect; what a user may not see is `None`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, Row, error::SqlState};
use uuid::Uuid;

use super::{Error, feed, row::unsigned};
use crate::{
    clock::Clock,
    postgres::{connect::ConnectError, database::Database, kept::Driven, server::Want},
};

/// How long a notification may be on its way.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long each question may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

const SERVER: &str = "
    SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('fsync') = 'on',
           current_setting('full_page_writes') = 'on',
           (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit'),
           current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint,
           (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database),
           current_user::text, current_database()::text, coalesce(current_schema()::text, '')";

/// A change as every change of membership begins, and its end: nothing is left of it.
const WRITE: &str = "
    BEGIN READ WRITE;
    SET LOCAL lock_timeout = '1s';
    SET LOCAL statement_timeout = '2s';
    UPDATE cluster_metadata SET updated_at = updated_at WHERE id = 1;
    ROLLBACK";

/// Settings that change what the SQL functions do for their callers. The daemon sets them in its own sessions, so what
/// others inherit is the value that a RESET would give.
const INHERITED: &str = "
    SELECT current_user::text, name, reset_val FROM pg_settings
    WHERE name = ANY ($1) AND reset_val IS NOT NULL
    UNION ALL
    SELECT role.rolname::text, split_part(setting, '=', 1), substr(setting, position('=' IN setting) + 1)
    FROM pg_db_role_setting AS given
    JOIN pg_roles AS role ON role.oid = given.setrole
    CROSS JOIN unnest(given.setconfig) AS setting
    WHERE given.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND role.rolname <> current_user AND role.rolcanlogin
      AND split_part(setting, '=', 1) = ANY ($1)
      AND EXISTS (SELECT FROM pg_proc WHERE proname = 'register_instance'
                  AND pronamespace = quote_ident(current_schema())::regnamespace
                  AND has_function_privilege(role.oid, pg_proc.oid, 'EXECUTE'))
    ORDER BY 1, 2";

/// Names of the settings of [`INHERITED`].
const SETTINGS: [&str; 8] = [
    "default_transaction_isolation",
    "default_transaction_read_only",
    "lock_timeout",
    "search_path",
    "session_replication_role",
    "statement_timeout",
    "synchronous_commit",
    "transaction_timeout",
];

/// A setting as sessions of a role inherit it, from the server, the database or the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The role.
    pub role: String,
    /// Name of the setting.
    pub name: String,
    /// Its value: as the server shows it, or as it was given for the role.
    pub value: String,
}

/// What a PostgreSQL says of itself.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Its version, for example `15.3 (Debian 15.3-1)`.
    pub version: String,
    /// Whether it is a standby, which takes no writes.
    pub is_standby: bool,
    /// Whether it forces what it writes to the disk.
    pub fsync: bool,
    /// Whether it survives a torn page.
    pub full_page_writes: bool,
    /// When a commit counts as done, for sessions of the user of the URL: `on`, `off`, `local`, ...
    pub synchronous_commit: String,
    /// Connections that others than superusers may have.
    pub connections_max: u64,
    /// Connections there are, this one included.
    pub connections: u64,
    /// How long a trivial question took.
    pub latency: Duration,
    /// By how much the registry's clock is ahead of this machine's; `None` without the schema.
    pub clock_ahead: Option<TimeDelta>,
    /// Which history it holds; `None` without the schema, or before the first epoch.
    pub history_id: Option<Uuid>,
    /// Whether a notification arrives; `None` where it could not be tried.
    pub notifies: Option<bool>,
    /// How long a change took that was rolled back, or why it failed; `None` where the role may not write to the table itself,
    /// or there is none.
    pub written: Option<Result<Duration, String>>,
    /// The role of the session.
    pub role: String,
    /// The database.
    pub database: String,
    /// The schema of the registry, or where it would be made; empty if there is none.
    pub schema: String,
    /// Settings that SQL callers inherit.
    pub inherited: Vec<Inherited>,
    /// What the role may not read of the registry, in the server's words.
    pub denied: Vec<String>,
}

/// Why it could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or the server refused an answer.
    #[error("postgresql does not answer: {0}")]
    Query(#[from] tokio_postgres::Error),
    /// The server takes the connection and then says nothing.
    #[error("postgresql says nothing for {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
}

/// Examines the PostgreSQL at `url`, and the registry in `schema`; without it, where it is found.
///
/// # Errors
///
/// Any [`ExamineError`].
#[tracing::instrument(level = "debug", name = "db.examine", skip_all)]
pub async fn examine(url: &str, schema: Option<&str>) -> Result<Examined, ExamineError> {
    let database = Database::at(url, schema).map_err(ConnectError::from)?;
    let Driven { client, driver, .. } = database.open_driven(Want::Any, Duration::MAX).await?;
    let server = soon(client.query_one(SERVER, &[])).await?;
    let asked = Instant::now();
    soon(client.simple_query("SELECT 1")).await?;
    let latency = asked.elapsed();
    // Without the schema these fail, which is told elsewhere; a right that is missing is not.
    let mut denied = Vec::new();
    let clock = allowed(soon(client.query_one("SELECT muster_now()", &[])).await, &mut denied);
    let clock: Option<DateTime<Utc>> = clock.and_then(|row| row.try_get(0).ok());
    let clock_ahead = clock.map(|shown| shown - Clock::new().wall());
    let history = client.query_opt("SELECT history_id FROM cluster_metadata WHERE id = 1", &[]);
    let history = allowed(soon(history).await, &mut denied);
    allowed(soon(client.query("SELECT FROM registry_instance LIMIT 1", &[])).await, &mut denied);
    let notifies = if clock_ahead.is_some() { notifies(&database, &client).await.ok() } else { None };
    let written = written(&client).await;
    let names: &[&str] = &SETTINGS;
    let inherited = soon(client.query(INHERITED, &[&names])).await?;
    let inherited = inherited.iter().map(inherited_row).collect::<Result<_, _>>()?;
    let examined = Examined {
        version: server.try_get(0)?,
        is_standby: server.try_get(1)?,
        fsync: server.try_get(2)?,
        full_page_writes: server.try_get(3)?,
        synchronous_commit: server.try_get(4)?,
        connections_max: unsigned(server.try_get(5)?),
        connections: unsigned(server.try_get(6)?),
        latency,
        clock_ahead,
        history_id: history.flatten().and_then(|row| row.try_get(0).ok()),
        notifies,
        written,
        role: server.try_get(7)?,
        database: server.try_get(8)?,
        schema: server.try_get(9)?,
        inherited,
        denied,
    };
    drop(client);
    driver.abort();
    Ok(examined)
}

/// The answer, if there is one. That it was denied is noted: it must not pass for one that is empty.
fn allowed<T>(answer: Result<T, ExamineError>, denied: &mut Vec<String>) -> Option<T> {
    if let Err(ExamineError::Query(error)) = &answer
        && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    {
        denied.extend(error.as_db_error().map(|refusal| refusal.message().replace('\n', " ")));
    }
    answer.ok()
}

/// Writes what is rolled back. That the server is a standby, or read-only for this role, is told elsewhere.
async fn written(client: &Client) -> Option<Result<Duration, String>> {
    let began = Instant::now();
    let outcome = soon(client.batch_execute(WRITE)).await;
    let took = began.elapsed();
    if outcome.is_err() {
        // The transaction may still be open, as one that has failed.
        let _ = soon(client.batch_execute("ROLLBACK")).await;
    }
    let error = match outcome {
        Ok(()) => return Some(Ok(took)),
        Err(ExamineError::Query(error)) => error,
        Err(error) => return Some(Err(error.to_string())),
    };
    let Some(refusal) = error.as_db_error() else { return Some(Err(error.to_string())) };
    match *refusal.code() {
        SqlState::INSUFFICIENT_PRIVILEGE | SqlState::UNDEFINED_TABLE | SqlState::READ_ONLY_SQL_TRANSACTION => None,
        SqlState::LOCK_NOT_AVAILABLE | SqlState::QUERY_CANCELED => {
            Some(Err("a session has locked the row that every change begins with, for more than 1 s".to_owned()))
        }
        _ => Some(Err(refusal.message().replace('\n', " "))),
    }
}

fn inherited_row(row: &Row) -> Result<Inherited, tokio_postgres::Error> {
    Ok(Inherited { role: row.try_get(0)?, name: row.try_get(1)?, value: row.try_get(2)? })
}

async fn soon<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, ExamineError> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ExamineError::Silent),
    }
}

/// Whether a listening connection receives notifications. Daemons receive this one too, query once more, and find nothing new.
async fn notifies(database: &Database, client: &Client) -> Result<bool, Error> {
    let listener = feed::Connection::open(database).await?;
    client.execute("SELECT pg_notify('muster', revision::text) FROM cluster_metadata WHERE id = 1", &[]).await?;
    Ok(timeout(NOTIFICATION_TIMEOUT, listener.notified()).await.is_ok())
}
