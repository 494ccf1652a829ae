//! Which registry a command works on, and a session there: apart, because one database may hold several.

use std::time::Duration;

use tokio_postgres::{Client, error::SqlState, types::Type};

use crate::{
    postgres::{Database, connect::ConnectError, database::quote_identifier, kept::Driven, server::Want},
    runner::error::Error,
};

/// Where the registry is: a database, and the schema in it. A URL alone leaves the schema to be found.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The database.
    pub url: &'a str,
    /// The schema; `None`: the one that holds the registry and that the search path leads to.
    pub schema: Option<&'a str>,
}

impl<'a> From<&'a str> for Place<'a> {
    fn from(url: &'a str) -> Self {
        Self { url, schema: None }
    }
}

impl<'a> From<&'a String> for Place<'a> {
    fn from(url: &'a String) -> Self {
        url.as_str().into()
    }
}

/// Opens a session of its own for a command.
pub(crate) async fn open(place: Place<'_>, want: Want) -> Result<(Database, Driven), Error> {
    let database = Database::at(place.url, place.schema).map_err(ConnectError::from)?;
    let session = database.open_driven(want, Duration::MAX).await?;
    if let Some(schema) = place.schema {
        // Without it, the search path would lead to the schema of temporary tables.
        let exists = "SELECT FROM pg_namespace WHERE nspname = $1";
        let rows = session.client.query_typed(exists, &[(&schema, Type::TEXT)]).await;
        if rows.map_err(Error::during("looking for the schema"))?.is_empty() {
            return Err(Error::NoSchema);
        }
    }
    Ok((database, session))
}

/// Makes a schema that does not exist.
pub(super) async fn make_schema(client: &Client, schema: &str) -> Result<(), Error> {
    let doing = || Error::during(format!("making the schema {schema}"));
    let known = "SELECT FROM pg_namespace WHERE nspname = $1";
    if client.query_typed(known, &[(&schema, Type::TEXT)]).await.map_err(doing())?.is_empty() {
        let make = format!("CREATE SCHEMA IF NOT EXISTS {}", quote_identifier(schema));
        match client.batch_execute(&make).await {
            Ok(()) => tracing::info!(schema, "schema made"),
            // By another daemon, at the same moment.
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                return Err(Error::MissingSchema(schema.to_owned()));
            }
            Err(error) => return Err(doing()(error)),
        }
    }
    Ok(())
}
