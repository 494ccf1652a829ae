//! The metrics of hooks, which free what ended leases held.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{handles::ReaperMetrics, names};

/// For the release of deaths.
#[derive(Clone, Debug)]
pub struct ReleaseMetrics {
    /// Deaths that are not released.
    pub unreleased: Gauge,
    /// Since when the first of them is not.
    pub lag: Gauge,
    /// Runs of hooks that failed.
    pub failures: Counter,
    /// How long the runs took.
    pub seconds: Histogram,
}

impl ReleaseMetrics {
    /// Registers the series at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            unreleased: gauge!(names::DEATHS_UNRELEASED),
            lag: gauge!(names::RELEASE_LAG),
            failures: counter!(names::HOOK_FAILURES),
            seconds: histogram!(names::HOOK_SECONDS),
        }
    }
}

impl ReaperMetrics {
    /// For the release of deaths.
    #[must_use]
    pub fn release() -> Self {
        Self::of("release")
    }
}

impl Default for ReleaseMetrics {
    fn default() -> Self {
        Self::new()
    }
}
