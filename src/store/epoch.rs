//! The epoch: begin the first, rotate, read the history.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Row, types::Type};

use super::{
    Error, Pool, PoolRole,
    row::{Time, signed, unsigned},
};
use crate::{
    model::{Epoch, EpochId, EpochRecord, Revision, Rotation},
    postgres::pool::Client,
};

/// Makes sure that there is an epoch; any number of daemons may do so at the same time.
#[tracing::instrument(level = "debug", name = "db.ensure_epoch", skip_all)]
pub(super) async fn ensure(client: &Client, by: &str) -> Result<(), tokio_postgres::Error> {
    client.query_typed("SELECT muster_ensure_epoch($1)", &[(&by, Type::TEXT)]).await.map(drop)
}

/// Begins the epoch `new`, if `expected` is current or not given; at most once in 10 s, unless `force` is set.
///
/// # Errors
/// As [`Pool::run`]. Repeating the call with the same `new` is safe.
#[tracing::instrument(level = "debug", name = "db.rotate_epoch", skip_all)]
pub async fn rotate(
    pool: &Pool,
    new: EpochId,
    expected: Option<EpochId>,
    reason: &str,
    by: &str,
    force: bool,
    deadline: Instant,
) -> Result<Rotation, Error> {
    let row = pool
        .run(PoolRole::Operator, deadline, async |client| {
            client
                .query_one(
                    "SELECT verdict, cluster_epoch, epoch_number, revision, previous_epoch, retry_ms \
                     FROM muster_rotate_epoch_for($1, $2, $3, $4, $5)",
                    &[&new.0, &expected.map(|epoch| epoch.0), &reason, &by, &force],
                )
                .await
        })
        .await?;
    rotation(&row)
}

/// The history of epochs, the newest first, of those numbered below `before`.
///
/// # Errors
/// As [`Pool::run`].
#[tracing::instrument(level = "debug", name = "db.list_epochs", skip_all)]
pub async fn list(pool: &Pool, before: u64, limit: u32, deadline: Instant) -> Result<Vec<EpochRecord>, Error> {
    let rows = pool
        .run(PoolRole::Operator, deadline, async |client| {
            client
                .query(
                    "SELECT cluster_epoch, epoch_number, started_at, started_revision, reason, rotated_by \
                     FROM registry_epoch WHERE epoch_number < $1 ORDER BY epoch_number DESC LIMIT $2",
                    &[&signed(before), &i64::from(limit)],
                )
                .await
        })
        .await?;
    rows.iter().map(record).collect()
}

fn rotation(row: &Row) -> Result<Rotation, Error> {
    let current = match (row.try_get::<_, Option<_>>(1)?, row.try_get::<_, Option<i64>>(2)?) {
        (Some(id), Some(number)) => Some(Epoch { id: EpochId(id), number: unsigned(number) }),
        _ => None,
    };
    let revision = Revision(unsigned(row.try_get::<_, Option<i64>>(3)?.unwrap_or_default()));
    match (row.try_get(0)?, current) {
        ("rotated", Some(epoch)) => {
            let previous = row.try_get::<_, Option<_>>(4)?.map(EpochId);
            Ok(Rotation::Rotated { epoch, revision, previous })
        }
        ("unchanged", Some(epoch)) => Ok(Rotation::Unchanged { epoch, revision }),
        ("epoch_mismatch", current) => Ok(Rotation::Mismatch { current }),
        ("epoch_reused", _) => Ok(Rotation::Reused),
        ("too_soon", _) => Ok(Rotation::TooSoon { retry_after: Duration::from_millis(unsigned(row.try_get(5)?)) }),
        _ => Err(Error::Malformed("verdict of a rotation")),
    }
}

fn record(row: &Row) -> Result<EpochRecord, Error> {
    Ok(EpochRecord {
        epoch: Epoch { id: EpochId(row.try_get(0)?), number: unsigned(row.try_get(1)?) },
        started_at: row.try_get::<_, Time>(2)?.0,
        started_revision: Revision(unsigned(row.try_get(3)?)),
        reason: row.try_get(4)?,
        rotated_by: row.try_get(5)?,
    })
}
