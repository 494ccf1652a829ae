//! The reasons for which a call fails: the closed list of the protocol, and two of this client's own. And their kinds.

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
            pub(crate) fn from_name(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    _ => Self::Other,
                }
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
    /// A field is missing, malformed or over its limit; see [`Error::violations`](crate::Error::violations).
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
    /// The registry has as many records as it may have, or the address of the caller has its share of them.
    RegistryFull = "REGISTRY_FULL",
    /// The daemon has a policy, and the call has no credential, or one that it does not know.
    Unauthenticated = "UNAUTHENTICATED",
    /// The credential has expired.
    CredentialExpired = "CREDENTIAL_EXPIRED",
    /// The connection has a client certificate and the call a token.
    TwoIdentities = "TWO_IDENTITIES",
    /// The caller has no right to this; the text says which one it needs.
    PermissionDenied = "PERMISSION_DENIED",
    /// The identity of this client has used up one of its quotas.
    QuotaExceeded = "QUOTA_EXCEEDED",
}

/// What kind of failure it is: what a program goes by where it does not know the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// No connection to a daemon could be made.
    Unreachable,
    /// No answer came within the time limit.
    Silent,
    /// The connection broke before the answer.
    Broken,
    /// An argument is not accepted.
    Invalid,
    /// It is not on record.
    NotFound,
    /// The state of the registry does not allow it.
    Precondition,
    /// The daemon does not know the caller.
    Unauthenticated,
    /// The caller may not do this.
    Denied,
    /// The daemon cannot take the call now.
    Unavailable,
    /// Any other failure.
    Failed,
}

impl Kind {
    /// Whether nothing is known of a daemon's decision.
    pub(crate) const fn is_transport(self) -> bool {
        matches!(self, Self::Unreachable | Self::Silent | Self::Broken)
    }
}
