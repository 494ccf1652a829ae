//! What readers hold: the current snapshot, how old it is, and waiting for what is not in it yet.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    pin,
    sync::{Notify, watch},
    time::timeout,
};

use super::{
    hub::{Batch, Hint, Hub},
    snapshot::Snapshot,
};
use crate::{
    clock::Clock,
    model::{Cluster, Daemons, Hold, Lease, Revision},
};

/// How long a revision is waited for before it is asked for: where notifications arrive, it is here by then.
const REQUEST_AFTER: Duration = Duration::from_millis(50);

/// The registry as this daemon knows it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {
    pub(super) current: Arc<ArcSwap<Snapshot>>,
    applied: watch::Receiver<Option<Revision>>,
    pub(super) confirmed: Arc<Confirmed>,
    pub(super) daemons: Arc<ArcSwap<Daemons>>,
    pub(super) hub: Hub,
    wanted: Arc<Notify>,
    clock: Clock,
}

/// When PostgreSQL last confirmed the view: by this daemon's clock, and by its own.
#[derive(Debug)]
pub(super) struct Confirmed {
    pub(super) here_ms: AtomicU64,
    pub(super) database_ms: AtomicI64,
    pub(super) again: Notify,
}

impl View {
    /// Of what a writer publishes through `applied`: nothing yet.
    pub(super) fn empty(clock: Clock, applied: watch::Receiver<Option<Revision>>) -> Self {
        let confirmed = Confirmed {
            here_ms: AtomicU64::new(clock.now_ms()),
            database_ms: AtomicI64::new(clock.wall().timestamp_millis()),
            again: Notify::new(),
        };
        Self {
            current: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            applied,
            confirmed: Arc::new(confirmed),
            daemons: Arc::default(),
            hub: Hub::default(),
            wanted: Arc::default(),
            clock,
        }
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
        Duration::from_millis(self.clock.now_ms().saturating_sub(self.confirmed_ms()))
    }

    /// When PostgreSQL last confirmed that this is all there is, by this daemon's clock.
    #[must_use]
    pub fn confirmed_ms(&self) -> u64 {
        self.confirmed.here_ms.load(Ordering::Relaxed)
    }

    /// What the database clock showed at a time of this daemon's clock, to within the time of a query.
    #[must_use]
    pub fn database_time(&self, at_ms: u64) -> DateTime<Utc> {
        let ago_ms = self.confirmed.here_ms.load(Ordering::Relaxed).cast_signed() - at_ms.cast_signed();
        let confirmed = DateTime::from_timestamp_millis(self.confirmed.database_ms.load(Ordering::Relaxed));
        confirmed.and_then(|time| time.checked_sub_signed(TimeDelta::milliseconds(ago_ms))).unwrap_or_default()
    }

    /// What is left of a time that had `remaining` to go when the database clock showed `read_at`; `None` if nothing.
    #[must_use]
    pub fn remaining(&self, read_at: DateTime<Utc>, remaining: Duration) -> Option<Duration> {
        let passed = (self.database_time(self.clock.now_ms()) - read_at).to_std().unwrap_or_default();
        remaining.checked_sub(passed).filter(|left| !left.is_zero())
    }

    /// The hold that a cluster row tells of, with what is left of it now; `None` if it is over.
    #[must_use]
    pub fn hold(&self, cluster: &Cluster) -> Option<Hold> {
        let hold = cluster.hold.as_ref()?;
        let remaining = self.remaining(cluster.read_at, hold.remaining)?;
        Some(Hold { remaining, reason: hold.reason.clone() })
    }

    /// The daemons that share the database, as last read, and those that were lost.
    #[must_use]
    pub fn daemons(&self) -> Arc<Daemons> {
        self.daemons.load_full()
    }

    /// Changes on their way to watchers.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Tells watchers that suspicion has changed, for leases that are still on record.
    pub fn hint(&self, leases: &[Arc<Lease>], suspect: bool) {
        if leases.is_empty() || !self.hub.is_watched() {
            return;
        }
        let snapshot = self.snapshot();
        let Some(cluster) = snapshot.cluster() else { return };
        let entries = leases.iter().filter_map(|lease| snapshot.instance(lease.instance_id));
        let hints = entries.map(|entry| Hint { entry: Arc::clone(entry), suspect, encoded: OnceLock::new() });
        let batch = Batch { cluster: cluster.clone(), changes: Vec::new(), hints: hints.collect(), reset: false };
        self.hub.send(batch);
    }

    /// The latest revision applied; `None` before the registry is loaded.
    #[must_use]
    pub fn applied(&self) -> Option<Revision> {
        *self.applied.borrow()
    }

    /// The latest revision applied, for readers that follow it.
    #[must_use]
    pub fn applied_receiver(&self) -> watch::Receiver<Option<Revision>> {
        self.applied.clone()
    }

    /// Notified when a call waits in vain for what may be on record already.
    #[must_use]
    pub fn wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }

    /// Waits until PostgreSQL has confirmed the view by a question that was asked after this call, at most `bound`. Returns
    /// whether it has: then the view shows whatever was committed before the call, also what takes no revision (a hold).
    pub async fn wait_for_now(&self, bound: Duration) -> bool {
        let after_ms = self.clock.now_ms();
        let confirmed = async {
            loop {
                // Made before the look, so that a confirmation in between is not missed.
                let again = self.confirmed.again.notified();
                if self.confirmed_ms() > after_ms {
                    return;
                }
                again.await;
            }
        };
        self.wanted.notify_one();
        timeout(bound, confirmed).await.is_ok()
    }

    /// Waits until the registry is loaded and `revision` has been applied, at most `bound`. Returns whether it was.
    pub async fn wait_for(&self, revision: Revision, bound: Duration) -> bool {
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= revision));
        pin!(reached);
        let asking = async {
            if let Ok(reached) = timeout(REQUEST_AFTER, &mut reached).await {
                return reached.is_ok();
            }
            self.wanted.notify_one();
            reached.await.is_ok()
        };
        timeout(bound, asking).await.unwrap_or(false)
    }
}
