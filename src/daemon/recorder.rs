//! Writes refusals and reloads, which have no transaction of their own, beside the decisions in the database, and deletes old
//! decisions.
//!
//! No call waits for it, and what it cannot write stays counted in the ledger, whose size is bounded.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::parts::Parts;
use crate::{
    audit::{Ledger, Record},
    clock::Clock,
    lifecycle::Stage,
    store::{self, Pool, audit::Note},
    telemetry::{Repeated, chain},
};

/// How often the ledger is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last one may take, when the daemon ends.
const LAST_TIMEOUT: Duration = Duration::from_millis(500);
/// How often old decisions are deleted, and how many at once.
const PURGE_PERIOD: Duration = Duration::from_secs(60);
const PURGE_BATCH: i32 = 1_000;

/// The task.
struct Recorder {
    pool: Pool,
    clock: Clock,
    ledger: Ledger,
    /// The daemon, as the entries name it.
    name: Arc<str>,
    keep: Duration,
    trouble: Repeated,
}

/// Starts it.
pub(super) fn start(parts: &Parts, stop: CancellationToken) {
    let Parts { pool, clock, name, config, security, lifecycle, .. } = parts;
    let (pool, name, ledger) = (pool.clone(), Arc::clone(name), security.audit().ledger());
    let (clock, keep) = (*clock, config.keep_audit);
    let recorder = Recorder { pool, clock, ledger, name, keep, trouble: Repeated::default() };
    lifecycle.spawn_essential(Stage::Engine, "record of decisions", recorder.run(stop));
}

impl Recorder {
    async fn run(mut self, stop: CancellationToken) {
        // Not at the start, when everything else connects.
        let mut purge_at = Instant::now() + PURGE_PERIOD;
        loop {
            self.write(false, TIMEOUT).await;
            if Instant::now() >= purge_at {
                let full = self.purge().await;
                purge_at = Instant::now() + if full { PERIOD } else { PURGE_PERIOD };
            }
            if stop.run_until_cancelled(sleep(PERIOD)).await.is_none() {
                // What is lost with the daemon stands nowhere else.
                let _ = timeout(LAST_TIMEOUT, self.write(true, LAST_TIMEOUT)).await;
                return;
            }
        }
    }

    /// Writes what is due.
    async fn write(&mut self, all: bool, limit: Duration) {
        let records = self.ledger.take_due(self.clock.now_ms(), all);
        if records.is_empty() {
            return;
        }
        let notes: Vec<Note> = records.iter().map(|record| self.note(record)).collect();
        let Err(error) = store::audit::note(&self.pool, &notes, Instant::now() + limit).await else {
            if let Some(over) = self.trouble.works() {
                tracing::info!(failures = over.failures, lasting_ms = over.lasting_ms(), "refusals are recorded again");
            }
            return;
        };
        // What PostgreSQL refuses, it refuses again.
        let is_lost = matches!(error, store::Error::Refused(_));
        if let Some(told) = self.trouble.failed() {
            let (entries, error, lasting_ms) = (records.len(), chain(&error), told.lasting_ms());
            tracing::warn!(
                entries,
                is_lost,
                error,
                failures = told.failures,
                lasting_ms,
                "refusals could not be recorded"
            );
        }
        if !is_lost {
            self.ledger.give_back(records);
        }
    }

    fn note(&self, record: &Record) -> Note {
        let Record { action, by, object, detail, count } = record.clone();
        let is_own = action == "reload";
        let (by, mut detail) = (if is_own { self.name.to_string() } else { by }, detail);
        if !is_own {
            detail.insert("daemon", self.name.to_string());
        }
        Note { action, by, object, detail, count }
    }

    /// Deletes old decisions. Returns whether there may be more.
    async fn purge(&self) -> bool {
        match store::audit::purge(&self.pool, self.keep, PURGE_BATCH, Instant::now() + TIMEOUT).await {
            Ok(purged) => purged >= u64::from(PURGE_BATCH.unsigned_abs()),
            // That the database is away is reported by the feed.
            Err(error) => {
                tracing::debug!(%error, "decisions could not be deleted");
                false
            }
        }
    }
}
