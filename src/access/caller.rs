//! The caller of a call: what it is, and what it may.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, LazyLock, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{
    grants::Grants,
    refusal::{AddressDenied, Denied, Refused},
    tokens::Digest,
};
use crate::{
    jwt::Proof,
    model::Owner,
    rights::{
        Identity, Kind, Names, Verb, addresses,
        quota::{Exceeded, Held, Limits, Unit, Used},
    },
};

/// When to try again where a place has to be given back first.
const RETRY_PLACE: Duration = Duration::from_secs(5);

/// When to try again where dead records have to be purged first.
const RETRY_RECORDS: Duration = Duration::from_secs(30);

/// A caller, with its rights at the time at which it was authenticated. Cheap to clone; free without a policy.
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
    pub(super) used: Arc<Used>,
    /// As which it owns leases, once it is asked for.
    pub(super) owner: OnceLock<Owner>,
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
        let (identity, kind, used) = (Identity::anonymous(), Kind::Anonymous, Arc::default());
        let proof = Shown::Nothing;
        let owner = OnceLock::new();
        Self::known(Known { identity, kind, proof, expires: None, generation: 0, grants, used, owner })
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

    /// As which it owns leases; `None` without a policy.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        let known = self.0.as_ref()?;
        Some(known.owner.get_or_init(|| Owner::named(known.identity.as_str())))
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
        Denied { identity: self.identity().clone(), verb, name: name.to_owned(), address: None }
    }

    /// Whether it may register this logical id at this address, calling from `peer`; `None`: from the admin socket.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn require_address(&self, name: &str, address: IpAddr, peer: Option<IpAddr>) -> Result<(), Denied> {
        let Some(known) = self.0.as_ref().filter(|known| known.kind != Kind::Local) else { return Ok(()) };
        let denied = |address| Err(Denied { address: Some(address), ..self.denied(Verb::Register, name) });
        match addresses::special(address) {
            Some(kind) if !peer.is_some_and(|peer| peer.to_canonical().is_loopback()) => {
                denied(AddressDenied::Special { address, kind })
            }
            _ => match known.grants.admit_address(name, address, peer) {
                Ok(()) => Ok(()),
                Err(allowed) => denied(AddressDenied::Outside { address, peer, allowed }),
            },
        }
    }

    /// What it may use; `None`: there is no limit for it.
    #[must_use]
    pub fn limits(&self) -> Option<Limits> {
        self.quota().map(|known| *known.grants.limits())
    }

    /// The watches and connections that it has open at this daemon.
    #[must_use]
    pub fn places(&self) -> (u32, u32) {
        self.quota().map_or((0, 0), |known| known.used.places())
    }

    /// Those that have quotas: all but the local user, which could change the policy.
    fn quota(&self) -> Option<&Known> {
        self.0.as_deref().filter(|known| known.kind != Kind::Local)
    }

    fn exceeded(&self, unit: Unit, limit: u64, retry_after: Duration) -> Exceeded {
        Exceeded { identity: self.identity().as_str().into(), unit, limit, retry_after }
    }

    /// That it owns as many records as it may.
    #[must_use]
    pub fn records_exceeded(&self, limit: u64) -> Exceeded {
        self.exceeded(Unit::Records, limit, RETRY_RECORDS)
    }

    /// Counts a registration, at this time of the daemon's clock.
    ///
    /// # Errors
    /// [`Exceeded`]: it comes too soon.
    pub fn count_registration(&self, now_ms: u64) -> Result<(), Exceeded> {
        let Some(known) = self.quota() else { return Ok(()) };
        let limit = known.grants.limits().registrations;
        known.used.register(limit, now_ms).map_err(|wait| self.exceeded(Unit::Registrations, limit.into(), wait))
    }

    /// A place for a watch; `None`: it needs none.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn open_watch(&self) -> Result<Option<Held>, Exceeded> {
        let Some(known) = self.quota() else { return Ok(None) };
        let limit = known.grants.limits().watches;
        let held = known.used.watch(limit).map(Some);
        held.ok_or_else(|| self.exceeded(Unit::Watches, limit.into(), RETRY_PLACE))
    }

    /// A place for a connection; `None`: it needs none.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn open_connection(&self) -> Result<Option<Held>, Exceeded> {
        let Some(known) = self.quota() else { return Ok(None) };
        let limit = known.grants.limits().connections;
        let held = known.used.connect(limit).map(Some);
        held.ok_or_else(|| self.exceeded(Unit::Connections, limit.into(), RETRY_PLACE))
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
