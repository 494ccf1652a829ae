//! `musterd serve`: the settings of the daemon, turned into a checked [`ServeConfig`].

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;

use super::database::{self, DatabaseArgs};
use crate::{
    clock::Clock,
    command::exit::{self, Error},
    config::{
        LogFormat, MAX_RECORD_BYTES_MIN, RegistryConfig, ServeConfig, Source,
        layered::{Layered, Origin, Setting},
        memory,
        security::TlsArgs,
    },
    daemon,
    model::Budget,
    terminal::args::parse_duration,
    tls,
};

/// Where a daemon without a home keeps its data.
const SYSTEM_DATA_DIR: &str = "/var/lib/musterd";

/// Flags of `serve`. Each has an environment variable `MUSTERD_<FLAG>` and, but for `--config`, a key of the
/// configuration file; the flag wins over the variable, and that over the file.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Address of gRPC: IP:PORT
    ///
    /// An address that other machines can reach (0.0.0.0:7717) needs TLS and authentication, or the waivers
    /// --insecure-no-tls and --insecure-no-auth.
    #[arg(long, env = "MUSTERD_GRPC_ADDR", value_name = "ADDR", default_value = "127.0.0.1:7717",
          value_parser = parse_socket_addr)]
    grpc_addr: SocketAddr,

    /// Most gRPC connections of one client address, 1 to 10000
    ///
    /// Clients behind a proxy or address translation share an address. IPv6 addresses count by their first 64 bits.
    #[arg(long, env = "MUSTERD_GRPC_CONNECTIONS_PER_ADDRESS", value_name = "COUNT", default_value_t = 1_000)]
    grpc_connections_per_address: usize,

    /// Most records of the registry, the dead ones on record included
    ///
    /// Beyond it new instances are refused with REGISTRY_FULL; known ones register again, beat and deregister. One address
    /// leaves a quarter of what it finds free to others.
    #[arg(long, env = "MUSTERD_MAX_RECORDS", value_name = "COUNT", default_value_t = 2_000_000)]
    max_records: u64,

    /// Most memory of these records: bytes, or a number with KiB, MiB or GiB [default: a quarter of the memory limit]
    #[arg(long, env = "MUSTERD_MAX_RECORD_BYTES", value_name = "SIZE", value_parser = parse_size)]
    max_record_bytes: Option<u64>,

    /// Address of metrics and health (/metrics, /livez, /readyz): IP:PORT
    #[arg(long, env = "MUSTERD_HTTP_ADDR", value_name = "ADDR", default_value = "127.0.0.1:7718",
          value_parser = parse_socket_addr)]
    http_addr: SocketAddr,

    /// Host names under which the HTTP port answers, such as registry.example,*.example.com; * for any
    ///
    /// IP addresses, localhost, the host of --advertise-addr and the name of this machine need not be given. Requests for
    /// other names are refused with 421, so that a web page cannot read the registry through a name of its own.
    #[arg(long, env = "MUSTERD_HTTP_HOST", value_name = "NAMES")]
    http_host: Option<String>,

    #[command(flatten)]
    tls: TlsArgs,

    /// Directory of the private PostgreSQL [default: $XDG_DATA_HOME/musterd or ~/.local/share/musterd, as root
    /// /var/lib/musterd]
    #[arg(long, env = "MUSTERD_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Directory of the PostgreSQL server programs (initdb, postgres) for the private one [default: search]
    #[arg(long, env = "MUSTERD_POSTGRES_BIN_DIR", value_name = "DIR")]
    postgres_bin_dir: Option<PathBuf>,

    /// How long dead instances are kept, 1m to 30days
    #[arg(long, env = "MUSTERD_KEEP_DEAD", value_name = "DURATION", default_value = "24h",
          value_parser = parse_duration)]
    keep_dead: Duration,

    /// How long the record of an ended lease is kept, 1m to 365days
    #[arg(long, env = "MUSTERD_KEEP_HISTORY", value_name = "DURATION", default_value = "7days",
          value_parser = parse_duration)]
    keep_history: Duration,

    /// How long decisions are kept (`musterd audit`), 7days to 3650days
    #[arg(long, env = "MUSTERD_KEEP_AUDIT", value_name = "DURATION", default_value = "90days",
          value_parser = parse_duration)]
    keep_audit: Duration,

    /// Address at which others reach this daemon, shown to operators [default: the gRPC address]
    #[arg(long, env = "MUSTERD_ADVERTISE_ADDR", value_name = "ADDR")]
    advertise_addr: Option<String>,

    /// Form of the log on standard error; auto is text on a terminal and JSON elsewhere
    #[arg(long, env = "MUSTERD_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,

    /// What to log: a level, or a list such as info,musterd::registry=debug
    #[arg(long, env = "MUSTERD_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    log_level: String,

    /// Refuse to start when migrations are pending, instead of applying them
    #[arg(long, env = "MUSTERD_NO_MIGRATE", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    no_migrate: Option<bool>,

    /// How long to wait at the start for a PostgreSQL that is away: a duration, 0 to fail at once, or none
    ///
    /// While it waits, the daemon answers its probes: /livez with 200, /readyz with 503 and what it waits for. When the
    /// time has passed, it exits with 3. A configuration that cannot work (78) ends it at once.
    #[arg(long, env = "MUSTERD_START_TIMEOUT", value_name = "DURATION", default_value = "none",
          value_parser = parse_start_timeout)]
    start_timeout: StartTimeout,
}

/// How long to wait; `None`: without limit. Not a bare `Option`, which clap would take for an argument that may be left
/// out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StartTimeout(Option<Duration>);

fn parse_start_timeout(text: &str) -> Result<StartTimeout, String> {
    if text == "none" {
        return Ok(StartTimeout(None));
    }
    let expected = |_| "expected a duration such as 30s or 5m, 0, or none".to_owned();
    parse_duration(text).map(|limit| StartTimeout(Some(limit))).map_err(expected)
}

/// A quarter of the memory limit: the private PostgreSQL, calls and watchers need some too.
fn default_record_bytes() -> u64 {
    (memory::limit(Path::new("/")) / 4).max(MAX_RECORD_BYTES_MIN)
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (number, factor) = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .unwrap_or((text, 1));
    let size = number.trim_end().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    size.ok_or_else(|| "expected bytes, such as 536870912, 512MiB or 2GiB".to_owned())
}

pub(super) fn parse_socket_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected IP:PORT, for example 127.0.0.1:7717, 0.0.0.0:7717 or [::]:7717".to_owned())
}

impl AsRef<DatabaseArgs> for ServeArgs {
    fn as_ref(&self) -> &DatabaseArgs {
        &self.database
    }
}

impl ServeArgs {
    /// Checks the arguments.
    fn into_config(self, database_url: Option<Source>) -> Result<ServeConfig, Error> {
        let (audit, audit_file) = self.tls.audit();
        let config = ServeConfig {
            database_url,
            schema: None,
            registries: Vec::new(),
            grpc_addr: self.grpc_addr,
            grpc_connections_per_address: self.grpc_connections_per_address,
            budget: Budget {
                records: self.max_records,
                bytes: self.max_record_bytes.unwrap_or_else(default_record_bytes),
            },
            http_addr: self.http_addr,
            http_hosts: self.http_host.as_deref().map(names).unwrap_or_default(),
            tls: self.tls.files()?,
            access: self.tls.access()?,
            insecure_no_tls: self.tls.insecure_no_tls.unwrap_or_default(),
            insecure_no_auth: self.tls.insecure_no_auth.unwrap_or_default(),
            admin_socket: self.tls.admin_socket(),
            audit,
            audit_file,
            // PostgreSQL is started with another working directory.
            data_dir: std::path::absolute(self.data_dir.unwrap_or_else(data_dir))?,
            postgres_bin_dir: self.postgres_bin_dir.map(std::path::absolute).transpose()?,
            keep_dead: self.keep_dead,
            keep_history: self.keep_history,
            keep_audit: self.keep_audit,
            advertise_addr: self.advertise_addr,
            log_format: self.log_format,
            log_level: self.log_level,
            migrate: !self.no_migrate.unwrap_or_default(),
            start_timeout: self.start_timeout.0,
        };
        Ok(config.validate()?)
    }
}

/// The names of a list, which is separated by commas.
fn names(list: &str) -> Vec<String> {
    list.split(',').map(|name| name.trim().to_owned()).collect()
}

/// What to run with, from flags, environment and file, and where each setting comes from.
///
/// # Errors
///
/// Whatever a daemon is not started with.
pub(super) fn resolve(mut layered: Layered<ServeArgs>) -> Result<(ServeConfig, Vec<Setting>), Error> {
    let url = database::resolve::<_, ServeArgs>(&mut layered)?;
    let mut settings = database::settings(&layered, url.as_ref().map(Source::current).as_ref())?;
    layered.refuse_beside_registries()?;
    let registries = layered.take_registries();
    let mut config = layered.into_args().into_config(url)?;
    config.registries = registries;
    settings.extend(config.registries.iter().flat_map(registry_settings));
    for registry in &config.registries {
        config.of_registry(registry).validate()?;
    }
    if let Some(files) = config.tls.clone() {
        tls::Credentials::load(files, Clock::new())?;
    }
    if let Some(files) = &config.access {
        files.check()?;
    }
    // What is computed where it is not given.
    let admin_socket =
        config.admin_socket_path().map_or_else(|| "none".to_owned(), |(path, _)| path.display().to_string());
    let computed = [
        ("data-dir", config.data_dir.display().to_string()),
        ("admin-socket", admin_socket),
        ("max-record-bytes", config.budget.bytes.to_string()),
    ];
    for (key, value) in computed {
        if let Some(setting) = settings.iter_mut().find(|setting| setting.key == key) {
            setting.value = Some(value);
        }
    }
    Ok((config, settings))
}

/// The settings of one registry of several, under `registry.NAME.KEY`.
fn registry_settings(registry: &RegistryConfig) -> Vec<Setting> {
    let url = registry.database_url.as_ref().map_or_else(|| "(private)".to_owned(), ToString::to_string);
    let mut all = vec![
        ("database-url", url),
        ("schema", registry.schema.clone()),
        ("grpc-addr", registry.grpc_addr.to_string()),
        ("http-addr", registry.http_addr.to_string()),
    ];
    all.extend(registry.advertise_addr.clone().map(|address| ("advertise-addr", address)));
    let (path, line) = registry.written.clone();
    let origin = Origin::File { path, line };
    let setting = |(key, value)| Setting {
        key: format!("registry.{}.{key}", registry.name),
        value: Some(value),
        origin: origin.clone(),
        is_secret: false,
    };
    all.into_iter().map(setting).collect()
}

fn data_dir() -> PathBuf {
    default_data_dir(geteuid().is_root(), std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME"))
}

/// The XDG rule, which ignores relative paths, except for root and for users without a home.
fn default_data_dir(is_root: bool, xdg: Option<OsString>, home: Option<OsString>) -> PathBuf {
    if is_root {
        return PathBuf::from(SYSTEM_DATA_DIR);
    }
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let share = xdg.and_then(absolute).or_else(|| Some(home.and_then(absolute)?.join(".local/share")));
    share.map_or_else(|| Path::new(SYSTEM_DATA_DIR).to_owned(), |share| share.join("musterd"))
}

pub(super) async fn run(args: Layered<ServeArgs>) -> Result<u8, Error> {
    let (config, _) = resolve(args)?;
    // Boxed: the future of a whole daemon is large, and moved more than once.
    Box::pin(daemon::run(config)).await?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::args::parse;

    fn config(words: &[&str]) -> Result<ServeConfig, Error> {
        // Nothing of this machine may configure it.
        let nothing: &[&str] = if words.contains(&"--config") { &[] } else { &["--config", "/dev/null"] };
        let words = ["serve"].iter().chain(nothing).chain(words);
        resolve(parse(words).expect("arguments")).map(|(config, _)| config)
    }

    #[test]
    fn the_data_directory_follows_xdg_except_for_root() {
        let dir = |root, xdg: Option<&str>, home: Option<&str>| {
            default_data_dir(root, xdg.map(OsString::from), home.map(OsString::from)).display().to_string()
        };
        assert_eq!(dir(true, Some("/x"), Some("/root")), "/var/lib/musterd");
        assert_eq!(dir(false, Some("/x"), Some("/home/a")), "/x/musterd");
        assert_eq!(dir(false, Some("relative"), Some("/home/a")), "/home/a/.local/share/musterd");
        assert_eq!(dir(false, None, Some("/home/a")), "/home/a/.local/share/musterd");
        assert_eq!(dir(false, None, None), "/var/lib/musterd");
    }

    #[test]
    fn flags_become_a_configuration() {
        let words = ["--keep-dead", "2h", "--no-migrate", "--data-dir", "here", "--database-url", "host=h"];
        let config = config(&[&words[..], &["--http-host", "musterd, *.example"]].concat()).expect("valid");
        assert_eq!(config.http_hosts, ["musterd", "*.example"]);
        assert_eq!(config.keep_dead, Duration::from_secs(7200));
        assert!(!config.migrate && config.data_dir.is_absolute());
        assert_eq!(config.database_url.map(|url| url.to_string()).as_deref(), Some("postgres://h:5432"));
    }

    #[test]
    fn unusable_setting_is_a_configuration_error() {
        for words in [
            ["--keep-dead", "1s"],
            ["--database-url", ""],
            ["--database-url", "postgres://h/d?sslmode=verify-ca"],
            ["--database-url", "postgres://h/d?sslmode=verify-ca&sslrootcert=/nonexistent"],
            ["--database-url-file", "/nonexistent"],
            ["--config", "/nonexistent"],
            ["--http-addr", "127.0.0.1:7717"],
            ["--http-host", "registry.example:7718"],
            ["--http-host", "registry.example,,musterd"],
            ["--log-level", "a=b=c"],
            ["--max-records", "0"],
            ["--max-record-bytes", "1023KiB"],
        ] {
            assert_eq!(config(&words).map(drop).map_err(|error| error.exit_code()), Err(exit::CONFIG), "{words:?}");
        }
        assert!(parse::<Layered<ServeArgs>>(["serve", "--grpc-addr", "localhost"]).is_err());
        assert!(parse::<Layered<ServeArgs>>(["serve", "--max-record-bytes", "1TB"]).is_err());
        assert_eq!(config(&["--max-record-bytes", "64MiB"]).expect("valid").budget.bytes, 64 << 20);
    }
}
