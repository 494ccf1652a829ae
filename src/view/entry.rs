//! An instance with its lease, as snapshots share it.

use std::sync::Arc;

use crate::model::{Instance, Lease, ranking::Rank};

/// An instance and its lease.
#[derive(Debug)]
pub struct Entry {
    /// What is on record.
    pub instance: Instance,
    /// When it was last heard of. Shared with the write side; changes without a new snapshot.
    pub lease: Arc<Lease>,
}

// There may be a million: with the counters of its `Arc` an entry fills 256 bytes, and one byte more would take 320.
const _: () = assert!(size_of::<Entry>() <= 256 - 16);

impl Entry {
    /// Its rank among the instances of its logical id.
    #[must_use]
    pub fn rank(&self, now_ms: u64) -> Rank {
        Rank { suspect: self.lease.is_suspect(now_ms), ..self.steady_rank() }
    }

    pub(super) fn steady_rank(&self) -> Rank {
        Rank { suspect: false, started_at: self.instance.started_at, instance_id: self.instance.instance_id }
    }
}
