//! Which registry a command works on, and a session there: apart, because one database may hold several.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::{
    postgres::{Database, connect::ConnectError, kept::Driven, server::Want},
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
    let database = Database::at(place.url).map_err(ConnectError::from)?;
    if let Some(schema) = place.schema {
        database.keep_to(schema);
    }
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
