//! The keys of an issuer: a JWK set (RFC 7517), of which the keys for signatures are taken, and the check of a signature.
//!
//! The algorithm belongs to the key: a signature is never checked by the algorithm that a token names, so that a public RSA
//! key cannot be used as the secret of an HMAC.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::json::{self, Json, Object};

/// More keys than any issuer has.
const KEYS_MAX: usize = 256;

/// Algorithms of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    EdDsa,
    Rs256,
}

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            "RS256" => Some(Self::Rs256),
            _ => None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    /// X9.62, not compressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(Material);

/// The keys of an issuer, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(BTreeMap<String, Key>);

/// Why a text is no set of keys that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct KeysError(String);

impl Keys {
    /// Reads a JWK set. Keys for other purposes, of other types and without a name are left out.
    ///
    /// # Errors
    /// [`KeysError`]: it is no JWK set, or has no key that can be used, or two of one name.
    pub fn parse(text: &[u8]) -> Result<Self, KeysError> {
        fn refuse<T>(what: &str) -> Result<T, KeysError> {
            Err(KeysError(format!("{what}; serve a JWK set with the public keys of the issuer")))
        }
        let set = json::object(text).or_else(|what| refuse(&format!("it is {what}")))?;
        let Some(Json::List(list)) = set.get("keys") else { return refuse("it has no list keys") };
        if list.len() > KEYS_MAX {
            return refuse(&format!("it has more than {KEYS_MAX} keys"));
        }
        let mut keys = BTreeMap::new();
        for jwk in list {
            let Json::Object(jwk) = jwk else { return refuse("one of its keys is no object") };
            let Some((kid, key)) = key(jwk) else { continue };
            if keys.insert(kid, key).is_some() {
                return refuse("two of its keys have the same kid");
            }
        }
        if keys.is_empty() {
            return refuse("it has no key with a kid for ES256, EdDSA or RS256 (of 2048 bits at least)");
        }
        Ok(Self(keys))
    }

    pub(super) fn get(&self, kid: &str) -> Option<&Key> {
        self.0.get(kid)
    }

    /// Whether one of them has this fingerprint.
    pub(super) fn has(&self, fingerprint: &[u8; 32]) -> bool {
        self.0.values().any(|key| key.fingerprint() == *fingerprint)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A key for signatures, with its name; `None`: it is for something else, or cannot be used.
fn key(jwk: &Object) -> Option<(String, Key)> {
    let text = |name: &str| jwk.get(name).and_then(Json::as_text);
    let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(name)?).ok();
    let is_for_signatures = jwk.get("use").is_none_or(|it| it.as_text() == Some("sig"))
        && jwk.get("key_ops").is_none_or(
            |it| matches!(it, Json::List(operations) if operations.iter().any(|it| it.as_text() == Some("verify"))),
        );
    if !is_for_signatures {
        return None;
    }
    let of_size = |name: &str, size: usize| bytes(name).filter(|it| it.len() == size);
    let material = match (text("kty")?, text("crv")) {
        ("EC", Some("P-256")) => Material::P256([vec![4], of_size("x", 32)?, of_size("y", 32)?].concat()),
        ("OKP", Some("Ed25519")) => Material::Ed25519(of_size("x", 32)?),
        ("RSA", _) => {
            let number = |name: &str| {
                let bytes = bytes(name)?;
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                bytes.get(zeros..).map(<[u8]>::to_vec)
            };
            let (n, e) = (number("n")?, number("e")?);
            if !(256..=1_024).contains(&n.len()) || !(1..=5).contains(&e.len()) {
                return None;
            }
            Material::Rsa { n, e }
        }
        _ => return None,
    };
    let key = Key(material);
    if jwk.get("alg").is_some_and(|alg| alg.as_text() != Some(key.algorithm().as_str())) {
        return None;
    }
    Some((text("kid").filter(|kid| !kid.is_empty())?.to_owned(), key))
}

impl Key {
    pub(super) const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Material::P256(_) => Algorithm::Es256,
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::Rsa { .. } => Algorithm::Rs256,
        }
    }

    /// Differs for different keys.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut all = Sha256::new();
        all.update(self.algorithm().as_str());
        match &self.0 {
            Material::P256(bytes) | Material::Ed25519(bytes) => all.update(bytes),
            Material::Rsa { n, e } => {
                all.update(Sha256::digest(n));
                all.update(e);
            }
        }
        all.finalize().into()
    }

    /// Whether this is the signature of a text with this key.
    pub(super) fn verifies(&self, signed: &str, signature: &[u8]) -> bool {
        let signed = signed.as_bytes();
        let verified = match &self.0 {
            Material::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
            Material::Ed25519(point) => UnparsedPublicKey::new(&signature::ED25519, point).verify(signed, signature),
            Material::Rsa { n, e } => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, signature)
            }
        };
        verified.is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.algorithm().as_str())
    }
}
