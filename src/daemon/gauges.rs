//! The gauges that change by themselves: set whenever metrics are asked for.

use super::parts::Parts;
use crate::{
    metrics::{AuditMetrics, DatabaseMetrics, FeedMetrics, LogMetrics, PoolMetrics},
    store::PoolRole,
    telemetry,
};

/// Sets the gauges that change by themselves.
pub(super) fn refresh(parts: &Parts) -> impl Fn() + Send + Sync + 'static {
    let (view, pool) = (parts.view.clone(), parts.pool.clone());
    let (feed, log, lineage) = (FeedMetrics::new(), LogMetrics::new(), DatabaseMetrics::new());
    let (database, audit) = (parts.database.clone(), AuditMetrics::new());
    let credentials = parts.security.credentials().cloned();
    let pools = [(PoolRole::Engine, PoolMetrics::engine()), (PoolRole::Operator, PoolMetrics::operator())];
    move || {
        feed.lag_seconds.set(view.stale_for().as_secs_f64());
        log.dropped.absolute(telemetry::dropped());
        audit.dropped.absolute(telemetry::audit_dropped());
        let (changes, refusals) = database.changes_and_refusals();
        lineage.changes.absolute(changes);
        lineage.behind.absolute(refusals);
        if let Some(credentials) = &credentials {
            credentials.measure();
        }
        for (role, metrics) in &pools {
            let status = pool.status(*role);
            let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
            metrics.size.set(count(status.size));
            metrics.available.set(count(status.available));
            metrics.waiting.set(count(status.waiting));
        }
    }
}
