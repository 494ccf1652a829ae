//! A table `[[issuer]]` of the policy file.
//!
//! ```toml
//! [[issuer]]
//! issuer = "https://kubernetes.default.svc.cluster.local"
//! audience = "musterd"
//! jwks = "https://kubernetes.default.svc/openid/v1/jwks"
//! ca = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
//! bearer_file = "/var/run/secrets/kubernetes.io/serviceaccount/token"
//! identity = "k8s/{kubernetes.io.namespace}/{kubernetes.io.serviceaccount.name}"
//! ```

use std::time::Duration;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{rule::PolicyError, source::Source};
use crate::{
    jwt::{Issuer, Location, Template, https_url},
    rights::Identity,
};

/// The keys of an issuer.
const KEYS: [&str; 7] = ["issuer", "audience", "jwks", "ca", "bearer_file", "identity", "max_ttl"];
/// How long a token may still be valid, without `max_ttl`.
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Beyond it a TTL is no limit.
const LONGEST_TTL: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// A value, and where it stands.
type Text = (usize, String);

/// Reads one, which must not be mixed up with those before it.
pub(super) fn read(
    source: &Source<'_>,
    table: &Spanned<DeValue<'_>>,
    before: &[Issuer],
) -> Result<Issuer, PolicyError> {
    let at = table.span().start;
    let DeValue::Table(fields) = table.get_ref() else {
        return source.refuse(at, "issuer is not a table of its own; write [[issuer]]");
    };
    let text = |name| text(source, fields, name);
    if let Some((key, _)) = fields.iter().find(|(key, _)| !KEYS.contains(&key.get_ref().as_ref())) {
        let what = format!("unknown key {:?}; an issuer has {}", key.get_ref(), KEYS.join(", "));
        return source.refuse(key.span().start, what);
    }
    let needed = |name| match text(name)? {
        Some(text) => Ok(text),
        None => source.refuse(at, format!("the issuer has no {name}; write {name} = \"...\"")),
    };
    let (name, audience, (identity_at, identity)) = (needed("issuer")?, needed("audience")?, needed("identity")?);
    if before.iter().any(|it| it.name == name.1) {
        return source.refuse(name.0, format!("the issuer {:?} is there twice; remove one", name.1));
    }
    let identity = Template::parse(&identity).or_else(|what| source.refuse(identity_at, what))?;
    if let Err(error) = Identity::parse(&identity.example()) {
        return source.refuse(identity_at, format!("an identity such as {:?} {error}", identity.example()));
    }
    let beginning = identity.beginning();
    let is_like = |it: &&Issuer| {
        let other = it.identity.beginning();
        beginning.starts_with(&other) || other.starts_with(&beginning)
    };
    if let Some(other) = before.iter().find(is_like) {
        let what = format!(
            "this issuer and {:?} could give the same identity to two holders; begin it with a part of its own, such as \
             jwt/NAME/{{...}}",
            other.name
        );
        return source.refuse(identity_at, what);
    }
    let max_ttl = match text("max_ttl")? {
        None => MAX_TTL,
        Some((at, text)) => match humantime::parse_duration(&text) {
            Ok(ttl) if (Duration::from_secs(1)..=LONGEST_TTL).contains(&ttl) => ttl,
            _ => return source.refuse(at, format!("{text:?} is no duration of 1s to 400d; write for example \"24h\"")),
        },
    };
    let location = location(source, &name, text("jwks")?)?;
    let (ca, bearer_file) = (text("ca")?, text("bearer_file")?);
    if let (Location::File(_), Some((at, _))) = (&location, ca.as_ref().or(bearer_file.as_ref())) {
        return source
            .refuse(*at, "ca and bearer_file are for an https address of keys, and jwks is a file; remove it");
    }
    let path = |it: Option<Text>| it.map(|(_, path)| path.into());
    let (ca, bearer_file) = (path(ca), path(bearer_file));
    Ok(Issuer { name: name.1, audience: audience.1, location, ca, bearer_file, identity, max_ttl })
}

/// Where the keys are; without `jwks` where the issuer says.
fn location(source: &Source<'_>, (issuer_at, issuer): &Text, jwks: Option<Text>) -> Result<Location, PolicyError> {
    let url = |at: usize, text: &str| https_url(text).or_else(|error| source.refuse(at, error.to_string()));
    match jwks {
        Some((at, text)) if text.contains("://") => Ok(Location::Url(url(at, &text)?)),
        Some((_, text)) => Ok(Location::File(text.into())),
        None if https_url(issuer).is_err() => source
            .refuse(*issuer_at, format!("{issuer:?} is no https address to find its keys by; give them with jwks")),
        None => {
            let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            Ok(Location::Discovery(url(*issuer_at, &address)?))
        }
    }
}

/// The text of a key, if it is there.
fn text(source: &Source<'_>, fields: &DeTable<'_>, name: &str) -> Result<Option<Text>, PolicyError> {
    let Some((_, value)) = fields.iter().find(|(key, _)| key.get_ref() == name) else { return Ok(None) };
    let at = value.span().start;
    match value.get_ref() {
        DeValue::String(text) if !text.is_empty() => Ok(Some((at, text.to_string()))),
        _ => source.refuse(at, format!("{name} is no text, or empty; write {name} = \"...\"")),
    }
}
