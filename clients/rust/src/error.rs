//! What can go wrong, in a form that a program can act on.

use std::{fmt, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Domain of the reasons that daemons give.
const DOMAIN: &str = "musterd";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a call failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
            /// No daemon could be reached, or none answered within the time limit.
            Unavailable,
            /// A reason that this version of the client does not know; the text of the error has it.
            Other,
        }

        impl Reason {
            fn from_name(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    _ => Self::Other,
                }
            }

            pub(crate) fn from_wire(reason: crate::wire::ErrorReason) -> Self {
                Self::from_name(reason.as_str_name().trim_start_matches("ERROR_REASON_"))
            }

            /// The name of the reason on the wire, for logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Unavailable => "UNAVAILABLE",
                    Self::Other => "OTHER",
                }
            }
        }
    };
}

reasons! {
    /// A field is missing, malformed or over its limit; see [`Error::violations`].
    InvalidField = "INVALID_FIELD",
    /// No instance with this id is on record.
    UnknownInstance = "UNKNOWN_INSTANCE",
    /// No such lease is on record.
    UnknownLease = "UNKNOWN_LEASE",
    /// No instance of this logical id is on record.
    UnknownLogicalId = "UNKNOWN_LOGICAL_ID",
    /// The logical id is known, but none of its instances is alive.
    NoLiveInstance = "NO_LIVE_INSTANCE",
    /// The lease has ended.
    LeaseExpired = "LEASE_EXPIRED",
    /// A newer registration of the same instance id has taken the place of the lease.
    LeaseReplaced = "LEASE_REPLACED",
    /// The epoch of the lease, or the one that was named, is not the current one.
    EpochFenced = "EPOCH_FENCED",
    /// The current epoch is not the expected one.
    EpochMismatch = "EPOCH_MISMATCH",
    /// The new epoch was in use before.
    EpochReused = "EPOCH_REUSED",
    /// This change of status is not allowed.
    InvalidTransition = "INVALID_TRANSITION",
    /// A live instance of another owner has this instance id.
    InstanceIdTaken = "INSTANCE_ID_TAKEN",
    /// The outcome is unknown; the change may have been applied. A retry is safe.
    MaybeApplied = "MAYBE_APPLIED",
    /// PostgreSQL cannot be reached; the change was not applied.
    DatabaseUnavailable = "DATABASE_UNAVAILABLE",
    /// The daemon could not save beats in time; another daemon should be asked.
    BeatsNotSaved = "BEATS_NOT_SAVED",
    /// The daemon has not loaded the registry yet, or not seen the revision that was asked for.
    NotYetSeen = "NOT_YET_SEEN",
    /// The daemon is shutting down.
    ShuttingDown = "SHUTTING_DOWN",
    /// Too many changes are queued, or too many streams are open. Nothing was applied.
    Overloaded = "OVERLOADED",
    /// A fault of the daemon or the database; the daemon's log has the cause.
    Internal = "INTERNAL",
    /// The request is larger than 1 MiB.
    RequestTooLarge = "REQUEST_TOO_LARGE",
    /// The answer has no room for this result of a batch.
    AnswerTooLarge = "ANSWER_TOO_LARGE",
    /// The daemon has no such method.
    UnknownMethod = "UNKNOWN_METHOD",
    /// The request is compressed.
    UnsupportedCompression = "UNSUPPORTED_COMPRESSION",
    /// The request is no message of its method.
    MalformedRequest = "MALFORMED_REQUEST",
    /// No answer in time; a change may have been applied. A retry is safe.
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    /// The connection has as many streams open as it may have.
    TooManyStreams = "TOO_MANY_STREAMS",
}

/// A field that a daemon or this client does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    field: String,
    description: String,
}

impl Violation {
    /// The field, as it is named in the protocol.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it, the limit and the fix.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}{at} ({reason})", reason = reason.name(), at = At(daemon.as_deref()))]
pub struct Error {
    reason: Reason,
    message: String,
    daemon: Option<String>,
    retry_after: Option<Duration>,
    violations: Vec<Violation>,
    is_retryable: bool,
}

struct At<'a>(Option<&'a str>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |daemon| write!(f, ", from the daemon at {daemon}"))
    }
}

impl Error {
    /// Why.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Whether the same call may succeed later, or at another daemon. The client has tried until the time limit.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.is_retryable
    }

    /// After how long a retry makes sense, if the daemon said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The fields at fault, for [`Reason::InvalidField`].
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The daemon that answered so, as `host:port`.
    #[must_use]
    pub fn daemon(&self) -> Option<&str> {
        self.daemon.as_deref()
    }

    /// An argument that this client does not accept.
    pub(crate) fn invalid(field: &str, description: impl Into<String>) -> Self {
        let description = description.into();
        Self {
            reason: Reason::InvalidField,
            message: format!("{field} {description}"),
            daemon: None,
            retry_after: None,
            violations: vec![Violation { field: field.to_owned(), description }],
            is_retryable: false,
        }
    }

    /// No daemon could be reached.
    pub(crate) fn unavailable(daemon: &str, message: impl Into<String>) -> Self {
        Self {
            reason: Reason::Unavailable,
            message: message.into(),
            daemon: Some(daemon.to_owned()),
            retry_after: None,
            violations: Vec::new(),
            is_retryable: true,
        }
    }

    /// An answer that the protocol does not allow.
    pub(crate) fn malformed(what: &str) -> Self {
        Self {
            reason: Reason::Internal,
            message: format!("the daemon's answer has no valid {what}; client and daemon may be of different versions"),
            daemon: None,
            retry_after: None,
            violations: Vec::new(),
            is_retryable: false,
        }
    }

    /// Reads what a daemon, or the transport, answered.
    pub(crate) fn from_status(daemon: &str, status: &Status) -> Self {
        let details = status.get_error_details();
        let named =
            details.error_info().filter(|info| info.domain == DOMAIN).map(|info| Reason::from_name(&info.reason));
        // A connection that breaks under a stream has whatever code the layer below chose; only then is there a cause.
        let broken = named.is_none() && std::error::Error::source(status).is_some();
        let transport = broken || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
        let reason = named.unwrap_or(if transport { Reason::Unavailable } else { Reason::Other });
        let violations = details.bad_request().map_or_else(Vec::new, |bad| {
            let violation = |violation: &tonic_types::FieldViolation| Violation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            };
            bad.field_violations.iter().map(violation).collect()
        });
        Self {
            reason,
            message: status.message().to_owned(),
            daemon: Some(daemon.to_owned()),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            violations,
            is_retryable: transport || reason == Reason::Overloaded,
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;
    use crate::wire;

    #[test]
    fn every_reason_of_the_protocol_has_a_name_here() {
        for reason in (1..).map_while(|number| wire::ErrorReason::try_from(number).ok()) {
            let name = reason.as_str_name().trim_start_matches("ERROR_REASON_");
            assert_eq!(Reason::from_name(name).name(), name);
        }
    }

    #[test]
    fn status_with_details_becomes_a_typed_error() {
        let mut details = ErrorDetails::with_error_info("OVERLOADED", DOMAIN, std::collections::HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(2)));
        let error = Error::from_status("a:1", &Status::with_error_details(Code::ResourceExhausted, "full", details));
        assert_eq!((error.reason(), error.is_retryable()), (Reason::Overloaded, true));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(error.to_string(), "full, from the daemon at a:1 (OVERLOADED)");

        let details = ErrorDetails::with_bad_request_violation("ttl", "is 1 s; choose 2 s to 300 s");
        let error = Error::from_status("a:1", &Status::with_error_details(Code::InvalidArgument, "bad", details));
        assert_eq!((error.violations()[0].field(), error.is_retryable()), ("ttl", false));
    }

    #[test]
    fn transport_failure_is_retryable_and_foreign_domain_is_not_believed() {
        let error = Error::from_status("a:1", &Status::unavailable("connection refused"));
        assert_eq!((error.reason(), error.is_retryable()), (Reason::Unavailable, true));
        let details = ErrorDetails::with_error_info("INVALID_FIELD", "elsewhere", std::collections::HashMap::new());
        let error = Error::from_status("a:1", &Status::with_error_details(Code::Unknown, "x", details));
        assert_eq!((error.reason(), error.is_retryable()), (Reason::Other, false));
    }
}
