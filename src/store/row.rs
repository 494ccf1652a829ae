//! Conversions between SQL types and ours that more than one file needs.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_postgres::Row;

use super::texts::shared;
use crate::model::{
    Death, DeathReason, Epoch, EpochId, Instance, InstanceId, InstanceStatus, Labels, LeaseId, LogicalId, Revision, Ttl,
};

/// A `bigint` that is never negative where it comes from.
pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// A number for a `bigint` parameter. Revisions would need 292,000 years at a million a second to overflow it.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The columns of `registry_instance` that [`instance`] reads, in its order.
pub(super) const INSTANCE_COLUMNS: &str = "i.instance_id, i.logical_id, i.lease_id, i.replaces_lease_id, \
     i.cluster_epoch, i.epoch_number, i.revision, i.status::text, i.actor_name, i.serve_route, i.node_id, \
     i.ip_address, i.port, i.pid, i.version, i.labels, i.ttl_ms, i.started_at, i.stopped_at, i.last_heartbeat, \
     i.death_reason, i.death_deadline, i.death_decided_by";

/// Reads an instance from the columns that begin at `first`.
///
/// What a hand-written row may hold (labels that are no object of strings, an infinite time) is taken as well as can
/// be: one odd row must not stop the feed.
pub(super) fn instance(row: &Row, first: usize) -> Result<Instance, tokio_postgres::Error> {
    let status: &str = row.try_get(first + 7)?;
    let status = InstanceStatus::from_word(status).unwrap_or(InstanceStatus::Dead);
    let stopped_at = time(row, first + 18);
    let death = (status == InstanceStatus::Dead).then(|| {
        Box::new(Death {
            reason: row.try_get(first + 20).ok().flatten().and_then(DeathReason::from_word),
            at: stopped_at,
            deadline: time(row, first + 21),
            decided_by: text(row, first + 22).map(shared),
        })
    });
    Ok(Instance {
        instance_id: InstanceId(row.try_get(first)?),
        logical_id: LogicalId::from_record(row.try_get(first + 1)?),
        lease_id: LeaseId(unsigned(row.try_get(first + 2)?)),
        replaces: row.try_get::<_, Option<i64>>(first + 3)?.map(|lease_id| LeaseId(unsigned(lease_id))),
        epoch: Epoch { id: EpochId(row.try_get(first + 4)?), number: unsigned(row.try_get(first + 5)?) },
        revision: Revision(unsigned(row.try_get(first + 6)?)),
        status,
        actor_name: text(row, first + 8).map(Box::from),
        serve_route: text(row, first + 9).map(shared),
        node_id: text(row, first + 10).map(shared),
        ip_address: row.try_get::<_, Option<IpAddr>>(first + 11).ok().flatten(),
        port: row.try_get::<_, Option<i32>>(first + 12)?.and_then(|port| u16::try_from(port).ok()?.try_into().ok()),
        pid: row.try_get::<_, Option<i32>>(first + 13)?.and_then(|pid| u32::try_from(pid).ok()),
        version: text(row, first + 14).map(shared),
        labels: labels(row.try_get(first + 15)?),
        ttl: Ttl::from_record(row.try_get::<_, Option<i32>>(first + 16)?.map(i64::from)),
        started_at: time(row, first + 17).unwrap_or_default(),
        last_beat: time(row, first + 19).unwrap_or_default(),
        death,
    })
}

fn text(row: &Row, column: usize) -> Option<&str> {
    row.try_get::<_, Option<&str>>(column).ok().flatten()
}

fn time(row: &Row, column: usize) -> Option<DateTime<Utc>> {
    row.try_get::<_, Option<DateTime<Utc>>>(column).ok().flatten()
}

fn labels(value: Value) -> Labels {
    let Value::Object(labels) = value else { return Labels::default() };
    Labels::from_record(labels.into_iter().map(|(key, value)| match value {
        Value::String(value) => (key.into(), value.into()),
        other => (key.into(), other.to_string().into()),
    }))
}
