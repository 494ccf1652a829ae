//! Changes on their way to watchers.
//!
//! The writer publishes a snapshot, then the batch of changes that made it. A watcher subscribes first, then takes a
//! snapshot: batches up to its revision are in it already, every later one follows, none is missed. Batches are shared,
//! and what the transport encodes of a change is kept with it, so a thousand watchers cost one encoding.
//!
//! The buffer is bounded and belongs to no watcher: one that falls behind by more than [`BATCHES_MAX`] batches, or by
//! more than [`BYTES_MAX`], is told so at its next look, and slows neither the feed nor other watchers. Both bounds,
//! because a change may be of two hundred bytes or of forty thousand. A batch that all watchers have taken is gone at once;
//! only what a watcher has yet to take is kept.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::broadcast;

use super::entry::Entry;
use crate::model::{Cluster, Instance};

/// Batches a watcher may fall behind.
pub const BATCHES_MAX: usize = 1_024;
/// Bytes a watcher may fall behind, as far as they can be estimated. The latest batch is kept whatever its size.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// About what a change takes beside its texts, which it holds up to three times: before, after, and encoded.
const CHANGE_BYTES: usize = 1_024;

/// A change of one instance.
#[derive(Debug)]
pub struct Change {
    /// The instance after it.
    pub entry: Arc<Entry>,
    /// The instance before it; `None` if it is new.
    pub before: Option<Arc<Entry>>,
    /// The event for watchers whom it matches now, once encoded.
    pub put: OnceLock<Bytes>,
    /// The event for watchers whom it matched before, once encoded.
    pub gone: OnceLock<Bytes>,
}

/// A change of suspicion, by this daemon's knowledge alone.
#[derive(Debug)]
pub struct Hint {
    /// Whose.
    pub entry: Arc<Entry>,
    /// Suspect now, or recovered.
    pub suspect: bool,
    /// The event, once encoded.
    pub encoded: OnceLock<Bytes>,
}

/// What happened between two snapshots.
#[derive(Debug)]
pub struct Batch {
    /// The cluster after it; its revision is that of the snapshot.
    pub cluster: Cluster,
    /// The changes, by revision.
    pub changes: Vec<Change>,
    /// Changes of suspicion.
    pub hints: Vec<Hint>,
    /// The history was broken: nothing known before can be continued.
    pub reset: bool,
}

/// A batch as a watcher receives it: it may be gone again before the watcher looks.
#[derive(Debug)]
pub struct Slot(ArcSwapOption<Batch>);

impl Slot {
    /// The batch; `None` if it had to make room, so that who has not taken it is too slow.
    #[must_use]
    pub fn batch(&self) -> Option<Arc<Batch>> {
        self.0.load_full()
    }
}

/// Carries batches from the writer to the watchers.
#[derive(Clone, Debug)]
pub struct Hub {
    sender: broadcast::Sender<Arc<Slot>>,
    recent: Arc<Mutex<Recent>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BATCHES_MAX), recent: Arc::default() }
    }
}

/// What was sent lately, up to the bounds, taken or not.
#[derive(Debug, Default)]
struct Recent {
    /// Weak: those that all watchers have taken are gone, and empty themselves.
    slots: VecDeque<(Weak<Slot>, usize)>,
    bytes: usize,
}

impl Recent {
    /// Takes in a batch, and empties the oldest that are too much with it.
    fn push(&mut self, slot: &Arc<Slot>, bytes: usize) {
        while self.slots.len() >= BATCHES_MAX || self.bytes + bytes > BYTES_MAX {
            let Some((oldest, its_bytes)) = self.slots.pop_front() else { break };
            self.bytes -= its_bytes;
            if let Some(oldest) = oldest.upgrade() {
                oldest.0.store(None);
            }
        }
        self.bytes += bytes;
        self.slots.push_back((Arc::downgrade(slot), bytes));
    }
}

impl Hub {
    /// All batches from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Slot>> {
        self.sender.subscribe()
    }

    /// Whether any watcher would notice a batch.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Hands a batch to all watchers.
    pub(super) fn send(&self, batch: Batch) {
        if !self.is_watched() {
            return;
        }
        let bytes = batch.bytes();
        let slot = Arc::new(Slot(ArcSwapOption::from_pointee(batch)));
        // Held while it is sent, so that batches are let go in the order in which they were sent.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push(&slot, bytes);
        // If the last watcher has just gone, it is dropped.
        let _ = self.sender.send(slot);
    }
}

impl Batch {
    /// About how much memory it keeps.
    fn bytes(&self) -> usize {
        let changes = self.changes.iter().map(|change| {
            let before = change.instance_before().map_or(0, Instance::text_bytes);
            CHANGE_BYTES + before + 2 * change.entry.instance.text_bytes()
        });
        changes.sum::<usize>() + self.hints.len() * CHANGE_BYTES
    }
}

impl Change {
    /// A change to `entry` from `before`.
    #[must_use]
    pub fn new(entry: Arc<Entry>, before: Option<Arc<Entry>>) -> Self {
        Self { entry, before, put: OnceLock::new(), gone: OnceLock::new() }
    }

    /// The instance before the change.
    #[must_use]
    pub fn instance_before(&self) -> Option<&Instance> {
        self.before.as_ref().map(|entry| &entry.instance)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;
    use crate::model::{Epoch, EpochId, Revision};

    fn slot() -> Arc<Slot> {
        let cluster = Cluster {
            epoch: Epoch { id: EpochId(Uuid::nil()), number: 1 },
            revision: Revision(1),
            history_id: Uuid::nil(),
            purged: Revision(0),
            hold: None,
            brake: None,
            read_at: DateTime::default(),
        };
        let batch = Batch { cluster, changes: Vec::new(), hints: Vec::new(), reset: false };
        Arc::new(Slot(ArcSwapOption::from_pointee(batch)))
    }

    #[test]
    fn unread_batches_are_dropped_by_size_oldest_first() {
        let mut recent = Recent::default();
        let slots: Vec<_> = (0..6).map(|_| slot()).collect();
        for (slot, bytes) in slots.iter().zip([1, BYTES_MAX / 2, BYTES_MAX / 2, 1, 1, 2 * BYTES_MAX]) {
            recent.push(slot, bytes);
            assert!(slot.batch().is_some());
        }
        assert!(slots[..5].iter().all(|slot| slot.batch().is_none()));
        let next = slot();
        recent.push(&next, 1);
        assert!(slots[5].batch().is_none() && next.batch().is_some());
        assert_eq!((recent.slots.len(), recent.bytes), (1, 1));
    }

    #[test]
    fn as_many_are_kept_as_may_be_behind() {
        let mut recent = Recent::default();
        let slots: Vec<_> = (0..=BATCHES_MAX).map(|_| slot()).collect();
        slots.iter().for_each(|slot| recent.push(slot, 1));
        assert_eq!((recent.slots.len(), recent.bytes), (BATCHES_MAX, BATCHES_MAX));
        assert!(slots[0].batch().is_none() && slots[1].batch().is_some());
    }
}
