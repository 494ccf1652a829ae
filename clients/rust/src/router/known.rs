//! What a router knows of one name.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;
use uuid::Uuid;

use super::{no_target::NoTarget, rank};
use crate::{
    choice::Choice,
    error::Error,
    model::Instance,
    watch::{Batch, Change},
};

/// One name.
#[derive(Debug)]
pub(super) struct Name {
    known: RwLock<Known>,
    /// The part of a snapshot that has arrived; readers never see half of one.
    coming: RwLock<Option<Vec<Arc<Instance>>>>,
    /// Notified when what is known has changed or was confirmed.
    moved: watch::Sender<()>,
    /// How many followers need every change: a name that has one is in use.
    followers: AtomicUsize,
    began: Instant,
    used_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    /// In the order of [`rank::seniority`].
    instances: Vec<Arc<Instance>>,
    confirmed: Option<Instant>,
    refused: Option<Error>,
}

impl Name {
    pub(super) fn new() -> Self {
        Self {
            known: RwLock::default(),
            coming: RwLock::new(Some(Vec::new())),
            moved: watch::Sender::new(()),
            followers: AtomicUsize::new(0),
            began: Instant::now(),
            used_ms: AtomicU64::new(0),
        }
    }

    /// It is used now.
    pub(super) fn touch(&self, now: Instant) {
        let now_ms = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.used_ms.store(now_ms, Ordering::Relaxed);
    }

    /// How long it was not used.
    pub(super) fn idle_for(&self) -> Duration {
        if self.followers.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.began.elapsed().saturating_sub(Duration::from_millis(self.used_ms.load(Ordering::Relaxed)))
    }

    /// Takes over what the daemon tells.
    pub(super) fn apply(&self, batch: Batch) {
        let mut coming = self.coming.write().unwrap_or_else(PoisonError::into_inner);
        if batch.reset {
            *coming = Some(Vec::new());
        }
        let mut instances = coming.take().unwrap_or_else(|| self.instances());
        for change in batch.changes {
            apply(&mut instances, change);
        }
        if !batch.complete {
            *coming = Some(instances);
            return;
        }
        // Instances of an epoch that has passed are dead, with or without a change that says so.
        instances.retain(|one| one.cluster_epoch == batch.cluster_epoch);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = Known { instances, confirmed: Some(Instant::now()), refused: None };
        drop(known);
        self.moved.send_replace(());
    }

    /// The daemon refuses to watch it.
    pub(super) fn refuse(&self, error: Error) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).refused = Some(error);
        self.moved.send_replace(());
    }

    /// Waits until it is known, or refused.
    pub(super) async fn settled(&self) -> Result<(), NoTarget> {
        let mut moved = self.moved.subscribe();
        while !self.is_settled() {
            // The sender lives in this value.
            let _ = moved.changed().await;
        }
        self.refusal().map_or(Ok(()), Err)
    }

    fn is_settled(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.refused.is_some() || known.confirmed.is_some()
    }

    /// Why a daemon refuses to watch it.
    pub(super) fn refusal(&self) -> Option<NoTarget> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.refused.clone().map(NoTarget::Refused)
    }

    /// Is notified when what is known has changed, or was confirmed or refused.
    pub(super) fn moved(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    /// Counts a follower, or one less.
    pub(super) fn follow(&self, is_followed: bool) {
        if is_followed {
            self.followers.fetch_add(1, Ordering::Relaxed);
        } else {
            self.followers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn instances(&self) -> Vec<Arc<Instance>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).instances.clone()
    }

    /// How long ago a daemon confirmed what is known.
    pub(super) fn age(&self) -> Option<Duration> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.confirmed.map(|confirmed| confirmed.elapsed())
    }

    pub(super) fn pick(
        &self,
        logical_id: &str,
        choice: &Choice,
        excluded: &[Uuid],
        max_stale: Duration,
        now: Instant,
    ) -> Result<Arc<Instance>, NoTarget> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &known.refused {
            return Err(NoTarget::Refused(error.clone()));
        }
        let Some(confirmed) = known.confirmed else { return Err(NoTarget::NotReady(logical_id.to_owned())) };
        let age = now.saturating_duration_since(confirmed);
        if age > max_stale {
            return Err(NoTarget::Stale { name: logical_id.to_owned(), age });
        }
        // One that has failed lately is better than none.
        rank::choose(&known.instances, choice, excluded)
            .or_else(|| rank::choose(&known.instances, choice, &[]))
            .cloned()
            .ok_or_else(|| NoTarget::NoLiveInstance(logical_id.to_owned()))
    }
}

fn apply(instances: &mut Vec<Arc<Instance>>, change: Change) {
    let place = |instances: &[Arc<Instance>], id: Uuid| instances.iter().position(|one| one.instance_id == id);
    match change {
        Change::Put(instance) => {
            if let Some(at) = place(instances, instance.instance_id) {
                instances.remove(at);
            }
            let at = instances.partition_point(|one| rank::seniority(one) < rank::seniority(&instance));
            instances.insert(at, Arc::from(instance));
        }
        Change::Gone(instance) => {
            if let Some(at) = place(instances, instance.instance_id) {
                instances.remove(at);
            }
        }
        Change::Suspect { instance_id, lease_id, suspect, .. } => {
            let known = place(instances, instance_id).and_then(|at| instances.get_mut(at));
            if let Some(known) = known.filter(|known| known.lease_id == lease_id) {
                *known = Arc::new(Instance { suspect, ..Instance::clone(known) });
            }
        }
    }
}
