//! Saves the beats that were heard: at most one write per lease and third of its TTL, sorted, in chunks, off the path
//! of any call.
//!
//! Each tick takes what has beaten since, keeps it until its save is due, and writes what is due. When nothing is, it
//! tells PostgreSQL once a second that this daemon is well: the same call, so that "well" means that saving works.
//!
//! After an outage of more than two seconds expiry is put on hold *before* the first save counts as confirmed, because
//! beats that clients could not deliver meanwhile are no sign of death.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::leases::{FLUSH_PERIOD_MS, Leases};
use crate::{
    clock::Clock,
    metrics::FlushMetrics,
    model::{Lease, lease::LeaseState},
    store::{self, Lane, Pool, expiry::DaemonEntry},
};

/// How often due leases are looked for. Small against the third of the shortest TTL (667 ms).
const TICK: Duration = Duration::from_millis(200);
/// Leases per write. 5,000 rows take around 30 ms, so that nobody waits long for their locks.
const CHUNK: usize = 5_000;
/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// An outage longer than this puts expiry on hold.
const OUTAGE_MS: u64 = 2_000;
/// How long the last save at the end of the daemon may take in all.
const LAST_SAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A daemon, as the others know it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This run of it.
    pub daemon_id: Uuid,
    /// Where it is reached.
    pub address: String,
    /// What it runs.
    pub version: &'static str,
    /// The machine it runs on; empty if unknown.
    pub host: String,
}

impl Identity {
    /// Enters it among the others; expiry is put on hold if there is none.
    ///
    /// # Errors
    /// As [`Pool::run`].
    pub async fn enter(&self, pool: &Pool, deadline: Instant) -> Result<(), store::Error> {
        let Self { daemon_id, address, version, host } = self;
        let entry = DaemonEntry { daemon_id: *daemon_id, address, version, host };
        let held = store::expiry::daemon_started(pool, &entry, deadline).await?;
        if !held.is_zero() {
            tracing::warn!(held_ms = held.as_millis(), "expiry on hold, because beats may not have been heard");
        }
        Ok(())
    }
}

/// The task that saves.
#[derive(Debug)]
pub struct Flusher {
    pool: Pool,
    leases: Arc<Leases>,
    clock: Clock,
    identity: Identity,
    /// Leases to save, by when that is due.
    due: BTreeMap<u64, Vec<Arc<Lease>>>,
    confirmed_ms: u64,
    failing: bool,
    metrics: FlushMetrics,
}

impl Flusher {
    /// A flusher for a daemon.
    #[must_use]
    pub fn new(pool: Pool, leases: Arc<Leases>, clock: Clock, identity: Identity) -> Self {
        let confirmed_ms = clock.now_ms();
        let due = BTreeMap::new();
        Self { pool, leases, clock, identity, due, confirmed_ms, failing: false, metrics: FlushMetrics::new() }
    }

    /// Saves until told to stop, then saves what is left.
    ///
    /// # Errors
    /// None: it goes on through every outage.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.gather();
            let now_ms = self.clock.now_ms();
            let due = self.take_due(now_ms);
            if !due.is_empty() || now_ms >= self.confirmed_ms + FLUSH_PERIOD_MS - 2 * tick_ms() {
                self.save(due, Instant::now() + WRITE_TIMEOUT).await;
            }
            self.report();
        }
        self.gather();
        let left = self.take_due(u64::MAX);
        let count = left.len();
        self.save(left, Instant::now() + LAST_SAVE_TIMEOUT).await;
        tracing::info!(leases = count, failed = self.failing, "saved the last beats");
        Ok(())
    }

    fn gather(&mut self) {
        for lease in self.leases.take_unsaved() {
            self.due.entry(lease.save_due_ms()).or_default().push(lease);
        }
    }

    fn take_due(&mut self, now_ms: u64) -> Vec<Arc<Lease>> {
        let later = self.due.split_off(&now_ms.saturating_add(1));
        let due = std::mem::replace(&mut self.due, later);
        let mut due: Vec<_> = due.into_values().flatten().filter(|lease| lease.state() == LeaseState::Live).collect();
        due.sort_unstable_by_key(|lease| lease.id);
        due
    }

    async fn save(&mut self, due: Vec<Arc<Lease>>, deadline: Instant) {
        if let Err(error) = self.hold_after_outage(deadline).await {
            self.failed(&error);
            self.due.entry(0).or_default().extend(due);
            return;
        }
        let mut chunks = due.chunks(CHUNK);
        let mut chunk = chunks.next().unwrap_or_default();
        loop {
            if let Err(error) = self.save_chunk(chunk, deadline).await {
                self.failed(&error);
                // What was taken is due at once, unless a beat that came meanwhile has queued its lease itself. What
                // was not taken is still marked, so that no beat will ever queue it: it must not be lost here.
                let taken = chunk.iter().filter(|lease| lease.save_failed());
                let again = taken.chain(chunks.flatten()).cloned();
                self.due.entry(0).or_default().extend(again);
                return;
            }
            match chunks.next() {
                Some(next) => chunk = next,
                None => return,
            }
        }
    }

    async fn hold_after_outage(&self, deadline: Instant) -> Result<(), store::Error> {
        if self.clock.now_ms() > self.confirmed_ms + FLUSH_PERIOD_MS + OUTAGE_MS {
            let reason = "the database was away";
            let held = store::expiry::hold_expiry(&self.pool, Lane::Engine, reason, None, deadline).await?;
            tracing::warn!(held_ms = held.as_millis(), "expiry on hold after a database outage");
        }
        Ok(())
    }

    async fn save_chunk(&mut self, chunk: &[Arc<Lease>], deadline: Instant) -> Result<(), store::Error> {
        let heard: Vec<u64> = chunk.iter().map(|lease| lease.take_unsaved()).collect();
        let now_ms = self.clock.now_ms();
        let lease_ids: Vec<i64> = chunk.iter().map(|lease| lease.id.0.cast_signed()).collect();
        let ages_ms: Vec<i64> = heard.iter().map(|heard_ms| now_ms.saturating_sub(*heard_ms).cast_signed()).collect();
        let daemon_id = self.identity.daemon_id;
        if !store::beats::flush(&self.pool, daemon_id, &lease_ids, &ages_ms, deadline).await? {
            tracing::warn!("this daemon was given up and enters anew");
            self.identity.enter(&self.pool, deadline).await?;
        }
        for (lease, heard_ms) in chunk.iter().zip(heard) {
            lease.saved(heard_ms);
        }
        self.confirmed(now_ms, chunk.len());
        Ok(())
    }

    fn confirmed(&mut self, started_ms: u64, leases: usize) {
        if std::mem::take(&mut self.failing) {
            tracing::info!("beats are saved again");
        }
        self.confirmed_ms = started_ms;
        self.leases.save_confirmed(started_ms);
        if leases > 0 {
            let millis = u32::try_from(self.clock.now_ms().saturating_sub(started_ms)).unwrap_or(u32::MAX);
            self.metrics.leases.record(u32::try_from(leases).unwrap_or(u32::MAX));
            self.metrics.seconds.record(f64::from(millis) / 1_000.0);
        }
    }

    fn failed(&mut self, error: &store::Error) {
        self.metrics.failures.increment(1);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(error = %crate::telemetry::chain(error), "beats could not be saved");
        }
    }

    fn report(&self) {
        let lag_ms = u32::try_from(self.leases.save_lag_ms(self.clock.now_ms())).unwrap_or(u32::MAX);
        self.metrics.lag_seconds.set(f64::from(lag_ms) / 1_000.0);
    }
}

fn tick_ms() -> u64 {
    u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX)
}
