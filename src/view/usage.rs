//! How many records the registry has and what they take in memory, in all and by the address that registered them,
//! and by owner.
//!
//! Counted at each change, so that a registration is checked against the budget at the cost of a lookup. Part of the
//! snapshot, hence always of the same revision as what it counts.

use imbl::HashMap;

use super::entry::Entry;
use crate::model::{Origin, Owner, Usage};

/// The counters.
#[derive(Clone, Debug, Default)]
pub(super) struct UsageCounts {
    total: Usage,
    /// Of it, what was registered through this daemon. Without the origins that have nothing on record.
    by_origin: HashMap<Origin, Usage>,
    /// Records by owner; those without one are left out.
    by_owner: HashMap<Owner, u64>,
}

impl UsageCounts {
    pub(super) fn total(&self) -> Usage {
        self.total
    }

    pub(super) fn of(&self, origin: Origin) -> Usage {
        self.by_origin.get(&origin).copied().unwrap_or_default()
    }

    pub(super) fn records_of(&self, owner: &Owner) -> u64 {
        self.by_owner.get(owner).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        let usage = Usage::of_record(entry.instance.record_bytes());
        self.total += usage;
        if let Some(origin) = entry.lease.origin() {
            *self.by_origin.entry(origin).or_default() += usage;
        }
        if let Some(owner) = &entry.instance.owner {
            *self.by_owner.entry(owner.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        let usage = Usage::of_record(entry.instance.record_bytes());
        self.total -= usage;
        if let Some(origin) = entry.lease.origin() {
            let left = self.of(origin) - usage;
            if left.is_zero() {
                self.by_origin.remove(&origin);
            } else {
                self.by_origin.insert(origin, left);
            }
        }
        if let Some(owner) = &entry.instance.owner {
            match self.records_of(owner) {
                0 | 1 => drop(self.by_owner.remove(owner)),
                count => drop(self.by_owner.insert(owner.clone(), count - 1)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use chrono::DateTime;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        clock::Clock,
        model::{
            Cluster, Instance, InstanceId, InstanceStatus, Labels, Lease, Revision,
            fixture::{EPOCH, instance},
        },
        view::View,
    };

    /// What happens to one of a few instances, at one revision after the other.
    #[derive(Clone, Debug)]
    enum Event {
        /// It is registered, or registered again, with a label of this length, by one of a few addresses.
        Register { number: u16, label: usize, origin: u64 },
        /// It dies.
        Die { number: u16 },
        /// The dead of at least so many changes ago are purged.
        Purge { ago: u64 },
        /// Everything is loaded again.
        Reload,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => (1..9_u16, 0..2_000_usize, 0..4_u64)
                .prop_map(|(number, label, origin)| Event::Register { number, label, origin }),
            3 => (1..9_u16).prop_map(|number| Event::Die { number }),
            2 => (0..6_u64).prop_map(|ago| Event::Purge { ago }),
            1 => Just(Event::Reload),
        ]
    }

    fn cluster(revision: u64, purged: u64) -> Cluster {
        Cluster {
            epoch: EPOCH,
            revision: Revision(revision),
            history_id: Uuid::nil(),
            purged: Revision(purged),
            hold: None,
            brake: None,
            read_at: DateTime::default(),
        }
    }

    fn entry(number: u16, revision: u64, label: usize, origin: Option<Origin>) -> Arc<Entry> {
        let labels = Labels::from_record([("key".into(), "x".repeat(label).into())]);
        let instance =
            Instance { revision: Revision(revision), labels, ..instance(number, "organ", InstanceStatus::Alive) };
        let lease = Lease::new(instance.lease_id, instance.instance_id, EPOCH.number, None, instance.ttl, 0);
        lease.set_origin(origin);
        Arc::new(Entry { instance, lease: Arc::new(lease) })
    }

    fn origins() -> impl Iterator<Item = Option<Origin>> {
        (0..4).map(|number| (number > 0).then(|| Origin::from_hash(number)))
    }

    proptest! {
        #[test]
        fn counters_equal_a_recount_after_any_history(history in prop::collection::vec(event(), 0..60)) {
            let (view, mut writer) = View::new(Clock::new());
            let mut rows: BTreeMap<InstanceId, Arc<Entry>> = BTreeMap::new();
            let (mut revision, mut purged) = (0, 0);
            writer.replace(cluster(0, 0), []);
            for event in history {
                let changed = match event {
                    Event::Register { number, label, origin } => {
                        revision += 1;
                        Some(entry(number, revision, label, (origin > 0).then(|| Origin::from_hash(origin))))
                    }
                    Event::Die { number } => {
                        let before = rows.get(&InstanceId(Uuid::from_u128(number.into())));
                        before.map(|before| {
                            revision += 1;
                            let (revision, status) = (Revision(revision), InstanceStatus::Dead);
                            let instance = Instance { revision, status, ..before.instance.clone() };
                            Arc::new(Entry { instance, lease: Arc::clone(&before.lease) })
                        })
                    }
                    Event::Purge { ago } => {
                        purged = purged.max(revision.saturating_sub(ago));
                        let is_dead = |row: &Entry| row.instance.status == InstanceStatus::Dead;
                        rows.retain(|_, row| !is_dead(row) || row.instance.revision.0 > purged);
                        None
                    }
                    Event::Reload => {
                        writer.replace(cluster(revision, purged), rows.values().cloned().collect::<Vec<_>>());
                        continue;
                    }
                };
                rows.extend(changed.iter().map(|entry| (entry.instance.instance_id, Arc::clone(entry))));
                writer.apply(cluster(revision, purged), changed);
            }
            let snapshot = view.snapshot();
            let recount = |wanted: &dyn Fn(&Entry) -> bool| {
                let rows = rows.values().filter(|row| wanted(row));
                rows.fold(Usage::default(), |sum, row| sum + Usage::of_record(row.instance.record_bytes()))
            };
            prop_assert_eq!(snapshot.usage(), recount(&|_| true));
            for origin in origins().flatten() {
                prop_assert_eq!(snapshot.usage_of(origin), recount(&|row| row.lease.origin() == Some(origin)));
            }
        }
    }
}
