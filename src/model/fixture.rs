//! Instances for unit tests of what deals with them.

use std::{net::Ipv4Addr, num::NonZeroU16};

use chrono::DateTime;
use uuid::Uuid;

use super::{
    cluster::Epoch,
    ids::{EpochId, InstanceId, LeaseId, LogicalId, Revision},
    input::{Labels, Ttl},
    instance::Instance,
    status::InstanceStatus,
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
        owner: None,
        started_at: DateTime::from_timestamp(number.into(), 0).unwrap(),
        last_beat: DateTime::default(),
        details: None,
    }
}
