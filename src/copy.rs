//! Copies a registry into an empty database of another server: for the private PostgreSQL, which cannot read the files of
//! another major version.
//!
//! The copy has the migrations of its original, then the rows of each table, byte for byte as COPY prints them, then the
//! counts and checksums of both sides are compared. One transaction on each side: the copy is whole or empty.
//!
//! What is not the registry's is not copied, so a database that holds more is refused: a copy that silently leaves
//! something out is worse than none.

use futures_util::{SinkExt as _, StreamExt as _, pin_mut};
use tokio_postgres::{Client, Transaction};

use crate::{
    migrate::session::{self, open},
    migrations::embedded,
    postgres::{database::quote_identifier, server::Want},
    runner::{error::Error, transaction::begin},
};

/// What a private cluster holds beside the registry and what every cluster has.
const OTHERS: &str = r"
SELECT 'database ' || datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', current_database())
UNION ALL
SELECT 'role ' || rolname FROM pg_roles WHERE rolname <> current_user AND rolname !~ '^pg_'
UNION ALL
SELECT 'extension ' || extname FROM pg_extension WHERE extname <> 'plpgsql'
UNION ALL
SELECT 'schema ' || nspname FROM pg_namespace
WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public', current_schema())
UNION ALL
SELECT 'relation ' || class.relname FROM pg_class AS class JOIN pg_namespace AS space ON space.oid = class.relnamespace
WHERE space.nspname !~ '^pg_' AND space.nspname <> 'information_schema' AND class.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  AND NOT (space.nspname = current_schema() AND (class.relname ~ '^(muster|registry)_'
           OR class.relname IN ('cluster_metadata', 'active_instance', 'active_instances')))
UNION ALL
SELECT 'function ' || proc.proname FROM pg_proc AS proc JOIN pg_namespace AS space ON space.oid = proc.pronamespace
WHERE space.nspname !~ '^pg_' AND space.nspname <> 'information_schema'
  AND NOT (space.nspname = current_schema() AND proc.proname = ANY ($1))
ORDER BY 1";

/// The tables of the registry, each with its columns that hold data, quoted.
const TABLES: &str = "
SELECT class.relname::text, string_agg(quote_ident(field.attname), ', ' ORDER BY field.attname COLLATE pg_catalog.\"C\")
FROM pg_class AS class
JOIN pg_attribute AS field ON field.attrelid = class.oid
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace AND class.relkind = 'r'
  AND field.attnum > 0 AND NOT field.attisdropped AND field.attgenerated = ''
GROUP BY class.relname
ORDER BY 1";

const SUMMARY: &str = "
SELECT (SELECT count(*) FROM registry_instance), epoch_number, revision
FROM (VALUES (1)) AS one (id) LEFT JOIN cluster_metadata USING (id)";

/// The statements that let each identity column go on behind its last row.
const SEQUENCES: &str = "
SELECT format('SELECT setval(%L, (SELECT max(%I) FROM %I))', pg_get_serial_sequence(quote_ident(class.relname), field.attname),
              field.attname, class.relname)
FROM pg_class AS class
JOIN pg_attribute AS field ON field.attrelid = class.oid
WHERE class.relnamespace = quote_ident(current_schema())::regnamespace AND class.relkind = 'r' AND field.attidentity <> ''";

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Rows of `registry_instance`.
    pub instances: u64,
    /// The number of the epoch; `None` if there is none yet.
    pub epoch_number: Option<u64>,
    /// The revision; `None` if there is no epoch yet.
    pub revision: Option<u64>,
}

/// Names of functions that the registry has, or had in SeedCore's migrations.
fn functions() -> Vec<&'static str> {
    embedded::function_names().chain(["muster_system_id", "muster_timeline"]).collect()
}

/// Copies the registry at `from` into the empty database at `to`.
///
/// # Errors
///
/// [`Error::Others`] if the original holds more than the registry, [`Error::CopyDiffers`] if the copy is not equal, or any
/// error of reading and writing. The original is not changed.
pub async fn copy(from: &str, to: &str) -> Result<Copied, Error> {
    let (source, mut original) = open(from.into(), Want::Primary).await?;
    let (target, mut copy) = open(to.into(), Want::Primary).await?;
    let copied = copy_between(&mut original.client, &mut copy.client).await;
    source.close(original).await;
    target.close(copy).await;
    copied
}

async fn copy_between(original: &mut Client, copy: &mut Client) -> Result<Copied, Error> {
    let reading = begin(original, "reading the registry").await?;
    // What the checksums are of must not depend on the settings of either server.
    let alike = "SET LOCAL timezone = 'UTC'";
    reading.batch_execute(alike).await.map_err(Error::during("reading the registry"))?;
    refuse_others(&reading).await?;
    let Some(version) = session::head(&reading).await? else {
        return Ok(Copied { instances: 0, epoch_number: None, revision: None });
    };
    session::raise(copy, version, "musterd local upgrade").await?;

    let writing = begin(copy, "copying the registry").await?;
    // Triggers and constraints have had their say when the rows were written first.
    let quiet = format!("{alike}; SET LOCAL session_replication_role = replica");
    writing.batch_execute(&quiet).await.map_err(Error::during("copying the registry"))?;
    let (tables, made) = (tables(&reading).await?, tables(&writing).await?);
    if let Some((table, _)) = tables.iter().find(|table| !made.contains(table)) {
        return Err(Error::CopyDiffers { table: table.clone(), what: "its columns are others" });
    }
    for (table, columns) in &tables {
        copy_table(&reading, &writing, &quote_identifier(table), columns).await?;
    }
    continue_sequences(&writing).await?;
    let copied = summary(&writing).await?;
    writing.commit().await.map_err(Error::during("copying the registry"))?;
    copy.batch_execute("ANALYZE").await.map_err(Error::during("analysing the copy"))?;
    Ok(copied)
}

async fn refuse_others(reading: &Transaction<'_>) -> Result<(), Error> {
    let rows = reading.query(OTHERS, &[&functions()]).await.map_err(Error::during("looking for other objects"))?;
    if rows.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    Err(Error::Others { names: names.join(", ") })
}

async fn tables(transaction: &Transaction<'_>) -> Result<Vec<(String, String)>, Error> {
    let rows = transaction.query(TABLES, &[]).await.map_err(Error::during("listing the tables"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn copy_table(
    reading: &Transaction<'_>,
    writing: &Transaction<'_>,
    table: &str,
    columns: &str,
) -> Result<(), Error> {
    let doing = || format!("copying {table}");
    // The migrations have written their history.
    writing.batch_execute(&format!("TRUNCATE {table}")).await.map_err(Error::during(doing()))?;
    let rows = reading.copy_out(&format!("COPY {table} ({columns}) TO STDOUT")).await;
    let rows = rows.map_err(Error::during(doing()))?;
    let sink = writing.copy_in(&format!("COPY {table} ({columns}) FROM STDIN")).await;
    let sink = sink.map_err(Error::during(doing()))?;
    pin_mut!(rows, sink);
    while let Some(bytes) = rows.next().await {
        sink.send(bytes.map_err(Error::during(doing()))?).await.map_err(Error::during(doing()))?;
    }
    sink.finish().await.map_err(Error::during(doing()))?;
    // Independent of the order of rows, and in constant memory.
    let sum = format!(
        "SELECT count(*), coalesce(sum(('x' || substr(md5(printed.line), 1, 15))::bit(60)::bigint), 0)::text \
         FROM (SELECT ROW({columns})::text AS line FROM {table}) AS printed"
    );
    let (mut sums, transactions) = (Vec::new(), [reading, writing]);
    for transaction in transactions {
        let row = transaction.query_one(&sum, &[]).await.map_err(Error::during(doing()))?;
        sums.push((row.get::<_, i64>(0), row.get::<_, String>(1)));
    }
    match sums.as_slice() {
        [one, other] if one == other => Ok(()),
        _ => Err(Error::CopyDiffers { table: table.to_owned(), what: "its rows are others" }),
    }
}

/// COPY gives each row its number and does not tell the sequence that would have.
async fn continue_sequences(writing: &Transaction<'_>) -> Result<(), Error> {
    let doing = "continuing the numbers of the rows";
    for row in writing.query(SEQUENCES, &[]).await.map_err(Error::during(doing))? {
        writing.batch_execute(row.get(0)).await.map_err(Error::during(doing))?;
    }
    Ok(())
}

async fn summary(transaction: &Transaction<'_>) -> Result<Copied, Error> {
    let row = transaction.query_one(SUMMARY, &[]).await.map_err(Error::during("counting the copy"))?;
    let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    Ok(Copied {
        instances: number(row.get(0)).unwrap_or_default(),
        epoch_number: number(row.get(1)),
        revision: number(row.get(2)),
    })
}
