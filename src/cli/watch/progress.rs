//! Batches of a watch as lines to print, each with where to go on.
//!
//! Each line carries the revision to resume after once it was read. Changes come in the order of
//! their revisions, so after a change that is its own revision; in a snapshot, which comes by names, there is none (0).

use musterd_client::{Batch, Change};
use uuid::Uuid;

/// Where a watch can go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Seen up to this revision; 0 for not at all.
    pub(super) revision: u64,
    /// The history that the revision belongs to.
    pub(super) history_id: String,
}

/// What a line tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// Something happened to an instance.
    Event(Change),
    /// Drop everything: a snapshot follows.
    Reset,
    /// This epoch is current now; instances of any other are dead.
    Epoch,
    /// All there was at the start is told.
    Synced,
    /// Nothing new up to this revision.
    Bookmark,
}

/// One line to print.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) what: What,
    /// Where to go on after this line.
    pub(super) position: Position,
    pub(super) cluster_epoch: Uuid,
    pub(super) epoch_number: u64,
}

/// What was printed.
#[derive(Debug)]
pub(super) struct Progress {
    position: Position,
    epoch_number: u64,
    in_snapshot: bool,
    /// Whether SYNCED is still to be told.
    unsynced: bool,
    has_begun: bool,
}

impl Progress {
    /// Goes on after a position; with revision 0, begins with a snapshot.
    pub(super) fn new(position: Position) -> Self {
        let in_snapshot = position.revision == 0;
        Self { position, epoch_number: 0, in_snapshot, unsynced: true, has_begun: false }
    }

    /// The revision that has been reached.
    pub(super) fn revision(&self) -> u64 {
        self.position.revision
    }

    /// Whether there has been a batch.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Takes over a batch.
    pub(super) fn take(&mut self, batch: Batch) -> Vec<Line> {
        let mut lines = Vec::with_capacity(batch.changes.len() + 3);
        let (cluster_epoch, epoch_number) = (batch.cluster_epoch, batch.epoch_number);
        let line = |what, position: &Position| Line { what, position: position.clone(), cluster_epoch, epoch_number };
        let mut position = Position { revision: self.position.revision, history_id: batch.history_id };
        if batch.reset {
            (self.in_snapshot, self.unsynced, position.revision) = (true, true, 0);
            lines.push(line(What::Reset, &position));
        }
        // A snapshot from the start is all of the epoch it is told with; otherwise the instances known may be of another.
        let first_of_snapshot = self.epoch_number == 0 && self.in_snapshot;
        if epoch_number != self.epoch_number && !first_of_snapshot {
            lines.push(line(What::Epoch, &position));
        }
        for change in batch.changes {
            if let (false, Change::Put(one) | Change::Gone(one)) = (self.in_snapshot, &change) {
                // Old for a row that was purged.
                position.revision = position.revision.max(one.revision.min(batch.revision));
            }
            lines.push(line(What::Event(change), &position));
        }
        self.in_snapshot = !batch.complete;
        if batch.complete {
            position.revision = batch.revision;
            if std::mem::take(&mut self.unsynced) {
                lines.push(line(What::Synced, &position));
            }
        }
        if lines.is_empty() {
            lines.push(line(What::Bookmark, &position));
        }
        (self.position, self.epoch_number, self.has_begun) = (position, epoch_number, true);
        lines
    }
}

#[cfg(test)]
mod tests {
    use musterd_client::Instance;

    use super::*;

    fn at(revision: u64) -> Box<Instance> {
        let mut one = Instance::default();
        one.revision = revision;
        Box::new(one)
    }

    fn put(revision: u64) -> Change {
        Change::Put(at(revision))
    }

    fn batch(revision: u64, changes: Vec<Change>, complete: bool) -> Batch {
        let mut one = Batch::default();
        (one.revision, one.changes, one.complete) = (revision, changes, complete);
        (one.history_id, one.epoch_number) = ("h".into(), 1);
        one
    }

    /// The words of the lines with the revisions to resume after.
    fn told(progress: &mut Progress, batch: Batch) -> Vec<(&'static str, u64)> {
        let lines = progress.take(batch);
        lines.iter().map(|line| (super::super::text::word(&line.what), line.position.revision)).collect()
    }

    #[test]
    fn nothing_can_be_resumed_before_the_snapshot_is_complete() {
        let mut progress = Progress::new(Position::default());
        assert_eq!(told(&mut progress, batch(0, vec![put(4)], false)), [("PUT", 0)]);
        assert_eq!(told(&mut progress, batch(9, vec![put(3)], true)), [("PUT", 0), ("SYNCED", 9)]);
        assert_eq!(progress.position, Position { revision: 9, history_id: "h".into() });
    }

    #[test]
    fn a_change_can_be_resumed_after_its_own_revision() {
        let mut progress = Progress::new(Position { revision: 5, history_id: "h".into() });
        let changes = vec![Change::Gone(at(2)), put(7), put(8)];
        let expected = [("EPOCH", 5), ("GONE", 5), ("PUT", 7), ("PUT", 8), ("SYNCED", 9)];
        assert_eq!(told(&mut progress, batch(9, changes, true)), expected);
        assert_eq!(told(&mut progress, batch(9, Vec::new(), true)), [("BOOKMARK", 9)]);
        assert_eq!(told(&mut progress, batch(10, vec![put(10)], true)), [("PUT", 10)]);
    }

    #[test]
    fn reset_and_rotation_are_reported_before_their_effects() {
        let mut progress = Progress::new(Position { revision: 5, history_id: "old".into() });
        let mut reset = batch(3, vec![put(2)], true);
        reset.reset = true;
        assert_eq!(told(&mut progress, reset), [("RESET", 0), ("PUT", 0), ("SYNCED", 3)]);
        assert_eq!(progress.position, Position { revision: 3, history_id: "h".into() });
        let mut rotated = batch(4, Vec::new(), true);
        rotated.epoch_number = 2;
        assert_eq!(told(&mut progress, rotated), [("EPOCH", 3)]);
        assert_eq!(progress.revision(), 4);
    }
}
