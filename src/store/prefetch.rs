//! Rows of this daemon's own changes on their way from the writer to the feed.
//!
//! The feed applies them if they continue what it has applied, and reads for itself otherwise. A permit of the channel is
//! held while a change is under way: that is how the feed knows that rows may be about to come.

use tokio::sync::{mpsc, watch};

use super::feed::Changes;
use crate::{clock::Clock, model::Revision};

/// What the feed would ask next: after which revision, and when that is asked by this daemon's clock.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// All changes after it.
    pub after: Revision,
    /// Now.
    pub at_ms: u64,
}

/// The end of the writer; the feed has the receiver of the channel.
#[derive(Debug)]
pub struct Prefetch {
    clock: Clock,
    applied: watch::Receiver<Option<Revision>>,
    changes: mpsc::Sender<Changes>,
    /// What the feed has applied once it has taken all that was sent.
    sent: Option<Revision>,
}

impl Prefetch {
    /// Sends what is changed after the revision that `applied` shows.
    #[must_use]
    pub fn new(clock: Clock, applied: watch::Receiver<Option<Revision>>, changes: mpsc::Sender<Changes>) -> Self {
        Self { clock, applied, changes, sent: None }
    }

    /// The question of the feed, with the permit to send the answer; `None` while nothing is loaded, or if the feed has not
    /// taken what was sent before.
    #[must_use]
    pub fn question(&self) -> Option<(Question, mpsc::OwnedPermit<Changes>)> {
        let applied = (*self.applied.borrow())?;
        let permit = self.changes.clone().try_reserve_owned().ok()?;
        let after = self.sent.map_or(applied, |sent| sent.max(applied));
        Some((Question { after, at_ms: self.clock.now_ms() }, permit))
    }

    /// Sends what changed.
    pub fn send(&mut self, permit: mpsc::OwnedPermit<Changes>, changes: Changes) {
        self.sent = Some(changes.cluster.revision);
        permit.send(changes);
    }
}
