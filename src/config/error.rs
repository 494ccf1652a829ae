//! Why a configuration was refused: one line each, which names the setting, the limit and the way out.

use std::{net::SocketAddr, time::Duration};

use super::{
    exposure::Exposure,
    file,
    limits::{ADVERTISE_ADDR_MAX_BYTES, CONNECTIONS_PER_ADDRESS_MAX, HTTP_HOSTS_MAX, MAX_RECORDS_MAX},
    secret,
};
use crate::database_url::UrlError;

/// Why a configuration was refused. Each text is one line and never contains a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The database URL cannot be used.
    #[error("--database-url: {0}")]
    DatabaseUrl(#[from] UrlError),
    /// The configuration file cannot be used.
    #[error(transparent)]
    File(#[from] file::FileError),
    /// The file of a secret cannot be used.
    #[error(transparent)]
    Secret(#[from] secret::SecretError),
    /// A port can be reached from other machines, and is not protected.
    #[error(
        "{flag} {address} can be reached from other machines without {}; bind 127.0.0.1, or {}, or accept the risk with {}",
        missing.missing(), missing.remedy(), missing.waivers()
    )]
    Exposed {
        /// The flag of the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What is missing and not waived.
        missing: Exposure,
    },
    /// A file for TLS is of no use without another one.
    #[error("{given} is given without {needed}; give both")]
    TlsWithout {
        /// The flag that is given.
        given: &'static str,
        /// The flag that it needs.
        needed: &'static str,
    },
    /// No caller could show what it is.
    #[error("--policy is given, and no caller can show what it is; give --tokens, or --tls-client-ca")]
    NoCredentials,
    /// A setting of the daemon that each registry has for itself.
    #[error("{0} is given beside [[registry]]; move it into the tables, of which each names its own")]
    BesideRegistries(String),
    /// A command that works on one registry was given several.
    #[error(
        "the configuration file has several registries; give --all where the command has it, or name one with --database-url \
         and its schema in the search path of the URL"
    )]
    SeveralRegistries,
    /// The same thing was said in two ways, in the same place.
    #[error("{first} and {second} are both given; leave one out")]
    Both {
        /// One of them, as it is written there.
        first: String,
        /// The other.
        second: String,
    },
    /// A name under which the HTTP port is to answer is none.
    #[error(
        "--http-host {0:?} is not a host name; give names such as registry.example, *.example.com or *, without scheme and port"
    )]
    HttpHost(String),
    /// Too many such names.
    #[error("--http-host has {0} names; give at most {HTTP_HOSTS_MAX}, or *.DOMAIN for all names below one")]
    HttpHosts(usize),
    /// Dead instances cannot be kept for so long or so short.
    #[error("--keep-dead {} is outside 1m to 30days", humantime::format_duration(*.0))]
    KeepDead(Duration),
    /// The record of an ended lease cannot be kept for so long or so short.
    #[error("--keep-history {} is outside 1m to 365days", humantime::format_duration(*.0))]
    KeepHistory(Duration),
    /// Decisions cannot be kept for so long or so short.
    #[error("--keep-audit {} is outside 7days to 3650days", humantime::format_duration(*.0))]
    KeepAudit(Duration),
    /// No connection at all, or more than there are.
    #[error("--grpc-connections-per-address {0} is outside 1 to {CONNECTIONS_PER_ADDRESS_MAX}")]
    ConnectionsPerAddress(usize),
    /// No record at all, or more than any machine holds.
    #[error("--max-records {0} is outside 1 to {MAX_RECORDS_MAX}")]
    MaxRecords(u64),
    /// Not enough for a few records with all they may have.
    #[error("--max-record-bytes {0} is below 1MiB")]
    MaxRecordBytes(u64),
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
