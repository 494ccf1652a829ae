//! `GET /api/v1/summary`: the answer to "is it well?" in one object, made once a second for everybody.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    instance,
    value::{duration, long, time},
    verdict::{Facts, daemon_state, problems, severity},
};
use crate::{
    http::board::{Engine, Sources},
    model::{Cluster, DaemonRecord, EpochRecord, InstanceStatus, wellness::Wellness},
    view::{
        Counts, Daemons, Entry, View,
        survey::{LATELY, Moment, NameState, Survey},
    },
};

/// Most unserved names that the summary tells.
const UNSERVED_MAX: usize = 10;

/// The summary as JSON. `beats` are those accepted per second.
pub(crate) fn render(
    sources: &Sources,
    engine: Engine,
    beats: Option<f64>,
    survey: &Survey,
    epoch: Option<&EpochRecord>,
    now: Moment,
) -> String {
    let view = &sources.view;
    let snapshot = view.snapshot();
    let (cluster, counts, stale_for) = (snapshot.cluster(), snapshot.counts(), view.stale_for());
    let readiness = sources.readiness.snapshot();
    let (ready, daemons) = (readiness.ready, view.daemons());
    let hold = cluster.and_then(|cluster| view.hold(cluster));
    let facts = Facts {
        loaded: cluster.is_some(),
        readiness,
        stale_for,
        confirmed_at: view.database_time(view.confirmed_ms()),
        flush_lag: engine.flush_lag,
        last_reap_age: engine.last_reap_age,
        hold,
        brake: cluster.and_then(|cluster| cluster.brake.clone()),
        daemons: (*daemons).clone(),
        unserved: survey.count(NameState::Unserved),
        all_suspect: survey.count(NameState::AllSuspect),
    };
    let problems = problems(&facts);
    let unserved = survey.listed(NameState::Unserved).iter().take(UNSERVED_MAX).map(|name| name.as_str());
    json!({
        "verdict": severity(problems.first().map_or(Wellness::Well, |problem| problem.severity)),
        "problems": problems.iter().map(super::verdict::Problem::to_json).collect::<Vec<_>>(),
        "ready": ready,
        "now": time(now.database),
        "asOf": time(facts.confirmed_at),
        "staleFor": duration(stale_for),
        "version": env!("CARGO_PKG_VERSION"),
        "daemonId": sources.daemon_id.to_string(),
        "grpcAddress": sources.grpc_address,
        "flushLag": duration(engine.flush_lag),
        "databaseLatency": engine.database_latency.map(duration),
        "lastReapAge": engine.last_reap_age.map(duration),
        "cluster": cluster.map(|cluster| cluster_json(cluster, epoch)),
        "hold": facts.hold.as_ref().map(|hold| json!({"remaining": duration(hold.remaining), "reason": hold.reason})),
        "brake": facts.brake.as_ref().map(|brake| json!({
            "mode": format!("BRAKE_MODE_{brake:?}", brake = brake.mode).to_uppercase(),
            "overdue": brake.overdue,
            "live": brake.live,
            "since": time(brake.since),
        })),
        "daemons": daemons_json(sources, &daemons, stale_for, now),
        "counts": counts_json(counts, survey),
        "names": NameState::ALL.iter().map(|state| (state.as_str().to_owned(), survey.count(*state).into()))
            .collect::<Map<_, Value>>(),
        "unserved": unserved.collect::<Vec<_>>(),
        "deathsLately": deaths(survey),
        "beats": {
            "received": beats.map(round),
            "expectedHere": per_second(survey.beats_expected_here_milli),
            "expected": per_second(survey.beats_expected_milli),
        },
        "latest": latest(view, survey, epoch),
        "surveyAge": duration(Duration::from_millis(now.now_ms.saturating_sub(survey.taken_ms))),
    })
    .to_string()
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

fn daemons_json(sources: &Sources, daemons: &Daemons, stale_for: Duration, now: Moment) -> Vec<Value> {
    let row = |record: &DaemonRecord, age: Duration, state: &str| {
        json!({
            "daemonId": record.daemon_id.to_string(),
            "address": record.address,
            "version": record.version,
            "startedAt": time(record.started_at),
            "lastFlushAge": duration(age),
            "state": state,
            "answering": record.daemon_id == sources.daemon_id,
        })
    };
    let lost = daemons.lost.iter().map(|lost| {
        let since = Duration::from_millis(now.now_ms.saturating_sub(lost.lost_ms));
        row(&lost.record, lost.record.last_flush_age + since, "lost")
    });
    let present = daemons.present.iter().map(|record| {
        let age = record.last_flush_age + stale_for;
        row(record, age, daemon_state(age, stale_for))
    });
    lost.chain(present).collect()
}

fn counts_json(counts: Counts, survey: &Survey) -> Value {
    json!({
        "starting": counts.starting,
        "alive": counts.alive,
        "draining": counts.draining,
        "dead": counts.dead,
        "suspect": survey.suspect,
        "logicalIdsLive": counts.logical_ids_live,
        "logicalIdsUnserved": counts.logical_ids_unserved,
    })
}

fn deaths(survey: &Survey) -> Value {
    let deaths = survey.deaths;
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
fn latest(view: &View, survey: &Survey, epoch: Option<&EpochRecord>) -> Vec<Value> {
    let snapshot = view.snapshot();
    let Some(cluster) = snapshot.cluster() else { return Vec::new() };
    let mut rows: Vec<(u64, Value)> =
        survey.latest.iter().map(|entry| (entry.instance.revision.0, change(cluster, entry))).collect();
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
