//! The read side: the whole registry in memory, and the questions it answers.
//!
//! - [`snapshot`]: the registry at one revision, an immutable value; making the next one from it costs only what
//!   changed.
//! - [`writer`]: the one place that makes snapshots, from what the feed brings.
//! - [`resolve`], [`list`]: questions, as pure functions of a snapshot.
//!
//! One writer, any number of readers, no lock: a reader takes the current snapshot and is done with it in its own time.
//! What it reads may be a moment old; [`View::stale_for`] says how old, and [`View::wait_for`] waits until a revision
//! has arrived. Nothing here knows PostgreSQL.

pub mod list;
pub mod resolve;
pub mod snapshot;
pub mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::timeout};

pub use snapshot::{Counts, Entry, Snapshot};
pub use writer::ViewWriter;

use crate::{clock::Clock, model::Revision};

/// The registry as this daemon knows it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {
    current: Arc<ArcSwap<Snapshot>>,
    applied: watch::Receiver<Option<Revision>>,
    confirmed_ms: Arc<AtomicU64>,
    clock: Clock,
}

impl View {
    /// An empty view, and its writer.
    #[must_use]
    pub fn new(clock: Clock) -> (Self, ViewWriter) {
        let (sender, applied) = watch::channel(None);
        let current = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let confirmed_ms = Arc::new(AtomicU64::new(clock.now_ms()));
        let view = Self { current, applied, confirmed_ms, clock };
        let writer = ViewWriter::new(view.clone(), sender);
        (view, writer)
    }

    /// The registry as of now.
    #[must_use]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The clock by which leases in it were heard of.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// How long ago PostgreSQL last confirmed that this is all there is.
    #[must_use]
    pub fn stale_for(&self) -> Duration {
        Duration::from_millis(self.clock.now_ms().saturating_sub(self.confirmed_ms.load(Ordering::Relaxed)))
    }

    /// The latest revision applied; `None` before the registry is loaded.
    #[must_use]
    pub fn applied(&self) -> Option<Revision> {
        *self.applied.borrow()
    }

    /// Waits until the registry is loaded and `revision` has been applied, at most `bound`. Returns whether it was.
    pub async fn wait_for(&self, revision: Revision, bound: Duration) -> bool {
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= revision));
        matches!(timeout(bound, reached).await, Ok(Ok(_)))
    }
}
