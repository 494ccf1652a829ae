//! What a watch has seen, and from where it can go on.
//!
//! Responses come in, lines to print come out. What was printed must be enough to know the present: if a stream breaks
//! in the middle of a snapshot, nothing can be resumed, so what follows begins with RESET, as if the daemon had said so.
//!
//! Each line carries the revision to resume after for whoever has read up to that line. Changes come in the order of
//! their revisions, so after a change that is its own revision; in a snapshot, which comes by names, there is none (0).

use prost::Message as _;

use crate::{
    cli::exit::Error,
    proto::{shared, v1},
};

/// Where a watch can go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct Position {
    /// Seen up to this revision; 0 for not at all.
    pub(in crate::cli) revision: u64,
    /// The history that the revision belongs to.
    pub(in crate::cli) history_id: String,
}

/// What a line tells.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) enum What {
    /// Something happened to an instance.
    Event(Box<v1::WatchEvent>),
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
pub(in crate::cli) struct Line {
    pub(in crate::cli) what: What,
    /// Where to go on after this line.
    pub(in crate::cli) position: Position,
    /// UUID of the current epoch.
    pub(in crate::cli) cluster_epoch: String,
    /// Its number.
    pub(in crate::cli) epoch_number: u64,
}

/// The state of a watch over all its streams.
#[derive(Debug)]
pub(in crate::cli) struct Progress {
    position: Position,
    epoch_number: u64,
    /// Whether the stream is in its snapshot.
    in_snapshot: bool,
    /// Whether SYNCED is still to be told.
    unsynced: bool,
    /// Whether some of a snapshot was taken that was never completed.
    torn: bool,
    has_begun: bool,
}

impl Progress {
    /// Goes on after a position; with revision 0, begins with a snapshot.
    pub(in crate::cli) fn new(position: Position) -> Self {
        let in_snapshot = position.revision == 0;
        Self { position, epoch_number: 0, in_snapshot, unsynced: true, torn: false, has_begun: false }
    }

    /// Where the next stream is to go on.
    pub(in crate::cli) fn position(&self) -> &Position {
        &self.position
    }

    /// Whether there has been a response.
    pub(in crate::cli) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The stream broke; the next response is that of another.
    pub(in crate::cli) fn broken(&mut self) {
        self.torn = self.in_snapshot && self.has_begun;
    }

    /// Takes over a response.
    ///
    /// # Errors
    ///
    /// [`Error::Incomplete`] if an event cannot be read.
    pub(in crate::cli) fn take(&mut self, response: shared::WatchResponse) -> Result<Vec<Line>, Error> {
        let mut lines = Vec::with_capacity(response.events.len() + 3);
        let line = |what, position: &Position| Line {
            what,
            position: position.clone(),
            cluster_epoch: response.cluster_epoch.clone(),
            epoch_number: response.epoch_number,
        };
        let mut position = std::mem::take(&mut self.position);
        position.history_id.clone_from(&response.history_id);
        if response.reset || std::mem::take(&mut self.torn) {
            self.in_snapshot = true;
            self.unsynced = true;
            position.revision = 0;
            lines.push(line(What::Reset, &position));
        }
        // A snapshot from the start is all of the epoch it is told with; otherwise the instances known may be of another.
        let first_of_snapshot = self.epoch_number == 0 && self.in_snapshot;
        if response.epoch_number != self.epoch_number && !first_of_snapshot {
            lines.push(line(What::Epoch, &position));
        }
        for event in &response.events {
            let event = v1::WatchEvent::decode(event.clone()).map_err(|_| Error::Incomplete("a readable event"))?;
            if !self.in_snapshot {
                // 0 in a hint, and old for a row that was purged.
                let revision = event.instance.as_ref().map_or(0, |instance| instance.revision);
                position.revision = position.revision.max(revision.min(response.revision));
            }
            lines.push(line(What::Event(Box::new(event)), &position));
        }
        self.in_snapshot &= !response.snapshot_complete;
        if !self.in_snapshot {
            position.revision = response.revision;
            if std::mem::take(&mut self.unsynced) {
                lines.push(line(What::Synced, &position));
            }
        }
        if lines.is_empty() {
            lines.push(line(What::Bookmark, &position));
        }
        self.position = position;
        self.epoch_number = response.epoch_number;
        self.has_begun = true;
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: v1::WatchEventType, revision: u64) -> bytes::Bytes {
        let instance = v1::Instance { revision, ..Default::default() };
        v1::WatchEvent { r#type: kind.into(), instance: Some(instance) }.encode_to_vec().into()
    }

    fn response(revision: u64, events: &[(v1::WatchEventType, u64)]) -> shared::WatchResponse {
        shared::WatchResponse {
            events: events.iter().map(|(kind, revision)| event(*kind, *revision)).collect(),
            revision,
            history_id: "h".into(),
            cluster_epoch: "e".into(),
            epoch_number: 1,
            ..Default::default()
        }
    }

    /// The words of the lines with the revisions to resume after.
    fn told(progress: &mut Progress, response: shared::WatchResponse) -> Vec<(&'static str, u64)> {
        let word = |what: &What| match what {
            What::Event(event) => event.r#type().as_str_name().trim_start_matches("WATCH_EVENT_TYPE_"),
            What::Reset => "RESET",
            What::Epoch => "EPOCH",
            What::Synced => "SYNCED",
            What::Bookmark => "BOOKMARK",
        };
        let lines = progress.take(response).expect("readable");
        lines.iter().map(|line| (word(&line.what), line.position.revision)).collect()
    }

    use v1::WatchEventType::{Gone, Put, Suspect};

    #[test]
    fn nothing_can_be_resumed_before_the_snapshot_is_complete() {
        let mut progress = Progress::new(Position::default());
        assert_eq!(told(&mut progress, response(0, &[(Put, 4)])), [("PUT", 0)]);
        assert_eq!(progress.position().revision, 0);
        let last = shared::WatchResponse { snapshot_complete: true, ..response(9, &[(Put, 3)]) };
        assert_eq!(told(&mut progress, last), [("PUT", 0), ("SYNCED", 9)]);
        assert_eq!(*progress.position(), Position { revision: 9, history_id: "h".into() });
    }

    #[test]
    fn a_change_can_be_resumed_after_its_own_revision_and_a_hint_changes_nothing() {
        let mut progress = Progress::new(Position { revision: 5, history_id: "h".into() });
        let changes = response(9, &[(Gone, 2), (Put, 7), (Put, 8), (Suspect, 0)]);
        let expected = [("EPOCH", 5), ("GONE", 5), ("PUT", 7), ("PUT", 8), ("SUSPECT", 8), ("SYNCED", 9)];
        assert_eq!(told(&mut progress, changes), expected);
        assert_eq!(told(&mut progress, response(9, &[])), [("BOOKMARK", 9)]);
        progress.broken();
        assert_eq!(told(&mut progress, response(10, &[(Put, 10)])), [("PUT", 10)], "an interruption leaves no trace");
    }

    #[test]
    fn a_snapshot_that_broke_off_is_followed_by_a_reset() {
        let mut progress = Progress::new(Position::default());
        progress.broken();
        assert_eq!(told(&mut progress, response(0, &[(Put, 4)])), [("PUT", 0)], "nothing was told before");
        progress.broken();
        assert_eq!(progress.position().revision, 0);
        let whole = shared::WatchResponse { snapshot_complete: true, ..response(9, &[(Put, 4)]) };
        assert_eq!(told(&mut progress, whole), [("RESET", 0), ("PUT", 0), ("SYNCED", 9)]);
    }

    #[test]
    fn a_reset_and_a_rotation_are_told_before_what_follows_from_them() {
        let mut progress = Progress::new(Position { revision: 5, history_id: "old".into() });
        let reset = shared::WatchResponse { reset: true, snapshot_complete: true, ..response(3, &[(Put, 2)]) };
        assert_eq!(told(&mut progress, reset), [("RESET", 0), ("PUT", 0), ("SYNCED", 3)]);
        assert_eq!(*progress.position(), Position { revision: 3, history_id: "h".into() });
        let rotated = shared::WatchResponse { epoch_number: 2, ..response(4, &[]) };
        assert_eq!(told(&mut progress, rotated), [("EPOCH", 3)]);
        assert_eq!(progress.position().revision, 4);
    }
}
