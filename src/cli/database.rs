//! Which database: the flags that `serve` and `migrate` share, from wherever they are given.

use std::path::{Path, PathBuf};

use crate::config::layered::{Layered, Origin, Setting};
use crate::{
    command::exit::Error,
    config::{ConfigError, DatabaseUrl, Source as UrlSource, file::ConfigFile, secret},
    postgres,
};

const URL: &str = "database-url";
const URL_FILE: &str = "database-url-file";

/// Flags that name the database, and the file that may.
#[derive(Debug, Clone, clap::Args)]
pub struct DatabaseArgs {
    /// PostgreSQL of the registry: postgres://user:password@host:5432/dbname?sslmode=verify-full. Without it, serve
    /// runs a private PostgreSQL
    ///
    /// Daemons with the same database form one cluster. Prefer --database-url-file or the environment variable:
    /// arguments can be seen by other users of the machine. TLS is asked for as in libpq: sslmode (disable, prefer,
    /// require, verify-ca, verify-full), sslrootcert (a PEM file, or "system"), sslcert and sslkey, channel_binding,
    /// sslnegotiation.
    #[arg(long, env = "MUSTERD_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// File that holds the database URL, for secrets that are mounted; read again when PostgreSQL refuses a connection
    #[arg(long, env = "MUSTERD_DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<PathBuf>,

    /// Configuration file in TOML, a key for each flag of serve [default: /etc/musterd/musterd.toml, if there is one]
    #[arg(long, env = "MUSTERD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl AsRef<Self> for DatabaseArgs {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// Fills in from the configuration file, and returns which database that makes: checked, with its certificates. A URL
/// that comes from a file can be read again from it. The keys of the file are those of `All`, the settings of `serve`.
///
/// # Errors
///
/// File, secret or URL cannot be used.
pub(super) fn resolve<A, All>(layered: &mut Layered<A>) -> Result<Option<UrlSource>, Error>
where
    A: clap::Args + AsRef<DatabaseArgs>,
    All: clap::Args,
{
    let file = match &layered.args().as_ref().config {
        Some(path) => Some(ConfigFile::read(path).map_err(ConfigError::from)?),
        None => ConfigFile::read_default().map_err(ConfigError::from)?,
    };
    if let Some(file) = file {
        layered.fill_in::<All>(&file).map_err(ConfigError::from)?;
        layered.take_in_registries(&file)?;
    }
    let source = match deciding(layered)? {
        Some((_, Source::Text(url))) => {
            let url = DatabaseUrl::parse(url).map_err(ConfigError::from)?;
            match layered.origin(URL) {
                Origin::File { path, .. } => {
                    UrlSource::read_by(url, move || from_configuration(&path).map_err(|error| error.to_string()))
                }
                _ => UrlSource::fixed(url),
            }
        }
        Some((_, Source::File(path))) => {
            let path = path.to_path_buf();
            UrlSource::read_by(from_secret(&path)?, move || from_secret(&path).map_err(|error| error.to_string()))
        }
        None => return Ok(None),
    };
    postgres::database::check_certificates(&source.current())?;
    Ok(Some(source))
}

/// Reads the file of `--database-url-file`.
fn from_secret(path: &Path) -> Result<DatabaseUrl, ConfigError> {
    let secret = secret::read("--database-url-file", path)?;
    Ok(DatabaseUrl::parse(&secret)?)
}

/// Reads the key `database-url` of a configuration file again.
fn from_configuration(path: &Path) -> Result<DatabaseUrl, ConfigError> {
    let file = ConfigFile::read(path)?;
    let value = file.entries().iter().find(|entry| entry.key == URL).map(|entry| entry.value.as_str());
    Ok(DatabaseUrl::parse(value.unwrap_or_default())?)
}

/// Where the URL stands.
enum Source<'a> {
    Text(&'a str),
    File(&'a Path),
}

/// Of the two settings that name the database, the one that counts; none if none is given.
fn deciding<A>(layered: &Layered<A>) -> Result<Option<(&'static str, Source<'_>)>, ConfigError>
where
    A: clap::Args + AsRef<DatabaseArgs>,
{
    let args = layered.args().as_ref();
    let text = args.database_url.as_deref().map(|url| (URL, Source::Text(url)));
    let file = args.database_url_file.as_deref().map(|path| (URL_FILE, Source::File(path)));
    if text.is_none() || file.is_none() {
        return Ok(text.or(file));
    }
    let name = |key: &str| layered.origin(key).source().unwrap_or_else(|| key.to_owned());
    match layered.outranks(URL, URL_FILE) {
        Some(true) => Ok(text),
        Some(false) => Ok(file),
        None => Err(ConfigError::Both { first: name(URL), second: name(URL_FILE) }),
    }
}

/// Every setting, with what may be shown of the database.
pub(super) fn settings<A>(layered: &Layered<A>, url: Option<&DatabaseUrl>) -> Result<Vec<Setting>, ConfigError>
where
    A: clap::Args + AsRef<DatabaseArgs>,
{
    let deciding = deciding(layered)?.map(|(key, _)| layered.origin(key));
    let mut settings = layered.settings();
    for setting in &mut settings {
        if setting.key == URL {
            setting.value = url.map(ToString::to_string);
            setting.origin = deciding.clone().unwrap_or(Origin::Default);
        } else if setting.is_secret {
            setting.value = setting.value.take().map(|_| "(hidden)".to_owned());
        }
    }
    Ok(settings)
}
