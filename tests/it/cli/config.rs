//! Where settings come from: flags, environment, file, secrets; and what `config show` and `config check` say of them.

use std::{collections::BTreeSet, fs, path::Path};

use clap::{Command, CommandFactory as _};
use musterd::cli::Cli;
use serde_json::Value;

use super::{BOUND, Ended, musterd};
use crate::harness::{daemon::program, postgres::TestDatabase, scratch::Scratch};

/// Runs a command in this environment.
async fn with(environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let mut command = tokio::process::Command::from(program());
    let output = command.envs(environment.iter().copied()).args(arguments).kill_on_drop(true).output();
    tokio::time::timeout(BOUND, output).await.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap().into()
}

/// One setting of `config show -o json`: value, origin and source.
fn setting(shown: &Value, name: &str) -> (String, String, String) {
    let rows = shown.as_array().unwrap();
    let row = rows.iter().find(|row| row["setting"] == name).unwrap_or_else(|| panic!("no {name} in {shown}"));
    let text = |field: &str| row[field].as_str().unwrap_or("-").to_owned();
    (text("value"), text("origin"), text("source"))
}

fn three(value: &str, origin: &str, source: &str) -> (String, String, String) {
    (value.to_owned(), origin.to_owned(), source.to_owned())
}

/// A directory with files in it.
struct Files(Scratch);

impl Files {
    fn new() -> Self {
        Self(Scratch::in_memory())
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let files = Files::new();
    let file = files.write(
        "m.toml",
        "grpc-addr = '127.0.0.1:1'\nhttp-addr = '127.0.0.1:2'\n\nkeep-dead = '7days'\nno-migrate = true\n",
    );
    let environment =
        [("MUSTERD_CONFIG", file.as_str()), ("MUSTERD_GRPC_ADDR", "127.0.0.2:1"), ("MUSTERD_HTTP_ADDR", "127.0.0.2:2")];
    let shown = with(&environment, &["config", "show", "--grpc-addr", "127.0.0.3:1", "-o", "json"]).await.json();
    assert_eq!(setting(&shown, "grpc-addr"), three("127.0.0.3:1", "flag", "--grpc-addr"));
    assert_eq!(setting(&shown, "http-addr"), three("127.0.0.2:2", "environment", "MUSTERD_HTTP_ADDR"));
    assert_eq!(setting(&shown, "keep-dead"), three("7days", "file", &format!("{file}:4")));
    assert_eq!(setting(&shown, "no-migrate"), three("true", "file", &format!("{file}:5")));
    assert_eq!(setting(&shown, "log-level"), three("info", "default", "-"));
    assert_eq!(setting(&shown, "database-url"), three("-", "default", "-"));
    assert_eq!(setting(&shown, "config"), three(&file, "environment", "MUSTERD_CONFIG"));

    let shown = with(&environment, &["config", "show", "--no-migrate=false", "-o", "jsonl"]).await;
    assert!(shown.stdout.lines().any(|line| line.contains("no-migrate") && line.contains("\"false\"")), "{shown:?}");
    let table = with(&environment, &["config", "show"]).await.stdout;
    assert!(table.starts_with("SETTING"), "{table}");
    assert!(table.lines().any(|line| line.ends_with(&format!("file {file}:4")) && line.starts_with("keep-dead")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_understood_is_refused_by_line_and_column_and_nothing_is_started() {
    let files = Files::new();
    let missing = files.0.path().join("missing.toml").to_str().unwrap().to_owned();
    let data_dir = files.0.path().join("data");
    for (content, place) in [
        ("keep-dead = '24h'\ngrpc_addr = '0.0.0.0:7717'\n", ":2:1: unknown key \"grpc_addr\"; did you mean grpc-addr?"),
        ("database-url = \"postgres://u:s3cret@h/d\n", ":1:"),
        ("keep-dead = 5\n", ":1:13: keep-dead: "),
        ("log-format = 'yaml'\n", ":1:14: log-format: expected one of auto, text, json"),
        ("no-migrate = 'yes'\n", ":1:14: no-migrate: expected true or false, without quotes"),
        ("grpc-addr = 'localhost'\n", ":1:13: grpc-addr: expected IP:PORT"),
        ("[serve]\ngrpc-addr = '127.0.0.1:1'\n", ":1:2: serve is a table; write "),
    ] {
        let file = files.write("m.toml", content);
        let flags = ["--config", &file, "--data-dir", data_dir.to_str().unwrap()];
        let checked = musterd(&[&["config", "check"], &flags[..]].concat()).await;
        assert!(checked.complaint().starts_with(&format!("{file}{place}")), "{checked:?}");
        assert!(!checked.stderr.contains("s3cret"), "{checked:?}");
        for command in [&["serve"][..], &["config", "show"], &["migrate", "status"]] {
            let flags = if command == ["migrate", "status"] { &flags[..2] } else { &flags[..] };
            let ended = musterd(&[command, flags].concat()).await;
            assert_eq!((ended.code, ended.complaint(), ended.stdout.as_str()), (Some(78), checked.complaint(), ""));
        }
    }
    let ended = with(&[("MUSTERD_CONFIG", &missing)], &["serve"]).await;
    assert!(ended.complaint().starts_with(&format!("cannot read the configuration file {missing}: ")), "{ended:?}");
    assert_eq!(ended.code, Some(78));
    assert!(!data_dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_from_files_and_are_never_shown() {
    let files = Files::new();
    let url = "postgres://app:s3cret@db.example:6432/registry?sslmode=require";
    let secret = files.write("url", &format!("{url}\n"));
    let shows = async |environment: &[(&str, &str)], flags: &[&str]| {
        let shown = with(environment, &[&["config", "show", "-o", "json"], flags].concat()).await;
        assert!(!shown.stdout.contains("s3cret") && !shown.stderr.contains("s3cret"), "{shown:?}");
        let shown = shown.json();
        (setting(&shown, "database-url"), setting(&shown, "database-url-file"))
    };
    let redacted = "postgres://app@db.example:6432/registry?sslmode=require";
    let (direct, _) = shows(&[("MUSTERD_DATABASE_URL", url)], &[]).await;
    assert_eq!(direct, three(redacted, "environment", "MUSTERD_DATABASE_URL"));
    let (direct, named) = shows(&[("MUSTERD_DATABASE_URL_FILE", &secret)], &[]).await;
    assert_eq!(direct, three(redacted, "environment", "MUSTERD_DATABASE_URL_FILE"));
    assert_eq!(named, three(&secret, "environment", "MUSTERD_DATABASE_URL_FILE"));
    // What stands higher wins; the same place twice is a contradiction.
    let (direct, _) = shows(&[("MUSTERD_DATABASE_URL_FILE", &secret)], &["--database-url", "postgres://b@h/d"]).await;
    assert_eq!(direct, three("postgres://b@h:5432/d", "flag", "--database-url"));
    let (direct, _) = shows(&[("MUSTERD_DATABASE_URL", "postgres://b@h/d")], &["--database-url-file", &secret]).await;
    assert_eq!(direct, three(redacted, "flag", "--database-url-file"));
    let both = [("MUSTERD_DATABASE_URL", url), ("MUSTERD_DATABASE_URL_FILE", secret.as_str())];
    let ended = with(&both, &["config", "check"]).await;
    assert_eq!(ended.code, Some(78));
    let expected = "MUSTERD_DATABASE_URL and MUSTERD_DATABASE_URL_FILE are both given; leave one out";
    assert_eq!(ended.complaint(), expected);

    let empty = files.write("empty", "\n");
    let broken = files.write("broken", "postgres://u:s3cret@h:x/d\n");
    for (path, part) in [
        (empty.as_str(), "is empty; write the secret into it"),
        ("/nonexistent/url", "cannot be read: "),
        (&broken, "--database-url: invalid value"),
    ] {
        let ended = with(&[("MUSTERD_DATABASE_URL_FILE", path)], &["serve"]).await;
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.complaint().contains(part) && !ended.stderr.contains("s3cret"), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_as_serve_would_and_starts_nothing() {
    let files = Files::new();
    let data_dir = files.0.path().join("data");
    let flags = ["--data-dir", data_dir.to_str().unwrap()];
    let checked = musterd(&[&["config", "check"], &flags[..]].concat()).await;
    assert_eq!((checked.code, checked.complaint()), (Some(0), "the configuration is valid"));
    let warned = musterd(&["config", "check", "--database-url", "postgres://u:s3cret@h/d?sslmode=require"]).await;
    assert_eq!(warned.code, Some(0));
    assert!(
        warned.stderr.contains("warning: --database-url: sslmode=require encrypts")
            && !warned.stderr.contains("s3cret")
    );

    let not_pem = files.write("ca.pem", "nothing\n");
    for (options, part) in [
        ("sslmode=verify-ca".to_owned(), "--database-url: says sslmode=verify-ca but not which CA"),
        ("sslmode=verify-full&sslrootcert=/nonexistent.pem".to_owned(), "sslrootcert: cannot read /nonexistent.pem"),
        (format!("sslmode=verify-full&sslrootcert={not_pem}"), "holds no certificate in PEM form"),
        ("sslmode=sometimes".to_owned(), "unknown sslmode; use disable, prefer"),
    ] {
        let url = format!("postgres://u:s3cret@h/d?{options}");
        let checked = musterd(&["config", "check", "--database-url", &url]).await;
        let served = musterd(&["serve", "--database-url", &url]).await;
        assert!(checked.complaint().contains(part) && !checked.stderr.contains("s3cret"), "{checked:?}");
        assert_eq!((checked.code, checked.complaint()), (Some(78), served.complaint()));
        assert_eq!(served.code, Some(78));
    }
    assert!(!data_dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_takes_the_database_from_the_file_or_the_secret_too() {
    let database = TestDatabase::create().await;
    let files = Files::new();
    let secret = files.write("url", &format!("{}\n", database.url()));
    let file = files.write("m.toml", &format!("database-url-file = {secret:?}\nkeep-dead = '2h'\n"));
    let up = with(&[("MUSTERD_CONFIG", &file)], &["migrate", "up", "-o", "json"]).await.json();
    assert!(!up["applied"].as_array().unwrap().is_empty(), "{up}");
    let status = musterd(&["migrate", "status", "--exit-code", "--database-url-file", &secret]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let nothing = musterd(&["migrate", "status"]).await;
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.complaint().starts_with("which database? give --database-url"), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_of_a_policy_are_shown_with_the_line_that_sets_them() {
    let files = Files::new();
    let rule = "[[rule]]\nwho = ['token/a']\nmay = ['register']\non = ['x']\nlimits = { records = 7, registrations = '3/s' }\n";
    let (policy, tokens) = (files.write("policy.toml", &format!("# Rules.\n{rule}")), files.write("tokens", ""));
    let flags = ["config", "show", "--policy", &policy, "--tokens", &tokens, "-o", "json"];
    let shown = musterd(&flags).await.json();
    assert_eq!(setting(&shown, "quota.records"), three("10000", "default", "-"));
    let rows = shown.as_array().unwrap().iter();
    let of_rule = rows.filter(|row| row["source"].as_str().is_some_and(|source| source == format!("{policy}:2")));
    let of_rule: Vec<_> =
        of_rule.map(|row| (row["setting"].as_str().unwrap(), row["value"].as_str().unwrap())).collect();
    assert_eq!(of_rule, [("quota.records", "7"), ("quota.registrations", "3/s")]);
    fs::write(&policy, "[[rule]]\nmay = 1\n").unwrap();
    let told = musterd(&flags).await;
    assert!(told.code == Some(78) && told.stderr.contains("policy.toml:2:7"), "{told:?}");
    let open = musterd(&["config", "show", "-o", "json"]).await.json();
    assert!(open.as_array().unwrap().iter().all(|row| !row["setting"].as_str().unwrap().starts_with("quota.")));
}

fn serve() -> Command {
    let mut command = Cli::command();
    command.build();
    command.find_subcommand("serve").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_has_every_key_with_its_default_and_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/musterd.toml");
    let text = fs::read_to_string(&path).unwrap();
    let keys: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = ")).map(|(key, _)| key).collect();
    let keys: Vec<&str> = keys.into_iter().filter(|key| !key.starts_with(' ')).collect();
    let serve = serve();
    let client = ["addr", "timeout", "wait", "ca", "cert", "cert-key", "token-file", "insecure-send-token"];
    let client = [&client[..], &["color", "config"]].concat();
    let args = || serve.get_arguments().filter(|arg| arg.get_env().is_some());
    let known: BTreeSet<&str> = args().filter_map(|arg| arg.get_long()).filter(|long| !client.contains(long)).collect();
    assert_eq!(keys.iter().copied().collect::<BTreeSet<_>>(), known);
    assert_eq!(keys.len(), known.len(), "a key stands twice");

    // With every key in force but one of the two that exclude each other.
    let files = Files::new();
    let authority = crate::harness::tls::Authority::new("ca");
    let ca = files.write("ca.pem", &authority.pem());
    let (certificate, key) = authority.sign(&["localhost"], "localhost", false);
    files.write("server.key", &key);
    files.write("tokens", "");
    files.write("policy.toml", "[[rule]]\nwho = ['token/a']\nmay = ['read']\non = ['*']\n");
    files.write("clients.crl", &authority.revoke(&certificate));
    let directory = files.write("server.pem", &certificate).replace("/server.pem", "");
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| known.iter().any(|key| rest.starts_with(&format!("{key} = "))))
                .unwrap_or(line)
        })
        .filter(|line| !line.starts_with("database-url-file = "))
        .collect();
    let file = files.write(
        "m.toml",
        &uncommented.join("\n").replace("/etc/musterd/ca.pem", &ca).replace("/etc/musterd/tls", &directory),
    );
    let shown = musterd(&["config", "show", "--config", &file, "-o", "json"]).await.json();
    for arg in args().filter(|arg| keys.contains(&arg.get_long().unwrap())) {
        let key = arg.get_long().unwrap();
        let (value, origin, _) = setting(&shown, key);
        assert!(origin == "file" || key == "database-url-file", "{key} is from {origin}");
        if let Some(default) = arg.get_default_values().first() {
            assert_eq!(value, default.to_str().unwrap(), "{key}");
        }
    }
    assert_eq!(setting(&shown, "no-migrate").0, "false");
    // And as it is, with nothing in force.
    let shown = musterd(&["config", "show", "--config", path.to_str().unwrap(), "-o", "json"]).await.json();
    assert!(shown.as_array().unwrap().iter().all(|row| row["origin"] == "default" || row["setting"] == "config"));
}
