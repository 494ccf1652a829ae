//! A loaded view of a few instances, for unit tests of what answers from one.

use std::{net::Ipv4Addr, num::NonZeroU16, sync::Arc};

use chrono::DateTime;
use uuid::Uuid;

use super::{Entry, View};
use crate::{
    clock::{Clock, START_MS},
    model::{
        Cluster, Epoch, EpochId, Instance, InstanceId, InstanceStatus, Labels, Lease, LeaseId, LogicalId, Revision, Ttl,
    },
};

/// The epoch of its instances.
pub(crate) const EPOCH: Epoch = Epoch { id: EpochId(Uuid::from_u128(1)), number: 1 };

/// An instance whose lease and port are its number.
pub(crate) fn instance(number: u16, logical_id: &str, status: InstanceStatus) -> Instance {
    let (lease_id, revision) = (LeaseId(number.into()), Revision(number.into()));
    Instance {
        instance_id: InstanceId(Uuid::from_u128(number.into())),
        logical_id: LogicalId::from_record(logical_id),
        lease_id,
        replaces: None,
        epoch: EPOCH,
        revision,
        status,
        actor_name: None,
        serve_route: None,
        node_id: None,
        ip_address: Some(Ipv4Addr::LOCALHOST.into()),
        port: NonZeroU16::new(number),
        pid: None,
        version: None,
        labels: Labels::default(),
        ttl: Ttl::from_record(Some(15_000)),
        started_at: DateTime::from_timestamp(number.into(), 0).unwrap(),
        last_beat: DateTime::default(),
        death: None,
    }
}

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
