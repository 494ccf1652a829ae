//! A loaded view of a few instances, for unit tests of what answers from one.

use std::sync::Arc;

use chrono::DateTime;
use uuid::Uuid;

use super::{Entry, Service, View};
use crate::{
    clock::{Clock, START_MS},
    model::{Cluster, DeathReason, Epoch, Instance, InstanceStatus, Lease, Revision, fixture::EPOCH},
};

/// A view of these instances, each heard of so many seconds before [`START_MS`].
pub(crate) fn loaded(instances: impl IntoIterator<Item = (Instance, u64)>) -> View {
    let (view, mut writer) = View::new(Clock::new());
    let entries = instances.into_iter().map(|(instance, silent_s)| {
        let heard_ms = START_MS - silent_s * 1_000;
        let lease = Lease::new(instance.lease_id, instance.instance_id, EPOCH.number, None, instance.ttl, heard_ms);
        Arc::new(Entry { instance, lease: Arc::new(lease) })
    });
    let cluster = Cluster {
        epoch: EPOCH,
        revision: Revision(1_000),
        history_id: Uuid::nil(),
        purged: Revision(0),
        hold: None,
        brake: None,
        read_at: DateTime::default(),
    };
    writer.replace(cluster, entries.collect::<Vec<_>>());
    view
}

/// Whether a name with these instances is served, told from the rows in plain words.
pub(crate) fn service(rows: &[&Arc<Entry>], epoch: Epoch) -> Service {
    let has = |status| rows.iter().any(|row| row.instance.status_in(epoch) == status);
    let written = |row: &&&Arc<Entry>| row.instance.status == InstanceStatus::Dead;
    let fenced = |row: &&Arc<Entry>| row.instance.status_in(epoch) == InstanceStatus::Dead && !written(&row);
    let drains = |row: &&&Arc<Entry>| row.instance.status == InstanceStatus::Draining;
    let ended = rows.iter().filter(|row| written(row) || drains(row));
    let last = ended.max_by_key(|row| row.instance.revision);
    let reason = |row: &&&Arc<Entry>| row.instance.death().and_then(|death| death.reason);
    let on_purpose = |row: &&&Arc<Entry>| drains(row) || reason(row) == Some(DeathReason::Deregistered);
    match () {
        () if has(InstanceStatus::Alive) => Service::Live,
        () if has(InstanceStatus::Starting) || rows.iter().any(fenced) => Service::Unserved,
        () if last.as_ref().is_some_and(on_purpose) => Service::Left,
        () => Service::Unserved,
    }
}
