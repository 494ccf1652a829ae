//! Tells the other daemons whom this one has lost contact with, and learns it from them.
//!
//! Only the daemon that heard the beats knows at once that they stop: its stream broke, or two beats are overdue. To the
//! others the instance looks well until its TTL has passed. So each daemon exchanges what it knows through PostgreSQL:
//! when contact is lost, and once a second in any case, in one call. A beat costs nothing more by it, and saving one
//! neither.
//!
//! A hint and no decision: it only ranks the instance last. It says when the instance was last heard of, so it is
//! withdrawn by any daemon where the instance beats, at its next exchange, and by PostgreSQL when a later beat is saved.
//! A daemon follows a hint only when all others have had the time for that ([`OBJECTIONS`]): a client that beats foreign
//! leases at a daemon where their owners do not, and then breaks off, makes none of them suspect anywhere.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::leases::{Leases, Lost};
use crate::{
    clock::Clock,
    model::{Lease, LeaseId},
    store::{self, Pool},
    telemetry::{Repeated, chain},
};

/// How often what others have told is asked for.
const PERIOD: Duration = Duration::from_secs(1);
/// What breaks together is told together.
const GATHERING: Duration = Duration::from_millis(100);
/// How long the others have to object: each exchanges once in [`PERIOD`] + [`GATHERING`], and its question takes time.
const OBJECTIONS: Duration = Duration::from_millis(1_300);
/// Most leases of one call.
const CHUNK: usize = 5_000;
const TIMEOUT: Duration = Duration::from_secs(2);

/// The task.
#[derive(Debug)]
pub struct Suspicions {
    pool: Pool,
    leases: Arc<Leases>,
    clock: Clock,
    /// With which contact was lost, and no daemon was told yet.
    untold: HashMap<LeaseId, Lost>,
    /// What was told at the last exchange, and this daemon does not object to.
    told: HashMap<LeaseId, Told>,
    trouble: Repeated,
}

/// A lease that some daemon has lost contact with.
#[derive(Debug)]
struct Told {
    lease: Arc<Lease>,
    /// Since when this daemon knows.
    at: Instant,
    /// Whether it counts here as well: no daemon objected in time.
    stands: bool,
}

impl Suspicions {
    /// Exchanges suspicions through this pool.
    #[must_use]
    pub fn new(pool: Pool, leases: Arc<Leases>, clock: Clock) -> Self {
        let (untold, told) = (HashMap::new(), HashMap::new());
        Self { pool, leases, clock, untold, told, trouble: Repeated::default() }
    }

    /// Goes on until told to stop. Hands what became suspect (or recovered) by it to `tell`.
    pub async fn run(mut self, tell: impl Fn(&[Arc<Lease>], bool) + Send + Sync + 'static, stop: CancellationToken) {
        loop {
            let nap = async {
                let _ = timeout(self.wait(), self.leases.losing()).await;
                sleep(GATHERING).await;
            };
            if stop.run_until_cancelled(nap).await.is_none() {
                return;
            }
            self.untold.extend(self.leases.take_lost().into_iter().map(|lost| (lost.lease.id, lost)));
            match self.exchange(&tell).await {
                Ok(()) => {
                    if let Some(over) = self.trouble.works() {
                        let (failures, lasting_ms) = (over.failures, over.lasting_ms());
                        tracing::info!(failures, lasting_ms, "suspicions are exchanged again");
                    }
                }
                Err(error) => {
                    if let Some(told) = self.trouble.failed() {
                        let (error, lasting_ms) = (chain(&error), told.lasting_ms());
                        tracing::warn!(
                            error,
                            failures = told.failures,
                            lasting_ms,
                            "suspicions could not be exchanged"
                        );
                    }
                }
            }
        }
    }

    /// How long to wait for something to tell: until what was told can be followed, if that is sooner than usual.
    fn wait(&self) -> Duration {
        let waiting = self.told.values().filter(|told| !told.stands).map(|told| told.at + OBJECTIONS).min();
        let wait = waiting.map(|due| due.saturating_duration_since(Instant::now()).saturating_sub(GATHERING));
        wait.unwrap_or(PERIOD).min(PERIOD)
    }

    #[tracing::instrument(level = "debug", name = "suspicions.exchange", skip_all)]
    async fn exchange(&mut self, tell: &impl Fn(&[Arc<Lease>], bool)) -> Result<(), store::Error> {
        // Those that were heard of again meanwhile concern no other daemon.
        self.untold.retain(|_, lost| lost.is_lost());
        loop {
            let age_ms = |lease: &Lease| self.clock.now_ms().saturating_sub(lease.here_ms());
            let told: Vec<_> = self.untold.iter().take(CHUNK).map(|(id, lost)| (*id, age_ms(&lost.lease))).collect();
            let suspected = self.ask(&told, &[]).await?;
            for (lease_id, _) in &told {
                self.untold.remove(lease_id);
            }
            if !self.untold.is_empty() {
                continue;
            }
            let heard = self.take_over(suspected, tell);
            // What is withdrawn is taken over by all, this daemon too, at their next exchange.
            for chunk in heard.chunks(CHUNK) {
                self.ask(&[], chunk).await?;
            }
            return Ok(());
        }
    }

    /// The answer: who is suspect, and since when by our own clock.
    async fn ask(&self, lost: &[(LeaseId, u64)], heard: &[LeaseId]) -> Result<Vec<(LeaseId, u64)>, store::Error> {
        // Counted from before the question, so that the way there never makes a suspicion younger than a beat.
        let asked_ms = self.clock.now_ms();
        let suspected = store::suspicion::exchange(&self.pool, lost, heard, Instant::now() + TIMEOUT).await?;
        Ok(suspected.into_iter().map(|(lease_id, age_ms)| (lease_id, asked_ms.saturating_sub(age_ms))).collect())
    }

    /// Takes over what was told. Returns the leases that beat here, to which this daemon objects.
    fn take_over(&mut self, suspected: Vec<(LeaseId, u64)>, tell: &impl Fn(&[Arc<Lease>], bool)) -> Vec<LeaseId> {
        let mut before = std::mem::take(&mut self.told);
        let (now, mut heard) = (Instant::now(), Vec::new());
        for (lease_id, since_ms) in suspected {
            let Some(lease) = self.leases.get(lease_id) else { continue };
            if !lease.agrees(since_ms) {
                heard.push(lease_id);
                continue;
            }
            let at = before.remove(&lease_id).map_or(now, |told| told.at);
            let stands = now >= at + OBJECTIONS;
            if stands {
                lease.mark_suspect();
                self.leases.follow(&lease);
            }
            self.told.insert(lease_id, Told { lease, at, stands });
        }
        // Contact was found again: by this daemon, by another one, or by what was saved.
        let withdrawn: Vec<_> = before.into_values().map(|told| told.lease).collect();
        for lease in &withdrawn {
            lease.clear_suspect();
        }
        let now_ms = self.clock.now_ms();
        let changed = |lease: &&Arc<Lease>, to: bool| lease.suspicion_to_publish(now_ms) == Some(to);
        let stand = self.told.values().filter(|told| told.stands).map(|told| &told.lease);
        let suspect: Vec<_> = stand.filter(|lease| changed(lease, true)).cloned().collect();
        let recovered: Vec<_> = withdrawn.iter().filter(|lease| changed(lease, false)).cloned().collect();
        tell(&suspect, true);
        tell(&recovered, false);
        heard
    }
}
