//! What a daemon is told, as plain values that have been checked.
//!
//! The command line and the environment are parsed in `cli::serve`; this file holds the result and the rules that
//! need no operating system to check. Everything below takes a [`ServeConfig`] and may rely on its promises: limits
//! hold, the database URL can be parsed and does not ask for what this version cannot do. A rule that is broken is
//! reported before anything has been started, in one line that names the flag, the limit and the way out; the
//! process then exits with 78 (`EX_CONFIG`), so that a supervisor can tell a wrong setting from a crash.
//!
//! There is no configuration file. Each setting has one flag and one environment variable, and the flag wins.

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    str::FromStr as _,
    time::Duration,
};

use tokio_postgres::config::{Host, SslMode, SslNegotiation};

pub use crate::telemetry::LogFormat;

/// The shortest time for which dead instances may be kept.
pub const KEEP_DEAD_MIN: Duration = Duration::from_secs(60);
/// The longest time for which dead instances may be kept: 30 days.
pub const KEEP_DEAD_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest advertised address, in bytes.
pub const ADVERTISE_ADDR_MAX_BYTES: usize = 253;

const NO_TLS: &str = "TLS to PostgreSQL is not supported by this version of musterd; \
    use a local TLS proxy or a trusted network, and remove the option (or say sslmode=disable)";

/// What `musterd serve` runs with.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// The PostgreSQL that holds the registry. `None`: a private PostgreSQL under `data_dir`.
    ///
    /// Daemons with the same database are one cluster; a wrong database is another, empty registry.
    pub database_url: Option<DatabaseUrl>,
    /// Where gRPC is served. The wire is neither encrypted nor authenticated: on an address that others can reach,
    /// everybody who reaches it may register, rotate the epoch and deregister. On a loopback address nobody else can.
    pub grpc_addr: SocketAddr,
    /// Where metrics and health are served. On a loopback address, Prometheus and probes of other machines fail.
    pub http_addr: SocketAddr,
    /// Absolute path of the directory of the private PostgreSQL; unused with `database_url`. On a volatile or slow
    /// disk the registry is volatile or slow.
    pub data_dir: PathBuf,
    /// Directory of the PostgreSQL server programs (`initdb`, `postgres`). `None`: they are searched for. Programs of
    /// another major version than the data directory's are refused.
    pub postgres_bin_dir: Option<PathBuf>,
    /// For how long dead instances are kept, 1 minute to 30 days. Too short: "why is it gone?" has no answer any more
    /// and a reader that was away for longer starts over. Too long: the table, its indexes and every full load grow
    /// with each instance that ever died.
    pub keep_dead: Duration,
    /// The address at which others reach this daemon, at most 253 bytes; shown to operators, never connected to.
    /// `None`: the gRPC address as bound, which is of no use to others where that is a wildcard.
    pub advertise_addr: Option<String>,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Filter of the log, for example `info,musterd::registry=debug`; checked to be a valid `EnvFilter`. Too little:
    /// deaths and rotations go by unseen. `debug` and below write for every call.
    pub log_level: String,
    /// Whether to migrate at start. `false`: refuse to start where a migration is pending, for operators who run
    /// `musterd migrate up` themselves, with other rights.
    pub migrate: bool,
}

/// Why a configuration was refused. Each text is one line and never contains a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The database URL cannot be used.
    #[error("--database-url: {0}")]
    DatabaseUrl(String),
    /// Dead instances cannot be kept for so long or so short.
    #[error("--keep-dead {} is outside 1m to 30days", humantime::format_duration(*.0))]
    KeepDead(Duration),
    /// The advertised address is empty, too long, or not printable.
    #[error("--advertise-addr needs 1 to {ADVERTISE_ADDR_MAX_BYTES} bytes without blanks or control characters")]
    AdvertiseAddr,
    /// The log filter cannot be parsed.
    #[error("--log-level {filter:?}: {cause}; use error, warn, info, debug, trace, or a list like info,musterd=debug")]
    LogLevel {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Both servers were given the same address.
    #[error("--grpc-addr and --http-addr are both {0}; give them different ports")]
    SameAddress(SocketAddr),
}

impl ServeConfig {
    /// Checks what a type alone cannot promise. Touches neither disk nor network.
    ///
    /// # Errors
    ///
    /// The first rule that is broken, in the order of [`ConfigError`].
    pub fn validate(self) -> Result<Self, ConfigError> {
        if !(KEEP_DEAD_MIN..=KEEP_DEAD_MAX).contains(&self.keep_dead) {
            return Err(ConfigError::KeepDead(self.keep_dead));
        }
        if self.advertise_addr.as_deref().is_some_and(|addr| !is_advertisable(addr)) {
            return Err(ConfigError::AdvertiseAddr);
        }
        if let Err(cause) = tracing_subscriber::EnvFilter::try_new(&self.log_level) {
            return Err(ConfigError::LogLevel { filter: self.log_level, cause: cause.to_string() });
        }
        // Port 0 asks for any free port, so two of them do not collide.
        if self.grpc_addr == self.http_addr && self.grpc_addr.port() != 0 {
            return Err(ConfigError::SameAddress(self.grpc_addr));
        }
        Ok(self)
    }
}

fn is_advertisable(addr: &str) -> bool {
    !addr.is_empty()
        && addr.len() <= ADVERTISE_ADDR_MAX_BYTES
        && !addr.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Where a PostgreSQL is and how to log in, as a URL (`postgres://user:password@host:5432/dbname`) or as libpq
/// keywords (`host=... user=...`). `Debug` and `Display` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    secret: String,
    redacted: String,
}

impl DatabaseUrl {
    /// Checks that the text can be parsed, names a host, and does not demand TLS. Does not connect.
    ///
    /// # Errors
    ///
    /// [`ConfigError::DatabaseUrl`] with the reason; never with a part of the text that may be the password.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        check(text).map_err(ConfigError::DatabaseUrl).map(|redacted| Self { secret: text.to_owned(), redacted })
    }

    /// The text with its password, for the one place that connects. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.secret
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({:?})", self.redacted)
    }
}

/// Returns the text without its password, or what is wrong with it.
fn check(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        // A secret that was not mounted must not silently become a second, private registry.
        return Err("is empty; leave it out to run a private PostgreSQL".to_owned());
    }
    if text.contains("://")
        && !text.starts_with("postgres://")
        && !text.starts_with("postgresql://")
        && !text.contains('=')
    {
        return Err("must begin with postgres:// or postgresql://".to_owned());
    }
    let config = tokio_postgres::Config::from_str(text).map_err(|error| explain(&error))?;
    if config.get_ssl_mode() == SslMode::Require || config.get_ssl_negotiation() == SslNegotiation::Direct {
        return Err(NO_TLS.to_owned());
    }
    let (hosts, addrs) = (config.get_hosts(), config.get_hostaddrs());
    if hosts.is_empty() && addrs.is_empty() {
        return Err("names no host; write postgres://user:password@host:5432/dbname".to_owned());
    }
    if hosts.iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
        return Err("has more than one '@'; write an '@' inside user or password as %40".to_owned());
    }
    Ok(redact(&config))
}

fn redact(config: &tokio_postgres::Config) -> String {
    let mut text = String::from("postgres://");
    if let Some(user) = config.get_user() {
        let _ = write!(text, "{user}@");
    }
    let hosts: Vec<String> = if config.get_hosts().is_empty() {
        config.get_hostaddrs().iter().map(ToString::to_string).collect()
    } else {
        config.get_hosts().iter().map(host_text).collect()
    };
    let ports = config.get_ports();
    for (i, host) in hosts.iter().enumerate() {
        // libpq's rule: one port serves all hosts, otherwise each has its own.
        let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
        let comma = if i == 0 { "" } else { "," };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let _ = write!(text, "{comma}{host}:{port}");
    }
    if let Some(dbname) = config.get_dbname() {
        let _ = write!(text, "/{dbname}");
    }
    text
}

fn host_text(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    }
}

/// Turns the parser's error into a line. Unknown options are not echoed unless they are names we know: in a text that
/// was quoted wrongly, "the option" may be a piece of the password.
fn explain(error: &tokio_postgres::Error) -> String {
    const TLS: [&str; 10] = [
        "`sslmode`",
        "`sslnegotiation`",
        "`sslrootcert`",
        "`sslcert`",
        "`sslkey`",
        "`sslcrl`",
        "`sslpassword`",
        "`sslsni`",
        "`ssl_min_protocol_version`",
        "`sslcrldir`",
    ];
    const KNOWN: [&str; 10] = [
        "passfile",
        "service",
        "gssencmode",
        "krbsrvname",
        "require_auth",
        "client_encoding",
        "fallback_application_name",
        "replication",
        "requirepeer",
        "requiressl",
    ];
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if TLS.iter().any(|option| cause.contains(option)) {
        return NO_TLS.to_owned();
    }
    if let Some(option) = KNOWN.iter().find(|option| cause.contains(&format!("`{option}`"))) {
        return format!("the option {option} is not supported; remove it");
    }
    if cause.starts_with("invalid value for option") {
        return cause;
    }
    if cause.contains("unknown option") {
        return "has an unknown option; is a special character in the password not percent-encoded?".to_owned();
    }
    "cannot be parsed; write postgres://user:password@host:5432/dbname, special characters percent-encoded".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        DatabaseUrl::parse(text).expect_err("should be refused").to_string()
    }

    #[test]
    fn a_database_url_never_shows_its_password() {
        for text in [
            "postgres://app:s3cret@db.example:6432/registry",
            "host=db.example port=6432 user=app password=s3cret dbname=registry",
        ] {
            let url = DatabaseUrl::parse(text).expect("valid");
            assert_eq!(url.to_string(), "postgres://app@db.example:6432/registry");
            assert!(!format!("{url:?}").contains("s3cret"));
            assert_eq!(url.expose(), text);
        }
    }

    #[test]
    fn several_hosts_and_ipv6_are_shown_with_their_ports() {
        let url = DatabaseUrl::parse("postgresql://u@a:1,b:2,[::1]:3/d").expect("valid");
        assert_eq!(url.to_string(), "postgres://u@a:1,b:2,[::1]:3/d");
    }

    #[test]
    fn a_demand_for_tls_is_refused_with_the_way_out() {
        for option in ["sslmode=require", "sslmode=verify-full", "sslmode=verify-ca", "sslrootcert=/ca.pem"] {
            assert!(refused(&format!("postgres://u@h/d?{option}")).contains("local TLS proxy"), "{option}");
        }
        assert!(DatabaseUrl::parse("postgres://u@h/d?sslmode=prefer").is_ok());
        assert!(DatabaseUrl::parse("postgres://u@h/d?sslmode=disable").is_ok());
    }

    #[test]
    fn bad_urls_are_refused_in_one_line_without_the_password() {
        for text in [
            "",
            " ",
            "mysql://u:s3cret@h/d",
            "postgres://u:s3cret",
            "postgres://u:a@s3cret@h/d",
            "host=h password=a s3cret=1",
            "postgres://",
            "s3cret",
            "postgres://u:s3cret@h:99999/d",
        ] {
            let line = refused(text);
            assert!(!line.contains("s3cret") && !line.contains('\n'), "{text:?}: {line}");
        }
    }

    fn config() -> ServeConfig {
        ServeConfig {
            database_url: None,
            grpc_addr: SocketAddr::from(([127, 0, 0, 1], 7717)),
            http_addr: SocketAddr::from(([127, 0, 0, 1], 7718)),
            data_dir: PathBuf::from("/var/lib/musterd"),
            postgres_bin_dir: None,
            keep_dead: Duration::from_secs(86_400),
            advertise_addr: None,
            log_format: LogFormat::Auto,
            log_level: "info".to_owned(),
            migrate: true,
        }
    }

    #[test]
    fn limits_are_enforced_at_both_ends() {
        assert!(config().validate().is_ok());
        for (seconds, ok) in [(59, false), (60, true), (2_592_000, true), (2_592_001, false)] {
            let config = ServeConfig { keep_dead: Duration::from_secs(seconds), ..config() };
            assert_eq!(config.validate().is_ok(), ok, "{seconds}");
        }
        for (addr, ok) in [("", false), ("a b", false), ("h:1", true)] {
            let config = ServeConfig { advertise_addr: Some(addr.to_owned()), ..config() };
            assert_eq!(config.validate().is_ok(), ok, "{addr:?}");
        }
        let long = ServeConfig { advertise_addr: Some("a".repeat(254)), ..config() };
        assert_eq!(long.validate().err(), Some(ConfigError::AdvertiseAddr));
        let same = ServeConfig { http_addr: config().grpc_addr, ..config() };
        assert!(matches!(same.validate(), Err(ConfigError::SameAddress(_))));
        let filter = ServeConfig { log_level: "info,a=b=c".to_owned(), ..config() };
        assert!(matches!(filter.validate(), Err(ConfigError::LogLevel { .. })));
    }
}
