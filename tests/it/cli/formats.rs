//! Every command in every form of output: it prints something that can be read, or refuses the form.

use std::{collections::BTreeSet, time::Duration};

use clap::CommandFactory as _;
use musterd::cli::Cli;

use super::{Ended, musterd};
use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::TestDatabase,
    registry::Registry,
    tls::Authority,
};

/// Commands and what they need, in an order in which each has an answer. `{id}` and `{lease}` are of a live instance,
/// `{other}` is another one, `{database}` the URL of the database, `{spare}` that of one without a daemon.
const COMMANDS: &[&str] = &[
    "resolve web",
    "list",
    "get {id}",
    "describe web",
    "explain web",
    "wait web",
    "watch --until-synced",
    "status",
    "check",
    "epoch show",
    "epoch list",
    "hold",
    "release",
    "drain {id}",
    "undrain {id}",
    "check-lease {lease}",
    "whoami",
    "audit",
    "deregister {other}",
    "expire {other}",
    "bench resolve --instances 1 --duration 100ms --connections 1",
    "config show",
    "cert show {certificate}",
    "token list {directory}",
    "migrate up --database-url {database}",
    "migrate status --database-url {database}",
    "migrate status --detect --database-url {database}",
    "migrate plan --database-url {database}",
    "migrate verify --database-url {database}",
    "migrate verify --against {spare} --database-url {database}",
    "migrate adopt --database-url {database}",
    "migrate repair --database-url {database}",
    "migrate eject --database-url {spare}",
    "epoch rotate --force",
];

/// How many of them are a command that stands there already, with a flag that changes what is printed.
const VARIANTS: usize = 2;

/// Forms that a command does not have. A watch has no end, so it is no document; the others have nothing to name.
const REFUSED: &[(&str, &[&str])] = &[
    ("watch", &["json", "yaml", "name"]),
    ("status", &["name"]),
    ("check", &["name"]),
    ("hold", &["name"]),
    ("release", &["name"]),
    ("whoami", &["name"]),
    ("bench", &["name"]),
    ("migrate plan", &["name"]),
    ("migrate verify", &["name"]),
    ("migrate repair", &["name"]),
    ("migrate eject", &["name"]),
];

/// What prints nothing on standard output because there is nothing: no migration was pending, nothing differs, and what
/// `release` did is said in words.
const EMPTY: &[(&str, &[&str])] = &[
    ("migrate up", &["table", "wide", "name"]),
    ("migrate plan", &["table", "wide"]),
    ("migrate verify", &["table", "wide"]),
    ("migrate adopt", &["table", "wide", "name"]),
    ("migrate repair", &["table", "wide"]),
    ("migrate eject", &["table", "wide"]),
    ("release", &["table", "wide"]),
];

fn has(table: &[(&str, &[&str])], command: &str, format: &str) -> bool {
    table.iter().any(|(name, formats)| {
        (command == *name || command.starts_with(&format!("{name} "))) && formats.contains(&format)
    })
}

/// Complains unless the output is what the format promises.
fn readable(format: &str, ended: &Ended) -> Result<(), String> {
    let text = &ended.stdout;
    match format {
        "json" => serde_json::from_str::<serde_json::Value>(text).map(drop).map_err(|error| error.to_string()),
        "jsonl" => text
            .lines()
            .try_for_each(|line| serde_json::from_str::<serde_json::Value>(line).map(drop))
            .map_err(|e| e.to_string()),
        "yaml" => text.starts_with("---\n").then_some(()).ok_or_else(|| "no document".to_owned()),
        "name" => text
            .lines()
            .all(|line| !line.is_empty() && !line.contains(' '))
            .then_some(())
            .ok_or_else(|| "no names".to_owned()),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_every_form_or_refuses_it() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let spare = Registry::head().await;
    let caller = Caller::of(&daemon);
    let web = caller.register(alive("web", Duration::from_secs(300))).await.unwrap();
    let other = caller.register(alive("other", Duration::from_secs(300))).await.unwrap();
    let certificate = daemon.directory().join("server.pem");
    std::fs::write(&certificate, Authority::new("ca").sign(&["localhost"], "localhost", false).0).unwrap();
    std::fs::write(daemon.directory().join("tokens"), format!("a sha256:{}\n", "0".repeat(64))).unwrap();
    for command in COMMANDS {
        let command = command.replace("{id}", &web.instance_id).replace("{lease}", &web.lease_id.to_string());
        let command = command.replace("{other}", &other.instance_id).replace("{database}", database.url());
        let command = command.replace("{spare}", spare.database.url());
        let command = command.replace("{certificate}", certificate.to_str().unwrap());
        let command = command.replace("{directory}", daemon.directory().to_str().unwrap());
        for format in ["table", "wide", "json", "jsonl", "yaml", "name"] {
            let words: Vec<&str> = command.split(' ').collect();
            let flags = if words[0] == "bench" { &["--yes"][..] } else { &[] };
            let ended = musterd(&[&words[..], flags, &["-o", format, "--addr", &daemon.grpc_addr]].concat()).await;
            let place = format!("{command} -o {format}: {ended:?}");
            if has(REFUSED, &command, format) {
                assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{place}");
                continue;
            }
            assert_eq!(ended.code, Some(0), "{place}");
            assert_eq!(ended.stdout.is_empty(), has(EMPTY, &command, format), "{place}");
            readable(format, &ended).unwrap_or_else(|complaint| panic!("{complaint}: {place}"));
        }
    }
}

#[test]
fn every_command_with_a_form_of_output_is_tried() {
    fn collect(command: &clap::Command, path: &str, all: &mut BTreeSet<String>) {
        if command.get_arguments().any(|arg| arg.get_long() == Some("output")) {
            all.insert(path.to_owned());
        }
        for nested in command.get_subcommands().filter(|one| one.get_name() != "help") {
            collect(nested, format!("{path} {}", nested.get_name()).trim(), all);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut all = BTreeSet::new();
    collect(&command, "", &mut all);
    // One of them stands for all kinds of load: they share the report.
    all.retain(|path| !path.starts_with("bench ") || path == "bench resolve");
    // Needs the server programs of two major versions: tried in `local_upgrade`.
    all.remove("local upgrade");
    let tried = |path: &String| COMMANDS.iter().any(|one| *one == path || one.starts_with(&format!("{path} ")));
    let missing: Vec<_> = all.iter().filter(|path| !tried(path)).collect();
    assert!(missing.is_empty() && all.len() + VARIANTS == COMMANDS.len(), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_and_two_have_one_shape() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    for name in ["a", "b"] {
        caller.register(alive(name, Duration::from_secs(300))).await.unwrap();
    }
    let keys = async |names: &[&str]| {
        let json = musterd(&[&["resolve", "-o", "json", "--addr", &daemon.grpc_addr], names].concat()).await.json();
        let result = json["results"][0].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        (json.as_object().unwrap().keys().cloned().collect::<Vec<_>>(), result, json["results"][0]["reason"].clone())
    };
    assert_eq!(keys(&["a"]).await, keys(&["a", "b"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_has_one_text_that_names_the_flag() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let said = async |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let ended = musterd(&[&["--addr", &daemon.grpc_addr], &words[..]].concat()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{words:?}: {ended:?}");
        ended.stderr
    };
    for (words, expected) in [
        ("hold --for 2h", "musterd: --for is out of range; choose 1 s to 1 h (INVALID_FIELD)\n"),
        ("release --for 2h", "musterd: --for is out of range; choose 1 s to 1 h (INVALID_FIELD)\n"),
    ] {
        assert_eq!(said(words).await, expected);
    }
    let long = "x".repeat(300);
    for (words, flag) in [
        (format!("list --node {long}"), "--node has 300 bytes"),
        (format!("list --prefix {long}"), "--prefix has 300 bytes"),
        (format!("resolve {long}"), "NAME has 300 bytes"),
        (format!("run --logical-id {long} -- true"), "--logical-id has 300 bytes"),
        ("run --logical-id a --ttl 1s -- true".to_owned(), "--ttl is 1s"),
    ] {
        let said = said(&words).await;
        let complaint = said.lines().last().unwrap();
        assert!(complaint.starts_with(&format!("musterd: {flag}")), "{words}: {said}");
        assert_eq!(said.matches(flag).count(), 1, "{said}");
    }
    let explained = "is no instance id, which is a UUID";
    for words in [
        "get web",
        "expire web",
        "drain web",
        "resolve a --exclude web",
        "run --instance-id web --logical-id a -- true",
    ] {
        assert!(said(words).await.contains(explained), "{words}");
    }
    for words in ["epoch rotate --new x", "epoch rotate --expect x", "run --epoch x --logical-id a -- true"] {
        assert!(said(words).await.contains("is no UUID; expected one like"), "{words}");
    }
    assert!(said("check-lease web").await.contains("is no lease id"));
}
