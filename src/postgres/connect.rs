//! Why there is no session with PostgreSQL, in words for people.
//!
//! The pool, the feed and the migrations all connect through [`super::database`], with the same TLS ([`super::tls`]), so
//! that a wrong password or certificate reads the same wherever it is noticed: one line with what is wrong, the place,
//! and the fix. A line names the host, the port, the database and the user, never the password.
//!
//! Errors differ in what the reader can do, hence the exit codes: 3 is worth a retry (no answer, or the server is
//! starting up or in recovery), 78 needs another configuration first, 1 is for the rest.

use std::{fmt, io, time::Duration};

use tokio_postgres::{Config, error::SqlState};

use super::tls;
use crate::{
    database_url::{TlsOptions, UrlError, places},
    locate::LocateError,
};

/// How long an attempt to connect may take, greeting and authentication included, unless the URL sets its own
/// `connect_timeout`.
///
/// Long enough for a connection across regions, short enough that a daemon which is told a wrong address says so
/// before its operator looks for another cause.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// No server answers, or the server takes no connections just now.
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
    /// The database stores text in another encoding than UTF-8.
    #[error(
        "the database at {target} has the encoding {found}; the registry needs UTF8: create the database with \
         ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding {
        /// Where it was tried.
        target: Target,
        /// The encoding of the database.
        found: String,
    },
    /// The server is a standby, and the session needs one that takes changes.
    #[error(
        "postgresql at {target} is a standby (in recovery) and takes no changes; \
         wait for its promotion, or name the primary in the database url"
    )]
    NotPrimary {
        /// Where it was tried.
        target: Target,
    },
    /// A pooler gives each transaction another server process.
    #[error(
        "postgresql at {target} is behind a pooler in transaction or statement mode, which runs prepared statements of \
         other sessions and loses session settings; connect to PostgreSQL directly, or use session mode (PgBouncer: \
         pool_mode = session, server_reset_query = DISCARD ALL)"
    )]
    Pooled {
        /// Where it was tried.
        target: Target,
    },
    /// The database has an older timeline or a lower revision than this daemon has seen.
    #[error(
        "the database at {target} is behind: it is at revision {revision}, and this daemon has seen revision {seen}; \
         end the old primary, or let the address lead to the new one"
    )]
    Behind {
        /// Where it was tried.
        target: Target,
        /// Its revision.
        revision: u64,
        /// What this daemon has seen.
        seen: u64,
    },
    /// No schema can be chosen for the registry.
    #[error(transparent)]
    Registry(#[from] LocateError),
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
            Self::Unreachable { .. } | Self::NotPrimary { .. } | Self::Behind { .. } => 3,
            Self::BadUrl(_)
            | Self::Certificates(_)
            | Self::Tls { .. }
            | Self::Authentication { .. }
            | Self::UnknownDatabase { .. }
            | Self::MissingRights { .. }
            | Self::UnsupportedServer { .. }
            | Self::Encoding { .. }
            | Self::Pooled { .. }
            | Self::Registry(_) => 78,
            Self::Refused { .. } => 1,
        }
    }

    /// Whether the secrets that were tried may be outdated, so that reading them again may help.
    pub(crate) const fn may_be_outdated(&self) -> bool {
        match self {
            Self::Certificates(_)
            | Self::Tls { .. }
            | Self::Authentication { .. }
            | Self::UnknownDatabase { .. }
            | Self::MissingRights { .. } => true,
            // A host that is gone may have been replaced by another one in the file.
            Self::Unreachable { .. } | Self::NotPrimary { .. } | Self::Behind { .. } => true,
            Self::BadUrl(_)
            | Self::UnsupportedServer { .. }
            | Self::Encoding { .. }
            | Self::Pooled { .. }
            | Self::Registry(_)
            | Self::Refused { .. } => false,
        }
    }

    /// Classifies what the driver said while connecting with `config` and `options`.
    pub(crate) fn classify(error: &tokio_postgres::Error, config: &Config, options: &TlsOptions) -> Self {
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
    use crate::database_url::DatabaseUrl;

    fn config(url: &str) -> Config {
        DatabaseUrl::parse(url).unwrap().config().clone()
    }

    #[test]
    fn target_names_host_port_and_database_only() {
        for (url, target) in [
            ("postgresql://me:secret@db.example:6543/registry", "db.example:6543/registry"),
            ("host=/run/postgresql,::1 user=me password=secret", "/run/postgresql:5432,[::1]:5432/me"),
        ] {
            assert_eq!(Target::of(&config(url)).to_string(), target);
        }
    }

    #[test]
    fn unusable_url_is_a_configuration_error() {
        let url = DatabaseUrl::parse("postgres://u:secret@h/d?sslmode=verify-ca");
        let error = ConnectError::from(url.unwrap_err());
        assert_eq!(error.exit_code(), 78);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
