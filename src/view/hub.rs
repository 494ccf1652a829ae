//! Changes on their way to watchers.
//!
//! The writer publishes a snapshot, then the batch of changes that made it. A watcher subscribes first, then takes a
//! snapshot: batches up to its revision are in it already, every later one follows, none is missed. Batches are shared,
//! and what the transport encodes of a change is kept with it, so a thousand watchers cost one encoding.
//!
//! The buffer is bounded and belongs to nobody: a watcher that falls behind by more than [`BATCHES_MAX`] batches is
//! told so at its next look, and slows neither the feed nor anybody else.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::broadcast;

use super::Entry;
use crate::model::{Cluster, Instance};

/// Batches a watcher may fall behind.
pub const BATCHES_MAX: usize = 1_024;

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

/// Carries batches from the writer to the watchers.
#[derive(Clone, Debug)]
pub struct Hub {
    sender: broadcast::Sender<Arc<Batch>>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BATCHES_MAX) }
    }
}

impl Hub {
    /// All batches from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.sender.subscribe()
    }

    /// Whether anybody would notice a batch.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Hands a batch to all watchers.
    pub(super) fn send(&self, batch: Batch) {
        // Without a watcher it is dropped.
        let _ = self.sender.send(Arc::new(batch));
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
