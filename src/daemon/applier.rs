//! Where the feed meets the view and the leases, which know nothing of each other.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::budget::warn_if_exceeded;
use crate::{
    admission::Admission,
    clock::{Clock, DatabaseClock},
    feed::Sink,
    lifecycle::{Condition, Readiness},
    model::{BrakeMode, Budget, Cluster, Daemons, Epoch, Instance, InstanceStatus, Origin},
    registry::{Leases, alarm::Alarm},
    status::{EVICTED_AFTER, SILENT_AFTER},
    store,
    telemetry::chain,
    view::{Entry, ViewWriter},
};

/// Applies what the feed brings: to the leases first, then to the view, so that a call that waits for the view finds the
/// leases up to date as well.
#[derive(Debug)]
pub(super) struct Applier {
    view: ViewWriter,
    leases: Arc<Leases>,
    alarm: Arc<Alarm>,
    readiness: Readiness,
    clock: Clock,
    database_clock: DatabaseClock,
    epoch: Option<Epoch>,
    budget: Option<(Budget, Arc<Admission>)>,
    /// Whether expiry is held, and how it is braked.
    expiry: (bool, Option<BrakeMode>),
}

impl Applier {
    /// What is read of the database clock is told `database_clock`: from before the first change is taken.
    pub(super) fn new(
        view: ViewWriter,
        leases: Arc<Leases>,
        alarm: Arc<Alarm>,
        readiness: Readiness,
        clock: Clock,
        database_clock: DatabaseClock,
    ) -> Self {
        Self { view, leases, alarm, readiness, clock, database_clock, epoch: None, budget: None, expiry: (false, None) }
    }

    /// With the budget that what is loaded is compared with, and with what tells the address that registers an instance.
    pub(super) fn with_budget(self, budget: Budget, admission: Arc<Admission>) -> Self {
        Self { budget: Some((budget, admission)), ..self }
    }

    fn set_cluster(&mut self, cluster: &Cluster) {
        self.database_clock.shows(cluster.read_at);
        self.leases.set_epoch(cluster.epoch);
        if self.epoch.replace(cluster.epoch).is_some_and(|before| before != cluster.epoch) {
            tracing::info!(epoch = %cluster.epoch.id, number = cluster.epoch.number, "the epoch was rotated");
            self.alarm.epoch_rotated();
        }
        // A reaper that sleeps until a hold ends must not sleep on when an operator has ended it.
        let expiry = (cluster.hold.is_some(), cluster.brake.as_ref().map(|brake| brake.mode));
        if std::mem::replace(&mut self.expiry, expiry) != expiry {
            self.alarm.expiry_changed();
        }
    }

    /// Tells the address that registered an instance through this daemon. A lease stays with its address, and if it is replaced
    /// through another daemon, so does the new one, because the other address is not known here.
    fn origins(&self) -> impl Fn(&Instance) -> Option<Origin> + use<> {
        let known = self.view.published();
        let admission = self.budget.as_ref().map(|(_, admission)| Arc::clone(admission));
        move |instance| {
            let before = known.instance(instance.instance_id);
            match before {
                Some(entry) if entry.instance.lease_id == instance.lease_id => entry.lease.origin(),
                _ => {
                    let registering = admission.as_ref().and_then(|it| it.origin_of(instance.instance_id));
                    registering.or_else(|| before?.lease.origin())
                }
            }
        }
    }

    fn forget(&self, gone: &[Arc<Entry>]) {
        for entry in gone {
            self.leases.forget(&entry.lease);
        }
    }
}

/// Turns instances, read at `read_at`, into entries, each when it is asked for.
fn track(
    leases: &Leases,
    alarm: &Alarm,
    origin: impl Fn(&Instance) -> Option<Origin>,
    read_at: DateTime<Utc>,
    instances: impl IntoIterator<Item = Instance>,
    at_ms: u64,
) -> impl Iterator<Item = Arc<Entry>> {
    instances.into_iter().map(move |instance| {
        let age_ms = (read_at - instance.last_beat).num_milliseconds();
        let heard_ms = at_ms.saturating_sub(u64::try_from(age_ms).unwrap_or_default());
        let lease = leases.track(&instance, heard_ms);
        if instance.status != InstanceStatus::Dead {
            alarm.lease_granted(heard_ms, instance.ttl);
        } else {
            alarm.lease_ended();
        }
        let origin = origin(&instance);
        lease.set_origin(origin);
        Arc::new(Entry { instance, lease })
    })
}

impl Sink for Applier {
    fn load(&mut self, cluster: Cluster, instances: impl Iterator<Item = Instance>, at_ms: u64) {
        self.set_cluster(&cluster);
        let read_at = cluster.read_at;
        // Into the leases one by one, into the view all at once at the end.
        let entries = track(&self.leases, &self.alarm, self.origins(), read_at, instances, at_ms);
        let gone = self.view.replace(cluster, entries);
        if let Some((budget, _)) = &self.budget {
            warn_if_exceeded(*budget, self.view.usage());
        }
        self.forget(&gone);
        self.view.confirm(at_ms, read_at);
        self.readiness.set(Condition::View, true, "loaded");
        self.readiness.set(Condition::Feed, true, "connected");
    }

    fn apply(&mut self, cluster: Cluster, instances: Vec<Instance>, at_ms: u64) {
        self.set_cluster(&cluster);
        let read_at = cluster.read_at;
        let entries = track(&self.leases, &self.alarm, self.origins(), read_at, instances, at_ms);
        let gone = self.view.apply(cluster, entries);
        self.forget(&gone);
        self.view.confirm(at_ms, read_at);
    }

    fn daemons(&mut self, daemons: Daemons) {
        for record in daemons.present.iter().filter(|record| record.last_flush_age > SILENT_AFTER) {
            // The reaper evicts a silent daemon, and may be asleep until a lease is due.
            self.alarm.evict_within(self.clock.now_ms(), EVICTED_AFTER.saturating_sub(record.last_flush_age));
        }
        self.view.set_daemons(daemons);
    }

    fn lost(&mut self, error: &store::Error) {
        // Once loaded the daemon stays ready: it goes on answering from memory and says how old that is. If every
        // daemon turned away its callers while PostgreSQL is away, discovery would be down instead of degraded.
        let loaded = self.epoch.is_some();
        let detail = format!("degraded, answering from memory: {}", chain(error));
        self.readiness.set(Condition::Feed, loaded, detail);
    }
}
