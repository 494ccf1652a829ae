//! What is compared: the instances as PostgreSQL has them, as a daemon lists them, as a watcher knows them; and the
//! filters of the watchers.

use std::collections::BTreeMap;

use musterd::proto::v1::{self, InstanceStatus, WatchRequest};
use serde_json::{Value, json};
use tokio_postgres::{Client, types::Json};

/// Instances by id, every column that a reader is told of.
pub(super) type Instances = BTreeMap<String, Value>;

/// The registry as PostgreSQL has it at one moment.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) revision: u64,
    pub(super) epoch_number: u64,
    pub(super) instances: Instances,
}

const TRUTH: &str = "
    SELECT c.revision, c.epoch_number, coalesce(jsonb_object_agg(i.instance_id, jsonb_build_object(
        'logical_id', i.logical_id, 'lease_id', i.lease_id, 'cluster_epoch', i.cluster_epoch,
        'epoch_number', i.epoch_number, 'revision', i.revision,
        'status', CASE WHEN i.cluster_epoch = c.current_epoch THEN i.status::text ELSE 'dead' END,
        'actor_name', coalesce(i.actor_name, ''), 'serve_route', coalesce(i.serve_route, ''),
        'node_id', coalesce(i.node_id, ''), 'ip_address', coalesce(host(i.ip_address), ''),
        'port', coalesce(i.port, 0), 'pid', coalesce(i.pid, 0), 'version', coalesce(i.version, ''),
        'labels', i.labels, 'ttl_ms', coalesce(i.ttl_ms, 15000),
        'started_us', (extract(epoch FROM i.started_at) * 1000000)::bigint,
        'death', CASE WHEN i.status = 'dead' THEN jsonb_build_object(
            'reason', coalesce(i.death_reason, ''), 'decided_by', coalesce(i.death_decided_by, ''),
            'at_us', (extract(epoch FROM i.stopped_at) * 1000000)::bigint,
            'deadline_us', (extract(epoch FROM i.death_deadline) * 1000000)::bigint)
        WHEN i.cluster_epoch <> c.current_epoch THEN
            '{\"reason\": \"old_epoch\", \"decided_by\": \"\", \"at_us\": null, \"deadline_us\": null}' END
    )) FILTER (WHERE i.instance_id IS NOT NULL), '{}')
    FROM cluster_metadata c LEFT JOIN registry_instance i ON true
    GROUP BY c.revision, c.epoch_number";

impl Truth {
    /// Reads it, as of one moment.
    pub(super) async fn read(client: &Client) -> Self {
        let row = client.query_one(TRUTH, &[]).await.unwrap();
        let number = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap();
        let Json(instances): Json<Instances> = row.get(2);
        Self { revision: number(0), epoch_number: number(1), instances }
    }

    /// The instances that a filter of [`filters`] asks for.
    pub(super) fn asked_for(&self, filter: &WatchRequest) -> Instances {
        let asked_for = self.instances.iter().filter(|(_, instance)| asked_for(filter, instance));
        asked_for.map(|(id, instance)| (id.clone(), instance.clone())).collect()
    }
}

/// An instance as a daemon tells it.
pub(super) fn told(instance: &v1::Instance) -> Value {
    let micros = |time: prost_types::Timestamp| time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000;
    let ttl = instance.ttl.unwrap();
    json!({
        "logical_id": instance.logical_id, "lease_id": instance.lease_id, "cluster_epoch": instance.cluster_epoch,
        "epoch_number": instance.epoch_number, "revision": instance.revision,
        "status": word(instance.status().as_str_name(), "INSTANCE_STATUS_"),
        "actor_name": instance.actor_name, "serve_route": instance.serve_route, "node_id": instance.node_id,
        "ip_address": instance.ip_address, "port": instance.port, "pid": instance.pid, "version": instance.version,
        "labels": instance.labels, "ttl_ms": ttl.seconds * 1_000 + i64::from(ttl.nanos) / 1_000_000,
        "started_us": instance.started_at.map(micros),
        "death": instance.death.as_ref().map(|death| json!({
            "reason": word(death.reason().as_str_name(), "DEATH_REASON_"), "decided_by": death.decided_by,
            "at_us": death.at.map(micros), "deadline_us": death.deadline.map(micros),
        })),
    })
}

/// A value of an enum as PostgreSQL has it; empty if it is not set.
fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).replace("UNSPECIFIED", "").to_lowercase()
}

/// The filters that are watched.
pub(super) fn filters() -> Vec<WatchRequest> {
    let zone = [("zone".to_owned(), "a".to_owned())];
    vec![
        WatchRequest::default(),
        WatchRequest { logical_id: "organ-1".into(), ..Default::default() },
        WatchRequest { logical_id_prefix: "organ-2".into(), ..Default::default() },
        WatchRequest { node_id: "node-1".into(), ..Default::default() },
        WatchRequest { labels: zone.clone().into(), ..Default::default() },
        WatchRequest {
            logical_id: "organ-0".into(),
            statuses: vec![InstanceStatus::Alive.into()],
            labels: zone.into(),
            ..Default::default()
        },
    ]
}

fn asked_for(filter: &WatchRequest, instance: &Value) -> bool {
    let alive_only = !filter.statuses.is_empty();
    let name = instance["logical_id"].as_str().unwrap();
    (if alive_only { instance["status"] == "alive" } else { instance["status"] != "dead" })
        && (filter.logical_id.is_empty() || name == filter.logical_id)
        && name.starts_with(&filter.logical_id_prefix)
        && (filter.node_id.is_empty() || instance["node_id"] == *filter.node_id)
        && filter.labels.iter().all(|(key, value)| instance["labels"][key] == **value)
}
