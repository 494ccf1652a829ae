//! What can go wrong, in a form that a program can act on.

use std::{error::Error as StdError, fmt, io, time::Duration};

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    address::{Address, AddressError},
    reason::{Kind, Reason},
};

/// Domain of the reasons that daemons give.
const DOMAIN: &str = "musterd";

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
#[error("{text}{at}", text = self.text(), at = At(daemon.as_deref()))]
pub struct Error {
    kind: Kind,
    reason: Reason,
    message: String,
    daemon: Option<String>,
    retry_after: Option<Duration>,
    violations: Vec<Violation>,
    is_refused: bool,
    may_be_applied: bool,
}

struct At<'a>(Option<&'a str>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |daemon| write!(f, ", from the daemon at {daemon}"))
    }
}

impl Error {
    /// An error as a call would return it: for stand-ins of a registry in the tests of an application.
    #[must_use]
    pub fn new(kind: Kind, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind,
            reason,
            message: message.into(),
            daemon: None,
            retry_after: None,
            violations: Vec::new(),
            is_refused: false,
            may_be_applied: matches!(kind, Kind::Silent | Kind::Broken) || reason == Reason::MaybeApplied,
        }
    }

    /// The same error, with one more field that is not accepted.
    #[must_use]
    pub fn with_violation(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.violations.push(Violation { field: field.into(), description: description.into() });
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Why.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// What failed, for people, without the reason and without the daemon.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The message, and the reason if a daemon gave one.
    #[must_use]
    pub fn text(&self) -> String {
        match self.reason {
            Reason::Unavailable | Reason::Other => self.message.clone(),
            reason => format!("{} ({})", self.message, reason.name()),
        }
    }

    /// Whether the same call may succeed later, or at another daemon. The client has tried as its settings say.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.kind.is_transport() || matches!(self.kind, Kind::Unavailable)
    }

    /// Whether a change may have been applied although the call failed. Repeating it is safe: it takes effect once.
    #[must_use]
    pub const fn may_be_applied(&self) -> bool {
        self.may_be_applied
    }

    /// Whether nothing listens at the address. A daemon that was just started may listen a moment later.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.is_refused
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

    /// The daemon that answered so, as `http://host:port`; all of them, separated by commas, if none could be reached.
    #[must_use]
    pub fn daemon(&self) -> Option<&str> {
        self.daemon.as_deref()
    }

    /// An argument that this client does not accept.
    pub(crate) fn invalid(field: &str, description: impl Into<String>) -> Self {
        let description = description.into();
        let message = format!("{field}: {description}");
        Self::new(Kind::Invalid, Reason::InvalidField, message).with_violation(field, description)
    }

    /// An address that this client cannot read.
    pub(crate) fn address(field: &str, error: &AddressError) -> Self {
        Self::invalid(field, error.to_string())
    }

    /// No connection could be made.
    pub(crate) fn unreachable(daemon: &Address, cause: &(dyn StdError + 'static)) -> Self {
        let is_refused = refuses(cause);
        let error = Self::new(Kind::Unreachable, Reason::Unavailable, causes(cause));
        Self { daemon: Some(daemon.to_string()), is_refused, ..error }
    }

    /// No answer came in this time.
    pub(crate) fn silent(daemon: &Address, limit: Duration) -> Self {
        let error = Self::new(Kind::Silent, Reason::Unavailable, format!("no answer within {limit:?}"));
        Self { daemon: Some(daemon.to_string()), ..error }
    }

    /// The connection to a daemon has ended.
    pub(crate) fn broken(daemon: &Address, message: &str) -> Self {
        Self { daemon: Some(daemon.to_string()), ..Self::new(Kind::Broken, Reason::Unavailable, message) }
    }

    /// Something in this process has ended, or its operating system refuses something.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, Reason::Unavailable, message)
    }

    /// An answer that the protocol does not allow.
    pub(crate) fn malformed(what: &str) -> Self {
        let text = format!("the daemon's answer has no valid {what}; client and daemon may be of different versions");
        Self::new(Kind::Failed, Reason::Other, text)
    }

    /// Reads what a daemon, or the transport, answered.
    pub(crate) fn from_status(daemon: &Address, status: &Status) -> Self {
        let details = status.get_error_details();
        let signature = details.error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason.as_str());
        let kind = kind(status, signature.is_some());
        let known = signature.map(Reason::from_name);
        let reason = known.unwrap_or(if kind.is_transport() { Reason::Unavailable } else { Reason::Other });
        let said = if status.message().is_empty() { status.code().description() } else { status.message() };
        let message = match signature {
            Some(name) if reason == Reason::Other => format!("{said} ({name})"),
            None if kind.is_transport() => StdError::source(status).map_or_else(|| said.to_owned(), causes),
            None => format!("{said} ({:?})", status.code()),
            Some(_) => said.to_owned(),
        };
        let error = Self::new(kind, reason, message);
        Self {
            daemon: Some(daemon.to_string()),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            violations: violations(&details),
            is_refused: kind == Kind::Unreachable && refuses(status),
            ..error
        }
    }

    /// The same error of a call that went to several daemons: `earlier` says whether an attempt before may have been
    /// applied.
    pub(crate) fn after(self, earlier: bool) -> Self {
        Self { may_be_applied: self.may_be_applied || earlier, ..self }
    }

    /// The failure to reach one of several daemons is that of all of them.
    pub(crate) fn at_all(self, daemons: String, within: Duration) -> Self {
        match self.kind {
            Kind::Silent => Self { daemon: Some(daemons), message: format!("no answer within {within:?}"), ..self },
            Kind::Unreachable => Self { daemon: Some(daemons), ..self },
            _ => self,
        }
    }

    /// Whether no daemon has decided anything.
    pub(crate) const fn is_transport(&self) -> bool {
        self.kind.is_transport()
    }
}

fn kind(status: &Status, is_signed: bool) -> Kind {
    match status.code() {
        _ if !is_signed && has_cause::<ConnectError>(status) => Kind::Unreachable,
        Code::DeadlineExceeded => Kind::Silent,
        _ if !is_signed && has_cause::<TimeoutExpired>(status) => Kind::Silent,
        // A connection that breaks under a stream has whatever code the layer below chose; only then is there a cause.
        _ if !is_signed && StdError::source(status).is_some() => Kind::Broken,
        Code::Unavailable | Code::Cancelled if !is_signed => Kind::Broken,
        Code::InvalidArgument => Kind::Invalid,
        Code::NotFound => Kind::NotFound,
        Code::FailedPrecondition => Kind::Precondition,
        Code::Unauthenticated => Kind::Unauthenticated,
        Code::PermissionDenied => Kind::Denied,
        Code::Unavailable | Code::ResourceExhausted => Kind::Unavailable,
        _ => Kind::Failed,
    }
}

fn violations(details: &ErrorDetails) -> Vec<Violation> {
    let Some(bad) = details.bad_request() else { return Vec::new() };
    let each = bad.field_violations.iter();
    each.map(|one| Violation { field: one.field.clone(), description: one.description.clone() }).collect()
}

/// An error and its causes.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

/// The error, or the cause of it, that is of this type.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

fn has_cause<E: StdError + 'static>(status: &Status) -> bool {
    StdError::source(status).is_some_and(|cause| find::<E>(cause).is_some())
}

fn refuses(error: &(dyn StdError + 'static)) -> bool {
    find::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// An error and its causes on one line, each once: many libraries repeat their cause in their own text.
fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let next = cause.to_string();
        if !text.ends_with(&next) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&next);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn daemon() -> Address {
        "a:1".parse().unwrap()
    }

    fn signed(code: Code, reason: &str) -> Error {
        let details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
        Error::from_status(&daemon(), &Status::with_error_details(code, "text", details))
    }

    #[test]
    fn every_reason_of_the_protocol_has_a_name_here() {
        for reason in (1..).map_while(|number| wire::ErrorReason::try_from(number).ok()) {
            let name = reason.as_str_name().trim_start_matches("ERROR_REASON_");
            assert_eq!(Reason::from_name(name).name(), name);
        }
    }

    #[test]
    fn malformed_address_names_its_field() {
        let error = Error::address("MUSTERD_ADDR", &"h:".parse::<Address>().unwrap_err());
        assert_eq!((error.violations()[0].field(), error.kind()), ("MUSTERD_ADDR", Kind::Invalid));
        assert!(error.message().starts_with("MUSTERD_ADDR: \"h:\" is no address; give host:port"), "{error}");
    }

    #[test]
    fn status_with_details_becomes_a_typed_error() {
        let mut details = ErrorDetails::with_error_info("OVERLOADED", DOMAIN, std::collections::HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        let error = Error::from_status(&daemon(), &status);
        assert_eq!((error.reason(), error.is_retryable()), (Reason::Overloaded, true));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(error.to_string(), "full (OVERLOADED), from the daemon at http://a:1");

        let details = ErrorDetails::with_bad_request_violation("ttl", "is 1 s; choose 2 s to 300 s");
        let error = Error::from_status(&daemon(), &Status::with_error_details(Code::InvalidArgument, "bad", details));
        assert_eq!((error.violations()[0].field(), error.is_retryable()), ("ttl", false));
    }

    #[test]
    fn each_refusal_of_a_daemon_has_its_kind() {
        for (code, reason, kind) in [
            (Code::NotFound, "UNKNOWN_LOGICAL_ID", Kind::NotFound),
            (Code::FailedPrecondition, "EPOCH_MISMATCH", Kind::Precondition),
            (Code::InvalidArgument, "INVALID_FIELD", Kind::Invalid),
            (Code::AlreadyExists, "INSTANCE_ID_TAKEN", Kind::Failed),
            (Code::Unavailable, "DATABASE_UNAVAILABLE", Kind::Unavailable),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", Kind::Silent),
            (Code::Internal, "INTERNAL", Kind::Failed),
        ] {
            assert_eq!(signed(code, reason).kind(), kind, "{reason}");
        }
        let newer = signed(Code::FailedPrecondition, "OF_A_NEWER_DAEMON");
        assert_eq!((newer.reason(), newer.text().as_str()), (Reason::Other, "text (OF_A_NEWER_DAEMON)"));
    }

    #[test]
    fn transport_failure_is_retryable_and_foreign_domain_is_not_believed() {
        let error = Error::from_status(&daemon(), &Status::unavailable("connection reset"));
        assert_eq!((error.reason(), error.kind(), error.is_retryable()), (Reason::Unavailable, Kind::Broken, true));
        let details = ErrorDetails::with_error_info("INVALID_FIELD", "elsewhere", std::collections::HashMap::new());
        let error = Error::from_status(&daemon(), &Status::with_error_details(Code::Unknown, "x", details));
        assert_eq!(
            (error.reason(), error.is_retryable(), error.text().as_str()),
            (Reason::Other, false, "x (Unknown)")
        );
    }

    #[test]
    fn refused_connection_is_distinguished_from_a_broken_one() {
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        let status = Status::from_error(Box::new(ConnectError(Box::new(refused()))));
        let error = Error::from_status(&daemon(), &status);
        assert_eq!((error.kind(), error.is_refused(), error.may_be_applied()), (Kind::Unreachable, true, false));
        let status = Status::from_error(Box::new(io::Error::other("reset")));
        let error = Error::from_status(&daemon(), &status);
        assert_eq!((error.kind(), error.is_refused(), error.may_be_applied()), (Kind::Broken, false, true));
    }

    #[test]
    fn unknown_outcome_of_an_earlier_attempt_is_not_forgotten() {
        let refused = signed(Code::Unavailable, "DATABASE_UNAVAILABLE");
        assert!(!refused.may_be_applied() && refused.after(true).may_be_applied());
        assert!(signed(Code::Unavailable, "MAYBE_APPLIED").may_be_applied());
        assert!(Error::silent(&daemon(), Duration::from_secs(5)).may_be_applied());
    }

    #[test]
    fn chain_of_causes_is_one_line_without_repetition() {
        let error = Error::unreachable(&daemon(), &io::Error::other("no route"));
        assert_eq!(error.message(), "no route");
        assert_eq!(Error::silent(&daemon(), Duration::from_millis(300)).message(), "no answer within 300ms");
        assert_eq!(Error::silent(&daemon(), Duration::from_secs(5)).message(), "no answer within 5s");
    }
}
