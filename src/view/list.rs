//! Instances by logical id and instance id, filtered, a page at a time.
//!
//! A page is read from one snapshot. The place where it ended is a name and an instance id, so the next page goes on
//! from there whatever has changed in between: no instance that was there all the time is left out or shown twice.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::{entry::Entry, name::Service, snapshot::Snapshot};
use chrono::{DateTime, Utc};

use crate::{
    access::Names,
    model::{Epoch, InstanceId, InstanceStatus, Labels, LogicalId, Revision},
};

/// What to list; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// This logical id alone; empty means any.
    pub logical_id: String,
    /// Logical ids that begin with this.
    pub logical_id_prefix: String,
    /// Statuses; none means all but dead.
    pub statuses: BTreeSet<InstanceStatus>,
    /// The node; empty means any.
    pub node_id: String,
    /// Labels that all must be there.
    pub labels: Labels,
    /// Alive at this time, instead of by their status now.
    pub alive_at: Option<DateTime<Utc>>,
    /// What the caller may read: other names do not exist for it.
    pub readable: Names,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Logical id of the last instance shown.
    pub logical_id: LogicalId,
    /// Its instance id.
    pub instance_id: InstanceId,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Page {
    /// The instances.
    pub entries: Vec<Arc<Entry>>,
    /// Where it ended, if more may follow.
    pub next: Option<Cursor>,
}

/// Most instances looked at for one page: a filter that finds little ends its page early instead of holding a thread.
const EXAMINED_MAX: usize = 100_000;
/// Most changes looked at to tell some of them, likewise.
const CHANGES_EXAMINED_MAX: usize = 20_000;

/// Lists at most `size` instances after `after`.
#[must_use]
pub fn page(snapshot: &Snapshot, filter: &Filter, after: Option<&Cursor>, size: usize) -> Page {
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    let Some(cluster) = snapshot.cluster() else { return Page { entries, next: None } };
    let first = after.map_or(filter.first_name(), |after| after.logical_id.as_str());
    let candidates = snapshot
        .readable_from(first, &filter.readable)
        .take_while(|(logical_id, _)| filter.names(logical_id))
        .flat_map(|(_, name)| name.all.iter())
        .skip_while(|entry| after.is_some_and(|after| !is_after(entry, after)));
    let mut examined: Option<&Arc<Entry>> = None;
    for (count, entry) in candidates.enumerate() {
        if entries.len() == size || count == EXAMINED_MAX {
            return Page { entries, next: examined.map(|entry| Cursor::of(entry)) };
        }
        if filter.matches(entry, cluster.epoch) {
            entries.push(Arc::clone(entry));
        }
        examined = Some(entry);
    }
    Page { entries, next: None }
}

/// The first unserved logical ids, at most `limit`, among as many `readable` names as one call may look at.
#[must_use]
pub fn unserved(snapshot: &Snapshot, readable: &Names, limit: usize) -> Vec<LogicalId> {
    let Some(cluster) = snapshot.cluster() else { return Vec::new() };
    let known = usize::try_from(snapshot.counts().logical_ids_unserved).unwrap_or(usize::MAX);
    let names = snapshot.readable_from("", readable).take(EXAMINED_MAX);
    let unserved = names
        .filter(|(_, name)| name.service(cluster.epoch) == Service::Unserved)
        .map(|(logical_id, _)| logical_id.clone());
    // With all of them found, there is no reason to look at the rest.
    unserved.take(limit.min(known)).collect()
}

/// What changed in the names of a filter, or as much of it as is told at once.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The instances, by revision.
    pub entries: Vec<Arc<Entry>>,
    /// Everything up to this revision is among them, or was seen before.
    pub reached: Revision,
}

/// What changed after a revision in the names of a filter, whether or not it matches, and what left these names since;
/// at most `size` instances.
#[must_use]
pub fn changed_after(snapshot: &Snapshot, filter: &Filter, revision: Revision, size: usize) -> Changed {
    let left: HashSet<InstanceId> = snapshot
        .moves_after(revision)
        .filter(|moved| filter.names(&moved.from))
        .map(|moved| moved.instance_id)
        .collect();
    let mut changed = Changed { entries: Vec::new(), reached: snapshot.revision() };
    let named = snapshot
        .name(&filter.logical_id)
        .filter(|_| filter.readable.contains(&filter.logical_id))
        .map(|name| name.all.as_slice())
        .unwrap_or_default();
    if !filter.logical_id.is_empty() && named.len() + left.len() <= size {
        // One name, while a million others may have changed: those are not looked at.
        let left = left.iter().filter_map(|instance_id| snapshot.instance(*instance_id));
        let left = left.filter(|entry| !filter.names(&entry.instance.logical_id));
        let named = named.iter().filter(|entry| entry.instance.revision > revision);
        changed.entries = named.chain(left).map(Arc::clone).collect();
        changed.entries.sort_unstable_by_key(|entry| entry.instance.revision);
        return changed;
    }
    let mut examined = revision;
    for (count, entry) in snapshot.changed_after(revision).enumerate() {
        if changed.entries.len() == size || count == CHANGES_EXAMINED_MAX {
            changed.reached = examined;
            break;
        }
        if filter.names(&entry.instance.logical_id) || left.contains(&entry.instance.instance_id) {
            changed.entries.push(Arc::clone(entry));
        }
        examined = entry.instance.revision;
    }
    changed
}

/// Whether [`changed_after`] knows all that changed.
#[must_use]
pub fn can_tell_changes(snapshot: &Snapshot, filter: &Filter, after: Revision) -> bool {
    let is_unnamed = filter.logical_id.is_empty() && filter.logical_id_prefix.is_empty();
    let everything = is_unnamed && filter.readable.is_everything();
    let recorded = snapshot.cluster().is_some_and(|cluster| cluster.purged <= after && after <= cluster.revision);
    recorded && snapshot.changes_known_after() <= after && (everything || snapshot.moves_known_after() <= after)
}

impl Cursor {
    /// After an instance.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        Self { logical_id: entry.instance.logical_id.clone(), instance_id: entry.instance.instance_id }
    }
}

impl Filter {
    /// Whether an instance matches, as seen in an epoch.
    #[must_use]
    pub fn matches(&self, entry: &Entry, epoch: Epoch) -> bool {
        let status = entry.instance.status_in(epoch);
        let status_matches = match self.alive_at {
            Some(time) => entry.instance.was_alive_at(time),
            None if self.statuses.is_empty() => status != InstanceStatus::Dead,
            None => self.statuses.contains(&status),
        };
        status_matches
            && self.names(&entry.instance.logical_id)
            && (self.node_id.is_empty() || entry.instance.node_id.as_deref() == Some(self.node_id.as_str()))
            && entry.instance.labels.contains(&self.labels)
    }

    /// The least logical id that can match.
    fn first_name(&self) -> &str {
        if self.logical_id.is_empty() { &self.logical_id_prefix } else { &self.logical_id }
    }

    /// Whether a logical id can match.
    fn names(&self, logical_id: &LogicalId) -> bool {
        let is_asked_for = if self.logical_id.is_empty() {
            logical_id.as_str().starts_with(&self.logical_id_prefix)
        } else {
            logical_id.as_str() == self.logical_id
        };
        is_asked_for && self.readable.contains(logical_id.as_str())
    }
}

fn is_after(entry: &Entry, position: &Cursor) -> bool {
    (&entry.instance.logical_id, entry.instance.instance_id) > (&position.logical_id, position.instance_id)
}
