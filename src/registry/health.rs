//! How the background work of this daemon goes: facts for the judgement of its health.
//!
//! Flusher and reapers record here what they last did. Beats and deaths do not depend on it: those are decided by
//! [`super::Leases`] and in PostgreSQL.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::clock::Clock;

/// Stands for "not yet".
const NEVER: u64 = u64::MAX;

/// A reaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaper {
    /// Of stale leases.
    Stale,
    /// Of instances of older epochs.
    OldEpoch,
    /// Of rows that have been dead for long.
    Purge,
}

impl Reaper {
    const ALL: [Self; 3] = [Self::Stale, Self::OldEpoch, Self::Purge];

    /// The word for it, as in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::OldEpoch => "old_epoch",
            Self::Purge => "purge",
        }
    }
}

/// The runs of a reaper that have failed since the last one that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// Of which reaper.
    pub reaper: Reaper,
    /// How many there are.
    pub count: u32,
    /// How long ago the first of them failed.
    pub failing_for: Duration,
    /// Why the latest failed.
    pub error: String,
}

/// What is kept of them.
#[derive(Debug)]
struct Failing {
    count: u32,
    since_ms: u64,
    error: String,
}

/// What the background work has last done.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    /// A std mutex: held for a few instructions, never across an await.
    failing: Mutex<[Option<Failing>; Reaper::ALL.len()]>,
    reaped_ms: AtomicU64,
    latency_us: AtomicU64,
}

impl Health {
    /// Nothing was done yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, failing: Mutex::default(), reaped_ms: AtomicU64::new(NEVER), latency_us: AtomicU64::new(NEVER) }
    }

    /// The reaper has looked.
    pub(super) fn reaped(&self) {
        self.reaped_ms.store(self.clock.now_ms(), Ordering::Relaxed);
    }

    /// A reaper has run. Returns how many of its runs in a row have failed.
    pub(super) fn reaper_ran(&self, reaper: Reaper, error: Option<String>) -> u32 {
        let now_ms = self.clock.now_ms();
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = failing.get_mut(reaper as usize) else { return 0 };
        *slot = error.map(|error| {
            let (count, since_ms) = slot.as_ref().map_or((0, now_ms), |failing| (failing.count, failing.since_ms));
            Failing { count: count.saturating_add(1), since_ms, error }
        });
        slot.as_ref().map_or(0, |failing| failing.count)
    }

    /// The reapers whose latest run failed.
    #[must_use]
    pub fn failing_reapers(&self) -> Vec<Failures> {
        let now_ms = self.clock.now_ms();
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = |(reaper, failing): (Reaper, &Option<Failing>)| {
            let Failing { count, since_ms, error } = failing.as_ref()?;
            let failing_for = Duration::from_millis(now_ms.saturating_sub(*since_ms));
            Some(Failures { reaper, count: *count, failing_for, error: error.clone() })
        };
        Reaper::ALL.into_iter().zip(failing.iter()).filter_map(failures).collect()
    }

    /// PostgreSQL has taken a save, within `latency`.
    pub(super) fn saved(&self, latency: Duration) {
        self.latency_us.store(u64::try_from(latency.as_micros()).unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// How long ago the reaper last looked; `None` before its first look.
    #[must_use]
    pub fn last_reap_age(&self) -> Option<Duration> {
        let reaped_ms = known(&self.reaped_ms)?;
        Some(Duration::from_millis(self.clock.now_ms().saturating_sub(reaped_ms)))
    }

    /// How long PostgreSQL took for the latest save; `None` before the first.
    #[must_use]
    pub fn database_latency(&self) -> Option<Duration> {
        known(&self.latency_us).map(Duration::from_micros)
    }
}

fn known(number: &AtomicU64) -> Option<u64> {
    Some(number.load(Ordering::Relaxed)).filter(|number| *number != NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_reaper_are_counted_until_a_run_succeeds() {
        let health = Health::new(Clock::new());
        assert_eq!(health.reaper_ran(Reaper::Purge, Some("locked".to_owned())), 1);
        assert_eq!(health.reaper_ran(Reaper::Stale, None), 0);
        assert_eq!(health.reaper_ran(Reaper::Purge, Some("no such table".to_owned())), 2);
        let failing = health.failing_reapers();
        let told: Vec<_> = failing.iter().map(|it| (it.reaper, it.count, it.error.as_str())).collect();
        assert_eq!(told, [(Reaper::Purge, 2, "no such table")]);
        assert_eq!(health.reaper_ran(Reaper::Purge, None), 0);
        assert_eq!(health.failing_reapers(), []);
    }

    #[test]
    fn before_the_first_time_there_is_no_age() {
        let health = Health::new(Clock::new());
        assert_eq!((health.last_reap_age(), health.database_latency()), (None, None));
        health.reaped();
        health.saved(Duration::from_micros(1_500));
        assert!(health.last_reap_age().is_some());
        assert_eq!(health.database_latency(), Some(Duration::from_micros(1_500)));
    }
}
