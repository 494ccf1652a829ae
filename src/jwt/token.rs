//! From a text to the parts of a token, none of them checked but for its form.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::{
    json::{self, Object},
    keys::Algorithm,
    problem::Problem,
};

/// The longest token, in bytes.
const TOKEN_MAX_BYTES: usize = 8 << 10;
/// The longest name of a key, in bytes.
const KID_MAX_BYTES: usize = 256;
/// Headers that would bring a key or an address of one, or change what a token means.
const REFUSED_HEADERS: [&str; 8] = ["crit", "jku", "jwk", "x5u", "x5c", "b64", "enc", "zip"];

/// A token.
#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: String,
    pub(super) claims: Object,
    /// What is signed.
    pub(super) signed: &'a str,
    pub(super) signature: Vec<u8>,
}

/// Whether a text may be a token: three parts between dots.
#[must_use]
pub fn looks_like_one(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Malformed(what.into()))
}

fn part(name: &str, text: &str) -> Result<Vec<u8>, Problem> {
    match BASE64_URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => malformed(format!("its {name} is no Base64 for URLs, or empty")),
    }
}

fn object(name: &str, text: &str) -> Result<Object, Problem> {
    json::object(&part(name, text)?).or_else(|what| malformed(format!("its {name} is {what}")))
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Problem> {
        if text.len() > TOKEN_MAX_BYTES {
            return malformed(format!("it is longer than {TOKEN_MAX_BYTES} bytes"));
        }
        let parts =
            text.rsplit_once('.').and_then(|(signed, signature)| Some((signed, signed.split_once('.')?, signature)));
        let Some((signed, (header, claims), signature)) = parts.filter(|(_, (_, claims), _)| !claims.contains('.'))
        else {
            return malformed("it has not three parts");
        };
        let header = object("header", header)?;
        if let Some(name) = REFUSED_HEADERS.into_iter().find(|name| header.contains_key(*name)) {
            return Err(Problem::Header(name));
        }
        let of_header = |name: &str| header.get(name).and_then(json::Json::as_text);
        if header.contains_key("typ") && !of_header("typ").is_some_and(is_type) {
            return Err(Problem::Header("typ"));
        }
        let Some(name) = of_header("alg") else { return malformed("its header has no text alg") };
        let algorithm = Algorithm::named(name).ok_or(Problem::Algorithm)?;
        let kid = of_header("kid").filter(|kid| (1..=KID_MAX_BYTES).contains(&kid.len()));
        let Some(kid) = kid.map(str::to_owned) else { return malformed("its header has no text kid") };
        let claims = object("body", claims)?;
        Ok(Self { algorithm, kid, claims, signed, signature: part("signature", signature)? })
    }
}

fn is_type(typ: &str) -> bool {
    typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt")
}
