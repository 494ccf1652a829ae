//! `musterd migrate status --detect | plan | up | adopt | verify --against | repair | eject`, on databases of SeedCore that
//! are whole, half applied, renumbered, foreign or damaged.

use std::process::Stdio;

use musterd::migrate::{self, Error, Layout, Migrator, Presence, UpOptions};
use tokio::io::AsyncWriteExt as _;
use tokio_postgres::Client;

use crate::{
    cli::musterd,
    deploy::tools::tool,
    harness::{
        daemon::Daemon,
        fleet::enter,
        postgres::{MIGRATIONS, TestDatabase, connect},
        registry::{Registry, column, get, id, make_alive, refusal, run},
    },
};

/// SeedCore's own files, as musterd has them.
const TABLES: &str = include_str!("../../migrations/011_add_runtime_registry.sql");
const FUNCTIONS: &str = include_str!("../../migrations/012_runtime_registry_functions.sql");
/// Every value of every row that SeedCore has made.
const CHECKSUM: &str = "SELECT md5(string_agg(row(instance_id, logical_id, cluster_epoch, status, actor_name, serve_route,
    node_id, ip_address, pid, started_at, stopped_at, last_heartbeat)::text, '' ORDER BY instance_id)) FROM registry_instance";
/// The history, but for times.
const HISTORY: &str =
    "SELECT row(version, name, checksum, applied_by, oldest_head)::text FROM muster_migration ORDER BY 1";

/// A database of SeedCore with so many rows, a tenth of them dead, that no musterd has seen.
async fn seedcore(rows: u32) -> (TestDatabase, Client) {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    run(&client, TABLES).await;
    run(&client, FUNCTIONS).await;
    let fill = format!(
        "SELECT set_current_epoch('{epoch}');
         INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch, status, actor_name, node_id, ip_address, pid,
                                        started_at, stopped_at)
         SELECT md5(n::text)::uuid, 'organ_' || n % 50, '{epoch}',
                (CASE n % 10 WHEN 0 THEN 'dead' ELSE 'alive' END)::InstanceStatus, 'actor' || n, '', '10.0.0.1', n,
                now() - n * interval '1 s', CASE n % 10 WHEN 0 THEN now() END
         FROM generate_series(1, {rows}) AS n",
        epoch = id(100)
    );
    run(&client, &fill).await;
    (database, client)
}

async fn presences(url: &str) -> Vec<Presence> {
    migrate::detect(url).await.unwrap().migrations.iter().map(|one| one.presence).collect()
}

async fn psql(url: &str, sql: &str) -> String {
    let mut command = tokio::process::Command::new("psql");
    command.args(["-X", "-q", "--single-transaction", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", url]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    child.stdin.take().unwrap().write_all(sql.as_bytes()).await.unwrap();
    let ended = child.wait_with_output().await.unwrap();
    let complaint = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{complaint}");
    complaint
}

#[tokio::test]
async fn half_a_suite_is_partial_is_not_adopted_and_is_completed_by_up() {
    let (database, client) = seedcore(20).await;
    let url = database.url();
    run(&client, "DROP VIEW active_instances, active_instance; DROP FUNCTION beat(uuid)").await;
    let before: String = get(&client, CHECKSUM).await;
    let detection = migrate::detect(url).await.unwrap();
    let lines: Vec<String> = detection.migrations.iter().take(3).map(|one| one.describe()).collect();
    let expected =
        ["011 partial: missing view active_instances, view active_instance", "012 partial: missing function beat"];
    assert_eq!(lines[..2], expected);
    assert_eq!(lines[2], "013 absent");
    let error = migrate::adopt(url, "test").await.unwrap_err();
    assert!(error.to_string().contains(expected[0]), "{error}");
    assert!(error.to_string().ends_with("musterd migrate up makes what is missing"), "{error}");
    assert_eq!(error.exit_code(), 78);
    assert_eq!(refusal(&client, "SELECT FROM muster_migration").await, "42P01", "nothing was recorded");
    migrate::up(url, "test").await.unwrap();
    assert_eq!(migrate::verify(url).await.unwrap(), [""; 0]);
    assert_eq!(get::<String>(&client, CHECKSUM).await, before);
    assert_eq!(presences(url).await, [Presence::Present; MIGRATIONS]);
}

#[tokio::test]
async fn objects_of_another_definition_are_foreign_and_never_recorded() {
    for (change, named) in [
        (
            "CREATE OR REPLACE FUNCTION beat(p_instance_id uuid) RETURNS void LANGUAGE sql AS 'SELECT'",
            "012 foreign: other definition: function beat(uuid)",
        ),
        (
            "ALTER TABLE registry_instance ALTER pid TYPE bigint",
            "; other definition: registry_instance: pid bigint instead of pid integer",
        ),
        (
            "DROP INDEX idx_instance_logical_id; CREATE INDEX idx_instance_logical_id ON registry_instance (pid)",
            "011 foreign: other definition: index idx_instance_logical_id",
        ),
    ] {
        let (database, client) = seedcore(1).await;
        run(&client, "DROP VIEW active_instances, active_instance").await;
        run(&client, change).await;
        if !change.starts_with("ALTER TABLE") {
            run(&client, TABLES).await;
        }
        let error = migrate::adopt(database.url(), "test").await.unwrap_err();
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.to_string().ends_with("rename them first"), "{error}");
        assert_eq!((error.exit_code(), refusal(&client, "SELECT FROM muster_migration").await.as_str()), (78, "42P01"));
    }
}

#[tokio::test]
async fn two_thousand_rows_of_each_layout_are_adopted_and_given_back_unchanged() {
    let layouts = [
        (
            Layout::L1,
            "CREATE FUNCTION create_graph_embed_task_v2(integer[]) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        ),
        (
            Layout::L2,
            "CREATE FUNCTION create_graph_embed_task(integer[], integer, text, text, text) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        ),
        (Layout::L3, "CREATE TABLE organ_registry (organ_id text PRIMARY KEY, specialization text)"),
    ];
    for (layout, fingerprint) in layouts {
        let (database, client) = seedcore(2000).await;
        let url = database.url();
        run(&client, fingerprint).await;
        let before: String = get(&client, CHECKSUM).await;
        let names = ["add_runtime_registry", "runtime_registry_functions"];
        assert_eq!(migrate::adopt(url, "test").await.unwrap(), names);
        assert_eq!(migrate::adopt(url, "test").await.unwrap(), [""; 0], "a second time");
        let plan = migrate::plan(url, "test").await.unwrap();
        assert_eq!(plan.steps.len(), MIGRATIONS - 2, "{:?}", plan.steps.last().map(|step| &step.name));
        assert_eq!(migrate::up(url, "test").await.unwrap().applied.len(), MIGRATIONS - 2);
        assert_eq!(migrate::detect(url).await.unwrap().layouts, [layout]);
        assert_eq!(get::<String>(&client, CHECKSUM).await, before, "{layout:?}");
        assert!(migrate::eject(url, false, "test").await.unwrap());
        assert_eq!(get::<String>(&client, CHECKSUM).await, before, "{layout:?}");
        let body: String = get(&client, "SELECT prosrc FROM pg_proc WHERE proname = 'beat'").await;
        assert!(body.contains("SET last_heartbeat = now()"), "{body}");
    }
}

#[tokio::test]
async fn plan_run_by_psql_leaves_the_database_and_history_of_up() {
    if tool(&["psql"]).is_none() {
        return;
    }
    for rows in [None, Some(30)] {
        let ([by_up, by_plan], clients) = match rows {
            None => ([TestDatabase::create().await, TestDatabase::create().await], None),
            Some(rows) => {
                let (one, first) = seedcore(rows).await;
                drop(first);
                let copy = TestDatabase::create_from_template(one.name()).await;
                let clients = (connect(one.url()).await, connect(copy.url()).await);
                ([one, copy], Some(clients))
            }
        };
        let plan = musterd(&["migrate", "plan", "--sql", "--database-url", by_plan.url()]).await;
        assert_eq!(plan.code, Some(10), "{plan:?}");
        assert_eq!(psql(by_plan.url(), &plan.stdout).await, "", "no warning");
        let up = musterd(&["migrate", "up", "--database-url", by_up.url()]).await;
        assert_eq!(up.code, Some(0), "{up:?}");
        assert_eq!(migrate::verify_against(by_plan.url(), by_up.url()).await.unwrap(), [""; 0]);
        assert_eq!(migrate::verify(by_plan.url()).await.unwrap(), [""; 0]);
        let (one, two) = match clients {
            Some(clients) => clients,
            None => (connect(by_up.url()).await, connect(by_plan.url()).await),
        };
        assert_eq!(column::<String>(&one, HISTORY).await, column::<String>(&two, HISTORY).await);
        let held = "SELECT count(*) FROM cluster_metadata WHERE disrupted_at IS NOT NULL";
        assert_eq!(get::<i64>(&one, held).await, get::<i64>(&two, held).await, "the hold");
        let plan = musterd(&["migrate", "plan", "--database-url", by_plan.url()]).await;
        assert_eq!((plan.code, plan.stdout.as_str()), (Some(0), ""), "{plan:?}");
    }
}

#[tokio::test]
async fn plan_of_repairs_restores_replaced_functions_and_wider_views() {
    if tool(&["psql"]).is_none() {
        return;
    }
    let registry = Registry::head().await;
    let (client, url) = (&registry.client, registry.database.url());
    run(client, "ALTER TABLE registry_instance ADD COLUMN theirs text").await;
    run(client, TABLES).await;
    run(client, FUNCTIONS).await;
    run(
        client,
        "ALTER TABLE registry_instance ALTER theirs SET DEFAULT 'x'; GRANT SELECT ON active_instance TO PUBLIC",
    )
    .await;
    let plan = migrate::plan(url, "test").await.unwrap();
    psql(url, &plan.to_string()).await;
    let left = migrate::verify(url).await.unwrap();
    assert!(left.iter().all(|line| line.contains("theirs")) && left.len() == 1, "{left:?}");
    assert!(get::<bool>(client, "SELECT has_table_privilege('public', 'active_instance', 'SELECT')").await);
    assert!(migrate::plan(url, "test").await.unwrap().steps.is_empty());
}

#[tokio::test]
async fn plan_of_a_role_without_rights_is_the_same_and_writes_nothing() {
    let (database, client) = seedcore(40).await;
    let role = format!("r_{}", uuid::Uuid::new_v4().simple());
    run(&client, &format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")).await;
    let position = "SELECT pg_current_wal_insert_lsn()::text || txid_current_snapshot()::text";
    let full = migrate::plan(database.url(), "test").await.unwrap();
    let before: String =
        get(&client, "SELECT md5(string_agg(xmin::text || relname, '' ORDER BY oid)) FROM pg_class").await;
    let url = database.url().replace("//musterd@", &format!("//{role}@"));
    let plan = migrate::plan(&url, "test").await.unwrap();
    let after: String =
        get(&client, "SELECT md5(string_agg(xmin::text || relname, '' ORDER BY oid)) FROM pg_class").await;
    assert_eq!((plan.to_string(), before), (full.to_string(), after), "{position}");
    assert_eq!(full.lacking, [""; 0]);
    assert_eq!(plan.lacking, [format!("{role} is not the owner of the tables, musterd; GRANT musterd TO {role}")]);
    let numbering = plan.steps.iter().find(|step| step.name == "migration 013 (leases_and_revisions)").unwrap();
    assert!(numbering.locks.contains(&("registry_instance".to_owned(), "ACCESS EXCLUSIVE")), "{numbering:?}");
    assert_eq!((numbering.rows, numbering.estimate.as_micros()), (41, 820));
    run(&client, &format!("ALTER FUNCTION beat(uuid) OWNER TO {role}")).await;
    let lacking = migrate::plan(database.url(), "test").await.unwrap().lacking;
    assert_eq!(lacking, [format!("belongs to {role}; ALTER FUNCTION beat(uuid) OWNER TO musterd")]);
    run(&client, &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn up_stops_at_a_number_and_refuses_more_rows_than_allowed() {
    let (database, client) = seedcore(60).await;
    let ended = musterd(&["migrate", "up", "--max-rows", "59", "--database-url", database.url()]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("registry_instance has 60 rows, more than the 59 of --max-rows"), "{ended:?}");
    assert!(ended.stderr.contains("delete the dead rows first with --purge-dead"), "{ended:?}");
    let recorded = "SELECT max(version) FROM muster_migration";
    assert_eq!(get::<i32>(&client, recorded).await, 12, "what came before it");
    let ended = musterd(&["migrate", "up", "--to", "14", "--max-rows", "60", "--database-url", database.url()]).await;
    assert_eq!((ended.code, get::<i32>(&client, recorded).await), (Some(0), 14), "{ended:?}");
    let mut options = UpOptions::default();
    options.hold = false;
    migrate::up_with(database.url(), &options, "test").await.unwrap();
    assert_eq!(get::<i64>(&client, "SELECT count(*) FROM cluster_metadata WHERE disrupted_at IS NOT NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn eject_and_return_keep_leases_and_a_daemon_does_neither() {
    let registry = Registry::head().await;
    let (client, url) = (&registry.client, registry.database.url());
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(client, 1, "organ", 100).await;
    enter(client, 900).await;
    let error = migrate::eject(url, false, "test").await.unwrap_err();
    assert!(error.to_string().starts_with("daemons still work with this database: 127.0.0.1:7717"), "{error}");
    assert_eq!(error.exit_code(), 78);
    run(client, &format!("SELECT muster_daemon_stopped('{}')", id(900))).await;
    let leases = "SELECT string_agg(instance_id || ' ' || lease_id, ',' ORDER BY lease_id) FROM registry_instance";
    let revision = "SELECT revision FROM cluster_metadata";
    for round in 0..2 {
        let (lease, seen): (String, i64) = (get(client, leases).await, get(client, revision).await);
        assert!(migrate::eject(url, false, "test").await.unwrap(), "{round}");
        assert!(!migrate::eject(url, false, "test").await.unwrap(), "a second time");
        // SeedCore's own check of its functions: epoch, register, alive, beat, view, expiry, old epoch.
        let epoch = id(200 + round);
        run(client, &format!("SELECT set_current_epoch('{epoch}')")).await;
        make_alive(client, 2, "theirs", 200 + round).await;
        run(client, &format!("SELECT beat('{}')", id(2))).await;
        run(client, &format!("SELECT beat('{}')", id(77))).await;
        assert_eq!(get::<i64>(client, "SELECT count(*) FROM active_instance WHERE logical_id = 'theirs'").await, 1);
        get::<i32>(client, "SELECT expire_stale_instances(1)").await;
        get::<i32>(client, "SELECT expire_old_epoch_instances()").await;
        run(client, "DELETE FROM registry_instance WHERE logical_id = 'theirs'").await;
        let daemon = migrate::check(url).await.unwrap_err();
        assert!(matches!(daemon, Error::Ejected { .. }) && daemon.exit_code() == 78, "{daemon}");
        assert!(daemon.to_string().contains("was given back to SeedCore at 2"), "{daemon}");
        let mut starting = Daemon::spawn(&["--database-url", url]).await;
        assert_eq!(starting.wait_exit().await.code(), Some(78), "a daemon does not take it over");
        migrate::up(url, "test").await.unwrap();
        assert_eq!(migrate::verify(url).await.unwrap(), [""; 0]);
        assert_eq!(get::<String>(client, leases).await, lease);
        assert!(get::<i64>(client, revision).await > seen);
        assert_eq!(refusal(client, &format!("SELECT beat('{}')", id(77))).await, "MU004", "ours again");
    }
}

#[tokio::test]
async fn repair_lists_first_and_puts_back_all_that_holds_no_data() {
    let registry = Registry::head().await;
    let (client, url) = (&registry.client, registry.database.url());
    let damage = "ALTER TABLE registry_instance DISABLE TRIGGER registry_instance_stamp_update;
        DROP TRIGGER registry_instance_deleted ON registry_instance;
        COMMENT ON COLUMN registry_instance.pid IS 'theirs';
        DROP INDEX idx_instance_revision;
        UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_instance_lease_id'::regclass;
        CREATE OR REPLACE FUNCTION beat(p_instance_id uuid) RETURNS void LANGUAGE sql AS 'SELECT';
        CREATE INDEX idx_instance_logical_id ON registry_instance (logical_id)";
    run(client, damage).await;
    let ended = musterd(&["migrate", "repair", "--database-url", url]).await;
    let expected = "table registry_instance: comments put back\n\
                    index idx_instance_lease_id on registry_instance: built again\n\
                    index idx_instance_revision on registry_instance: put back\n\
                    function beat(uuid): put back\n\
                    trigger registry_instance_deleted on registry_instance: put back\n\
                    trigger registry_instance_stamp_update on registry_instance: built again\n\
                    index idx_instance_logical_id on registry_instance: dropped\n";
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), expected), "{ended:?}");
    assert!(!migrate::verify(url).await.unwrap().is_empty(), "nothing was changed");
    let ended = musterd(&["migrate", "repair", "--yes", "--database-url", url]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), expected), "{ended:?}");
    assert_eq!(migrate::verify(url).await.unwrap(), [""; 0]);
    // A column is data.
    run(client, "ALTER TABLE registry_instance ALTER COLUMN labels DROP DEFAULT").await;
    let ended = musterd(&["migrate", "repair", "--yes", "--database-url", url]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stdout.contains(
            "left: table registry_instance differs from the expected definition: - labels jsonb NOT NULL DEFAULT"
        ),
        "{ended:?}"
    );
}

#[tokio::test]
async fn verify_against_names_what_two_databases_do_not_share() {
    let [one, two] = [Registry::head().await, Registry::head().await];
    let url = [one.database.url(), two.database.url()];
    assert_eq!(migrate::verify_against(url[0], url[1]).await.unwrap(), [""; 0]);
    run(&two.client, "CREATE TABLE registry_extra (id integer); DELETE FROM muster_migration WHERE version = 19").await;
    run(&two.client, "DROP FUNCTION alive_at(timestamptz)").await;
    let ended = musterd(&["migrate", "verify", "--against", url[0], "--database-url", url[1]]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for line in [
        "function alive_at(",
        "table registry_extra is an unexpected object",
        "migration 019 (least_privilege) is recorded there alone",
    ] {
        assert!(ended.stdout.contains(line), "{line}: {ended:?}");
    }
    let ended = musterd(&["migrate", "verify", "--against", "nonsense", "--database-url", url[1]]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
}

#[tokio::test]
async fn status_with_detect_reports_pending_and_drift_by_its_exit_code() {
    let (database, _client) = seedcore(1).await;
    let detect =
        async |url: &str| musterd(&["migrate", "status", "--detect", "--exit-code", "--database-url", url]).await;
    let ended = detect(database.url()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("012      runtime_registry_functions  pending  present\n"), "{ended:?}");
    let registry = Registry::head().await;
    assert_eq!(detect(registry.database.url()).await.code, Some(0));
    run(&registry.client, FUNCTIONS).await;
    run(&registry.client, "CREATE TABLE source_registrations (id integer)").await;
    let ended = detect(registry.database.url()).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stdout.contains("014 partial: other definition: function set_current_epoch(uuid)\n"), "{ended:?}");
    let layout =
        "SeedCore L3: its registry is made by 009_runtime_instance_registry.sql and 010_runtime_control_logic.sql\n";
    assert!(ended.stdout.ends_with(layout), "{ended:?}");
}

#[tokio::test]
async fn migrator_works_over_a_session_of_its_caller_and_keeps_its_search_path() {
    let database = TestDatabase::create().await;
    let mut client = connect(database.url()).await;
    run(&client, "CREATE SCHEMA app; SET search_path = app, public; SET default_transaction_read_only = on").await;
    let migrator = Migrator::new("library");
    assert_eq!(migrator.plan(&mut client).await.unwrap().steps.len(), MIGRATIONS + 1);
    assert_eq!(migrator.up(&mut client, &UpOptions::default()).await.unwrap().applied.len(), MIGRATIONS);
    assert_eq!(migrator.verify(&mut client).await.unwrap(), [""; 0]);
    assert_eq!(migrator.status(&mut client).await.unwrap()[0].applied_by.as_deref(), Some("library"));
    assert_eq!(migrator.detect(&mut client).await.unwrap().schema, "app");
    assert_eq!(migrator.adopt(&mut client).await.unwrap(), [""; 0]);
    assert_eq!(get::<String>(&client, "SELECT current_setting('search_path')").await, "app, public");
    run(&client, "SET search_path = public").await;
    let error = migrator.up(&mut client, &UpOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("the registry of this database is in schema app"), "{error}");
    assert_eq!(error.exit_code(), 78);
    run(&client, "SET search_path = app").await;
    assert!(migrator.eject(&mut client).await.unwrap());
}
