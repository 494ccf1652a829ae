//! The way to PostgreSQL, and what may keep us from going it.
//!
//! The pool, the feed and the migrations all begin here, with the same TLS ([`super::tls`]), so that a wrong password or
//! certificate reads the same wherever it is noticed: one line that says what is wrong, with what, and what to do about
//! it. A line names the host, the port, the database and the user, never the password.
//!
//! Errors differ in what the reader can do, hence the exit codes: 3 says try again later (nobody answers, or the
//! server is starting up), 78 says that the configuration must change first, 1 is for the rest.

use std::{fmt, io, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Config, Connection, Socket, config::TargetSessionAttrs, error::SqlState};

use super::tls::{self, Connector, Stream};
use crate::database_url::{DatabaseUrl, TlsOptions, UrlError, places};

/// How long an attempt to connect may take, greeting and authentication included, unless the URL sets its own
/// `connect_timeout`.
///
/// Long enough for a connection across regions, short enough that a daemon which is told a wrong address says so
/// before somebody looks for another cause.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a daemon's session may take to reach each address of the server.
const SESSION_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The oldest major version of the server that has everything the migrations use (`gen_random_uuid()` without an
/// extension came with 13).
pub const OLDEST_SERVER: u32 = 13;

/// Why there is no connection. Every text is one line and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be read, or contradicts itself.
    #[error("the database url {0}")]
    BadUrl(#[from] UrlError),
    /// Certificates that the URL names cannot be used.
    #[error("the database url and TLS: {0}")]
    Certificates(String),
    /// The server offers no TLS, or its certificate, or ours, is not accepted.
    #[error("postgresql at {target} and TLS: {reason}")]
    Tls {
        /// Where it was tried.
        target: Target,
        /// What is wrong, and the way out.
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
            Self::BadUrl(_)
            | Self::Certificates(_)
            | Self::Tls { .. }
            | Self::Authentication { .. }
            | Self::UnknownDatabase { .. }
            | Self::MissingRights { .. }
            | Self::UnsupportedServer { .. } => 78,
            Self::Refused { .. } => 1,
        }
    }

    /// Classifies what the driver said while connecting with `config` and `options`.
    fn classify(error: &tokio_postgres::Error, config: &Config, options: &TlsOptions) -> Self {
        let target = Target::of(config);
        let user = config.get_user().unwrap_or("the current user").to_owned();
        if let Some(refusal) = error.as_db_error() {
            return Self::refusal(refusal, target, user);
        }
        if let Some(reason) = tls::explain(error, options) {
            return Self::Tls { target, reason };
        }
        // The driver keeps its kinds of error to itself; its fixed words are all there is to go by.
        let words = chain(error);
        let authentication = |reason: &str| {
            let (target, user, reason) = (target.clone(), user.clone(), reason.to_owned());
            Self::Authentication { target, user, reason }
        };
        if words.contains("password missing") {
            return authentication("the server asks for a password and the database url has none");
        }
        if words.contains("server did not use channel binding") {
            return authentication(
                "channel_binding=require, but the server did not prove itself by it; it needs scram-sha-256 and TLS",
            );
        }
        if words.starts_with("authentication error") {
            return authentication("the server asks for a kind of authentication that is not supported");
        }
        Self::Unreachable { target, reason: words }
    }

    /// Classifies what the server said.
    fn refusal(refusal: &tokio_postgres::error::DbError, target: Target, user: String) -> Self {
        let reason = refusal.message().replace('\n', " ");
        match *refusal.code() {
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
        }
    }
}

/// Where a connection goes, for people: hosts, ports and database, without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(String);

impl Target {
    /// Describes where `config` leads.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let database = config.get_dbname().or_else(|| config.get_user()).unwrap_or_default();
        Self(format!("{}/{database}", places(config)))
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

/// A PostgreSQL as a database URL names it, and how we connect to it.
#[derive(Clone, Debug)]
pub struct Server {
    config: Config,
    tls: Connector,
}

impl Server {
    /// Reads a database URL and adds what we want of every connection: a name by which the server's operator finds us
    /// (`application_name` `musterd`), and a limit to waiting. What the URL sets itself stays.
    ///
    /// # Errors
    ///
    /// [`ConnectError::BadUrl`].
    pub fn parse(url: &str) -> Result<Self, ConnectError> {
        let url = DatabaseUrl::parse(url)?;
        let mut config = url.config().clone();
        if config.get_application_name().is_none() {
            config.application_name("musterd");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        Ok(Self { config, tls: Connector::new(url.tls().clone()) })
    }

    /// For the sessions of a daemon: a dead peer is noticed soon, and a read-only standby is passed over.
    #[must_use]
    pub fn for_sessions(mut self) -> Self {
        if self.config.get_target_session_attrs() == TargetSessionAttrs::Any {
            self.config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        self.config
            .connect_timeout(SESSION_CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(10));
        self
    }

    /// Looks at the certificates that the URL names, without connecting.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Certificates`].
    pub fn check(&self) -> Result<(), ConnectError> {
        self.tls.check().map_err(|error| ConnectError::Certificates(error.to_string()))
    }

    /// Connects and authenticates within `limit`.
    pub(super) async fn open(&self, limit: Duration) -> Result<(Client, Connection<Socket, Stream>), ConnectError> {
        // The driver's own limit covers the TCP handshake of each address only; a server that accepts and then says
        // nothing would hold us for ever.
        match timeout(limit, self.config.connect(self.tls.clone())).await {
            Ok(outcome) => outcome.map_err(|error| self.explain(&error)),
            Err(_) => {
                let reason = format!("no answer within {} s", limit.as_secs());
                Err(ConnectError::Unreachable { target: Target::of(&self.config), reason })
            }
        }
    }

    /// What makes the connections of a pool.
    pub(super) fn manager(&self, config: ManagerConfig) -> Manager {
        Manager::from_config(self.config.clone(), self.tls.clone(), config)
    }

    /// What an error of the driver while connecting means.
    pub(super) fn explain(&self, error: &tokio_postgres::Error) -> ConnectError {
        ConnectError::classify(error, &self.config, self.tls.options())
    }
}

/// Opens a connection to the database at `url` and checks that the server is new enough.
///
/// Returns the client and the task that drives it; see [`Driver`]. Takes at most [`CONNECT_TIMEOUT`].
///
/// # Errors
///
/// Any [`ConnectError`].
pub async fn connect(url: &str) -> Result<(Client, Driver), ConnectError> {
    let server = Server::parse(url)?;
    let limit = server.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    let (client, connection) = server.open(limit).await?;
    check_version(connection.parameter("server_version"), &server.config)?;
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

    fn config(url: &str) -> Config {
        Server::parse(url).unwrap().config
    }

    #[test]
    fn a_target_names_host_port_and_database_only() {
        for (url, target) in [
            ("postgresql://me:secret@db.example:6543/registry", "db.example:6543/registry"),
            ("host=/run/postgresql,::1 user=me password=secret", "/run/postgresql:5432,[::1]:5432/me"),
        ] {
            assert_eq!(Target::of(&config(url)).to_string(), target);
        }
    }

    #[test]
    fn a_server_below_13_is_refused() {
        let config = config("host=h user=u");
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
    fn an_unusable_url_is_a_matter_of_configuration() {
        let error = Server::parse("postgres://u:secret@h/d?sslmode=verify-ca").unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn what_the_url_says_of_sessions_stays() {
        let url = "postgres://u@h/d?application_name=mine&target_session_attrs=read-only";
        let config = Server::parse(url).unwrap().for_sessions().config;
        assert_eq!(config.get_application_name(), Some("mine"));
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadOnly);
        let config = Server::parse("postgres://u@h/d").unwrap().for_sessions().config;
        assert_eq!(config.get_application_name(), Some("musterd"));
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }
}
