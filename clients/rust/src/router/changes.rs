//! The live instances of a name as a stream of changes.
//!
//! It compares states: a reader that is slow finds the latest state of each instance, and never a queue. A snapshot after a
//! reset therefore yields what it has changed, and no more.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    cache::{Router, Target},
    known::Name,
    no_target::NoTarget,
};

/// One change of the live instances of a name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TargetChange {
    /// It is new, or its attributes or its suspicion have changed.
    Put(Target),
    /// It is no longer one to call: it drains, or its lease has ended.
    Gone(Target),
}

/// The live instances of a name, and each change of them. Endless, but for a daemon that refuses to watch the name.
#[must_use]
pub struct Changes {
    inner: Pin<Box<dyn Stream<Item = Result<TargetChange, NoTarget>> + Send>>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changes")
    }
}

impl Stream for Changes {
    type Item = Result<TargetChange, NoTarget>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(cx)
    }
}

impl Router {
    /// The live instances of a name, and each change of them. The name is watched for as long as the stream exists.
    pub fn changes(&self, logical_id: &str) -> Changes {
        Changes::new(self.clone(), logical_id)
    }
}

impl Changes {
    fn new(router: Router, logical_id: &str) -> Self {
        let name = Followed::new(router.name(logical_id, Instant::now()));
        let moved = name.0.moved();
        let seen = Seen { router, name, moved, known: BTreeMap::new(), waiting: VecDeque::new(), has_ended: false };
        let steps = stream::unfold(seen, |mut seen| async move {
            let change = seen.next().await?;
            Some((change, seen))
        });
        Self { inner: Box::pin(steps) }
    }

    /// The next change; `None` after a refusal.
    ///
    /// # Errors
    /// The daemon refuses to watch the name.
    pub async fn next(&mut self) -> Option<Result<TargetChange, NoTarget>> {
        self.inner.next().await
    }
}

/// A name that is in use for as long as this exists.
struct Followed(Arc<Name>);

impl Followed {
    fn new(name: Arc<Name>) -> Self {
        name.follow(true);
        Self(name)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.follow(false);
    }
}

struct Seen {
    router: Router,
    name: Followed,
    moved: watch::Receiver<()>,
    /// What the reader was told.
    known: BTreeMap<Uuid, Target>,
    waiting: VecDeque<TargetChange>,
    has_ended: bool,
}

impl Seen {
    async fn next(&mut self) -> Option<Result<TargetChange, NoTarget>> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Some(Ok(change));
            }
            if self.has_ended {
                return None;
            }
            // First, so that a change that comes during the comparison is not missed.
            self.moved.mark_unchanged();
            if let Some(refused) = self.name.0.refusal() {
                self.has_ended = true;
                return Some(Err(refused));
            }
            self.compare();
            if self.waiting.is_empty() {
                // The sender lives in the name.
                let _ = self.moved.changed().await;
            }
        }
    }

    fn compare(&mut self) {
        let now: BTreeMap<_, _> = self
            .name
            .0
            .instances()
            .into_iter()
            .map(|instance| (instance.instance_id, Target::new(instance, &self.router.inner)))
            .collect();
        for (id, target) in &self.known {
            if !now.contains_key(id) {
                self.waiting.push_back(TargetChange::Gone(target.clone()));
            }
        }
        for (id, target) in &now {
            if self.known.get(id).is_none_or(|before| !before.is_same(target)) {
                self.waiting.push_back(TargetChange::Put(target.clone()));
            }
        }
        self.known = now;
    }
}
