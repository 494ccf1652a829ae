//! The metric of the schema: how much of it differs from what this binary makes.

use metrics::{Gauge, gauge};

use super::names;

/// For the comparison of the schema while the daemon runs.
#[derive(Clone, Debug)]
pub struct SchemaMetrics {
    /// Objects that differ, as last compared.
    pub drift: Gauge,
}

impl SchemaMetrics {
    /// Registers the series at zero.
    #[must_use]
    pub fn new() -> Self {
        Self { drift: gauge!(names::SCHEMA_DRIFT) }
    }
}

impl Default for SchemaMetrics {
    fn default() -> Self {
        Self::new()
    }
}
