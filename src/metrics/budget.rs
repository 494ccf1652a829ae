//! The metrics of the budget of records: what is used, and the limits.

use metrics::{Gauge, gauge};

use super::names;

/// What the records of the registry use, the dead included.
#[derive(Clone, Debug)]
pub struct UsageMetrics {
    /// Records.
    pub records: Gauge,
    /// What they take in memory.
    pub bytes: Gauge,
}

/// The budget of records.
#[derive(Clone, Debug)]
pub struct BudgetMetrics {
    /// Most records.
    pub records: Gauge,
    /// Most bytes.
    pub bytes: Gauge,
}

impl UsageMetrics {
    /// Registers every series at zero and returns the handles.
    #[must_use]
    pub fn new() -> Self {
        Self { records: gauge!(names::RECORDS), bytes: gauge!(names::RECORD_BYTES) }
    }
}

impl BudgetMetrics {
    /// Registers every series at zero and returns the handles.
    #[must_use]
    pub fn new() -> Self {
        Self { records: gauge!(names::RECORDS_LIMIT), bytes: gauge!(names::RECORD_BYTES_LIMIT) }
    }
}

impl Default for UsageMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for BudgetMetrics {
    fn default() -> Self {
        Self::new()
    }
}
