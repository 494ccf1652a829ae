//! Deaths without a caller: stale leases, old epochs; and the purge of what has been dead for long.
//!
//! All of the decision is in SQL (`muster_reap_stale` and its siblings), re-checked there on the row itself, so any
//! number of daemons may reap at once. What is decided here is only *when* to ask: a reaper sleeps until the earliest
//! deadline there is, and a registration with an earlier one wakes it. A healthy fleet costs almost nothing.
//!
//! A daemon that cannot save beats does not reap: it may be the reason why an instance seems silent. Nor does one whose schema is
//! too new for it: the rules of expiry may no longer be those that it knows.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    alarm::{Alarm, SHORTEST_SLEEP, millis},
    health::{Health, Reaper},
    leases::Leases,
};
use crate::{
    clock::{
        Clock,
        gap::{Followed, Found, Reading},
    },
    metrics::{HoldMetrics, ReaperMetrics},
    model::BrakeMode,
    store::{
        self, Pool,
        expiry::{ExpectedClock, StaleReport},
        purge::Records,
    },
    telemetry::{Repeated, chain},
};

/// Most deaths of one call.
const BATCH: i32 = 500;
/// Most rows purged by one call.
const PURGE_BATCH: i32 = 1_000;
/// A reaper looks at least this often, and at most every [`SHORTEST_SLEEP`].
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// When to look again after a failure, or while this daemon must not change the registry.
const RETRY: Duration = Duration::from_secs(1);
/// How long a call may take. The scan for the earliest deadline of a million rows takes a fraction of a second.
const TIMEOUT: Duration = Duration::from_secs(10);
/// When to look again at an instance whose beat may be on the way.
const UNSURE_SLEEP: Duration = Duration::from_millis(400);
/// How often a braked reaper looks.
const BRAKED_SLEEP: Duration = Duration::from_secs(1);
/// How often the purge looks.
const PURGE_PERIOD: Duration = Duration::from_secs(60);

/// What the reapers of one daemon share.
#[derive(Clone, Debug)]
pub struct Reapers {
    /// Connections.
    pub pool: Pool,
    /// Whether saving works.
    pub leases: Arc<Leases>,
    /// The clock.
    pub clock: Clock,
    /// What wakes them.
    pub alarm: Arc<Alarm>,
    /// As whose decision deaths are recorded.
    pub decided_by: Arc<str>,
    /// Where it is noted that they look.
    pub health: Arc<Health>,
}

impl Reapers {
    /// Declares stale leases dead, until told to stop.
    pub async fn reap_stale(self, stop: CancellationToken) {
        let mut tally = Tally::new(Reaper::Stale, ReaperMetrics::stale(), &self.health);
        let hold = HoldMetrics::new();
        let mut seen_rules = Rules::default();
        let mut database = Followed::default();
        loop {
            self.alarm.begin_look();
            let pause = if self.health.permit_change().is_err() {
                RETRY
            } else if self.leases.save_lag_ms(self.clock.now_ms()) > 0 {
                SHORTEST_SLEEP
            } else {
                let report = self.reap_stale_once(&mut database).await;
                tell_rules(&mut seen_rules, &hold, &report);
                tally.count(report.as_ref().map(|report| report.reaped), seen_rules.held);
                report.map_or(RETRY, |report| pause_after(&report))
            };
            let nap = self.alarm.sleep_until(self.clock, self.clock.now_ms() + millis(pause));
            if stop.run_until_cancelled(nap).await.is_none() {
                return;
            }
        }
    }

    /// One look for overdue leases; a second one if the database clock was stepped forward.
    #[tracing::instrument(level = "debug", name = "reaper.stale", skip_all)]
    async fn reap_stale_once(&self, database: &mut Followed) -> Result<StaleReport, store::Error> {
        let _waiting = self.health.change_waits();
        let mut looked = self.look(database, false).await;
        if let Ok((_, Found::Step)) = looked {
            looked = self.look(database, true).await;
        }
        let (report, found) = looked.inspect_err(|_| database.lose())?;
        if found == Found::Late {
            tracing::info!("the database was asked late, expiry looks again");
        }
        self.health.reaped();
        Ok(report)
    }

    async fn look(&self, database: &mut Followed, is_step: bool) -> Result<(StaleReport, Found), store::Error> {
        let asked_ms = self.clock.now_ms();
        let known = database.known();
        let expected = || known.map(|known| ExpectedClock::after(known, self.clock.now_ms(), is_step));
        let deadline = Instant::now() + TIMEOUT;
        let bound = self.health.release_state().bound();
        let reap = |bound| store::expiry::reap_stale(&self.pool, BATCH, &self.decided_by, expected, bound, deadline);
        let mut report = reap(bound).await;
        if bound.is_some() && matches!(report, Err(store::Error::Busy(_))) {
            // Without the hooks of mode commit, which may have taken that long.
            report = reap(None).await;
        }
        let report = report?;
        let reading = Reading { asked_ms, answered_ms: self.clock.now_ms(), read_at: report.read_at };
        let found = database.take(reading, report.is_late);
        Ok((report, found))
    }

    /// Writes down the deaths of instances of older epochs, until told to stop.
    pub async fn reap_old_epoch(self, stop: CancellationToken) {
        let mut tally = Tally::new(Reaper::OldEpoch, ReaperMetrics::old_epoch(), &self.health);
        loop {
            if !self.health.change_permitted(&stop).await {
                return;
            }
            let deadline = Instant::now() + TIMEOUT;
            let waiting = self.health.change_waits();
            let bound = self.health.release_state().bound();
            let reap = |bound| {
                let reaped = store::expiry::reap_old_epoch(&self.pool, BATCH, &self.decided_by, bound, deadline);
                reaped.instrument(tracing::debug_span!("reaper.old_epoch"))
            };
            let mut reaped = reap(bound).await;
            if bound.is_some() && matches!(reaped, Err(store::Error::Busy(_))) {
                reaped = reap(None).await;
            }
            drop(waiting);
            tally.count(reaped.as_ref().copied(), false);
            let pause = match reaped {
                Ok(0) => LONGEST_SLEEP,
                Ok(_) => Duration::from_millis(20),
                Err(_) => RETRY,
            };
            let nap = async { timeout(pause, self.alarm.old_epoch_is_due()).await };
            if stop.run_until_cancelled(nap).await.is_none() {
                return;
            }
        }
    }

    /// Deletes records that are older than they are kept, until told to stop.
    pub async fn purge(self, kept: Vec<(Records, Duration)>, stop: CancellationToken) {
        let mut tally = Tally::new(Reaper::Purge, ReaperMetrics::purge(), &self.health);
        loop {
            if !self.health.change_permitted(&stop).await {
                return;
            }
            let (mut pause, mut outcome) = (PURGE_PERIOD, Ok(0));
            for (records, keep) in &kept {
                let purged = self.purge_once(*records, *keep).await;
                let is_full = purged.as_ref().is_ok_and(|purged| *purged >= u64::from(PURGE_BATCH.unsigned_abs()));
                pause = pause.min(if is_full { Duration::from_millis(100) } else { *keep });
                // What cannot be deleted keeps nothing else from it.
                outcome = outcome.and_then(|sum| purged.map(|purged| sum + purged));
            }
            tally.count(outcome.as_ref().copied(), false);
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    #[tracing::instrument(level = "debug", name = "reaper.purge", skip(self, keep))]
    async fn purge_once(&self, records: Records, keep: Duration) -> Result<u64, store::Error> {
        store::purge::purge(&self.pool, records, keep, PURGE_BATCH, Instant::now() + TIMEOUT).await
    }
}

/// When to look next: when a lease can expire.
fn pause_after(report: &StaleReport) -> Duration {
    if report.is_late {
        return SHORTEST_SLEEP;
    }
    let until_deadline = report.next_deadline.unwrap_or(LONGEST_SLEEP);
    if report.reaped == 0 && until_deadline.is_zero() && report.brake.is_none() {
        // Overdue, but a daemon has not yet saved everything up to then, or it is not clear which others are silent.
        return UNSURE_SLEEP;
    }
    // A millisecond more: at the deadline itself no lease is overdue yet.
    let pause = until_deadline + Duration::from_millis(1);
    if report.brake.is_some() {
        return BRAKED_SLEEP;
    }
    if report.reaped >= u64::from(BATCH.unsigned_abs()) {
        Duration::ZERO
    } else {
        pause.clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
    }
}

/// What keeps deaths back, as last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    held: bool,
    brake: Option<BrakeMode>,
}

/// Logs what has changed, once, and shows in the metrics what is.
fn tell_rules(seen: &mut Rules, metrics: &HoldMetrics, report: &Result<StaleReport, store::Error>) {
    let Ok(report) = report else { return };
    let rules = Rules { held: report.hold.is_some(), brake: report.brake };
    if rules.held != seen.held {
        match &report.hold {
            Some(hold) => {
                tracing::warn!(reason = hold.reason, remaining_ms = millis(hold.remaining), "expiry is on hold");
            }
            None => tracing::info!("expiry is no longer on hold"),
        }
    }
    if rules.brake != seen.brake {
        match rules.brake {
            Some(BrakeMode::Pace) => tracing::warn!("many leases are overdue at once, expiry is slowed"),
            Some(BrakeMode::Protect) => {
                tracing::error!("most instances are silent at once, expiry is stopped for 10 minutes");
            }
            None => tracing::info!("expiry is no longer braked"),
        }
    }
    *seen = rules;
    metrics.held.set(f64::from(u8::from(rules.held)));
    metrics.pace.set(f64::from(u8::from(rules.brake == Some(BrakeMode::Pace))));
    metrics.protect.set(f64::from(u8::from(rules.brake == Some(BrakeMode::Protect))));
}

/// Counts the runs of one reaper, keeps its failures, and logs them.
#[derive(Debug)]
pub(super) struct Tally {
    reaper: Reaper,
    metrics: ReaperMetrics,
    health: Arc<Health>,
    trouble: Repeated,
}

impl Tally {
    pub(super) fn new(reaper: Reaper, metrics: ReaperMetrics, health: &Arc<Health>) -> Self {
        Self { reaper, metrics, health: Arc::clone(health), trouble: Repeated::default() }
    }

    /// Records how a run ended.
    pub(super) fn count(&mut self, reaped: Result<u64, &store::Error>, held: bool) {
        let Self { reaper, metrics, health, trouble } = self;
        let error = reaped.as_ref().err().map(|error| chain(*error));
        metrics.consecutive_failures.set(f64::from(health.reaper_ran(*reaper, error)));
        let reaper = reaper.as_str();
        match reaped {
            Ok(reaped) => {
                if held { &metrics.held } else { &metrics.ok }.increment(1);
                metrics.reaped.increment(reaped);
                if let Some(over) = trouble.works() {
                    tracing::info!(
                        reaper,
                        failures = over.failures,
                        lasting_ms = over.lasting_ms(),
                        "reaper works again"
                    );
                }
                if reaped > 0 {
                    tracing::info!(reaper, reaped, "instances reaped");
                }
            }
            Err(error) => {
                metrics.failed.increment(1);
                if let Some(told) = trouble.failed() {
                    let (error, lasting_ms) = (chain(error), told.lasting_ms());
                    tracing::warn!(reaper, error, failures = told.failures, lasting_ms, "reaper failed, retrying");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Hold;

    fn report(reaped: u64, next_ms: Option<u64>, held_ms: Option<u64>) -> StaleReport {
        StaleReport {
            reaped,
            next_deadline: next_ms.map(Duration::from_millis),
            hold: held_ms.map(|ms| Hold { remaining: Duration::from_millis(ms), reason: String::new() }),
            brake: None,
            read_at: chrono::DateTime::UNIX_EPOCH,
            is_late: false,
        }
    }

    #[test]
    fn reaper_sleeps_until_a_lease_can_expire() {
        assert_eq!(pause_after(&report(0, Some(4_000), None)), Duration::from_millis(4_001));
        assert_eq!(
            pause_after(&report(0, Some(4_000), Some(9_000))),
            Duration::from_millis(4_001),
            "PostgreSQL counts the hold in"
        );
        assert_eq!(pause_after(&report(0, Some(0), Some(9_000))), UNSURE_SLEEP);
        assert_eq!(pause_after(&report(0, None, None)), LONGEST_SLEEP);
        assert_eq!(pause_after(&report(3, Some(0), None)), SHORTEST_SLEEP);
        assert_eq!(pause_after(&report(500, Some(0), None)), Duration::ZERO, "a full batch has more behind it");
        let late = StaleReport { is_late: true, ..report(0, None, None) };
        assert_eq!(pause_after(&late), SHORTEST_SLEEP, "it has done nothing");
    }
}
