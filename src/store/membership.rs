//! Membership changes: a group of operations in one call of `muster_apply`, which is one commit.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::{Row, types::Json};

use super::{Error, Lane, Pool, row::unsigned};
use crate::model::{
    Epoch, EpochId, InstanceStatus, LeaseId, Operation, Outcome, Owner, Registration, Revision, StatusChange, Verdict,
};

const APPLY: &str = "SELECT verdict, changed, lease_id, revision, status::text, detail, cluster_epoch, epoch_number \
                     FROM muster_apply($1, $2, $3)";

/// Applies a group of changes in order and returns one outcome for each. What arrives after `until`, by the database
/// clock, changes nothing.
///
/// # Errors
/// None of them was applied, or ([`Error::may_be_applied`]) nobody can say; repeating the call is safe either way.
pub async fn apply(
    pool: &Pool,
    operations: impl IntoIterator<Item = &Operation>,
    decided_by: &str,
    until: Option<DateTime<Utc>>,
    deadline: Instant,
) -> Result<Vec<Outcome>, Error> {
    let arguments: Vec<Value> = operations.into_iter().map(argument).collect();
    let rows = pool
        .run(Lane::Engine, deadline, async |client| {
            let statement = client.prepare_cached(APPLY).await?;
            client.query(&statement, &[&Json(&arguments), &decided_by, &until]).await
        })
        .await?;
    if rows.len() != arguments.len() {
        return Err(Error::Malformed("number of outcomes"));
    }
    rows.iter().map(outcome).collect()
}

fn argument(operation: &Operation) -> Value {
    match operation {
        Operation::Register(registration) => register_argument(registration),
        Operation::SetStatus(change) => status_argument(change),
    }
}

fn register_argument(registration: &Registration) -> Value {
    let labels: serde_json::Map<String, Value> =
        registration.labels.iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    json!({
        "op": "register",
        "instance_id": registration.instance_id.0,
        "logical_id": registration.logical_id.as_str(),
        "cluster_epoch": registration.epoch.map(|epoch| epoch.0),
        "status": registration.status.as_str(),
        "actor_name": registration.actor_name,
        "serve_route": registration.serve_route,
        "node_id": registration.node_id,
        "ip_address": registration.ip_address,
        "port": registration.port,
        "pid": registration.pid,
        "version": registration.version,
        "labels": labels,
        "ttl_ms": registration.ttl.as_millis(),
    })
}

fn status_argument(change: &StatusChange) -> Value {
    json!({
        "op": "status",
        "instance_id": change.instance_id.0,
        "lease_id": change.lease_id.map(|lease_id| lease_id.0),
        "status": change.status.as_str(),
        "reason": change.reason.as_str(),
    })
}

fn outcome(row: &Row) -> Result<Outcome, Error> {
    let status = row.try_get::<_, Option<&str>>(4)?.and_then(InstanceStatus::from_word);
    let verdict = match row.try_get(0)? {
        "created" => Verdict::Created,
        "renewed" => Verdict::Renewed,
        "replaced" => Verdict::Replaced,
        "set" => Verdict::Set(row.try_get(1)?),
        "epoch_fenced" => Verdict::EpochFenced,
        "taken" => Verdict::Taken(owner(row.try_get::<_, Option<Value>>(5)?)),
        "unknown" => Verdict::Unknown,
        "expired" => Verdict::Expired,
        "lease_replaced" => Verdict::LeaseReplaced,
        "invalid_transition" => Verdict::InvalidTransition(status.unwrap_or(InstanceStatus::Dead)),
        _ => return Err(Error::Malformed("verdict")),
    };
    Ok(Outcome {
        verdict,
        lease_id: row.try_get::<_, Option<i64>>(2)?.map(|lease_id| LeaseId(unsigned(lease_id))),
        revision: Revision(unsigned(row.try_get::<_, Option<i64>>(3)?.unwrap_or_default())),
        status,
        epoch: Epoch { id: EpochId(row.try_get(6)?), number: unsigned(row.try_get(7)?) },
    })
}

fn owner(detail: Option<Value>) -> Owner {
    let detail = detail.unwrap_or_default();
    let text = |key: &str| detail.get(key).and_then(Value::as_str).map(str::to_owned);
    Owner { node_id: text("node_id"), ip_address: text("ip_address"), pid: detail.get("pid").and_then(Value::as_i64) }
}
