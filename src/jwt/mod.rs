//! JSON web tokens: which issuers are trusted, by which keys, and what a token of theirs says of its holder.
//!
//! Any caller can write a token, so each thing that it names is held against what the policy and the keys say,
//! before its signature is looked at: the issuer, the key, and the algorithm, which is that of the key. A token cannot bring a
//! key, name an address to fetch one from, or choose an algorithm. Claims have strict types, and none may be there twice.
//!
//! - [`json`]: JSON in which no name stands twice; [`token`]: from a text to header, claims and signature.
//! - [`keys`]: a JWK set, and the check of a signature by ring.
//! - [`issuer`]: an issuer, as the policy has it; [`template`]: from claims to an identity.
//! - [`trusted`]: the issuers with the keys in use, and the verification. The keys are fetched by [`crate::jwks`], apart from
//!   any call: a verification never waits.
//! - [`failures`]: a limit for signatures that are wrong, because each of them costs processor time.
//!
//! The parser is our own, on ring, which TLS brings: a library for tokens has to take what all its users have, and here
//! everything that is not expected is refused.

mod failures;
mod issuer;
mod json;
mod keys;
mod problem;
mod template;
mod token;
mod trusted;

pub use failures::Failures;
pub use issuer::{Issuer, Location, UrlError, https_url};
pub use keys::{Keys, KeysError};
pub use problem::Problem;
pub use template::Template;
pub use token::looks_like_one;
pub use trusted::{Proof, Trusted, Verified, verify};

#[cfg(test)]
mod tests;
