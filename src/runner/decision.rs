//! Records what was decided about the schema beside the other decisions of the registry (`registry_audit`), in the transaction
//! of the act. What was applied before migration 022, which makes the table, stands in the history of the migrations alone.

use tokio_postgres::{GenericClient, types::Type};

use super::error::Error;

/// The migration from which on decisions are recorded.
pub(crate) const FIRST: i32 = 22;

/// Records that `by` has done `action` to `object`.
pub(crate) async fn record(client: &impl GenericClient, action: &str, by: &str, object: &str) -> Result<(), Error> {
    let values = [(&action as _, Type::TEXT), (&by as _, Type::TEXT), (&object as _, Type::TEXT)];
    let recorded = client.query_typed("SELECT muster_audit($1, $2, $3, NULL, NULL)", &values).await;
    recorded.map(drop).map_err(Error::during("recording a decision"))
}

/// The same where the table may be missing: in a database of an older state, or a damaged one, which must be repaired even so.
pub(crate) async fn record_if_kept(
    client: &impl GenericClient,
    action: &str,
    by: &str,
    object: &str,
) -> Result<(), Error> {
    let kept = "SELECT to_regclass(schema.name || '.registry_audit') IS NOT NULL
                   AND to_regprocedure(schema.name || '.muster_audit(text, text, text, jsonb, bigint)') IS NOT NULL
                FROM (SELECT quote_ident(current_schema()) AS name) AS schema";
    let rows = client.query_typed(kept, &[]).await.map_err(Error::during("recording a decision"))?;
    if rows.first().is_some_and(|row| row.get(0)) { record(client, action, by, object).await } else { Ok(()) }
}
