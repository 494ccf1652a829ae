//! What the writer read right behind its own change, on its way to the feed.
//!
//! A change reaches the view through the feed, which is woken by the doorbell and then asks PostgreSQL: a wake-up and a
//! round trip that whoever asked for the change waits for as well. So the writer sends the feed's own question after
//! its change, on the same connection, and hands the answer to the feed. Nothing else differs: the feed applies it like
//! one that it asked for itself, or leaves it aside and asks.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

use super::feed::Changes;
use crate::model::Revision;

/// Answers that wait for the feed. It takes one at a time; of more, it asks for itself what they say.
const WAITING: usize = 4;
/// Stands for a feed that has nothing loaded.
const NOTHING: u64 = u64::MAX;

#[derive(Debug)]
struct Shared {
    applied: AtomicU64,
    under_way: AtomicUsize,
}

/// The writer's end.
#[derive(Clone, Debug)]
pub struct Handover {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Changes>,
}

/// The feed's end.
#[derive(Debug)]
pub struct Handed {
    shared: Arc<Shared>,
    receiver: mpsc::Receiver<Changes>,
}

/// As long as it lives, an answer may come.
#[derive(Debug)]
pub struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Both ends.
#[must_use]
pub fn handover() -> (Handover, Handed) {
    let shared = Arc::new(Shared { applied: AtomicU64::new(NOTHING), under_way: AtomicUsize::new(0) });
    let (sender, receiver) = mpsc::channel(WAITING);
    (Handover { shared: Arc::clone(&shared), sender }, Handed { shared, receiver })
}

impl Handover {
    /// After which revision the feed would ask; `None` while it has nothing loaded.
    #[must_use]
    pub fn after(&self) -> Option<Revision> {
        Some(self.shared.applied.load(Ordering::Acquire)).filter(|applied| *applied != NOTHING).map(Revision)
    }

    /// Says that an answer may come.
    #[must_use]
    pub fn begin(&self) -> UnderWay {
        self.shared.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(Arc::clone(&self.shared))
    }

    /// Hands an answer over. If too many wait already it is dropped: the feed will ask.
    pub fn hand(&self, changes: Changes) {
        let _ = self.sender.try_send(changes);
    }
}

impl Handed {
    /// The next answer.
    pub async fn next(&mut self) -> Changes {
        match self.receiver.recv().await {
            Some(changes) => changes,
            // No writer any more: only the feed itself asks.
            None => std::future::pending().await,
        }
    }

    /// Whether an answer may be about to come.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.shared.under_way.load(Ordering::Acquire) > 0 || !self.receiver.is_empty()
    }

    /// Tells the writer what is applied; `None`: nothing is loaded, or not known to be right.
    pub fn set_applied(&self, applied: Option<Revision>) {
        self.shared.applied.store(applied.map_or(NOTHING, |applied| applied.0), Ordering::Release);
    }
}
