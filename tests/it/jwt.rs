//! JSON web tokens through the running daemon, with an issuer that serves its keys by HTTPS.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use musterd::{
    access::{
        Access, Call, Memory, Policy, Tokens, Verb,
        tokens::{Digest, token},
    },
    clock::Clock,
    proto::v1::{self, discovery_service_client::DiscoveryServiceClient},
};
use musterd_client::{Choice, Client, Error, Filter, Register, State, Step, Tls, Token};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::timeout;
use tonic::{Code, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request,
};
use tonic_types::StatusExt as _;

use crate::{
    cli::musterd,
    harness::{
        daemon::DAEMON_BOUND,
        issuer::{Issuer, Signer},
        scratch::Scratch,
        secured::Secured,
        wait::wait_until,
    },
};

const RULES: &str = r#"
[[rule]]
who = ["k8s/organs/{sa}"]
may = ["register", "resolve", "read"]
on = ["{sa}", "{sa}_*"]
"#;

async fn secured(issuer: &Issuer, with_jwks: bool) -> Secured {
    Secured::enforced(&format!("{}{RULES}", issuer.table(with_jwks)), &[]).await
}

/// A client that shows this token.
fn client(secured: &Secured, token: &str) -> Client {
    let tls = Tls::new().ca(secured.path("ca.pem"));
    let builder = Client::builder().daemons([secured.address()]).tls(tls).token(Token::text(token));
    builder.retry_for(Duration::ZERO).build().unwrap()
}

/// What the daemon knows the holder of a token by; the reason if it does not.
async fn known(secured: &Secured, token: &str) -> Result<String, String> {
    let known = timeout(DAEMON_BOUND, client(secured, token).who_am_i()).await.unwrap();
    known.map(|known| format!("{} {}", known.identity, known.kind)).map_err(|error| reason(&error))
}

fn reason(error: &Error) -> String {
    error.reason().name().to_owned()
}

async fn until_known(secured: &Secured, token: &str) {
    wait_until("the token is accepted", DAEMON_BOUND, async || known(secured, token).await).await;
}

fn none() -> serde_json::Value {
    json!({})
}

#[tokio::test(flavor = "multi_thread")]
async fn service_account_registers_its_own_name_with_its_token() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(&[&signer]).await;
    // By discovery, with the token that the server wants.
    let secured = secured(&issuer, false).await;
    let token = signer.sign(&issuer.claims("a", 600), &none());
    until_known(&secured, &token).await;
    assert_eq!(known(&secured, &token).await.as_deref(), Ok("k8s/organs/a jwt"));
    let client = client(&secured, &token);
    for name in ["a", "a_1"] {
        let registered = client.register(Register::new(name)).await.unwrap();
        std::mem::forget(registered);
    }
    assert_eq!(reason(&client.register(Register::new("b")).await.unwrap_err()), "PERMISSION_DENIED");
    let line = format!("Authorization: Bearer {token}");
    let (head, body) = secured.ask("/api/v1/names?name=a", &[&line], false).await;
    assert!(head.starts_with("http/1.1 200") && body.contains("\"filtered\":true"), "{head} {body}");

    std::fs::write(secured.path("a.jwt"), &token).unwrap();
    let (address, ca, file) = (secured.address(), secured.path("ca.pem"), secured.path("a.jwt"));
    let said = musterd(&["whoami", "--addr", &address, "--ca", &ca, "--token-file", &file]).await;
    assert!(said.code == Some(0) && said.stdout.contains("k8s/organs/a") && said.stdout.contains("jwt"), "{said:?}");
    let checked = musterd(&["policy", "check", &secured.path("policy.toml")]).await;
    assert!(checked.stdout.ends_with("rules, 1 issuer\n"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_token_is_refused_on_both_ports_and_its_addresses_are_never_asked() {
    let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
    let issuer = Issuer::start(&[&signer]).await;
    let secured = secured(&issuer, true).await;
    let claims = issuer.claims("a", 600);
    let good = signer.sign(&claims, &none());
    until_known(&secured, &good).await;
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        signer.sign(&claims, &none())
    };
    let evil = format!("{}/evil", issuer.name());
    for (token, expected) in [
        (stranger.sign(&claims, &none()), "UNAUTHENTICATED"),
        (signer.sign(&claims, &json!({ "alg": "none" })), "UNAUTHENTICATED"),
        (signer.sign(&claims, &json!({ "alg": "HS256" })), "UNAUTHENTICATED"),
        (signer.sign(&claims, &json!({ "jku": evil })), "UNAUTHENTICATED"),
        (signer.sign(&claims, &json!({ "x5u": evil })), "UNAUTHENTICATED"),
        (signer.sign(&claims, &json!({ "crit": ["exp"] })), "UNAUTHENTICATED"),
        (signer.sign(&claims, &json!({ "kid": evil })), "UNAUTHENTICATED"),
        (with("iss", evil.clone().into()), "UNAUTHENTICATED"),
        (with("aud", "other".into()), "UNAUTHENTICATED"),
        (with("exp", "32000000000".into()), "UNAUTHENTICATED"),
        (with("sub", serde_json::Value::Null), "UNAUTHENTICATED"),
        (
            with("kubernetes.io", json!({ "namespace": "organs/a", "serviceaccount": { "name": "a" } })),
            "UNAUTHENTICATED",
        ),
        (with("kubernetes.io", json!({ "namespace": "Organs", "serviceaccount": { "name": "a" } })), "UNAUTHENTICATED"),
        (good.replace('.', ".."), "UNAUTHENTICATED"),
        (signer.sign(&issuer.claims("a", -1), &none()), "CREDENTIAL_EXPIRED"),
    ] {
        assert_eq!(known(&secured, &token).await, Err(expected.to_owned()), "{token}");
        let (head, body) = secured.ask("/api/v1/names", &[&format!("Authorization: Bearer {token}")], false).await;
        assert!(head.starts_with("http/1.1 401") && body.contains(expected), "{head} {body}");
    }
    assert!(issuer.heads().iter().all(|head| head.starts_with("GET /keys ")), "{:?}", issuer.heads());
    // A caller with a certificate cannot speak for a token as well.
    let both = Client::builder().daemons([secured.address()]).tls(secured.tls()).token(Token::text(&*good));
    let both = both.retry_for(Duration::ZERO).build().unwrap();
    assert_eq!(both.who_am_i().await.map_err(|error| reason(&error)).unwrap_err(), "TWO_IDENTITIES");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_key_is_followed_and_a_failing_issuer_changes_nothing() {
    let (first, second) = (Signer::new("first"), Signer::new("second"));
    let issuer = Issuer::start(&[&first]).await;
    let secured = secured(&issuer, true).await;
    let token = |signer: &Signer, account: &str| signer.sign(&issuer.claims(account, 600), &none());
    let (old, new) = (token(&first, "a"), token(&second, "a"));
    until_known(&secured, &old).await;
    // A token with the name of the new key has the keys fetched.
    issuer.set_keys(&[&first, &second]);
    until_known(&secured, &new).await;
    assert!(known(&secured, &old).await.is_ok());

    let failed = async |secured: &Secured| {
        secured.metric(r#"musterd_security_reloads_total{what="jwks",outcome="failed"}"#).await.unwrap()
    };
    for (account, trouble) in [
        ("b", &(|| issuer.refuse()) as &dyn Fn()),
        ("c", &|| issuer.set_garbage("<html>")),
        ("d", &|| issuer.set_garbage(r#"{"keys":[]}"#)),
    ] {
        let before = failed(&secured).await;
        trouble();
        secured.daemon.signal(Signal::SIGHUP);
        wait_until("the fetch has failed", DAEMON_BOUND, async || {
            if failed(&secured).await > before { Ok(()) } else { Err(before) }
        })
        .await;
        // Also for a token that the daemon sees for the first time.
        assert_eq!(known(&secured, &token(&second, account)).await, Ok(format!("k8s/organs/{account} jwt")));
    }
    let status = secured.operator(&["status"]).await;
    assert!(status.stdout.contains("keys of the issuer"), "{status:?}");
    let asked = issuer.heads().len();
    issuer.stall();
    secured.daemon.signal(Signal::SIGHUP);
    wait_until(
        "the issuer is asked",
        DAEMON_BOUND,
        async || {
            if issuer.heads().len() > asked { Ok(()) } else { Err(asked) }
        },
    )
    .await;
    assert!(known(&secured, &token(&second, "e")).await.is_ok());

    issuer.set_keys(&[&second]);
    // The fetch that hangs is given up after a while; the next one brings the keys.
    wait_until("the old key is out of use", DAEMON_BOUND, async || {
        secured.daemon.signal(Signal::SIGHUP);
        match known(&secured, &old).await {
            Err(reason) if reason == "UNAUTHENTICATED" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert!(known(&secured, &new).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_without_keys_sends_callers_to_another_one_until_it_has_them() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(&[]).await;
    let secured = secured(&issuer, true).await;
    let token = signer.sign(&issuer.claims("a", 600), &none());
    assert_eq!(known(&secured, &token).await, Err("NOT_YET_SEEN".to_owned()));
    let (head, _) = secured.ask("/api/v1/names", &[&format!("Authorization: Bearer {token}")], false).await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    issuer.set_keys(&[&signer]);
    until_known(&secured, &token).await;
}

#[tokio::test]
async fn documented_policies_are_valid() {
    let page = std::fs::read_to_string(format!("{}/docs/security.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let policies: Vec<&str> = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(policies.len() >= 2 && policies.iter().any(|policy| policy.contains("[[issuer]]")), "{policies:?}");
    let files = Scratch::in_memory();
    for policy in policies {
        let path = files.path().join("policy.toml");
        std::fs::write(&path, policy).unwrap();
        let checked = musterd(&["policy", "check", path.to_str().unwrap()]).await;
        assert_eq!(checked.code, Some(0), "{policy}\n{checked:?}");
    }
}

const ISSUER: &str = r#"
[[issuer]]
issuer = "https://kubernetes.default.svc.cluster.local"
audience = "musterd"
jwks = "https://kubernetes.default.svc/openid/v1/jwks"
identity = "k8s/{kubernetes.io.namespace}/{kubernetes.io.serviceaccount.name}"
[[rule]]
who = ["k8s/organs/{sa}"]
may = ["register"]
on = ["{sa}", "{sa}_*"]
"#;

#[test]
fn service_account_registers_under_its_own_name_alone() {
    let policy = Policy::parse(ISSUER).unwrap();
    assert_eq!((policy.to_string().as_str(), policy.issuers().len()), ("1 rule, 1 issuer", 1));
    for (who, name, expected) in [
        ("k8s/organs/a", "a", true),
        ("k8s/organs/a", "a_1", true),
        ("k8s/organs/a", "a-b", false),
        ("k8s/other/a", "a", false),
        ("k8s/organs/a.b", "a", false),
    ] {
        let who = who.parse().unwrap();
        assert_eq!(policy.allows(&who, Verb::Register, name).is_some(), expected, "{who} {name}");
    }
}

#[test]
fn issuer_that_is_not_understood_is_refused() {
    let with = |from: &str, to: &str| {
        assert!(ISSUER.contains(from), "{from}");
        ISSUER.replace(from, to)
    };
    let second = |issuer: &str, identity: &str| {
        format!("{ISSUER}[[issuer]]\nissuer = {issuer:?}\naudience = 'm'\nidentity = {identity:?}\n")
    };
    for (text, part) in [
        (with("audience = \"musterd\"\n", ""), "2:1: the issuer has no audience"),
        (with("audience", "audiences"), "unknown key \"audiences\""),
        (with("\"musterd\"", "[\"musterd\"]"), "audience is no text"),
        (with("https://kubernetes.default.svc/", "http://kubernetes.default.svc/"), "is no https address"),
        (with("jwks = \"https://kubernetes.default.svc/openid/v1/jwks\"", "jwks = 'keys'\nca = 'ca'"), "remove it"),
        (with("k8s/{kubernetes.io.namespace}", "cert"), "neither k8s/{...}/{...} nor jwt/NAME/{...}"),
        (with("identity =", "max_ttl = 'long'\nidentity ="), "is no duration"),
        (with("k8s/organs/{sa}", "jwt/okta/{sa}"), "no [[issuer]] gives identities such as \"jwt/okta/{sa}\""),
        (ISSUER[ISSUER.find("[[rule]]").unwrap()..].to_owned(), "no [[issuer]] gives"),
        (second("https://kubernetes.default.svc.cluster.local", "jwt/b/{sub}"), "is there twice"),
        (second("https://b", "k8s/{a}/{b}"), "the same identity to two holders"),
        (second("b", "jwt/b/{sub}"), "is no https address to find its keys by"),
    ] {
        let error = Policy::parse(&text).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(Policy::parse(&second("https://b", "jwt/b/{sub}")).is_ok());
}

/// A token in a file, which the client reads.
fn with_file(secured: &Secured, file: &str) -> Client {
    let tls = Tls::new().ca(secured.path("ca.pem"));
    let builder = Client::builder().daemons([secured.address()]).tls(tls).token(Token::file(secured.path(file)));
    builder.build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_and_watch_outlive_their_tokens_when_the_file_is_renewed() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(&[&signer]).await;
    let secured = secured(&issuer, true).await;
    until_known(&secured, &signer.sign(&issuer.claims("a", 600), &none())).await;
    let path = secured.path("a.jwt");
    let renew = |seconds: i64| {
        let next = format!("{path}.next");
        std::fs::write(&next, signer.sign(&issuer.claims("a", seconds), &none())).unwrap();
        std::fs::rename(next, &path).unwrap();
    };
    renew(4);
    let client = with_file(&secured, "a.jwt");
    let registered = client.register(Register::new("a").ttl(Duration::from_secs(10))).await.unwrap();
    let lease_id = registered.lease().unwrap().lease_id;
    let mut states = registered.states();
    let mut watch = client.watch(&Filter::logical_id("a"));
    // Each token lives for about 4 s, and is replaced when it has expired: a Watch and a BeatStream are refused with each.
    let mut interrupted = 0;
    while interrupted < 3 {
        let step = timeout(DAEMON_BOUND, watch.next()).await.unwrap().unwrap();
        let Step::Interrupted(error) = step else { continue };
        interrupted += 1;
        assert_eq!(reason(&error), "CREDENTIAL_EXPIRED");
        renew(4);
        // The watch goes on, and so do ordinary calls, with the file read again at once.
        while !matches!(timeout(DAEMON_BOUND, watch.next()).await.unwrap().unwrap(), Step::Batch(_)) {}
        let found = client.resolve("a", &Choice::default()).await.unwrap();
        assert_eq!(found.instance.lease_id, lease_id, "another lease took its place");
        assert_eq!(registered.lease().unwrap().lease_id, lease_id);
    }
    let state = *states.borrow_and_update();
    assert!(!matches!(state, State::Lost { .. }), "{state:?}");
    renew(600);
    wait_until("the lease is held", DAEMON_BOUND, async || match registered.lease() {
        Some(lease) if lease.lease_id == lease_id => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_ends_with_the_credential_of_its_caller() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(&[&signer]).await;
    let secured = secured(&issuer, true).await;
    until_known(&secured, &signer.sign(&issuer.claims("a", 600), &none())).await;
    let token = signer.sign(&issuer.claims("a", 5), &none());
    let channel = secured.channel(&token).await;
    let mut health = HealthClient::new(channel.clone());
    let mut health = health.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    let request = ServerReflectionRequest {
        message_request: Some(server_reflection_request::MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let requests = stream::iter([request]).chain(stream::pending());
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let mut reflection = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    let mut discovery = DiscoveryServiceClient::new(channel.clone());
    let request = v1::WatchRequest { logical_id_prefix: "a".to_owned(), ..Default::default() };
    let mut watched = discovery.watch(request).await.unwrap().into_inner();
    async fn last<T>(name: &str, stream: &mut Streaming<T>) -> (Code, String) {
        assert!(stream.message().await.unwrap().is_some(), "{name}");
        let ended = async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{name} ended without a reason"),
                    Err(status) => return status,
                }
            }
        };
        let status = timeout(DAEMON_BOUND, ended).await.unwrap_or_else(|_| panic!("{name} outlives its credential"));
        (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
    }
    let expired = (Code::Unauthenticated, "CREDENTIAL_EXPIRED".to_owned());
    assert_eq!(last("Watch", &mut watched).await, expired);
    assert_eq!(last("Health.Watch", &mut health).await, expired);
    assert_eq!(last("ServerReflectionInfo", &mut reflection).await, expired);
}

#[test]
fn connection_forgets_its_caller_when_the_token_is_revoked() {
    let secret = token("a", &[7; 32]);
    let policy = || Policy::parse("[[rule]]\nwho = ['token/a']\nmay = ['read']\non = ['*']\n").unwrap();
    let tokens = Tokens::parse(&format!("a {}\n", Digest::of(&secret))).unwrap();
    let access = Access::new(policy(), tokens.clone(), Clock::new());
    let (memory, authorization) = (Memory::default(), format!("Bearer {secret}"));
    let ask = |authorization: &str| {
        let call = Call { authorization: Some(authorization), memory: Some(&memory), ..Call::default() };
        access.authenticate(call).map(|caller| caller.identity().to_string())
    };
    for _ in 0..2 {
        assert_eq!(ask(&authorization).as_deref(), Ok("token/a"));
    }
    assert!(ask(&format!("{authorization}x")).is_err(), "another credential on the same connection");
    access.replace(policy(), Tokens::default());
    assert!(ask(&authorization).is_err(), "revoked");
    access.replace(policy(), tokens);
    assert_eq!(ask(&authorization).as_deref(), Ok("token/a"));
}
