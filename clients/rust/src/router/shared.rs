//! One watch for many names: all live instances under a prefix, by name.
//!
//! A watch for each name is what a router of a few names wants: it is told of these alone. A router of thousands of names
//! would have thousands of streams, of which a connection takes 256, a daemon 10,000 and an identity with quotas 100. So with
//! more than [`MANY`] names it follows the longest prefix that they have in common by one stream, and keeps what it tells,
//! also of names that were not used yet.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::known::{Name, Position, confirmed, insert, mark, remove};
use crate::{
    model::Instance,
    watch::{Batch, Change},
};

/// With more watches of single names than this, a router goes on with one for all of them.
pub(super) const MANY: usize = 32;
/// How often names of which nothing is told are told that they are right.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// A watch of many names.
#[derive(Debug)]
pub(super) struct Shared {
    number: u64,
    prefix: String,
    told: Mutex<Told>,
}

/// What the watch has told.
#[derive(Debug, Default)]
pub(super) struct Told {
    known: Held,
    /// The part of a snapshot that has arrived.
    coming: Option<Held>,
    is_complete: bool,
    /// Whether the caller may read some names alone.
    is_filtered: bool,
    position: Position,
    confirmed: Option<Instant>,
    cluster_epoch: Uuid,
    swept: Option<Instant>,
    /// Nothing more is taken over.
    pub(super) has_ended: bool,
}

/// Instances, in the order of [`super::rank::seniority`] for each name.
#[derive(Clone, Debug, Default)]
struct Held {
    by_name: HashMap<Arc<str>, Vec<Arc<Instance>>>,
    names: HashMap<Uuid, Arc<str>>,
}

/// What a batch has changed.
#[derive(Debug, Default)]
pub(super) struct Changed {
    names: HashSet<Arc<str>>,
    /// All names may have changed.
    is_whole: bool,
    /// A snapshot was completed for the first time.
    pub(super) is_first: bool,
}

impl Changed {
    /// Whether this name has changed.
    pub(super) fn has(&self, name: &str) -> bool {
        self.is_whole || self.names.contains(name)
    }

    /// Those that have, unless all may have.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

impl Shared {
    /// A watch of what these names have in common.
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let prefix = names.map(str::to_owned).reduce(|prefix, name| common(&prefix, &name).to_owned());
        let told = Told { coming: Some(Held::default()), ..Told::default() };
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Self { number, prefix: prefix.unwrap_or_default(), told: Mutex::new(told) }
    }

    /// Its number, from 1 on.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// What is watched.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether it tells of this name.
    pub(super) fn covers(&self, name: &str) -> bool {
        name.starts_with(&self.prefix)
    }

    /// What it has told. Locked before the names of the router.
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a name that is used for the first time needs a watch of its own, which tells whether the caller may read it.
    pub(super) fn leaves_open(&self, told: &Told, logical_id: &str) -> bool {
        told.is_filtered && told.instances(logical_id).is_empty()
    }

    /// Fills a name with what was told of it, as far as that is complete.
    pub(super) fn fill(&self, told: &Told, logical_id: &str, name: &Name) {
        if told.is_complete {
            name.fill(self.number, told.instances(logical_id), &told.position, told.confirmed);
        }
    }

    /// Tells a name what a batch has changed of it, or that nothing has.
    pub(super) fn tell(&self, told: &Told, changed: &Changed, logical_id: &str, name: &Name) {
        if name.filled_by() != self.number && self.leaves_open(told, logical_id) {
            return;
        }
        if changed.has(logical_id) || name.filled_by() != self.number {
            self.fill(told, logical_id, name);
        } else {
            name.confirm(&told.position, told.confirmed);
        }
    }
}

impl Told {
    fn instances(&self, name: &str) -> &[Arc<Instance>] {
        self.known.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Takes a batch over. Returns what it has changed; `None` while a snapshot is incomplete.
    pub(super) fn apply(&mut self, batch: Batch) -> Option<Changed> {
        if batch.reset {
            self.coming = Some(Held::default());
        }
        let mut changed = Changed::default();
        let held = self.coming.as_mut().unwrap_or(&mut self.known);
        batch.changes.into_iter().for_each(|change| held.apply(change, &mut changed.names));
        if !batch.complete {
            return None;
        }
        if let Some(whole) = self.coming.take() {
            (self.known, changed.is_whole, changed.is_first) = (whole, true, !self.is_complete);
            self.is_complete = true;
        }
        if changed.is_whole || self.cluster_epoch != batch.cluster_epoch {
            // Instances of an epoch that has passed are dead, with or without a change that says so.
            self.known.retain_epoch(batch.cluster_epoch);
            (self.cluster_epoch, changed.is_whole) = (batch.cluster_epoch, true);
        }
        if *self.position.history_id != *batch.history_id {
            self.position.history_id = batch.history_id.into();
        }
        (self.position.revision, self.confirmed) = (batch.revision, confirmed(batch.stale_for));
        self.is_filtered = batch.filtered;
        Some(changed)
    }

    /// Whether it is time to tell all names, not only those that have changed.
    pub(super) fn sweeps(&mut self, changed: &Changed) -> bool {
        let now = Instant::now();
        let is_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_PERIOD);
        if is_due || changed.is_whole {
            self.swept = Some(now);
        }
        is_due || changed.is_whole
    }
}

impl Held {
    fn apply(&mut self, change: Change, changed: &mut HashSet<Arc<str>>) {
        match change {
            Change::Put(instance) => {
                let id = instance.instance_id;
                // It may have been registered under another name before.
                self.remove(id, changed);
                let name = self.name(&instance.logical_id);
                self.names.insert(id, Arc::clone(&name));
                insert(self.by_name.entry(Arc::clone(&name)).or_default(), Arc::from(instance));
                changed.insert(name);
            }
            Change::Gone(instance) => self.remove(instance.instance_id, changed),
            Change::Suspect { instance_id, lease_id, suspect, .. } => {
                let Some(name) = self.names.get(&instance_id) else { return };
                let known = self.by_name.get_mut(name).into_iter();
                known.for_each(|instances| mark(instances, instance_id, lease_id, suspect));
                changed.insert(Arc::clone(name));
            }
        }
    }

    /// The name, as it is stored already if it is.
    fn name(&self, name: &str) -> Arc<str> {
        self.by_name.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
    }

    fn remove(&mut self, id: Uuid, changed: &mut HashSet<Arc<str>>) {
        let Some(name) = self.names.remove(&id) else { return };
        if let Some(instances) = self.by_name.get_mut(&name) {
            remove(instances, id);
            if instances.is_empty() {
                self.by_name.remove(&name);
            }
        }
        changed.insert(name);
    }

    fn retain_epoch(&mut self, epoch: Uuid) {
        self.by_name.retain(|_, instances| {
            instances.retain(|one| one.cluster_epoch == epoch);
            !instances.is_empty()
        });
        let kept: HashSet<Uuid> = self.by_name.values().flatten().map(|one| one.instance_id).collect();
        self.names.retain(|id, _| kept.contains(id));
    }
}

/// The longest beginning that two texts have in common.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let same = one.char_indices().zip(other.chars()).find(|((_, one), other)| one != other);
    match same {
        Some(((at, _), _)) => &one[..at],
        None => &one[..one.len().min(other.len())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: u128, name: &str, epoch: u128) -> Box<Instance> {
        let (instance_id, cluster_epoch) = (Uuid::from_u128(id), Uuid::from_u128(epoch));
        Box::new(Instance { instance_id, cluster_epoch, logical_id: name.into(), ..Instance::default() })
    }

    fn batch(changes: Vec<Change>, epoch: u128) -> Batch {
        Batch { changes, complete: true, cluster_epoch: Uuid::from_u128(epoch), ..Batch::default() }
    }

    fn ids(told: &Told, name: &str) -> Vec<u128> {
        told.instances(name).iter().map(|one| one.instance_id.as_u128()).collect()
    }

    #[test]
    fn prefix_is_what_all_names_have_in_common() {
        let prefix = |names: &[&str]| Shared::of(names.iter().copied()).prefix().to_owned();
        assert_eq!(prefix(&["organ-1", "organ-20", "organ-3"]), "organ-");
        assert_eq!(prefix(&["organ", "organ-20"]), "organ");
        assert_eq!(prefix(&["organ-20", "organ"]), "organ");
        assert_eq!(prefix(&["a", "b"]), "");
        assert_eq!(prefix(&["größe", "grün"]), "gr");
        assert!(Shared::of(["organ-1", "organ-2"].into_iter()).covers("organ-9"));
    }

    #[test]
    fn snapshot_counts_when_it_is_complete_and_instances_move_between_names() {
        let mut told = Shared::of(std::iter::empty()).told.into_inner().unwrap();
        let part = Batch { complete: false, ..batch(vec![Change::Put(instance(1, "a", 7))], 7) };
        assert!(told.apply(part).is_none() && ids(&told, "a").is_empty());
        let whole = told.apply(batch(vec![Change::Put(instance(2, "b", 7))], 7)).unwrap();
        assert!(whole.is_whole && whole.is_first && (ids(&told, "a"), ids(&told, "b")) == (vec![1], vec![2]));
        let moved = told.apply(batch(vec![Change::Put(instance(1, "b", 7))], 7)).unwrap();
        assert!(moved.has("a") && moved.has("b") && !moved.has("c"));
        assert_eq!((ids(&told, "a"), ids(&told, "b")), (vec![], vec![1, 2]));
        // It is gone under whatever name it has now.
        let gone = told.apply(batch(vec![Change::Gone(instance(1, "elsewhere", 7))], 7)).unwrap();
        assert!(gone.has("b") && ids(&told, "b") == [2]);
        let reset = Batch { reset: true, ..batch(vec![Change::Put(instance(3, "a", 7))], 7) };
        assert!(!told.apply(reset).unwrap().is_first && (ids(&told, "a"), ids(&told, "b")) == (vec![3], vec![]));
    }

    #[test]
    fn instances_of_a_passed_epoch_are_gone_without_a_change_that_says_so() {
        let mut told = Shared::of(std::iter::empty()).told.into_inner().unwrap();
        told.apply(batch(vec![Change::Put(instance(1, "a", 7)), Change::Put(instance(2, "a", 7))], 7)).unwrap();
        let rotated = told.apply(batch(vec![Change::Put(instance(3, "a", 8))], 8)).unwrap();
        assert!(rotated.is_whole && ids(&told, "a") == [3] && told.known.names.len() == 1);
    }
}
