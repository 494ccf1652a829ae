//! Learns of beats that arrived at another daemon or through SQL.
//!
//! Such a lease looks overdue here. Once a second, PostgreSQL is asked about exactly those; a fleet that beats at this
//! daemon costs nothing. Nothing but suspicion depends on it: the database alone decides deaths. The same look tells whose
//! suspicion has changed, and whose only this daemon can know ([`super::suspicion`]).

use std::{panic::resume_unwind, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::leases::Leases;
use crate::{
    clock::Clock,
    model::Lease,
    store::{self, Pool},
    telemetry::{Repeated, chain},
};

const PERIOD: Duration = Duration::from_secs(1);
const CHUNK: usize = 5_000;
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks about overdue leases, and hands what became suspect (or recovered) to `tell`, until told to stop.
pub async fn run(
    pool: Pool,
    leases: Arc<Leases>,
    clock: Clock,
    tell: impl Fn(&[Arc<Lease>], bool) + Send + Sync + 'static,
    stop: CancellationToken,
) {
    let mut trouble = Repeated::default();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        // Aside, because there may be a million at once, and beats are not to wait for them.
        let judging = Arc::clone(&leases);
        let found = match spawn_blocking(move || judging.judge_due()).await {
            Ok(found) => found,
            // Ends this task with the same panic, which ends the daemon.
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime is going down.
            Err(_) => return,
        };
        tell(&found.suspect, true);
        tell(&found.recovered, false);
        leases.tell_of_suspects(&found.suspect);
        for chunk in found.overdue.chunks(CHUNK) {
            let asked_ms = clock.now_ms();
            match store::beats::ages(&pool, chunk, Instant::now() + TIMEOUT).await {
                Ok(ages) => {
                    if let Some(over) = trouble.works() {
                        let (failures, lasting_ms) = (over.failures, over.lasting_ms());
                        tracing::info!(failures, lasting_ms, "overdue leases are looked up again");
                    }
                    for (lease_id, age_ms) in ages {
                        if let Some(lease) = leases.get(lease_id) {
                            // Counted from before the question, so that the way there never makes a beat younger.
                            lease.heard_elsewhere(asked_ms.saturating_sub(age_ms));
                        }
                    }
                }
                Err(error) => {
                    if let Some(told) = trouble.failed() {
                        let (error, lasting_ms) = (chain(&error), told.lasting_ms());
                        tracing::warn!(
                            error,
                            failures = told.failures,
                            lasting_ms,
                            "overdue leases could not be looked up"
                        );
                    }
                    break;
                }
            }
        }
    }
}
