//! Membership changes: a group of operations in one call of `muster_apply`, which is one commit. Its answer also has the
//! rows that the feed would have to read next.

use std::{net::IpAddr, sync::LazyLock};

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use tokio::time::Instant;
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};
use uuid::Uuid;

use super::{
    Error, Pool, PoolRole,
    feed::{COLUMNS, Changes, cluster, instance_of},
    prefetch::Question,
    row::{signed, unsigned},
};
use crate::model::{
    Epoch, EpochId, InstanceStatus, Labels, LeaseId, Operation, Outcome, Registration, Revision, Verdict,
};
use crate::postgres::pool::Client;

/// Columns of an outcome, before those of [`COLUMNS`].
const OUTCOME_COLUMNS: usize = 7;

static APPLY: LazyLock<String> = LazyLock::new(|| {
    let columns = &*COLUMNS;
    format!(
        "SELECT a.verdict, a.changed, a.lease_id, a.revision, a.status::text, a.cluster_epoch, a.epoch_number, {columns} \
         FROM muster_apply($1, $2, $3, $4, $5, $6) AS a \
         CROSS JOIN LATERAL (SELECT (a.cluster_row).*) AS c CROSS JOIN LATERAL (SELECT (a.instance_row).*) AS i"
    )
});

/// Most instances that are read with a group. If there are more, other daemons are busy, and the feed asks for all of it.
const READ_MAX: i32 = 1_000;

/// Applies a group of changes in order and returns one outcome for each. What arrives after `until`, by the database
/// clock, changes nothing. The answer to the question of the feed comes with the outcomes; it is missing if too much
/// changed.
///
/// # Errors
/// None of them was applied, or ([`Error::may_be_applied`]) the result is unknown; repeating the call is safe either way.
#[tracing::instrument(level = "debug", name = "db.apply", skip_all)]
pub async fn apply(
    pool: &Pool,
    operations: impl IntoIterator<Item = &Operation>,
    decided_by: &str,
    until: Option<DateTime<Utc>>,
    deadline: Instant,
    question: Option<Question>,
) -> Result<(Vec<Outcome>, Option<Changes>), Error> {
    let arguments: Vec<Argument<'_>> = operations.into_iter().map(argument).collect();
    let after = question.map(|question| signed(question.after.0));
    let applied = async |client: &Client| {
        let statement = client.prepare_cached(&APPLY).await?;
        // Read when there is a session: while one is awaited the daemon may change to another database.
        let seen = signed(pool.seen());
        let arguments = Json(&arguments);
        let parameters: [&(dyn ToSql + Sync); 6] = [&arguments, &decided_by, &until, &seen, &after, &READ_MAX];
        client.query(&statement, &parameters).await
    };
    let rows = pool.run_known(PoolRole::Engine, deadline, applied, |rows| highest_revision(rows)).await?;
    let mut outcomes = Vec::with_capacity(arguments.len());
    for row in &rows {
        outcomes.extend(outcome(row)?);
    }
    if outcomes.len() != arguments.len() {
        return Err(Error::Malformed("number of outcomes"));
    }
    // What cannot be read is left for the feed to find out.
    let changes = question.and_then(|question| changes(&rows, question).unwrap_or_default());
    Ok((outcomes, changes))
}

/// The highest revision that the outcomes and the cluster row tell.
fn highest_revision(rows: &[Row]) -> Option<u64> {
    let of = |row: &Row, column| row.try_get::<_, Option<i64>>(column).ok().flatten();
    rows.iter().filter_map(|row| of(row, 3).max(of(row, OUTCOME_COLUMNS + 2))).max().map(unsigned)
}

/// What changed, as far as the rows tell; `None` if they do not tell all of it.
fn changes(rows: &[Row], question: Question) -> Result<Option<Changes>, Error> {
    let Some(last) = rows.last() else { return Ok(None) };
    let Some(cluster) = cluster(last, OUTCOME_COLUMNS)? else { return Ok(None) };
    let mut instances = Vec::with_capacity(rows.len());
    for row in rows {
        instances.extend(instance_of(row, OUTCOME_COLUMNS)?);
    }
    let Question { after, at_ms } = question;
    Ok(Some(Changes { after, cluster, rows: instances.len(), instances, at_ms }))
}

/// An operation as `muster_operation` names its parts.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Argument<'a> {
    Register {
        instance_id: Uuid,
        logical_id: &'a str,
        cluster_epoch: Option<Uuid>,
        status: &'static str,
        actor_name: Option<&'a str>,
        serve_route: Option<&'a str>,
        node_id: Option<&'a str>,
        ip_address: Option<IpAddr>,
        port: Option<u16>,
        pid: Option<u32>,
        version: Option<&'a str>,
        #[serde(serialize_with = "as_map")]
        labels: &'a Labels,
        ttl_ms: u32,
        identity: Option<&'a str>,
    },
    Status {
        instance_id: Uuid,
        lease_id: Option<u64>,
        status: &'static str,
        reason: &'static str,
        identity: Option<&'a str>,
        as_operator: bool,
        status_reason: Option<&'a str>,
    },
}

fn as_map<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter())
}

fn argument(operation: &Operation) -> Argument<'_> {
    match operation {
        Operation::Register(registration) => register_argument(registration),
        Operation::SetStatus(change) => Argument::Status {
            instance_id: change.instance_id.0,
            lease_id: change.lease_id.map(|lease_id| lease_id.0),
            status: change.status.as_str(),
            reason: change.reason.as_str(),
            identity: change.identity.as_deref(),
            as_operator: change.as_operator,
            status_reason: change.status_reason.as_deref(),
        },
    }
}

fn register_argument(registration: &Registration) -> Argument<'_> {
    Argument::Register {
        instance_id: registration.instance_id.0,
        logical_id: registration.logical_id.as_str(),
        cluster_epoch: registration.epoch.map(|epoch| epoch.0),
        status: registration.status.as_str(),
        actor_name: registration.actor_name.as_deref(),
        serve_route: registration.serve_route.as_deref(),
        node_id: registration.node_id.as_deref(),
        ip_address: registration.ip_address,
        port: registration.port,
        pid: registration.pid,
        version: registration.version.as_deref(),
        labels: &registration.labels,
        ttl_ms: registration.ttl.as_millis(),
        identity: registration.identity.as_deref(),
    }
}

fn outcome(row: &Row) -> Result<Option<Outcome>, Error> {
    let Some(verdict) = row.try_get(0)? else { return Ok(None) };
    let status = row.try_get::<_, Option<&str>>(4)?.and_then(InstanceStatus::from_word);
    let verdict = match verdict {
        "created" => Verdict::Created,
        "renewed" => Verdict::Renewed,
        "replaced" => Verdict::Replaced,
        "set" => Verdict::Set(row.try_get(1)?),
        "epoch_fenced" => Verdict::EpochFenced,
        "taken" => Verdict::Taken,
        "unknown" => Verdict::Unknown,
        "expired" => Verdict::Expired,
        "lease_replaced" => Verdict::LeaseReplaced,
        "invalid_transition" => Verdict::InvalidTransition(status.unwrap_or(InstanceStatus::Dead)),
        _ => return Err(Error::Malformed("verdict")),
    };
    Ok(Some(Outcome {
        verdict,
        lease_id: row.try_get::<_, Option<i64>>(2)?.map(|lease_id| LeaseId(unsigned(lease_id))),
        revision: Revision(unsigned(row.try_get::<_, Option<i64>>(3)?.unwrap_or_default())),
        status,
        epoch: Epoch { id: EpochId(row.try_get(5)?), number: unsigned(row.try_get(6)?) },
    }))
}
