//! The policy and the tokens in use, replaced together while calls go on, and the issuers of JSON web tokens with their keys.
//!
//! A token that has been verified is remembered by its digest, so that its signature costs time once; that of the latest call of
//! a connection is remembered with its connection ([`super::Memory`]). Both are forgotten with the policy, the tokens and the keys
//! under which they were good.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{
    call::Call,
    caller::{Caller, Known, Shown},
    certificate::Certificate,
    grants::Grants,
    policy::Policy,
    refusal::{Cause, Refused},
    tokens::{Digest, Tokens, name_of},
};
use crate::{
    clock::Clock,
    jwt::{self, Failures, Trusted},
    rights::{Identity, Kind, quota::Used},
};

/// Identities whose rights are remembered. Beyond it they are computed for each call: correct, and slower.
const REMEMBERED_MAX: usize = 10_000;
/// Verified tokens that are remembered. Beyond it they are verified for each call.
const VERIFIED_MAX: usize = 10_000;

/// What callers are authenticated by. Clones share it.
#[derive(Clone)]
pub struct Access(Option<Arc<Live>>);

struct Live {
    clock: Clock,
    state: ArcSwap<State>,
    generation: watch::Sender<u64>,
    failures: Failures,
    /// What identities use, under whichever policy.
    used: papaya::HashMap<Identity, Arc<Used>>,
}

struct State {
    generation: u64,
    policy: Policy,
    tokens: Tokens,
    /// The issuers of the policy.
    trusted: Arc<[Arc<Trusted>]>,
    /// The rights of identities that have called, under this policy.
    grants: papaya::HashMap<Identity, Arc<Grants>>,
    /// The callers of verified tokens, by the SHA-256 of the token.
    verified: papaya::HashMap<[u8; 32], Caller>,
}

impl State {
    fn new(generation: u64, policy: Policy, tokens: Tokens, trusted: Arc<[Arc<Trusted>]>) -> Self {
        let (grants, verified) = (papaya::HashMap::new(), papaya::HashMap::new());
        Self { generation, policy, tokens, trusted, grants, verified }
    }

    fn grants(&self, identity: &Identity) -> Arc<Grants> {
        if identity.kind() == Kind::Local {
            return Arc::new(Grants::everything());
        }
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

    fn is_transport(&self, identity: &Identity) -> bool {
        self.policy.is_transport(identity)
    }
}

impl Live {
    fn caller(&self, state: &State, known: (Identity, Kind), proof: Shown, expires: Option<DateTime<Utc>>) -> Caller {
        let (identity, kind) = known;
        let (grants, used) = (state.grants(&identity), self.used(&identity));
        let (generation, owner) = (state.generation, OnceLock::new());
        Caller::known(Known { identity, kind, proof, expires, generation, grants, used, owner })
    }

    /// What an identity uses. The same for all its callers, so that none of them begins with nothing.
    fn used(&self, identity: &Identity) -> Arc<Used> {
        let all = self.used.pin();
        if let Some(used) = all.get(identity) {
            return Arc::clone(used);
        }
        if all.len() >= REMEMBERED_MAX {
            let now_ms = self.clock.now_ms();
            all.retain(|_, used| Arc::strong_count(used) > 1 || !used.is_idle(now_ms));
        }
        Arc::clone(all.get_or_insert_with(identity.clone(), Arc::default))
    }

    /// The caller that a call shows, whose credential may have expired.
    fn find(&self, state: &State, call: Call<'_>) -> Result<Caller, Refused> {
        // One that only carries the calls of others is no identity of its own.
        let carrier = call.certificate.filter(|it| it.identity().is_ok_and(|identity| state.is_transport(identity)));
        match (call.certificate.filter(|_| carrier.is_none()), call.authorization) {
            (Some(certificate), None) => {
                let known = (identity(certificate)?.clone(), Kind::Certificate);
                Ok(self.caller(state, known, Shown::Nothing, Some(certificate.not_after())))
            }
            (Some(certificate), Some(_)) => Err(Refused::TwoIdentities { certificate: identity(certificate)?.clone() }),
            (None, Some(authorization)) => self.by_authorization(state, authorization, call.address),
            (None, None) if state.policy.names_anonymous() => {
                Ok(self.caller(state, (Identity::anonymous(), Kind::Anonymous), Shown::Nothing, None))
            }
            (None, None) => {
                let carrier = carrier.and_then(|carrier| carrier.identity().ok());
                Err(carrier.map_or(Cause::Missing, |carrier| Cause::Transport(carrier.clone())).into())
            }
        }
    }

    fn by_authorization(&self, state: &State, authorization: &str, address: u32) -> Result<Caller, Refused> {
        let token = token(authorization)?;
        match name_of(&token) {
            Some(name) => self.with_token(state, name, Digest::of(&token)),
            None if !state.trusted.is_empty() && jwt::looks_like_one(&token) => self.with_jwt(state, &token, address),
            None => Err(Cause::Malformed.into()),
        }
    }

    fn with_token(&self, state: &State, name: &str, digest: Digest) -> Result<Caller, Refused> {
        let entry = state.tokens.find(name, &digest).ok_or(Cause::Unknown)?;
        let identity = Identity::of_token(name).map_err(|_| Cause::Malformed)?;
        Ok(self.caller(state, (identity, Kind::Token), Shown::Token(digest), entry.expires))
    }

    /// The caller of a JSON web token, which may have expired.
    fn with_jwt(&self, state: &State, text: &str, address: u32) -> Result<Caller, Refused> {
        let (digest, now) = (Sha256::digest(text.as_bytes()).into(), self.clock.wall());
        let known = state.verified.pin();
        if let Some(caller) = known.get(&digest) {
            return Ok(caller.clone());
        }
        let verified = jwt::verify(&state.trusted, text, now, &self.failures, address)?;
        let identity = Identity::parse(&verified.identity).map_err(|error| Cause::Claims(error.to_string()))?;
        let caller = self.caller(state, (identity, Kind::Jwt), Shown::Jwt(verified.proof), Some(verified.expires));
        if known.len() >= VERIFIED_MAX {
            known.retain(|_, caller| caller.require_current(now).is_ok());
        }
        if known.len() < VERIFIED_MAX {
            known.insert(digest, caller.clone());
        }
        Ok(caller)
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
        let trusted = trusted(&policy, &[]);
        let state = State::new(1, policy, tokens, trusted);
        let (generation, _) = watch::channel(1);
        let (state, used) = (ArcSwap::from_pointee(state), papaya::HashMap::new());
        Self(Some(Arc::new(Live { clock, state, generation, failures: Failures::default(), used })))
    }

    /// Whether there is a policy.
    #[must_use]
    pub const fn is_enforced(&self) -> bool {
        self.0.is_some()
    }

    /// The caller of a call.
    ///
    /// # Errors
    /// [`Refused`]. Without a credential only if the policy says nothing of `anonymous`.
    pub fn authenticate(&self, call: Call<'_>) -> Result<Caller, Refused> {
        let Some(live) = &self.0 else { return Ok(Caller::open()) };
        let state = live.state.load();
        let remembered = call.memory.and_then(|memory| memory.of(call.authorization, state.generation));
        let caller = match remembered {
            Some(caller) => caller,
            None => {
                let caller = live.find(&state, call)?;
                if let Some(memory) = call.memory {
                    memory.keep(call.authorization, &caller);
                }
                caller
            }
        };
        caller.require_current(live.clock.wall())?;
        Ok(caller)
    }

    /// The user of the daemon or root, at the other end of the admin socket, with the `Authorization` of its call. It may do
    /// everything, whatever the policy says: it could change the policy.
    ///
    /// # Errors
    /// It shows a token too.
    pub fn local(&self, authorization: Option<&str>) -> Result<Caller, Refused> {
        let Some(live) = &self.0 else { return Ok(Caller::open()) };
        match authorization {
            None => Ok(live.caller(&live.state.load(), (Identity::local(), Kind::Local), Shown::Nothing, None)),
            Some(_) => Err(Refused::TwoIdentities { certificate: Identity::local() }),
        }
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
        match (known.kind, &known.proof) {
            (Kind::Token, Shown::Token(digest)) => {
                let name = known.identity.as_str().strip_prefix("token/").unwrap_or_default();
                let caller = live.with_token(&state, name, *digest)?;
                caller.require_current(live.clock.wall())?;
                Ok(caller)
            }
            (Kind::Anonymous, _) if !state.policy.names_anonymous() => Err(Cause::Missing.into()),
            (Kind::Certificate, _) if state.is_transport(&known.identity) => {
                Err(Cause::Transport(known.identity.clone()).into())
            }
            (kind, proof) => {
                if let Shown::Jwt(proof) = proof {
                    proof.still_good(&state.trusted)?;
                }
                Ok(live.caller(&state, (known.identity.clone(), kind), proof.clone(), known.expires))
            }
        }
    }

    /// Of which policy and tokens the rights of new callers are; 0 without a policy.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.as_ref().map_or(0, |live| live.state.load().generation)
    }

    /// Digests of the policy and of the tokens in use: of what they mean, not of the files; `None` without a policy.
    #[must_use]
    pub fn digests(&self) -> Option<[[u8; 32]; 2]> {
        let state = self.0.as_ref()?.state.load();
        let tokens: String = state.tokens.entries().map(|entry| format!("{}\n", entry.text())).collect();
        Some([Sha256::digest(state.policy.meaning()).into(), Sha256::digest(tokens).into()])
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
            let trusted = trusted(&policy, &live.state.load().trusted);
            live.state.store(Arc::new(State::new(*generation, policy, tokens, trusted)));
        });
    }

    /// The issuers of the policy in use, whose keys are kept by [`crate::jwks`].
    #[must_use]
    pub fn issuers(&self) -> Arc<[Arc<Trusted>]> {
        self.0.as_ref().map_or_else(|| Arc::from([]), |live| Arc::clone(&live.state.load().trusted))
    }

    /// The keys of an issuer are others than before: what was verified by the former ones is looked at again.
    pub fn keys_changed(&self) {
        let Some(live) = &self.0 else { return };
        live.generation.send_modify(|generation| {
            *generation += 1;
            let state = live.state.load();
            let (policy, tokens, trusted) = (state.policy.clone(), state.tokens.clone(), Arc::clone(&state.trusted));
            live.state.store(Arc::new(State::new(*generation, policy, tokens, trusted)));
        });
    }
}

/// The issuers of a policy, with the keys of those that were in use before.
fn trusted(policy: &Policy, before: &[Arc<Trusted>]) -> Arc<[Arc<Trusted>]> {
    let one = |issuer: &jwt::Issuer| {
        let known = before.iter().find(|it| it.issuer() == issuer);
        known.map_or_else(|| Arc::new(Trusted::new(issuer.clone())), Arc::clone)
    };
    policy.issuers().iter().map(one).collect()
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
