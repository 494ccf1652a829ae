//! When each lease is to be looked at.
//!
//! Before its next beat is overdue, nothing about a lease changes by the mere passing of time. So each is looked at when
//! that may be, which for an instance that beats in time is once an interval, and not whenever any of them is: with a
//! million leases, a look at all of them once a second took a fifth of a core. Slots of time, as in a timing wheel (Varghese
//! and Lauck 1987), but in a map, because TTLs differ by more than two orders of magnitude.
//!
//! A lease that is to be looked at earlier than agreed gets a second place; what it left behind is passed over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::model::Lease;

/// How exact a time is.
const SLOT_MS: u64 = 100;

/// Leases by when they are to be looked at.
#[derive(Debug, Default)]
pub(super) struct Schedule(Mutex<BTreeMap<u32, Vec<Arc<Lease>>>>);

impl Schedule {
    /// Has a lease looked at by the first [`Schedule::take_due`] at or after `at_ms`, if not sooner.
    pub(super) fn put(&self, lease: Arc<Lease>, at_ms: u64) {
        let slot = slot(at_ms.saturating_add(SLOT_MS - 1));
        if lease.schedule_by(slot) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(slot).or_default().push(lease);
        }
    }

    /// Has a lease looked at the next time.
    pub(super) fn put_first(&self, lease: Arc<Lease>) {
        self.put(lease, 0);
    }

    /// Takes those that are to be looked at by now. They are on the schedule no more.
    pub(super) fn take_due(&self, now_ms: u64) -> Vec<Arc<Lease>> {
        let now = slot(now_ms);
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let later = slots.split_off(&now.saturating_add(1));
        let due = std::mem::replace(&mut *slots, later);
        drop(slots);
        // All of them before the first is put back: a place left behind must not be taken for the new one.
        due.into_values().flatten().filter(|lease| lease.take_scheduled(now)).collect()
    }
}

/// The slot that a time falls into. The clock never comes to the last one: it takes 13 years.
fn slot(at_ms: u64) -> u32 {
    u32::try_from(at_ms / SLOT_MS).unwrap_or(u32::MAX - 1).min(u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{InstanceId, LeaseId, Ttl};

    const NONE: [u64; 0] = [];

    fn lease(id: u64) -> Arc<Lease> {
        let (instance_id, ttl) = (InstanceId(Uuid::from_u128(id.into())), Ttl::from_record(None));
        Arc::new(Lease::new(LeaseId(id), instance_id, 1, None, ttl, 0))
    }

    fn due(schedule: &Schedule, now_ms: u64) -> Vec<u64> {
        schedule.take_due(now_ms).iter().map(|lease| lease.id.0).collect()
    }

    #[test]
    fn each_is_due_once_at_its_time_and_never_before() {
        let schedule = Schedule::default();
        for (id, at_ms) in [(1, 5_000), (2, 5_001), (3, 0), (4, 9_900)] {
            schedule.put(lease(id), at_ms);
        }
        assert_eq!(due(&schedule, 0), [3]);
        assert_eq!(due(&schedule, 4_999), NONE);
        assert_eq!(due(&schedule, 5_000), [1]);
        assert_eq!(due(&schedule, 5_099), NONE);
        assert_eq!(due(&schedule, 60_000), [2, 4]);
        assert_eq!(due(&schedule, 60_000), NONE);
    }

    #[test]
    fn lease_scheduled_sooner_is_due_then_and_once() {
        let (schedule, lease) = (Schedule::default(), lease(7));
        schedule.put(Arc::clone(&lease), 9_000);
        schedule.put(Arc::clone(&lease), 20_000);
        schedule.put(Arc::clone(&lease), 3_000);
        schedule.put_first(Arc::clone(&lease));
        schedule.put_first(Arc::clone(&lease));
        assert_eq!(due(&schedule, 0), [7], "once, however often it was asked for");
        schedule.put(Arc::clone(&lease), 10_000);
        assert_eq!(due(&schedule, 9_500), NONE, "its former places are passed over");
        assert_eq!(due(&schedule, 10_000), [7]);
        schedule.put(lease, 11_000);
        assert_eq!(due(&schedule, 20_000), [7]);
    }
}
