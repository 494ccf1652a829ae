//! What a router knows of one name. A watch of its own fills it, or one that many names share ([`super::shared`]).

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
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
    /// The part of a snapshot that has arrived; readers never see half of one. Locked for as long as something is taken over.
    coming: Mutex<Option<Vec<Arc<Instance>>>>,
    /// Number of the shared watch that fills it; 0: a watch of its own does.
    filled_by: AtomicU64,
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
    position: Position,
    confirmed: Option<Instant>,
    refused: Option<Error>,
}

/// Up to where a watch has told everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Position {
    pub(super) history_id: Arc<str>,
    pub(super) revision: u64,
}

impl Position {
    /// Whether less was told than up to `other`.
    fn is_before(&self, other: &Self) -> bool {
        self.history_id == other.history_id && self.revision < other.revision
    }
}

impl Name {
    pub(super) fn new() -> Self {
        Self {
            known: RwLock::default(),
            coming: Mutex::new(Some(Vec::new())),
            filled_by: AtomicU64::new(0),
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

    /// Takes over what its own watch tells. Returns false if another one fills it now.
    pub(super) fn apply(&self, batch: Batch) -> bool {
        let mut coming = self.coming();
        if self.filled_by() != 0 {
            return false;
        }
        if batch.reset {
            *coming = Some(Vec::new());
        }
        let mut instances = coming.take().unwrap_or_else(|| self.instances());
        for change in batch.changes {
            match change {
                Change::Put(instance) => {
                    remove(&mut instances, instance.instance_id);
                    insert(&mut instances, Arc::from(instance));
                }
                Change::Gone(instance) => remove(&mut instances, instance.instance_id),
                Change::Suspect { instance_id, lease_id, suspect, .. } => {
                    mark(&mut instances, instance_id, lease_id, suspect);
                }
            }
        }
        if !batch.complete {
            *coming = Some(instances);
            return true;
        }
        // Instances of an epoch that has passed are dead, with or without a change that says so.
        instances.retain(|one| one.cluster_epoch == batch.cluster_epoch);
        let position = Position { history_id: batch.history_id.into(), revision: batch.revision };
        self.know(instances, position, confirmed(batch.stale_for));
        true
    }

    /// Takes over what a shared watch tells, also in place of its own. What would be less than it knows is not taken over.
    pub(super) fn fill(
        &self,
        watch: u64,
        instances: &[Arc<Instance>],
        position: &Position,
        confirmed: Option<Instant>,
    ) {
        let _taking = self.coming();
        if self.filled_by() != watch {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if position.is_before(&known.position) {
                return;
            }
        }
        self.filled_by.store(watch, Ordering::Relaxed);
        self.know(instances.to_vec(), position.clone(), confirmed);
    }

    /// Nothing has changed up to this moment.
    pub(super) fn confirm(&self, position: &Position, confirmed: Option<Instant>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        (known.position, known.confirmed) = (position.clone(), confirmed);
        drop(known);
        self.moved.send_replace(());
    }

    /// Number of the shared watch that fills it; 0: a watch of its own does.
    pub(super) fn filled_by(&self) -> u64 {
        self.filled_by.load(Ordering::Relaxed)
    }

    /// This shared watch will fill it; 0: a watch of its own does, from a snapshot on.
    pub(super) fn await_fill(&self, watch: u64) {
        let mut coming = self.coming();
        *coming = Some(Vec::new());
        self.filled_by.store(watch, Ordering::Relaxed);
    }

    fn know(&self, instances: Vec<Arc<Instance>>, position: Position, confirmed: Option<Instant>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = Known { instances, position, confirmed, refused: None };
        drop(known);
        self.moved.send_replace(());
    }

    fn coming(&self) -> MutexGuard<'_, Option<Vec<Arc<Instance>>>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
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

/// When PostgreSQL confirmed what a daemon tells now.
pub(super) fn confirmed(stale_for: Duration) -> Option<Instant> {
    let now = Instant::now();
    // A clock that began later than that: from its beginning on.
    Some(now.checked_sub(stale_for).unwrap_or(now))
}

/// Adds an instance, in the order of [`rank::seniority`].
pub(super) fn insert(instances: &mut Vec<Arc<Instance>>, instance: Arc<Instance>) {
    let at = instances.partition_point(|one| rank::seniority(one) < rank::seniority(&instance));
    instances.insert(at, instance);
}

/// Removes an instance.
pub(super) fn remove(instances: &mut Vec<Arc<Instance>>, id: Uuid) {
    instances.retain(|one| one.instance_id != id);
}

/// Takes a hint over, if it is about the lease that is known.
pub(super) fn mark(instances: &mut [Arc<Instance>], id: Uuid, lease_id: u64, suspect: bool) {
    let known = instances.iter_mut().find(|one| (one.instance_id, one.lease_id) == (id, lease_id));
    if let Some(known) = known {
        *known = Arc::new(Instance { suspect, ..Instance::clone(known) });
    }
}
