//! Every way in which a token can be wrong, and the right ones.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use super::*;

/// The modulus of an RSA key, and a token signed with it; the private key is gone.
const RSA_MODULUS: &str = "\
    sGQSA4o5tfpbV6mx0oOaU2Ny-qppw-S7uspoZzoNv-8XQMQf2Y4dZkhbQO1TNWncUS2-goX0j5GRpWVdLb7diZ7fjBVW1a-g3WmPmb5uml080L\
    WDs4u_MkxyPFejFu_Fjwffd3Ffu5SdsrhpDu6L_ovLDqzk8N5TwyjT3i6CQyD3ygQC-fb6sQabEKrWmFtsOy0e4A82ZNgs8I6x1YNx0L0FrK0j\
    Cb_qBuj_8pSlMGjf-c-1qhV1pmBVkoRXe7xcu5r-J3wGzuV7kFuH-nn2Qsw3NJGsLzpABfH4hekVfLGIDNqisA7-eYJ8GDiscJqgjRuGFnEET_\
    XFYa6rvjYHAQ";
const RSA_TOKEN: &str = "\
    eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0IiwiYXVkIjoibXVzdGVyZCIsInN1YiI6InMiL\
    CJleHAiOjMyMDAwMDAwMDAwLCJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6Im9yZ2FucyIsInNlcnZpY2VhY2NvdW50Ijp7Im5hbWUiOiJ\
    hIn19fQ.dz7aO60tBRvUfoR5Sayaju6aJYGgKF17dDAmGIXiRN0vqF7qMRFvrx43QImZUBIaUsi9qMNH__6dCD2ZnKmsupoffJuYVMeDZiDjC_\
    oc6QVo4wuGXQUAVVXlicKJT0Yvfjamx70g6AeScECnfSmMEbVrH3C98X1JZEcVtisQ2uTTJ_c7clMq_Ou4eIUh-_0GlOPd7PebXg06dJLGv1h2\
    5XFkD7ayzd2fM8uCHF5-nf3RCy0xyHuB0cFPD4Bj5u2b6cdarJh_-17CozVZFe0oggK2TVCvgh51laFfYqm0QHjzviv3oofatWrqYNCHktbnDj\
    X71_pgnvItkY5Jrj3QWw";

const NOW: i64 = 1_800_000_000;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).unwrap()
}

/// A key of each kind that can be made here, with the JWK set of both and of the RSA key.
struct Signers {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Signers {
    fn new() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            ec: EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
        }
    }

    fn set(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": encode(&point[1..33]), "y": encode(&point[33..]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "x": encode(self.ed.public_key()) },
            { "kty": "RSA", "kid": "rsa", "alg": "RS256", "e": "AQAB", "n": RSA_MODULUS },
        ]})
    }

    fn keys(&self) -> Keys {
        Keys::parse(self.set().to_string().as_bytes()).unwrap()
    }

    fn ec(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.ec.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature))
    }

    fn good(&self) -> String {
        self.ec(HEADER, &claims().to_string())
    }

    fn with(&self, name: &str, value: Value) -> String {
        let mut claims = claims();
        claims[name] = value;
        self.ec(HEADER, &claims.to_string())
    }

    fn without(&self, name: &str) -> String {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        self.ec(HEADER, &claims.to_string())
    }
}

const HEADER: &str = r#"{"alg":"ES256","typ":"JWT","kid":"ec"}"#;

fn claims() -> Value {
    json!({
        "iss": "https://issuer.test", "aud": ["musterd"], "sub": "system:serviceaccount:organs:a", "exp": NOW + 600,
        "nbf": NOW, "iat": NOW,
        "kubernetes.io": { "namespace": "organs", "serviceaccount": { "name": "a", "uid": "u" } },
    })
}

fn issuer() -> Issuer {
    Issuer {
        name: "https://issuer.test".to_owned(),
        audience: "musterd".to_owned(),
        location: Location::File("keys".into()),
        ca: None,
        bearer_file: None,
        identity: Template::parse("k8s/{kubernetes.io.namespace}/{kubernetes.io.serviceaccount.name}").unwrap(),
        max_ttl: Duration::from_secs(86_400),
    }
}

/// Of one issuer with these keys.
fn trusted(issuer: Issuer, keys: Keys) -> Vec<Arc<Trusted>> {
    let trusted = Trusted::new(issuer);
    assert!(trusted.take(keys.clone()) && !trusted.take(keys));
    vec![Arc::new(trusted)]
}

fn check(trusted: &[Arc<Trusted>], token: &str) -> Result<Verified, Problem> {
    verify(trusted, token, now(), &Failures::default(), 1)
}

#[test]
fn token_with_each_algorithm_gives_the_identity_of_its_claims() {
    let signers = Signers::new();
    let issuers = trusted(Issuer { max_ttl: Duration::MAX, ..issuer() }, signers.keys());
    let signed = format!("{}.{}", encode(r#"{"alg":"EdDSA","kid":"ed"}"#), encode(claims().to_string()));
    let eddsa = format!("{signed}.{}", encode(signers.ed.sign(signed.as_bytes())));
    for token in [&signers.good(), &eddsa, RSA_TOKEN, &signers.with("aud", "musterd".into())] {
        let verified = check(&issuers, token).unwrap();
        assert_eq!(verified.identity, "k8s/organs/a");
        assert!(verified.proof.still_good(&issuers).is_ok() && looks_like_one(token));
    }
    assert_eq!(check(&issuers, &signers.good()).unwrap().expires, now() + TimeDelta::seconds(630));
    // One that has expired is told apart by its holder's name, so it must be genuine.
    let old = check(&issuers, &signers.with("exp", (NOW - 600).into())).unwrap();
    assert!(old.expires < now() && old.identity == "k8s/organs/a");
}

#[test]
fn token_with_a_wrong_header_is_refused_before_its_signature() {
    let signers = Signers::new();
    let (issuers, body) = (trusted(issuer(), signers.keys()), claims().to_string());
    let signed = |header: &str| signers.ec(header, &body);
    let by_hmac = |secret: &[u8]| {
        let signed = format!("{}.{}", encode(r#"{"alg":"HS256","kid":"rsa"}"#), encode(&body));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        format!("{signed}.{}", encode(tag))
    };
    let none = format!("{}.{}.{}", encode(r#"{"alg":"none","kid":"ec"}"#), encode(&body), encode("x"));
    for (token, expected) in [
        (none, "the algorithm"),
        (by_hmac(RSA_MODULUS.as_bytes()), "the algorithm"),
        (by_hmac(signers.ec.public_key().as_ref()), "the algorithm"),
        (signed(r#"{"alg":"es256","kid":"ec"}"#), "the algorithm"),
        (signed(r#"{"alg":"RS256","kid":"ec"}"#), "another algorithm than its key"),
        (signed(r#"{"alg":"ES256","kid":"rsa"}"#), "another algorithm than its key"),
        (signed(r#"{"alg":"ES256","kid":"gone"}"#), "has no key \"gone\""),
        (signed(r#"{"alg":"ES256"}"#), "no text kid"),
        (signed(r#"{"alg":"ES256","kid":7}"#), "no text kid"),
        (signed(r#"{"alg":["ES256"],"kid":"ec"}"#), "no text alg"),
        (signed(r#"{"alg":"ES256","kid":"ec","alg":"none"}"#), "there twice"),
        (signed(r#"{"alg":"ES256","kid":"ec","jku":"https://evil.test/"}"#), "the header \"jku\""),
        (signed(r#"{"alg":"ES256","kid":"ec","x5u":"https://evil.test/"}"#), "the header \"x5u\""),
        (signed(r#"{"alg":"ES256","kid":"ec","jwk":{"kty":"EC"}}"#), "the header \"jwk\""),
        (signed(r#"{"alg":"ES256","kid":"ec","x5c":["MII"]}"#), "the header \"x5c\""),
        (signed(r#"{"alg":"ES256","kid":"ec","crit":["exp"]}"#), "the header \"crit\""),
        (signed(r#"{"alg":"ES256","kid":"ec","typ":"dpop+jwt"}"#), "the header \"typ\""),
    ] {
        let failures = Failures::default();
        let error = verify(&issuers, &token, now(), &failures, 1).unwrap_err();
        assert!(error.to_string().contains(expected), "{token}: {error}");
        assert_ne!(error, Problem::Signature);
    }
}

#[test]
fn text_that_is_no_token_is_refused() {
    let signers = Signers::new();
    let (issuers, good) = (trusted(issuer(), signers.keys()), signers.good());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = signed.split_once('.').unwrap();
    for token in [
        String::new(),
        "..".to_owned(),
        "a.b".to_owned(),
        format!("{good}.x"),
        format!("{signed}."),
        format!("{signed}.{signature}="),
        format!("{signed}.+/{signature}"),
        format!("{header}.{body}%.{signature}"),
        format!("{header}. {body}.{signature}"),
        format!("{}.{body}.{signature}", encode("[1]")),
        format!("{header}.{}.{signature}", encode("{")),
        format!("{header}.{}.{signature}", encode([0xff, 0xfe])),
        format!("{header}.{}.{signature}", encode("[".repeat(4_000))),
        signers.with("pad", "x".repeat(8 << 10).into()),
        signers.with("pad", "x".repeat(1 << 20).into()),
    ] {
        let error = check(&issuers, &token).unwrap_err();
        assert!(matches!(error, Problem::Malformed(_)), "{}: {error}", token.get(..60).unwrap_or(&token));
    }
}

#[test]
fn token_with_wrong_claims_is_refused() {
    let signers = Signers::new();
    let issuers = trusted(issuer(), signers.keys());
    let kubernetes = |namespace: Value| json!({ "namespace": namespace, "serviceaccount": { "name": "a" } });
    let twice = claims().to_string().replacen('{', r#"{"aud":"other","#, 1);
    let inner = claims().to_string().replace(r#""uid":"u""#, r#""name":"b""#);
    for (token, expected) in [
        (signers.without("iss"), "claim iss"),
        (signers.with("iss", json!(["https://issuer.test"])), "claim iss"),
        (signers.with("iss", "https://issuer.test/".into()), "the issuer"),
        (signers.with("iss", "https://evil.test".into()), "the issuer"),
        (signers.without("aud"), "not for the audience"),
        (signers.with("aud", "other".into()), "not for the audience"),
        (signers.with("aud", "musterd2".into()), "not for the audience"),
        (signers.with("aud", json!([])), "not for the audience"),
        (signers.with("aud", json!(["other"])), "not for the audience"),
        (signers.with("aud", json!(["musterd", 1])), "not for the audience"),
        (signers.with("aud", json!({ "musterd": true })), "not for the audience"),
        (signers.without("exp"), "no claim exp"),
        (signers.with("exp", (NOW + 600).to_string().into()), "claim exp"),
        (signers.with("exp", Value::Null), "claim exp"),
        (signers.with("exp", (-1).into()), "claim exp"),
        (signers.with("exp", json!(1e300)), "claim exp"),
        (signers.with("exp", (NOW + 90_000).into()), "more than 1day"),
        (signers.with("nbf", (NOW + 31).into()), "not valid yet"),
        (signers.with("nbf", "0".into()), "claim nbf"),
        (signers.without("sub"), "claim sub"),
        (signers.with("sub", "".into()), "claim sub"),
        (signers.with("sub", 1.into()), "claim sub"),
        (signers.without("kubernetes.io"), "kubernetes.io.namespace"),
        (signers.with("kubernetes.io", kubernetes("organs/sa".into())), "kubernetes.io.namespace"),
        (signers.with("kubernetes.io", kubernetes("".into())), "kubernetes.io.namespace"),
        (signers.with("kubernetes.io", kubernetes(json!(["organs"]))), "kubernetes.io.namespace"),
        // The same place in two ways.
        (signers.with("kubernetes.io.namespace", "other".into()), "kubernetes.io.namespace"),
        (signers.ec(HEADER, &twice), "there twice"),
        (signers.ec(HEADER, &inner), "there twice"),
    ] {
        let error = check(&issuers, &token).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    // At the edge of what clocks may differ by.
    assert!(check(&issuers, &signers.with("nbf", (NOW + 30).into())).is_ok());
}

#[test]
fn wrong_signature_is_refused_and_after_ten_in_a_second_the_address_is() {
    let (signers, others) = (Signers::new(), Signers::new());
    let issuers = trusted(issuer(), signers.keys());
    let (forged, failures) = (others.good(), Failures::default());
    let ask = |token: &str, at: DateTime<Utc>, address| verify(&issuers, token, at, &failures, address).map(drop);
    for _ in 0..10 {
        assert_eq!(ask(&forged, now(), 1), Err(Problem::Signature));
    }
    assert_eq!(ask(&forged, now(), 1), Err(Problem::TooManyFailures));
    assert_eq!(ask(&signers.good(), now(), 1), Err(Problem::TooManyFailures));
    // Other addresses and the next second are not concerned, and a token that costs nothing does not count.
    assert_eq!(ask(&signers.good(), now(), 2), Ok(()));
    assert_eq!(ask(&signers.good(), now() + TimeDelta::seconds(1), 1), Ok(()));
    let (signed, _) = forged.rsplit_once('.').unwrap();
    assert_eq!(ask(&format!("{signed}.{}", encode([0; 64])), now(), 3), Err(Problem::Signature));
    assert_eq!(ask(&format!("{signed}.{}", encode([1; 63])), now(), 3), Err(Problem::Signature));
}

#[test]
fn key_that_was_rotated_away_is_not_trusted_any_more() {
    let (signers, next) = (Signers::new(), Signers::new());
    let issuers = trusted(issuer(), signers.keys());
    let proof = check(&issuers, &signers.good()).unwrap().proof;
    assert!(issuers[0].take(next.keys()));
    assert_eq!(check(&issuers, &signers.good()).unwrap_err(), Problem::Signature);
    assert_eq!(proof.still_good(&issuers), Err(Problem::Untrusted));
    assert!(check(&issuers, &next.good()).is_ok());
    assert_eq!(proof.still_good(&[]), Err(Problem::Untrusted));
}

#[test]
fn token_of_an_issuer_without_keys_is_refused_with_that_reason() {
    let issuers = [Arc::new(Trusted::new(issuer()))];
    assert!(matches!(check(&issuers, &Signers::new().good()), Err(Problem::KeysNotLoaded(_))));
    assert!(!issuers[0].has_keys());
}

#[tokio::test]
async fn unknown_key_has_the_keys_fetched_once_a_minute() {
    let signers = Signers::new();
    let issuers = trusted(issuer(), signers.keys());
    let unknown = signers.ec(r#"{"alg":"ES256","kid":"next"}"#, &claims().to_string());
    let is_due = async || {
        let due = issuers[0].due().now_or_never().is_some();
        issuers[0].fetch_after(Duration::from_secs(300));
        due
    };
    assert!(is_due().await, "the first fetch is due at once");
    assert!(!is_due().await);
    assert!(matches!(check(&issuers, &unknown), Err(Problem::UnknownKey { .. })));
    assert!(is_due().await);
    for _ in 0..3 {
        assert!(check(&issuers, &unknown).is_err() && !is_due().await);
    }
}

#[test]
fn set_without_a_key_that_can_be_used_is_refused() {
    let signers = Signers::new();
    let key = |name: &str, value: Value| {
        let mut key = signers.set()["keys"][0].clone();
        key[name] = value;
        json!({ "keys": [key] })
    };
    let rsa = |bytes: usize| json!({ "kty": "RSA", "kid": "a", "e": "AQAB", "n": encode(vec![0xff; bytes]) });
    for set in [
        json!({}),
        json!([]),
        json!({ "keys": {} }),
        json!({ "keys": [] }),
        json!({ "keys": [1] }),
        json!({ "keys": [{ "kty": "oct", "kid": "a", "k": "c2VjcmV0" }] }),
        json!({ "keys": [rsa(128)] }),
        json!({ "keys": [rsa(2_048)] }),
        json!({ "keys": [signers.set()["keys"][0], signers.set()["keys"][0]] }),
        key("use", "enc".into()),
        key("key_ops", json!(["sign"])),
        key("alg", "ES384".into()),
        key("crv", "P-384".into()),
        key("x", "AAAA".into()),
        key("kid", "".into()),
    ] {
        assert!(Keys::parse(set.to_string().as_bytes()).is_err(), "{set}");
    }
    for garbage in ["", "<html>", "{", "\u{0}", r#"{"keys":[],"keys":[]}"#] {
        assert!(Keys::parse(garbage.as_bytes()).is_err(), "{garbage}");
    }
    assert_eq!(Keys::parse(json!({ "keys": [rsa(256), { "kty": "oct" }] }).to_string().as_bytes()).unwrap().len(), 1);
    assert_eq!(Keys::parse(key("key_ops", json!(["verify"])).to_string().as_bytes()).unwrap().len(), 1);
}

#[test]
fn template_that_could_name_two_holders_alike_is_refused() {
    for text in [
        "",
        "k8s",
        "k8s/a/b",
        "k8s/{a}",
        "k8s/{a}/{b}/{c}",
        "token/{sub}",
        "spiffe://td/{sub}",
        "local",
        "{sub}",
        "jwt/{sub}",
        "jwt/{a}/{b}",
        "jwt/x/y",
        "jwt/x/{a}{b}",
        "jwt/x/p{a}",
        "jwt/x/{}",
        "jwt/x/{{a}}",
        "jwt//{a}",
        "k8s//{a}",
    ] {
        assert!(Template::parse(text).is_err(), "{text}");
    }
    let template = Template::parse("jwt/okta/{sub}").unwrap();
    assert_eq!((template.beginning().as_str(), template.example().as_str()), ("jwt/okta/", "jwt/okta/x"));
}

#[test]
fn address_of_keys_is_https_alone() {
    for url in [
        "http://a/b",
        "https://",
        "https:///b",
        "https://u@a/b",
        "https://a/b#c",
        "https://a/b?c",
        "a",
        "/a",
        "ftp://a",
    ] {
        assert!(https_url(url).is_err(), "{url}");
    }
    for url in ["https://a/b", "https://a:6443/openid/v1/jwks", "https://[::1]:1/", "https://a"] {
        assert!(https_url(url).is_ok(), "{url}");
    }
}
