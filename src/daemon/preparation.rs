//! What a start needs of the database before the engine runs: the schema, an epoch, and this daemon's row.
//!
//! A database that is away is waited for: after a reboot of a whole fleet PostgreSQL is often the last to answer, and a
//! daemon that ends then is started again in a loop. While the daemon waits, its probes answer and `/readyz` names the
//! cause. What only another configuration can change ends the start at once.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{error::Error, parts::Parts};
use crate::{lifecycle::Condition, migrate, telemetry::chain};

/// How long the calls to PostgreSQL may take each.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often the wait is logged.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// Prepares the database, and waits for it as long as the configuration says. Returns false if the daemon was told to
/// stop before.
///
/// # Errors
///
/// The database cannot be used, or did not answer in time.
pub(super) async fn run(parts: &Parts) -> Result<bool, Error> {
    match parts.lifecycle.stopping().run_until_cancelled(Box::pin(wait(parts))).await {
        Some(outcome) => outcome.map(|()| true),
        None => Ok(false),
    }
}

async fn wait(parts: &Parts) -> Result<(), Error> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut logged_at: Option<Instant> = None;
    loop {
        let Err(error) = prepare(parts).await else { break };
        let is_over = parts.config.start_timeout.is_some_and(|limit| began.elapsed() + pause > limit);
        if error.exit_code() != 3 || is_over {
            return Err(error);
        }
        let error = chain(&error);
        if logged_at.is_none_or(|at| at.elapsed() >= LOG_PERIOD) {
            let waited_s = began.elapsed().as_secs();
            tracing::warn!(error, waited_s, "database unavailable at start, waiting");
            logged_at = Some(Instant::now());
        }
        parts.readiness.set(Condition::Database, false, format!("waiting for the database: {error}"));
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        parts.database.reload();
    }
    if logged_at.is_some() {
        let waited_s = began.elapsed().as_secs();
        tracing::info!(waited_s, "database available, starting");
    }
    parts.readiness.set(Condition::Database, true, "connected");
    Ok(())
}

/// Brings the schema up to date, makes sure of an epoch, and enters this daemon. Safe to repeat.
async fn prepare(parts: &Parts) -> Result<(), Error> {
    if let Some(schema) = parts.config.schema.as_ref().filter(|_| parts.config.migrate) {
        migrate::ensure_schema_in(&parts.database, schema).await?;
    }
    if parts.config.migrate {
        // What it applies and puts back it logs itself.
        migrate::up_in(&parts.database, &parts.name).await?;
    } else {
        migrate::check_in(&parts.database).await?;
    }
    parts.readiness.set(Condition::Schema, true, "up to date");
    parts.database.follow();
    let deadline = Instant::now() + CALL_TIMEOUT;
    parts.identity.begin(&parts.pool, &parts.name, deadline).await.map_err(Error::Database)
}
