//! The commands that read the tables of several registries: `config`, `check`, `migrate --all`.

use std::{fs, path::Path};

use serde_json::Value;

use super::{callers, of, table};
use crate::{
    cli::{Ended, musterd},
    harness::{
        daemon::Daemon,
        postgres::{OwnCluster, TestDatabase, connect},
        registry::{column, get, run},
        scratch::Scratch,
    },
};

/// A configuration file.
struct File {
    scratch: Scratch,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { scratch: Scratch::in_memory() };
        file.write(text);
        file
    }

    fn path(&self) -> String {
        self.scratch.path().join("m.toml").to_str().unwrap().to_owned()
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }
}

/// What `check` finds of registries, by check, as severity and text.
async fn findings(file: &File, addr: &str) -> Vec<(String, String, String)> {
    let ended = musterd(&["check", "--addr", addr, "--config", &file.path(), "-o", "json"]).await;
    let told: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    let found = told["findings"].clone();
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    // The server that most tests share is not durable.
    let is_told = |one: &&Value| text(one, "found").starts_with("registry ") && text(one, "check") != "durability";
    let found = found.as_array().unwrap().iter().filter(is_told);
    let all = |one: &Value| format!("{}; {}", text(one, "found"), text(one, "fix"));
    found.map(|one| (text(one, "check"), text(one, "severity"), all(one))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tables_are_refused_with_place_limit_and_fix() {
    let file = File::new("");
    let path = file.path();
    let seventeen: String = (0..17).map(|number| table(&format!("r{number}"), "")).collect();
    for (text, place, fix) in [
        (table("a", "shema = 'a'"), ":5:1: unknown key \"shema\"; ", "did you mean schema?"),
        (table("", ""), ":2:8: name: ", "needs 1 to 63 of a-z, 0-9, _ and -"),
        (table(&"n".repeat(64), ""), ":2:8: name: ", "needs 1 to 63 of a-z, 0-9, _ and -"),
        (table("a", "") + &table("a", ""), ":7:1: two registries have the name a; ", "give them different names"),
        (
            table("a", "schema = 's'") + &table("b", "schema = 's'"),
            ":10:1: registry a is in the same schema s ",
            "give another schema or database",
        ),
        (
            table("a", "database-url = 'host=h dbname=d'\nschema = 's'")
                + &table("b", "database-url = 'host=h dbname=d user=other'\nschema = 's'"),
            ":12:1: registry a is in the same schema s ",
            "give another schema or database",
        ),
        (
            table("a", "database-url = 'host=h'\ndatabase-url-file = '/f'"),
            ":6:1: database-url-file stands beside database-url; ",
            "leave one out",
        ),
        (seventeen, ":81:1: [[registry]] is number 17 of at most 16 in a daemon; ", "move it to another daemon"),
        (
            "grpc-addr = '127.0.0.1:7'\n".to_owned() + &table("a", ""),
            ":1 is given beside [[registry]]; ",
            "move it into the tables, of which each names its own",
        ),
        (
            "database-url = 'host=h'\n".to_owned() + &table("a", ""),
            ":1 is given beside [[registry]]; ",
            "move it into the tables, of which each names its own",
        ),
    ] {
        file.write(&text);
        for command in [&["serve", "--config", &path][..], &["config", "check", "--config", &path]] {
            let ended = musterd(command).await;
            assert_eq!(ended.code, Some(78), "{text}: {ended:?}");
            let said = ended.complaint();
            assert!(said.starts_with(&format!("{path}{place}")) && said.ends_with(fix), "{text}: {ended:?}");
        }
    }
    file.write(&table("a", ""));
    let flag = musterd(&["serve", "--config", &path, "--database-url", "host=h"]).await;
    assert_eq!(flag.code, Some(78), "{flag:?}");
    assert!(flag.complaint().starts_with("--database-url is given beside [[registry]]; "), "{flag:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_shown_with_their_place() {
    let file = File::new(&table("a", "schema = 's'"));
    let path = file.path();
    let shown = musterd(&["config", "show", "--config", &path]).await;
    let is_told = |line: &str| line.starts_with("registry.a.schema") && line.contains(&format!("file {path}:1"));
    assert!(shown.stdout.lines().any(is_told), "{shown:?}");
    // The example, with what its comment has.
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/musterd.toml");
    let text = fs::read_to_string(example).unwrap();
    let tables: Vec<_> = text.lines().skip_while(|line| *line != "# [[registry]]").collect();
    let tables: Vec<_> = tables.iter().map(|line| line.trim_start_matches("# ").trim_start_matches('#')).collect();
    let url = File::new("postgres://u@h/d");
    file.write(&tables.join("\n").replace("/run/secrets/research-url", &url.path()));
    let shown = musterd(&["config", "show", "--config", &path]).await;
    for key in ["registry.research.database-url", "registry.production.http-addr"] {
        assert!(shown.stdout.lines().any(|line| line.starts_with(key)), "{key}: {shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_looks_at_each_registry_and_knows_which_one_answers() {
    let database = TestDatabase::create().await;
    let file = File::new("");
    let config = of(&database, "a") + &of(&database, "b");
    let (mut daemon, ports) = Daemon::several(&config).await;
    callers(&mut daemon, &ports).await;
    let bound: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| {
            let (grpc, http) = &ports[*name];
            format!(
                "[[registry]]\nname = '{name}'\ngrpc-addr = '{grpc}'\nhttp-addr = '{http}'\ndatabase-url = '{}'\n",
                database.url()
            )
        })
        .collect();
    file.write(&bound.concat());
    let found = findings(&file, &ports["b"].0).await;
    for name in ["a", "b"] {
        let of_one = |check: &str| {
            let one = |(of, _, text): &&(String, String, String)| {
                of == check && text.starts_with(&format!("registry {name}: "))
            };
            found.iter().filter(one).count()
        };
        assert_eq!((of_one("connect"), of_one("connections"), of_one("schema")), (1, 1, 1), "{found:#?}");
        assert_eq!(of_one("same"), usize::from(name == "b"), "{found:#?}");
    }
    assert!(found.iter().all(|(_, severity, _)| severity == "ok"), "{found:#?}");

    run(&connect(database.url()).await, "ALTER TABLE a.registry_hook ADD COLUMN note text").await;
    let found = findings(&file, &ports["b"].0).await;
    let wrong: Vec<_> = found.iter().filter(|(_, severity, _)| severity != "ok").collect();
    assert!(
        !wrong.is_empty() && wrong.iter().all(|(check, _, text)| check == "schema" && text.starts_with("registry a: ")),
        "{found:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_a_server_that_is_too_small_for_all_registries() {
    let mut cluster = OwnCluster::create().await;
    cluster.restart_within(&[], &["max_connections=20".to_owned()]).await;
    let one = |name: &str| table(name, &format!("database-url = '{}'", cluster.url()));
    // Two may hold 16, three may hold 24, and three of 20 are reserved.
    let two = one("a") + &one("b");
    for (config, severity, text) in [
        (two.clone(), "ok", "of 17 in use"),
        (two + &one("c"), "warning", "of 17 in use, the server is too small for one daemon; raise max_connections"),
    ] {
        let found = findings(&File::new(&config), "127.0.0.1:1").await;
        let connections: Vec<_> = found.iter().filter(|(check, ..)| check == "connections").collect();
        assert_eq!(connections.len(), config.matches("[[registry]]").count(), "{found:#?}");
        for (_, told, what) in connections {
            assert!(told == severity && what.contains(text), "{config}: {found:#?}");
            assert!(severity == "ok" || what.ends_with("a daemon needs 24"), "{what}");
        }
    }
}

fn documents(ended: &Ended) -> Vec<Value> {
    serde_json::Deserializer::from_str(&ended.stdout).into_iter().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_all_runs_each_registry_of_the_file_and_reports_each() {
    let (one, other) = (TestDatabase::create().await, TestDatabase::create().await);
    let away = table("away", "database-url = 'postgres://u@127.0.0.1:1/d'");
    let private = table("private", "");
    let file = File::new(&(of(&one, "a") + &away + &of(&other, "a2") + &private));
    let path = file.path();
    let refused = musterd(&["migrate", "status", "--config", &path]).await;
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.complaint().contains("; give --all where the command has it"), "{refused:?}");

    let up = musterd(&["migrate", "up", "--all", "--config", &path, "-o", "json"]).await;
    assert_eq!(up.code, Some(3), "the first that fails: {up:?}");
    let told: Vec<_> = documents(&up).iter().map(|one| (one["registry"].clone(), one["schema"].clone())).collect();
    assert_eq!(told, [("a".into(), "a".into()), ("a2".into(), "a2".into())], "{up:?}");
    assert!(up.stderr.contains("registry private: skipped, its daemon migrates the private PostgreSQL"), "{up:?}");
    for (database, schema) in [(&one, "a"), (&other, "a2")] {
        let sql = connect(database.url()).await;
        let holding = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'registry_instance'";
        assert_eq!(column::<String>(&sql, holding).await, [schema]);
    }
    file.write(&(of(&one, "a") + &of(&other, "a2")));
    let verified = musterd(&["migrate", "verify", "--all", "--config", &path]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert_eq!(verified.stderr.matches("schema verified, no differences").count(), 2, "{verified:?}");
    let status =
        musterd(&["migrate", "status", "--detect", "--all", "--exit-code", "--config", &path, "-o", "json"]).await;
    assert_eq!((status.code, documents(&status).len()), (Some(0), 2), "{status:?}");
    let rows = get::<i64>(&connect(one.url()).await, "SELECT count(*) FROM a.muster_migration").await;
    assert!(rows > 10, "{rows}");
}
