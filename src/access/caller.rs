//! The caller of a call: what it is, and what it may.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use chrono::{DateTime, Utc};

use super::{
    grants::Grants,
    identity::{Identity, Kind},
    names::Names,
    refusal::{Denied, Refused},
    tokens::Digest,
    verb::Verb,
};
use crate::jwt::Proof;

/// Who calls, with its rights at the time at which it was authenticated. Cheap to clone; free without a policy.
#[derive(Clone)]
pub struct Caller(Option<Arc<Known>>);

/// What a caller has shown beside its kind.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// Nothing, or what is checked for each connection.
    Nothing,
    /// A static token.
    Token(Digest),
    /// A JSON web token.
    Jwt(Proof),
}

/// A caller under a policy.
pub(super) struct Known {
    pub(super) identity: Identity,
    pub(super) kind: Kind,
    /// What it has shown, to find out later whether that is still good.
    pub(super) proof: Shown,
    pub(super) expires: Option<DateTime<Utc>>,
    pub(super) generation: u64,
    pub(super) grants: Arc<Grants>,
}

impl Caller {
    /// The caller of a daemon without a policy: everything is allowed.
    #[must_use]
    pub const fn open() -> Self {
        Self(None)
    }

    /// A caller that may do nothing: without a credential, or with one that is no good, where that is answered all the same.
    #[must_use]
    pub fn without_rights() -> Self {
        let grants = Arc::new(Grants::of(Default::default()));
        let (identity, kind) = (Identity::anonymous(), Kind::Anonymous);
        Self::known(Known { identity, kind, proof: Shown::Nothing, expires: None, generation: 0, grants })
    }

    pub(super) fn known(known: Known) -> Self {
        Self(Some(Arc::new(known)))
    }

    pub(super) fn as_known(&self) -> Option<&Known> {
        self.0.as_deref()
    }

    /// Its name; `anonymous` without a policy.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        static ANONYMOUS: LazyLock<Identity> = LazyLock::new(Identity::anonymous);
        self.0.as_ref().map_or_else(|| &*ANONYMOUS, |known| &known.identity)
    }

    /// How it has shown what it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.as_ref().map_or(Kind::Anonymous, |known| known.kind)
    }

    /// Whether there is a policy. Without one there are no owners either.
    #[must_use]
    pub const fn is_enforced(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it may do this on this logical id.
    #[must_use]
    pub fn may(&self, verb: Verb, logical_id: &str) -> bool {
        self.0.as_ref().is_none_or(|known| known.grants.names(verb).contains(logical_id))
    }

    /// Whether it may do this on all logical ids.
    #[must_use]
    pub fn may_everywhere(&self, verb: Verb) -> bool {
        self.0.as_ref().is_none_or(|known| known.grants.names(verb).is_everything())
    }

    /// Whether there is a logical id on which it may do this.
    #[must_use]
    pub fn may_anywhere(&self, verb: Verb) -> bool {
        self.0.as_ref().is_none_or(|known| !known.grants.names(verb).is_empty())
    }

    /// The logical ids on which it may do this.
    #[must_use]
    pub fn names(&self, verb: Verb) -> Names {
        self.0.as_ref().map_or_else(Names::everything, |known| known.grants.names(verb).clone())
    }

    /// The same as [`Self::may`], with the refusal in words.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require(&self, verb: Verb, logical_id: &str) -> Result<(), Denied> {
        if self.may(verb, logical_id) { Ok(()) } else { Err(self.denied(verb, logical_id)) }
    }

    /// The same as [`Self::may_everywhere`], with the refusal in words.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require_everywhere(&self, verb: Verb) -> Result<(), Denied> {
        if self.may_everywhere(verb) { Ok(()) } else { Err(self.denied(verb, "*")) }
    }

    /// The same as [`Self::may_anywhere`], with the refusal in words.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require_anywhere(&self, verb: Verb) -> Result<(), Denied> {
        if self.may_anywhere(verb) { Ok(()) } else { Err(self.denied(verb, "")) }
    }

    /// The refusal of this on a logical id.
    #[must_use]
    pub fn denied(&self, verb: Verb, name: &str) -> Denied {
        Denied { identity: self.identity().clone(), verb, name: name.to_owned() }
    }

    /// When its credential ends; `None` if it does not.
    #[must_use]
    pub fn expires(&self) -> Option<DateTime<Utc>> {
        self.0.as_ref()?.expires
    }

    /// That its credential has not ended.
    ///
    /// # Errors
    /// [`Refused::CredentialExpired`].
    pub fn require_current(&self, now: DateTime<Utc>) -> Result<(), Refused> {
        match self.expires() {
            Some(at) if at <= now => Err(Refused::CredentialExpired { identity: self.identity().clone(), at }),
            _ => Ok(()),
        }
    }

    /// Of which policy and tokens its rights are; 0 without a policy.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.as_ref().map_or(0, |known| known.generation)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("identity", self.identity()).field("kind", &self.kind()).finish_non_exhaustive()
    }
}
