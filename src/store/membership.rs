//! Membership changes: a group of operations in one call of `muster_apply`, which is one commit.

use std::{net::IpAddr, pin::pin, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::future::{Either, select};
use serde::{Serialize, Serializer};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};
use uuid::Uuid;

use super::{
    Error, Lane, Pool,
    feed::{CHANGES, Changes, read_changes},
    row::{signed, unsigned},
};
use crate::model::{
    Epoch, EpochId, InstanceStatus, Labels, LeaseId, Operation, Outcome, Registration, Revision, Verdict,
};
use crate::postgres::pool::Client;

const APPLY: &str = "SELECT verdict, changed, lease_id, revision, status::text, cluster_epoch, epoch_number \
                     FROM muster_apply($1, $2, $3, $4)";

/// Most instances read behind a group. If there are more, other daemons are busy, and the feed asks for all of it.
const READ_MAX: i64 = 1_000;
/// How long the answer of a group waits for what is read behind it.
const READ_PATIENCE: Duration = Duration::from_millis(200);

/// What the feed would ask next: after which revision, and when that is asked by this daemon's clock.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// All changes after it.
    pub after: Revision,
    /// Now.
    pub at_ms: u64,
}

/// Applies a group of changes in order and returns one outcome for each. What arrives after `until`, by the database
/// clock, changes nothing. The question of the feed follows on the same connection; without an answer to it in time, the
/// group is applied all the same.
///
/// # Errors
/// None of them was applied, or ([`Error::may_be_applied`]) nobody can say; repeating the call is safe either way.
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
    let applied = async |client: &Client| {
        let statement = client.prepare_cached(APPLY).await?;
        // Read when there is a session: while one is awaited the daemon may change to another database.
        let seen = signed(pool.seen());
        let arguments = Json(&arguments);
        let parameters: [&(dyn ToSql + Sync); 4] = [&arguments, &decided_by, &until, &seen];
        let applying = client.query(&statement, &parameters);
        let Some(question) = question else { return Ok((applying.await?, Vec::new())) };
        let statement = client.prepare_cached(&CHANGES).await?;
        let after = signed(question.after.0);
        let parameters: [&(dyn ToSql + Sync); 2] = [&after, &READ_MAX];
        let reading = pin!(client.query(&statement, &parameters));
        // Both are sent at once; PostgreSQL begins the second when the first is committed.
        match select(pin!(applying), reading).await {
            Either::Left((applied, reading)) => {
                let patience = deadline.min(Instant::now() + READ_PATIENCE);
                let read = timeout_at(patience, reading).await.unwrap_or(Ok(Vec::new()));
                Ok((applied?, read.unwrap_or_default()))
            }
            // It never answers in another order; if the connection fails, both say so.
            Either::Right((_, applying)) => Ok((applying.await?, Vec::new())),
        }
    };
    let revision = |(rows, _): &(Vec<Row>, Vec<Row>)| {
        rows.iter().filter_map(|row| row.try_get(3).ok().flatten()).max().map(unsigned)
    };
    let (rows, read) = pool.run_known(Lane::Engine, deadline, applied, revision).await?;
    if rows.len() != arguments.len() {
        return Err(Error::Malformed("number of outcomes"));
    }
    let outcomes = rows.iter().map(outcome).collect::<Result<_, _>>()?;
    let full = i64::try_from(read.len()).is_ok_and(|count| count >= READ_MAX);
    let changes = question.filter(|_| !full).and_then(|question| {
        // What cannot be read is the feed's to find out.
        read_changes(&read, question.after, question.at_ms).unwrap_or_default()
    });
    Ok((outcomes, changes))
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
    },
    Status {
        instance_id: Uuid,
        lease_id: Option<u64>,
        status: &'static str,
        reason: &'static str,
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
    }
}

fn outcome(row: &Row) -> Result<Outcome, Error> {
    let status = row.try_get::<_, Option<&str>>(4)?.and_then(InstanceStatus::from_word);
    let verdict = match row.try_get(0)? {
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
    Ok(Outcome {
        verdict,
        lease_id: row.try_get::<_, Option<i64>>(2)?.map(|lease_id| LeaseId(unsigned(lease_id))),
        revision: Revision(unsigned(row.try_get::<_, Option<i64>>(3)?.unwrap_or_default())),
        status,
        epoch: Epoch { id: EpochId(row.try_get(5)?), number: unsigned(row.try_get(6)?) },
    })
}
