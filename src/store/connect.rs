//! One plain connection to PostgreSQL, and what may keep us from getting it.
//!
//! The pool, the feed and the migrations all begin here, so that a wrong password reads the same wherever it is
//! noticed: one line that says what is wrong, with what, and what to do about it. A line names the host, the port, the
//! database and the user, never the password, and never a text of the driver's that could quote a part of the URL:
//! a password with an unescaped `@` or `?` ends up in the most surprising places of a parser's message.
//!
//! Errors differ in what the reader can do, hence the exit codes: 3 says try again later (nobody answers, or the
//! server is starting up), 78 says that the configuration must change first, 1 is for the rest.

use std::{fmt, io, time::Duration};

use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, NoTls, config::Host, config::SslMode, error::SqlState};

/// How long an attempt to connect may take, greeting and authentication included, unless the URL sets its own
/// `connect_timeout`.
///
/// Long enough for a connection across regions, short enough that a daemon which is told a wrong address says so
/// before somebody looks for another cause.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The oldest major version of the server that has everything the migrations use (`gen_random_uuid()` without an
/// extension came with 13).
pub const OLDEST_SERVER: u32 = 13;

/// Why there is no connection. Every text is one line and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be read, or asks for what this build does not have.
    #[error(
        "the database url is not usable: {reason}; give postgresql://user:password@host:port/database, with special characters in the password percent-encoded"
    )]
    BadUrl {
        /// What is wrong with it, without quoting it.
        reason: String,
    },
    /// Nobody answers, or whoever answers takes no connections just now.
    #[error("cannot reach postgresql at {target}: {reason}; check the address, and that the server is running")]
    Unreachable {
        /// Where it was tried.
        target: Target,
        /// What the operating system or the server said.
        reason: String,
    },
    /// The server does not accept the user or the password.
    #[error(
        "postgresql at {target} does not let {user} in: {reason}; check user and password in the database url, and the server's pg_hba.conf"
    )]
    Authentication {
        /// Where it was tried.
        target: Target,
        /// The user it was tried as.
        user: String,
        /// What the server said.
        reason: String,
    },
    /// There is no such database.
    #[error(
        "postgresql at {target} has no such database; create it (createdb), or correct the name in the database url"
    )]
    UnknownDatabase {
        /// Where it was tried; names the database.
        target: Target,
    },
    /// The user may not connect to this database.
    #[error("{user} has no right to connect to {target}: {reason}; grant CONNECT on the database to it")]
    MissingRights {
        /// Where it was tried.
        target: Target,
        /// The user it was tried as.
        user: String,
        /// What the server said.
        reason: String,
    },
    /// The server is too old.
    #[error("postgresql at {target} is version {found}; version {OLDEST_SERVER} or newer is needed")]
    UnsupportedServer {
        /// Where it was tried.
        target: Target,
        /// The version it reports.
        found: String,
    },
    /// Anything else the server objects to.
    #[error("postgresql at {target} refused the connection: {reason}")]
    Refused {
        /// Where it was tried.
        target: Target,
        /// What the server said.
        reason: String,
    },
}

impl ConnectError {
    /// Returns the exit code for a command that ends with this error: 3 cannot reach, 78 bad configuration, 1 the rest.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 3,
            Self::BadUrl { .. }
            | Self::Authentication { .. }
            | Self::UnknownDatabase { .. }
            | Self::MissingRights { .. }
            | Self::UnsupportedServer { .. } => 78,
            Self::Refused { .. } => 1,
        }
    }

    /// Classifies what the driver said while connecting with `config`.
    #[must_use]
    pub fn classify(error: &tokio_postgres::Error, config: &Config) -> Self {
        let target = Target::of(config);
        let user = config.get_user().unwrap_or("the current user").to_owned();
        if let Some(refusal) = error.as_db_error() {
            let reason = refusal.message().to_owned();
            return match *refusal.code() {
                SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                    Self::Authentication { target, user, reason }
                }
                SqlState::INVALID_CATALOG_NAME => Self::UnknownDatabase { target },
                SqlState::INSUFFICIENT_PRIVILEGE => Self::MissingRights { target, user, reason },
                // Starting up, shutting down, out of connections: it will take us later.
                SqlState::CANNOT_CONNECT_NOW
                | SqlState::ADMIN_SHUTDOWN
                | SqlState::CRASH_SHUTDOWN
                | SqlState::TOO_MANY_CONNECTIONS => Self::Unreachable { target, reason },
                _ => Self::Refused { target, reason: format!("{reason} (SQLSTATE {})", refusal.code().code()) },
            };
        }
        // The driver keeps its kinds of error to itself; its fixed words are all there is to go by.
        let words = chain(error);
        if words.contains("password missing") {
            let reason = "the server asks for a password and the database url has none".to_owned();
            return Self::Authentication { target, user, reason };
        }
        if words.contains("TLS") || words.contains("tls") {
            return Self::bad_url("it asks for tls (sslmode=require), which this build does not have");
        }
        if words.starts_with("invalid configuration") {
            return Self::bad_url("it names no host, or as many ports as hosts it does not have");
        }
        if words.starts_with("authentication error") {
            let reason = "the server asks for a kind of authentication that is not supported".to_owned();
            return Self::Authentication { target, user, reason };
        }
        Self::Unreachable { target, reason: words }
    }

    fn bad_url(reason: &str) -> Self {
        Self::BadUrl { reason: reason.to_owned() }
    }
}

/// Where a connection goes, for people: hosts, ports and database, without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(String);

impl Target {
    /// Describes where `config` leads.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let ports = config.get_ports();
        let hosts: Vec<String> = config
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(index, host)| {
                let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
                match host {
                    Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                    Host::Tcp(name) => format!("{name}:{port}"),
                    #[cfg(unix)]
                    Host::Unix(path) => format!("{}:{port}", path.display()),
                }
            })
            .collect();
        let database = config.get_dbname().or_else(|| config.get_user()).unwrap_or_default();
        Self(format!("{}/{database}", hosts.join(",")))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The task that moves a connection's bytes. It ends by itself once the client is dropped, with the reason if the
/// connection broke before.
pub type Driver = JoinHandle<Result<(), tokio_postgres::Error>>;

/// Reads a database URL (or `key=value` pairs) and adds what we want of every connection: a name by which the server's
/// operator finds us (`application_name` `musterd`), and a limit to waiting. What the URL sets itself stays.
///
/// # Errors
///
/// [`ConnectError::BadUrl`] if it cannot be read or asks for TLS.
pub fn parse(url: &str) -> Result<Config, ConnectError> {
    let mut config: Config = url.parse().map_err(|error| {
        let words = chain(&error);
        // This one names the option and not its value; the others may quote any part of the url.
        match words.split_once("invalid value for option") {
            Some((_, option)) => ConnectError::BadUrl { reason: format!("invalid value for option{option}") },
            None => ConnectError::bad_url("it is not in the form of a url"),
        }
    })?;
    if config.get_ssl_mode() == SslMode::Require {
        return Err(ConnectError::bad_url("it asks for tls (sslmode=require), which this build does not have"));
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(ConnectError::bad_url("it names no host"));
    }
    // The rest of a password with a bare "@" in it, taken for a host or a database. It must not get into a message.
    let stray = |name: &str| name.contains('@');
    if config.get_dbname().is_some_and(stray)
        || config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if stray(name)))
    {
        return Err(ConnectError::bad_url("it has an @ too many"));
    }
    if config.get_application_name().is_none() {
        config.application_name("musterd");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    Ok(config)
}

/// Opens a connection to the database at `url`, without TLS, and checks that the server is new enough.
///
/// Returns the client and the task that drives it; see [`Driver`]. Takes at most [`CONNECT_TIMEOUT`].
///
/// # Errors
///
/// Any [`ConnectError`].
pub async fn connect(url: &str) -> Result<(Client, Driver), ConnectError> {
    let config = parse(url)?;
    let limit = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    // The driver's own limit covers the TCP handshake of each address only; a server that accepts and then says
    // nothing would hold us for ever.
    let (client, connection) = match timeout(limit, config.connect(NoTls)).await {
        Ok(outcome) => outcome.map_err(|error| ConnectError::classify(&error, &config))?,
        Err(_) => {
            let reason = format!("no answer within {} s", limit.as_secs());
            return Err(ConnectError::Unreachable { target: Target::of(&config), reason });
        }
    };
    check_version(connection.parameter("server_version"), &config)?;
    Ok((client, tokio::spawn(connection)))
}

/// Refuses a server below [`OLDEST_SERVER`]. The version comes with the greeting, as text such as `15.3 (Debian ...)`.
fn check_version(version: Option<&str>, config: &Config) -> Result<(), ConnectError> {
    let version = version.unwrap_or("unknown");
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(major) if major >= OLDEST_SERVER => Ok(()),
        _ => Err(ConnectError::UnsupportedServer { target: Target::of(config), found: version.to_owned() }),
    }
}

/// The words of an error and of its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = match next.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
            _ => next.to_string(),
        };
        if !words.ends_with(&text) {
            words = format!("{words}: {text}");
        }
        cause = next.source();
    }
    words.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_misread_url_is_quoted() {
        for url in [
            "postgres://u:s@ecret@h/db",
            "postgres://u:s@ecret@h:x/db",
            "postgres://u:pass@s/ecret@h/db",
            "postgres://u:pass@s?ecret@h/db",
            "user=u password=s ecret host=h",
            "user=u password='secret host=h",
            "secret",
            "postgres://u:secret@h:port/db",
        ] {
            let text = parse(url).unwrap_err().to_string();
            assert!(!text.contains("cret"), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_target_names_host_port_and_database_only() {
        let config = parse("postgresql://me:secret@db.example:6543/registry").unwrap();
        assert_eq!(Target::of(&config).to_string(), "db.example:6543/registry");
        let config = parse("host=/run/postgresql,::1 user=me password=secret").unwrap();
        assert_eq!(Target::of(&config).to_string(), "/run/postgresql:5432,[::1]:5432/me");
    }

    #[test]
    fn a_server_below_13_is_refused() {
        let config = parse("host=h user=u").unwrap();
        for old in ["12.20", "9.6.24", "unknown"] {
            let error = check_version(Some(old), &config).unwrap_err();
            assert!(error.to_string().contains(old), "{error}");
            assert_eq!(error.exit_code(), 78);
        }
        for supported in ["13.0", "15.3 (Debian 15.3-1)", "17beta1"] {
            check_version(Some(supported), &config).unwrap();
        }
    }

    #[test]
    fn tls_that_is_asked_for_is_not_silently_left_out() {
        let error = parse("postgresql://u@h/db?sslmode=require").unwrap_err();
        assert!(error.to_string().contains("tls"), "{error}");
        assert_eq!(error.exit_code(), 78);
    }
}
