//! Requests into values, values into answers.
//!
//! A request is read whole: every field that cannot be accepted is reported, not only the first.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use uuid::Uuid;

use super::failure::Failure;
use crate::{
    model::{
        self, DaemonRecord, EpochRecord, InstanceId, InstanceStatus, InvalidInput, Labels, LeaseId, LostDaemon,
        Registration, Ttl,
        input::{self, NAME_MAX_BYTES, SERVE_ROUTE_MAX_BYTES, STATUS_REASON_MAX_BYTES, invalid},
    },
    proto::{self, v1},
    status::{Expiry, Problem, Severity},
    view::{Entry, View},
};

/// For how long an operator may overrule something.
pub const OPERATOR_DURATION: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);
const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1_000;
/// Most refused fields that one answer names: it must fit into what a client takes for the end of a call.
const VIOLATIONS_MAX: usize = 16;

/// Collects the fields that cannot be accepted.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<InvalidInput>);

impl Violations {
    /// Passes on what was accepted, remembers what was not. A refused value is replaced by its default, which is never
    /// used, because [`Violations::into_result`] then fails.
    pub(crate) fn take<T: Default>(&mut self, parsed: Result<T, InvalidInput>) -> T {
        parsed.unwrap_or_else(|violation| {
            if self.0.len() < VIOLATIONS_MAX {
                self.0.push(violation);
            }
            T::default()
        })
    }

    /// As [`Violations::take`], for what has no default.
    pub(crate) fn keep<T>(&mut self, parsed: Result<T, InvalidInput>) -> Option<T> {
        self.take(parsed.map(Some))
    }

    /// Whether everything was accepted so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails if there are any.
    pub(crate) fn into_result(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::Invalid(self.0)) }
    }
}

pub(crate) fn registration(request: v1::RegisterRequest) -> Result<Registration, Failure> {
    let mut violations = Violations::default();
    let instance_id = if request.instance_id.is_empty() {
        Some(InstanceId(Uuid::new_v4()))
    } else {
        violations.keep(input::instance_id("instance_id", &request.instance_id))
    };
    let logical_id = violations.keep(input::logical_id("logical_id", &request.logical_id));
    let ttl = violations.keep(ttl(request.ttl));
    let status = violations.keep(initial_status(request.initial_status));
    let epoch = violations.take(input::optional_epoch("cluster_epoch", &request.cluster_epoch));
    let actor_name = violations.take(input::optional_name("actor_name", request.actor_name, NAME_MAX_BYTES));
    let serve_route = violations.take(input::optional_name("serve_route", request.serve_route, SERVE_ROUTE_MAX_BYTES));
    let node_id = violations.take(input::optional_name("node_id", request.node_id, NAME_MAX_BYTES));
    let ip_address = violations.take(input::optional_ip("ip_address", &request.ip_address));
    let port = violations.take(input::optional_port("port", request.port));
    let pid = violations.take(input::optional_pid("pid", request.pid));
    let version = violations.take(input::optional_name("version", request.version, NAME_MAX_BYTES));
    let labels = violations.take(Labels::from_input("labels", &request.labels));
    violations.into_result()?;
    let (Some(instance_id), Some(logical_id), Some(ttl), Some(status)) = (instance_id, logical_id, ttl, status) else {
        return Err(Failure::Invalid(Vec::new()));
    };
    Ok(Registration {
        instance_id,
        logical_id,
        epoch,
        status,
        actor_name,
        serve_route,
        node_id,
        ip_address,
        port,
        pid,
        version,
        labels,
        ttl,
        identity: None,
        records_max: None,
    })
}

fn ttl(ttl: Option<prost_types::Duration>) -> Result<Ttl, InvalidInput> {
    let Some(ttl) = ttl else { return Ttl::from_input("ttl", None) };
    match proto::std_duration(&ttl) {
        Some(ttl) => Ttl::from_input("ttl", Some(ttl)),
        None => invalid("ttl", "is negative or malformed; choose whole milliseconds from 2 s to 300 s"),
    }
}

fn initial_status(status: i32) -> Result<InstanceStatus, InvalidInput> {
    match v1::InstanceStatus::try_from(status) {
        Ok(v1::InstanceStatus::Unspecified | v1::InstanceStatus::Starting) => Ok(InstanceStatus::Starting),
        Ok(v1::InstanceStatus::Alive) => Ok(InstanceStatus::Alive),
        _ => invalid("initial_status", format!("is {status}; choose STARTING (1) or ALIVE (2)")),
    }
}

/// Accepts a status that must be given.
pub(crate) fn required_status(field: &str, status: i32) -> Result<InstanceStatus, InvalidInput> {
    match v1::InstanceStatus::try_from(status) {
        Ok(v1::InstanceStatus::Starting) => Ok(InstanceStatus::Starting),
        Ok(v1::InstanceStatus::Alive) => Ok(InstanceStatus::Alive),
        Ok(v1::InstanceStatus::Draining) => Ok(InstanceStatus::Draining),
        Ok(v1::InstanceStatus::Dead) => Ok(InstanceStatus::Dead),
        Ok(v1::InstanceStatus::Unspecified) | Err(_) => {
            invalid(field, format!("is {status}; choose STARTING (1), ALIVE (2), DRAINING (3) or DEAD (4)"))
        }
    }
}

/// Accepts the lease and the instance that a request names; at least one of them.
pub(crate) fn target(lease_id: u64, instance_id: &str) -> Result<(Option<LeaseId>, Option<InstanceId>), InvalidInput> {
    let lease_id = Some(LeaseId(lease_id)).filter(|lease_id| lease_id.0 != 0);
    match (instance_id, lease_id) {
        ("", None) => invalid("lease_id", "is 0 and instance_id is empty; give one of them"),
        ("", lease_id) => Ok((lease_id, None)),
        (text, lease_id) => Ok((lease_id, Some(input::instance_id("instance_id", text)?))),
    }
}

/// The status that a request asks for, and the reason that it gives.
pub(crate) fn set_status(request: &v1::SetStatusRequest) -> Result<(InstanceStatus, Option<Arc<str>>), Failure> {
    let mut violations = Violations::default();
    violations.take(target(request.lease_id, &request.instance_id));
    let status = violations.keep(required_status("status", request.status));
    let reason = violations.take(input::optional_name("reason", request.reason.clone(), STATUS_REASON_MAX_BYTES));
    violations.into_result()?;
    Ok((status.ok_or(Failure::Invalid(Vec::new()))?, reason.map(Arc::from)))
}

/// Accepts a page size; 0 means the default.
pub(crate) fn page_size(size: i32) -> Result<usize, InvalidInput> {
    match usize::try_from(size) {
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(size) if size <= PAGE_SIZE_MAX => Ok(size),
        _ => invalid("page_size", format!("is {size}; choose 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}")),
    }
}

/// An instance as it is now: in the current epoch, with what is left of its lease.
pub(crate) fn instance(entry: &Entry, epoch: model::Epoch, view: &View) -> v1::Instance {
    let now_ms = view.clock().now_ms();
    let instance = &entry.instance;
    let status = instance.status_in(epoch);
    let live = status != InstanceStatus::Dead;
    v1::Instance {
        instance_id: uuid_text(instance.instance_id.0),
        logical_id: instance.logical_id.as_str().to_owned(),
        lease_id: instance.lease_id.0,
        cluster_epoch: uuid_text(instance.epoch.id.0),
        epoch_number: instance.epoch.number,
        revision: instance.revision.0,
        status: status_code(status).into(),
        actor_name: text(instance.actor_name.as_deref()),
        serve_route: text(instance.serve_route.as_deref()),
        node_id: text(instance.node_id.as_deref()),
        ip_address: instance.ip_address.map(ip_text).unwrap_or_default(),
        port: instance.port.map(|port| port.get().into()).unwrap_or_default(),
        pid: instance.pid.map(|pid| pid.get().into()).unwrap_or_default(),
        version: text(instance.version.as_deref()),
        labels: labels(&instance.labels),
        ttl: Some(duration(instance.ttl.as_duration())),
        started_at: Some(timestamp(instance.started_at)),
        last_beat: Some(timestamp(view.database_time(entry.lease.heard_ms()).max(instance.started_at))),
        lease_remaining: Some(duration(Duration::from_millis(if live { entry.lease.remaining_ms(now_ms) } else { 0 }))),
        suspect: live && entry.lease.is_suspect(now_ms),
        death: instance.death_in(epoch).map(death),
        owner: instance.owner.as_ref().map(|owner| owner.text().to_string()).unwrap_or_default(),
        // A death by rotation that is not written down yet has other reasons.
        status_reason: text(instance.status_reason().filter(|_| instance.status == status)),
        status_since: instance.status_since().filter(|_| instance.status == status).map(timestamp),
    }
}

fn death(death: model::Death) -> v1::Death {
    v1::Death {
        reason: death_reason(death.reason).into(),
        at: death.at.map(timestamp),
        deadline: death.deadline.map(timestamp),
        decided_by: text(death.decided_by.as_deref()),
    }
}

/// A lease that has ended.
pub(crate) fn ended_lease(lease: model::EndedLease) -> v1::EndedLease {
    v1::EndedLease {
        lease_id: lease.lease_id.0,
        instance_id: lease.instance_id.to_string(),
        logical_id: lease.logical_id.to_string(),
        actor_name: lease.actor_name.unwrap_or_default(),
        node_id: lease.node_id.unwrap_or_default(),
        owner: lease.owner.unwrap_or_default(),
        epoch_number: lease.epoch_number,
        started_at: Some(timestamp(lease.started_at)),
        death: Some(death(lease.death)),
    }
}

pub(crate) fn death_reason(reason: Option<model::DeathReason>) -> v1::DeathReason {
    match reason {
        None => v1::DeathReason::Unspecified,
        Some(model::DeathReason::Stale) => v1::DeathReason::Stale,
        Some(model::DeathReason::OldEpoch) => v1::DeathReason::OldEpoch,
        Some(model::DeathReason::Deregistered) => v1::DeathReason::Deregistered,
        Some(model::DeathReason::Replaced) => v1::DeathReason::Replaced,
        Some(model::DeathReason::Operator) => v1::DeathReason::Operator,
    }
}

pub(crate) fn status_code(status: InstanceStatus) -> v1::InstanceStatus {
    match status {
        InstanceStatus::Starting => v1::InstanceStatus::Starting,
        InstanceStatus::Alive => v1::InstanceStatus::Alive,
        InstanceStatus::Draining => v1::InstanceStatus::Draining,
        InstanceStatus::Dead => v1::InstanceStatus::Dead,
    }
}

pub(crate) fn epoch(record: EpochRecord) -> v1::Epoch {
    v1::Epoch {
        cluster_epoch: record.epoch.id.to_string(),
        epoch_number: record.epoch.number,
        started_at: Some(timestamp(record.started_at)),
        started_revision: record.started_revision.0,
        reason: record.reason,
        rotated_by: record.rotated_by,
    }
}

/// The brake, with what it counts only for callers that may know it.
pub(crate) fn brake(brake: &model::Brake, counts: bool) -> v1::Brake {
    let mode = match brake.mode {
        model::BrakeMode::Pace => v1::BrakeMode::Pace,
        model::BrakeMode::Protect => v1::BrakeMode::Protect,
    };
    let (overdue, live) = if counts { (brake.overdue, brake.live) } else { (0, 0) };
    v1::Brake { mode: mode.into(), overdue, live, since: Some(timestamp(brake.since)) }
}

/// Accepts for how long an operator overrules something; unset means a default.
pub(crate) fn operator_duration(
    field: &str,
    duration: Option<prost_types::Duration>,
) -> Result<Option<Duration>, InvalidInput> {
    match duration.as_ref().map(proto::std_duration) {
        None => Ok(None),
        Some(Some(duration)) if OPERATOR_DURATION.contains(&duration) => Ok(Some(duration)),
        Some(_) => invalid(field, "is out of range; choose 1 s to 1 h"),
    }
}

/// Accepts a time; unset means now.
pub(crate) fn optional_time(field: &str, time: Option<Timestamp>) -> Result<Option<DateTime<Utc>>, InvalidInput> {
    let Some(time) = time else { return Ok(None) };
    match u32::try_from(time.nanos).ok().and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos)) {
        Some(time) => Ok(Some(time)),
        None => invalid(field, "is no time; give seconds since 1970 and 0 to 999999999 nanoseconds"),
    }
}

pub(crate) fn daemon(record: &DaemonRecord, read_ago: Duration) -> v1::Daemon {
    v1::Daemon {
        daemon_id: record.daemon_id.to_string(),
        address: record.address.clone(),
        version: record.version.clone(),
        started_at: Some(timestamp(record.started_at)),
        last_flush_age: Some(duration(record.last_flush_age + read_ago)),
    }
}

pub(crate) fn lost_daemon(lost: &LostDaemon, read_ago: Duration) -> v1::LostDaemon {
    v1::LostDaemon { daemon: Some(daemon(&lost.record, read_ago)), lost_for: Some(duration(lost.lost_for + read_ago)) }
}

pub(crate) fn severity(severity: Severity) -> v1::Severity {
    match severity {
        Severity::Ok => v1::Severity::Ok,
        Severity::Warning => v1::Severity::Warning,
        Severity::Critical => v1::Severity::Critical,
    }
}

pub(crate) fn expiry(expiry: Expiry) -> v1::ExpiryState {
    match expiry {
        Expiry::Running => v1::ExpiryState::Running,
        Expiry::Held => v1::ExpiryState::Held,
        Expiry::Paced => v1::ExpiryState::Paced,
        Expiry::Protected => v1::ExpiryState::Protected,
        Expiry::Unknown => v1::ExpiryState::Unknown,
    }
}

pub(crate) fn problem(problem: &Problem) -> v1::Problem {
    v1::Problem {
        code: problem.code.as_str().to_owned(),
        severity: severity(problem.severity).into(),
        summary: problem.summary.clone(),
        action: problem.action.clone(),
        command: problem.command.to_owned(),
        cause: problem.cause.map(|cause| cause.as_str().to_owned()).unwrap_or_default(),
    }
}

pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

pub(crate) fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos().cast_signed() }
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn labels(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A UUID as text, without the machinery of formatting: one call of Resolve needs three of them.
pub(crate) fn uuid_text(uuid: Uuid) -> String {
    uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

/// An address as text; for IPv4 without the machinery of formatting, which was a tenth of the time of a batch.
fn ip_text(ip: IpAddr) -> String {
    let IpAddr::V4(ip) = ip else { return ip.to_string() };
    let mut text = String::with_capacity(15);
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        for (divisor, needed) in [(100, octet >= 100), (10, octet >= 10), (1, true)] {
            if needed {
                text.push(char::from(b'0' + octet / divisor % 10));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_are_those_of_the_formatting_machinery(ip in any::<u32>(), uuid in any::<u128>()) {
            let (ip, uuid) = (Ipv4Addr::from_bits(ip), Uuid::from_u128(uuid));
            prop_assert_eq!(ip_text(ip.into()), ip.to_string());
            prop_assert_eq!(uuid_text(uuid), uuid.to_string());
        }
    }
}
