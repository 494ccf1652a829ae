//! Which database a command of `migrate` works on, and with `--all` which registries.

use serde_json::Value;

use crate::{
    cli::{
        database::{self, DatabaseArgs},
        serve::ServeArgs,
    },
    command::exit::{self, Error},
    config::{ConfigError, DatabaseUrl, RegistryConfig, Source, layered::Layered},
    migrate::{self, Place},
    terminal::output,
};

/// Which database; unlike `serve`, these commands have none of their own.
pub(super) fn database(mut args: Layered<DatabaseArgs>) -> Result<DatabaseUrl, Error> {
    let found = database::resolve::<_, ServeArgs>(&mut args)?;
    if found.is_none() && !args.take_registries().is_empty() {
        return Err(ConfigError::SeveralRegistries.into());
    }
    found.map(|source| source.current()).ok_or_else(unnamed)
}

fn unnamed() -> Error {
    Error::Usage("which database? give --database-url, --database-url-file or --config, or their variables".into())
}

/// The database of `--against`.
pub(super) fn other_database(url: &str) -> Result<DatabaseUrl, Error> {
    DatabaseUrl::parse(url).map_err(|error| ConfigError::from(error).into())
}

/// One of the registries that a command works on.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) place: Place<'a>,
    /// Its name in the configuration file, if that lists several.
    name: Option<&'a str>,
}

impl<'a> Target<'a> {
    pub(super) fn at(place: impl Into<Place<'a>>) -> Self {
        Self { place: place.into(), name: None }
    }

    /// With `--all`, an answer for programs says of which registry it is.
    pub(super) fn answer(&self, mut answer: Value) -> Value {
        if let (Some(schema), Value::Object(fields)) = (self.place.schema, &mut answer) {
            fields.insert("schema".to_owned(), schema.into());
            fields.extend(self.name.map(|name| ("registry".to_owned(), name.into())));
        }
        answer
    }

    /// Makes the schema of a registry that the configuration file names, as its daemon would.
    pub(super) async fn ensure_schema(&self) -> Result<(), Error> {
        match (self.name, self.place.schema) {
            (Some(_), Some(schema)) => Ok(migrate::ensure_schema(self.place.url, schema).await?),
            _ => Ok(()),
        }
    }
}

/// Runs a command for the one registry, or with `--all` for each: of the configuration file, or of the database. Of several, each
/// is announced, a failure of one does not stop the others, and the exit code is that of the first that did not succeed.
pub(super) async fn each(
    mut args: Layered<DatabaseArgs>,
    is_all: bool,
    run: impl AsyncFn(Target<'_>) -> Result<u8, Error>,
) -> Result<u8, Error> {
    if !is_all {
        return run(Target::at(database(args)?.expose())).await;
    }
    let found = database::resolve::<_, ServeArgs>(&mut args)?;
    let configured = args.take_registries();
    match found {
        None if configured.is_empty() => Err(unnamed()),
        None => each_configured(&configured, run).await,
        Some(source) => each_of(&source.current(), run).await,
    }
}

/// For each registry of a database.
async fn each_of(url: &DatabaseUrl, run: impl AsyncFn(Target<'_>) -> Result<u8, Error>) -> Result<u8, Error> {
    let schemas = migrate::registries(url.expose()).await?;
    if schemas.is_empty() {
        output::note("no schema of this database holds a registry; run the command without --all to make one");
        return Ok(exit::NEGATIVE);
    }
    let mut code = exit::OK;
    for schema in &schemas {
        output::note(&format!("registry in schema {schema}"));
        let ended = run(Target::at(Place { url: url.expose(), schema: Some(schema) })).await;
        code = first_failure(code, ended);
    }
    Ok(code)
}

/// For each table `[[registry]]` of the configuration file.
async fn each_configured(
    registries: &[RegistryConfig],
    run: impl AsyncFn(Target<'_>) -> Result<u8, Error>,
) -> Result<u8, Error> {
    let mut code = exit::OK;
    for RegistryConfig { name, schema, database_url, .. } in registries {
        let Some(url) = database_url.as_ref().map(Source::current) else {
            output::note(&format!(
                "registry {name}: skipped, its daemon migrates the private PostgreSQL when it starts"
            ));
            continue;
        };
        output::note(&format!("registry {name} in schema {schema}"));
        let place = Place { url: url.expose(), schema: Some(schema) };
        code = first_failure(code, run(Target { place, name: Some(name) }).await);
    }
    Ok(code)
}

/// The code of the first that did not succeed; an error of one is told at once.
fn first_failure(code: u8, ended: Result<u8, Error>) -> u8 {
    let ended = ended.unwrap_or_else(|error| {
        error.lines().iter().for_each(|line| output::note(line));
        error.exit_code()
    });
    if code == exit::OK { ended } else { code }
}
