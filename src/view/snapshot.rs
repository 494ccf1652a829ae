//! The registry at one revision.
//!
//! The maps are persistent: a clone shares everything, and a change copies only the path to what it changes, so a
//! snapshot can be published for every batch of changes while readers still hold older ones.

use std::sync::Arc;

use imbl::{HashMap, OrdMap, OrdSet};

use super::{
    entry::Entry,
    name::{Name, Service},
    usage::UsageCounts,
};
use crate::{
    access::{Names, names::Range},
    model::{Cluster, Epoch, Instance, InstanceId, InstanceStatus, LogicalId, Origin, Owner, Revision, Usage},
};

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instances that are starting.
    pub starting: u64,
    /// Instances that are alive.
    pub alive: u64,
    /// Instances that are draining.
    pub draining: u64,
    /// Dead instances on record.
    pub dead: u64,
    /// Logical ids with an instance that is alive.
    pub logical_ids_live: u64,
    /// Logical ids on record without one that did not leave on purpose.
    pub logical_ids_unserved: u64,
    /// Logical ids on record without one that left on purpose.
    pub logical_ids_left: u64,
}

impl Counts {
    /// Logical ids on record.
    #[must_use]
    pub const fn names(&self) -> u64 {
        self.logical_ids_live + self.logical_ids_unserved + self.logical_ids_left
    }

    fn of(&mut self, status: InstanceStatus) -> &mut u64 {
        match status {
            InstanceStatus::Starting => &mut self.starting,
            InstanceStatus::Alive => &mut self.alive,
            InstanceStatus::Draining => &mut self.draining,
            InstanceStatus::Dead => &mut self.dead,
        }
    }

    fn of_names(&mut self, service: Service) -> &mut u64 {
        match service {
            Service::Live => &mut self.logical_ids_live,
            Service::Unserved => &mut self.logical_ids_unserved,
            Service::Left => &mut self.logical_ids_left,
        }
    }
}

/// Most changes that are kept in their order. A watcher that was away for longer begins again.
pub(super) const CHANGES_MAX: usize = if cfg!(test) { 200 } else { 200_000 };
/// Most moves that are remembered.
const MOVES_MAX: usize = 1_000;

/// An instance id that was registered again under another logical id: its row under the former one, which would have
/// told of its end, is no more.
#[derive(Clone, Debug)]
pub struct Move {
    /// The logical id it left.
    pub from: LogicalId,
    /// Whose.
    pub instance_id: InstanceId,
}

/// The registry at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    cluster: Option<Cluster>,
    instances: OrdMap<InstanceId, Arc<Entry>>,
    /// By hash, because a lookup in an ordered map compares with twenty names, each somewhere else in memory.
    by_name: HashMap<LogicalId, Arc<Name>>,
    /// The same names in order, for lists.
    names: OrdSet<LogicalId>,
    /// The instances that changed last, so that who resumes pays for what changed and not for what is there.
    by_revision: OrdMap<Revision, Arc<Entry>>,
    changes_known_after: Revision,
    counts: Counts,
    usage: UsageCounts,
    /// Instances that died with their epoch, which is not yet recorded: none but for seconds after a rotation.
    fenced: u64,
    moves: OrdMap<Revision, Move>,
    moves_known_after: Revision,
}

impl Snapshot {
    /// The cluster row; `None` before the registry is loaded.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The revision of this snapshot.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.cluster.as_ref().map(|cluster| cluster.revision).unwrap_or_default()
    }

    /// What all records take.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage.total()
    }

    /// What the records take that an address registered through this daemon.
    #[must_use]
    pub fn usage_of(&self, origin: Origin) -> Usage {
        self.usage.of(origin)
    }

    /// How many records an identity owns.
    #[must_use]
    pub fn records_of(&self, owner: &Owner) -> u64 {
        self.usage.records_of(owner)
    }

    /// An instance by its id, dead ones included while they are on record.
    #[must_use]
    pub fn instance(&self, instance_id: InstanceId) -> Option<&Arc<Entry>> {
        self.instances.get(&instance_id)
    }

    /// The instances of a logical id.
    #[must_use]
    pub fn name(&self, logical_id: &str) -> Option<&Arc<Name>> {
        self.by_name.get(logical_id)
    }

    /// All logical ids from `first` on, in order.
    pub fn logical_ids_from(&self, first: &str) -> impl Iterator<Item = &LogicalId> {
        self.names.range(LogicalId::from_record(first)..)
    }

    /// All logical ids from `first` on, in order, with their instances.
    pub fn names_from(&self, first: &str) -> impl Iterator<Item = (&LogicalId, &Arc<Name>)> {
        self.logical_ids_from(first).filter_map(|logical_id| self.by_name.get_key_value(logical_id))
    }

    /// Those of them that a caller may read. The others are not looked at, so a caller that may read little costs little.
    pub fn readable_from<'a>(
        &'a self,
        first: &'a str,
        readable: &'a Names,
    ) -> impl Iterator<Item = (&'a LogicalId, &'a Arc<Name>)> {
        readable.ranges().into_iter().flat_map(move |range| {
            let (text, is_exact) = match range {
                Range::Exact(name) => (name, true),
                Range::Prefix(prefix) => (prefix, false),
            };
            let of_range = move |name: &str| if is_exact { name == text } else { name.starts_with(text) };
            self.names_from(first.max(text)).take_while(move |(name, _)| of_range(name.as_str()))
        })
    }

    /// Instances that changed after a revision, by revision.
    pub fn changed_after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_revision.range(after(revision)..).map(|(_, entry)| entry)
    }

    /// Changes up to this revision may be unknown.
    #[must_use]
    pub fn changes_known_after(&self) -> Revision {
        self.changes_known_after
    }

    /// Instances that left a logical id after a revision, by revision.
    pub fn moves_after(&self, revision: Revision) -> impl Iterator<Item = &Move> {
        self.moves.range(after(revision)..).map(|(_, moved)| moved)
    }

    /// Moves up to this revision may be unknown.
    #[must_use]
    pub fn moves_known_after(&self) -> Revision {
        self.moves_known_after
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// All instances on record, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.instances.values()
    }

    /// Takes over the cluster row. A new epoch ends every instance of the others, without touching them.
    pub(super) fn set_cluster(&mut self, cluster: Cluster) {
        let rotated = self.epoch() != Some(cluster.epoch);
        self.cluster = Some(cluster);
        if rotated {
            self.recount();
        }
    }

    /// Takes over an instance, new or changed. Returns the one it takes the place of.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let before = self.load(Arc::clone(&entry));
        self.note_change(&entry);
        before
    }

    /// As [`Snapshot::insert`], while everything is loaded: [`Snapshot::order_changes`] has to follow.
    pub(super) fn load(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let before = self.remove(entry.instance.instance_id);
        let (epoch, fenced) = (self.epoch(), self.fenced);
        let name = self.by_name.entry(entry.instance.logical_id.clone()).or_default();
        let service_before = (!name.all.is_empty()).then(|| service(name, epoch, fenced));
        if service_before.is_none() {
            self.names.insert(entry.instance.logical_id.clone());
        }
        Arc::make_mut(name).insert(&entry);
        self.fenced += u64::from(is_fenced(&entry, epoch));
        let service = service(name, epoch, self.fenced);
        *self.counts.of(effective_status(&entry, epoch)) += 1;
        self.count_name(service_before, Some(service));
        if let Some(before) = &before {
            self.note_move(&before.instance, &entry.instance);
        }
        self.usage.add(&entry);
        self.instances.insert(entry.instance.instance_id, entry);
        before
    }

    /// Finds, once everything is loaded, what changed last: of a million, most need no place in that order.
    pub(super) fn order_changes(&mut self) {
        let mut latest: Vec<_> = self.instances.values().collect();
        let forgotten = latest.len().saturating_sub(CHANGES_MAX);
        if forgotten > 0 {
            latest.select_nth_unstable_by_key(forgotten, |entry| entry.instance.revision);
            let last = latest.drain(..forgotten).map(|entry| entry.instance.revision).max();
            self.changes_known_after = last.unwrap_or_default();
        }
        self.by_revision = latest.into_iter().map(|entry| (entry.instance.revision, Arc::clone(entry))).collect();
    }

    fn note_change(&mut self, entry: &Arc<Entry>) {
        self.by_revision.insert(entry.instance.revision, Arc::clone(entry));
        if self.by_revision.len() > CHANGES_MAX
            && let Some(first) = self.by_revision.get_min().map(|(revision, _)| *revision)
        {
            self.by_revision.remove(&first);
            self.changes_known_after = self.changes_known_after.max(first);
        }
    }

    /// Takes over, after everything was loaded, what the snapshot before it tells of moves.
    pub(super) fn continue_moves(&mut self, former: &Self) {
        self.moves = former.moves.clone();
        self.moves_known_after = former.moves_known_after;
        let known = former.entries().filter_map(|before| {
            let now = self.instances.get(&before.instance.instance_id)?;
            Some((Arc::clone(before), Arc::clone(now)))
        });
        for (before, now) in known.collect::<Vec<_>>() {
            self.note_move(&before.instance, &now.instance);
        }
    }

    /// Nothing is known of moves before everything was loaded, but that each of them needed a lease that took the place
    /// of another.
    pub(super) fn begin_moves(&mut self) {
        let replacing = self.instances.values().filter(|entry| entry.instance.replaces.is_some());
        let latest = replacing.map(|entry| entry.instance.lease_id.0).max();
        self.moves_known_after = Revision(latest.unwrap_or_default());
    }

    fn note_move(&mut self, before: &Instance, now: &Instance) {
        if before.logical_id == now.logical_id {
            return;
        }
        let moved = Move { from: before.logical_id.clone(), instance_id: now.instance_id };
        self.moves.insert(now.revision, moved);
        if self.moves.len() > MOVES_MAX
            && let Some((first, _)) = self.moves.get_min().cloned()
        {
            self.moves.remove(&first);
            self.moves_known_after = first;
        }
    }

    /// Removes an instance from the record.
    pub(super) fn remove(&mut self, instance_id: InstanceId) -> Option<Arc<Entry>> {
        let entry = self.instances.remove(&instance_id)?;
        self.by_revision.remove(&entry.instance.revision);
        self.usage.remove(&entry);
        let (epoch, fenced) = (self.epoch(), self.fenced);
        *self.counts.of(effective_status(&entry, epoch)) -= 1;
        self.fenced -= u64::from(is_fenced(&entry, epoch));
        if let Some(name) = self.by_name.get_mut(&entry.instance.logical_id) {
            let service_before = service(name, epoch, fenced);
            Arc::make_mut(name).remove(&entry);
            let service = (!name.all.is_empty()).then(|| service(name, epoch, self.fenced));
            if service.is_none() {
                self.by_name.remove(&entry.instance.logical_id);
                self.names.remove(&entry.instance.logical_id);
            }
            self.count_name(Some(service_before), service);
        }
        Some(entry)
    }

    fn epoch(&self) -> Option<Epoch> {
        self.cluster.as_ref().map(|cluster| cluster.epoch)
    }

    /// Counts a logical id by what it was before and is now; `None`: not on record.
    fn count_name(&mut self, before: Option<Service>, now: Option<Service>) {
        if let Some(before) = before {
            *self.counts.of_names(before) -= 1;
        }
        if let Some(now) = now {
            *self.counts.of_names(now) += 1;
        }
    }

    fn recount(&mut self) {
        let epoch = self.epoch();
        let mut counts = Counts::default();
        self.fenced = 0;
        for entry in self.instances.values() {
            *counts.of(effective_status(entry, epoch)) += 1;
            self.fenced += u64::from(is_fenced(entry, epoch));
        }
        for name in self.by_name.values() {
            *counts.of_names(service(name, epoch, self.fenced)) += 1;
        }
        self.counts = counts;
    }
}

/// The least revision after one.
fn after(revision: Revision) -> Revision {
    Revision(revision.0.saturating_add(1))
}

fn effective_status(entry: &Entry, epoch: Option<Epoch>) -> InstanceStatus {
    epoch.map_or(entry.instance.status, |epoch| entry.instance.status_in(epoch))
}

/// Whether it died with its epoch, which is not yet recorded.
fn is_fenced(entry: &Entry, epoch: Option<Epoch>) -> bool {
    entry.instance.status != InstanceStatus::Dead && effective_status(entry, epoch) == InstanceStatus::Dead
}

/// Whether a name is served, where `fenced` instances died with their epoch in the whole registry.
fn service(name: &Name, epoch: Option<Epoch>, fenced: u64) -> Service {
    match epoch {
        Some(epoch) if fenced > 0 => name.service(epoch),
        _ => name.settled_service(),
    }
}
