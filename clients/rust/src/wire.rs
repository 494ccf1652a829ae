//! Generated types of the protocol, and their translation to values of this crate.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use crate::{
    error::Error,
    model::{self, Filter, Status},
};

pub(crate) use generated::*;

mod generated {
    #![expect(unreachable_pub, unused_qualifications, reason = "generated from the documented .proto files")]
    tonic::include_proto!("muster.v1");
}

/// A duration, or zero where the wire has none or an impossible one.
pub(crate) fn duration(wire: Option<&prost_types::Duration>) -> Duration {
    wire.and_then(|wire| Duration::try_from(*wire).ok()).unwrap_or_default()
}

/// A duration for the wire. Longer ones than the wire can carry do not occur: limits are minutes.
pub(crate) fn to_duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

fn time(wire: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
    SystemTime::try_from(*wire?).ok()
}

pub(crate) fn uuid(text: &str, what: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(text).map_err(|_| Error::malformed(what))
}

impl From<Status> for InstanceStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Starting => Self::Starting,
            Status::Alive => Self::Alive,
            Status::Draining => Self::Draining,
            Status::Dead => Self::Dead,
        }
    }
}

fn status(wire: InstanceStatus) -> Result<Status, Error> {
    match wire {
        InstanceStatus::Starting => Ok(Status::Starting),
        InstanceStatus::Alive => Ok(Status::Alive),
        InstanceStatus::Draining => Ok(Status::Draining),
        InstanceStatus::Dead => Ok(Status::Dead),
        InstanceStatus::Unspecified => Err(Error::malformed("status")),
    }
}

/// The status of a lease that was granted.
pub(crate) fn granted_status(wire: &RegisterResponse) -> Result<Status, Error> {
    status(wire.status())
}

impl TryFrom<Instance> for model::Instance {
    type Error = Error;

    fn try_from(wire: Instance) -> Result<Self, Error> {
        Ok(Self {
            status: status(wire.status())?,
            instance_id: uuid(&wire.instance_id, "instance id")?,
            lease_id: wire.lease_id,
            cluster_epoch: uuid(&wire.cluster_epoch, "cluster epoch")?,
            epoch_number: wire.epoch_number,
            revision: wire.revision,
            ip: wire.ip_address.parse::<IpAddr>().ok(),
            port: u16::try_from(wire.port).ok().filter(|port| *port > 0),
            pid: u32::try_from(wire.pid).ok().filter(|pid| *pid > 0),
            ttl: duration(wire.ttl.as_ref()),
            started_at: time(wire.started_at.as_ref()),
            last_beat: time(wire.last_beat.as_ref()),
            lease_remaining: duration(wire.lease_remaining.as_ref()),
            suspect: wire.suspect,
            death: wire.death.map(death),
            logical_id: wire.logical_id,
            actor_name: wire.actor_name,
            serve_route: wire.serve_route,
            node_id: wire.node_id,
            version: wire.version,
            labels: wire.labels.into_iter().collect(),
        })
    }
}

fn death(wire: Death) -> model::Death {
    let reason = match wire.reason() {
        DeathReason::Stale => model::DeathReason::Stale,
        DeathReason::OldEpoch => model::DeathReason::OldEpoch,
        DeathReason::Deregistered => model::DeathReason::Deregistered,
        DeathReason::Replaced => model::DeathReason::Replaced,
        DeathReason::Operator => model::DeathReason::Operator,
        DeathReason::Unspecified => model::DeathReason::Unknown,
    };
    let (at, deadline) = (time(wire.at.as_ref()), time(wire.deadline.as_ref()));
    model::Death { reason, at, deadline, decided_by: wire.decided_by }
}

impl Filter {
    fn statuses(&self) -> Vec<i32> {
        self.statuses.iter().map(|status| InstanceStatus::from(*status).into()).collect()
    }

    /// The first request of a watch.
    pub(crate) fn to_watch(&self) -> WatchRequest {
        WatchRequest {
            logical_id: self.logical_id.clone(),
            logical_id_prefix: self.prefix.clone(),
            statuses: self.statuses(),
            node_id: self.node_id.clone(),
            labels: self.labels.clone().into_iter().collect(),
            ..WatchRequest::default()
        }
    }

    /// The request for one page of a list.
    pub(crate) fn to_list(&self, page_token: &str) -> ListInstancesRequest {
        let prefix = if self.logical_id.is_empty() { &self.prefix } else { &self.logical_id };
        ListInstancesRequest {
            logical_id_prefix: prefix.clone(),
            statuses: self.statuses(),
            node_id: self.node_id.clone(),
            labels: self.labels.clone().into_iter().collect(),
            page_size: 1_000,
            page_token: page_token.to_owned(),
            ..ListInstancesRequest::default()
        }
    }
}
