//! Puts back what others have overwritten.
//!
//! SeedCore runs its own migration scripts again at every deployment: `CREATE OR REPLACE FUNCTION`, `CREATE OR
//! REPLACE VIEW`, `CREATE INDEX IF NOT EXISTS`. After that its `beat` revives the dead again, its view is empty when
//! beats are late, and its index on `last_heartbeat` makes every beat write to all indexes. Those three kinds of object
//! hold no data, so they can be put back without asking. Triggers, comments and our own indexes hold none either, but only
//! a person changes those, so `musterd migrate repair` puts them back when it is asked to. Columns, constraints and rows are
//! left to people.

use tokio_postgres::{Client, GenericClient, Transaction, error::SqlState};

use super::{
    decision,
    error::Error,
    history::{self, Standing},
    transaction::{begin, lock},
};
use crate::migrations::{embedded::SCHEMA, forms::SEED_INDEXES, statements::BELONGINGS};
use crate::schema::{self, Deviation, Difference, Kind};

/// What was done about objects that deviate, by object.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Repair {
    /// Objects and what was done about each.
    pub done: Vec<String>,
    /// What still differs: views that could not be put back, and what no repair changes.
    pub left: Vec<String>,
}

/// Which objects are put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// What SeedCore replaces when it is deployed: functions, views, and the two indexes that it adds.
    Replaced,
    /// Triggers, comments and indexes of ours as well.
    All,
}

/// Compares the schema with the snapshot and creates again what deviates. Returns what it did. Nothing is
/// compared in a database that a newer binary has migrated: its objects are not known to this one.
///
/// Looks first without a lock: the usual answer is "nothing", and a daemon that starts should not need the rights of
/// the owner to hear it.
pub(crate) async fn run(client: &mut Client, scope: Scope, by: &str) -> Result<Repair, Error> {
    let transaction = begin(client, "comparing functions and views").await?;
    let found = deviating(&transaction).await?;
    if !found.iter().any(|difference| is_at_once(difference) && remedy(difference, scope).is_some()) {
        return Ok(Repair { done: Vec::new(), left: beyond(scope, &found) });
    }
    drop(transaction);

    let mut transaction = begin(client, "repairing functions and views").await?;
    lock(&transaction).await?;
    let mut repair = Repair::default();
    for difference in deviating(&transaction).await?.iter().filter(|one| is_at_once(one)) {
        let Some((statement, done)) = remedy(difference, scope) else { continue };
        let name = difference.object.to_string();
        match put_back(&mut transaction, difference, &statement).await? {
            Ok(()) => repair.done.push(format!("{name}: {done}")),
            Err(reason) => repair.left.push(format!("{name}: {reason}")),
        }
    }
    if scope == Scope::All {
        repair.left = beyond(scope, &deviating(&transaction).await?);
    }
    for done in &repair.done {
        decision::record_if_kept(&transaction, "migrate_repair", by, done).await?;
    }
    transaction.commit().await.map_err(Error::during("repairing functions and views"))?;
    if !repair.done.is_empty() {
        tracing::warn!(objects = ?repair.done, "restored modified schema objects");
    }
    if !repair.left.is_empty() && scope == Scope::Replaced {
        tracing::warn!(objects = ?repair.left, "views could not be restored, daemons do not need them");
    }
    Ok(repair)
}

/// Whether it is put back in one transaction with the others. An index of ours is built beside the traffic ([`super::indexes`]).
fn is_at_once(difference: &Difference) -> bool {
    difference.object.kind != Kind::Index || difference.deviation == Deviation::Unexpected
}

/// What [`run`] would do, without doing it.
pub(crate) async fn preview(client: &mut Client, scope: Scope) -> Result<Repair, Error> {
    let transaction = begin(client, "comparing the schema").await?;
    let found = deviating(&transaction).await?;
    let done = found
        .iter()
        .filter_map(|difference| remedy(difference, scope).map(|(_, done)| format!("{}: {done}", difference.object)));
    Ok(Repair { done: done.collect(), left: beyond(scope, &found) })
}

/// What differs and is not for [`run`] to change; of functions and views alone nothing is said of the rest.
pub(crate) fn beyond(scope: Scope, found: &[Difference]) -> Vec<String> {
    let beyond = found.iter().filter(|difference| scope == Scope::All && remedy(difference, scope).is_none());
    beyond.map(ToString::to_string).collect()
}

/// The statement that puts an object back, and the word for that; `None` if it is not in the scope.
pub(crate) fn remedy(difference: &Difference, scope: Scope) -> Option<(String, &'static str)> {
    let object = &difference.object;
    let name = object.name.split(" on ").next().unwrap_or_default();
    let again = |drop: String| Some((format!("{drop};\n{}", object.text), "built again"));
    match (object.kind, &difference.deviation) {
        (Kind::Function | Kind::View, Deviation::Missing | Deviation::Changed(_)) => {
            Some((object.text.clone(), "put back"))
        }
        (Kind::Index, Deviation::Unexpected) if SEED_INDEXES.iter().any(|(known, _)| *known == object.name) => {
            Some((format!("DROP INDEX IF EXISTS {name}"), "dropped"))
        }
        _ if scope == Scope::Replaced => None,
        (Kind::Index | Kind::Trigger, Deviation::Missing) => Some((object.text.clone(), "put back")),
        (Kind::Index, Deviation::Changed(_)) => again(format!("DROP INDEX {name}")),
        (Kind::Trigger, Deviation::Changed(_)) => again(format!("DROP TRIGGER {}", object.name)),
        (Kind::Table, Deviation::Changed(lines)) => {
            let is_comment = |line: &String| line.trim_start_matches(['-', '+', ' ']).starts_with("COMMENT ON ");
            let comments = lines.iter().filter_map(|line| line.strip_prefix("- "));
            let comments: Vec<&str> = comments.filter(|line| line.starts_with("COMMENT ON ")).collect();
            let is_all = lines.iter().all(is_comment) && !comments.is_empty();
            is_all.then(|| (comments.join("\n"), "comments put back"))
        }
        _ => None,
    }
}

/// Puts one object back. The inner error says why a view was left as it is.
async fn put_back(
    transaction: &mut Transaction<'_>,
    difference: &Difference,
    statement: &str,
) -> Result<Result<(), String>, Error> {
    let object = &difference.object;
    let doing = format!("repairing {object}");
    if object.kind != Kind::View {
        return transaction.batch_execute(statement).await.map(Ok).map_err(Error::during(doing));
    }
    let attempt = transaction.transaction().await.map_err(Error::during(doing.clone()))?;
    let failed = match attempt.batch_execute(statement).await {
        Ok(()) => return attempt.commit().await.map(Ok).map_err(Error::during(doing)),
        Err(error) => error,
    };
    attempt.rollback().await.map_err(Error::during(doing.clone()))?;
    // A view can be replaced by a wider one only, and SeedCore's has every column that the table has by then.
    if failed.code() != Some(&SqlState::INVALID_TABLE_DEFINITION) {
        return left(failed, doing);
    }
    let attempt = transaction.transaction().await.map_err(Error::during(doing.clone()))?;
    match create_again(&attempt, &object.name, statement).await {
        Ok(()) => attempt.commit().await.map(Ok).map_err(Error::during(doing)),
        Err(failed) => {
            attempt.rollback().await.map_err(Error::during(doing.clone()))?;
            left(failed, doing)
        }
    }
}

/// Drops a view and creates it with its owner and the rights on it. Fails if other objects depend on it.
async fn create_again(client: &impl GenericClient, name: &str, create: &str) -> Result<(), tokio_postgres::Error> {
    for statement in creating_again(client, name, create).await? {
        client.batch_execute(&statement).await?;
    }
    Ok(())
}

/// The statements for that.
pub(crate) async fn creating_again(
    client: &impl GenericClient,
    name: &str,
    create: &str,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let belongings = client.query(BELONGINGS, &[&name]).await?;
    let belongings = belongings.iter().map(|row| row.try_get(0));
    [Ok(format!("DROP VIEW {name}")), Ok(create.to_owned())].into_iter().chain(belongings).collect()
}

/// What the server refuses about a view is no reason not to start; a lost connection or a lock is.
fn left<T>(failed: tokio_postgres::Error, doing: String) -> Result<Result<T, String>, Error> {
    match Error::during(doing)(failed) {
        Error::Sql { message, .. } | Error::MissingRights { message, .. } => Ok(Err(message)),
        error => Err(error),
    }
}

/// All that deviates; nothing in a database of a newer binary.
pub(crate) async fn deviating(client: &impl GenericClient) -> Result<Vec<Difference>, Error> {
    let doing = "comparing functions and views";
    match history::standing(client).await.map_err(Error::during(doing))?? {
        Standing::Known => all_differences(client).await.map_err(Error::during(doing)),
        Standing::Ahead(_) => Ok(Vec::new()),
    }
}

pub(crate) async fn all_differences(client: &impl GenericClient) -> Result<Vec<Difference>, tokio_postgres::Error> {
    Ok(schema::differences(&schema::parse(SCHEMA), &schema::read(client).await?))
}

/// The functions, views and indexes that deviate and that daemons and `up` put back.
pub(crate) async fn differences(client: &impl GenericClient) -> Result<Vec<Difference>, tokio_postgres::Error> {
    Ok(replaced(all_differences(client).await?))
}

/// Those of all differences.
pub(crate) fn replaced(mut differences: Vec<Difference>) -> Vec<Difference> {
    differences.retain(|difference| remedy(difference, Scope::Replaced).is_some());
    differences
}
