//! The commands over a session: for programs that own a client of `tokio_postgres` and want the registry's schema in their
//! database, and for [`super`], which opens a session by a URL.

use tokio_postgres::Client;

use super::{
    adopt,
    detect::Detection,
    ejection,
    plan::{self, Plan, PlanOptions},
    session::{self, Report},
};
use crate::{
    locate,
    postgres::{connect::ConnectError, database::quote_identifier},
    runner::{apply::UpOptions, error::Error, history::Status},
};

/// The migrations of the registry, over a client that the caller owns.
///
/// The registry is looked for in all schemas, and made where the session's search path leads if there is none. The session
/// must not be in a transaction, and has its own search path again afterwards.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use musterd::migrate::{Migrator, UpOptions};
///
/// let (mut client, connection) = tokio_postgres::connect("postgres://app@db/registry", tokio_postgres::NoTls).await?;
/// tokio::spawn(connection);
/// let migrator = Migrator::new("deploy@build-7");
/// print!("{}", migrator.plan(&mut client).await?);
/// let report = migrator.up(&mut client, &UpOptions::default()).await?;
/// println!("at {:03}, {} applied", report.current, report.applied.len());
/// assert_eq!(migrator.verify(&mut client).await?, [""; 0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Migrator {
    applied_by: String,
}

impl Migrator {
    /// `applied_by` is kept in the history.
    #[must_use]
    pub fn new(applied_by: impl Into<String>) -> Self {
        Self { applied_by: applied_by.into() }
    }

    /// Tells where every migration stands, by number.
    ///
    /// # Errors
    ///
    /// An SQL failure, or [`Error::Connect`] if it cannot be said which schema holds the registry.
    pub async fn status(&self, client: &mut Client) -> Result<Vec<Status>, Error> {
        within(client, session::read_history).await
    }

    /// Compares each migration with what is there.
    ///
    /// # Errors
    ///
    /// As [`Self::status`].
    pub async fn detect(&self, client: &mut Client) -> Result<Detection, Error> {
        within(client, session::detect).await
    }

    /// Makes the text of what [`Self::up`] would run.
    ///
    /// # Errors
    ///
    /// As [`Self::up`], where the database could not be migrated as it is.
    pub async fn plan(&self, client: &mut Client) -> Result<Plan, Error> {
        within(client, async |client| plan::plan(client, &PlanOptions::default(), &self.applied_by).await).await
    }

    /// Applies what is pending, then puts back functions and views that others have replaced.
    ///
    /// # Errors
    ///
    /// Any [`Error`] but [`Error::Pending`]. What was applied before the error stays applied.
    pub async fn up(&self, client: &mut Client, options: &UpOptions) -> Result<Report, Error> {
        within(client, async |client| session::take_over(client, options, &self.applied_by).await).await
    }

    /// Compares the schema with what the migrations make. Returns one line for each difference.
    ///
    /// # Errors
    ///
    /// As [`Self::status`].
    pub async fn verify(&self, client: &mut Client) -> Result<Vec<String>, Error> {
        within(client, session::verify).await
    }

    /// Records the migrations whose objects SeedCore has made. Returns their names.
    ///
    /// # Errors
    ///
    /// [`Error::NotAdoptable`] unless all of their objects are there with a known definition.
    pub async fn adopt(&self, client: &mut Client) -> Result<Vec<&'static str>, Error> {
        within(client, async |client| adopt::run(client, &self.applied_by).await).await
    }

    /// Gives the registry back to SeedCore. Returns whether there was anything to do.
    ///
    /// # Errors
    ///
    /// [`Error::DaemonsLive`] while daemons work with the database.
    pub async fn eject(&self, client: &mut Client) -> Result<bool, Error> {
        within(client, async |client| ejection::eject(client, false, &self.applied_by).await).await
    }
}

/// Works in the schema of the registry, and leaves the session's search path as it was.
async fn within<T>(client: &mut Client, work: impl AsyncFnOnce(&mut Client) -> Result<T, Error>) -> Result<T, Error> {
    let doing = "looking for the registry";
    let located = locate::locate(client).await.map_err(Error::during(doing))?;
    let schema: Option<String> = located.map_err(ConnectError::from)?;
    let former =
        client.query_typed("SELECT current_setting('search_path')", &[]).await.map_err(Error::during(doing))?;
    let former: String = former.first().map(|row| row.get(0)).unwrap_or_default();
    if let Some(schema) = schema {
        set_search_path(client, &quote_identifier(&schema)).await?;
    }
    let outcome = work(client).await;
    let restored = set_search_path(client, &former).await;
    let outcome = outcome?;
    restored.map(|()| outcome)
}

async fn set_search_path(client: &Client, path: &str) -> Result<(), Error> {
    let set = "SELECT set_config('search_path', $1, false)";
    let set = client.query_typed(set, &[(&path, tokio_postgres::types::Type::TEXT)]).await;
    set.map(drop).map_err(Error::during("setting the search path"))
}
