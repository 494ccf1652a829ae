//! Puts back what others have overwritten.
//!
//! SeedCore runs its own migration scripts again at every deployment: `CREATE OR REPLACE FUNCTION`, `CREATE OR
//! REPLACE VIEW`, `CREATE INDEX IF NOT EXISTS`. After that its `beat` revives the dead again, its view is empty when
//! beats are late, and its index on `last_heartbeat` makes every beat write to all indexes. Those three kinds of object
//! hold no data, so they can be put back without asking. Anything else that deviates is left to `musterd migrate verify`
//! to report and to people to decide.

use tokio_postgres::{Client, GenericClient, Transaction, error::SqlState};

use super::{
    embedded::SCHEMA,
    error::Error,
    history::{self, Standing},
    schema::{self, Deviation, Difference, Kind},
    transaction::{begin, lock},
};

/// The indexes that are ours to remove: 011 makes them as SeedCore does, 013 removes them.
const SEED_INDEXES: [&str; 2] = ["idx_instance_logical_id", "idx_instance_status_heartbeat"];

/// What a view has beyond its definition: its owner and the rights that were granted on it, as statements.
const BELONGINGS: &str = "
SELECT format('ALTER VIEW %I OWNER TO %I', class.relname, pg_get_userbyid(class.relowner))
FROM pg_class AS class
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace AND class.relname = $1
UNION ALL
SELECT format('GRANT %s ON %I TO %s%s', acl.privilege_type, class.relname,
              CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END,
              CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class AS class
CROSS JOIN LATERAL aclexplode(class.relacl) AS acl
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace AND class.relname = $1
  AND acl.grantee <> class.relowner";

/// What was done about objects that deviate, by object.
#[derive(Debug, Clone, Default)]
pub(super) struct Repair {
    pub(super) done: Vec<String>,
    /// Views that could not be put back; no daemon reads them.
    pub(super) left: Vec<String>,
}

/// Compares functions and views with the snapshot and creates again those that deviate. Returns what it did. Nothing is
/// compared in a database that a newer binary has migrated: its objects are not known to this one.
///
/// Looks first without a lock: the usual answer is "nothing", and a daemon that starts should not need the rights of
/// the owner to hear it.
pub(super) async fn run(client: &mut Client) -> Result<Repair, Error> {
    let transaction = begin(client, "comparing functions and views").await?;
    if deviating(&transaction).await?.is_empty() {
        return Ok(Repair::default());
    }
    drop(transaction);

    let mut transaction = begin(client, "repairing functions and views").await?;
    lock(&transaction).await?;
    let mut repair = Repair::default();
    for difference in deviating(&transaction).await? {
        let name = difference.object.to_string();
        match put_back(&mut transaction, &difference).await? {
            Ok(done) => repair.done.push(format!("{name}: {done}")),
            Err(reason) => repair.left.push(format!("{name}: {reason}")),
        }
    }
    transaction.commit().await.map_err(Error::during("repairing functions and views"))?;
    if !repair.done.is_empty() {
        tracing::warn!(objects = ?repair.done, "restored modified schema objects");
    }
    if !repair.left.is_empty() {
        tracing::warn!(objects = ?repair.left, "views could not be restored, daemons do not need them");
    }
    Ok(repair)
}

/// Puts one object back. The inner error says why a view was left as it is.
async fn put_back(
    transaction: &mut Transaction<'_>,
    difference: &Difference,
) -> Result<Result<&'static str, String>, Error> {
    let object = &difference.object;
    let (statement, done) = match difference.deviation {
        Deviation::Unexpected => (format!("DROP INDEX IF EXISTS {}", index_of(difference)), "dropped"),
        Deviation::Missing | Deviation::Changed(_) => (object.text.clone(), "put back"),
    };
    let doing = format!("repairing {object}");
    if object.kind != Kind::View {
        return transaction.batch_execute(&statement).await.map(|()| Ok(done)).map_err(Error::during(doing));
    }
    let attempt = transaction.transaction().await.map_err(Error::during(doing.clone()))?;
    let failed = match attempt.batch_execute(&statement).await {
        Ok(()) => return attempt.commit().await.map(|()| Ok(done)).map_err(Error::during(doing)),
        Err(error) => error,
    };
    attempt.rollback().await.map_err(Error::during(doing.clone()))?;
    // A view can be replaced by a wider one only, and SeedCore's has every column that the table has by then.
    if failed.code() != Some(&SqlState::INVALID_TABLE_DEFINITION) {
        return left(failed, doing);
    }
    let attempt = transaction.transaction().await.map_err(Error::during(doing.clone()))?;
    match create_again(&attempt, &object.name, &statement).await {
        Ok(()) => attempt.commit().await.map(|()| Ok(done)).map_err(Error::during(doing)),
        Err(failed) => {
            attempt.rollback().await.map_err(Error::during(doing.clone()))?;
            left(failed, doing)
        }
    }
}

/// Drops a view and creates it with its owner and the rights on it. Fails if other objects depend on it.
async fn create_again(client: &impl GenericClient, name: &str, create: &str) -> Result<(), tokio_postgres::Error> {
    let belongings = client.query(BELONGINGS, &[&name]).await?;
    client.batch_execute(&format!("DROP VIEW {name}; {create}")).await?;
    for row in &belongings {
        client.batch_execute(row.try_get(0)?).await?;
    }
    Ok(())
}

/// What the server refuses about a view is no reason not to start; a lost connection or a lock is.
fn left<T>(failed: tokio_postgres::Error, doing: String) -> Result<Result<T, String>, Error> {
    match Error::during(doing)(failed) {
        Error::Sql { message, .. } | Error::MissingRights { message, .. } => Ok(Err(message)),
        error => Err(error),
    }
}

async fn deviating(client: &impl GenericClient) -> Result<Vec<Difference>, Error> {
    let doing = "comparing functions and views";
    match history::standing(client).await.map_err(Error::during(doing))?? {
        Standing::Known => differences(client).await.map_err(Error::during(doing)),
        Standing::Ahead(_) => Ok(Vec::new()),
    }
}

/// The functions, views and indexes that deviate and that [`run`] puts back.
pub(super) async fn differences(client: &impl GenericClient) -> Result<Vec<Difference>, tokio_postgres::Error> {
    let mut differences = schema::differences(&schema::parse(SCHEMA), &schema::read(client).await?);
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
