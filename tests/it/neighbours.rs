//! Other systems in the database of a registry: their histories of migrations, their tools, their renamed schemas, several
//! registries side by side.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use musterd::migrate::{self, State};
use serde_json::Value;
use tokio_postgres::Client;

use crate::{
    cli::musterd,
    deploy::tools::{python, tool},
    harness::{
        actor::{Caller, alive},
        daemon::Daemon,
        postgres::{MIGRATIONS, TestDatabase, connect},
        registry::{Registry, get, id, make_alive, refusal, run},
        scratch::Scratch,
    },
};

/// Histories of three systems: one whose live table has other columns than its first migration declares, and a foreign owner;
/// one with two heads, under which no upgrade runs; one that drops what it does not know.
const HISTORIES: &str = "
CREATE TABLE migrations (id serial PRIMARY KEY, migration_name varchar(255) NOT NULL UNIQUE, applied_at timestamptz DEFAULT now());
INSERT INTO migrations (migration_name) VALUES ('011'), ('012'), ('013'), ('003'), ('003_duplicate');
CREATE TABLE alembic_version (version_num varchar(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('auto_fix_permissions_002'), ('fc949a6025ca');
CREATE TABLE _prisma_migrations (id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamptz,
    migration_name varchar(255) NOT NULL, logs text, rolled_back_at timestamptz, started_at timestamptz NOT NULL DEFAULT now(),
    applied_steps_count integer NOT NULL DEFAULT 0);
INSERT INTO _prisma_migrations (id, checksum, migration_name) VALUES ('a', 'b', '011_add_runtime_registry');
CREATE TABLE app_note (id integer PRIMARY KEY, note text);
INSERT INTO app_note VALUES (1, 'kept');";

/// What the three are, byte for byte.
async fn dump(url: &str) -> Option<String> {
    let mut command = tokio::process::Command::from(tool(&["pg_dump"])?);
    command.args([
        "--table=migrations*",
        "--table=alembic_version",
        "--table=_prisma_migrations",
        "--table=app_note",
        url,
    ]);
    let output = command.kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Recent versions write a random key into their first lines.
    Some(text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n"))
}

/// What `check` says of the histories: table and exclusion.
async fn named(url: &str) -> Vec<(String, String)> {
    let ended = musterd(&["check", "--database-url", url, "-o", "json"]).await;
    let json: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = json["findings"].as_array().unwrap().iter().filter(|finding| finding["check"] == "other history");
    findings.map(|finding| (text(finding, "found"), text(finding, "fix"))).collect()
}

async fn seedcore(client: &Client) {
    run(client, include_str!("../../migrations/011_add_runtime_registry.sql")).await;
    run(client, include_str!("../../migrations/012_runtime_registry_functions.sql")).await;
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(client, 1, "organ", 100).await;
}

#[tokio::test]
async fn histories_of_other_tools_are_untouched_named_and_prove_nothing() {
    let database = TestDatabase::create().await;
    let (client, url) = (connect(database.url()).await, database.url());
    let role = format!("r_{}", uuid::Uuid::new_v4().simple());
    seedcore(&client).await;
    run(&client, HISTORIES).await;
    run(&client, &format!("CREATE ROLE {role}; ALTER TABLE migrations OWNER TO {role}")).await;
    let Some(before) = dump(url).await else { return };
    assert!(before.contains("auto_fix_permissions_002") && before.contains("003_duplicate"), "{before}");
    let statuses = migrate::status(url).await.unwrap();
    assert!(statuses.iter().all(|status| status.state == State::Pending), "their numbers are not ours: {statuses:?}");
    migrate::adopt(url, "test").await.unwrap();
    migrate::up(url, "test").await.unwrap();
    assert_eq!(migrate::verify(url).await.unwrap(), [""; 0], "their tables are no difference");
    migrate::repair(url, true).await.unwrap();
    assert_eq!(dump(url).await.unwrap(), before);
    let named = named(url).await;
    for (table, tool, exclusion) in [
        ("public._prisma_migrations", "Prisma", "tables.external"),
        ("public.alembic_version", "Alembic", "include_name="),
        ("public.migrations", "another tool", ""),
    ] {
        let found = format!("{table} is the history of {tool}; musterd neither reads nor writes it");
        let is_told = named.iter().any(|(line, fix)| *line == found && fix.contains(exclusion));
        assert!(is_told, "{found}: {named:?}");
    }
    migrate::eject(url, false, "test").await.unwrap();
    migrate::up(url, "test").await.unwrap();
    assert_eq!(dump(url).await.unwrap(), before, "also there and back");
    run(&client, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Runs a client program to its end.
async fn ran(program: Command, arguments: &[&str]) {
    let output = tokio::process::Command::from(program).args(arguments).kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_dump_verifies_and_serves_beside_its_neighbours() {
    let (Some(pg_dump), Some(pg_restore)) = (tool(&["pg_dump"]), tool(&["pg_restore"])) else { return };
    let database = TestDatabase::create().await;
    let (client, url) = (connect(database.url()).await, database.url());
    seedcore(&client).await;
    run(&client, HISTORIES).await;
    migrate::up(url, "test").await.unwrap();
    make_alive(&client, 2, "ended", 100).await;
    run(&client, &format!("SELECT set_instance_status('{}', 'dead')", id(2))).await;
    let scratch = Scratch::on_disk();
    let file = scratch.path().join("registry.dump");
    ran(pg_dump, &["--format=custom", "--file", file.to_str().unwrap(), url]).await;
    let copy = TestDatabase::create().await;
    ran(pg_restore, &["--exit-on-error", "--dbname", copy.url(), file.to_str().unwrap()]).await;

    assert_eq!(migrate::verify(copy.url()).await.unwrap(), [""; 0]);
    assert_eq!(migrate::verify_against(copy.url(), url).await.unwrap(), [""; 0]);
    assert_eq!(dump(copy.url()).await.unwrap(), dump(url).await.unwrap());
    let restored = connect(copy.url()).await;
    for table in ["registry_instance", "registry_death", "registry_epoch", "cluster_metadata", "muster_migration"] {
        let rows =
            format!("SELECT coalesce(jsonb_agg(to_jsonb(one) ORDER BY one::text)::text, '') FROM {table} AS one");
        assert_eq!(get::<String>(&restored, &rows).await, get::<String>(&client, &rows).await, "{table}");
    }
    let daemon = Daemon::start(copy.url()).await;
    let caller = Caller::of(&daemon);
    assert_eq!(caller.best("organ").await, id(1).to_string(), "the lease of before the dump");
    caller.register(alive("later", Duration::from_secs(300))).await.unwrap();
    run(&restored, &format!("SELECT beat('{}')", id(1))).await;
    assert_eq!(
        refusal(&restored, &format!("SELECT set_instance_status('{}', 'alive')", id(2))).await,
        "MU005",
        "dead is final"
    );
    assert!(daemon.terminate().await.success());
    assert_eq!(migrate::verify(copy.url()).await.unwrap(), [""; 0]);
    assert_eq!(dump(copy.url()).await.unwrap(), dump(url).await.unwrap(), "its neighbours are untouched");
}

/// Compares the tables of an application with the database as Alembic's autogenerate does, and prints what it would change.
const AUTOGENERATE: &str = r#"
import sys
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

snippet = sys.argv[2] if len(sys.argv) > 2 else None
options = eval(f"dict({snippet})") if snippet else {}
metadata = sa.MetaData()
sa.Table("app_note", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.Text))
with sa.create_engine(sys.argv[1]).connect() as connection:
    context = MigrationContext.configure(connection, opts=options)
    print("heads", *sorted(context.get_current_heads()))
    for change in compare_metadata(context, metadata):
        print(change[0], change[1].name)
"#;

#[tokio::test]
async fn autogenerate_of_alembic_leaves_the_registry_out_with_the_snippet_of_check() {
    let Some(python) = python("alembic") else { return };
    let registry = Registry::head().await;
    let url = registry.database.url();
    run(
        &registry.client,
        "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL PRIMARY KEY);
        INSERT INTO alembic_version VALUES ('auto_fix_permissions_002'), ('fc949a6025ca');
        CREATE TABLE app_note (id integer PRIMARY KEY, note text); CREATE TABLE forgotten (id integer)",
    )
    .await;
    let scratch = Scratch::on_disk();
    let place = "SELECT 'postgresql+psycopg://' || current_user || '@/' || current_database() || '?host='
                 || trim(split_part(current_setting('unix_socket_directories'), ',', 1), '\" ')";
    let place: String = get(&registry.client, place).await;
    let script = scratch.path().join("autogenerate.py");
    fs::write(&script, AUTOGENERATE).unwrap();
    let proposed = async |snippet: Option<&str>| {
        let mut command = tokio::process::Command::new(&python);
        command.arg(&script).arg(&place).args(snippet);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let without = proposed(None).await;
    assert!(without.contains("remove_table registry_instance"), "this is what the snippet is for: {without}");
    let fix = named(url).await.into_iter().find(|(found, _)| found.contains("Alembic")).unwrap().1;
    let (_, snippet) = fix.split_once("env.py: ").unwrap();
    let with = proposed(Some(snippet)).await;
    assert_eq!(with, "heads auto_fix_permissions_002 fc949a6025ca\nremove_table forgotten\n");
}

#[tokio::test]
async fn functions_of_a_renamed_schema_are_named_and_put_right() {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    run(&client, "CREATE SCHEMA memory; SET search_path = memory").await;
    let joint = if database.url().contains('?') { '&' } else { '?' };
    let url = |schema: &str| format!("{}{joint}options=-csearch_path%3D{schema}", database.url());
    migrate::up(&url("memory"), "test").await.unwrap();
    run(&client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(&client, 1, "organ", 100).await;
    run(&client, "ALTER SCHEMA memory RENAME TO memory_nucleus; SET search_path = memory_nucleus").await;
    let beat = format!("SELECT beat('{}')", id(1));
    assert_ne!(refusal(&client, &beat).await, "", "its search path leads nowhere");
    let renamed = url("memory_nucleus");
    let ended = musterd(&["migrate", "verify", "--database-url", &renamed]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("function beat(uuid) differs from the expected definition"), "{ended:?}");
    let ended = musterd(&["migrate", "repair", "--yes", "--database-url", &renamed]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(migrate::verify(&renamed).await.unwrap(), [""; 0]);
    assert_eq!(refusal(&client, &beat).await, "");
}

#[tokio::test]
async fn all_registries_of_a_database_are_migrated_and_reported_one_by_one() {
    let database = TestDatabase::create().await;
    let (client, url) = (connect(database.url()).await, database.url());
    let ended = musterd(&["migrate", "up", "--all", "--database-url", url]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no schema of this database holds a registry"), "{ended:?}");
    for schema in ["broken", "tenant_a", "tenant_b"] {
        run(&client, &format!("CREATE SCHEMA {schema}; SET search_path = {schema}")).await;
        seedcore(&client).await;
    }
    run(&client, "DROP VIEW broken.active_instance, broken.active_instances; ALTER TABLE broken.registry_instance ALTER pid TYPE bigint").await;
    let ended = musterd(&["migrate", "status", "--all", "--exit-code", "--database-url", url]).await;
    assert_eq!((ended.code, ended.stdout.matches("011      add_runtime_registry").count()), (Some(1), 3), "{ended:?}");
    let ended = musterd(&["migrate", "up", "--all", "--database-url", url]).await;
    assert_eq!(ended.code, Some(78), "the failure of one is that of all: {ended:?}");
    assert!(ended.stderr.contains("registry_instance: pid bigint instead of pid integer"), "{ended:?}");
    for schema in ["tenant_a", "tenant_b"] {
        assert!(ended.stderr.contains(&format!("registry in schema {schema}\n")), "{ended:?}");
        let applied: i64 = get(&client, &format!("SELECT count(*) FROM {schema}.muster_migration")).await;
        assert_eq!(usize::try_from(applied).unwrap(), MIGRATIONS, "{schema}");
    }
    assert_eq!(refusal(&client, "SELECT FROM broken.muster_migration").await, "42P01");
    run(&client, "DROP SCHEMA broken CASCADE").await;
    let ended = musterd(&["migrate", "verify", "--all", "-o", "json", "--database-url", url]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let answers: Vec<Value> =
        serde_json::Deserializer::from_str(&ended.stdout).into_iter().collect::<Result<_, _>>().unwrap();
    let schemas: Vec<_> = answers.iter().map(|answer| answer["schema"].as_str().unwrap()).collect();
    assert_eq!(schemas, ["tenant_a", "tenant_b"]);
}

#[tokio::test]
async fn plan_is_made_for_a_role_and_a_schema_that_are_not_of_the_url() {
    let database = TestDatabase::create().await;
    let (client, url) = (connect(database.url()).await, database.url());
    let role = format!("r_{}", uuid::Uuid::new_v4().simple());
    run(&client, &format!("CREATE ROLE {role}; CREATE SCHEMA tenant; SET search_path = tenant")).await;
    seedcore(&client).await;
    let plan = async |arguments: &[&str]| {
        let ended = musterd(&[&["migrate", "plan", "-o", "json", "--database-url", url], arguments].concat()).await;
        assert_eq!(ended.code, Some(10), "{ended:?}");
        serde_json::from_str::<Value>(&ended.stdout).unwrap()
    };
    let planned = plan(&["--schema", "tenant", "--role", &role]).await;
    assert_eq!(planned["schema"], "tenant");
    let lacking = format!("{role} is not the owner of the tables, musterd; GRANT musterd TO {role}");
    assert_eq!(planned["lacking"], serde_json::json!([lacking]));
    assert_eq!(plan(&["--schema", "tenant"]).await["lacking"], serde_json::json!([]));
    let ended =
        musterd(&["migrate", "plan", "--role", "nothing_of_the_kind", "--schema", "tenant", "--database-url", url])
            .await;
    assert!(ended.code == Some(1) && ended.stderr.contains("role \"nothing_of_the_kind\" does not exist"), "{ended:?}");
    let ended = musterd(&["migrate", "plan", "--schema", "absent", "--database-url", url]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    run(&client, &format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn eject_gives_the_functions_to_every_role_or_keeps_the_rights() {
    for keep in [false, true] {
        let registry = Registry::head().await;
        let (client, url) = (&registry.client, registry.database.url());
        run(client, "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC").await;
        let mut arguments = vec!["migrate", "eject", "--database-url", url];
        arguments.extend(keep.then_some("--keep-roles"));
        let ended = musterd(&arguments).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let may_call = "SELECT has_function_privilege('public', 'beat(uuid)', 'EXECUTE')";
        assert_eq!(get::<bool>(client, may_call).await, !keep);
    }
}
