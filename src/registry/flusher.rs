//! Saves the beats that were heard: at most one write per lease and third of its TTL, sorted, in chunks, off the path
//! of any call.
//!
//! Each tick takes what has beaten since, keeps it until its save is due, and writes what is due. When nothing is, it
//! tells PostgreSQL twice a second that this daemon is well: the same call, so that "well" means that saving works.
//!
//! With the last write of what was gathered goes a promise: *everything I had heard by then is saved*, where "then" is
//! the database clock as it was read before the gathering. No lease expires whose deadline is later than what
//! every daemon has promised, so no beat that was acknowledged in time can come too late, however slow the way is.
//! Saving counts as confirmed when everything that was due is written, not when some of it is: while it is late, no
//! reaper of this daemon runs, and beats are refused in the end ([`Leases::save_lag_ms`]).
//!
//! After an outage of more than two seconds expiry is put on hold *before* the first save counts as confirmed, because
//! beats that clients could not deliver meanwhile are no sign of death.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    health::Health,
    leases::{FLUSH_PERIOD_MS, Leases},
};
use crate::{
    clock::{
        Clock,
        gap::{Outage, Silence},
    },
    metrics::FlushMetrics,
    model::{Lease, lease::LeaseState},
    store::{self, Pool, expiry::DaemonEntry},
    telemetry::{Repeated, chain},
};

/// How often due leases are looked for. Small against the third of the shortest TTL (667 ms).
const TICK: Duration = Duration::from_millis(200);
/// How often PostgreSQL is told that all is well when there is nothing to save. It bounds how much later than its
/// deadline a death is declared.
const IDLE_PERIOD_MS: u64 = 500;
/// Leases per write. 5,000 rows take around 30 ms, so that no session waits long for their locks.
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
        self.entered(None, pool, deadline).await
    }

    /// Makes sure that there is an epoch, begun by `by` if there is none, and enters this daemon.
    ///
    /// # Errors
    /// As [`Pool::run`].
    pub async fn begin(&self, pool: &Pool, by: &str, deadline: Instant) -> Result<(), store::Error> {
        self.entered(Some(by), pool, deadline).await
    }

    async fn entered(&self, epoch_by: Option<&str>, pool: &Pool, deadline: Instant) -> Result<(), store::Error> {
        let Self { daemon_id, address, version, host } = self;
        let entry = DaemonEntry { daemon_id: *daemon_id, address, version, host };
        let held = store::expiry::daemon_started(pool, epoch_by, &entry, deadline).await?;
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
    /// Everything that was due at this time is saved.
    confirmed_ms: u64,
    /// Since PostgreSQL last took a write.
    silence: Silence,
    /// The database clock, as that write was answered: earlier than whatever is gathered from then on.
    read_at: Option<DateTime<Utc>>,
    trouble: Repeated,
    health: Arc<Health>,
    metrics: FlushMetrics,
}

impl Flusher {
    /// A flusher for a daemon.
    #[must_use]
    pub fn new(pool: Pool, leases: Arc<Leases>, clock: Clock, identity: Identity, health: Arc<Health>) -> Self {
        let confirmed_ms = clock.now_ms();
        let (due, metrics) = (BTreeMap::new(), FlushMetrics::new());
        let (silence, read_at, trouble) = (Silence::begin(confirmed_ms), None, Repeated::default());
        Self { pool, leases, clock, identity, due, confirmed_ms, silence, read_at, trouble, health, metrics }
    }

    /// Saves until told to stop, then saves what is left.
    ///
    /// # Errors
    /// None: it goes on through every outage.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waits_since_ms = self.clock.now_ms();
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.silence.waited(waits_since_ms, self.clock.now_ms(), TICK);
            self.gather();
            let now_ms = self.clock.now_ms();
            let due = self.take_due(now_ms);
            if !due.is_empty() || now_ms >= self.confirmed_ms + IDLE_PERIOD_MS {
                self.save(due, None, &stop).await;
            }
            self.report();
            waits_since_ms = self.clock.now_ms();
        }
        self.gather();
        let left = self.take_due(u64::MAX);
        let count = left.len();
        self.save(left, Some(Instant::now() + LAST_SAVE_TIMEOUT), &CancellationToken::new()).await;
        tracing::info!(leases = count, failed = self.trouble.is_failing(), "saved the last beats");
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

    /// Saves all of it, however long that takes: a part left for the next time would wait behind lower ids again and
    /// again. What is left when a write fails, when told to stop, or by `until`, is due at once.
    #[tracing::instrument(level = "debug", name = "flusher.save", skip_all)]
    async fn save(&mut self, due: Vec<Arc<Lease>>, until: Option<Instant>, stop: &CancellationToken) {
        if self.health.permit_change().is_err() {
            // As while the database is away: what waits for too long makes this daemon refuse beats, and the others, which
            // miss its word that it saves, give each lease its TTL once more.
            self.due.entry(0).or_default().extend(due);
            return;
        }
        let gathered_ms = self.clock.now_ms();
        let saved_up_to = self.read_at;
        if let Err(error) = self.hold_after_outage(until.unwrap_or_else(write_deadline)).await {
            self.failed(&error);
            self.due.entry(0).or_default().extend(due);
            return;
        }
        let mut chunks = due.chunks(CHUNK);
        let mut chunk = chunks.next().unwrap_or_default();
        loop {
            // Only the last one completes what was gathered.
            let completes = saved_up_to.filter(|_| chunks.len() == 0);
            let saved = self.save_chunk(chunk, completes, until.unwrap_or_else(write_deadline)).await;
            if let Err(error) = &saved {
                self.failed(error);
            }
            if saved.is_err() || (stop.is_cancelled() && chunks.len() > 0) {
                // What was taken is due at once, unless a beat that came meanwhile has queued its lease itself. What
                // was not taken is still marked, so that no beat will ever queue it: it must not be lost here.
                let failed = if saved.is_err() { chunk } else { &[] };
                let again = failed.iter().filter(|lease| lease.save_failed()).chain(chunks.flatten()).cloned();
                self.due.entry(0).or_default().extend(again);
                return;
            }
            match chunks.next() {
                Some(next) => chunk = next,
                None => return self.confirmed(gathered_ms),
            }
        }
    }

    async fn hold_after_outage(&self, deadline: Instant) -> Result<(), store::Error> {
        let reason = match self.silence.cause(self.clock.now_ms(), FLUSH_PERIOD_MS + OUTAGE_MS) {
            None => return Ok(()),
            Some(Outage::Database) => "the database was away",
            Some(Outage::Daemon) => "a daemon was paused",
        };
        let held = store::expiry::note_disruption(&self.pool, reason, deadline).await?;
        tracing::warn!(reason, held_ms = held.as_millis(), "expiry on hold, because beats could not be saved");
        Ok(())
    }

    async fn save_chunk(
        &mut self,
        chunk: &[Arc<Lease>],
        saved_up_to: Option<DateTime<Utc>>,
        deadline: Instant,
    ) -> Result<(), store::Error> {
        let heard: Vec<u64> = chunk.iter().map(|lease| lease.take_unsaved()).collect();
        let now_ms = self.clock.now_ms();
        let lease_ids: Vec<i64> = chunk.iter().map(|lease| lease.id.0.cast_signed()).collect();
        let ages_ms: Vec<i64> = heard.iter().map(|heard_ms| now_ms.saturating_sub(*heard_ms).cast_signed()).collect();
        let daemon_id = self.identity.daemon_id;
        let asked = Instant::now();
        let flushed = store::beats::flush(&self.pool, daemon_id, &lease_ids, &ages_ms, saved_up_to, deadline).await;
        if flushed.is_ok() {
            self.silence = Silence::begin(now_ms);
        }
        self.silence.waited(now_ms, self.clock.now_ms(), WRITE_TIMEOUT);
        let flushed = flushed?;
        self.health.saved(asked.elapsed());
        for (lease, heard_ms) in chunk.iter().zip(heard) {
            lease.saved(heard_ms);
        }
        self.answered(now_ms, chunk.len(), flushed.read_at);
        if !flushed.entered {
            tracing::warn!("evicted by the cluster, rejoining");
            self.identity.enter(&self.pool, deadline).await?;
        }
        Ok(())
    }

    /// PostgreSQL has taken a write.
    fn answered(&mut self, asked_ms: u64, leases: usize, read_at: DateTime<Utc>) {
        if let Some(over) = self.trouble.works() {
            tracing::info!(failures = over.failures, lasting_ms = over.lasting_ms(), "beats are saved again");
        }
        self.read_at = Some(read_at);
        if leases > 0 {
            let millis = u32::try_from(self.clock.now_ms().saturating_sub(asked_ms)).unwrap_or(u32::MAX);
            self.metrics.leases.record(u32::try_from(leases).unwrap_or(u32::MAX));
            self.metrics.seconds.record(f64::from(millis) / 1_000.0);
        }
    }

    /// Everything that was due at `gathered_ms` is saved.
    fn confirmed(&mut self, gathered_ms: u64) {
        self.confirmed_ms = gathered_ms;
        self.leases.save_confirmed(gathered_ms);
    }

    fn failed(&mut self, error: &store::Error) {
        self.metrics.failures.increment(1);
        if let Some(told) = self.trouble.failed() {
            let (error, lasting_ms) = (chain(error), told.lasting_ms());
            tracing::warn!(error, failures = told.failures, lasting_ms, "beats could not be saved");
        }
    }

    fn report(&self) {
        let lag_ms = u32::try_from(self.leases.save_lag_ms(self.clock.now_ms())).unwrap_or(u32::MAX);
        self.metrics.lag_seconds.set(f64::from(lag_ms) / 1_000.0);
    }
}

fn write_deadline() -> Instant {
    Instant::now() + WRITE_TIMEOUT
}
