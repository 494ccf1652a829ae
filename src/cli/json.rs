//! The protocol's messages as JSON: the proto3 JSON mapping, so that what the commands print is what any other tool that
//! knows `muster.v1` prints and reads.
//!
//! Names are lowerCamelCase, 64-bit integers are strings, enums are their names, durations are seconds with `s`,
//! timestamps RFC 3339 in UTC; both have 0, 3, 6 or 9 digits after the point. Every field is there, also with its default
//! value, and an unset message is `null`: a script need not ask whether a key exists. This is a stable contract: fields
//! are added, never renamed or removed.

use chrono::{DateTime, SecondsFormat};
use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

use crate::proto::v1;

/// `1s`, `0.200s`, `-1.500s`.
#[must_use]
pub fn duration(duration: Option<&Duration>) -> Value {
    duration.map_or(Value::Null, |d| Value::String(duration_text(d)))
}

pub(super) fn duration_text(duration: &Duration) -> String {
    let sign = if duration.seconds < 0 || duration.nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (duration.seconds.unsigned_abs(), duration.nanos.unsigned_abs());
    if nanos == 0 {
        format!("{sign}{seconds}s")
    } else if nanos % 1_000_000 == 0 {
        format!("{sign}{seconds}.{:03}s", nanos / 1_000_000)
    } else if nanos % 1_000 == 0 {
        format!("{sign}{seconds}.{:06}s", nanos / 1_000)
    } else {
        format!("{sign}{seconds}.{nanos:09}s")
    }
}

/// `2026-01-02T03:04:05.678Z`. A timestamp outside the calendar is `null`.
#[must_use]
pub fn timestamp(timestamp: Option<&Timestamp>) -> Value {
    timestamp
        .and_then(|t| DateTime::from_timestamp(t.seconds, u32::try_from(t.nanos).ok()?))
        .map_or(Value::Null, |t| Value::String(t.to_rfc3339_opts(SecondsFormat::AutoSi, true)))
}

/// A 64-bit integer. As a number it would be rounded by readers that know only doubles.
pub(super) fn long(number: impl ToString) -> Value {
    Value::String(number.to_string())
}

/// The name of an enum's value, or the number of one that a newer daemon knows.
fn status(number: i32) -> Value {
    v1::InstanceStatus::try_from(number).map_or(json!(number), |status| json!(status.as_str_name()))
}

fn death(death: &v1::Death) -> Value {
    let reason = v1::DeathReason::try_from(death.reason).map_or(json!(death.reason), |r| json!(r.as_str_name()));
    json!({
        "reason": reason,
        "at": timestamp(death.at.as_ref()),
        "deadline": timestamp(death.deadline.as_ref()),
        "decidedBy": death.decided_by,
    })
}

/// `muster.v1.Instance`.
#[must_use]
pub fn instance(instance: &v1::Instance) -> Value {
    json!({
        "instanceId": instance.instance_id,
        "logicalId": instance.logical_id,
        "leaseId": long(instance.lease_id),
        "clusterEpoch": instance.cluster_epoch,
        "epochNumber": long(instance.epoch_number),
        "revision": long(instance.revision),
        "status": status(instance.status),
        "actorName": instance.actor_name,
        "serveRoute": instance.serve_route,
        "nodeId": instance.node_id,
        "ipAddress": instance.ip_address,
        "port": instance.port,
        "pid": long(instance.pid),
        "version": instance.version,
        "labels": instance.labels,
        "ttl": duration(instance.ttl.as_ref()),
        "startedAt": timestamp(instance.started_at.as_ref()),
        "lastBeat": timestamp(instance.last_beat.as_ref()),
        "leaseRemaining": duration(instance.lease_remaining.as_ref()),
        "suspect": instance.suspect,
        "death": instance.death.as_ref().map_or(Value::Null, death),
    })
}

/// `muster.v1.BatchResolveResult`, with the name it is about: a line of it may stand alone.
#[must_use]
pub fn resolved(name: &str, result: &v1::BatchResolveResult) -> Value {
    let reason = v1::ErrorReason::try_from(result.reason).map_or(json!(result.reason), |r| json!(r.as_str_name()));
    json!({
        "logicalId": name,
        "instance": result.instance.as_ref().map_or(Value::Null, instance),
        "reason": reason,
        "alternatives": result.alternatives,
    })
}

/// `muster.v1.WatchEvent`, and where a watch that has seen it goes on.
#[must_use]
pub fn watch_event(event: &v1::WatchEvent, revision: u64, history_id: &str) -> Value {
    let kind = v1::WatchEventType::try_from(event.r#type).map_or(json!(event.r#type), |t| json!(t.as_str_name()));
    json!({
        "type": kind,
        "instance": event.instance.as_ref().map_or(Value::Null, instance),
        "revision": long(revision),
        "historyId": history_id,
    })
}

/// What a watch tells of itself between the events, in the form of an event: `mark` takes the place of the type.
#[must_use]
pub fn watch_mark(mark: &str, revision: u64, history_id: &str, cluster_epoch: &str, epoch_number: u64) -> Value {
    json!({
        "type": mark,
        "instance": null,
        "revision": long(revision),
        "historyId": history_id,
        "clusterEpoch": cluster_epoch,
        "epochNumber": long(epoch_number),
    })
}

/// `muster.v1.ListInstancesResponse`.
#[must_use]
pub fn list(response: &v1::ListInstancesResponse) -> Value {
    json!({
        "instances": response.instances.iter().map(instance).collect::<Vec<_>>(),
        "nextPageToken": response.next_page_token,
        "revision": long(response.revision),
        "staleFor": duration(response.stale_for.as_ref()),
    })
}

fn daemon(daemon: &v1::Daemon) -> Value {
    json!({
        "daemonId": daemon.daemon_id,
        "address": daemon.address,
        "version": daemon.version,
        "startedAt": timestamp(daemon.started_at.as_ref()),
        "lastFlushAge": duration(daemon.last_flush_age.as_ref()),
    })
}

/// The word of an enum, as the HTTP API has it.
fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

fn problem(problem: &v1::Problem) -> Value {
    json!({
        "code": problem.code,
        "severity": word(problem.severity().as_str_name(), "SEVERITY_"),
        "summary": problem.summary,
        "action": problem.action,
        "command": problem.command,
        "cause": Some(&problem.cause).filter(|cause| !cause.is_empty()),
    })
}

fn lost_daemon(lost: &v1::LostDaemon) -> Value {
    json!({
        "daemon": lost.daemon.as_ref().map_or(Value::Null, daemon),
        "lostFor": duration(lost.lost_for.as_ref()),
    })
}

fn counts(counts: &v1::InstanceCounts) -> Value {
    json!({
        "starting": long(counts.starting),
        "alive": long(counts.alive),
        "draining": long(counts.draining),
        "dead": long(counts.dead),
        "logicalIdsLive": long(counts.logical_ids_live),
        "logicalIdsUnserved": long(counts.logical_ids_unserved),
        "suspect": long(counts.suspect),
        "logicalIdsLeft": long(counts.logical_ids_left),
    })
}

fn hold(hold: &v1::Hold) -> Value {
    json!({ "remaining": duration(hold.remaining.as_ref()), "reason": hold.reason })
}

fn brake(brake: &v1::Brake) -> Value {
    let mode = v1::BrakeMode::try_from(brake.mode).map_or(json!(brake.mode), |mode| json!(mode.as_str_name()));
    json!({
        "mode": mode,
        "overdue": long(brake.overdue),
        "live": long(brake.live),
        "since": timestamp(brake.since.as_ref()),
    })
}

/// `muster.v1.CheckLeaseResponse`.
#[must_use]
pub fn checked_lease(response: &v1::CheckLeaseResponse) -> Value {
    json!({
        "instance": response.instance.as_ref().map_or(Value::Null, instance),
        "revision": long(response.revision),
        "staleFor": duration(response.stale_for.as_ref()),
    })
}

/// `muster.v1.HoldExpiryResponse`.
#[must_use]
pub fn held(response: &v1::HoldExpiryResponse) -> Value {
    json!({ "remaining": duration(response.remaining.as_ref()) })
}

/// `muster.v1.ExpireInstanceResponse`.
#[must_use]
pub fn expired(response: &v1::ExpireInstanceResponse) -> Value {
    json!({ "revision": long(response.revision), "alreadyDead": response.already_dead })
}

/// `muster.v1.GetClusterResponse`.
#[must_use]
pub fn cluster(response: &v1::GetClusterResponse) -> Value {
    json!({
        "clusterEpoch": response.cluster_epoch,
        "epochNumber": long(response.epoch_number),
        "revision": long(response.revision),
        "historyId": response.history_id,
        "daemons": response.daemons.iter().map(daemon).collect::<Vec<_>>(),
        "hold": response.hold.as_ref().map_or(Value::Null, hold),
        "counts": response.counts.as_ref().map_or(Value::Null, counts),
        "staleFor": duration(response.stale_for.as_ref()),
        "daemonId": response.daemon_id,
        "version": response.version,
        "brake": response.brake.as_ref().map_or(Value::Null, brake),
        "health": response.health.as_ref().map_or(Value::Null, health),
        "databaseTime": timestamp(response.database_time.as_ref()),
        "unservedLogicalIds": response.unserved_logical_ids,
        "severity": word(response.severity().as_str_name(), "SEVERITY_"),
        "problems": response.problems.iter().map(problem).collect::<Vec<_>>(),
        "expiry": word(response.expiry().as_str_name(), "EXPIRY_STATE_"),
        "lostDaemons": response.lost_daemons.iter().map(lost_daemon).collect::<Vec<_>>(),
    })
}

fn health(health: &v1::DaemonHealth) -> Value {
    json!({
        "ready": health.ready,
        "missing": health.missing,
        "flushLag": duration(health.flush_lag.as_ref()),
        "databaseLatency": duration(health.database_latency.as_ref()),
        "lastReapAge": duration(health.last_reap_age.as_ref()),
        "httpAddress": health.http_address,
    })
}

/// `muster.v1.GetInstanceResponse`.
#[must_use]
pub fn got(response: &v1::GetInstanceResponse) -> Value {
    json!({
        "instance": response.instance.as_ref().map_or(Value::Null, instance),
        "revision": long(response.revision),
        "staleFor": duration(response.stale_for.as_ref()),
    })
}

/// `muster.v1.RotateEpochResponse`.
#[must_use]
pub fn rotated(response: &v1::RotateEpochResponse) -> Value {
    json!({
        "clusterEpoch": response.cluster_epoch,
        "epochNumber": long(response.epoch_number),
        "revision": long(response.revision),
        "previousEpoch": response.previous_epoch,
        "rotated": response.rotated,
    })
}

/// `muster.v1.Epoch`.
#[must_use]
pub fn epoch(epoch: &v1::Epoch) -> Value {
    json!({
        "clusterEpoch": epoch.cluster_epoch,
        "epochNumber": long(epoch.epoch_number),
        "startedAt": timestamp(epoch.started_at.as_ref()),
        "startedRevision": long(epoch.started_revision),
        "reason": epoch.reason,
        "rotatedBy": epoch.rotated_by,
    })
}

/// `muster.v1.ListEpochsResponse`.
#[must_use]
pub fn epochs(response: &v1::ListEpochsResponse) -> Value {
    json!({
        "epochs": response.epochs.iter().map(epoch).collect::<Vec<_>>(),
        "nextPageToken": response.next_page_token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_0_3_6_or_9_digits_and_one_sign() {
        for (seconds, nanos, expected) in [
            (0, 0, "0s"),
            (3, 500_000_000, "3.500s"),
            (15, 1_000, "15.000001s"),
            (0, 1, "0.000000001s"),
            (0, -500_000_000, "-0.500s"),
            (-2, -1, "-2.000000001s"),
        ] {
            assert_eq!(duration_text(&Duration { seconds, nanos }), expected);
        }
        assert_eq!(duration(None), Value::Null);
    }

    #[test]
    fn timestamps_are_rfc_3339_in_utc() {
        let at = |seconds, nanos| timestamp(Some(&Timestamp { seconds, nanos }));
        assert_eq!(at(0, 0), json!("1970-01-01T00:00:00Z"));
        assert_eq!(at(1_700_000_000, 250_000_000), json!("2023-11-14T22:13:20.250Z"));
        assert_eq!(at(i64::MAX, 0), Value::Null);
        assert_eq!(at(0, -1), Value::Null);
    }

    #[test]
    fn an_empty_instance_has_every_field_with_its_default() {
        let value = instance(&v1::Instance::default());
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(21));
        assert_eq!(value["leaseId"], json!("0"));
        assert_eq!(value["port"], json!(0));
        assert_eq!(value["status"], json!("INSTANCE_STATUS_UNSPECIFIED"));
        assert_eq!(value["labels"], json!({}));
        assert_eq!(value["death"], Value::Null);
    }

    #[test]
    fn a_brake_has_its_mode_by_name_and_is_null_where_there_is_none() {
        let with = |brake| cluster(&v1::GetClusterResponse { brake, ..Default::default() })["brake"].clone();
        assert_eq!(with(None), Value::Null);
        let mode = v1::BrakeMode::Protect.into();
        let brake = with(Some(v1::Brake { mode, overdue: 51, live: 100, since: None }));
        let expected = json!({ "mode": "BRAKE_MODE_PROTECT", "overdue": "51", "live": "100", "since": null });
        assert_eq!(brake, expected);
        assert_eq!(with(Some(v1::Brake { mode: 9, ..Default::default() }))["mode"], json!(9));
    }

    #[test]
    fn large_integers_survive_and_unknown_enum_values_stay_numbers() {
        let value = instance(&v1::Instance {
            lease_id: u64::MAX,
            pid: 42,
            status: 99,
            death: Some(v1::Death { reason: v1::DeathReason::Stale.into(), ..Default::default() }),
            ..Default::default()
        });
        assert_eq!(value["leaseId"], json!("18446744073709551615"));
        assert_eq!(value["pid"], json!("42"));
        assert_eq!(value["status"], json!(99));
        assert_eq!(value["death"]["reason"], json!("DEATH_REASON_STALE"));
    }
}
