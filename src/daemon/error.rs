//! Why a daemon could not start, or had to end; and the exit code that says so.

use std::{io, net::SocketAddr};

use thiserror::Error;

use crate::{
    access, connections::admin::AdminSocketError, local, metrics, migrate, postgres::connect::ConnectError, store,
    telemetry, tls,
};

/// Why the daemon ended.
#[derive(Debug, Error)]
pub enum Error {
    /// Logs could not be set up.
    #[error("the log could not be set up")]
    Telemetry(#[from] telemetry::Error),
    /// Metrics could not be set up.
    #[error("the metrics could not be set up")]
    Metrics(#[from] metrics::Error),
    /// A file for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The policy or the tokens cannot be used.
    #[error(transparent)]
    Access(#[from] access::FileError),
    /// An address could not be listened on.
    #[error("cannot listen on {address}; is another musterd running? choose another --grpc-addr or --http-addr")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The admin socket could not be listened on.
    #[error(transparent)]
    AdminSocket(#[from] AdminSocketError),
    /// The private PostgreSQL could not be started.
    #[error(transparent)]
    Local(#[from] local::Error),
    /// The database could not be brought up to date.
    #[error(transparent)]
    Migrate(#[from] migrate::Error),
    /// The database could not be used.
    #[error("the database could not be prepared")]
    Database(#[source] store::Error),
    /// The operating system refused something.
    #[error("the operating system refused")]
    Io(#[from] io::Error),
    /// The daemon itself panicked, outside any of its tasks.
    #[error("the daemon panicked: {0}")]
    Panicked(String),
    /// A part without which the daemon cannot go on has ended.
    #[error("{0}")]
    Ended(String),
}

impl Error {
    /// The exit code of the process: 3 if the database cannot be reached, 78 for what only another configuration can
    /// fix, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Migrate(error) => error.exit_code(),
            Self::Database(store::Error::Unreachable(cause)) => {
                cause.downcast_ref::<ConnectError>().map_or(3, ConnectError::exit_code)
            }
            Self::Database(store::Error::Unanswered(_)) => 3,
            Self::Telemetry(telemetry::Error::Filter { .. } | telemetry::Error::AuditFile { .. })
            | Self::Local(_)
            | Self::Tls(_)
            | Self::Access(_) => 78,
            Self::AdminSocket(AdminSocketError::NotASocket(_) | AdminSocketError::Refused { .. }) => 78,
            Self::AdminSocket(AdminSocketError::InUse(_)) => 1,
            Self::Telemetry(_) | Self::Metrics(_) | Self::Bind { .. } | Self::Database(_) => 1,
            Self::Io(_) | Self::Panicked(_) | Self::Ended(_) => 1,
        }
    }
}
