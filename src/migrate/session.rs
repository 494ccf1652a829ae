//! The work of each command over one session, however it was opened.

use tokio::try_join;
use tokio_postgres::{Client, GenericClient};

pub(crate) use super::{detect::layouts, place::open};
use super::{
    detect::{self, Detection},
    ejection,
    rights::{self, Rights},
};
use crate::{
    migrations::{embedded, embedded::SCHEMA, statements::REGISTRIES},
    runner::{
        apply::{Applied, RetryBudget, UpOptions, apply_up_to},
        batches,
        error::Error,
        fresh,
        history::{self, Standing, State, Status},
        indexes,
        repair::{self, Repair, Scope},
        transaction::begin_reading,
    },
    schema::{self, Object},
};

/// How [`super::verify`] begins a line about a table whose rows a policy may hide.
pub const ROW_SECURITY: &str = "row-level security may hide rows of table";

/// What [`super::up`] did.
#[derive(Debug, Clone)]
pub struct Report {
    /// The migrations it applied, in order.
    pub applied: Vec<Applied>,
    /// Functions, views and the like that others had changed and that it put back, by name.
    pub repaired: Vec<String>,
    /// Dead rows that it deleted before it numbered the others.
    pub purged: i64,
    /// Views that it could not put back, each with the reason. No daemon reads them.
    pub left: Vec<String>,
    /// The highest version the database has now; 0 for none. Higher than what this binary knows if a newer one has migrated
    /// it and admits this one: then nothing is applied or put back.
    pub current: i32,
}

/// As [`bring_up`], for a person: takes over again what was given back.
pub(super) async fn take_over(client: &mut Client, options: &UpOptions, applied_by: &str) -> Result<Report, Error> {
    ejection::take_back(client, options.hold, applied_by).await?;
    bring_up(client, options, applied_by, false).await
}

pub(super) async fn detect(client: &mut Client) -> Result<Detection, Error> {
    let transaction = begin_reading(client, "detecting what is there").await?;
    detect::detect(&transaction).await
}

/// The schemas that hold a registry.
pub(super) async fn registries(client: &mut Client) -> Result<Vec<String>, Error> {
    let rows = client.query_typed(REGISTRIES, &[]).await.map_err(Error::during("looking for registries"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub(super) async fn rights(client: &mut Client) -> Result<Rights, Error> {
    let transaction = begin_reading(client, "reading owners").await?;
    rights::read(&transaction, None).await.map_err(Error::during("reading owners"))
}

pub(super) async fn repair(client: &mut Client, apply: bool, by: &str) -> Result<Repair, Error> {
    let statuses = read_history(client).await?;
    history::accept(&statuses)?;
    history::refuse_ejected(&statuses)?;
    if history::missing(&statuses).next().is_some() {
        return Err(history::pending(&statuses));
    }
    let preview = repair::preview(client, Scope::All).await?;
    if !apply {
        return Ok(preview);
    }
    let mut repair = put_back(client, Scope::All, by).await?;
    repair.done.extend(indexes::build(client, Scope::All).await?);
    // In the order in which they were announced.
    repair.done.sort_by_key(|line| preview.done.iter().position(|other| other == line));
    let transaction = begin_reading(client, "comparing the schema").await?;
    repair.left = repair::beyond(Scope::All, &repair::deviating(&transaction).await?);
    Ok(repair)
}

/// The live objects, and what the history says was applied.
pub(super) async fn describe(client: &mut Client) -> Result<(Vec<Object>, Vec<String>), Error> {
    let transaction = begin_reading(client, "reading the schema").await?;
    let statuses = history::read(&transaction).await?;
    let applied = statuses.iter().filter(|status| status.state != State::Pending);
    let applied = applied.map(|status| format!("migration {:03} ({})", status.version, status.name)).collect();
    Ok((schema::read(&transaction).await.map_err(Error::during("reading the schema"))?, applied))
}

pub(super) async fn verify(client: &mut Client) -> Result<Vec<String>, Error> {
    let transaction = begin_reading(client, "comparing the schema").await?;
    let statuses = history::read(&transaction).await?;
    if let Err(ejected) = history::refuse_ejected(&statuses) {
        return Ok(vec![ejected.to_string()]);
    }
    let mut lines: Vec<String> = statuses
        .iter()
        .filter(|status| status.state != State::Applied)
        .map(|status| {
            let state = match status.state {
                State::Applied | State::Pending => "is pending",
                State::Changed => "was applied with a different text",
                State::Unknown | State::Ejected => "is unknown to this binary",
            };
            format!("migration {} ({}) {state}", status.version, status.name)
        })
        .collect();
    if lines.is_empty() {
        let live = schema::read(&transaction).await.map_err(Error::during("comparing the schema"))?;
        let expected = schema::parse(SCHEMA);
        lines = schema::differences(&expected, &live).iter().map(ToString::to_string).collect();
        let filtered = schema::filtered_tables(&transaction).await.map_err(Error::during("comparing the schema"))?;
        let fix = |table| format!("{ROW_SECURITY} {table}; ALTER TABLE {table} DISABLE ROW LEVEL SECURITY");
        lines.extend(filtered.iter().map(fix));
    }
    Ok(lines)
}

/// A daemon refuses a registry that was given back: only a registry that is not up to date can be one.
pub(super) async fn bring_up(client: &mut Client, goal: &UpOptions, by: &str, daemon: bool) -> Result<Report, Error> {
    // What keeps this from being answered is met again below, with all rights and locks.
    let report = |applied| {
        let (repaired, left) = (Vec::new(), Vec::new());
        Report { applied, repaired, purged: 0, left, current: embedded::HEAD }
    };
    match survey(client).await {
        Ok(Survey::UpToDate) => return Ok(report(Vec::new())),
        Ok(Survey::Unmigrated) if goal.to >= embedded::HEAD => {
            // What goes wrong there does so below as well, where it is tried again.
            if let Ok(Some(applied)) = fresh::apply_all(client, by).await {
                return Ok(report(applied));
            }
            client.batch_execute("ROLLBACK").await.map_err(Error::during("migrating"))?;
        }
        Ok(_) | Err(_) => {}
    }
    if daemon {
        history::refuse_ejected(&read_history(client).await?)?;
    }
    let purged = if goal.purge_dead { batches::purge(client).await? } else { 0 };
    let (applied, standing) = apply_up_to(client, goal, by).await?;
    let (current, mut repair) = match standing {
        Standing::Known if goal.to < embedded::HEAD => (goal.to, Repair::default()),
        Standing::Known => (embedded::HEAD, put_back(client, Scope::Replaced, by).await?),
        Standing::Ahead(version) => {
            tracing::warn!(
                version,
                known = embedded::HEAD,
                "schema is newer than this binary, serving without migrating"
            );
            (version, Repair::default())
        }
    };
    if let Standing::Known = standing
        && current == embedded::HEAD
    {
        repair.done.extend(indexes::build(client, Scope::Replaced).await?);
    }
    Ok(Report { applied, repaired: repair.done, purged, left: repair.left, current })
}

/// What there is to do.
enum Survey {
    /// Nothing to apply and nothing to put back.
    UpToDate,
    /// No migration is recorded.
    Unmigrated,
    Other,
}

/// The usual answer at a daemon's start is that there is nothing to do, had without a lock and in two round trips.
async fn survey(client: &Client) -> Result<Survey, Error> {
    let differences =
        async { repair::all_differences(client).await.map_err(Error::during("comparing functions and views")) };
    let (statuses, differences) = try_join!(history::read(client), differences)?;
    let are_all = |state| statuses.iter().all(|status| status.state == state);
    // What an interrupted build leaves behind.
    let is_whole = indexes::due(&differences, Scope::All, false).is_empty() && repair::replaced(differences).is_empty();
    Ok(match is_whole && are_all(State::Applied) {
        true => Survey::UpToDate,
        false if are_all(State::Pending) => Survey::Unmigrated,
        false => Survey::Other,
    })
}

pub(super) async fn read_history(client: &mut Client) -> Result<Vec<Status>, Error> {
    let transaction = begin_reading(client, "reading the migration history").await?;
    history::read(&transaction).await
}

/// The highest migration of a database that this binary may work with; `None` if it has none.
pub(crate) async fn head(client: &impl GenericClient) -> Result<Option<i32>, Error> {
    let statuses = history::read(client).await?;
    history::accept(&statuses)?;
    Ok(statuses.iter().filter(|status| status.applied_at.is_some()).map(|status| status.version).max())
}

/// Applies the migrations up to one, and nothing else.
pub(crate) async fn raise(client: &mut Client, to: i32, applied_by: &str) -> Result<(), Error> {
    let options = UpOptions { to, ..UpOptions::default() };
    apply_up_to(client, &options, applied_by).await.map(drop)
}

pub(super) async fn put_back(client: &mut Client, scope: Scope, by: &str) -> Result<Repair, Error> {
    let mut budget = RetryBudget::default();
    loop {
        match repair::run(client, scope, by).await {
            Ok(repair) => return Ok(repair),
            Err(error) => budget.after(client, error).await?,
        }
    }
}
