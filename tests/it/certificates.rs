//! Client certificates that are wrong in every way that is known, against a daemon with a policy.

use std::{fs, time::Duration};

use chrono::{TimeDelta, Timelike as _, Utc};
use futures_util::{StreamExt as _, stream};
use musterd::proto::v1;
use musterd_client::{Client, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyPair, NameConstraints, SanType, date_time_ymd,
};
use tokio::time::timeout;

use crate::harness::{
    actor::{alive, reason},
    daemon::{DAEMON_BOUND, Daemon},
    postgres::TestDatabase,
    scratch::Scratch,
    secured::Secured,
    tls::Authority,
    wait::wait_until,
    wire::Wire,
};

const RULES: &str = r#"
[[rule]]
who = ["cert/actor", "spiffe://td/ns/organs/sa/a"]
may = ["register", "resolve"]
on = ["a"]
"#;

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A leaf with this common name and these URIs, and what `change` makes of it.
fn leaf(name: Option<&str>, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A certificate with those between it and the CA, and its key.
fn signed(params: &CertificateParams, issuer: &Issuer, between: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap().pem() + between, key.serialize_pem())
}

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Known,
    /// The handshake fails.
    Nothing,
    NoIdentity,
}

fn cases(ca: &Issuer) -> Vec<(&'static str, (String, String), Told)> {
    let good = "spiffe://td/ns/organs/sa/a";
    let plain = |name, uris: &[&str]| signed(&leaf(name, uris, |_| ()), ca, "");
    let changed = |change: fn(&mut CertificateParams)| signed(&leaf(Some("actor"), &[], change), ca, "");
    let mut narrow = authority("a narrow CA");
    narrow.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("ok.example".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let narrow = Issuer::signed_by(narrow, KeyPair::generate().unwrap(), ca).unwrap();
    let named = |name: &str| {
        let params = leaf(Some("actor"), &[], |params| {
            params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        });
        signed(&params, &narrow, &narrow.pem())
    };
    let middle = Issuer::signed_by(authority("between"), KeyPair::generate().unwrap(), ca).unwrap();
    let (mut chain, mut last) = (String::new(), middle);
    for step in 0..100 {
        chain = last.pem() + &chain;
        last = Issuer::signed_by(authority(&format!("{step}")), KeyPair::generate().unwrap(), &last).unwrap();
    }
    let long = signed(&leaf(Some("actor"), &[], |_| ()), &last, &(last.pem() + &chain));
    let wide = format!("spiffe://td/{}", "x".repeat(40 << 10));
    let odd = |uri: &str| plain(Some("actor"), &[uri]);
    vec![
        ("a SPIFFE id", plain(None, &[good]), Told::Known),
        ("a common name", plain(Some("actor"), &[]), Told::Known),
        ("a name that its CA permits", named("a.ok.example"), Told::Known),
        ("a name that its CA does not permit", named("evil.example"), Told::Nothing),
        (
            "a key usage for servers",
            changed(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            Told::Nothing,
        ),
        ("an end in the past", changed(|it| it.not_after = date_time_ymd(2002, 2, 2)), Told::Nothing),
        ("a begin in the future", changed(|it| it.not_before = date_time_ymd(2999, 1, 1)), Told::Nothing),
        ("a chain of a hundred", long, Told::Nothing),
        ("two URIs", plain(Some("actor"), &[good, "spiffe://td/b"]), Told::NoIdentity),
        ("two URIs, one of them no SPIFFE id", plain(Some("actor"), &[good, "https://td"]), Told::NoIdentity),
        ("no name at all", plain(None, &[]), Told::NoIdentity),
        ("a query", odd("spiffe://td/a?b"), Told::NoIdentity),
        ("a port", odd("spiffe://td:1/a"), Told::NoIdentity),
        ("dots", odd("spiffe://td/ns/../sa/a"), Told::NoIdentity),
        ("an escape", odd("spiffe://td/ns%2forgans/sa/a"), Told::NoIdentity),
        ("a user", odd("spiffe://u@td/a"), Told::NoIdentity),
        ("another scheme", odd("https://td/ns/organs/sa/a"), Told::NoIdentity),
        ("a URI of 40 KiB", odd(&wide), Told::NoIdentity),
    ]
}

/// Names that are odd rather than wrong: each has no identity, or the documented one.
fn oddities(ca: &Issuer) -> Vec<(&'static str, (String, String), Told)> {
    let good = "spiffe://td/ns/organs/sa/a";
    let odd = |uri: &str| signed(&leaf(Some("actor"), &[uri], |_| ()), ca, "");
    let with_names = |names: Vec<SanType>| signed(&leaf(Some("actor"), &[], |it| it.subject_alt_names = names), ca, "");
    let text = |text: &str| text.try_into().unwrap();
    let lone = Issuer::signed_by(authority("left out"), KeyPair::generate().unwrap(), ca).unwrap();
    let named_by = |name: &str| signed(&leaf(Some(name), &[], |_| ()), ca, "");
    vec![
        ("a URI with a NUL", odd("spiffe://td/ns/organs/sa/a\0"), Told::NoIdentity),
        ("a trust domain alone", odd("spiffe://td"), Told::NoIdentity),
        ("a path that is empty", odd("spiffe://td/"), Told::NoIdentity),
        ("a path that ends with a stroke", odd("spiffe://td/ns/organs/sa/a/"), Told::NoIdentity),
        ("a path with two strokes", odd("spiffe://td//ns/organs/sa/a"), Told::NoIdentity),
        ("no trust domain", odd("spiffe:///ns/organs/sa/a"), Told::NoIdentity),
        ("capitals in the scheme", odd("SPIFFE://td/ns/organs/sa/a"), Told::NoIdentity),
        ("capitals in the trust domain", odd("spiffe://TD/ns/organs/sa/a"), Told::NoIdentity),
        ("a fragment", odd("spiffe://td/ns/organs/sa/a#b"), Told::NoIdentity),
        ("a wildcard as URI", odd("spiffe://td/ns/organs/sa/*"), Told::NoIdentity),
        ("an empty URI", odd(""), Told::NoIdentity),
        // Other names say nothing: the common name counts.
        ("a wildcard as DNS name", with_names(vec![SanType::DnsName(text("*.example"))]), Told::Known),
        ("a DNS name with a NUL", with_names(vec![SanType::DnsName(text("a\0.example"))]), Told::Known),
        ("an e-mail address", with_names(vec![SanType::Rfc822Name(text("operator@example"))]), Told::Known),
        ("an IP address", with_names(vec![SanType::IpAddress([127, 0, 0, 1].into())]), Told::Known),
        (
            "a URI among other names",
            with_names(vec![SanType::DnsName(text("x")), SanType::URI(text(good)), SanType::IpAddress([1; 4].into())]),
            Told::Known,
        ),
        ("a common name with a NUL", named_by("actor\0"), Told::NoIdentity),
        ("a common name with a newline", named_by("actor\noperator"), Told::NoIdentity),
        ("a common name that turns the direction", named_by("actor\u{202e}"), Told::NoIdentity),
        ("a common name with a blank at its end", named_by("actor "), Told::NoIdentity),
        ("an empty common name", named_by(""), Told::NoIdentity),
        ("a common name of 254 bytes", named_by(&"a".repeat(254)), Told::NoIdentity),
        ("a common name of 20 KiB", named_by(&"a".repeat(20 << 10)), Told::NoIdentity),
        ("an intermediate that is missing", signed(&leaf(Some("actor"), &[], |_| ()), &lone, ""), Told::Nothing),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificate_that_is_wrong_in_any_way_is_refused() {
    let secured = Secured::enforced(RULES, &[]).await;
    let ca = Issuer::self_signed(authority("the CA of clients"), KeyPair::generate().unwrap()).unwrap();
    let stranger = Issuer::self_signed(authority("the CA of clients"), KeyPair::generate().unwrap()).unwrap();
    let own = fs::read_to_string(secured.path("ca.pem")).unwrap();
    let trusted = secured.path("trusted.pem");
    fs::write(&trusted, &own).unwrap();
    fs::write(secured.path("ca.pem"), own.clone() + &ca.pem()).unwrap();
    let ask = async |(certificate, key): &(String, String)| {
        let (at, key_at) = (secured.path("case.pem"), secured.path("case.key"));
        fs::write(&at, certificate).unwrap();
        fs::write(&key_at, key).unwrap();
        let tls = Tls::new().ca(&trusted).identity(at, key_at);
        let client = Client::builder().daemons([secured.address()]).tls(tls).retry_for(Duration::ZERO).build().unwrap();
        let told = timeout(DAEMON_BOUND, client.who_am_i()).await.unwrap();
        match told {
            Ok(known) => (Told::Known, known.identity),
            Err(error) if error.reason().name() == "UNAUTHENTICATED" => (Told::NoIdentity, error.to_string()),
            Err(error) => (Told::Nothing, error.to_string()),
        }
    };
    let mut cases = [cases(&ca), oddities(&ca)].concat();
    let foreign = |uri: &str| signed(&leaf(None, &[uri], |_| ()), &stranger, "");
    cases.push(("a CA of the same name with another key", foreign("spiffe://td/ns/organs/sa/a"), Told::Nothing));
    // The added CA is in use once its first certificate is known.
    wait_until("the CA of clients is in use", DAEMON_BOUND, async || match ask(&cases[0].1).await {
        (Told::Known, identity) => Ok(identity),
        other => Err(other),
    })
    .await;
    for (what, files, expected) in &cases {
        let (told, text) = ask(files).await;
        assert_eq!(told, *expected, "{what}: {text}");
    }
    // What the common name resembles is another identity.
    for name in ["operator/../actor", "*", "token/operator", "../token/operator", "cert/operator", "local", "äctor"] {
        let (told, identity) = ask(&signed(&leaf(Some(name), &[], |_| ()), &ca, "")).await;
        assert_eq!((told, identity), (Told::Known, format!("cert/{name}")));
    }
    // Another trust domain is known, and has no rights.
    let elsewhere = signed(&leaf(None, &["spiffe://other/ns/organs/sa/a"], |_| ()), &ca, "");
    assert_eq!(ask(&elsewhere).await, (Told::Known, "spiffe://other/ns/organs/sa/a".to_owned()));
    let (at, key_at) = (secured.path("case.pem"), secured.path("case.key"));
    let tls = Tls::new().ca(&trusted).identity(at, key_at);
    let client = Client::builder().daemons([secured.address()]).tls(tls).build().unwrap();
    let error = client.resolve("a", &musterd_client::Choice::default()).await.unwrap_err();
    assert_eq!(error.reason().name(), "PERMISSION_DENIED");
    secured.client().ready(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn beat_stream_ends_when_the_certificate_expires_and_its_lease_is_not_suspect() {
    let secured = Secured::enforced(RULES, &[]).await;
    let ca = Issuer::self_signed(authority("the CA of clients"), KeyPair::generate().unwrap()).unwrap();
    let own = fs::read_to_string(secured.path("ca.pem")).unwrap();
    fs::write(secured.path("trusted.pem"), &own).unwrap();
    fs::write(secured.path("ca.pem"), own + &ca.pem()).unwrap();
    let files = |(certificate, key): (String, String)| {
        fs::write(secured.path("actor.pem"), certificate).unwrap();
        fs::write(secured.path("actor.key"), key).unwrap();
        Tls::new().ca(secured.path("trusted.pem")).identity(secured.path("actor.pem"), secured.path("actor.key"))
    };
    let known = async |tls: &Tls| {
        let client = Client::builder().daemons([secured.address()]).tls(tls.clone()).retry_for(Duration::ZERO);
        client.build().unwrap().who_am_i().await.map(|known| known.identity)
    };
    let tls = files(signed(&leaf(Some("actor"), &[], |_| ()), &ca, ""));
    wait_until("the CA of clients is in use", DAEMON_BOUND, async || known(&tls).await).await;
    // Certificates know whole seconds.
    let ends = (Utc::now() + TimeDelta::seconds(15)).with_nanosecond(0).unwrap();
    let since = Duration::from_secs(u64::try_from(ends.timestamp()).unwrap() - 1_767_225_600);
    let tls = files(signed(
        &leaf(Some("actor"), &[], |params| params.not_after = date_time_ymd(2026, 1, 1) + since),
        &ca,
        "",
    ));

    let wire = Wire::over(secured.with_certificate(tls.clone()).await);
    let registered = wire.register(alive("a", Duration::from_secs(300))).await;
    let beat = v1::BeatStreamRequest { lease_ids: vec![registered.lease_id], goodbye: false };
    let requests = stream::iter([beat]).chain(stream::pending());
    let mut beats = wire.registry.clone().beat_stream(requests).await.unwrap().into_inner();
    let heard = beats.message().await.unwrap().unwrap();
    assert!(heard.exceptions.is_empty(), "{heard:?}");
    let ended = timeout(DAEMON_BOUND, beats.message()).await.expect("the stream outlives its certificate").unwrap_err();
    assert!(Utc::now() >= ends, "it ended before the certificate");
    assert_eq!(reason(&ended), "CREDENTIAL_EXPIRED", "{ended:?}");
    let refused =
        wire.registry.clone().beat(v1::BeatRequest { lease_id: registered.lease_id, ..Default::default() }).await;
    assert_eq!(reason(&refused.unwrap_err()), "CREDENTIAL_EXPIRED", "the connection goes on, and carries no call");
    assert!(known(&tls).await.is_err(), "an expired certificate opens a connection");
    let found = secured.client().resolve("a", &musterd_client::Choice::default()).await.unwrap().instance;
    assert!(!found.suspect && found.owner == "cert/actor", "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_list_of_revoked_certificates_stays_in_use_and_is_a_problem() {
    let (database, files) = (TestDatabase::create().await, Scratch::in_memory());
    let (authority, path) = (Authority::new("the CA"), |name: &str| files.path().join(name));
    let pair = |name: &str, (certificate, key): (String, String)| {
        fs::write(path(&format!("{name}.pem")), &certificate).unwrap();
        fs::write(path(&format!("{name}.key")), key).unwrap();
        certificate
    };
    fs::write(path("ca.pem"), authority.pem()).unwrap();
    pair("server", authority.sign(&["localhost", "127.0.0.1"], "musterd", false));
    pair("good", authority.sign(&["good"], "good", false));
    let revoked = pair("revoked", authority.sign(&["revoked"], "revoked", false));
    fs::write(path("crl.pem"), authority.revoke_until(&revoked, (2026, 1, 2))).unwrap();
    let flag = |flag: &str, name: &str| [flag.to_owned(), path(name).to_str().unwrap().to_owned()];
    let flags: Vec<String> = [
        ["--database-url".to_owned(), database.url().to_owned()],
        flag("--tls-cert", "server.pem"),
        flag("--tls-key", "server.key"),
        flag("--tls-client-ca", "ca.pem"),
        flag("--tls-client-crl", "crl.pem"),
    ]
    .concat();
    let daemon = Daemon::spawn(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let client = |name: &str| {
        let tls = Tls::new().ca(path("ca.pem")).identity(path(&format!("{name}.pem")), path(&format!("{name}.key")));
        let daemons = [format!("https://{}", daemon.grpc_addr)];
        Client::builder().daemons(daemons).tls(tls).retry_for(Duration::ZERO).build().unwrap()
    };
    let good = client("good");
    wait_until("the daemon is ready", DAEMON_BOUND, async || good.ready(Duration::from_secs(2)).await).await;
    let is_stale = async || {
        let problems = good.cluster(0).await.unwrap().problems;
        problems.iter().any(|it| it.code == "revocation_list_stale" && it.summary.contains("2026-01-02"))
    };
    assert!(is_stale().await, "the list is out of date");
    let refused = client("revoked").who_am_i().await.unwrap_err().to_string();
    assert!(refused.contains("CertificateRevoked"), "{refused}");

    fs::write(path("crl.pem"), authority.revoke(&revoked)).unwrap();
    wait_until(
        "the new list is in use",
        DAEMON_BOUND,
        async || if is_stale().await { Err("it is not") } else { Ok(()) },
    )
    .await;
    assert!(client("revoked").who_am_i().await.is_err());
}
