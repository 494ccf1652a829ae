//! Puts back what others have overwritten.
//!
//! SeedCore runs its own migration scripts again at every deployment: `CREATE OR REPLACE FUNCTION`, `CREATE OR
//! REPLACE VIEW`, `CREATE INDEX IF NOT EXISTS`. After that its `beat` revives the dead again, its view is empty when
//! beats are late, and its index on `last_heartbeat` makes every beat write to all indexes. Those three kinds of object
//! hold no data, so they can be put back without asking. Anything else that deviates is left to `musterd migrate verify`
//! to report and to people to decide.

use tokio_postgres::Client;

use super::{
    embedded::SCHEMA,
    error::Error,
    schema::{self, Deviation, Difference, Kind},
    transaction::{begin, lock},
};

/// The indexes that are ours to remove: 011 makes them as SeedCore does, 013 removes them.
const SEED_INDEXES: [&str; 2] = ["idx_instance_logical_id", "idx_instance_status_heartbeat"];

/// Compares functions and views with the snapshot and creates anew those that deviate. Returns what it did, by object.
///
/// Looks first without a lock: the usual answer is "nothing", and a daemon that starts should not need the rights of
/// the owner to hear it.
pub(super) async fn run(client: &mut Client) -> Result<Vec<String>, Error> {
    let transaction = begin(client, "comparing functions and views").await?;
    if deviating(&transaction).await?.is_empty() {
        return Ok(Vec::new());
    }
    drop(transaction);

    let transaction = begin(client, "repairing functions and views").await?;
    lock(&transaction).await?;
    let mut repaired = Vec::new();
    for difference in deviating(&transaction).await? {
        let (statement, done) = match difference.deviation {
            Deviation::Unexpected => (format!("DROP INDEX IF EXISTS {}", index_of(&difference)), "dropped"),
            Deviation::Missing | Deviation::Changed(_) => (difference.object.text.clone(), "put back"),
        };
        let doing = format!("repairing {}", difference.object);
        transaction.batch_execute(&statement).await.map_err(Error::during(doing))?;
        repaired.push(format!("{}: {done}", difference.object));
    }
    transaction.commit().await.map_err(Error::during("repairing functions and views"))?;
    tracing::warn!(objects = ?repaired, "restored modified schema objects");
    Ok(repaired)
}

pub(super) async fn deviating(client: &impl tokio_postgres::GenericClient) -> Result<Vec<Difference>, Error> {
    let live = schema::read(client).await.map_err(Error::during("comparing functions and views"))?;
    let mut differences = schema::differences(&schema::parse(SCHEMA), &live);
    differences.retain(is_ours_to_repair);
    Ok(differences)
}

/// Without the table that it is on.
fn index_of(difference: &Difference) -> &str {
    difference.object.name.strip_suffix(" on registry_instance").unwrap_or_default()
}

fn is_ours_to_repair(difference: &Difference) -> bool {
    match difference.object.kind {
        Kind::Function | Kind::View => difference.deviation != Deviation::Unexpected,
        Kind::Index => difference.deviation == Deviation::Unexpected && SEED_INDEXES.contains(&index_of(difference)),
        Kind::Type | Kind::Table | Kind::Trigger => false,
    }
}
