//! The budget of records: where the view, which knows what is on record, meets the admission of registrations.

use std::sync::Arc;

use super::parts::Parts;
use crate::{
    admission::{Admission, budget::Records},
    metrics::BudgetMetrics,
    model::{Budget, InstanceId, Origin, Owner, Revision, Usage},
    view::Snapshot,
};

/// The registry at one revision, and when that was confirmed.
struct Known {
    snapshot: Arc<Snapshot>,
    confirmed_ms: u64,
}

impl Records for Known {
    fn revision(&self) -> Revision {
        self.snapshot.revision()
    }

    fn confirmed_ms(&self) -> u64 {
        self.confirmed_ms
    }

    fn usage(&self) -> Usage {
        self.snapshot.usage()
    }

    fn usage_of(&self, origin: Origin) -> Usage {
        self.snapshot.usage_of(origin)
    }

    fn records_of(&self, identity: &str) -> u64 {
        Owner::known(identity).map_or(0, |owner| self.snapshot.records_of(&owner))
    }

    fn bytes_of(&self, instance_id: InstanceId) -> Option<u64> {
        self.snapshot.instance(instance_id).map(|entry| entry.instance.record_bytes())
    }
}

/// The admission of registrations by the budget of this daemon, whose limits it publishes.
pub(super) fn admission(parts: &Parts) -> Arc<Admission> {
    let (budget, view) = (parts.config.budget, parts.view.clone());
    let metrics = BudgetMetrics::new();
    let float = |limit: u64| {
        f64::from(u32::try_from(limit >> 20).unwrap_or(u32::MAX)) * 1_048_576.0
            + f64::from(u32::try_from(limit & 0xf_ffff).unwrap_or_default())
    };
    metrics.records.set(float(budget.records));
    metrics.bytes.set(float(budget.bytes));
    let read = move || -> Box<dyn Records> {
        // Before the snapshot: what was confirmed then is in it.
        let confirmed_ms = view.confirmed_ms();
        Box::new(Known { snapshot: Arc::clone(&view.snapshot()), confirmed_ms })
    };
    Arc::new(Admission::new(budget, read, parts.clock))
}

/// Warns if more is on record than the budget allows. The daemon serves all of it: only new registrations are refused.
pub(super) fn warn_if_exceeded(budget: Budget, used: Usage) {
    let (unit, used, limit) = budget.fullest(used);
    if used > limit {
        tracing::warn!(
            unit = unit.as_str(),
            used,
            limit,
            "more is on record than the budget allows, new registrations are refused"
        );
    }
}
