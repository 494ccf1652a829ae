//! `init-db.sh` and `verify-db.sh`, run as an operator runs them: on databases that are empty, SeedCore's, ours, and
//! damaged.

use std::process::Stdio;

use super::{path, text, tools::tool};
use crate::harness::{
    daemon::program,
    postgres::{TestDatabase, connect},
    registry::{Registry, get, id, make_alive, run},
};

/// Runs a script on a database: exit code, and what it printed.
pub(crate) async fn script(name: &str, url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::from(program());
    let binary = command.as_std().get_program().to_owned();
    command = tokio::process::Command::new(path(name));
    command.env("MUSTERD_DATABASE_URL", url).arg("--binary").arg(binary).args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).unwrap())
}

async fn initialized(url: &str, arguments: &[&str]) -> String {
    let (code, printed) = script("deploy/init-db.sh", url, arguments).await;
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("\n==> The database is initialized\n"), "{printed}");
    printed
}

#[tokio::test]
async fn an_empty_database_is_initialized_and_a_second_time_changes_nothing() {
    if tool(&["psql"]).is_none() {
        return;
    }
    let database = TestDatabase::create().await;
    let (code, printed) = script("deploy/verify-db.sh", database.url(), &[]).await;
    assert_eq!(code, Some(1), "{printed}");
    for line in [
        "FAIL  not all migrations ran: 011, 012, 013",
        "FAIL  relation \"registry_instance\" does not exist: run deploy/init-db.sh",
        "FAIL  functions do not exist: set_current_epoch register_instance",
    ] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }

    let first = initialized(database.url(), &[]).await;
    assert!(first.contains("==> Found no runtime registry; making one"), "{first}");
    assert!(first.contains("ok    all migrations ran: 011 to 0"), "{first}");
    let again = initialized(database.url(), &[]).await;
    assert!(again.contains("==> Found the registry of musterd, at migration 0"), "{again}");
    assert!(again.contains("0 applied now"), "{again}");
}

#[tokio::test]
async fn the_registry_of_seedcore_is_taken_over_with_every_row() {
    if tool(&["psql"]).is_none() {
        return;
    }
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    for file in ["migrations/011_add_runtime_registry.sql", "migrations/012_runtime_registry_functions.sql"] {
        run(&client, &text(file)).await;
    }
    run(&client, "CREATE TABLE holons (id integer); CREATE TABLE tasks (id integer)").await;
    run(&client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(&client, 1, "organ", 100).await;
    make_alive(&client, 2, "organ", 100).await;
    run(&client, &format!("SELECT set_instance_status('{}', 'dead')", id(2))).await;

    let printed = initialized(database.url(), &[]).await;
    for line in [
        "==> Found the runtime registry of SeedCore, with 2 rows in registry_instance; every row is kept",
        &format!("ok    cluster_metadata: 1 row, epoch {}", id(100)),
        "ok    registry_instance: 2 rows: 1 alive, 1 dead",
        "ok    active_instances: 1 rows",
        "ok    active_instance: 1 rows",
        "ok    the six of SeedCore and assert_lease",
        "ok    as the migrations make it",
        "note  without the roles of deploy/roles.sql",
        "not checked; tables found: holons, tasks",
    ] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
}

#[tokio::test]
async fn with_roles_the_registry_belongs_to_the_owner() {
    if tool(&["psql"]).is_none() {
        return;
    }
    let database = TestDatabase::create().await;
    let _turn = super::roles::TURN.lock().await;
    let printed = initialized(database.url(), &["--roles"]).await;
    assert!(printed.contains("ok    the registry belongs to musterd_owner"), "{printed}");
}

#[tokio::test]
async fn damage_is_named_and_objects_without_data_are_restored() {
    if tool(&["psql"]).is_none() {
        return;
    }
    let registry = Registry::head().await;
    run(&registry.client, &text("migrations/012_runtime_registry_functions.sql")).await;
    run(&registry.client, "DROP VIEW active_instance; DROP INDEX idx_instance_revision").await;
    let url = registry.database.url();
    let (code, printed) = script("deploy/verify-db.sh", url, &[]).await;
    assert_eq!(code, Some(1), "{printed}");
    for line in [
        "FAIL  relation \"active_instance\" does not exist",
        "FAIL  function beat(uuid) differs from the expected definition",
        "FAIL  index idx_instance_revision on registry_instance is missing",
    ] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
    let (code, printed) = script("deploy/init-db.sh", url, &[]).await;
    assert_eq!(code, Some(1), "an index is for people to decide: {printed}");
    assert!(printed.contains("\n==> 1 check(s) failed\n"), "{printed}");
    assert!(get::<bool>(&registry.client, "SELECT to_regclass('active_instance') IS NOT NULL").await);
}

#[tokio::test]
async fn failure_is_one_line_and_an_exit_code() {
    if tool(&["psql"]).is_none() {
        return;
    }
    let absent = "postgres://musterd:secret@127.0.0.1:1/registry";
    let (code, printed) = script("deploy/init-db.sh", absent, &["--wait", "0"]).await;
    assert_eq!(code, Some(3), "{printed}");
    assert!(
        printed.contains("error: PostgreSQL cannot be reached after 0 s: ") && !printed.contains("secret"),
        "{printed}"
    );
    let (code, printed) = script("deploy/verify-db.sh", absent, &[]).await;
    assert_eq!(code, Some(3), "{printed}");
    let (code, printed) = script("deploy/init-db.sh", absent, &["--wait", "soon"]).await;
    assert_eq!((code, printed.as_str()), (Some(2), "error: --wait takes a number of seconds, not 'soon'\n"));
    let (code, printed) = script("deploy/init-db.sh", "", &[]).await;
    assert_eq!((code, printed.as_str()), (Some(2), "error: MUSTERD_DATABASE_URL is not set: which database?\n"));
    let (code, _) = script("deploy/init-db.sh", absent, &["--rules"]).await;
    assert_eq!(code, Some(2));
}
