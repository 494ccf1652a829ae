//! Leases with which this daemon has lost contact: their stream broke, or two of their beats are overdue. They are suspect
//! from then on, and the other daemons are to hear of them.

use std::sync::{Arc, PoisonError};

use super::{Leases, lost::Lost};
use crate::model::{Lease, lease::Loss, renewer::StreamId};

impl Leases {
    /// Has a lease that became suspect otherwise than by the passing of time looked at until it no longer is.
    pub(in crate::registry) fn follow(&self, lease: &Arc<Lease>) {
        self.schedule.put_first(Arc::clone(lease));
    }

    /// The stream these beat on until `last_ms` broke. Returns those that have become suspect by it and were not told
    /// to be; the other daemons are told, and asked about those that may beat at one of them.
    #[must_use]
    pub fn lose_stream<'a>(
        &self,
        stream: StreamId,
        leases: impl Iterator<Item = &'a Arc<Lease>>,
        last_ms: u64,
    ) -> Vec<Arc<Lease>> {
        let now_ms = self.clock.now_ms();
        let (mut lost, mut told) = (Vec::new(), Vec::new());
        for lease in leases {
            match lease.lose_stream(stream, last_ms) {
                Loss::None => continue,
                Loss::Unconfirmed => {}
                Loss::Lost => {
                    self.follow(lease);
                    if lease.suspicion_to_publish(now_ms) == Some(true) {
                        told.push(Arc::clone(lease));
                    }
                }
            }
            lost.push(Lost::of(lease));
        }
        self.queue_lost(lost);
        told
    }

    /// Of these, which have become suspect, the other daemons are told of those that beat here.
    pub(in crate::registry) fn tell_of_suspects(&self, suspects: &[Arc<Lease>]) {
        let now_ms = self.clock.now_ms();
        self.queue_lost(suspects.iter().filter(|lease| lease.lose_overdue(now_ms)).map(Lost::of).collect());
    }

    fn queue_lost(&self, lost: Vec<Lost>) {
        if !lost.is_empty() {
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(lost);
            self.losing.notify_one();
        }
    }

    /// Waits until contact with an instance is lost.
    pub(in crate::registry) async fn losing(&self) {
        self.losing.notified().await;
    }

    /// Takes the leases with which contact was lost since they were last taken.
    pub(in crate::registry) fn take_lost(&self) -> Vec<Lost> {
        std::mem::take(&mut self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
