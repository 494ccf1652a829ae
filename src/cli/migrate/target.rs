//! Which database a command of `migrate` works on.

use crate::{
    cli::{
        database::{self, DatabaseArgs},
        serve::ServeArgs,
    },
    command::exit::Error,
    config::{ConfigError, DatabaseUrl, layered::Layered},
};

/// Which database; unlike `serve`, these commands have none of their own.
pub(super) fn database(mut args: Layered<DatabaseArgs>) -> Result<DatabaseUrl, Error> {
    let found = database::resolve::<_, ServeArgs>(&mut args)?;
    if found.is_none() && !args.take_registries().is_empty() {
        return Err(ConfigError::SeveralRegistries("the configuration file".to_owned()).into());
    }
    found.map(|source| source.current()).ok_or_else(|| {
        Error::Usage("which database? give --database-url, --database-url-file or --config, or their variables".into())
    })
}

/// The database of `--against`.
pub(super) fn other_database(url: &str) -> Result<DatabaseUrl, Error> {
    DatabaseUrl::parse(url).map_err(|error| ConfigError::from(error).into())
}
