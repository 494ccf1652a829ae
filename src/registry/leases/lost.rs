//! A lease with which this daemon has lost contact, as the other daemons are to hear of it.

use std::sync::Arc;

use crate::model::{Lease, lease::LeaseState};

/// A lease with which contact was lost.
#[derive(Clone, Debug)]
pub(in crate::registry) struct Lost {
    pub(in crate::registry) lease: Arc<Lease>,
    /// Its latest beat here.
    here_ms: u64,
}

impl Lost {
    pub(super) fn of(lease: &Arc<Lease>) -> Self {
        Self { lease: Arc::clone(lease), here_ms: lease.here_ms() }
    }

    /// Whether it is live and has not beaten here since.
    pub(in crate::registry) fn is_lost(&self) -> bool {
        self.lease.state() == LeaseState::Live && self.lease.here_ms() == self.here_ms
    }
}
