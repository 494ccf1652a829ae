//! Logical ids, the worst first, filtered, a page at a time.
//!
//! The names in trouble come from the last survey, kind by kind; then every other name in order, walked in the snapshot;
//! last those that all have left. A page ends at a place that stays valid whatever changes in between.

use super::{
    Snapshot,
    survey::{Moment, NameState, NameSummary, Survey},
};
use crate::model::LogicalId;

/// Most names looked at for one page: a filter that finds little ends its page early instead of holding a thread.
pub const EXAMINED_MAX: usize = 20_000;

/// Which names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameFilter {
    /// Those that contain this, whatever the case; empty means all.
    pub text: String,
    /// Those in this state.
    pub state: Option<NameState>,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// In the names of this state; [`NameState::Served`] stands for every name that the survey does not list.
    pub state: NameState,
    /// After this name.
    pub logical_id: LogicalId,
}

/// One page.
#[derive(Debug, Default)]
pub struct NamesPage {
    /// The names.
    pub rows: Vec<(LogicalId, NameSummary)>,
    /// Where it ended, if more may follow.
    pub next: Option<Place>,
}

/// Lists at most `size` names after `after`.
#[must_use]
pub fn names(
    snapshot: &Snapshot,
    survey: &Survey,
    filter: &NameFilter,
    after: Option<&Place>,
    size: usize,
    now: Moment,
) -> NamesPage {
    let mut page = NamesPage::default();
    let Some(cluster) = snapshot.cluster() else { return page };
    let text = filter.text.to_lowercase();
    let first = after.map_or(NameState::Unserved, |place| place.state);
    let states = NameState::ALL.into_iter().filter(|state| *state >= first);
    let mut examined = 0;
    for state in states.filter(|state| filter.state.is_none_or(|wanted| wanted == *state)) {
        let after = after.filter(|place| place.state == state).map(|place| &place.logical_id);
        for logical_id in section(snapshot, survey, state, after) {
            let place = || Some(Place { state, logical_id: logical_id.clone() });
            if text.is_empty() || logical_id.as_str().to_lowercase().contains(&text) {
                // Who has gone since the survey is left out.
                if let Some(name) = snapshot.name(logical_id.as_str()) {
                    let summary = survey.summary(logical_id, name, cluster.epoch, now);
                    page.rows.push((logical_id.clone(), summary));
                }
            }
            examined += 1;
            if page.rows.len() == size || examined == EXAMINED_MAX {
                page.next = place();
                return page;
            }
        }
    }
    page
}

/// The names of one state after a name, in order.
fn section<'a>(
    snapshot: &'a Snapshot,
    survey: &'a Survey,
    state: NameState,
    after: Option<&'a LogicalId>,
) -> Box<dyn Iterator<Item = &'a LogicalId> + 'a> {
    if state == NameState::Served {
        let names = snapshot.names_from(after.map_or("", LogicalId::as_str)).map(|(logical_id, _)| logical_id);
        return Box::new(names.filter(move |name| Some(*name) != after && !survey.lists(name)));
    }
    let listed = survey.listed(state);
    let from = after.map_or(0, |after| listed.partition_point(|name| name <= after));
    Box::new(listed.iter().skip(from))
}
