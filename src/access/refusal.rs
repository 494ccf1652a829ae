//! Why a caller is refused, in words: what it is not known by, or what it may not do.

use std::{fmt, net::IpAddr};

use chrono::{DateTime, SecondsFormat, Utc};
use thiserror::Error;

use crate::rights::{Identity, Kind};
use crate::{jwt::Problem, rights::Verb};

/// Why it is not known what a caller is. No text holds a part of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// There is no credential, or it cannot be used.
    #[error("{0}")]
    Unauthenticated(Cause),
    /// The credential was good, and is no more.
    #[error("the {} {identity} has expired at {}; renew it", noun(identity), moment(*at))]
    CredentialExpired {
        /// Whose.
        identity: Identity,
        /// Until when it was valid.
        at: DateTime<Utc>,
    },
    /// The keys of the issuer have not been loaded: another daemon may have them.
    #[error("{0}")]
    NotReady(Problem),
    /// Too many wrong signatures came from the caller's address.
    #[error("{0}")]
    TooManyFailures(Problem),
    /// The connection has a certificate and the call a token: which of them counts would be a guess.
    #[error("the call has two identities, {} and a token; give one of them", of_connection(certificate))]
    TwoIdentities {
        /// That of the certificate, or `local`.
        certificate: Identity,
    },
}

/// What is wrong with a credential.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Cause {
    /// There is none.
    #[error("no credential was given; send a token (authorization: Bearer TOKEN), or show a client certificate")]
    Missing,
    /// The header does not say how to read it.
    #[error("the authorization is neither Bearer TOKEN nor Basic; send authorization: Bearer TOKEN")]
    Scheme,
    /// It is not of the form of a token.
    #[error(
        "the credential is no token of this registry (mstd_NAME_...), and no JSON web token of an issuer of its policy; check the file that it comes from"
    )]
    Malformed,
    /// The certificate only carries calls of others.
    #[error(
        "the client certificate {0} is one of transport and has no rights; send a token (authorization: Bearer TOKEN)"
    )]
    Transport(Identity),
    /// No such token is in use.
    #[error("the token is not known; it was revoked, or is that of another registry")]
    Unknown,
    /// It is a JSON web token that is not accepted.
    #[error("{0}")]
    Jwt(Problem),
    /// The claims of a token give no identity.
    #[error("the claims of the JSON web token give no identity: {0}; correct the identity of the issuer in the policy")]
    Claims(String),
    /// The certificate names no identity.
    #[error("the client certificate has no identity: {0}; issue it with one SPIFFE URI, or with a common name alone")]
    Certificate(String),
}

impl Refused {
    /// The reason, as errors of the protocol name it.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "UNAUTHENTICATED",
            Self::CredentialExpired { .. } => "CREDENTIAL_EXPIRED",
            Self::TwoIdentities { .. } => "TWO_IDENTITIES",
            Self::NotReady(_) => "NOT_YET_SEEN",
            Self::TooManyFailures(_) => "OVERLOADED",
        }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::KeysNotLoaded(_) => Self::NotReady(problem),
            Problem::TooManyFailures => Self::TooManyFailures(problem),
            problem => Self::Unauthenticated(Cause::Jwt(problem)),
        }
    }
}

impl From<Cause> for Refused {
    fn from(cause: Cause) -> Self {
        Self::Unauthenticated(cause)
    }
}

fn of_connection(identity: &Identity) -> String {
    match identity.kind() {
        Kind::Local => "the local user of the admin socket".to_owned(),
        _ => format!("the certificate {identity}"),
    }
}

fn noun(identity: &Identity) -> &'static str {
    match identity.kind() {
        Kind::Certificate => "certificate",
        _ => "token",
    }
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A caller is known, and may not do what it asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Denied {
    /// The caller.
    pub identity: Identity,
    /// What it may not do.
    pub verb: Verb,
    /// On which logical id; `*`: on all of them; empty: on any.
    pub name: String,
    /// With which address, where that is why.
    pub address: Option<AddressDenied>,
}

/// An address that may not be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressDenied {
    /// It means another machine to each reader.
    Special {
        /// The address.
        address: IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// It is not among those of the rules.
    Outside {
        /// The address.
        address: IpAddr,
        /// Where the caller is.
        peer: Option<IpAddr>,
        /// Those of the rules.
        allowed: String,
    },
}

impl fmt::Display for AddressDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Special { address, kind } => write!(
                f,
                "at {address}, {kind} address, which only a caller on the daemon's machine may; register the address at which \
                 others reach the instance"
            ),
            Self::Outside { address, peer, allowed } => {
                let peer = peer.map(|peer| format!(" (peer is {peer})")).unwrap_or_default();
                write!(f, "at {address}; its rules have addresses = [{allowed}]{peer}")
            }
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, verb, name, address } = self;
        if let Some(address) = address {
            return write!(f, "{identity} has no right to {verb} {name:?} {address}");
        }
        let target = match name.as_str() {
            _ if !verb.has_names() => String::new(),
            "" => " on any logical id".to_owned(),
            "*" => " on all logical ids".to_owned(),
            name => format!(" on {name:?}"),
        };
        let needed = if verb.has_names() && !name.is_empty() { format!(", on = [{name:?}]") } else { String::new() };
        write!(
            f,
            "{identity} has no right to {verb}{target}; it needs a rule with who = [\"{identity}\"], may = [\"{verb}\"]{needed}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_names_identity_verb_and_name_and_the_rule_that_it_needs() {
        let said = |verb, name: &str| {
            Denied { identity: Identity::of_token("b").unwrap(), verb, name: name.to_owned(), address: None }
                .to_string()
        };
        assert_eq!(
            said(Verb::Register, "svc-a"),
            "token/b has no right to register on \"svc-a\"; it needs a rule with who = [\"token/b\"], may = [\"register\"], on \
             = [\"svc-a\"]"
        );
        assert!(said(Verb::Cluster, "*").contains("on all logical ids; it needs a rule"));
        assert!(said(Verb::Metrics, "").ends_with("may = [\"metrics\"]"));
    }
}
