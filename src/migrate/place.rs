//! Which registry a command works on: apart, because one database may hold several.

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
