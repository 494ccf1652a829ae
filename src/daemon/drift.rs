//! Compares the functions of the registry with those of this binary, and puts them back, while the daemon runs.
//!
//! A deployment of SeedCore restores its own functions at any time: its `beat` renews what has ended, and its expiry knows
//! neither TTL nor hold. A newer binary may also migrate the database, and say that this one must not change it any more:
//! then the daemon refuses changes. Until they are put back the trigger of the table keeps the worst away (`muster_stamp_row`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::parts::Parts;
use crate::{
    lifecycle::{Condition, Readiness, Stage},
    metrics::SchemaMetrics,
    migrate::{self, Drift},
    postgres::{Database, Pool},
    registry::{Health, health::SchemaState},
    telemetry::{Repeated, chain},
};

/// How often the history of migrations is read: a schema that is too new must stop changes within 5 s.
const PERIOD: Duration = Duration::from_secs(2);
/// In so many of these periods the objects are compared once: two comparisons fit into 15 s.
const PERIODS: u32 = 3;
/// How long a comparison may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Starts to compare.
pub(super) fn start(parts: &Parts, stop: CancellationToken) {
    let comparing = run(Comparison::of(parts), stop);
    parts.lifecycle.spawn_essential(Stage::Engine, "comparison of the schema", comparing);
}

/// What the comparison needs of the daemon.
struct Comparison {
    database: Database,
    pool: Pool,
    readiness: Readiness,
    health: Arc<Health>,
    /// As whose doing it is recorded.
    name: Arc<str>,
    /// Whether what differs is put back.
    restores: bool,
}

/// Compares until told to stop, and puts back what differs.
///
/// # Errors
/// None: it goes on through every outage.
async fn run(comparison: Comparison, stop: CancellationToken) -> Result<(), Infallible> {
    let (metrics, mut trouble) = (SchemaMetrics::new(), Repeated::default());
    let mut round = 0_u32;
    while stop.run_until_cancelled(sleep(PERIOD)).await.is_some() {
        round = (round + 1) % PERIODS;
        let comparing = comparison.compare(round == 0, &metrics, &mut trouble);
        if stop.run_until_cancelled(Box::pin(comparing)).await.is_none() {
            break;
        }
    }
    Ok(())
}

impl Comparison {
    /// Of this daemon.
    fn of(parts: &Parts) -> Self {
        let Parts { database, pool, readiness, health, config, .. } = parts;
        let (database, pool, readiness) = (database.clone(), pool.clone(), readiness.clone());
        let (health, name) = (Arc::clone(health), Arc::clone(&parts.name));
        Self { database, pool, readiness, health, name, restores: config.migrate }
    }

    /// Reads how the schema stands; the objects too if it is not newer and `objects` is set.
    async fn compare(&self, objects: bool, metrics: &SchemaMetrics, trouble: &mut Repeated) {
        let deadline = Instant::now() + TIMEOUT;
        let read = match migrate::newer(&self.pool, deadline).await {
            Ok(None) if objects => migrate::drift(&self.pool, deadline).await,
            Ok(None) if self.health.schema_state().refused.is_none() => return,
            // Migrations were taken back, as no tool of ours does: what was refused is allowed again.
            Ok(None) => Ok(Drift::Objects(Vec::new())),
            Ok(Some(drift)) => Ok(drift),
            Err(error) => Err(error),
        };
        metrics.ahead.set(f64::from(u8::from(matches!(read, Ok(Drift::Ahead(_) | Drift::Refused(_))))));
        let objects = match read {
            Ok(Drift::Objects(objects)) => {
                self.health.set_schema_state(SchemaState { drift: objects.clone(), ..SchemaState::default() });
                objects
            }
            Ok(Drift::Ahead(version)) => {
                self.health.set_schema_state(SchemaState { ahead: Some(version), ..SchemaState::default() });
                Vec::new()
            }
            Ok(Drift::Refused(error)) => {
                let error = chain(&error);
                self.health.set_schema_state(SchemaState { refused: Some(error.clone()), ..SchemaState::default() });
                self.readiness.set(Condition::Schema, false, error.clone());
                if let Some(told) = trouble.failed() {
                    tracing::error!(error, lasting_ms = told.lasting_ms(), "schema is too new for this daemon");
                }
                return;
            }
            // That the database is away is reported by the feed.
            Err(error) => return tracing::debug!(error = chain(&error), "schema could not be compared"),
        };
        self.readiness.set(Condition::Schema, true, "up to date");
        metrics.drift.set(f64::from(u32::try_from(objects.len()).unwrap_or(u32::MAX)));
        if objects.is_empty() {
            if let Some(over) = trouble.works() {
                tracing::info!(
                    failures = over.failures,
                    lasting_ms = over.lasting_ms(),
                    "schema is as it should be again"
                );
            }
            return;
        }
        let error = match self.restores {
            false => "this daemon was started with --no-migrate".to_owned(),
            true => match migrate::restore_in(&self.database, &self.name).await {
                Ok(()) => return,
                Err(error) => chain(&error),
            },
        };
        if let Some(told) = trouble.failed() {
            let (failures, lasting_ms) = (told.failures, told.lasting_ms());
            tracing::warn!(?objects, error, failures, lasting_ms, "schema objects differ and were not restored");
        }
    }
}
