//! Which watches a router has.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use super::shared::Shared;

/// The watches of a router.
#[derive(Debug, Default)]
pub(super) struct Watches {
    shared: Mutex<Sharing>,
    /// How many follow a single name.
    single: AtomicUsize,
}

/// The watches that names share.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// The one that has told all.
    current: Option<Arc<Shared>>,
    /// The one that takes its place, of a shorter prefix, once it has told all.
    pub(super) next: Option<Arc<Shared>>,
    /// The daemon has refused one. Each name has a watch of its own from then on.
    pub(super) is_refused: bool,
}

impl Sharing {
    /// Whether the one that has told all tells of this name.
    pub(super) fn covers(&self, logical_id: &str) -> bool {
        self.current.as_ref().is_some_and(|shared| shared.covers(logical_id))
    }

    /// The watch has told all. Returns the one in whose place it is.
    pub(super) fn complete(&mut self, shared: &Arc<Shared>) -> Option<Arc<Shared>> {
        self.next = None;
        self.current.replace(Arc::clone(shared))
    }

    /// The watch has ended.
    pub(super) fn remove(&mut self, shared: &Arc<Shared>) {
        for place in [&mut self.current, &mut self.next] {
            if place.as_ref().is_some_and(|one| Arc::ptr_eq(one, shared)) {
                *place = None;
            }
        }
    }
}

impl Watches {
    /// Those that names share. Locked before the names of the router.
    pub(super) fn sharing(&self) -> MutexGuard<'_, Sharing> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that tells of this name, or will.
    pub(super) fn covering(&self, logical_id: &str) -> Option<Arc<Shared>> {
        let sharing = self.sharing();
        let mut all = sharing.current.iter().chain(&sharing.next);
        all.find(|shared| shared.covers(logical_id)).cloned()
    }

    /// One more follows a single name.
    pub(super) fn begin_single(&self) {
        self.single.fetch_add(1, Ordering::Relaxed);
    }

    /// One that has followed a single name has ended.
    pub(super) fn end_single(&self) {
        self.single.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many follow a single name.
    pub(super) fn singles(&self) -> usize {
        self.single.load(Ordering::Relaxed)
    }
}
