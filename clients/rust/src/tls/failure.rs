//! Why a connection with TLS was not made.

/// Why a connection with TLS was not made: one line with the cause and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsFailure(pub(super) String);
