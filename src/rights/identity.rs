//! The names of callers. Each kind of credential has names of its own form, so that no credential can give a name that
//! another kind gives: a token whose name is `local` is `token/local`.
//!
//! | form | from |
//! |---|---|
//! | `spiffe://trust.domain/path` | the URI name of a client certificate |
//! | `cert/CN` | the common name of a client certificate without a URI name |
//! | `token/NAME` | a static token |
//! | `k8s/NAMESPACE/ACCOUNT`, `jwt/ISSUER/NAME` | a JWT, as its issuer is mapped |
//! | `local` | the user of the daemon, on its machine |
//! | `anonymous` | no credential |

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

use crate::model::input::hidden;

/// The longest identity, in bytes: that of a SPIFFE id.
pub const IDENTITY_MAX_BYTES: usize = 2_048;
/// The longest name of a token, in bytes.
pub const TOKEN_NAME_MAX_BYTES: usize = 64;

const SPIFFE: &str = "spiffe://";

/// How a caller has shown what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A client certificate.
    Certificate,
    /// A static token.
    Token,
    /// A JSON web token.
    Jwt,
    /// A socket that only the user of the daemon can open.
    Local,
    /// Not at all.
    Anonymous,
}

impl Kind {
    /// One word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
            Self::Jwt => "jwt",
            Self::Local => "local",
            Self::Anonymous => "anonymous",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a caller, checked. Public: it stands in logs, errors and records. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Arc<str>);

/// Why a text is no identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct InvalidIdentity(String);

fn refuse<T>(why: impl Into<String>) -> Result<T, InvalidIdentity> {
    Err(InvalidIdentity(why.into()))
}

impl Identity {
    /// That of a caller without a credential.
    #[must_use]
    pub fn anonymous() -> Self {
        Self("anonymous".into())
    }

    /// That of the user of the daemon, on its machine.
    #[must_use]
    pub fn local() -> Self {
        Self("local".into())
    }

    /// That of a static token.
    ///
    /// # Errors
    /// The name is not of letters, digits, `-`, `_` and `.`, or is longer than [`TOKEN_NAME_MAX_BYTES`].
    pub fn of_token(name: &str) -> Result<Self, InvalidIdentity> {
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > TOKEN_NAME_MAX_BYTES || !name.bytes().all(is_safe) {
            return refuse(format!(
                "the name of a token is 1 to {TOKEN_NAME_MAX_BYTES} letters, digits, -, _ and .; choose another one"
            ));
        }
        Ok(Self(format!("token/{name}").into()))
    }

    /// That of a certificate with this URI as its only one.
    ///
    /// # Errors
    /// It is no SPIFFE id of a workload: the form is `spiffe://trust.domain/path`, with neither user, port, query, fragment
    /// nor escapes, and without empty and dotted parts of the path.
    pub fn of_spiffe(uri: &str) -> Result<Self, InvalidIdentity> {
        let Some(rest) = uri.strip_prefix(SPIFFE) else { return refuse("its URI does not begin with spiffe://") };
        if uri.len() > IDENTITY_MAX_BYTES {
            return refuse(format!("its URI is longer than {IDENTITY_MAX_BYTES} bytes"));
        }
        let Some((domain, path)) = rest.split_once('/') else { return refuse("its URI has no path") };
        let of_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if domain.is_empty() || !domain.bytes().all(of_domain) {
            return refuse("the trust domain of its URI is not of lower-case letters, digits, dots, - and _ alone");
        }
        let of_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(of_path);
        if !path.split('/').all(is_segment) {
            return refuse(
                "the path of its URI has a part that is empty, dotted, or not of letters, digits, ., - and _",
            );
        }
        Ok(Self(uri.into()))
    }

    /// That of a certificate without a URI, by its common name.
    ///
    /// # Errors
    /// The name is empty, too long, or has characters that do not show.
    pub fn of_common_name(name: &str) -> Result<Self, InvalidIdentity> {
        if name.is_empty() || name.trim() != name || name.len() > 253 || name.chars().any(|c| hidden(c).is_some()) {
            return refuse("its common name is empty, longer than 253 bytes, or has characters that do not show");
        }
        Ok(Self(format!("cert/{name}").into()))
    }

    /// Reads an identity as it is written in policies and commands.
    ///
    /// # Errors
    /// It is of none of the forms.
    pub fn parse(text: &str) -> Result<Self, InvalidIdentity> {
        match text.split_once('/') {
            None if matches!(text, "anonymous" | "local") => Ok(Self(text.into())),
            _ if text.starts_with(SPIFFE) => Self::of_spiffe(text),
            Some(("cert", name)) => Self::of_common_name(name),
            Some(("token", name)) => Self::of_token(name),
            Some(("k8s", rest)) => Self::of_kubernetes(rest),
            Some(("jwt", rest)) => Self::of_issuer(rest),
            _ => refuse(
                "is no identity; write spiffe://DOMAIN/PATH, cert/COMMON-NAME, token/NAME, k8s/NAMESPACE/ACCOUNT, \
                 jwt/ISSUER/NAME, local or anonymous",
            ),
        }
    }

    fn of_issuer(rest: &str) -> Result<Self, InvalidIdentity> {
        let is_part = |part: &str| {
            (1..=253).contains(&part.len())
                && !matches!(part, "." | "..")
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_@:+~=|".contains(&byte))
        };
        if rest.split('/').count() < 2 || !rest.split('/').all(is_part) || rest.len() > IDENTITY_MAX_BYTES - 4 {
            return refuse(
                "is no identity of an issuer; write jwt/ISSUER/NAME, of letters, digits and . - _ @ : + ~ = |",
            );
        }
        Ok(Self(format!("jwt/{rest}").into()))
    }

    fn of_kubernetes(rest: &str) -> Result<Self, InvalidIdentity> {
        let is_name = |part: &str| {
            (1..=253).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        };
        match rest.split_once('/') {
            Some((namespace, account)) if is_name(namespace) && is_name(account) => {
                Ok(Self(format!("k8s/{rest}").into()))
            }
            _ => refuse("is no service account of Kubernetes; write k8s/NAMESPACE/ACCOUNT"),
        }
    }

    /// As policies write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is that of a caller without a credential.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        &*self.0 == "anonymous"
    }

    /// The kind of credential that gives names of this form.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.0.split_once('/') {
            None if self.is_anonymous() => Kind::Anonymous,
            None => Kind::Local,
            Some(("token", _)) => Kind::Token,
            Some(("cert" | "spiffe:", _)) => Kind::Certificate,
            Some(_) => Kind::Jwt,
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        Self::parse(text)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_of_each_form_is_read_back_with_its_kind() {
        for (text, kind) in [
            ("spiffe://prod.example/ns/organs/sa/a", Kind::Certificate),
            ("cert/router 1", Kind::Certificate),
            ("token/router-1", Kind::Token),
            ("k8s/organs/a", Kind::Jwt),
            ("jwt/okta/alice@example.com", Kind::Jwt),
            ("local", Kind::Local),
            ("anonymous", Kind::Anonymous),
        ] {
            let identity = Identity::parse(text).unwrap();
            assert_eq!((identity.as_str(), identity.kind()), (text, kind));
        }
    }

    #[test]
    fn text_of_no_form_is_refused() {
        for text in [
            "",
            "alice",
            "Local",
            "token/",
            "token/a b",
            "token/a/b",
            "cert/",
            "cert/ a",
            "cert/a\u{200b}",
            "k8s/a",
            "k8s/a/b/c",
            "k8s/A/b",
            "oidc/a",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "/",
            "*",
        ] {
            assert!(Identity::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn spiffe_uri_with_tricks_is_refused() {
        let long = format!("spiffe://td/{}", "a".repeat(IDENTITY_MAX_BYTES));
        for uri in [
            "https://td/a",
            "SPIFFE://td/a",
            "spiffe://td:8080/a",
            "spiffe://u@td/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td/a/../b",
            "spiffe://td/./b",
            "spiffe://td//b",
            "spiffe://td/a/",
            "spiffe://td/%61",
            "spiffe://TD/a",
            "spiffe:///a",
            "spiffe://td/a b",
            "spiffe://td/ä",
            &long,
        ] {
            assert!(Identity::of_spiffe(uri).is_err(), "{uri}");
        }
    }
}
