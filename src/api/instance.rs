//! An instance as JSON: the proto3 form of `muster.v1.Instance`, field by field what `musterd list -o json` prints. A
//! test holds the two against each other.

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{status_cache::StatusCache, value::duration};
use crate::{
    json::value::{long, time},
    model::{Death, DeathReason, Epoch, InstanceStatus},
    view::Entry,
};

/// One instance, as seen in the current epoch.
pub(super) fn instance(cache: &StatusCache, entry: &Arc<Entry>, epoch: Epoch, now_ms: u64) -> Value {
    let (instance, lease) = (&entry.instance, &entry.lease);
    let status = instance.status_in(epoch);
    let live = status != InstanceStatus::Dead;
    let remaining = Duration::from_millis(if live { lease.remaining_ms(now_ms) } else { 0 });
    let last_beat = cache.view().database_time(lease.heard_ms()).max(instance.started_at);
    let labels: Map<String, Value> =
        instance.labels.iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    json!({
        "instanceId": instance.instance_id.to_string(),
        "logicalId": instance.logical_id.as_str(),
        "leaseId": long(instance.lease_id),
        "clusterEpoch": instance.epoch.id.to_string(),
        "epochNumber": long(instance.epoch.number),
        "revision": long(instance.revision),
        "status": format!("INSTANCE_STATUS_{}", status.as_str().to_uppercase()),
        "actorName": instance.actor_name.as_deref().unwrap_or_default(),
        "serveRoute": instance.serve_route.as_deref().unwrap_or_default(),
        "nodeId": instance.node_id.as_deref().unwrap_or_default(),
        "ipAddress": instance.ip_address.map(|ip| ip.to_string()).unwrap_or_default(),
        "port": instance.port.map(NonZeroU16::get).unwrap_or_default(),
        "pid": long(instance.pid.map(NonZeroU32::get).unwrap_or_default()),
        "version": instance.version.as_deref().unwrap_or_default(),
        "labels": labels,
        "ttl": duration(instance.ttl.as_duration()),
        "startedAt": time(instance.started_at),
        "lastBeat": time(last_beat),
        "leaseRemaining": duration(remaining),
        "suspect": live && lease.is_suspect(now_ms),
        "death": instance.death_in(epoch).as_ref().map(death),
        "owner": instance.owner.as_ref().map(|owner| owner.text().to_string()).unwrap_or_default(),
        "statusReason": instance.status_reason().filter(|_| instance.status == status).unwrap_or_default(),
        "statusSince": instance.status_since().filter(|_| instance.status == status).map(time),
    })
}

/// The record of a death.
pub(super) fn death(death: &Death) -> Value {
    json!({
        "reason": reason(death.reason),
        "at": death.at.map(time),
        "deadline": death.deadline.map(time),
        "decidedBy": death.decided_by.as_deref().unwrap_or_default(),
    })
}

fn reason(reason: Option<DeathReason>) -> String {
    let word = reason.map_or("unspecified", DeathReason::as_str);
    format!("DEATH_REASON_{}", word.to_uppercase())
}
