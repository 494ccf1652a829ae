//! Dead rows that SeedCore has left, deleted before they would be numbered: a step of the kind *batched*.
//!
//! SeedCore never deletes a row, and 013 numbers each one under an exclusive lock. One `DELETE` of all of them would keep a
//! transaction open for as long, and lose everything when it is interrupted. So each batch is a transaction of its own. What
//! is left in the table is what is left to do, which makes an interrupted run resumable without a mark.

use tokio_postgres::{Client, GenericClient, types::Type};
use uuid::Uuid;

use super::{
    apply::{NUMBERING, RetryBudget},
    error::Error,
    history::{self, Status},
    transaction::{begin, lock},
};

/// Rows of one batch: some tens of milliseconds of work.
pub(crate) const BATCH: i64 = 5_000;

const DOING: &str = "deleting dead rows";

/// In the order of the key, so that a batch does not pass over the rows that the former ones have deleted.
const DELETE: &str = "
WITH deleted AS (
    DELETE FROM registry_instance
    WHERE status = 'dead' AND instance_id IN (
        SELECT instance_id FROM registry_instance
        WHERE status = 'dead' AND ($1::uuid IS NULL OR instance_id > $1)
        ORDER BY instance_id
        LIMIT $2
    )
    RETURNING instance_id
)
SELECT count(*), (SELECT instance_id FROM deleted ORDER BY instance_id DESC LIMIT 1) FROM deleted";

/// Whether the rows are still to be numbered, and there are any.
pub(crate) async fn is_due(client: &impl GenericClient, statuses: &[Status]) -> Result<bool, Error> {
    if !history::missing(statuses).any(|migration| migration.version == NUMBERING) {
        return Ok(false);
    }
    let exists = "SELECT to_regclass(quote_ident(current_schema()) || '.registry_instance') IS NOT NULL";
    let rows = client.query_typed(exists, &[]).await.map_err(Error::during(DOING))?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Deletes the dead rows of a registry that is not numbered yet. Returns how many.
pub(crate) async fn purge(client: &mut Client) -> Result<i64, Error> {
    let (mut purged, mut after) = (0, None);
    let mut budget = RetryBudget::default();
    loop {
        match next(client, after).await {
            Ok(Some((rows, last))) => {
                (purged, after) = (purged + rows, Some(last));
                tracing::info!(purged, "deleted a batch of dead rows");
            }
            Ok(None) => return Ok(purged),
            Err(error) => budget.after(client, error).await?,
        }
    }
}

async fn next(client: &mut Client, after: Option<Uuid>) -> Result<Option<(i64, Uuid)>, Error> {
    let transaction = begin(client, DOING).await?;
    lock(&transaction).await?;
    let statuses = history::read(&transaction).await?;
    history::accept(&statuses)?;
    if !is_due(&transaction, &statuses).await? {
        return Ok(None);
    }
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&after, Type::UUID), (&BATCH, Type::INT8)];
    let rows = transaction.query_typed(DELETE, &parameters).await.map_err(Error::during(DOING))?;
    transaction.commit().await.map_err(Error::during(DOING))?;
    let (count, last): (i64, Option<Uuid>) = rows.first().map_or((0, None), |row| (row.get(0), row.get(1)));
    Ok(last.map(|last| (count, last)))
}
