//! Tells the other daemons whom this one has lost contact with, and learns it from them.
//!
//! Only the daemon that heard the beats knows at once that they stop: its stream broke, or two beats are overdue. To the
//! others the instance looks well until its TTL has passed. So each daemon exchanges what it knows through PostgreSQL:
//! when contact is lost, and once a second in any case, in one call. A beat costs nothing more by it, and saving one
//! neither.
//!
//! A hint and no decision: it only ranks the instance last. It says when the instance was last heard of, so it is
//! withdrawn by any daemon that has heard of it later, at its next exchange, and by PostgreSQL when a later beat is saved.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Leases;
use crate::{
    clock::Clock,
    model::{Lease, LeaseId, lease::LeaseState},
    store::{self, Pool},
    telemetry::chain,
};

/// How often what others have told is asked for.
const PERIOD: Duration = Duration::from_secs(1);
/// What breaks together is told together.
const GATHERING: Duration = Duration::from_millis(100);
/// Most leases of one call.
const CHUNK: usize = 5_000;
const TIMEOUT: Duration = Duration::from_secs(2);

/// The task.
#[derive(Debug)]
pub struct Suspicions {
    pool: Pool,
    leases: Arc<Leases>,
    clock: Clock,
    /// With whom contact was lost, and nobody was told yet.
    untold: HashMap<LeaseId, Arc<Lease>>,
    /// Who was suspect by what was told at the last exchange.
    standing: HashMap<LeaseId, Arc<Lease>>,
    failing: bool,
}

impl Suspicions {
    /// Exchanges suspicions through this pool.
    #[must_use]
    pub fn new(pool: Pool, leases: Arc<Leases>, clock: Clock) -> Self {
        let (untold, standing) = (HashMap::new(), HashMap::new());
        Self { pool, leases, clock, untold, standing, failing: false }
    }

    /// Goes on until told to stop. Hands what became suspect (or recovered) by it to `tell`.
    pub async fn run(mut self, tell: impl Fn(&[Arc<Lease>], bool) + Send + Sync + 'static, stop: CancellationToken) {
        loop {
            let nap = async {
                let _ = timeout(PERIOD, self.leases.losing()).await;
                sleep(GATHERING).await;
            };
            if stop.run_until_cancelled(nap).await.is_none() {
                return;
            }
            self.untold.extend(self.leases.take_lost().into_iter().map(|lease| (lease.id, lease)));
            match self.exchange(&tell).await {
                Ok(()) => self.failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::debug!(error = %chain(&error), "suspicions could not be exchanged");
                    }
                }
            }
        }
    }

    async fn exchange(&mut self, tell: &impl Fn(&[Arc<Lease>], bool)) -> Result<(), store::Error> {
        let now_ms = self.clock.now_ms();
        // Whoever was heard of again meanwhile is nobody's concern.
        self.untold.retain(|_, lease| lease.state() == LeaseState::Live && lease.is_suspect(now_ms));
        loop {
            let age_ms = |lease: &Lease| self.clock.now_ms().saturating_sub(lease.here_ms());
            let told: Vec<_> = self.untold.iter().take(CHUNK).map(|(id, lease)| (*id, age_ms(lease))).collect();
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

    /// Takes over who is suspect. Returns of whom this daemon has heard since.
    fn take_over(&mut self, suspected: Vec<(LeaseId, u64)>, tell: &impl Fn(&[Arc<Lease>], bool)) -> Vec<LeaseId> {
        let (mut standing, mut heard) = (HashMap::with_capacity(suspected.len()), Vec::new());
        for (lease_id, since_ms) in suspected {
            let Some(lease) = self.leases.get(lease_id) else { continue };
            if lease.doubt(since_ms) {
                self.leases.follow(&lease);
                standing.insert(lease_id, lease);
            } else {
                heard.push(lease_id);
            }
        }
        let before = std::mem::replace(&mut self.standing, standing);
        let withdrawn: Vec<_> =
            before.into_iter().filter(|(lease_id, _)| !self.standing.contains_key(lease_id)).collect();
        for (_, lease) in &withdrawn {
            lease.trust();
        }
        let now_ms = self.clock.now_ms();
        let changed = |lease: &&Arc<Lease>, to: bool| lease.suspicion_to_tell(now_ms) == Some(to);
        let suspect: Vec<_> = self.standing.values().filter(|lease| changed(lease, true)).cloned().collect();
        let recovered: Vec<_> =
            withdrawn.iter().map(|(_, lease)| lease).filter(|lease| changed(lease, false)).cloned().collect();
        tell(&suspect, true);
        tell(&recovered, false);
        heard
    }
}
