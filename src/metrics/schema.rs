//! The metrics of the schema: how much of it differs from what this binary makes, and whether it is newer.

use metrics::{Gauge, gauge};

use super::names;

/// For the comparison of the schema while the daemon runs.
#[derive(Clone, Debug)]
pub struct SchemaMetrics {
    /// Objects that differ, as last compared.
    pub drift: Gauge,
    /// Whether a newer binary has migrated the database.
    pub ahead: Gauge,
}

impl SchemaMetrics {
    /// Registers the series at zero.
    #[must_use]
    pub fn new() -> Self {
        Self { drift: gauge!(names::SCHEMA_DRIFT), ahead: gauge!(names::SCHEMA_AHEAD) }
    }
}

impl Default for SchemaMetrics {
    fn default() -> Self {
        Self::new()
    }
}
