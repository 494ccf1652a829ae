//! The metric by which Prometheus sees that daemons have different policies.

use metrics::{Gauge, gauge};

use super::names;

/// For the policy and the tokens in use.
#[derive(Clone, Debug)]
pub struct PolicyMetrics {
    /// A number that differs where they differ; 0: no policy.
    pub fingerprint: Gauge,
}

impl PolicyMetrics {
    /// Registers the series at zero.
    #[must_use]
    pub fn new() -> Self {
        Self { fingerprint: gauge!(names::POLICY_FINGERPRINT) }
    }
}

impl Default for PolicyMetrics {
    fn default() -> Self {
        Self::new()
    }
}
