//! What a daemon is told, as plain values that have been checked.
//!
//! Each setting has a flag, an environment variable and a key of the configuration file ([`mod@file`]), in this order of
//! precedence; `layered` puts them together. This file holds the result and the rules that need no operating
//! system to check. Everything below takes a [`ServeConfig`] and may rely on its promises: limits hold, the database
//! URL can be parsed. A rule that is broken is reported before anything has been started, in one line that names the
//! setting, the limit and the way out; the process then exits with 78 (`EX_CONFIG`), so that a supervisor can tell a
//! wrong setting from a crash.

mod error;
mod exposure;
pub mod file;
pub(crate) mod layered;
mod limits;
pub mod memory;
pub(crate) mod registries;
pub mod secret;
pub(crate) mod security;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::{
    error::ConfigError,
    exposure::Exposure,
    limits::{
        ADVERTISE_ADDR_MAX_BYTES, CONNECTIONS_PER_ADDRESS_MAX, HTTP_HOSTS_MAX, KEEP_AUDIT_MAX, KEEP_AUDIT_MIN,
        KEEP_DEAD_MAX, KEEP_DEAD_MIN, KEEP_HISTORY_MAX, MAX_RECORD_BYTES_MIN, MAX_RECORDS_MAX,
    },
    registries::RegistryConfig,
};
use crate::model::Budget;
pub use crate::{
    access::Files as AccessFiles,
    audit::Scope as AuditScope,
    database_url::{DatabaseUrl, Source},
    telemetry::LogFormat,
    tls::Files as TlsFiles,
};

/// What `musterd serve` runs with.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// The PostgreSQL that holds the registry. `None`: a private PostgreSQL under `data_dir`.
    ///
    /// Daemons with the same database are one cluster; a wrong database is another, empty registry.
    pub database_url: Option<Source>,
    /// The schema of the registry. `None`: where it is found, or where the search path leads.
    pub schema: Option<String>,
    /// The registries of a daemon that serves several: each with a database, a schema and addresses of its own. None: one
    /// registry, by the settings of the daemon.
    pub registries: Vec<RegistryConfig>,
    /// Where gRPC is served. Callers are not authenticated: at an address that other machines can reach, any client that
    /// can connect may register, rotate the epoch and deregister. A loopback address admits this machine only.
    pub grpc_addr: SocketAddr,
    /// Most gRPC connections of one address, 1 to 10,000; of IPv6, of one network of 64 bits. Too few: clients behind one
    /// address (a proxy, address translation) are refused. Too many: one client can take the places of all others.
    pub grpc_connections_per_address: usize,
    /// The most that the registry may take: records (1 to 100,000,000), the dead included, and their bytes in memory (1 MiB or
    /// more). Too little: registrations are refused. Too much: a client that registers without end fills the memory.
    pub budget: Budget,
    /// Where metrics and health are served. On a loopback address, Prometheus and probes of other machines fail.
    pub http_addr: SocketAddr,
    /// Names under which the HTTP port answers, besides IP addresses, `localhost`, the host of `advertise_addr` and the
    /// name of this machine: host names, `*.example.com` for all below one, `*` for any. A name that is missing is
    /// answered with 421; `*` lets any web page that an operator has open read the registry (DNS rebinding).
    pub http_hosts: Vec<String>,
    /// The files for TLS, with which both ports are served. `None`: neither is encrypted.
    pub tls: Option<TlsFiles>,
    /// The policy and the tokens. `None`: callers are not authenticated, and may do everything.
    pub access: Option<AccessFiles>,
    /// Whether an address that other machines can reach may be served without TLS: names, addresses and labels can be read
    /// on the network, and answers changed.
    pub insecure_no_tls: bool,
    /// Whether an address that other machines can reach may be served without authentication.
    pub insecure_no_auth: bool,
    /// Where the user of the daemon and root reach it without a credential. On a file system that other machines mount, or
    /// below a directory that other users may write to, the file can be replaced.
    pub admin_socket: AdminSocket,
    /// What the audit log records.
    pub audit: AuditScope,
    /// Absolute path of the file of the audit log. `None`: it goes to the log. On a full disk, events are dropped and counted.
    pub audit_file: Option<PathBuf>,
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
    /// For how long the record of an ended lease is kept, 1 minute to 365 days. Deaths that hooks still have to run for are
    /// kept for longer.
    pub keep_history: Duration,
    /// How long decisions are kept.
    pub keep_audit: Duration,
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
    /// How long the start waits for a database that is away. `None`: without limit. Too short: a fleet that starts
    /// together with its PostgreSQL ends and is started again, over and over.
    pub start_timeout: Option<Duration>,
}

/// Where the admin socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminSocket {
    /// Of this name in the data directory, as far as that is possible.
    InDataDir(PathBuf),
    /// At this absolute path. The daemon does not start without it.
    At(PathBuf),
    /// There is none.
    None,
}

impl Default for AdminSocket {
    fn default() -> Self {
        Self::InDataDir("admin.sock".into())
    }
}

impl AdminSocket {
    /// That of one registry of several, beside that of the daemon: `NAME-admin.sock`.
    fn of_registry(&self, name: &str) -> Self {
        let own = |path: &Path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(format!("{name}-{file}"))
        };
        match self {
            Self::InDataDir(path) => Self::InDataDir(own(path)),
            Self::At(path) => Self::At(own(path)),
            Self::None => Self::None,
        }
    }
}

impl ServeConfig {
    /// The settings of one registry of several: those of the daemon, with what is its own.
    #[must_use]
    pub fn of_registry(&self, registry: &RegistryConfig) -> Self {
        let RegistryConfig { name, database_url, schema, grpc_addr, http_addr, advertise_addr, .. } = registry.clone();
        let admin_socket = self.admin_socket.of_registry(&name);
        let (schema, registries) = (Some(schema), Vec::new());
        let count = u64::try_from(self.registries.len()).unwrap_or(u64::MAX).max(1);
        let Budget { records, bytes } = self.budget;
        let budget = Budget { records: (records / count).max(1), bytes: (bytes / count).max(MAX_RECORD_BYTES_MIN) };
        Self {
            database_url,
            schema,
            registries,
            grpc_addr,
            http_addr,
            advertise_addr,
            admin_socket,
            budget,
            ..self.clone()
        }
    }

    /// The path of the admin socket, and whether it must be there; `None`: there is none.
    #[must_use]
    pub fn admin_socket_path(&self) -> Option<(PathBuf, bool)> {
        match &self.admin_socket {
            AdminSocket::InDataDir(path) => Some((self.data_dir.join(path), false)),
            AdminSocket::At(path) => Some((path.clone(), true)),
            AdminSocket::None => None,
        }
    }

    /// The first port that other machines can reach: its flag and address.
    fn first_open(&self) -> Option<(&'static str, SocketAddr)> {
        exposure::first_open([("--grpc-addr", self.grpc_addr), ("--http-addr", self.http_addr)])
    }

    /// Whether other machines can reach the port of gRPC, and that of HTTP.
    #[must_use]
    pub fn on_network(&self) -> (bool, bool) {
        (exposure::is_open(self.grpc_addr), exposure::is_open(self.http_addr))
    }

    /// What is missing at the addresses that other machines can reach.
    #[must_use]
    pub fn exposure(&self) -> Exposure {
        if self.first_open().is_none() {
            return Exposure::default();
        }
        Exposure { without_tls: self.tls.is_none(), without_auth: self.access.is_none() }
    }

    /// Everything that is missing must be waived.
    fn check_exposure(&self) -> Result<(), ConfigError> {
        let exposure = self.exposure();
        let missing = Exposure {
            without_tls: exposure.without_tls && !self.insecure_no_tls,
            without_auth: exposure.without_auth && !self.insecure_no_auth,
        };
        match self.first_open().filter(|_| missing != Exposure::default()) {
            Some((flag, address)) => Err(ConfigError::Exposed { flag, address, missing }),
            None => Ok(()),
        }
    }

    /// Checks what a type alone cannot promise. Touches neither disk nor network.
    ///
    /// # Errors
    ///
    /// The first rule that is broken, in the order of [`ConfigError`].
    pub fn validate(self) -> Result<Self, ConfigError> {
        if self.http_hosts.len() > HTTP_HOSTS_MAX {
            return Err(ConfigError::HttpHosts(self.http_hosts.len()));
        }
        if let Some(name) = self.http_hosts.iter().find(|name| !is_host_pattern(name)) {
            return Err(ConfigError::HttpHost(name.clone()));
        }
        if !(KEEP_DEAD_MIN..=KEEP_DEAD_MAX).contains(&self.keep_dead) {
            return Err(ConfigError::KeepDead(self.keep_dead));
        }
        if !(KEEP_DEAD_MIN..=KEEP_HISTORY_MAX).contains(&self.keep_history) {
            return Err(ConfigError::KeepHistory(self.keep_history));
        }
        if !(KEEP_AUDIT_MIN..=KEEP_AUDIT_MAX).contains(&self.keep_audit) {
            return Err(ConfigError::KeepAudit(self.keep_audit));
        }
        if !(1..=CONNECTIONS_PER_ADDRESS_MAX).contains(&self.grpc_connections_per_address) {
            return Err(ConfigError::ConnectionsPerAddress(self.grpc_connections_per_address));
        }
        if !(1..=MAX_RECORDS_MAX).contains(&self.budget.records) {
            return Err(ConfigError::MaxRecords(self.budget.records));
        }
        if self.budget.bytes < MAX_RECORD_BYTES_MIN {
            return Err(ConfigError::MaxRecordBytes(self.budget.bytes));
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
        let has_certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if self.access.as_ref().is_some_and(|access| access.tokens.is_none()) && !has_certificates {
            return Err(ConfigError::NoCredentials);
        }
        self.check_exposure()?;
        Ok(self)
    }
}

/// A host name, `*.` and a host name, or `*`.
fn is_host_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text == "*" || name.len() <= 253 && name.split('.').all(is_label)
}

fn is_advertisable(addr: &str) -> bool {
    !addr.is_empty()
        && addr.len() <= ADVERTISE_ADDR_MAX_BYTES
        && !addr.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests;
