//! The registry at any revision, replayed from the audit.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Change, Epoch, Evidence};
use crate::faults::history::Row;

/// The current epoch's number at a revision.
pub(crate) fn epoch_at(epochs: &[Epoch], revision: u64) -> u64 {
    epochs.iter().filter(|epoch| epoch.started <= revision).map(|epoch| epoch.number).max().unwrap_or_default()
}

/// Goes through the revisions upwards.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    evidence: &'a Evidence,
    changes: Vec<&'a Change>,
    next: usize,
    rows: BTreeMap<Uuid, &'a Row>,
}

impl<'a> Replay<'a> {
    /// Before the first revision.
    pub(crate) fn new(evidence: &'a Evidence) -> Self {
        let mut changes: Vec<_> = evidence.changes.iter().collect();
        changes.sort_by_key(|change| (change.row.revision, change.n));
        Self { evidence, changes, next: 0, rows: BTreeMap::new() }
    }

    /// Everything alive at a revision, which must not be lower than the one before: by instance id.
    pub(crate) fn at(&mut self, revision: u64) -> Vec<&'a Row> {
        while let Some(change) = self.changes.get(self.next).filter(|change| change.row.revision <= revision) {
            self.rows.insert(change.row.instance, &change.row);
            self.next += 1;
        }
        let epoch = epoch_at(&self.evidence.epochs, revision);
        self.rows.values().filter(|row| row.status != "dead" && row.epoch == epoch).copied().collect()
    }
}

/// What is different, in a few words; `None` if nothing is.
pub(crate) fn difference(told: &[&Row], truth: &[&Row]) -> Option<String> {
    if told == truth {
        return None;
    }
    let missing: Vec<_> = truth.iter().filter(|row| !told.contains(row)).collect();
    let wrong: Vec<_> = told.iter().filter(|row| !truth.contains(row)).collect();
    Some(format!(
        "{} missing or outdated, such as {:?}; {} wrong, such as {:?}",
        missing.len(),
        missing.first(),
        wrong.len(),
        wrong.first()
    ))
}
