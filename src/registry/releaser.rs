//! Runs the hooks that free what ended leases held, right after each death.
//!
//! All of it is in SQL (`muster_release_batch`): deaths are claimed so that any number of daemons may do this at once, and are
//! marked in the transaction that frees. What is decided here is when to ask. A hook is the application's: it may fail, wait
//! and take long, so that it runs on a connection of its own, apart from everything that deaths and registrations need.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    alarm::Alarm,
    health::{Health, Reaper},
    reaper::{Reapers, Tally},
};
use crate::{
    metrics::{ReaperMetrics, ReleaseMetrics},
    store::{
        self, Pool,
        deaths::{HookRun, ReleaseState},
    },
    telemetry::Repeated,
};

/// Most deaths of one run of a hook.
const BATCH: i32 = 1_000;
/// How often to look while there are hooks: another daemon may have died with what it had claimed, and failures are due again.
const PERIOD: Duration = Duration::from_secs(1);
/// How often to look without a hook; each death is a reason to look at once.
const IDLE_PERIOD: Duration = Duration::from_secs(30);
/// How long a call may take; hooks end before ([`store::deaths::HOOK_LIMIT`]).
const TIMEOUT: Duration = Duration::from_secs(10);

/// The task that releases deaths.
#[derive(Debug)]
pub struct Releaser {
    pool: Pool,
    alarm: Arc<Alarm>,
    health: Arc<Health>,
    metrics: ReleaseMetrics,
    trouble: Repeated,
}

impl Releaser {
    /// With what the reapers have.
    #[must_use]
    pub fn of(reapers: &Reapers) -> Self {
        let Reapers { pool, alarm, health, .. } = reapers.clone();
        Self { pool, alarm, health, metrics: ReleaseMetrics::new(), trouble: Repeated::default() }
    }

    /// Releases deaths until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tally = Tally::new(Reaper::Release, ReaperMetrics::release(), &Arc::clone(&self.health));
        loop {
            if !self.health.change_permitted(&stop).await {
                return;
            }
            let released = self.release().await;
            tally.count(released.as_ref().map(|_| 0), false);
            let pause = released.unwrap_or(PERIOD);
            let nap = async { timeout(pause, self.alarm.release_is_due()).await };
            if stop.run_until_cancelled(nap).await.is_none() {
                return;
            }
        }
    }

    /// Runs the hooks once, if deaths wait for them. Returns when to look again.
    #[tracing::instrument(level = "debug", name = "reaper.release", skip_all)]
    async fn release(&mut self) -> Result<Duration, store::Error> {
        let mut state = store::deaths::release_state(&self.pool, Instant::now() + TIMEOUT).await?;
        let mut runs = Vec::new();
        if state.unreleased > 0 && state.has_hooks {
            runs = store::deaths::release(&self.pool, BATCH, Instant::now() + TIMEOUT).await?;
            state = store::deaths::release_state(&self.pool, Instant::now() + TIMEOUT).await?;
        }
        let pause = pause_after(&runs, &state);
        self.record(&runs);
        self.metrics.unreleased.set(f64::from(u32::try_from(state.unreleased).unwrap_or(u32::MAX)));
        self.metrics.lag.set(state.oldest.as_secs_f64());
        self.health.set_release_state(state);
        Ok(pause)
    }

    fn record(&mut self, runs: &[HookRun]) {
        for run in runs {
            let HookRun { hook, deaths, released, freed, elapsed, failure } = run;
            self.metrics.seconds.record(*elapsed);
            match failure {
                None => {
                    tracing::info!(hook, deaths, released, freed, "hook has run");
                    if let Some(over) = self.trouble.works() {
                        let (failures, lasting_ms) = (over.failures, over.lasting_ms());
                        tracing::info!(hook, failures, lasting_ms, "hook works again");
                    }
                }
                Some(error) => {
                    self.metrics.failures.increment(1);
                    if let Some(told) = self.trouble.failed() {
                        let (failures, lasting_ms) = (told.failures, told.lasting_ms());
                        tracing::warn!(hook, deaths, error, failures, lasting_ms, "hook failed, retrying");
                    }
                }
            }
        }
    }
}

/// When to look again: at once while hooks make progress.
fn pause_after(runs: &[HookRun], state: &ReleaseState) -> Duration {
    let works = runs.iter().any(|run| run.failure.is_none()) && !runs.iter().any(|run| run.failure.is_some());
    match (works && state.unreleased > 0, state.has_hooks) {
        (true, _) => Duration::ZERO,
        (false, true) => PERIOD,
        (false, false) => IDLE_PERIOD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(failure: Option<&str>) -> HookRun {
        let (hook, elapsed) = ("tasks".to_owned(), Duration::ZERO);
        HookRun { hook, deaths: 1, released: 1, freed: 0, elapsed, failure: failure.map(str::to_owned) }
    }

    #[test]
    fn releaser_goes_on_at_once_only_while_every_hook_works() {
        let state = |unreleased, has_hooks| ReleaseState { unreleased, has_hooks, ..ReleaseState::default() };
        assert_eq!(pause_after(&[run(None)], &state(5, true)), Duration::ZERO);
        assert_eq!(pause_after(&[run(None), run(Some("broken"))], &state(5, true)), PERIOD);
        assert_eq!(pause_after(&[run(None)], &state(0, true)), PERIOD);
        assert_eq!(pause_after(&[], &state(5, true)), PERIOD, "nothing is due yet");
        assert_eq!(pause_after(&[], &state(0, false)), IDLE_PERIOD);
    }
}
