//! A loaded view of a few instances, for unit tests of what answers from one.

use std::sync::Arc;

use chrono::DateTime;
use uuid::Uuid;

use super::{Entry, View};
use crate::{
    clock::{Clock, START_MS},
    model::{Cluster, Instance, Lease, Revision, fixture::EPOCH},
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
