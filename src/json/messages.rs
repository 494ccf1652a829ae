//! Messages of `muster.v1`, as the client has them, in their JSON form.
//!
//! Every field is there, also with its default value, and an unset message is `null`: a script need not ask whether a key
//! exists. Enums are their names in the protocol.

use std::time::{Duration, SystemTime};

use musterd_client::{
    Brake, BrakeMode, Change, Changed, Cluster, Counts, Daemon, Death, DeathReason, Decision, EndedLease, Epoch,
    Expiry, Found, Health, Hold, Instance, LostDaemon, Problem, Reason, Rotated, Severity, Status,
};
use serde_json::{Value, json};

use super::value::{duration, long, time};
use crate::terminal::words::moment;

fn optional(span: Option<Duration>) -> Value {
    span.map_or(Value::Null, duration)
}

/// A timestamp outside the calendar is `null`.
pub(crate) fn timestamp(at: Option<SystemTime>) -> Value {
    moment(at).map_or(Value::Null, time)
}

/// The name of an enum's value in the protocol, by the word for it.
fn name(prefix: &str, word: &str) -> Value {
    let word = if word == "unknown" { "unspecified" } else { word };
    json!(format!("{prefix}_{}", word.to_ascii_uppercase()))
}

fn status(status: Status) -> Value {
    name("INSTANCE_STATUS", status.as_str())
}

fn death_reason(reason: DeathReason) -> Value {
    name("DEATH_REASON", reason.as_str())
}

pub(crate) fn death(death: &Death) -> Value {
    json!({
        "reason": death_reason(death.reason),
        "at": timestamp(death.at),
        "deadline": timestamp(death.deadline),
        "decidedBy": death.decided_by,
    })
}

/// `muster.v1.Instance`.
pub(crate) fn instance(instance: &Instance) -> Value {
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
        "ipAddress": instance.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        "port": instance.port.unwrap_or_default(),
        "pid": long(instance.pid.unwrap_or_default()),
        "version": instance.version,
        "labels": instance.labels,
        "ttl": duration(instance.ttl),
        "startedAt": timestamp(instance.started_at),
        "lastBeat": timestamp(instance.last_beat),
        "leaseRemaining": duration(instance.lease_remaining),
        "suspect": instance.suspect,
        "death": instance.death.as_ref().map_or(Value::Null, death),
        "owner": instance.owner,
        "statusReason": instance.status_reason,
        "statusSince": timestamp(instance.status_since),
    })
}

/// `muster.v1.BatchResolveResult`, with the name it is about: a line of it may stand alone.
pub(crate) fn resolved(logical_id: &str, result: &Result<(Instance, u32), Reason>) -> Value {
    let (found, reason, alternatives) = match result {
        Ok((found, alternatives)) => (instance(found), "UNSPECIFIED", *alternatives),
        Err(reason) => (Value::Null, reason.name(), 0),
    };
    json!({
        "logicalId": logical_id,
        "instance": found,
        "reason": format!("ERROR_REASON_{reason}"),
        "alternatives": alternatives,
    })
}

/// `muster.v1.WatchEvent`, and where a watch that has seen it goes on.
pub(crate) fn watch_event(change: &Change, revision: u64, history_id: &str) -> Value {
    let about = match change {
        Change::Put(one) | Change::Gone(one) => instance(one),
        Change::Suspect { logical_id, instance_id, lease_id, suspect, .. } => {
            let mut hint = instance(&Instance::default());
            hint["logicalId"] = json!(logical_id);
            hint["instanceId"] = json!(instance_id);
            hint["leaseId"] = long(lease_id);
            hint["suspect"] = json!(suspect);
            // Not set in a hint.
            hint["clusterEpoch"] = json!("");
            (hint["ttl"], hint["leaseRemaining"]) = (Value::Null, Value::Null);
            hint
        }
        _ => Value::Null,
    };
    json!({
        "type": name("WATCH_EVENT_TYPE", change_word(change)),
        "instance": about,
        "revision": long(revision),
        "historyId": history_id,
    })
}

/// What a change is, in one word.
pub(crate) fn change_word(change: &Change) -> &'static str {
    match change {
        Change::Put(_) => "PUT",
        Change::Gone(_) => "GONE",
        Change::Suspect { suspect: true, .. } => "SUSPECT",
        Change::Suspect { suspect: false, .. } => "RECOVERED",
        _ => "UNSPECIFIED",
    }
}

/// What a watch tells of itself between the events, in the form of an event: `mark` takes the place of the type.
pub(crate) fn watch_mark(
    mark: &str,
    revision: u64,
    history_id: &str,
    cluster_epoch: uuid::Uuid,
    epoch_number: u64,
) -> Value {
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
pub(crate) fn list(page: &musterd_client::Page) -> Value {
    json!({
        "instances": page.instances.iter().map(instance).collect::<Vec<_>>(),
        "nextPageToken": "",
        "revision": long(page.revision),
        "staleFor": duration(page.stale_for),
    })
}

fn daemon(daemon: &Daemon) -> Value {
    json!({
        "daemonId": daemon.daemon_id,
        "address": daemon.address,
        "version": daemon.version,
        "startedAt": timestamp(daemon.started_at),
        "lastFlushAge": optional(daemon.last_flush_age),
    })
}

/// The word of a severity, as the HTTP API has it.
fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
        _ => "unspecified",
    }
}

fn expiry(expiry: Expiry) -> &'static str {
    match expiry {
        Expiry::Running => "running",
        Expiry::Held => "held",
        Expiry::Paced => "paced",
        Expiry::Protected => "protected",
        Expiry::Unknown => "unknown",
        _ => "unspecified",
    }
}

fn problem(problem: &Problem) -> Value {
    json!({
        "code": problem.code,
        "severity": severity(problem.severity),
        "summary": problem.summary,
        "action": problem.action,
        "command": problem.command,
        "cause": Some(&problem.cause).filter(|cause| !cause.is_empty()),
    })
}

fn lost_daemon(lost: &LostDaemon) -> Value {
    json!({ "daemon": daemon(&lost.daemon), "lostFor": optional(lost.lost_for) })
}

fn counts(counts: &Counts) -> Value {
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

fn hold(hold: &Hold) -> Value {
    json!({ "remaining": optional(hold.remaining), "reason": hold.reason })
}

fn brake(brake: &Brake) -> Value {
    let mode = match brake.mode {
        BrakeMode::Pace => "pace",
        BrakeMode::Protect => "protect",
        _ => "unknown",
    };
    json!({
        "mode": name("BRAKE_MODE", mode),
        "overdue": long(brake.overdue),
        "live": long(brake.live),
        "since": timestamp(brake.since),
    })
}

/// `muster.v1.HoldExpiryResponse`.
pub(crate) fn held(remaining: Duration) -> Value {
    json!({ "remaining": duration(remaining) })
}

/// `muster.v1.ExpireInstanceResponse`.
pub(crate) fn expired(changed: &Changed) -> Value {
    json!({ "revision": long(changed.revision), "alreadyDead": changed.already_dead })
}

/// `muster.v1.GetClusterResponse`.
pub(crate) fn cluster(cluster: &Cluster) -> Value {
    json!({
        "clusterEpoch": cluster.cluster_epoch,
        "epochNumber": long(cluster.epoch_number),
        "revision": long(cluster.revision),
        "historyId": cluster.history_id,
        "daemons": cluster.daemons.iter().map(daemon).collect::<Vec<_>>(),
        "hold": cluster.hold.as_ref().map_or(Value::Null, hold),
        "counts": counts(&cluster.counts),
        "staleFor": duration(cluster.stale_for),
        "daemonId": cluster.daemon_id,
        "version": cluster.version,
        "brake": cluster.brake.as_ref().map_or(Value::Null, brake),
        "health": cluster.health.as_ref().map_or(Value::Null, health),
        "databaseTime": timestamp(cluster.database_time),
        "unservedLogicalIds": cluster.unserved_logical_ids,
        "severity": severity(cluster.severity),
        "problems": cluster.problems.iter().map(problem).collect::<Vec<_>>(),
        "expiry": expiry(cluster.expiry),
        "lostDaemons": cluster.lost_daemons.iter().map(lost_daemon).collect::<Vec<_>>(),
    })
}

fn health(health: &Health) -> Value {
    json!({
        "ready": health.ready,
        "missing": health.missing,
        "flushLag": optional(health.flush_lag),
        "databaseLatency": optional(health.database_latency),
        "lastReapAge": optional(health.last_reap_age),
        "httpAddress": health.http_address,
        "ports": health.ports.iter().map(|port| json!({ "name": port.name, "openTo": port.open_to })).collect::<Vec<_>>(),
        "portsSummary": health.ports_summary,
    })
}

/// `muster.v1.EndedLease`.
pub(crate) fn ended_lease(lease: &EndedLease) -> Value {
    json!({
        "leaseId": long(lease.lease_id),
        "instanceId": lease.instance_id,
        "logicalId": lease.logical_id,
        "actorName": lease.actor_name,
        "nodeId": lease.node_id,
        "owner": lease.owner,
        "epochNumber": long(lease.epoch_number),
        "startedAt": timestamp(lease.started_at),
        "death": death(&lease.death),
    })
}

/// `muster.v1.GetInstanceResponse` and `CheckLeaseResponse`.
pub(crate) fn found(found: &Found) -> Value {
    json!({
        "instance": instance(&found.instance),
        "revision": long(found.revision),
        "staleFor": duration(found.stale_for),
    })
}

/// `muster.v1.RotateEpochResponse`.
pub(crate) fn rotated(rotated: &Rotated) -> Value {
    json!({
        "clusterEpoch": rotated.cluster_epoch,
        "epochNumber": long(rotated.epoch_number),
        "revision": long(rotated.revision),
        "previousEpoch": rotated.previous_epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
        "rotated": rotated.rotated,
    })
}

/// `muster.v1.Epoch`.
pub(crate) fn epoch(epoch: &Epoch) -> Value {
    json!({
        "clusterEpoch": epoch.cluster_epoch,
        "epochNumber": long(epoch.epoch_number),
        "startedAt": timestamp(epoch.started_at),
        "startedRevision": long(epoch.started_revision),
        "reason": epoch.reason,
        "rotatedBy": epoch.rotated_by,
    })
}

/// `muster.v1.ListEpochsResponse`.
pub(crate) fn epochs(epochs: &[Epoch]) -> Value {
    json!({ "epochs": epochs.iter().map(epoch).collect::<Vec<_>>(), "nextPageToken": "" })
}

/// `muster.v1.Decision`; its detail is the object, not a text.
pub(crate) fn decision(decision: &Decision) -> Value {
    let detail = serde_json::from_str(&decision.detail).unwrap_or_else(|_| json!(decision.detail));
    json!({
        "id": long(decision.id),
        "at": timestamp(decision.at),
        "action": decision.action,
        "by": decision.by,
        "byRole": decision.by_role,
        "object": decision.object,
        "detail": detail,
        "revision": long(decision.revision.unwrap_or_default()),
    })
}

/// `muster.v1.ListDecisionsResponse`, of as many pages as were read.
pub(crate) fn decisions(decisions: &[Decision]) -> Value {
    json!({ "decisions": decisions.iter().map(decision).collect::<Vec<_>>(), "nextPageToken": "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_duration_is_null() {
        assert_eq!(optional(None), Value::Null);
    }

    #[test]
    fn timestamps_are_rfc_3339_in_utc() {
        let at = |millis| timestamp(SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
        assert_eq!(at(0), json!("1970-01-01T00:00:00Z"));
        assert_eq!(at(1_700_000_000_250), json!("2023-11-14T22:13:20.250Z"));
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::MAX >> 1))), Value::Null);
    }

    #[test]
    fn an_empty_instance_has_every_field_with_its_default() {
        let value = instance(&Instance::default());
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(24));
        assert_eq!((&value["leaseId"], &value["pid"], &value["port"]), (&json!("0"), &json!("0"), &json!(0)));
        assert_eq!(value["status"], json!("INSTANCE_STATUS_UNSPECIFIED"));
        assert_eq!((&value["labels"], &value["death"]), (&json!({}), &Value::Null));
    }

    #[test]
    fn a_brake_has_its_mode_by_name_and_is_null_where_there_is_none() {
        let mut one = Cluster::default();
        assert_eq!(cluster(&one)["brake"], Value::Null);
        let mut brake = Brake::default();
        (brake.mode, brake.overdue, brake.live) = (BrakeMode::Protect, 51, 100);
        one.brake = Some(brake);
        let expected = json!({ "mode": "BRAKE_MODE_PROTECT", "overdue": "51", "live": "100", "since": null });
        assert_eq!(cluster(&one)["brake"], expected);
    }

    #[test]
    fn large_integers_survive_and_reasons_have_their_names() {
        let mut one = Instance::default();
        let mut death = Death::default();
        death.reason = DeathReason::Stale;
        (one.lease_id, one.pid, one.death) = (u64::MAX, Some(42), Some(death));
        let value = instance(&one);
        assert_eq!((&value["leaseId"], &value["pid"]), (&json!("18446744073709551615"), &json!("42")));
        assert_eq!(value["death"]["reason"], json!("DEATH_REASON_STALE"));
    }
}
