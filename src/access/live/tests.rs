//! Who a caller is, by every combination of certificate and token, and what becomes of it when the files change.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::*;
use crate::access::{Memory, Verb, tokens::token};

const POLICY: &str = r#"
[[rule]]
who = ["token/a", "cert/a", "spiffe://td/a"]
may = ["register"]
on = ["svc-a"]
"#;

impl Access {
    /// The caller with this certificate and this `Authorization`.
    fn show(&self, certificate: Option<&Certificate>, authorization: Option<&str>) -> Result<Caller, Refused> {
        self.authenticate(Call { certificate, authorization, ..Call::default() })
    }
}

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap()
}

fn secret(name: &str, byte: u8) -> String {
    token(name, &[byte; 32])
}

fn tokens(lines: &[(&str, u8, &str)]) -> Tokens {
    let line = |(name, byte, more): &(&str, u8, &str)| format!("{name} {} {more}\n", Digest::of(&secret(name, *byte)));
    Tokens::parse(&lines.iter().map(line).collect::<String>()).unwrap()
}

fn access() -> Access {
    let tokens =
        tokens(&[("a", 1, ""), ("a", 2, "expires=2001-01-01T00:00:00Z"), ("b", 3, "expires=2999-01-01T00:00:00Z")]);
    Access::new(policy(POLICY), tokens, Clock::new())
}

fn bearer(name: &str, byte: u8) -> String {
    format!("Bearer {}", secret(name, byte))
}

fn certificate(uris: &[&str], names: &[&str], is_valid: bool) -> Certificate {
    let not_after = if is_valid { DateTime::from_timestamp(32_000_000_000, 0).unwrap() } else { DateTime::UNIX_EPOCH };
    Certificate::new(uris, names, not_after)
}

#[test]
fn token_is_its_identity_by_bearer_and_by_basic() {
    let access = access();
    let basic = format!("basic {}", BASE64_STANDARD.encode(format!("anyone:{}", secret("a", 1))));
    for authorization in [bearer("a", 1), format!("bearer  {} ", secret("a", 1)), basic] {
        let caller = access.show(None, Some(&authorization)).unwrap();
        assert_eq!((caller.identity().as_str(), caller.kind(), caller.expires()), ("token/a", Kind::Token, None));
        assert!(caller.is_enforced() && caller.may(Verb::Register, "svc-a") && !caller.may(Verb::Register, "svc-b"));
        assert!(caller.require(Verb::Register, "svc-b").is_err() && caller.require_everywhere(Verb::Register).is_err());
        assert!(caller.may_anywhere(Verb::Register) && !caller.may_anywhere(Verb::Read));
    }
    assert!(access.show(None, Some(&bearer("b", 3))).unwrap().expires().is_some());
}

#[test]
fn certificate_is_its_identity_until_it_ends() {
    let access = access();
    let caller = access.show(Some(&certificate(&[], &["a"], true)), None).unwrap();
    assert_eq!((caller.identity().as_str(), caller.kind()), ("cert/a", Kind::Certificate));
    let caller = access.show(Some(&certificate(&["spiffe://td/a"], &["x"], true)), None).unwrap();
    assert!(caller.may(Verb::Register, "svc-a") && caller.expires().is_some());
}

#[test]
fn credential_that_cannot_be_used_is_refused_by_its_reason() {
    let access = access();
    let (good, old) = (certificate(&[], &["a"], true), certificate(&[], &["a"], false));
    let odd = certificate(&["spiffe://td/a", "spiffe://td/b"], &["a"], true);
    let token = bearer("a", 1);
    let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
    for (certificate, authorization, reason) in [
        (None, None, "UNAUTHENTICATED"),
        (None, Some(bearer("a", 9)), "UNAUTHENTICATED"),
        (None, Some(bearer("c", 1)), "UNAUTHENTICATED"),
        (None, Some("Bearer".to_owned()), "UNAUTHENTICATED"),
        (None, Some("Bearer x".to_owned()), "UNAUTHENTICATED"),
        (None, Some(secret("a", 1)), "UNAUTHENTICATED"),
        (None, Some(format!("Digest {}", secret("a", 1))), "UNAUTHENTICATED"),
        (None, Some("Basic %%%".to_owned()), "UNAUTHENTICATED"),
        (None, Some(basic(&secret("a", 1))), "UNAUTHENTICATED"),
        (None, Some(String::new()), "UNAUTHENTICATED"),
        (None, Some(bearer("a", 2)), "CREDENTIAL_EXPIRED"),
        (Some(&old), None, "CREDENTIAL_EXPIRED"),
        (Some(&odd), None, "UNAUTHENTICATED"),
        (Some(&odd), Some(token.clone()), "UNAUTHENTICATED"),
        (Some(&good), Some(token.clone()), "TWO_IDENTITIES"),
        (Some(&good), Some("Bearer x".to_owned()), "TWO_IDENTITIES"),
    ] {
        let refused = access.show(certificate, authorization.as_deref()).unwrap_err();
        assert_eq!(refused.reason(), reason, "{authorization:?}: {refused}");
        let secret = authorization.as_deref().and_then(|it| it.split_once(' ')).map_or("AAAA", |(_, secret)| secret);
        assert!(secret.len() < 4 || !refused.to_string().contains(secret), "{refused}");
    }
}

#[test]
fn caller_without_a_credential_is_anonymous_if_a_rule_allows_it() {
    let text = format!("{POLICY}\n[[rule]]\nwho = [\"anonymous\"]\nmay = [\"metrics\"]\n");
    let access = Access::new(policy(&text), tokens(&[("a", 1, "")]), Clock::new());
    let caller = access.show(None, None).unwrap();
    assert!(caller.identity().is_anonymous() && caller.may_anywhere(Verb::Metrics) && !caller.may_anywhere(Verb::Read));
    assert!(access.show(None, Some(&bearer("a", 9))).is_err(), "a wrong token is not no token");
    assert!(access.show(None, Some(&bearer("a", 1))).unwrap().may_anywhere(Verb::Metrics));
    access.replace(policy(POLICY), Tokens::default());
    assert!(access.refresh(&caller).is_err());
}

#[tokio::test]
async fn caller_is_refreshed_when_policy_or_tokens_change() {
    let access = access();
    let mut changes = access.changes();
    let (of_token, of_certificate) = (
        access.show(None, Some(&bearer("a", 1))).unwrap(),
        access.show(Some(&certificate(&[], &["a"], true)), None).unwrap(),
    );
    assert!(changes.changed().now_or_never().is_none());
    assert_eq!(access.refresh(&of_token).unwrap().generation(), access.generation());

    // Another right, and the token has a second line: a rotation.
    access.replace(policy(&POLICY.replace("svc-a", "svc-b")), tokens(&[("a", 1, ""), ("a", 5, "")]));
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.unwrap();
    assert!(of_token.generation() < access.generation() && of_token.may(Verb::Register, "svc-a"));
    for caller in [&of_token, &of_certificate] {
        let caller = access.refresh(caller).unwrap();
        assert!(caller.may(Verb::Register, "svc-b") && !caller.may(Verb::Register, "svc-a"));
    }

    // The token is revoked, the certificate is not.
    access.replace(policy(POLICY), tokens(&[("a", 5, "")]));
    assert_eq!(access.refresh(&of_token).unwrap_err(), Cause::Unknown.into());
    assert!(access.refresh(&of_certificate).unwrap().may(Verb::Register, "svc-a"));
}

#[tokio::test]
async fn open_access_allows_everything_and_never_changes() {
    let access = Access::open();
    let caller = access.show(Some(&certificate(&[], &[], false)), Some("nonsense")).unwrap();
    assert!(!caller.is_enforced() && caller.identity().is_anonymous() && caller.expires().is_none());
    assert!(Verb::ALL.into_iter().all(|verb| caller.may_everywhere(verb) && caller.names(verb).is_everything()));
    access.replace(policy(POLICY), Tokens::default());
    assert!(access.changes().changed().now_or_never().is_none() && access.generation() == 0);
    assert_eq!(access.refresh(&caller).unwrap().generation(), 0);
}

#[test]
fn certificate_that_becomes_one_of_transport_loses_its_rights_at_the_next_refresh() {
    let access = access();
    let caller = access.show(Some(&certificate(&[], &["a"], true)), None).unwrap();
    assert!(access.refresh(&caller).is_ok());
    let carried = "transport = [\"cert/a\"]\n[[rule]]\nwho = [\"token/a\"]\nmay = [\"register\"]\non = [\"svc-a\"]\n";
    access.replace(policy(carried), tokens(&[("a", 1, "")]));
    let refused = access.refresh(&caller).unwrap_err();
    assert_eq!(refused, Refused::from(Cause::Transport(caller.identity().clone())));
}

#[test]
fn address_that_differs_by_reader_is_refused_to_callers_of_other_machines() {
    let caller = access().show(None, Some(&bearer("a", 1))).unwrap();
    let register = |address: &str, peer: Option<&str>| {
        caller.require_address("svc-a", address.parse().unwrap(), peer.map(|peer| peer.parse().unwrap())).is_ok()
    };
    for special in ["169.254.169.254", "127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "fe80::1", "224.0.0.1"] {
        assert!(!register(special, Some("10.0.0.7")), "{special}");
        assert!(!register(special, None), "{special}, whose caller has no address");
        assert!(register(special, Some("127.0.0.1")) && register(special, Some("::ffff:127.0.0.1")), "{special}");
    }
    assert!(register("192.0.2.1", Some("10.0.0.7")), "a rule without addresses allows all others");
}

#[test]
fn caller_of_a_connection_is_remembered_for_the_same_credential_and_policy_alone() {
    let (access, memory) = (access(), Memory::default());
    let (certificate, token) = (certificate(&[], &["a"], true), bearer("a", 1));
    let show = |certificate, authorization| {
        access.authenticate(Call { certificate, authorization, memory: Some(&memory), ..Call::default() })
    };
    let first = show(Some(&certificate), None).unwrap();
    let again = show(Some(&certificate), None).unwrap();
    assert!(std::ptr::eq(first.owner().unwrap(), again.owner().unwrap()), "it was looked up twice");
    assert_eq!(show(Some(&certificate), Some(&token)).unwrap_err().reason(), "TWO_IDENTITIES");
    access.replace(policy(&POLICY.replace("svc-a", "svc-b")), tokens(&[("a", 1, "")]));
    assert!(show(Some(&certificate), None).unwrap().may(Verb::Register, "svc-b"));
    assert_eq!(show(None, Some(&token)).unwrap().identity().as_str(), "token/a");
    assert_eq!(show(None, None).unwrap_err().reason(), "UNAUTHENTICATED");
}
