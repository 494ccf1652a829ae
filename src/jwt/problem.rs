//! Why a token is not accepted. No text holds a part of the token but the names that are public: issuer and key.

use thiserror::Error;

/// What is wrong with a token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// It has not the form of one.
    #[error("the JSON web token cannot be read: {0}; check the file that it comes from")]
    Malformed(String),
    /// Its header asks for something that no token may ask for.
    #[error(
        "the JSON web token has the header {0:?}, which is not accepted; use a token that is signed with a key of its issuer"
    )]
    Header(&'static str),
    /// No key of an issuer is for this algorithm.
    #[error("the algorithm of the JSON web token is not accepted; ES256, EdDSA and RS256 are")]
    Algorithm,
    /// The algorithm is not that of the key.
    #[error(
        "the JSON web token has another algorithm than its key; its issuer is to sign with the algorithm of the key"
    )]
    AlgorithmOfKey,
    /// The policy does not name its issuer.
    #[error(
        "the issuer of the JSON web token ({0:?}) is not one of the policy; add an [[issuer]], or use another token"
    )]
    UnknownIssuer(String),
    /// The issuer has no such key, as far as this daemon knows.
    #[error("the issuer {issuer:?} has no key {kid:?}; the keys are fetched again, call again with a present token")]
    UnknownKey {
        /// The issuer.
        issuer: String,
        /// The name of the key.
        kid: String,
    },
    /// A key that was in use is so no more.
    #[error("the key of the JSON web token, or its issuer, is not trusted any more; get a new token")]
    Untrusted,
    /// The signature is not that of the key.
    #[error("the signature of the JSON web token is wrong; get a new token from its issuer")]
    Signature,
    /// A claim is missing, of another type, or not what is expected.
    #[error("the JSON web token {0}")]
    Claim(String),
    /// The keys of the issuer have never been fetched.
    #[error("the keys of the issuer {0:?} are not loaded yet; call again, or call another daemon")]
    KeysNotLoaded(String),
    /// Too many wrong signatures came from this address.
    #[error("too many wrong signatures came from this address; call again in a second")]
    TooManyFailures,
}

/// A text of a token that an error repeats: short, and on one line.
pub(super) fn shown(text: &str) -> String {
    text.escape_debug().take(120).collect()
}
