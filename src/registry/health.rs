//! How the background work of this daemon goes, for whoever asks how the registry is.
//!
//! A few numbers that flusher and reaper leave behind as they pass. Nothing is decided by them: what beats and deaths
//! depend on stands in [`super::Leases`] and in PostgreSQL.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::clock::Clock;

/// Stands for "not yet".
const NEVER: u64 = u64::MAX;

/// What the background work has last done.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    reaped_ms: AtomicU64,
    latency_us: AtomicU64,
}

impl Health {
    /// Nothing was done yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, reaped_ms: AtomicU64::new(NEVER), latency_us: AtomicU64::new(NEVER) }
    }

    /// The reaper has looked.
    pub(super) fn reaped(&self) {
        self.reaped_ms.store(self.clock.now_ms(), Ordering::Relaxed);
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
    fn before_the_first_time_there_is_no_age() {
        let health = Health::new(Clock::new());
        assert_eq!((health.last_reap_age(), health.database_latency()), (None, None));
        health.reaped();
        health.saved(Duration::from_micros(1_500));
        assert!(health.last_reap_age().is_some());
        assert_eq!(health.database_latency(), Some(Duration::from_micros(1_500)));
    }
}
