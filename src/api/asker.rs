//! The caller of a request, and what it may read of what it asks for. [`crate::http`] has authenticated the caller and put this beside the
//! request.

use axum::http::StatusCode;

use super::error::ApiError;
use crate::access::{Access, Caller, Denied, Exceeded, Names, Refused, Verb};

/// The caller of a request.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    access: Access,
    caller: Caller,
}

/// What of what is asked for may be shown.
#[derive(Clone, Debug)]
pub(crate) struct Readable {
    /// The names.
    pub(crate) names: Names,
    /// Whether there may be others that are left out.
    pub(crate) is_filtered: bool,
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refused::TooManyFailures(_) => StatusCode::TOO_MANY_REQUESTS,
            Refused::Unauthenticated(_) | Refused::CredentialExpired { .. } | Refused::TwoIdentities { .. } => {
                StatusCode::UNAUTHORIZED
            }
        };
        Self::new(status, refused.reason(), refused.to_string())
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        // A caller without a credential can show one.
        let (status, reason) = match denied.identity.is_anonymous() {
            true => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
            false => (StatusCode::FORBIDDEN, "PERMISSION_DENIED"),
        };
        Self::new(status, reason, denied.to_string())
    }
}

impl From<Exceeded> for ApiError {
    fn from(exceeded: Exceeded) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "QUOTA_EXCEEDED", exceeded.to_string())
    }
}

impl Asker {
    /// A caller, as it was authenticated.
    pub(crate) fn new(access: Access, caller: Caller) -> Self {
        Self { access, caller }
    }

    /// The names that it may read.
    pub(crate) fn names(&self) -> Names {
        self.caller.names(Verb::Read)
    }

    /// Whether it may know what the operators of this daemon know.
    pub(crate) fn may_see_details(&self) -> bool {
        self.caller.may_anywhere(Verb::Metrics)
    }

    /// What it may be shown of a name, or of the names with a prefix. Decided by the rules alone, before anything is looked up.
    ///
    /// # Errors
    /// [`Denied`]: nothing of it.
    pub(crate) fn readable(&self, name: &str, prefix: &str) -> Result<Readable, Denied> {
        let names = self.names();
        if !name.is_empty() {
            self.caller.require(Verb::Read, name)?;
            return Ok(Readable { names, is_filtered: false });
        }
        if !names.meets_prefix(prefix) {
            return Err(self.caller.denied(Verb::Read, &format!("{prefix}*")));
        }
        let is_filtered = !names.covers_prefix(prefix);
        Ok(Readable { names, is_filtered })
    }

    /// The same caller with its present rights; `None` if it may read nothing any more. For streams.
    pub(crate) fn present(&self) -> Option<Self> {
        let caller = self.access.refresh(&self.caller).ok()?;
        caller.may_anywhere(Verb::Read).then(|| Self { access: self.access.clone(), caller })
    }
}
