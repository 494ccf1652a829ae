//! The migrations, and the runner that applies them.

use std::time::Duration;

use musterd::migrate::{self, State, schema};
use tokio_postgres::Client;

use crate::harness::{
    postgres::{BOUND, TestDatabase, connect},
    registry::{Registry, column, get, id, make_alive, refusal, run},
    wait::wait_until,
};

/// SeedCore's own migration scripts, as far as they concern the registry.
const SEED: [&str; 2] = [
    include_str!("../../migrations/011_add_runtime_registry.sql"),
    include_str!("../../migrations/012_runtime_registry_functions.sql"),
];

/// Every version there is, from the names of the files.
fn versions() -> Vec<i32> {
    let mut versions: Vec<i32> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.get(..3)?.parse().ok())
        .collect();
    versions.sort_unstable();
    versions
}

fn head() -> i32 {
    *versions().last().unwrap()
}

/// What a deployment of SeedCore does to the database, every time.
async fn deploy_seedcore(client: &Client) {
    for script in SEED {
        run(client, script).await;
    }
}

#[tokio::test]
async fn schema_sql_is_what_the_migrations_make_of_an_empty_database() {
    let database = TestDatabase::create().await;
    // Not `up`: it would put functions back to what the file says, which is what is to be found out.
    migrate::up_to(database.url(), head()).await.unwrap();
    let live = schema::describe(&connect(database.url()).await).await.unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/schema.sql");
    if std::env::var_os("MUSTERD_UPDATE_SCHEMA").is_some() {
        std::fs::write(path, &live).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap().replace("\r\n", "\n");
    assert!(written == live, "migrations/schema.sql is not current: run this test with MUSTERD_UPDATE_SCHEMA=1");
}

#[tokio::test]
async fn an_empty_database_gets_every_migration_and_the_second_run_does_nothing() {
    let database = TestDatabase::create().await;
    let report = migrate::up(database.url(), "the test").await.unwrap();
    assert_eq!(report.applied.iter().map(|applied| applied.version).collect::<Vec<_>>(), versions());
    assert_eq!((report.current, report.repaired.len()), (head(), 0));
    assert_eq!(report.applied[0].name, "add_runtime_registry");

    let again = migrate::up(database.url(), "the test").await.unwrap();
    assert_eq!((again.applied.len(), again.repaired.len(), again.current), (0, 0, head()));
    assert_eq!(migrate::verify(database.url()).await.unwrap(), Vec::<String>::new());
    migrate::check(database.url()).await.unwrap();
}

#[tokio::test]
async fn status_shows_what_was_applied_when_and_by_which_role() {
    let database = TestDatabase::create().await;
    let before = migrate::status(database.url()).await.unwrap();
    assert_eq!(before.iter().map(|status| status.version).collect::<Vec<_>>(), versions());
    assert!(before.iter().all(|status| status.state == State::Pending && status.applied_at.is_none()));

    migrate::up_to(database.url(), 13).await.unwrap();
    let client = connect(database.url()).await;
    let started = get::<chrono::DateTime<chrono::Utc>>(&client, "SELECT clock_timestamp()").await;
    migrate::up(database.url(), "the test").await.unwrap();
    let after = migrate::status(database.url()).await.unwrap();
    assert!(after.iter().all(|status| status.state == State::Applied && status.duration.is_some()));
    let late: Vec<i32> =
        after.iter().filter(|status| status.applied_at > Some(started)).map(|status| status.version).collect();
    assert_eq!(late, versions()[3..]);
    assert!(after[3..].iter().all(|status| status.applied_by.as_deref() == Some("the test")));
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_start_together_migrate_once() {
    let database = TestDatabase::create().await;
    let runs: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|name| {
            let url = database.url().to_owned();
            tokio::spawn(async move { migrate::up(&url, name).await })
        })
        .collect();
    let mut applied = Vec::new();
    for each in runs {
        let report = each.await.unwrap().unwrap();
        assert_eq!(report.current, head(), "every runner returns to a finished schema");
        applied.extend(report.applied.iter().map(|applied| applied.version));
    }
    applied.sort_unstable();
    assert_eq!(applied, versions());
    let client = connect(database.url()).await;
    let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(get::<i64>(&client, left).await, 0);
}

/// What SeedCore knows of its rows, as text.
const SEED_ROWS: &str = "
    SELECT concat_ws('|', instance_id, logical_id, cluster_epoch, status, actor_name, serve_route, node_id, ip_address, pid,
        started_at, stopped_at, last_heartbeat) FROM registry_instance
    UNION ALL SELECT concat_ws('|', id, current_epoch, updated_at) FROM cluster_metadata
    UNION ALL SELECT concat_ws('|', instance_id, note) FROM organ_note
    ORDER BY 1";

/// A database as SeedCore leaves it: three epochs, all statuses, and a table of another layer.
async fn seed_database() -> TestDatabase {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    deploy_seedcore(&client).await;
    for epoch in 1..=3_u128 {
        run(&client, &format!("SELECT set_current_epoch('{}')", id(epoch))).await;
        for (number, status) in ["starting", "alive", "draining", "dead"].into_iter().enumerate() {
            let (instance, days) = (epoch * 10 + number as u128, 10 - epoch);
            let sql = format!(
                "SELECT register_instance('{0}', 'organ', '{1}', 'actor', '/route', 'node', '10.0.0.{epoch}/32', {instance});
                 SELECT set_instance_status('{0}', '{status}');
                 UPDATE registry_instance SET started_at = started_at - interval '{days} days' WHERE instance_id = '{0}'",
                id(instance),
                id(epoch)
            );
            run(&client, &sql).await;
        }
    }
    let bare = format!(
        "INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch) VALUES ('{}', 'bare', '{}')",
        id(90),
        id(9)
    );
    run(&client, &bare).await;
    let theirs = "CREATE TABLE organ_note (instance_id uuid REFERENCES registry_instance, note text);
                  INSERT INTO organ_note SELECT instance_id, 'note' FROM registry_instance";
    run(&client, theirs).await;
    database
}

#[tokio::test]
async fn a_database_of_seedcore_keeps_every_row_and_value() {
    let database = seed_database().await;
    let client = connect(database.url()).await;
    let before = column::<String>(&client, SEED_ROWS).await;
    assert_eq!(before.len(), 13 + 1 + 13);

    migrate::up(database.url(), "test").await.unwrap();
    assert_eq!(column::<String>(&client, SEED_ROWS).await, before);
    assert_eq!(migrate::verify(database.url()).await.unwrap(), Vec::<String>::new());

    let leases =
        column::<i64>(&client, "SELECT lease_id FROM registry_instance ORDER BY started_at, instance_id").await;
    assert_eq!(leases, (1..=13).collect::<Vec<i64>>(), "numbered in the order in which they were registered");
    assert_eq!(get::<i64>(&client, "SELECT revision FROM cluster_metadata").await, 13);
    let epochs = column::<uuid::Uuid>(&client, "SELECT cluster_epoch FROM registry_epoch ORDER BY epoch_number").await;
    assert_eq!(epochs, [id(1), id(2), id(9), id(3)], "in the order in which they were seen, the current one last");
    let wrong = "SELECT count(*) FROM registry_instance JOIN registry_epoch USING (cluster_epoch)
                 WHERE registry_instance.epoch_number <> registry_epoch.epoch_number";
    assert_eq!(get::<i64>(&client, wrong).await, 0);
    assert_eq!(get::<i64>(&client, "SELECT count(*) FROM active_instances").await, 1, "alive, of the current epoch");
}

#[tokio::test]
async fn seedcore_database_keeps_working_after_the_migration() {
    let database = seed_database().await;
    migrate::up(database.url(), "test").await.unwrap();
    let client = connect(database.url()).await;
    make_alive(&client, 50, "organ", 3).await;
    run(&client, &format!("SELECT beat('{}')", id(50))).await;
    // The rows of 9 and of epochs 1 and 2, without the two that were dead already.
    assert_eq!(get::<i32>(&client, "SELECT expire_old_epoch_instances()").await, 7);
    run(&client, &format!("SELECT set_current_epoch('{}')", id(4))).await;
    assert_eq!(get::<i64>(&client, "SELECT epoch_number FROM cluster_metadata").await, 5);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing_of_itself() {
    let database = TestDatabase::create().await;
    migrate::up_to(database.url(), 12).await.unwrap();
    let client = connect(database.url()).await;
    // In the way of what 013 does near its end.
    run(&client, "CREATE TABLE registry_daemon (another text)").await;
    let error = migrate::up(database.url(), "test").await.unwrap_err();
    assert!(
        error.to_string().starts_with("migration 13 (leases_and_revisions) failed and was rolled back: "),
        "{error}"
    );
    assert_eq!(error.exit_code(), 1);
    assert_eq!(refusal(&client, "SELECT revision FROM cluster_metadata").await, "42703");
    run(&client, "DROP TABLE registry_daemon").await;
    assert_eq!(migrate::up(database.url(), "test").await.unwrap().applied.len(), versions().len() - 2);
}

#[tokio::test]
async fn migration_waits_for_sessions_that_use_the_tables_but_not_for_ever() {
    let database = TestDatabase::create().await;
    migrate::up_to(database.url(), 12).await.unwrap();
    let client = connect(database.url()).await;
    run(&client, "BEGIN; LOCK TABLE cluster_metadata IN ACCESS SHARE MODE").await;
    let url = database.url().to_owned();
    let migration = tokio::spawn(async move { migrate::up(&url, "test").await });
    // Not the connection with the transaction, for which the activity of others stands still.
    let observer = connect(database.url()).await;
    wait_until("a migration that waits", BOUND, async || {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        if get::<i64>(&observer, waiting).await == 1 { Ok(()) } else { Err("it does not wait") }
    })
    .await;
    // A session that comes meanwhile queues behind the migration, which gives way every 2 s: else it would not end.
    run(&connect(database.url()).await, "SET lock_timeout = '20s'; SELECT current_epoch FROM cluster_metadata").await;
    assert!(!migration.is_finished());
    run(&client, "COMMIT").await;
    assert_eq!(migration.await.unwrap().unwrap().current, head());
}

#[tokio::test]
async fn the_name_of_the_schema_and_the_tables_of_others_do_not_matter() {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    let setup = format!(
        "CREATE SCHEMA \"Our schema\";
         ALTER DATABASE {} SET search_path = \"Our schema\", public;
         CREATE TABLE public.registry_instance (theirs text);
         CREATE FUNCTION public.beat(uuid) RETURNS text LANGUAGE sql AS $$ SELECT 'theirs' $$",
        database.name()
    );
    run(&client, &setup).await;
    migrate::up(database.url(), "test").await.unwrap();
    let client = connect(database.url()).await;
    run(&client, "CREATE TABLE registry_of_theirs (name text PRIMARY KEY); CREATE INDEX ON registry_of_theirs (name)")
        .await;
    assert_eq!(migrate::verify(database.url()).await.unwrap(), Vec::<String>::new());

    // The functions find their tables wherever they are called from.
    run(&client, &format!("SET search_path = public; SELECT \"Our schema\".set_current_epoch('{}')", id(1))).await;
    let register = crate::harness::registry::register(1, "organ", 1);
    run(&client, &register.replace("register_instance", "\"Our schema\".register_instance")).await;
    assert_eq!(get::<i64>(&client, "SELECT count(*) FROM \"Our schema\".registry_instance").await, 1);
}

#[tokio::test]
async fn functions_that_seedcore_overwrites_are_found_and_restored() {
    let registry = Registry::head().await;
    let url = registry.database.url();
    deploy_seedcore(&registry.client).await;
    let mut found = migrate::verify(url).await.unwrap();
    found.sort();
    let overwritten = [
        "function beat(uuid) differs from the expected definition",
        "function expire_old_epoch_instances() differs from the expected definition",
        "function expire_stale_instances(integer) differs from the expected definition",
        "function register_instance(uuid, text, uuid, text, text, text, inet, integer) differs from the expected definition",
        "function set_current_epoch(uuid) differs from the expected definition",
        "function set_instance_status(uuid, instancestatus) differs from the expected definition",
        "index idx_instance_logical_id on registry_instance is an unexpected object",
        "index idx_instance_status_heartbeat on registry_instance is an unexpected object",
        "view active_instance differs from the expected definition",
        "view active_instances differs from the expected definition",
    ];
    assert_eq!(found, overwritten);

    let report = migrate::up(url, "test").await.unwrap();
    assert_eq!((report.applied.len(), report.repaired.len()), (0, overwritten.len()), "{:?}", report.repaired);
    assert_eq!(migrate::verify(url).await.unwrap(), Vec::<String>::new());
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(1))).await;
    assert_eq!(refusal(&registry.client, &format!("SELECT beat('{}')", id(1))).await, "MU004", "ours answers again");
}

#[tokio::test]
async fn changes_through_overwritten_functions_stay_in_order() {
    let registry = Registry::head().await;
    let client = &registry.client;
    deploy_seedcore(client).await;
    for epoch in [1, 2] {
        run(client, &format!("SELECT set_current_epoch('{}')", id(epoch))).await;
        make_alive(client, epoch, "organ", epoch).await;
    }
    assert_eq!(refusal(client, &format!("SELECT set_current_epoch('{}')", id(1))).await, "MU008");
    let epochs = column::<i64>(client, "SELECT started_revision FROM registry_epoch ORDER BY epoch_number").await;
    assert_eq!(epochs, [1, 4], "rotations are numbered, and are revisions");
    let rows = column::<i64>(client, "SELECT revision FROM registry_instance ORDER BY instance_id").await;
    assert_eq!(rows, [3, 6], "after a registration and a change of status each");
    assert_eq!(column::<i64>(client, "SELECT epoch_number FROM registry_instance ORDER BY 1").await, [1, 2]);
    migrate::up(registry.database.url(), "test").await.unwrap();
    assert_eq!(get::<i32>(client, "SELECT expire_old_epoch_instances()").await, 1);
    assert_eq!(column::<uuid::Uuid>(client, "SELECT instance_id FROM active_instances").await, [id(2)]);
}

#[tokio::test]
async fn verify_names_each_object_that_deviates_and_leaves_it_alone() {
    let registry = Registry::head().await;
    let damage = "ALTER TABLE registry_instance ADD COLUMN theirs text, ALTER COLUMN labels DROP DEFAULT;
                  DROP TRIGGER registry_instance_stamp_update ON registry_instance;
                  ALTER TABLE registry_instance DISABLE TRIGGER registry_instance_deleted;
                  DROP INDEX idx_instance_revision;
                  CREATE FUNCTION muster_of_nobody() RETURNS void LANGUAGE sql AS ''";
    run(&registry.client, damage).await;
    let expected = [
        "table registry_instance differs from the expected definition: \
         - labels jsonb NOT NULL DEFAULT '{}'::jsonb; + labels jsonb NOT NULL; + theirs text",
        "index idx_instance_revision on registry_instance is missing",
        "trigger registry_instance_deleted on registry_instance differs from the expected definition: its state is 'D'",
        "trigger registry_instance_stamp_update on registry_instance is missing",
        "function muster_of_nobody() is an unexpected object",
    ];
    let url = registry.database.url();
    assert_eq!(migrate::verify(url).await.unwrap(), expected);
    assert!(migrate::up(url, "test").await.unwrap().repaired.is_empty());
    assert_eq!(migrate::verify(url).await.unwrap(), expected);
}

#[tokio::test]
async fn a_daemon_without_the_rights_of_the_owner_starts_on_a_finished_schema() {
    let registry = Registry::head().await;
    let role = format!("r_{}", uuid::Uuid::new_v4().simple());
    let grants = format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON muster_migration TO {role}");
    run(&registry.client, &grants).await;
    let url = registry.database.url().replace("//musterd@", &format!("//{role}@"));
    let report = tokio::time::timeout(Duration::from_secs(20), migrate::up(&url, "test")).await.unwrap().unwrap();
    assert_eq!(report.current, head());
    migrate::check(&url).await.unwrap();
    run(&registry.client, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
