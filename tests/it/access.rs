//! Identities and the policy through the running program: what the HTTP port asks for and shows, how changes of the files
//! take effect, and the commands that make and check them.

use std::fs;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use musterd_client::{Client, Kind, Register, Tls, Token};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    cli::musterd,
    harness::{daemon::DAEMON_BOUND, scratch::Scratch, secured::Secured, wait::wait_until},
};

const RULES: &str = r#"
[[rule]]
who = ["token/reader"]
may = ["read"]
on = ["svc-a", "part-*"]

[[rule]]
who = ["token/scraper"]
may = ["metrics"]

[[rule]]
who = ["token/actor"]
may = ["register"]
on = ["svc-a"]
"#;

async fn enforced() -> Secured {
    let secured = Secured::enforced(RULES, &["reader", "scraper", "actor"]).await;
    for name in ["svc-a", "svc-b", "part-1", "zone"] {
        // The lease outlives the client, so that the instance stays on record.
        let registered = secured.client().register(Register::new(name)).await.unwrap();
        std::mem::forget(registered);
    }
    // Pages are answered from what the feed has brought.
    let operator = bearer(&secured, "operator");
    wait_until("all names are on record", DAEMON_BOUND, async || {
        let names = names(&secured.ask("/api/v1/instances", &[&operator], false).await.1, "instances");
        if names.len() == 4 { Ok(()) } else { Err(names) }
    })
    .await;
    secured
}

fn bearer(secured: &Secured, name: &str) -> String {
    format!("Authorization: Bearer {}", secured.token(name))
}

fn names(body: &str, field: &str) -> Vec<String> {
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let rows = body[field].as_array().unwrap_or_else(|| panic!("{body}"));
    let mut names: Vec<String> = rows.iter().filter_map(|row| Some(row["logicalId"].as_str()?.to_owned())).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn http_port_answers_probes_and_asks_for_a_credential_for_all_else() {
    let secured = enforced().await;
    for (path, text) in [("/livez", "ok\n"), ("/readyz", "ready\n")] {
        let (head, body) = secured.ask(path, &[], false).await;
        assert!(head.starts_with("http/1.1 200") && body == text, "{path}: {head} {body}");
    }
    let detailed = secured.ask("/readyz", &[&bearer(&secured, "scraper")], false).await.1;
    assert!(detailed.starts_with("ready\n[ok]"), "{detailed}");
    for path in [
        "/",
        "/metrics",
        "/metrics/logical-ids",
        "/sd/prometheus",
        "/api/v1/summary",
        "/api/v1/names",
        "/api/v1/instances",
        "/api/v1/explain?name=svc-a",
        "/api/v1/ended?name=svc-a",
        "/api/v1/events",
        "/ui/app.js",
        "/nothing",
        "/livez/",
        "//metrics",
    ] {
        let (head, body) = secured.ask(path, &[], false).await;
        assert!(head.starts_with("http/1.1 401") && head.contains("www-authenticate: bearer"), "{path}: {head}");
        assert!(body.contains("no credential was given"), "{path}: {body}");
    }
    let (head, _) = secured.ask("/", &["Accept: text/html"], false).await;
    assert!(head.starts_with("http/1.1 401") && head.contains("www-authenticate: basic realm="), "{head}");
    let token = secured.token("scraper");
    for path in [format!("/metrics?token={token}"), format!("/metrics?access_token={token}")] {
        assert!(secured.ask(&path, &[], false).await.0.starts_with("http/1.1 401"), "a token in the URL was taken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_port_knows_callers_by_bearer_basic_and_certificate_and_refuses_two_at_once() {
    let secured = enforced().await;
    let basic = |token: &str| format!("Authorization: Basic {}", BASE64_STANDARD.encode(format!("x:{token}")));
    let (scraper, operator) = (secured.token("scraper"), secured.token("operator"));
    for line in [bearer(&secured, "scraper"), basic(&scraper)] {
        let (head, body) = secured.ask("/metrics", &[&line], false).await;
        assert!(head.starts_with("http/1.1 200") && body.contains("musterd_ready 1"), "{head}");
        let (head, body) = secured.ask("/api/v1/summary", &[&line], false).await;
        assert!(head.starts_with("http/1.1 403") && !head.contains("www-authenticate"), "{head}");
        assert!(body.contains("PERMISSION_DENIED") && body.contains("token/scraper has no right to read"), "{body}");
    }
    assert!(secured.ask("/", &[&basic(&operator), "Accept: text/html"], false).await.1.contains("<html"));
    assert!(secured.ask("/metrics", &[], true).await.0.starts_with("http/1.1 200"), "by certificate");
    let (head, body) = secured.ask("/api/v1/summary", &[&bearer(&secured, "operator")], true).await;
    assert!(head.starts_with("http/1.1 401") && body.contains("TWO_IDENTITIES"), "{head} {body}");
    let twice = [bearer(&secured, "operator"), bearer(&secured, "operator")];
    let (head, _) = secured.ask("/metrics", &[&twice[0], &twice[1]], false).await;
    assert!(head.starts_with("http/1.1 401"), "{head}");
    for wrong in ["Bearer", "Bearer mstd_operator_x", "Basic %", "Bearer ü"] {
        let (head, _) = secured.ask("/metrics", &[&format!("Authorization: {wrong}")], false).await;
        assert!(head.starts_with("http/1.1 401"), "{wrong}: {head}");
    }
    let unknown = secured.metric("musterd_refused_total{reason=\"unauthenticated\"}").await.unwrap();
    assert!(unknown >= 6.0, "{unknown}");
    assert!(secured.metric("musterd_refused_total{reason=\"permission_denied\"}").await.unwrap() >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_port_shows_a_reader_its_names_only_and_marks_the_answer_filtered() {
    let secured = enforced().await;
    let (reader, operator) = (bearer(&secured, "reader"), bearer(&secured, "operator"));
    let ask = async |path: &str, line: &str| secured.ask(path, &[line], false).await;
    let is_filtered = |body: &str| serde_json::from_str::<Value>(body).unwrap()["filtered"].clone();

    let (_, all) = ask("/api/v1/instances", &operator).await;
    assert_eq!((names(&all, "instances").len(), is_filtered(&all)), (4, false.into()));
    for path in ["/api/v1/instances", "/api/v1/names", "/api/v1/names?name=svc-a&name=svc-b&name=part-1"] {
        let (_, body) = ask(path, &reader).await;
        let field = path.split(['/', '?']).nth(3).unwrap();
        assert_eq!(
            (names(&body, field), is_filtered(&body)),
            (vec!["part-1".to_owned(), "svc-a".to_owned()], true.into())
        );
    }
    let (_, covered) = ask("/api/v1/instances?prefix=part-", &reader).await;
    assert_eq!((names(&covered, "instances"), is_filtered(&covered)), (vec!["part-1".to_owned()], false.into()));
    // A page that ends must not tell what comes next.
    let (_, page) = ask("/api/v1/instances?limit=1", &reader).await;
    assert!(!page.contains("svc-b") && !page.contains("zone"), "{page}");

    let refused = [
        "/api/v1/instances?name=svc-b",
        "/api/v1/instances?name=absent",
        "/api/v1/instances?prefix=z",
        "/api/v1/explain?name=svc-b",
        "/api/v1/explain?name=absent",
        "/api/v1/ended?name=svc-b",
        "/api/v1/ended?name=absent",
        "/sd/prometheus?name=svc-b",
        "/metrics/logical-ids?prefix=zone",
    ];
    for path in refused {
        let (head, body) = ask(path, &reader).await;
        assert!(
            head.starts_with("http/1.1 403") && body.contains("token/reader has no right to read on"),
            "{path}: {body}"
        );
    }
    assert!(ask("/api/v1/explain?name=svc-a", &reader).await.0.starts_with("http/1.1 200"));
    for path in ["/sd/prometheus", "/metrics/logical-ids"] {
        let (head, body) = ask(path, &reader).await;
        assert!(
            head.starts_with("http/1.1 200") && !body.contains("svc-b") && !body.contains("zone"),
            "{path}: {body}"
        );
        assert!(head.contains("musterd-filtered: true") || body.contains("# filtered"), "{path}: {head}");
        let (head, body) = ask(path, &operator).await;
        assert!(!head.contains("musterd-filtered") && !body.contains("# filtered"), "{path}: {head}");
    }
    assert!(ask("/metrics/logical-ids", &reader).await.1.contains("logical_id=\"part-1\""));
    wait_until("the summary tells of the registrations", DAEMON_BOUND, async || {
        let (_, body) = ask("/api/v1/summary", &reader).await;
        let summary: Value = serde_json::from_str(&body).unwrap();
        if names(&body, "latest").is_empty() {
            return Err(body);
        }
        assert_eq!(names(&body, "latest"), ["part-1", "svc-a"], "{summary}");
        assert!(summary["counts"]["alive"].is_null() && summary["names"]["served"].is_null(), "{summary}");
        assert_eq!(summary["filtered"], Value::from(true));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_policy_and_tokens_takes_effect_and_a_wrong_one_does_not() {
    let secured = enforced().await;
    let (reader, policy) = (bearer(&secured, "reader"), secured.path("policy.toml"));
    let good = fs::read_to_string(&policy).unwrap();
    let status = async || secured.ask("/api/v1/instances?name=svc-b", &[&reader], false).await.0;
    let mut stream = secured.http(false).await;
    stream
        .write_all(
            format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{reader}\r\n\r\n")
                .as_bytes(),
        )
        .await
        .unwrap();

    fs::write(&policy, good.replace("\"part-*\"", "\"svc-b\"")).unwrap();
    wait_until("the new rule holds", DAEMON_BOUND, async || {
        let head = status().await;
        if head.starts_with("http/1.1 200") { Ok(()) } else { Err(head) }
    })
    .await;

    fs::write(&policy, good.replace("may = [\"read\"]", "may = [\"write\"]")).unwrap();
    wait_until("the problem is reported", DAEMON_BOUND, async || {
        let (_, body) = secured.ask("/api/v1/summary", &[&bearer(&secured, "operator")], false).await;
        let is_told = body.contains("security_not_reloaded") && body.contains("is no verb");
        if is_told { Ok(()) } else { Err(body) }
    })
    .await;
    assert!(status().await.starts_with("http/1.1 200"), "the last good policy holds");

    fs::write(&policy, &good).unwrap();
    let directory = secured.files.path().join("tls").to_str().unwrap().to_owned();
    let revoked = musterd(&["token", "revoke", &directory, "reader"]).await;
    assert_eq!((revoked.code, revoked.stdout.as_str()), (Some(0), "revoked 1 token of reader\n"), "{revoked:?}");
    wait_until("the token is refused", DAEMON_BOUND, async || {
        let head = status().await;
        if head.starts_with("http/1.1 401") { Ok(()) } else { Err(head) }
    })
    .await;
    let mut events = String::new();
    let ended = tokio::time::timeout(DAEMON_BOUND, stream.read_to_string(&mut events)).await;
    assert!(ended.is_ok_and(|read| read.is_ok()) && events.contains("event: summary"), "the stream of events goes on");
    let log = secured.daemon.log();
    assert_eq!(log.lines().filter(|line| line.contains("policy not reloaded")).count(), 1, "{log}");
    assert!(log.contains("policy reloaded"), "{log}");
    assert!(
        secured.metric("musterd_security_reloads_total{what=\"policy\",outcome=\"changed\"}").await.unwrap() >= 2.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_rotated_and_revoked() {
    let directory = Scratch::in_memory();
    let path = directory.path().to_str().unwrap();
    let run = async |words: &[&str]| musterd(&[&["token"], words].concat()).await;
    let read = || fs::read_to_string(directory.path().join("router.token")).unwrap();
    assert_eq!(run(&["create", path, "router"]).await.code, Some(0));
    let first = read();
    assert!(first.starts_with("mstd_router_") && first.trim_end().len() == "mstd_router_".len() + 43, "{first}");
    assert_eq!(run(&["create", path, "router", "--valid-for", "30days"]).await.code, Some(0));
    assert!(read() != first);
    let tokens = fs::read_to_string(directory.path().join("tokens")).unwrap();
    assert!(!tokens.contains("mstd_") && tokens.matches("router sha256:").count() == 2, "{tokens}");
    for name in ["router.token", "tokens"] {
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(directory.path().join(name)).unwrap());
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let listed = run(&["list", path]).await;
    assert!(listed.code == Some(0) && listed.stdout.matches("token/router").count() == 2, "{listed:?}");
    assert!(run(&["revoke", path, "router", "--keep-newest"]).await.stdout.starts_with("revoked 1 token"));
    let left = fs::read_to_string(directory.path().join("tokens")).unwrap();
    assert!(left.matches("router").count() == 1 && left.contains("expires="), "{left}");
    assert_eq!(run(&["revoke", path, "router"]).await.code, Some(0));
    assert!(!directory.path().join("router.token").exists());
    let none = run(&["revoke", path, "router"]).await;
    assert!(none.code == Some(2) && none.complaint().contains("has no token \"router\""), "{none:?}");
    assert_eq!(run(&["create", path, "a/b"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_checked_and_tested_without_a_daemon() {
    let directory = Scratch::in_memory();
    let file = directory.path().join("policy.toml");
    let path = file.to_str().unwrap();
    fs::write(&file, RULES).unwrap();
    let checked = musterd(&["policy", "check", path]).await;
    assert_eq!((checked.code, checked.stdout), (Some(0), format!("{path} is valid: 3 rules\n")));
    let test = async |more: &[&str]| musterd(&[&["policy", "test", path], more].concat()).await;
    let allowed = test(&["--as", "token/reader", "--may", "read", "--on", "part-7"]).await;
    assert_eq!((allowed.code, allowed.stdout), (Some(0), format!("allowed by the rule at {path}:2\n")));
    let refused = test(&["--as", "token/reader", "--may", "read", "--on", "svc-b"]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), "refused: no rule grants it\n"));
    assert_eq!(test(&["--as", "token/scraper", "--may", "metrics"]).await.code, Some(0));
    for more in [&["--as", "token/reader", "--may", "read"][..], &["--as", "reader", "--may", "read", "--on", "x"]] {
        assert_eq!(test(more).await.code, Some(2), "{more:?}");
    }
    fs::write(&file, RULES.replace("part-*", "*part")).unwrap();
    let wrong = musterd(&["policy", "check", path]).await;
    assert!(wrong.code == Some(78) && wrong.complaint().contains(&format!("{path}:5:")), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_with_a_policy_that_it_cannot_use_does_not_start() {
    let directory = Scratch::in_memory();
    let file = directory.path().join("policy.toml");
    let path = file.to_str().unwrap();
    let check = async |more: &[&str]| musterd(&[&["config", "check", "--config", "/dev/null"], more].concat()).await;
    fs::write(&file, "").unwrap();
    for (more, part) in [
        (&["--policy", path, "--tokens", "/nonexistent"][..], "--tokens: cannot read /nonexistent"),
        (&["--policy", path], "no caller can show what it is"),
        (&["--tokens", path], "--tokens is given without --policy"),
        (&["--policy", path, "--tokens", path], "there is no rule"),
        (&["--grpc-addr", "0.0.0.0:0"], "musterd security init DIR makes its files"),
    ] {
        let refused = check(more).await;
        assert!(refused.code == Some(78) && refused.complaint().contains(part), "{more:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_not_sent_in_clear_to_another_machine() {
    let builder = || Client::builder().daemons(["registry.example:1"]).token(Token::text("mstd_a_b"));
    let error = builder().build().unwrap_err();
    assert!(error.to_string().contains("unencrypted; use an https:// address"), "{error}");
    assert!(builder().insecure_send_token(true).build().is_ok());
    assert!(builder().daemons(["127.0.0.1:1", "https://registry.example"]).build().is_ok());
    let scratch = Scratch::in_memory();
    let file = scratch.path().join("token");
    fs::write(&file, "mstd_a_b").unwrap();
    let flags = ["resolve", "x", "--addr", "registry.example:1", "--token-file", file.to_str().unwrap()];
    let refused = musterd(&flags).await;
    assert!(refused.code == Some(2) && refused.complaint().contains("unencrypted"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_commands_lead_from_an_empty_directory_to_a_secured_resolve() {
    // The first two are those of the harness, with loopback as the address.
    let secured = Secured::enforced("", &[]).await;
    let registered = secured.client().register(Register::new("web")).await.unwrap();
    let (address, ca, token) = (secured.address(), secured.path("ca.pem"), secured.path("operator.token"));
    let resolve = async |more: &[&str]| {
        let flags = ["resolve", "web", "--addr", address.as_str(), "--ca", ca.as_str()];
        musterd(&[&flags[..], more].concat()).await
    };
    let resolved = resolve(&["--token-file", &token]).await;
    assert!(
        resolved.code == Some(0) && resolved.stdout.contains(&registered.instance_id().to_string()),
        "{resolved:?}"
    );
    let unknown = secured.files.path().join("unknown.token");
    fs::write(&unknown, secured.token("operator").replace("mstd_operator_", "mstd_operatox_")).unwrap();
    let unknown = unknown.to_str().unwrap().to_owned();
    for (more, part) in [
        (&[][..], "no credential was given"),
        (&["--token-file", unknown.as_str()], "the token is not known"),
        (&["--token-file", "/nonexistent"], "cannot read the token file /nonexistent"),
    ] {
        let refused = resolve(more).await;
        assert!(refused.code == Some(6) && refused.complaint().contains(part), "{more:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actor_registers_under_its_names_only_and_a_new_rule_holds_without_a_restart() {
    let secured = enforced().await;
    let client = |name: &str| {
        let tls = Tls::new().ca(secured.path("ca.pem"));
        let token = Token::file(secured.path(&format!("{name}.token")));
        Client::builder().daemons([secured.address()]).tls(tls).token(token).build().unwrap()
    };
    let actor = client("actor");
    let registered = actor.register(Register::new("svc-a")).await.unwrap();
    let denied = actor.register(Register::new("svc-b")).await.unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied, "{denied}");
    assert!(denied.to_string().contains("token/actor has no right to register on \"svc-b\""), "{denied}");
    let reader = client("reader").register(Register::new("svc-a")).await.unwrap_err();
    assert_eq!(reader.kind(), Kind::Denied, "{reader}");

    let policy = secured.path("policy.toml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("on = [\"svc-a\"]", "on = [\"svc-a\", \"svc-b\"]")).unwrap();
    let second = wait_until("the new rule holds", DAEMON_BOUND, async || {
        actor.register(Register::new("svc-b")).await.map_err(|error| error.to_string())
    })
    .await;
    assert!(registered.lease().is_some() && second.lease().is_some(), "the lease lives on");
    let (address, ca, token) = (secured.address(), secured.path("ca.pem"), secured.path("actor.token"));
    let whoami = musterd(&["whoami", "--addr", &address, "--ca", &ca, "--token-file", &token]).await;
    assert!(whoami.code == Some(0) && whoami.stdout.contains("token/actor"), "{whoami:?}");
}
