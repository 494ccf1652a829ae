//! What there is to know about a PostgreSQL before a registry is trusted to it: for the doctor, `musterd check`.
//!
//! Reads only, and needs no more rights than to connect; what a user may not see is `None`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    Error,
    connect::{self, ConnectError},
    feed,
    row::unsigned,
};
use crate::clock::Clock;

/// How long a notification may be on its way.
const DOORBELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long each question may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

const SERVER: &str = "
    SELECT current_setting('server_version'), pg_is_in_recovery(), current_setting('fsync') = 'on',
           current_setting('full_page_writes') = 'on', current_setting('synchronous_commit'),
           current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint,
           (SELECT coalesce(sum(numbackends), 0)::bigint FROM pg_stat_database)";

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
    /// When a commit counts as done, for the user of the URL: `on`, `off`, `local`, ...
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

/// Examines the PostgreSQL at `url`.
///
/// # Errors
///
/// Any [`ExamineError`].
pub async fn examine(url: &str) -> Result<Examined, ExamineError> {
    let (client, driver) = connect::connect(url).await?;
    let server = soon(client.query_one(SERVER, &[])).await?;
    let asked = Instant::now();
    soon(client.simple_query("SELECT 1")).await?;
    let latency = asked.elapsed();
    // Without the schema these fail, which is told elsewhere.
    let clock = soon(client.query_one("SELECT muster_now()", &[])).await.ok();
    let clock: Option<DateTime<Utc>> = clock.and_then(|row| row.try_get(0).ok());
    let clock_ahead = clock.map(|shown| shown - Clock::new().wall());
    let history = soon(client.query_opt("SELECT history_id FROM cluster_metadata WHERE id = 1", &[])).await;
    let notifies = if clock_ahead.is_some() { notifies(url, &client).await.ok() } else { None };
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
        history_id: history.ok().flatten().and_then(|row| row.try_get(0).ok()),
        notifies,
    };
    drop(client);
    driver.abort();
    Ok(examined)
}

async fn soon<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, ExamineError> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ExamineError::Silent),
    }
}

/// Whether a listening connection hears the doorbell. Daemons hear it too, look once more, and find nothing new.
async fn notifies(url: &str, client: &Client) -> Result<bool, Error> {
    let listener = feed::Connection::open(url).await?;
    client.execute("SELECT pg_notify('muster', revision::text) FROM cluster_metadata WHERE id = 1", &[]).await?;
    Ok(timeout(DOORBELL_TIMEOUT, listener.rung()).await.is_ok())
}
