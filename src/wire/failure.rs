//! Everything a call can be refused for, and its one translation into a gRPC status.
//!
//! The reasons are the closed list of `proto/muster/v1/error.proto`. A status carries an `ErrorInfo` with the reason,
//! a `BadRequest` for bad input, and a `RetryInfo` where trying again helps.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::bounds::{REQUEST_MAX_BYTES, STREAMS_MAX};
use crate::{
    access::{Denied, Refused},
    model::{Epoch, InstanceStatus, InvalidInput, LeaseId, budget::Full},
    proto::v1::ErrorReason,
    registry,
    rights::quota::Exceeded,
};

/// The part of a text from outside that an error repeats: it must fit into what a client takes for the end of a call.
fn shortened(text: &str) -> String {
    text.escape_debug().take(200).collect()
}

/// Domain of all reasons.
pub const DOMAIN: &str = "musterd";

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Fields that cannot be accepted; at least one.
    Invalid(Vec<InvalidInput>),
    /// No such instance.
    UnknownInstance,
    /// No such lease.
    UnknownLease(LeaseId),
    /// No instance of this name is on record.
    UnknownLogicalId(String),
    /// None of so many instances of this name is alive.
    NoLiveInstance(String, usize),
    /// The lease has ended.
    LeaseExpired,
    /// A newer lease took its place.
    LeaseReplaced,
    /// Not the current epoch; with that one.
    EpochFenced(Epoch),
    /// Another epoch than the expected one is current.
    EpochMismatch(Option<Epoch>),
    /// The new epoch was in use before.
    EpochReused,
    /// A daemon rotated the epoch less than 10 s ago; for so long no other does.
    RotatedTooSoon(Duration),
    /// From this status the one asked for cannot be reached.
    InvalidTransition(InstanceStatus),
    /// A live lease of the instance id has another owner, or another address.
    InstanceIdTaken,
    /// Beats cannot be saved in time.
    BeatsNotSaved,
    /// The daemon has not loaded the registry, or not seen the revision asked for.
    NotYetSeen,
    /// No more watchers are admitted.
    TooManyWatchers,
    /// A watcher fell behind the changes.
    WatcherTooSlow,
    /// The write side has no decision.
    Write(registry::Error),
    /// The connection has as many streams as it may have open.
    TooManyStreams,
    /// A request of more bytes than a request may have.
    RequestTooLarge,
    /// No such method, by its path.
    UnknownMethod(String),
    /// No such service or symbol; with what the standard service that was asked said.
    UnknownService(String),
    /// The request is compressed; with what the transport said.
    Compressed(String),
    /// The request is no message of its method; with what the transport said.
    Malformed(String),
    /// No answer in this time.
    DeadlineExceeded(Duration),
    /// The caller is not known.
    Refused(Refused),
    /// The caller has no right to it.
    Denied(Denied),
    /// The caller has used up a quota.
    QuotaExceeded(Exceeded),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<Exceeded> for Failure {
    fn from(exceeded: Exceeded) -> Self {
        Self::QuotaExceeded(exceeded)
    }
}

impl From<InvalidInput> for Failure {
    fn from(invalid: InvalidInput) -> Self {
        Self::Invalid(vec![invalid])
    }
}

impl From<registry::Error> for Failure {
    fn from(error: registry::Error) -> Self {
        Self::Write(error)
    }
}

impl Failure {
    /// A fault of the daemon.
    pub(crate) const INTERNAL: Self = Self::Write(registry::Error::Internal);

    fn code_and_reason(&self) -> (Code, ErrorReason) {
        use registry::Error as Write;
        match self {
            Self::Invalid(_) => (Code::InvalidArgument, ErrorReason::InvalidField),
            Self::UnknownInstance => (Code::NotFound, ErrorReason::UnknownInstance),
            Self::UnknownLease(_) => (Code::NotFound, ErrorReason::UnknownLease),
            Self::UnknownLogicalId(_) => (Code::NotFound, ErrorReason::UnknownLogicalId),
            Self::NoLiveInstance(..) => (Code::NotFound, ErrorReason::NoLiveInstance),
            Self::LeaseExpired => (Code::FailedPrecondition, ErrorReason::LeaseExpired),
            Self::LeaseReplaced => (Code::FailedPrecondition, ErrorReason::LeaseReplaced),
            Self::EpochFenced(_) => (Code::FailedPrecondition, ErrorReason::EpochFenced),
            Self::EpochMismatch(_) => (Code::FailedPrecondition, ErrorReason::EpochMismatch),
            Self::EpochReused => (Code::FailedPrecondition, ErrorReason::EpochReused),
            Self::InvalidTransition(_) => (Code::FailedPrecondition, ErrorReason::InvalidTransition),
            Self::InstanceIdTaken => (Code::AlreadyExists, ErrorReason::InstanceIdTaken),
            Self::BeatsNotSaved => (Code::Unavailable, ErrorReason::BeatsNotSaved),
            Self::NotYetSeen => (Code::Unavailable, ErrorReason::NotYetSeen),
            Self::TooManyWatchers | Self::WatcherTooSlow | Self::Write(Write::Overloaded) => {
                (Code::ResourceExhausted, ErrorReason::Overloaded)
            }
            Self::Write(Write::Full(_)) => (Code::ResourceExhausted, ErrorReason::RegistryFull),
            Self::Write(Write::Unavailable | Write::SchemaTooNew) => {
                (Code::Unavailable, ErrorReason::DatabaseUnavailable)
            }
            Self::Write(Write::MaybeApplied) => (Code::Unavailable, ErrorReason::MaybeApplied),
            Self::Write(Write::ShuttingDown) => (Code::Unavailable, ErrorReason::ShuttingDown),
            Self::Write(Write::Internal) => (Code::Internal, ErrorReason::Internal),
            Self::TooManyStreams => (Code::ResourceExhausted, ErrorReason::TooManyStreams),
            Self::RequestTooLarge => (Code::OutOfRange, ErrorReason::RequestTooLarge),
            Self::UnknownMethod(_) => (Code::Unimplemented, ErrorReason::UnknownMethod),
            Self::UnknownService(_) => (Code::NotFound, ErrorReason::UnknownMethod),
            Self::Compressed(_) => (Code::Unimplemented, ErrorReason::UnsupportedCompression),
            Self::Malformed(_) => (Code::InvalidArgument, ErrorReason::MalformedRequest),
            Self::DeadlineExceeded(_) => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded),
            Self::Refused(Refused::Unauthenticated(_)) => (Code::Unauthenticated, ErrorReason::Unauthenticated),
            Self::Refused(Refused::CredentialExpired { .. }) => (Code::Unauthenticated, ErrorReason::CredentialExpired),
            Self::Refused(Refused::TwoIdentities { .. }) => (Code::Unauthenticated, ErrorReason::TwoIdentities),
            Self::Refused(Refused::NotReady(_)) => (Code::Unavailable, ErrorReason::NotYetSeen),
            Self::Refused(Refused::TooManyFailures(_)) => (Code::ResourceExhausted, ErrorReason::Overloaded),
            Self::Denied(_) => (Code::PermissionDenied, ErrorReason::PermissionDenied),
            Self::QuotaExceeded(_) | Self::RotatedTooSoon(_) | Self::Write(Write::OwnerFull(_)) => {
                (Code::ResourceExhausted, ErrorReason::QuotaExceeded)
            }
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Invalid(violations) => {
                let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
                violations.join("; ")
            }
            Self::UnknownInstance => "no such instance is on record; register it".into(),
            Self::UnknownLease(lease_id) => format!("lease {lease_id} is not on record; register again"),
            Self::UnknownLogicalId(name) => format!("no instance of `{}` is on record", name.escape_debug()),
            Self::NoLiveInstance(name, 1) => {
                format!("`{}` has no live instance; the one on record is not alive", name.escape_debug())
            }
            Self::NoLiveInstance(name, count) => {
                format!("`{}` has no live instance; none of {count} on record is alive", name.escape_debug())
            }
            Self::LeaseExpired => "the lease has ended, which is final; register again to get a new one".into(),
            Self::LeaseReplaced => "a newer registration of this instance id has taken the lease's place".into(),
            Self::EpochFenced(epoch) => {
                format!("that epoch is over; the current one is {} (number {})", epoch.id, epoch.number)
            }
            Self::EpochMismatch(Some(epoch)) => {
                format!("the current epoch is {} (number {}), not the expected one", epoch.id, epoch.number)
            }
            Self::EpochMismatch(None) => "there is no epoch yet".into(),
            Self::EpochReused => "the new epoch was in use before; take a fresh UUID".into(),
            Self::InvalidTransition(from) => format!(
                "an instance that is {} cannot change to that; allowed are starting to alive, alive to draining and \
                 back, anything to dead",
                from.as_str()
            ),
            // Not which node, address or process: the caller may be a stranger.
            Self::InstanceIdTaken => "a live lease of this instance id has another owner, logical id, node, pid or \
                address; end that lease first (Deregister), or register under a new instance id"
                .into(),
            Self::BeatsNotSaved => "beats cannot be saved in time; beat at another daemon".into(),
            Self::NotYetSeen => "the daemon has not seen that revision yet".into(),
            Self::TooManyWatchers => "this daemon has as many watchers as it admits; watch at another daemon".into(),
            Self::WatcherTooSlow => "the watcher fell behind the changes; resume after the last revision seen".into(),
            Self::Write(registry::Error::Full(full)) => full_text(*full),
            Self::Write(error) => error.to_string(),
            Self::TooManyStreams => format!(
                "this connection has {STREAMS_MAX} streams open, which is the limit; watch a prefix on one stream, or \
                 open another connection"
            ),
            Self::RequestTooLarge => {
                format!("the request has more than {REQUEST_MAX_BYTES} bytes; split it into smaller ones")
            }
            Self::UnknownMethod(path) => format!(
                "this daemon (version {}) has no method `{}`; list its methods with server reflection",
                env!("CARGO_PKG_VERSION"),
                shortened(path)
            ),
            Self::UnknownService(said) => {
                format!("{}; list the services with server reflection", shortened(said))
            }
            Self::Compressed(said) => format!("{}; send requests uncompressed", shortened(said)),
            Self::Malformed(said) => format!(
                "the request is no message of this method ({}); compare the client's .proto files with the daemon's",
                shortened(said)
            ),
            Self::DeadlineExceeded(limit) => format!(
                "no answer within {}; a change may have been applied, so repeat the call, which takes effect once",
                humantime::format_duration(*limit)
            ),
            Self::Refused(refused) => refused.to_string(),
            Self::Denied(denied) => denied.to_string(),
            Self::QuotaExceeded(exceeded) => exceeded.to_string(),
            Self::RotatedTooSoon(after) => rotated_text(*after),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let pairs: Vec<(&str, String)> = match self {
            Self::EpochFenced(epoch) | Self::EpochMismatch(Some(epoch)) => {
                vec![("currentEpoch", epoch.id.to_string()), ("currentEpochNumber", epoch.number.to_string())]
            }
            Self::InvalidTransition(from) => vec![("status", from.as_str().to_owned())],
            Self::Write(registry::Error::Full(full)) => vec![
                ("unit", full.unit.as_str().to_owned()),
                ("limit", full.limit.to_string()),
                ("scope", if full.of_address { "address" } else { "registry" }.to_owned()),
            ],
            Self::RotatedTooSoon(_) => vec![("unit", "rotations".to_owned()), ("limit", "1".to_owned())],
            Self::QuotaExceeded(exceeded) => vec![
                ("identity", exceeded.identity.to_string()),
                ("unit", exceeded.unit.key().to_owned()),
                ("limit", exceeded.limit.to_string()),
            ],
            Self::Denied(Denied { identity, verb, name, .. }) => {
                vec![("identity", identity.to_string()), ("verb", verb.to_string()), ("logicalId", name.clone())]
            }
            _ => Vec::new(),
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// After how long trying again may help; `None` if it does not.
    fn retry_after(&self) -> Option<Duration> {
        use registry::Error as Write;
        match self {
            Self::Write(Write::Overloaded | Write::ShuttingDown | Write::SchemaTooNew)
            | Self::BeatsNotSaved
            | Self::WatcherTooSlow => Some(Duration::from_millis(200)),
            Self::TooManyWatchers | Self::TooManyStreams => Some(Duration::from_secs(5)),
            Self::Write(Write::Unavailable | Write::MaybeApplied) => Some(Duration::from_millis(500)),
            Self::NotYetSeen | Self::Refused(Refused::NotReady(_)) => Some(Duration::from_millis(500)),
            Self::Refused(Refused::TooManyFailures(_)) => Some(Duration::from_secs(1)),
            // Room comes with the purge of dead records, or from an operator.
            Self::QuotaExceeded(exceeded) => Some(exceeded.retry_after),
            Self::RotatedTooSoon(after) => Some(*after),
            Self::Write(Write::Full(_)) => Some(Duration::from_secs(30)),
            _ => None,
        }
    }
}

/// What a registration is told for which the budget has no room.
fn full_text(full: Full) -> String {
    let Full { unit, limit, of_address } = full;
    let (unit, setting) = (unit.noun(), unit.setting());
    let what = if of_address {
        format!("this address has its share of the {limit} {unit} that the registry may have")
    } else {
        format!("the registry has the {limit} {unit} that it may have")
    };
    format!("{what}; dead records count until they are purged (--keep-dead): wait for that, or raise {setting}")
}

/// What a rotation is told that follows another one too soon.
fn rotated_text(after: Duration) -> String {
    let after = after.as_secs_f64();
    format!(
        "the epoch was rotated less than 10 s ago, and each rotation ends all leases; try again in {after:.1} s, or set \
         force (musterd epoch rotate --force)"
    )
}

/// The reason of a refusal that was made of a [`Failure`]; else the name of its code.
pub(crate) fn reason_of(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let (code, reason) = failure.code_and_reason();
        let reason = reason.as_str_name().trim_start_matches("ERROR_REASON_");
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, failure.metadata());
        if let Some(after) = failure.retry_after() {
            details.set_retry_info(Some(after));
        }
        if let Failure::Invalid(violations) = &failure {
            for violation in violations {
                details.add_bad_request_violation(&violation.field, &violation.problem);
            }
        }
        Self::with_error_details(code, failure.message(), details)
    }
}
