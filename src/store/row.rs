//! Conversions between SQL types and ours that more than one file needs.

use std::{collections::HashSet, net::IpAddr, sync::Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};
use uuid::Uuid;

use super::texts::shared;
use crate::{
    metrics::RowMetrics,
    model::{
        Death, DeathReason, Details, Epoch, EpochId, Instance, InstanceId, InstanceStatus, Labels, LeaseId, LogicalId,
        Owner, Revision, StatusNote, Ttl,
    },
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
     i.death_reason, i.death_deadline, i.death_decided_by, i.owner, i.status_reason, i.status_since";

/// A time as PostgreSQL holds it, kept within the years 1 to 9999, which every client can represent. An infinite time, which
/// a hand can write into a row, is the end of that range, so that times keep the order that they have in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) DateTime<Utc>);

/// 2000-01-01, from which PostgreSQL counts microseconds, as seconds of the Unix clock.
const POSTGRES_EPOCH: i64 = 946_684_800;
/// 0001-01-01 and 9999-12-31, in seconds of the Unix clock.
const EARLIEST: i64 = -62_135_596_800;
const LATEST: i64 = 253_402_214_400;

impl<'a> FromSql<'a> for Time {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let micros = i64::from_sql(&Type::INT8, raw).map_err(|error| format!("{kind}: {error}"))?;
        let range = (EARLIEST - POSTGRES_EPOCH) * 1_000_000..=(LATEST - POSTGRES_EPOCH) * 1_000_000;
        let micros = micros.clamp(*range.start(), *range.end());
        let epoch = DateTime::from_timestamp(POSTGRES_EPOCH, 0).unwrap_or_default();
        Ok(Self(epoch.checked_add_signed(TimeDelta::microseconds(micros)).unwrap_or(epoch)))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

/// Reads an instance from the columns that begin at `first`. `None` if the row cannot be told from others; that is counted
/// and logged, as is any value that cannot be read, and the rows behind it are read all the same.
///
/// A value that cannot be read is left out: skipping the row instead would leave what was known of it before in the view.
pub(super) fn instance(row: &Row, first: usize) -> Option<Instance> {
    let read = Reading { row, first };
    let status: &str = read.value(7).unwrap_or_default();
    let status = InstanceStatus::from_word(status).unwrap_or(InstanceStatus::Dead);
    let death = (status == InstanceStatus::Dead).then(|| Death {
        reason: read.optional(20).and_then(DeathReason::from_word),
        at: read.time(18),
        deadline: read.time(21),
        decided_by: read.optional(22).map(shared),
    });
    let note = note(&read);
    let is_plain = death.is_none() && note.is_none();
    let number = |column| Some(unsigned(read.value(column)?));
    Some(Instance {
        instance_id: InstanceId(read.value(0)?),
        logical_id: LogicalId::from_record(read.value(1)?),
        lease_id: LeaseId(number(2)?),
        replaces: read.optional(3).map(|lease_id| LeaseId(unsigned(lease_id))),
        epoch: Epoch { id: EpochId(read.value(4)?), number: number(5)? },
        revision: Revision(number(6)?),
        status,
        actor_name: read.optional::<&str>(8).map(Box::from),
        serve_route: read.optional(9).map(shared),
        node_id: read.optional(10).map(shared),
        // A network with a prefix length is no address: none is known then.
        ip_address: row.try_get::<_, Option<IpAddr>>(first + 11).ok().flatten(),
        port: read.optional::<i32>(12).and_then(|port| u16::try_from(port).ok()?.try_into().ok()),
        pid: read.optional::<i32>(13).and_then(|pid| u32::try_from(pid).ok()?.try_into().ok()),
        version: read.optional(14).map(shared),
        labels: labels(read.value(15).unwrap_or_default()),
        ttl: Ttl::from_record(read.optional::<i32>(16).map(i64::from)),
        started_at: read.time(17).unwrap_or_default(),
        last_beat: read.time(19).unwrap_or_default(),
        owner: read.optional(23).map(Owner::named),
        details: (!is_plain).then(|| Box::new(Details { death, note })),
    })
}

/// Why and since when, unless it has been so since its registration.
fn note(read: &Reading<'_>) -> Option<StatusNote> {
    let note = StatusNote { reason: read.optional::<&str>(24).map(Box::from), since: read.time(25) };
    let is_first = note.reason.is_none() && note.since.is_some() && note.since == read.time(17);
    (!is_first).then_some(note)
}

/// One row, while it is read.
struct Reading<'a> {
    row: &'a Row,
    first: usize,
}

impl<'a> Reading<'a> {
    fn value<T: FromSql<'a>>(&self, column: usize) -> Option<T> {
        self.row.try_get(self.first + column).inspect_err(|error| unreadable(self.row, self.first, error)).ok()
    }

    fn optional<T: FromSql<'a>>(&self, column: usize) -> Option<T> {
        self.value::<Option<T>>(column).flatten()
    }

    fn time(&self, column: usize) -> Option<DateTime<Utc>> {
        self.optional::<Time>(column).map(|time| time.0)
    }
}

/// Rows of which it was logged that they cannot be read; a longer list would not help.
const LOGGED_MAX: usize = 1_000;

/// Counts a value that cannot be read, and logs the first one of each row.
fn unreadable(row: &Row, first: usize, error: &tokio_postgres::Error) {
    static LOGGED: Mutex<Option<HashSet<Uuid>>> = Mutex::new(None);
    let instance_id: Uuid = row.try_get(first).unwrap_or_default();
    let mut logged = LOGGED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let logged = logged.get_or_insert_default();
    if logged.len() < LOGGED_MAX && logged.insert(instance_id) {
        RowMetrics::new().unreadable.increment(1);
        let error = crate::telemetry::chain(error).to_string();
        tracing::warn!(instance_id = %instance_id, error, "value in a row cannot be read; it is left out");
    }
}

fn labels(value: Value) -> Labels {
    let Value::Object(labels) = value else { return Labels::default() };
    Labels::from_record(labels.into_iter().map(|(key, value)| match value {
        Value::String(value) => (key.into(), value.into()),
        other => (key.into(), other.to_string().into()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_from_any_microseconds_is_within_four_digit_years_and_in_order() {
        let time = |micros: i64| Time::from_sql(&Type::TIMESTAMPTZ, &micros.to_be_bytes()).unwrap().0;
        assert_eq!(time(0).to_rfc3339(), "2000-01-01T00:00:00+00:00");
        assert_eq!(time(-1).to_rfc3339(), "1999-12-31T23:59:59.999999+00:00");
        assert_eq!(time(i64::MIN).to_rfc3339(), "0001-01-01T00:00:00+00:00");
        assert_eq!(time(i64::MAX).to_rfc3339(), "9999-12-31T00:00:00+00:00");
        assert!(time(i64::MIN) < time(-1) && time(1) < time(i64::MAX));
    }
}
