//! The metrics of the audit log.

use metrics::{Counter, counter};

use super::names;

/// `musterd_audit_events_total`, by what became of them.
#[derive(Clone, Debug)]
pub struct AuditMetrics {
    /// Handed to the log or the file.
    pub recorded: Counter,
    /// Refusals beyond 10 of their reason in a second.
    pub suppressed: Counter,
    /// Not written to the file: it could not be written, or not soon enough. Set at scrape.
    pub dropped: Counter,
}

impl AuditMetrics {
    /// Registers every series at zero and returns the handles.
    #[must_use]
    pub fn new() -> Self {
        let outcome = |outcome: &'static str| counter!(names::AUDIT_EVENTS, "outcome" => outcome);
        Self { recorded: outcome("recorded"), suppressed: outcome("suppressed"), dropped: outcome("dropped") }
    }
}

impl Default for AuditMetrics {
    fn default() -> Self {
        Self::new()
    }
}
