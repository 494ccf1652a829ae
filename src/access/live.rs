//! The policy and the tokens in use, replaced together while calls go on.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::{
    caller::{Caller, Known},
    certificate::Certificate,
    grants::Grants,
    identity::{Identity, Kind},
    policy::Policy,
    refusal::{Cause, Refused},
    tokens::{Digest, Tokens, name_of},
};
use crate::clock::Clock;

/// Identities whose rights are remembered. Beyond it they are computed for each call: correct, and slower.
const REMEMBERED_MAX: usize = 10_000;

/// What callers are authenticated by. Clones share it.
#[derive(Clone)]
pub struct Access(Option<Arc<Live>>);

struct Live {
    clock: Clock,
    state: ArcSwap<State>,
    generation: watch::Sender<u64>,
}

struct State {
    generation: u64,
    policy: Policy,
    tokens: Tokens,
    /// The rights of identities that have called, under this policy.
    grants: papaya::HashMap<Identity, Arc<Grants>>,
}

impl State {
    fn grants(&self, identity: &Identity) -> Arc<Grants> {
        let known = self.grants.pin();
        if let Some(grants) = known.get(identity) {
            return Arc::clone(grants);
        }
        let grants = Arc::new(self.policy.grants(identity));
        if known.len() < REMEMBERED_MAX {
            known.insert(identity.clone(), Arc::clone(&grants));
        }
        grants
    }

    fn caller(&self, identity: Identity, kind: Kind, token: Option<Digest>, expires: Option<DateTime<Utc>>) -> Caller {
        let grants = self.grants(&identity);
        Caller::known(Known { identity, kind, token, expires, generation: self.generation, grants })
    }
}

impl Access {
    /// Without a policy: every caller may do everything.
    #[must_use]
    pub const fn open() -> Self {
        Self(None)
    }

    /// Under a policy.
    #[must_use]
    pub fn new(policy: Policy, tokens: Tokens, clock: Clock) -> Self {
        let state = State { generation: 1, policy, tokens, grants: papaya::HashMap::new() };
        let (generation, _) = watch::channel(1);
        Self(Some(Arc::new(Live { clock, state: ArcSwap::from_pointee(state), generation })))
    }

    /// Whether there is a policy.
    #[must_use]
    pub const fn is_enforced(&self) -> bool {
        self.0.is_some()
    }

    /// The caller with the certificate of its connection and the `Authorization` of its call.
    ///
    /// # Errors
    /// [`Refused`]. Without a credential only if the policy says nothing of `anonymous`.
    pub fn authenticate(
        &self,
        certificate: Option<&Certificate>,
        authorization: Option<&str>,
    ) -> Result<Caller, Refused> {
        let Some(live) = &self.0 else { return Ok(Caller::open()) };
        let state = live.state.load();
        let caller = match (certificate, authorization) {
            (Some(certificate), None) => {
                let identity = identity(certificate)?;
                state.caller(identity.clone(), Kind::Certificate, None, Some(certificate.not_after()))
            }
            (Some(certificate), Some(_)) => {
                return Err(Refused::TwoIdentities { certificate: identity(certificate)?.clone() });
            }
            (None, Some(authorization)) => {
                let token = token(authorization)?;
                let name = name_of(&token).ok_or(Cause::Malformed)?;
                with_token(&state, name, Digest::of(&token))?
            }
            (None, None) if state.policy.names_anonymous() => {
                state.caller(Identity::anonymous(), Kind::Anonymous, None, None)
            }
            (None, None) => return Err(Cause::Missing.into()),
        };
        caller.require_current(live.clock.wall())?;
        Ok(caller)
    }

    /// The same caller with its present rights, for what lives longer than a call. Cheap while nothing has changed.
    ///
    /// # Errors
    /// Its credential has ended or was revoked.
    pub fn refresh(&self, caller: &Caller) -> Result<Caller, Refused> {
        let (Some(live), Some(known)) = (&self.0, caller.as_known()) else { return Ok(caller.clone()) };
        caller.require_current(live.clock.wall())?;
        let state = live.state.load();
        if known.generation == state.generation {
            return Ok(caller.clone());
        }
        match (known.kind, &known.token) {
            (Kind::Token, Some(digest)) => {
                let name = known.identity.as_str().strip_prefix("token/").unwrap_or_default();
                let caller = with_token(&state, name, *digest)?;
                caller.require_current(live.clock.wall())?;
                Ok(caller)
            }
            (Kind::Anonymous, _) if !state.policy.names_anonymous() => Err(Cause::Missing.into()),
            (kind, _) => Ok(state.caller(known.identity.clone(), kind, None, known.expires)),
        }
    }

    /// Of which policy and tokens the rights of new callers are; 0 without a policy.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.as_ref().map_or(0, |live| live.state.load().generation)
    }

    /// Tells when [`Self::generation`] changes.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes(self.0.as_ref().map(|live| live.generation.subscribe()))
    }

    /// Puts another policy and other tokens in use, together.
    pub fn replace(&self, policy: Policy, tokens: Tokens) {
        let Some(live) = &self.0 else { return };
        live.generation.send_modify(|generation| {
            *generation += 1;
            let grants = papaya::HashMap::new();
            live.state.store(Arc::new(State { generation: *generation, policy, tokens, grants }));
        });
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

/// Waits for other rights. Never ready without a policy.
#[derive(Clone, Debug)]
pub struct Changes(Option<watch::Receiver<u64>>);

impl Changes {
    /// Ready when the policy or the tokens have changed since the last time, or since this was made.
    pub async fn changed(&mut self) {
        if let Some(generation) = &mut self.0
            && generation.changed().await.is_ok()
        {
            return;
        }
        // Open, or the daemon is about to end.
        std::future::pending::<()>().await;
    }
}

fn identity(certificate: &Certificate) -> Result<&Identity, Refused> {
    certificate.identity().map_err(|why| Cause::Certificate(why.to_owned()).into())
}

fn with_token(state: &State, name: &str, digest: Digest) -> Result<Caller, Refused> {
    let entry = state.tokens.find(name, &digest).ok_or(Cause::Unknown)?;
    let identity = Identity::of_token(name).map_err(|_| Cause::Malformed)?;
    Ok(state.caller(identity, Kind::Token, Some(digest), entry.expires))
}

/// The token of `Bearer TOKEN`, or of Basic with any user name and the token as password.
fn token(authorization: &str) -> Result<std::borrow::Cow<'_, str>, Refused> {
    let (scheme, rest) = authorization.trim().split_once(' ').ok_or(Cause::Scheme)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(rest.into());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Cause::Scheme.into());
    }
    let decoded = BASE64_STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let password = decoded.as_deref().and_then(|text| text.split_once(':')).map(|(_, password)| password.to_owned());
    Ok(password.ok_or(Cause::Malformed)?.into())
}

#[cfg(test)]
mod tests;
