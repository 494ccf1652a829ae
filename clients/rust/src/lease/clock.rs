//! The clock by which leases are lost: it also runs while the machine sleeps, and no operator can set it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment of that clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(Duration);

impl Moment {
    /// Now.
    pub(super) fn now() -> Self {
        #[cfg(target_os = "linux")]
        const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
        #[cfg(not(target_os = "linux"))]
        const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
        // It fails for a clock that the system does not have; a lease is then lost at once, which is the safe error.
        Self(clock_gettime(CLOCK).map_or(Duration::MAX, Duration::from))
    }

    /// So much later.
    pub(super) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How long it is from `earlier` to this; zero if it is before.
    pub(super) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_runs_and_never_goes_back() {
        let (first, second) = (Moment::now(), Moment::now());
        assert!(first <= second && first < Moment(Duration::MAX));
        assert_eq!(first.after(Duration::from_secs(2)).since(first), Duration::from_secs(2));
        assert_eq!(first.since(first.after(Duration::from_secs(2))), Duration::ZERO);
    }
}
