//! Instances by logical id and instance id, filtered, a page at a time.
//!
//! A page is read from one snapshot. The place where it ended is a name and an instance id, so the next page goes on
//! from there whatever has changed in between: nobody who was there all the time is left out or shown twice.

use std::{collections::BTreeSet, sync::Arc};

use super::{Entry, Snapshot};
use crate::model::{Epoch, InstanceId, InstanceStatus, Labels, LogicalId};

/// What to list; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Logical ids that begin with this.
    pub logical_id_prefix: String,
    /// Statuses; none means all but dead.
    pub statuses: BTreeSet<InstanceStatus>,
    /// The node; empty means any.
    pub node_id: String,
    /// Labels that all must be there.
    pub labels: Labels,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
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
    pub next: Option<Position>,
}

/// Most instances looked at for one page: a filter that finds little ends its page early instead of holding a thread.
const EXAMINED_MAX: usize = 100_000;

/// Lists at most `size` instances after `after`.
#[must_use]
pub fn page(snapshot: &Snapshot, filter: &Filter, after: Option<&Position>, size: usize) -> Page {
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    let Some(cluster) = snapshot.cluster() else { return Page { entries, next: None } };
    let first = after.map_or(filter.logical_id_prefix.as_str(), |after| after.logical_id.as_str());
    let candidates = snapshot
        .names_from(first)
        .take_while(|(logical_id, _)| logical_id.as_str().starts_with(&filter.logical_id_prefix))
        .flat_map(|(_, name)| name.all.iter())
        .skip_while(|entry| after.is_some_and(|after| !is_after(entry, after)));
    let mut examined: Option<&Arc<Entry>> = None;
    for (count, entry) in candidates.enumerate() {
        if entries.len() == size || count == EXAMINED_MAX {
            return Page { entries, next: examined.map(|entry| position(entry)) };
        }
        if filter.matches(entry, cluster.epoch) {
            entries.push(Arc::clone(entry));
        }
        examined = Some(entry);
    }
    Page { entries, next: None }
}

impl Filter {
    fn matches(&self, entry: &Entry, epoch: Epoch) -> bool {
        let status = entry.instance.status_in(epoch);
        let status_matches =
            if self.statuses.is_empty() { status != InstanceStatus::Dead } else { self.statuses.contains(&status) };
        status_matches
            && (self.node_id.is_empty() || entry.instance.node_id.as_deref() == Some(self.node_id.as_str()))
            && entry.instance.labels.contains(&self.labels)
    }
}

fn is_after(entry: &Entry, position: &Position) -> bool {
    (&entry.instance.logical_id, entry.instance.instance_id) > (&position.logical_id, position.instance_id)
}

fn position(entry: &Entry) -> Position {
    Position { logical_id: entry.instance.logical_id.clone(), instance_id: entry.instance.instance_id }
}
