//! Generated types of the protocol, and their translation to values of this crate.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use uuid::Uuid;

use crate::{
    cluster,
    error::Error,
    model::{self, Filter, Status},
    reason::Reason,
};

pub(crate) use generated::*;

mod generated {
    #![expect(unreachable_pub, unused_qualifications, reason = "generated from the documented .proto files")]
    tonic::include_proto!("muster.v1");
}

/// A duration; `None` where the wire has none or an impossible one. Not by the conversion of the library, which overflows
/// on what a peer may make up.
fn span(wire: Option<&prost_types::Duration>) -> Option<Duration> {
    let wire = wire?;
    let (seconds, nanos) = (u64::try_from(wire.seconds).ok()?, u32::try_from(wire.nanos).ok()?);
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

/// A duration, or zero where the wire has none or an impossible one.
pub(crate) fn duration(wire: Option<&prost_types::Duration>) -> Duration {
    span(wire).unwrap_or_default()
}

/// A duration for the wire. Longer ones than the wire can carry do not occur: limits are minutes.
pub(crate) fn to_duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

/// As [`to_duration`], for one that an operator gives.
pub(crate) fn operator_duration(field: &str, duration: Duration) -> Result<prost_types::Duration, Error> {
    to_duration(duration).ok_or_else(|| Error::invalid(field, "is too long; choose 1 s to 1 h"))
}

pub(crate) fn time(wire: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
    let wire = wire?;
    let nanos = Duration::from_nanos(u32::try_from(wire.nanos).ok()?.into());
    let seconds = Duration::from_secs(wire.seconds.unsigned_abs());
    let whole = if wire.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole?.checked_add(nanos)
}

pub(crate) fn to_time(time: SystemTime) -> prost_types::Timestamp {
    let since = |duration: Duration| (i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), duration.subsec_nanos());
    let (seconds, nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => since(after),
        // Before 1970 the nanoseconds still count upwards.
        Err(before) => match since(before.duration()) {
            (seconds, 0) => (-seconds, 0),
            (seconds, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
        },
    };
    prost_types::Timestamp { seconds, nanos: nanos.cast_signed() }
}

pub(crate) fn uuid(text: &str, what: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(text).map_err(|_| Error::malformed(what))
}

impl From<ErrorReason> for Reason {
    fn from(wire: ErrorReason) -> Self {
        Self::from_name(wire.as_str_name().trim_start_matches("ERROR_REASON_"))
    }
}

impl From<Status> for InstanceStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Starting => Self::Starting,
            Status::Alive => Self::Alive,
            Status::Draining => Self::Draining,
            Status::Dead => Self::Dead,
            Status::Unknown => Self::Unspecified,
        }
    }
}

impl From<InstanceStatus> for Status {
    fn from(wire: InstanceStatus) -> Self {
        match wire {
            InstanceStatus::Starting => Self::Starting,
            InstanceStatus::Alive => Self::Alive,
            InstanceStatus::Draining => Self::Draining,
            InstanceStatus::Dead => Self::Dead,
            InstanceStatus::Unspecified => Self::Unknown,
        }
    }
}

impl TryFrom<Instance> for model::Instance {
    type Error = Error;

    fn try_from(wire: Instance) -> Result<Self, Error> {
        Ok(Self {
            status: wire.status().into(),
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
            owner: wire.owner,
            status_reason: wire.status_reason,
            status_since: time(wire.status_since.as_ref()),
        })
    }
}

pub(crate) fn death(wire: Death) -> model::Death {
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

impl TryFrom<GetClusterResponse> for cluster::Cluster {
    type Error = Error;

    fn try_from(wire: GetClusterResponse) -> Result<Self, Error> {
        Ok(Self {
            severity: severity(wire.severity()),
            expiry: expiry(wire.expiry()),
            cluster_epoch: uuid(&wire.cluster_epoch, "cluster epoch")?,
            epoch_number: wire.epoch_number,
            revision: wire.revision,
            history_id: wire.history_id,
            daemons: wire.daemons.into_iter().map(daemon).collect(),
            lost_daemons: wire.lost_daemons.into_iter().map(lost_daemon).collect(),
            hold: wire.hold.map(|hold| cluster::Hold { remaining: span(hold.remaining.as_ref()), reason: hold.reason }),
            brake: wire.brake.map(brake),
            counts: counts(wire.counts.unwrap_or_default()),
            stale_for: duration(wire.stale_for.as_ref()),
            daemon_id: wire.daemon_id,
            version: wire.version,
            health: wire.health.map(health),
            database_time: time(wire.database_time.as_ref()),
            unserved_logical_ids: wire.unserved_logical_ids,
            problems: wire.problems.into_iter().map(problem).collect(),
        })
    }
}

fn daemon(wire: Daemon) -> cluster::Daemon {
    cluster::Daemon {
        daemon_id: wire.daemon_id,
        address: wire.address,
        version: wire.version,
        started_at: time(wire.started_at.as_ref()),
        last_flush_age: span(wire.last_flush_age.as_ref()),
    }
}

fn lost_daemon(wire: LostDaemon) -> cluster::LostDaemon {
    let daemon = wire.daemon.map(daemon).unwrap_or_default();
    cluster::LostDaemon { daemon, lost_for: span(wire.lost_for.as_ref()) }
}

fn brake(wire: Brake) -> cluster::Brake {
    let mode = match wire.mode() {
        BrakeMode::Pace => cluster::BrakeMode::Pace,
        BrakeMode::Protect => cluster::BrakeMode::Protect,
        BrakeMode::Unspecified => cluster::BrakeMode::Unknown,
    };
    cluster::Brake { mode, overdue: wire.overdue, live: wire.live, since: time(wire.since.as_ref()) }
}

fn counts(wire: InstanceCounts) -> cluster::Counts {
    cluster::Counts {
        starting: wire.starting,
        alive: wire.alive,
        draining: wire.draining,
        dead: wire.dead,
        logical_ids_live: wire.logical_ids_live,
        logical_ids_unserved: wire.logical_ids_unserved,
        suspect: wire.suspect,
        logical_ids_left: wire.logical_ids_left,
    }
}

fn health(wire: DaemonHealth) -> cluster::Health {
    cluster::Health {
        ready: wire.ready,
        missing: wire.missing,
        flush_lag: span(wire.flush_lag.as_ref()),
        database_latency: span(wire.database_latency.as_ref()),
        last_reap_age: span(wire.last_reap_age.as_ref()),
        http_address: wire.http_address,
        ports: wire.ports.into_iter().map(|Port { name, open_to }| cluster::Port { name, open_to }).collect(),
        ports_summary: wire.ports_summary,
    }
}

fn problem(wire: Problem) -> cluster::Problem {
    cluster::Problem {
        severity: severity(wire.severity()),
        code: wire.code,
        summary: wire.summary,
        action: wire.action,
        command: wire.command,
        cause: wire.cause,
    }
}

fn severity(wire: Severity) -> cluster::Severity {
    match wire {
        Severity::Ok => cluster::Severity::Ok,
        Severity::Warning => cluster::Severity::Warning,
        Severity::Critical => cluster::Severity::Critical,
        Severity::Unspecified => cluster::Severity::Unknown,
    }
}

fn expiry(wire: ExpiryState) -> cluster::Expiry {
    match wire {
        ExpiryState::Running => cluster::Expiry::Running,
        ExpiryState::Held => cluster::Expiry::Held,
        ExpiryState::Paced => cluster::Expiry::Paced,
        ExpiryState::Protected => cluster::Expiry::Protected,
        ExpiryState::Unknown => cluster::Expiry::Unknown,
        ExpiryState::Unspecified => cluster::Expiry::Unreported,
    }
}

impl From<WhoAmIResponse> for cluster::WhoAmI {
    fn from(wire: WhoAmIResponse) -> Self {
        let grant = |wire: Grant| cluster::Grant { verb: wire.verb, logical_ids: wire.logical_ids };
        let quota = |Quota { unit, limit, used }| cluster::Quota { unit, limit, used };
        Self {
            identity: wire.identity,
            kind: wire.kind,
            expires_at: time(wire.expires_at.as_ref()),
            grants: wire.grants.into_iter().map(grant).collect(),
            enforced: wire.enforced,
            quotas: wire.quotas.into_iter().map(quota).collect(),
        }
    }
}

impl From<Decision> for cluster::Decision {
    fn from(wire: Decision) -> Self {
        let Decision { id, at, action, by, by_role, object, detail, revision } = wire;
        let (at, revision) = (time(at.as_ref()), Some(revision).filter(|revision| *revision > 0));
        Self { id, at, action, by, by_role, object, detail, revision }
    }
}

impl TryFrom<Epoch> for cluster::Epoch {
    type Error = Error;

    fn try_from(wire: Epoch) -> Result<Self, Error> {
        Ok(Self {
            cluster_epoch: uuid(&wire.cluster_epoch, "cluster epoch")?,
            epoch_number: wire.epoch_number,
            started_at: time(wire.started_at.as_ref()),
            started_revision: wire.started_revision,
            reason: wire.reason,
            rotated_by: wire.rotated_by,
        })
    }
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
            alive_at: self.alive_at.map(to_time),
            ..ListInstancesRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_a_peer_that_are_impossible_are_none() {
        let read = |seconds, nanos| span(Some(&prost_types::Duration { seconds, nanos }));
        assert_eq!(read(12, 390_000_000), Some(Duration::from_millis(12_390)));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, i32::MIN)] {
            assert_eq!(read(seconds, nanos), None, "{seconds} {nanos}");
        }
    }

    #[test]
    fn times_survive_the_wire_and_impossible_ones_are_none() {
        let read = |seconds, nanos| time(Some(&prost_types::Timestamp { seconds, nanos }));
        for (seconds, nanos) in [(0, 0), (1_700_000_000, 250_000_000), (-2, 500_000_000), (-1, 0)] {
            let sent = to_time(read(seconds, nanos).expect("a time"));
            assert_eq!((sent.seconds, sent.nanos), (seconds, nanos));
        }
        assert_eq!(read(0, -1), None);
        // Far outside any calendar: whatever it is, it is no panic.
        for seconds in [i64::MIN, i64::MAX] {
            let _ = read(seconds, 999_999_999).map(to_time);
        }
    }

    #[test]
    fn status_of_a_newer_daemon_is_unknown() {
        let wire = Instance {
            instance_id: Uuid::nil().into(),
            cluster_epoch: Uuid::nil().into(),
            status: 99,
            ..Default::default()
        };
        assert_eq!(model::Instance::try_from(wire).expect("readable").status, Status::Unknown);
    }
}
