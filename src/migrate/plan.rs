//! `musterd migrate plan`: what `up` would run, as a text that psql can run instead.
//!
//! The plan is made of the same texts that `up` executes: the migrations as they are embedded, the statements that record
//! them, the repair of functions and views, the hold. It is read in a transaction that is read-only, so making a plan cannot
//! change anything. What `up` decides while it runs is decided here from the catalogue: whether a view has to be dropped
//! first, because it has become wider.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use tokio_postgres::{Client, GenericClient};

use super::{ejection, rights};
use crate::{
    migrations::{
        embedded::{FIRST, HEAD, Migration, SCHEMA},
        locks, objects, shape,
    },
    runner::{
        apply::NUMBERING,
        batches,
        error::Error,
        history, indexes,
        repair::{self, Scope},
        transaction,
    },
    schema::{self, Difference, Kind},
};

/// How a step is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepKind {
    /// In one transaction, its entry in the history included.
    Transactional,
    /// Outside a transaction and beside the traffic, until the catalogue says that it is done.
    Concurrent,
    /// In many transactions, one after the other; an interrupted run goes on where it was.
    Batched,
}

impl StepKind {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::Concurrent => "concurrent",
            Self::Batched => "batched",
        }
    }
}

/// What a plan is made for.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PlanOptions {
    /// The role that would run it; `None`: the one of the session.
    pub role: Option<String>,
    /// Whether dead rows are deleted before the others are numbered.
    pub purge_dead: bool,
}

/// One part of a plan.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Step {
    /// What it is: `migration 013 (leases_and_revisions)`.
    pub name: String,
    /// How it is run.
    pub kind: StepKind,
    /// The statements, as one transaction with those of the other steps has to run them.
    pub sql: String,
    /// The strongest lock on each existing table: table and lock.
    pub locks: Vec<(String, &'static str)>,
    /// How many rows it changes.
    pub rows: i64,
    /// How long it holds its locks, from the number of rows.
    pub estimate: Duration,
}

/// What `up` would do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// The schema it works in.
    pub schema: String,
    /// The parts, in order; none if there is nothing to do.
    pub steps: Vec<Step>,
    /// What the role of the session needs and lacks, each with the statement that gives it.
    pub lacking: Vec<String>,
    preamble: String,
}

impl fmt::Display for Plan {
    /// The SQL, for `psql --single-transaction`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return formatter.write_str("-- Nothing to do.\n");
        }
        formatter.write_str(&self.preamble)?;
        self.steps.iter().try_for_each(|step| write!(formatter, "\n-- {}\n\n{}", step.name, step.sql))
    }
}

/// Makes the plan.
pub(super) async fn plan(client: &mut Client, options: &PlanOptions, applied_by: &str) -> Result<Plan, Error> {
    let doing = "planning";
    let transaction = transaction::begin_reading(client, doing).await?;
    let statuses = history::read(&transaction).await?;
    let standing = history::accept(&statuses)?;
    let pending: Vec<&Migration> = history::missing(&statuses).collect();
    if let history::Standing::Ahead(_) = standing
        && !pending.is_empty()
    {
        return Err(history::pending(&statuses));
    }
    let live = schema::read(&transaction).await.map_err(Error::during(doing))?;
    if pending.iter().any(|migration| migration.version == FIRST) {
        let differences = shape::differences(&schema::parse(SCHEMA), &live);
        if !differences.is_empty() {
            return Err(Error::Foreign { differences });
        }
    }
    let mut steps = Vec::new();
    if history::refuse_ejected(&statuses).is_err() {
        let mut sql = ejection::REMOVE_MARK.replace("$1", &history::EJECTED.to_string());
        let _ = write!(sql, ";\n{};\n", transaction::HOLD);
        steps.push(Step::small("take the registry over again", sql));
    }
    if !pending.is_empty() && !history::exists(&transaction).await? {
        steps.push(Step::small("the history of the migrations", history::CREATE.trim_start().to_owned()));
    }
    let purges = options.purge_dead && batches::is_due(&transaction, &statuses).await?;
    let mut purged = 0;
    if purges {
        let batched = batched(&transaction).await?;
        purged = batched.rows;
        steps.push(batched);
    }
    for migration in &pending {
        let mut step = step(&transaction, migration, applied_by).await?;
        if migration.version == NUMBERING {
            step.changes(step.rows - purged);
        }
        steps.push(step);
    }
    if matches!(standing, history::Standing::Known) {
        steps.extend(repairs(&transaction, &pending, &live).await.map_err(Error::during(doing))?);
        if pending.is_empty() {
            steps.extend(concurrent(&transaction, &live).await.map_err(Error::during(doing))?);
        }
    }
    let schema = transaction::schema_name(&transaction).await.map_err(Error::during(doing))?;
    let mut lacking = Vec::new();
    if !steps.is_empty() {
        let rights = rights::read(&transaction, options.role.as_deref()).await.map_err(Error::during(doing))?;
        lacking.extend(rights.lacking);
        lacking.extend(rights.other_owners);
    }
    Ok(Plan { preamble: preamble(&schema), schema, steps, lacking })
}

impl Step {
    fn small(name: &str, sql: String) -> Self {
        let (name, kind, locks) = (name.to_owned(), StepKind::Transactional, Vec::new());
        Self { name, kind, sql, locks, rows: 0, estimate: Duration::ZERO }
    }

    /// It changes so many rows.
    fn changes(&mut self, rows: i64) {
        self.rows = rows;
        self.estimate = Duration::from_micros(u64::try_from(rows).unwrap_or_default() * locks::MICROSECONDS_PER_ROW);
    }
}

/// What every transaction of `up` begins with.
fn preamble(schema: &str) -> String {
    format!(
        "-- What musterd migrate up would run now. Run it in one transaction, as the owner of the registry's tables or a role\n\
         -- that may become it: psql --single-transaction -v ON_ERROR_STOP=1 -f plan.sql\n\n\
         {};\n{};\nSET LOCAL search_path = {}, pg_temp;\nSELECT pg_advisory_xact_lock({});\n{};\n",
        transaction::SETTINGS,
        transaction::lock_timeout(),
        crate::postgres::database::quote_identifier(schema),
        transaction::LOCK_KEY,
        transaction::becoming_owner(),
    )
}

async fn step(client: &impl GenericClient, migration: &Migration, applied_by: &str) -> Result<Step, Error> {
    let mut sql = migration.sql();
    if migration.version == HEAD {
        let _ = write!(sql, "\n{};\n", transaction::HOLD);
    }
    let _ = write!(sql, "\n{};\n", history::record_text(migration, applied_by));
    let locks = locks::of(&migration.sql());
    let mut rows = 0;
    let mut existing = Vec::new();
    for lock in locks {
        // What an earlier step makes is empty and unused.
        let counted = client
            .query_typed(
                "SELECT class.oid::regclass::text FROM pg_class AS class
                 WHERE class.relname = $1 AND class.relnamespace = quote_ident(current_schema())::regnamespace",
                &[(&lock.table, tokio_postgres::types::Type::TEXT)],
            )
            .await
            .map_err(Error::during("planning"))?;
        if counted.is_empty() {
            continue;
        }
        if lock.updates {
            let count = format!("SELECT count(*) FROM {}", lock.table);
            let counted = client.query_typed(&count, &[]).await.map_err(Error::during("counting rows"))?;
            rows += counted.first().map_or(0, |row| row.get::<_, i64>(0));
        }
        existing.push((lock.table, lock.mode.name()));
    }
    let mut step = Step::small(&format!("migration {:03} ({})", migration.version, migration.name), sql);
    step.locks = existing;
    step.changes(rows);
    Ok(step)
}

/// Dead rows that are deleted before they would be numbered. Their deletion holds no lock that a beat waits for.
async fn batched(client: &impl GenericClient) -> Result<Step, Error> {
    let count = "SELECT count(*) FROM registry_instance WHERE status = 'dead'";
    let counted = client.query_typed(count, &[]).await.map_err(Error::during("counting rows"))?;
    let name = format!("delete dead rows, {} at a time", batches::BATCH);
    let mut step = Step::small(&name, "DELETE FROM registry_instance WHERE status = 'dead';\n".to_owned());
    step.kind = StepKind::Batched;
    step.locks.push(("registry_instance".to_owned(), "ROW EXCLUSIVE"));
    step.rows = counted.first().map_or(0, |row| row.get(0));
    Ok(step)
}

/// Indexes that an interrupted build has left behind.
async fn concurrent(client: &impl GenericClient, live: &[schema::Object]) -> Result<Vec<Step>, tokio_postgres::Error> {
    let differences = schema::differences(&schema::parse(SCHEMA), live);
    let is_announced = indexes::is_announced(client).await?;
    let due = indexes::due(&differences, Scope::Replaced, is_announced);
    let step = |difference: &Difference| {
        let (index, table) = difference.object.name.split_once(" on ").unwrap_or_default();
        let drop = format!(
            "-- up drops and builds it with CONCURRENTLY, beside the traffic.\nDROP INDEX IF EXISTS {index};\n"
        );
        let mut step = Step::small(&format!("build {}", difference.object), drop + &difference.object.text);
        step.kind = StepKind::Concurrent;
        step.locks.push((table.to_owned(), "SHARE UPDATE EXCLUSIVE"));
        step
    };
    Ok(due.iter().map(step).collect())
}

/// The repairs that are still due after the pending migrations: those of objects that none of them makes.
async fn repairs(
    client: &impl GenericClient,
    pending: &[&Migration],
    live: &[schema::Object],
) -> Result<Option<Step>, tokio_postgres::Error> {
    let expected = schema::parse(SCHEMA);
    let differences: Vec<Difference> = schema::differences(&expected, live);
    let made: Vec<_> = pending.iter().flat_map(|migration| objects::of(&migration.sql())).collect();
    let is_made = |difference: &Difference| {
        let name = difference.object.name.split('(').next().unwrap_or_default();
        made.iter().any(|one| one.kind == difference.object.kind && one.name == name)
    };
    let is_dropped = |difference: &Difference| {
        let name = difference.object.name.split(" on ").next().unwrap_or_default();
        pending.iter().any(|migration| migration.sql().contains(&format!("DROP INDEX IF EXISTS {name};")))
    };
    let mut sql = String::new();
    let mut names = Vec::new();
    for difference in differences.iter().filter(|one| !is_made(one) && !is_dropped(one)) {
        let Some((statement, _)) = repair::remedy(difference, Scope::Replaced) else { continue };
        let object = &difference.object;
        let is_wider = |other: &&schema::Object| {
            other.kind == Kind::View && other.name == object.name && width(&other.text) > width(&object.text)
        };
        let statements = match live.iter().find(is_wider) {
            Some(_) => repair::creating_again(client, &object.name, &statement).await?,
            None => vec![statement],
        };
        for statement in statements {
            let _ = writeln!(sql, "{};", statement.trim_end().trim_end_matches(';'));
        }
        names.push(object.to_string());
    }
    if names.is_empty() {
        return Ok(None);
    }
    let mut step = Step::small(&format!("put back: {}", names.join(", ")), sql);
    step.locks.push(("functions and views".to_owned(), "ACCESS EXCLUSIVE"));
    Ok(Some(step))
}

/// How many columns a view has, as the server prints it: one to a line.
fn width(view: &str) -> usize {
    view.lines().skip(1).take_while(|line| !line.trim_start().starts_with("FROM ")).count()
}
