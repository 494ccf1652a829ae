//! `GET /api/v1/summary`: the answer to "is it well?" in one object, made once a second for all readers.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    beats::Beats,
    instance,
    status_cache::{Sources, Summary},
    value::duration,
};
use crate::{
    access::Names,
    json::value::{long, time},
    model::{Cluster, DaemonRecord, EpochRecord, InstanceStatus},
    stats::{LATELY, NameState, RegistryStats, Timestamps},
    status::{Code, Facts, Problem, Status, daemon_state, judge},
    view::{Counts, Entry, View},
};

/// Most unserved names that the summary tells.
const UNSERVED_MAX: usize = 10;

/// The summary as JSON: the whole of it, and what a reader of some names only may see.
pub(crate) fn render(
    sources: &Sources,
    beats: Beats,
    stats: &RegistryStats,
    epoch: Option<&EpochRecord>,
    now: Timestamps,
) -> Summary {
    let view = &sources.view;
    let snapshot = view.snapshot();
    let (cluster, facts) = (snapshot.cluster(), sources.facts.facts());
    let status = judge(&facts);
    let unserved = stats.listed(NameState::Unserved).iter().take(UNSERVED_MAX).map(|name| name.as_str());
    let mut whole = json!({
        "expiry": status.expiry.as_str(),
        "ready": status.ready,
        "now": time(now.database),
        "asOf": time(facts.confirmed_at),
        "staleFor": duration(facts.stale_for),
        "version": env!("CARGO_PKG_VERSION"),
        "daemonId": sources.daemon_id.to_string(),
        "grpcAddress": sources.grpc_address,
        "ports": {
            "grpc": facts.ports.grpc.openness().as_str(),
            "http": facts.ports.http.openness().as_str(),
            "summary": facts.ports.words(),
        },
        "flushLag": duration(facts.flush_lag),
        "databaseLatency": facts.database_latency.map(duration),
        "lastReapAge": facts.last_reap_age.map(duration),
        "cluster": cluster.map(|cluster| cluster_json(cluster, epoch)),
        "hold": facts.hold.as_ref().map(|hold| json!({"remaining": duration(hold.remaining), "reason": hold.reason})),
        "brake": facts.brake.as_ref().map(|brake| json!({
            "mode": format!("BRAKE_MODE_{brake:?}", brake = brake.mode).to_uppercase(),
            "overdue": brake.overdue,
            "live": brake.live,
            "since": time(brake.since),
        })),
        "daemons": daemons_json(&facts),
        "counts": counts_json(snapshot.counts(), stats),
        "names": NameState::ALL.iter().map(|state| (state.as_str().to_owned(), stats.count(*state).into()))
            .collect::<Map<_, Value>>(),
        "unserved": unserved.collect::<Vec<_>>(),
        "deathsLately": deaths(stats),
        "beats": {
            "received": beats.per_second.map(round),
            "expectedHere": per_second(stats.beats_expected_here_milli),
            "expected": per_second(stats.beats_expected_milli),
            "late": beats.late,
        },
        "latest": latest(view, stats, epoch),
        "statsAge": duration(Duration::from_millis(now.now_ms.saturating_sub(stats.taken_ms))),
        "filtered": false,
    });
    if let Some(fields) = whole.as_object_mut() {
        fields.extend(judged(&status));
    }
    Summary { partial: without_counts(&whole, status).to_string(), whole: whole.to_string() }
}

/// What a reader of some names only may see of a summary, whichever names these are: no numbers, which are of all names, and the
/// problems without them.
fn without_counts(whole: &Value, status: Status) -> Value {
    let mut partial = whole.clone();
    // A brake may be null.
    for counts in ["counts", "names", "deathsLately", "beats", "brake"] {
        let counts = partial.get_mut(counts).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut);
        counts.filter(|count| count.is_number()).for_each(|count| *count = Value::Null);
    }
    if let Some(fields) = partial.as_object_mut() {
        fields.extend(judged(&status.without_counts()));
        fields.insert("filtered".to_owned(), true.into());
    }
    partial
}

/// The partial summary without names that these do not contain.
pub(crate) fn restricted(partial: &[u8], names: &Names) -> Option<String> {
    let mut summary: Value = serde_json::from_slice(partial).ok()?;
    let is_readable = |name: &Value| name.as_str().is_none_or(|name| names.contains(name));
    summary.get_mut("unserved")?.as_array_mut()?.retain(is_readable);
    summary.get_mut("latest")?.as_array_mut()?.retain(|change| change.get("logicalId").is_none_or(is_readable));
    serde_json::to_string(&summary).ok()
}

/// The judgement of a status.
fn judged(status: &Status) -> [(String, Value); 2] {
    let problems = status.problems.iter().map(problem).collect::<Vec<_>>();
    [("severity".to_owned(), status.severity.as_str().into()), ("problems".to_owned(), problems.into())]
}

fn cluster_json(cluster: &Cluster, epoch: Option<&EpochRecord>) -> Value {
    let epoch = epoch.filter(|record| record.epoch == cluster.epoch);
    json!({
        "clusterEpoch": cluster.epoch.id.to_string(),
        "epochNumber": long(cluster.epoch.number),
        "epochStartedAt": epoch.map(|record| time(record.started_at)),
        "epochReason": epoch.map(|record| record.reason.as_str()),
        "epochRotatedBy": epoch.map(|record| record.rotated_by.as_str()),
        "revision": long(cluster.revision),
        "historyId": cluster.history_id.to_string(),
    })
}

/// A problem as JSON; `brief` is for a headline.
pub(crate) fn problem(problem: &Problem) -> Value {
    json!({
        "code": problem.code.as_str(),
        "severity": problem.severity.as_str(),
        "summary": problem.summary,
        "action": problem.action,
        "command": problem.command,
        "cause": problem.cause.map(Code::as_str),
        "brief": problem.code.brief(),
    })
}

fn daemons_json(facts: &Facts) -> Vec<Value> {
    let row = |record: &DaemonRecord, state: &str, lost_for: Option<Duration>| {
        json!({
            "daemonId": record.daemon_id.to_string(),
            "address": record.address,
            "version": record.version,
            "startedAt": time(record.started_at),
            "lastFlushAge": duration(record.last_flush_age + facts.stale_for),
            "state": state,
            "lostFor": lost_for.map(|lost_for| duration(lost_for + facts.stale_for)),
            "answering": record.daemon_id == facts.daemon_id,
        })
    };
    let lost = facts.lost_daemons.iter().map(|lost| row(&lost.record, "lost", Some(lost.lost_for)));
    let present = facts.daemons.iter().map(|record| row(record, daemon_state(record, facts), None));
    lost.chain(present).collect()
}

fn counts_json(counts: Counts, stats: &RegistryStats) -> Value {
    json!({
        "starting": counts.starting,
        "alive": counts.alive,
        "draining": counts.draining,
        "dead": counts.dead,
        "suspect": stats.suspect,
        "logicalIdsLive": counts.logical_ids_live,
        "logicalIdsUnserved": counts.logical_ids_unserved,
        "logicalIdsLeft": counts.logical_ids_left,
    })
}

fn deaths(stats: &RegistryStats) -> Value {
    let deaths = stats.deaths;
    json!({
        "within": duration(LATELY),
        "total": deaths.total(),
        "stale": deaths.stale,
        "old_epoch": deaths.old_epoch,
        "deregistered": deaths.deregistered,
        "replaced": deaths.replaced,
        "operator": deaths.operator,
    })
}

/// The latest changes, rotations among them, the latest first.
fn latest(view: &View, stats: &RegistryStats, epoch: Option<&EpochRecord>) -> Vec<Value> {
    let snapshot = view.snapshot();
    let Some(cluster) = snapshot.cluster() else { return Vec::new() };
    let mut rows: Vec<(u64, Value)> =
        stats.latest.iter().map(|entry| (entry.instance.revision.0, change(cluster, entry))).collect();
    if let Some(epoch) = epoch {
        let row = json!({
            "what": "rotated",
            "revision": long(epoch.started_revision),
            "at": time(epoch.started_at),
            "epochNumber": long(epoch.epoch.number),
            "reason": epoch.reason,
            "by": epoch.rotated_by,
        });
        rows.push((epoch.started_revision.0, row));
    }
    rows.sort_by_key(|(revision, _)| std::cmp::Reverse(*revision));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn change(cluster: &Cluster, entry: &Entry) -> Value {
    let instance = &entry.instance;
    let status = instance.status_in(cluster.epoch);
    let registered = instance.revision.0 == instance.lease_id.0 && instance.status != InstanceStatus::Dead;
    let what = match status {
        InstanceStatus::Dead => "died",
        _ if registered => "registered",
        status => status.as_str(),
    };
    let death = instance.death_in(cluster.epoch);
    let at = match &death {
        Some(death) => death.at,
        // When a status was set is not on record.
        None => Some(instance.started_at).filter(|_| registered),
    };
    json!({
        "what": what,
        "revision": long(instance.revision),
        "at": at.map(time),
        "logicalId": instance.logical_id.as_str(),
        "instanceId": instance.instance_id.to_string(),
        "death": death.as_ref().map(instance::death),
    })
}

/// To a tenth.
fn round(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

fn per_second(milli: u64) -> f64 {
    round(f64::from(u32::try_from(milli / 100).unwrap_or(u32::MAX)) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Expiry, Severity};

    #[test]
    fn summary_for_a_reader_of_some_names_has_no_number_of_all() {
        let problem = |code, summary: &str, cause| Problem {
            cause,
            ..Problem::new(code, Severity::Warning, summary, "Look at it.")
        };
        let status = Status {
            severity: Severity::Critical,
            ready: true,
            expiry: Expiry::Paced,
            conditions: Vec::new(),
            problems: vec![
                problem(Code::BrakePace, "7 of 40", None),
                problem(Code::Unserved, "40 names", None),
                problem(Code::DatabaseSlow, "slow", Some(Code::Unserved)),
            ],
        };
        let whole = json!({
            "counts": {"alive": 40}, "names": {"served": 40}, "deathsLately": {"within": "600s", "total": 40},
            "brake": {"mode": "BRAKE_MODE_PACE", "overdue": 7, "live": 40, "since": "t"},
            "beats": {"received": 40.0, "expectedHere": 40.0, "expected": 40.0, "late": false},
            "unserved": ["a", "b"],
            "latest": [{"what": "died", "logicalId": "b"}, {"what": "rotated"}],
            "filtered": false,
        });
        let partial = without_counts(&whole, status.clone()).to_string();
        let told: Value =
            serde_json::from_str(&restricted(partial.as_bytes(), &Names::written(&["a"])).unwrap()).unwrap();
        assert!(!told.to_string().contains("40"), "{told}");
        assert_eq!(told["brake"], json!({"mode": "BRAKE_MODE_PACE", "overdue": null, "live": null, "since": "t"}));
        assert_eq!((&told["unserved"], &told["beats"]["late"]), (&json!(["a"]), &json!(false)));
        assert_eq!(told["latest"], json!([{"what": "rotated"}]));
        assert_eq!((&told["severity"], &told["filtered"]), (&json!("warning"), &json!(true)));
        let problems: Vec<_> =
            told["problems"].as_array().unwrap().iter().map(|it| (&it["summary"], &it["cause"])).collect();
        assert_eq!(problems, [(&json!(Code::BrakePace.brief()), &Value::Null), (&json!("slow"), &Value::Null)]);
        assert_eq!(without_counts(&json!({"brake": null}), status)["brake"], Value::Null);
    }
}
