//! Secrets stay where they are: a daemon that logs everything, and commands that show everything, while every kind of
//! credential is used and refused. No planted secret is in any text that comes out.

use std::{fs, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::TryStreamExt as _;
use musterd::access::tokens::{Digest, token};
use musterd_client::{Client, Filter, Register, Tls, Token};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::Client as Sql;

use crate::{
    cli::musterd,
    harness::{
        daemon::{DAEMON_BOUND, Daemon},
        issuer::{BEARER, Issuer, Signer},
        postgres::{TestDatabase, children, connect},
        scratch::Scratch,
        wait::wait_until,
    },
};

/// The password in the address of the database, which does not ask for it.
const PASSWORD: &str = "planted-database-password";

const RULES: &str = r#"
[[rule]]
who = ["token/actor", "k8s/organs/{sa}"]
may = ["register", "resolve", "read"]
on = ["a"]

[[rule]]
who = ["token/operator"]
may = ["register", "beat", "resolve", "read", "operate", "cluster", "metrics"]
on = ["*"]
"#;

/// The secrets, each with a word for it.
struct Planted(Vec<(&'static str, String)>);

impl Planted {
    fn add(&mut self, what: &'static str, secret: &str) {
        assert!(secret.len() >= 16, "{what} is too short to be found by chance only");
        self.0.push((what, secret.to_owned()));
    }

    fn assert_absent(&self, place: &str, text: &str) {
        for (what, secret) in &self.0 {
            assert!(!text.contains(secret), "{place} has {what}");
        }
    }
}

/// The part of a token that makes it secret.
fn secret_of(token: &str) -> &str {
    // The secret of a static token and the signature of a JSON web token are the last 43 characters, or more.
    token.rsplit_once('.').map_or_else(|| &token[token.len() - 43..], |(_, signature)| signature)
}

/// All rows of all tables, as text.
async fn dump(sql: &Sql) -> String {
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    let mut all = String::new();
    for row in sql.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let rows = sql.query_one(&format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t"), &[]).await;
        all += &rows.unwrap().get::<_, String>(0);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story: what is planted, what is done with it, where it is looked for")]
async fn no_secret_is_in_any_text_that_comes_out() {
    let (database, files, signer) = (TestDatabase::create().await, Scratch::in_memory(), Signer::new("one"));
    let issuer = Issuer::start(&[&signer]).await;
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let directory = path("tls");
    assert_eq!(musterd(&["security", "init", &directory]).await.code, Some(0));
    let in_directory = |name: &str| format!("{directory}/{name}");
    let mut planted = Planted(Vec::new());
    // The base64 lines in the middle of a key.
    let line = |name: &str| fs::read_to_string(in_directory(name)).unwrap().lines().nth(1).unwrap().to_owned();
    planted.add("the key of the daemon", &line("server.key"));
    planted.add("the key of the operator", &line("operator.key"));
    let (actor, operator) = (token("actor", &[7; 32]), token("operator", &[8; 32]));
    let unknown = token("actor", &[9; 32]);
    for (name, token) in [("actor", &actor), ("operator", &operator), ("unknown", &unknown)] {
        fs::write(path(name), token).unwrap();
        planted.add("a static token", secret_of(token));
    }
    planted.add("a password of Basic", &BASE64_STANDARD.encode(format!("any:{actor}"))[8..]);
    let lines = format!("actor {}\noperator {}\n", Digest::of(&actor), Digest::of(&operator));
    fs::write(in_directory("tokens"), lines).unwrap();
    fs::write(in_directory("policy.toml"), format!("{}{RULES}", issuer.table(true))).unwrap();
    let jwt = signer.sign(&issuer.claims("a", 600), &json!({}));
    let forged = Signer::new("one").sign(&issuer.claims("a", 600), &json!({}));
    let expired = signer.sign(&issuer.claims("a", -1), &json!({}));
    for token in [&jwt, &forged, &expired] {
        planted.add("the signature of a JSON web token", secret_of(token));
        planted.add("the claims of a JSON web token", token.split('.').nth(1).unwrap());
    }
    planted.add("the token for the issuer", BEARER);
    planted.add("the password of the database", PASSWORD);

    let url = database.url().replacen("://musterd@", &format!("://musterd:{PASSWORD}@"), 1);
    assert!(url.contains(PASSWORD), "{url}");
    let environment = [("MUSTERD_DATABASE_URL", url.as_str())];
    let daemon = Daemon::spawn_in(&environment, &["--security-dir", &directory, "--log-level", "trace"]).await;
    let ca = in_directory("ca.pem");
    let address = format!("https://{}", daemon.grpc_addr);
    let client = |token: &str| {
        let tls = Tls::new().ca(&ca);
        let builder = Client::builder().daemons([address.clone()]).tls(tls).token(Token::text(token));
        builder.retry_for(Duration::ZERO).build().unwrap()
    };
    wait_until("the daemon is ready and has the keys", DAEMON_BOUND, async || client(&jwt).who_am_i().await).await;

    // Used and refused, over gRPC and HTTP.
    let registered = client(&actor).register(Register::new("a").label("team", "x")).await.unwrap();
    let by_jwt = client(&jwt).register(Register::new("a")).await.unwrap();
    let mut texts = Vec::new();
    for token in [&actor, &jwt, &operator] {
        texts.push(format!("{:?}", client(token).list(Filter::logical_id("a")).try_collect::<Vec<_>>().await));
        texts.push(format!("{:?} {:?}", client(token), client(token).who_am_i().await));
    }
    for token in [&unknown, &forged, &expired, &format!("{actor}x"), &format!("{jwt}.x")] {
        let error = client(token).who_am_i().await.unwrap_err();
        texts.push(format!("{error} {error:?}"));
    }
    let denied = client(&actor).register(Register::new("other")).await.unwrap_err();
    texts.push(format!("{denied} {denied:?}"));
    let basic = BASE64_STANDARD.encode(format!("any:{actor}"));
    for (target, line) in [
        ("/".to_owned(), format!("Authorization: Basic {basic}\r\nAccept: text/html")),
        ("/api/v1/instances".to_owned(), format!("Authorization: Bearer {jwt}")),
        ("/metrics".to_owned(), format!("Authorization: Bearer {operator}")),
        ("/metrics/logical-ids".to_owned(), format!("Authorization: Bearer {operator}")),
        ("/sd/prometheus".to_owned(), format!("Authorization: Bearer {operator}")),
        ("/readyz".to_owned(), format!("Authorization: Bearer {operator}")),
        ("/metrics".to_owned(), format!("Authorization: Bearer {forged}")),
        ("/metrics".to_owned(), format!("Authorization: Basic {}", BASE64_STANDARD.encode(format!("x:{unknown}")))),
        ("/metrics".to_owned(), format!("Authorization: {operator}")),
        (format!("/metrics?token={operator}"), "X-Other: 1".to_owned()),
        (format!("/{operator}"), "X-Other: 1".to_owned()),
    ] {
        let stream = tokio::net::TcpStream::connect(&daemon.http_addr).await.unwrap();
        let mut stream = Tls::new().ca(&ca).connect(stream, "127.0.0.1", "http/1.1").await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{line}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 "), "{target}");
        texts.push(answer);
    }
    // A token on a port that speaks TLS, in clear.
    let mut plain = tokio::net::TcpStream::connect(&daemon.grpc_addr).await.unwrap();
    plain.write_all(format!("GET / HTTP/1.1\r\nAuthorization: Bearer {operator}\r\n\r\n").as_bytes()).await.unwrap();
    let _ = plain.read_to_end(&mut Vec::new()).await;

    // The commands.
    let (http, policy) = (daemon.http_addr.clone(), in_directory("policy.toml"));
    for (name, command) in [
        ("operator", vec!["whoami", "-o", "json"]),
        ("operator", vec!["status", "-o", "json"]),
        ("operator", vec!["check", "--database-url", &url, "--http-addr", &http]),
        ("operator", vec!["epoch", "rotate", "--yes"]),
        ("unknown", vec!["whoami"]),
        ("actor", vec!["epoch", "rotate", "--yes"]),
    ] {
        let file = path(name);
        let said = musterd(&[&command[..], &["--addr", &address, "--ca", &ca, "--token-file", &file]].concat()).await;
        texts.push(format!("{command:?} {}{}", said.stdout, said.stderr).replace(&url, ""));
    }
    for command in [
        vec!["config", "show", "--database-url", &url, "--security-dir", &directory],
        vec!["policy", "check", &policy],
        vec!["token", "list", &directory],
    ] {
        let said = musterd(&command).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        texts.push(format!("{}{}", said.stdout, said.stderr));
    }
    for text in &texts {
        planted.assert_absent(&format!("the text {:?}", text.chars().take(60).collect::<String>()), text);
    }
    let pid = daemon.pid().as_raw();
    for process in children(pid.unsigned_abs()).into_iter().chain([pid.unsigned_abs()]) {
        let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        planted.assert_absent("an argument of a process", &String::from_utf8_lossy(&arguments));
    }
    planted.assert_absent("the database", &dump(&connect(database.url()).await).await);
    drop((registered, by_jwt));
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until(
        "the reload is logged",
        DAEMON_BOUND,
        async || {
            if daemon.log().contains("reload") { Ok(()) } else { Err(()) }
        },
    )
    .await;
    let log = daemon.log();
    assert!(log.contains("\"TRACE\""), "the log is not at trace");
    planted.assert_absent("the log", &log);
}
