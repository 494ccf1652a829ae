//! Writes refusals and reloads, which have no transaction of their own, beside the decisions in the database.
//!
//! No call waits for it, and what it cannot write stays counted in the ledger, whose size is bounded.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::parts::Parts;
use crate::{
    audit::Ledger,
    clock::Clock,
    lifecycle::Stage,
    model::{Note, NoteAction},
    registry::Health,
    store::{self, Pool},
    telemetry::{Repeated, chain},
};

/// How often the ledger is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last one may take, when the daemon ends.
const LAST_TIMEOUT: Duration = Duration::from_millis(500);

/// The task that writes them.
struct Recorder {
    pool: Pool,
    clock: Clock,
    health: Arc<Health>,
    ledger: Ledger,
    /// The daemon, as the entries name it.
    name: Arc<str>,
    trouble: Repeated,
}

/// Starts it.
pub(super) fn start(parts: &Parts, stop: CancellationToken) {
    let Parts { pool, clock, health, name, security, lifecycle, .. } = parts;
    let (pool, health, name, ledger) = (pool.clone(), health.clone(), Arc::clone(name), security.audit().ledger());
    let recorder = Recorder { pool, clock: *clock, health, ledger, name, trouble: Repeated::default() };
    lifecycle.spawn_essential(Stage::Engine, "record of decisions", recorder.run(stop));
}

impl Recorder {
    /// Writes until told to stop, and then what is left.
    async fn run(mut self, stop: CancellationToken) {
        loop {
            self.write(false, TIMEOUT).await;
            if stop.run_until_cancelled(sleep(PERIOD)).await.is_none() {
                // What is lost with the daemon stands nowhere else.
                return self.write(true, LAST_TIMEOUT).await;
            }
        }
    }

    /// Writes what is due, within `limit`.
    async fn write(&mut self, all: bool, limit: Duration) {
        if self.health.permit_change().is_err() {
            return;
        }
        let due = self.ledger.take_due(self.clock.now_ms(), all);
        if due.is_empty() {
            return;
        }
        let notes: Vec<Note> = due.iter().map(|note| self.signed(note.clone())).collect();
        let Err(error) = store::audit::note(&self.pool, &notes, Instant::now() + limit).await else {
            if let Some(over) = self.trouble.works() {
                tracing::info!(failures = over.failures, lasting_ms = over.lasting_ms(), "refusals are recorded again");
            }
            return;
        };
        // What PostgreSQL refuses, it refuses again.
        let is_lost = matches!(error, store::Error::Refused(_));
        if let Some(told) = self.trouble.failed() {
            let (entries, error) = (due.len(), chain(&error));
            let (failures, lasting_ms) = (told.failures, told.lasting_ms());
            tracing::warn!(entries, is_lost, error, failures, lasting_ms, "refusals could not be recorded");
        }
        if !is_lost {
            self.ledger.give_back(due);
        }
    }

    /// An entry that names this daemon.
    fn signed(&self, mut note: Note) -> Note {
        match note.action {
            NoteAction::Reload => note.by = self.name.to_string(),
            NoteAction::Denied => drop(note.detail.insert("daemon", self.name.to_string())),
        }
        note
    }
}
