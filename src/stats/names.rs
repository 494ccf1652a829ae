//! Logical ids, the worst first, searched, a page at a time.
//!
//! The names with a problem come from the latest statistics, state by state; then every other name in order, walked in the snapshot;
//! last those that all have left. A page ends at a place that stays valid whatever changes in between.
//!
//! What is asked for by its whole name or id is looked up and comes first, so that it is found at once among a million.
//! Everything else is found by looking: at most [`EXAMINED_MAX`] for one page, and the next page goes on from there, so
//! that a search that finds little costs no caller more than another, and is still complete at its end.

use std::sync::Arc;

use super::{
    registry_stats::{NameState, NameSummary, RegistryStats, Timestamps},
    search::{Found, Search},
};
use crate::{
    access::Names,
    model::{Epoch, LogicalId},
    view::{Entry, Snapshot},
};

/// Most names and instances looked at for one page: a search that finds little ends its page early instead of holding a
/// thread.
pub const EXAMINED_MAX: usize = 20_000;

/// Which names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameFilter {
    /// Those that it finds.
    pub search: Search,
    /// Those in this state.
    pub state: Option<NameState>,
    /// What the caller may read: other names do not exist for it.
    pub readable: Names,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// In the names of this state; [`NameState::Served`] means every name that the statistics do not list.
    pub state: NameState,
    /// After this name.
    pub logical_id: LogicalId,
}

/// One name of a page.
#[derive(Clone, Debug)]
pub struct NameRow {
    /// The name.
    pub logical_id: LogicalId,
    /// How it is doing.
    pub summary: NameSummary,
    /// What was found of it, if that is not its name.
    pub found: Option<(Found, Arc<Entry>)>,
}

/// One page.
#[derive(Debug, Default)]
pub struct NamesPage {
    /// The names.
    pub rows: Vec<NameRow>,
    /// Where it ended, if more may follow.
    pub next: Option<Cursor>,
}

/// Lists at most `size` names after `after`.
#[must_use]
pub fn names(
    snapshot: &Snapshot,
    stats: &RegistryStats,
    filter: &NameFilter,
    after: Option<&Cursor>,
    size: usize,
    now: Timestamps,
) -> NamesPage {
    let Some(cluster) = snapshot.cluster() else { return NamesPage::default() };
    Walk { snapshot, stats, filter, epoch: cluster.epoch, now }.page(after, size)
}

/// The names among `wanted` that are on record, in that order.
#[must_use]
pub fn named<'a>(
    snapshot: &Snapshot,
    stats: &RegistryStats,
    wanted: impl Iterator<Item = &'a str>,
    now: Timestamps,
) -> Vec<NameRow> {
    let Some(cluster) = snapshot.cluster() else { return Vec::new() };
    let filter = NameFilter::default();
    let walk = Walk { snapshot, stats, filter: &filter, epoch: cluster.epoch, now };
    wanted.filter_map(|name| walk.row(&LogicalId::from_record(name), None)).collect()
}

/// One walk over the names.
struct Walk<'a> {
    snapshot: &'a Snapshot,
    stats: &'a RegistryStats,
    filter: &'a NameFilter,
    epoch: Epoch,
    now: Timestamps,
}

impl Walk<'_> {
    fn page(&self, after: Option<&Cursor>, size: usize) -> NamesPage {
        let exact = self.exact();
        let mut page = NamesPage::default();
        if after.is_none() {
            page.rows.extend(exact.clone());
        }
        if page.rows.len() == size {
            page.next = Some(Cursor { state: NameState::Unserved, logical_id: LogicalId::from_record("") });
            return page;
        }
        let first = after.map_or(NameState::Unserved, |place| place.state);
        let mut examined = 0;
        for state in NameState::ALL.into_iter().filter(|state| *state >= first && self.walks(*state)) {
            let after = after.filter(|place| place.state == state).map(|place| &place.logical_id);
            for logical_id in self.section(state, after) {
                if exact.as_ref().is_none_or(|exact| exact.logical_id != *logical_id) {
                    page.rows.extend(self.examine(state, logical_id, &mut examined));
                }
                examined += 1;
                if page.rows.len() == size || examined >= EXAMINED_MAX {
                    page.next = Some(Cursor { state, logical_id: logical_id.clone() });
                    return page;
                }
            }
        }
        page
    }

    /// The name that is asked for by its whole name, or by the whole id of an instance of it.
    fn exact(&self) -> Option<NameRow> {
        let of_id = || self.filter.search.instance_id().and_then(|id| self.snapshot.instance(id));
        let row = match self.row(&LogicalId::from_record(self.filter.search.text()), None) {
            Some(row) => row,
            None => of_id()
                .and_then(|entry| self.row(&entry.instance.logical_id, Some((Found::InstanceId, Arc::clone(entry)))))?,
        };
        (self.is_wanted(&row) && self.filter.readable.contains(row.logical_id.as_str())).then_some(row)
    }

    /// Whether names of the filter may be in the section of a state. The statistics list so many of each state and no more;
    /// the others are among those that it does not list.
    fn walks(&self, section: NameState) -> bool {
        let is_cut = |state| self.stats.count(state) > self.stats.listed(state).len() as u64;
        match self.filter.state {
            None => true,
            Some(state) => state == section || section == NameState::Served && is_cut(state),
        }
    }

    /// The row of a name, if it is one of those asked for. Adds to `examined` what that costs beyond the name.
    fn examine(&self, section: NameState, logical_id: &LogicalId, examined: &mut usize) -> Option<NameRow> {
        let found = if self.filter.search.finds_name(logical_id) {
            None
        } else {
            // A name that has gone since the pass is left out.
            let name = self.snapshot.name(logical_id.as_str()).filter(|_| self.filter.search.is_for_instances())?;
            *examined += name.all.len();
            let members = name.alive.iter().chain(&name.all);
            Some(members.into_iter().find_map(|entry| Some((self.filter.search.finds(entry)?, Arc::clone(entry))))?)
        };
        let row = self.row(logical_id, found)?;
        if section == NameState::Served && self.filter.state.is_some() {
            *examined += usize::try_from(row.summary.dead + row.summary.alive).unwrap_or(usize::MAX);
            return self.is_wanted(&row).then_some(row);
        }
        Some(row)
    }

    fn is_wanted(&self, row: &NameRow) -> bool {
        self.filter.state.is_none_or(|state| row.summary.state == state)
    }

    fn row(&self, logical_id: &LogicalId, found: Option<(Found, Arc<Entry>)>) -> Option<NameRow> {
        let name = self.snapshot.name(logical_id.as_str())?;
        let summary = self.stats.summary(logical_id, name, self.epoch, self.now);
        Some(NameRow { logical_id: logical_id.clone(), summary, found })
    }

    /// The names of one state after a name, in order.
    fn section<'s>(
        &'s self,
        state: NameState,
        after: Option<&'s LogicalId>,
    ) -> Box<dyn Iterator<Item = &'s LogicalId> + 's> {
        if state == NameState::Served {
            let first = after.map_or("", LogicalId::as_str);
            let names = self.snapshot.readable_from(first, &self.filter.readable).map(|(name, _)| name);
            return Box::new(names.filter(move |name| Some(*name) != after && !self.stats.lists(name)));
        }
        let listed = self.stats.listed(state);
        let from = after.map_or(0, |after| listed.partition_point(|name| name <= after));
        Box::new(listed.iter().skip(from).filter(|name| self.filter.readable.contains(name.as_str())))
    }
}
