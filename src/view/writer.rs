//! Makes snapshots out of what the feed brings. There is one writer to a view; it is not `Clone`.

use std::sync::{Arc, atomic::Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use super::{
    entry::Entry,
    hub::{Batch, Change},
    reader::View,
    snapshot::Snapshot,
};
use crate::{
    clock::Clock,
    metrics::ViewMetrics,
    model::{Cluster, Daemons, DeathReason, Epoch, Hold, InstanceStatus, Revision, Usage},
};

/// Ends of a hold that differ by less are the same.
const HOLD_TOLERANCE: TimeDelta = TimeDelta::milliseconds(100);

/// Changes the view.
#[derive(Debug)]
pub struct ViewWriter {
    view: View,
    applied: watch::Sender<Option<Revision>>,
    next: Snapshot,
    metrics: ViewMetrics,
}

impl View {
    /// An empty view, and its writer.
    #[must_use]
    pub fn new(clock: Clock) -> (Self, ViewWriter) {
        let (applied, readable) = watch::channel(None);
        let view = Self::empty(clock, readable);
        let writer = ViewWriter { view: view.clone(), applied, next: Snapshot::default(), metrics: ViewMetrics::new() };
        (view, writer)
    }
}

impl ViewWriter {
    /// Replaces everything by what was loaded as of one moment. Returns the entries that are no longer on record, or whose
    /// lease is not, because the history in which it was registered was lost.
    ///
    /// Readers go on with the former snapshot until the new one is whole. Watchers get the difference, or are told to
    /// begin again if the history was broken or tombstones were missed.
    pub fn replace(&mut self, cluster: Cluster, entries: impl IntoIterator<Item = Arc<Entry>>) -> Vec<Arc<Entry>> {
        let mut loaded = Snapshot::default();
        loaded.set_cluster(cluster.clone());
        for entry in entries {
            loaded.load(entry);
        }
        loaded.order_changes();
        // What was purged before it was seen has left no tombstone: watchers are where a resumption would be.
        let continued = self.next.cluster().is_some_and(|before| {
            before.history_id == cluster.history_id
                && before.revision <= cluster.revision
                && cluster.purged <= before.revision
        });
        if continued {
            loaded.continue_moves(&self.next);
        } else {
            loaded.begin_moves();
        }
        let former = std::mem::replace(&mut self.next, loaded);
        let gone: Vec<_> = former
            .entries()
            .filter(|entry| {
                let now = self.next.instance(entry.instance.instance_id);
                now.is_none_or(|now| now.instance.lease_id < entry.instance.lease_id)
            })
            .map(Arc::clone)
            .collect();
        let reset = former.cluster().is_some() && !continued;
        self.publish();
        // Asked after the snapshot is there: a watcher that subscribes later begins with it, an earlier one is seen here.
        let changes = if reset || !self.view.hub.is_watched() { Vec::new() } else { self.difference(&former) };
        self.view.hub.send(Batch { cluster, changes, hints: Vec::new(), reset });
        gone
    }

    /// Applies changes, in order of their revisions, as of the moment of `cluster`. Returns the entries that were
    /// purged from the record.
    pub fn apply(&mut self, cluster: Cluster, entries: impl IntoIterator<Item = Arc<Entry>>) -> Vec<Arc<Entry>> {
        let purged = self.next.cluster().map_or(cluster.purged, |before| before.purged) < cluster.purged;
        self.next.set_cluster(cluster.clone());
        let mut changes = Vec::new();
        for entry in entries {
            let before = self.next.insert(Arc::clone(&entry));
            self.count_death(before.as_deref(), &entry, cluster.epoch);
            changes.push(Change::new(entry, before));
        }
        let gone = if purged { self.purge(cluster.purged) } else { Vec::new() };
        let advanced = self.view.applied() != Some(cluster.revision);
        if advanced || !gone.is_empty() || self.hold_changed() {
            self.publish();
        }
        if advanced {
            // After the snapshot: a watcher that subscribes now finds the changes there.
            self.view.hub.send(Batch { cluster, changes, hints: Vec::new(), reset: false });
        }
        gone
    }

    /// The registry as readers see it now.
    #[must_use]
    pub fn published(&self) -> Arc<Snapshot> {
        Arc::clone(&self.view.snapshot())
    }

    /// What all records take.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.next.usage()
    }

    /// What a watcher of `former` has to learn, by revision. Those that are gone had been dead for long.
    fn difference(&self, former: &Snapshot) -> Vec<Change> {
        let changed = self.next.entries().filter_map(|entry| {
            let before = former.instance(entry.instance.instance_id);
            let same = before.is_some_and(|before| before.instance.revision == entry.instance.revision);
            (!same).then(|| Change::new(Arc::clone(entry), before.map(Arc::clone)))
        });
        let mut changes: Vec<_> = changed.collect();
        changes.sort_by_key(|change| change.entry.instance.revision);
        changes
    }

    /// PostgreSQL has confirmed at `at_ms` that the view holds all there is; its own clock then showed `read_at`.
    pub fn confirm(&self, at_ms: u64, read_at: DateTime<Utc>) {
        // What the writer asked may come after what the feed asked later.
        if at_ms < self.view.confirmed_ms() {
            return;
        }
        self.view.confirmed.here_ms.store(at_ms, Ordering::Relaxed);
        self.view.confirmed.database_ms.store(read_at.timestamp_millis(), Ordering::Relaxed);
        self.view.confirmed.again.notify_waiters();
    }

    /// Takes over the list of daemons.
    pub fn set_daemons(&self, daemons: Daemons) {
        self.view.daemons.store(Arc::new(daemons));
    }

    fn hold_changed(&self) -> bool {
        let published = self.view.snapshot();
        let (Some(before), Some(now)) = (published.cluster(), self.next.cluster()) else { return true };
        before.brake != now.brake || !same_hold(before, now)
    }

    /// Dead rows up to this revision are gone from PostgreSQL.
    fn purge(&mut self, up_to: Revision) -> Vec<Arc<Entry>> {
        let purged: Vec<_> = self
            .next
            .entries()
            .filter(|entry| entry.instance.status == InstanceStatus::Dead && entry.instance.revision <= up_to)
            .map(|entry| entry.instance.instance_id)
            .collect();
        purged.into_iter().filter_map(|instance_id| self.next.remove(instance_id)).collect()
    }

    fn publish(&mut self) {
        let counts = self.next.counts();
        let revision = self.next.revision();
        let metrics = &self.metrics;
        metrics.instances.starting.set(as_f64(counts.starting));
        metrics.instances.alive.set(as_f64(counts.alive));
        metrics.instances.draining.set(as_f64(counts.draining));
        metrics.instances.dead.set(as_f64(counts.dead));
        metrics.logical_ids.served.set(as_f64(counts.logical_ids_live));
        metrics.logical_ids.unserved.set(as_f64(counts.logical_ids_unserved));
        let usage = self.next.usage();
        metrics.usage.records.set(as_f64(usage.records));
        metrics.usage.bytes.set(as_f64(usage.bytes));
        metrics.revision.set(as_f64(revision.0));
        metrics.epoch_number.set(as_f64(self.next.cluster().map_or(0, |cluster| cluster.epoch.number)));
        self.view.current.store(Arc::new(self.next.clone()));
        // After the snapshot: a call that waited for the revision must find it there.
        self.applied.send_replace(Some(revision));
    }

    fn count_death(&self, before: Option<&Entry>, now: &Entry, epoch: Epoch) {
        let was_live = before.is_some_and(|before| before.instance.status != InstanceStatus::Dead);
        let same_lease = before.is_some_and(|before| before.instance.lease_id == now.instance.lease_id);
        let reason = if was_live && !same_lease {
            Some(DeathReason::Replaced)
        } else if was_live && now.instance.status == InstanceStatus::Dead {
            now.instance.death_in(epoch).and_then(|death| death.reason)
        } else {
            None
        };
        let deaths = &self.metrics.deaths;
        match reason {
            Some(DeathReason::Stale) => deaths.stale.increment(1),
            Some(DeathReason::OldEpoch) => deaths.old_epoch.increment(1),
            Some(DeathReason::Deregistered) => deaths.deregistered.increment(1),
            Some(DeathReason::Replaced) => deaths.replaced.increment(1),
            Some(DeathReason::Operator) => deaths.operator.increment(1),
            None => {}
        }
    }
}

/// Whether two readings tell of the same hold: the same reason and the same end. What remains shrinks from one reading to the
/// next, and is read a moment beside the clock.
fn same_hold(before: &Cluster, now: &Cluster) -> bool {
    let end = |cluster: &Cluster, hold: &Hold| {
        let remaining = TimeDelta::from_std(hold.remaining).unwrap_or(TimeDelta::MAX);
        cluster.read_at.checked_add_signed(remaining).unwrap_or(DateTime::<Utc>::MAX_UTC)
    };
    match (&before.hold, &now.hold) {
        (None, None) => true,
        (Some(former), Some(hold)) => {
            former.reason == hold.reason && (end(before, former) - end(now, hold)).abs() <= HOLD_TOLERANCE
        }
        _ => false,
    }
}

/// For a gauge. Exact up to 2^53, which no count here reaches.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, which no count here reaches")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
