//! From the names in a client certificate to one identity. Computed once for each connection; the chain and the key have been
//! checked by TLS before.
//!
//! A certificate with more than one URI is refused: which of them counts would be a guess, and servers that guessed have
//! let one workload pass as another. The common name counts only where there is no URI at all, so that a CA for SPIFFE ids
//! gives no second name.

use chrono::{DateTime, Utc};

use crate::rights::Identity;

/// What a client certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    identity: Result<Identity, String>,
    not_after: DateTime<Utc>,
}

impl Certificate {
    /// That of a certificate with these URIs and these common names.
    #[must_use]
    pub fn new(uris: &[&str], common_names: &[&str], not_after: DateTime<Utc>) -> Self {
        let identity = match (uris, common_names) {
            ([uri], _) => Identity::of_spiffe(uri).map_err(|error| error.to_string()),
            ([], [name]) => Identity::of_common_name(name).map_err(|error| error.to_string()),
            ([], names) => Err(format!("it has no URI, and {} common names instead of one", names.len())),
            (uris, _) => Err(format!("it has {} URIs, and must have one", uris.len())),
        };
        Self { identity, not_after }
    }

    /// That of a certificate whose names cannot be read.
    #[must_use]
    pub fn unreadable(why: String, not_after: DateTime<Utc>) -> Self {
        Self { identity: Err(why), not_after }
    }

    /// The identity of its holder; why it has none.
    ///
    /// # Errors
    /// What is wrong with its names.
    pub fn identity(&self) -> Result<&Identity, &str> {
        self.identity.as_ref().map_err(String::as_str)
    }

    /// Until when it is valid.
    #[must_use]
    pub const fn not_after(&self) -> DateTime<Utc> {
        self.not_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(uris: &[&str], names: &[&str]) -> Option<String> {
        let certificate = Certificate::new(uris, names, DateTime::UNIX_EPOCH);
        certificate.identity().ok().map(ToString::to_string)
    }

    #[test]
    fn one_uri_is_the_identity_and_the_common_name_only_without_one() {
        assert_eq!(identity(&["spiffe://td/a"], &["b"]).as_deref(), Some("spiffe://td/a"));
        assert_eq!(identity(&[], &["b"]).as_deref(), Some("cert/b"));
    }

    #[test]
    fn certificate_without_exactly_one_name_has_no_identity() {
        for (uris, names) in [
            (&["spiffe://td/a", "spiffe://td/b"][..], &["a"][..]),
            (&["spiffe://td/a", "https://td"], &["a"]),
            (&["https://td/a"], &["a"]),
            (&[], &[]),
            (&[], &["a", "b"]),
        ] {
            assert_eq!(identity(uris, names), None, "{uris:?} {names:?}");
        }
    }
}
