//! A database that is shared with SeedCore: its deployments, its expiry, its tables, its owners.

use std::time::Duration;

use musterd::migrate::{self, Error};
use tokio_postgres::Client;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    fleet::enter,
    postgres::{BOUND, MIGRATIONS, TestDatabase, connect},
    registry::{Registry, column, field, get, id, make_alive, refusal, run, silence},
    wait::wait_until,
};

/// SeedCore's own files, which each of its deployments runs.
const TABLES: &str = include_str!("../../migrations/011_add_runtime_registry.sql");
const FUNCTIONS: &str = include_str!("../../migrations/012_runtime_registry_functions.sql");
/// The key under which migrations run.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_lock(120351215609202)";
/// Neither a hold nor a disruption is in force.
const NO_HOLD: &str =
    "UPDATE cluster_metadata SET hold_until = NULL, held_until = NULL, hold_reason = NULL, disrupted_at = NULL";

async fn deploy(client: &Client) {
    run(client, TABLES).await;
    run(client, FUNCTIONS).await;
}

async fn expire(client: &Client) -> i32 {
    get(client, "SELECT expire_stale_instances()").await
}

/// Three alive instances that have been silent for 20 s: with a TTL of 300 s, of 2 s, and without one; and SeedCore's
/// functions.
async fn redeployed() -> Registry {
    let registry = Registry::head().await;
    let client = &registry.client;
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    for (instance, ttl_ms) in [(1, "300000"), (2, "2000"), (3, "NULL")] {
        make_alive(client, instance, "organ", 100).await;
        run(client, &format!("UPDATE registry_instance SET ttl_ms = {ttl_ms} WHERE instance_id = '{}'", id(instance)))
            .await;
        silence(client, instance, 20).await;
    }
    deploy(client).await;
    registry
}

#[tokio::test]
async fn redeployed_expiry_obeys_ttl_and_hold() {
    let Registry { client, database: _database } = &redeployed().await;
    run(client, "SELECT muster_hold_expiry('work', 60000)").await;
    assert_eq!(expire(client).await, 0, "under a hold");
    run(client, &format!("{NO_HOLD}; SELECT muster_note_disruption('a disruption')")).await;
    assert_eq!(expire(client).await, 0, "after a disruption");
    run(client, NO_HOLD).await;
    assert_eq!(expire(client).await, 2);
    assert_eq!(expire(client).await, 0, "within its TTL");
    assert_eq!(column::<String>(client, "SELECT right(instance_id::text, 1) FROM active_instances").await, ["1"; 0]);
    for (instance, reason) in [(1, ""), (2, "stale"), (3, "stale")] {
        assert_eq!(field(client, instance, "death_reason").await, reason, "{instance}");
    }
    assert_eq!(field(client, 2, "death_deadline = last_heartbeat + interval '2 s'").await, "true");
    run(client, &format!("SELECT set_instance_status('{}', 'dead')", id(1))).await;
    assert_eq!(field(client, 1, "death_reason").await, "operator", "not by expiry");
}

#[tokio::test]
async fn redeployed_expiry_leaves_deaths_to_a_daemon_that_runs() {
    let Registry { client, database: _database } = &redeployed().await;
    enter(client, 900).await;
    run(client, NO_HOLD).await;
    assert_eq!(expire(client).await, 0, "the daemon decides");
    run(client, "UPDATE registry_daemon SET last_flush = now() - interval '30 s'").await;
    assert_eq!(expire(client).await, 1, "it is gone: a TTL of 2 s has passed since its eviction, one of 15 s has not");
    run(client, "UPDATE registry_daemon SET last_flush = now() - interval '10 min'").await;
    assert_eq!(expire(client).await, 1);
    silence(client, 1, 400).await;
    assert_eq!(expire(client).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn redeployed_functions_are_restored_by_a_running_daemon() {
    let registry = Registry::head().await;
    let daemon = Daemon::start(registry.database.url()).await;
    deploy(&registry.client).await;
    wait_until("the daemon restores them", BOUND, async || {
        // It may also find the objects locked by the one that restores them.
        match migrate::verify(registry.database.url()).await {
            Ok(found) if found.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(daemon.log().contains("restored modified schema objects"), "{}", daemon.log());
    wait_until("the metric is back", BOUND, async || match daemon.metric("musterd_schema_drift_objects").await {
        Some(0.0) => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_functions_are_reported_by_a_daemon_that_may_not_restore() {
    let registry = Registry::head().await;
    let daemon = Daemon::start_without_migrating(registry.database.url()).await;
    deploy(&registry.client).await;
    wait_until("the metric tells", BOUND, async || match daemon.metric("musterd_schema_drift_objects").await {
        Some(10.0) => Ok(()),
        other => Err(other),
    })
    .await;
    wait_until("the log tells", BOUND, async || {
        let log = daemon.log();
        if log.contains("schema objects differ and were not restored") { Ok(()) } else { Err(log) }
    })
    .await;
    // Those of a newer musterd are not known, and not touched.
    run(&registry.client, "INSERT INTO muster_migration VALUES (99, 'newer', 'c', now(), 'test', 1, 19)").await;
    wait_until("nothing is compared", BOUND, async || match daemon.metric("musterd_schema_drift_objects").await {
        Some(0.0) => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(migrate::up(registry.database.url(), "test").await.unwrap().repaired.is_empty());
    assert!(
        get::<String>(&registry.client, "SELECT prosrc FROM pg_proc WHERE proname = 'beat'").await.contains("now()")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_serves_a_newer_schema_that_admits_it_and_no_other() {
    let registry = Registry::head().await;
    let url = registry.database.url();
    // As a newer musterd might leave it: a function that this one does not know.
    let newer = "INSERT INTO muster_migration VALUES (99, 'newer', 'c', now(), 'test', 1, 19);
                 CREATE FUNCTION muster_newer() RETURNS void LANGUAGE sql AS '';
                 CREATE OR REPLACE FUNCTION expire_old_epoch_instances() RETURNS integer LANGUAGE sql AS 'SELECT 0'";
    run(&registry.client, newer).await;
    let report = migrate::up(url, "test").await.unwrap();
    assert_eq!((report.current, report.applied.len(), report.repaired.len()), (99, 0, 0));
    migrate::check(url).await.unwrap();
    for daemon in [Daemon::start(url).await, Daemon::start_without_migrating(url).await] {
        let mut callers = daemon.registry().await;
        callers.register(crate::harness::served::registration(1, "organ")).await.unwrap();
    }
    let text = "SELECT prosrc FROM pg_proc WHERE proname = 'expire_old_epoch_instances'";
    assert_eq!(get::<String>(&registry.client, text).await, "SELECT 0", "it was not put back");

    let daemon = Daemon::start(url).await;
    let caller = Caller::of(&daemon);
    wait_until("the daemon tells that it is older", BOUND, async || {
        let problems = caller.cluster().await?.problems;
        let told = problems.iter().any(|problem| problem.code == "schema_ahead" && problem.summary.contains("to 099"));
        match daemon.metric("musterd_schema_ahead").await {
            Some(1.0) if told => Ok(()),
            metric => Err(format!("{metric:?} {problems:?}")),
        }
    })
    .await;
    let served = caller.register(alive("kept", Duration::from_secs(300))).await.unwrap();
    let short = caller.register(alive("short", Duration::from_secs(15))).await.unwrap();
    run(&registry.client, "UPDATE muster_migration SET oldest_head = 99 WHERE version = 99").await;
    wait_until("the running daemon is not ready", BOUND, async || match daemon.http_get("/readyz").await {
        Ok((503, text)) if text.contains("needs a binary that knows migration 99") => Ok(()),
        other => Err(other),
    })
    .await;
    // Changes are refused, so that callers go to a daemon of the newer version; reads are not.
    let before: i64 = get(&registry.client, "SELECT revision FROM cluster_metadata").await;
    let refused = [
        caller.register(alive("refused", Duration::from_secs(300))).await.unwrap_err(),
        caller.deregister(&served.instance_id).await.unwrap_err(),
        caller.rotate("test").await.unwrap_err(),
    ];
    assert_eq!(refused, ["DATABASE_UNAVAILABLE"; 3]);
    assert_eq!(get::<i64>(&registry.client, "SELECT revision FROM cluster_metadata").await, before);
    assert_eq!(caller.best("kept").await, served.instance_id);
    // Nor are beats saved, and this daemon says so before a lease could end for that.
    wait_until("beats are refused", BOUND, async || match caller.beat(short.lease_id).await {
        Err(error) if error == "BEATS_NOT_SAVED" => Ok(()),
        other => Err(other),
    })
    .await;
    let row = format!("FROM registry_instance WHERE instance_id = '{}'", short.instance_id);
    let overdue = format!("SELECT clock_timestamp() > last_heartbeat + interval '18 s' {row}");
    wait_until("a lease is overdue", BOUND, async || match get::<bool>(&registry.client, &overdue).await {
        true => Ok(()),
        false => Err(()),
    })
    .await;
    assert_eq!(
        get::<String>(&registry.client, &format!("SELECT status::text {row}")).await,
        "alive",
        "not by this daemon"
    );
    let error = migrate::up(url, "test").await.unwrap_err();
    assert!(matches!(error, Error::Newer { needed: 99, .. }), "{error}");
    assert_eq!(error.exit_code(), 78);
}

#[tokio::test]
async fn migration_gives_each_lease_its_ttl_once_more() {
    let registry = Registry::seed().await;
    let client = &registry.client;
    run(client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    for instance in 1..=10 {
        make_alive(client, instance, "organ", 100).await;
        silence(client, instance, 16).await;
    }
    migrate::up_to(registry.database.url(), 13).await.unwrap();
    assert_eq!(expire(client).await, 0, "while it is migrated");
    migrate::up(registry.database.url(), "test").await.unwrap();
    assert_eq!(expire(client).await, 0, "after it");
    // A TTL and the time to follow pass.
    let pass = "UPDATE cluster_metadata SET disrupted_at = disrupted_at - interval '21 s',
                hold_until = hold_until - interval '21 s'";
    run(client, pass).await;
    assert_eq!(expire(client).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn widened_views_are_restored_with_owner_and_rights() {
    let registry = Registry::head().await;
    let (client, url) = (&registry.client, registry.database.url());
    let role = format!("r_{}", uuid::Uuid::new_v4().simple());
    let grant = format!("CREATE ROLE {role}; GRANT SELECT ON active_instance TO {role} WITH GRANT OPTION");
    run(client, &format!("{grant}; ALTER VIEW active_instances OWNER TO {role}")).await;
    run(client, "ALTER TABLE registry_instance ADD COLUMN theirs text").await;
    run(client, TABLES).await;
    let wide = "SELECT count(*) FROM pg_attribute WHERE attname = 'theirs'
                AND attrelid IN ('active_instance'::regclass, 'active_instances'::regclass)";
    assert_eq!(get::<i64>(client, wide).await, 2);
    let report = migrate::up(url, "test").await.unwrap();
    assert_eq!(report.left, [""; 0]);
    assert_eq!(get::<i64>(client, wide).await, 0);
    let kept = format!(
        "SELECT has_table_privilege('{role}', 'active_instance', 'SELECT WITH GRANT OPTION')
            AND (SELECT pg_get_userbyid(relowner) = '{role}' FROM pg_class WHERE oid = 'active_instances'::regclass)"
    );
    assert!(get::<bool>(client, &kept).await);

    // What depends on a wide view keeps it, and nothing else.
    run(client, TABLES).await;
    run(client, "CREATE VIEW theirs AS SELECT theirs FROM active_instances").await;
    let report = migrate::up(url, "test").await.unwrap();
    assert_eq!(report.left.len(), 1, "{report:?}");
    assert!(report.left[0].starts_with("view active_instances: cannot drop view active_instances"), "{report:?}");
    assert_eq!(get::<i64>(client, wide).await, 1);
    assert!(Daemon::start(url).await.terminate().await.success(), "a daemon reads neither view");
    run(client, &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn tables_of_another_shape_are_refused_before_anything_is_made() {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    let shape = "last_heartbeat timestamptz    NOT NULL DEFAULT now()";
    assert!(TABLES.contains(shape));
    run(&client, &TABLES.replace(shape, "last_heartbeat timestamptz DEFAULT now()")).await;
    let error = migrate::up(database.url(), "test").await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 78, "{text}");
    let found = "registry_instance: last_heartbeat timestamp with time zone DEFAULT now() instead of \
                 last_heartbeat timestamp with time zone NOT NULL DEFAULT now()";
    assert!(text.contains(found), "{text}");
    assert_eq!(refusal(&client, "SELECT FROM muster_migration").await, "42P01");
    run(&client, "UPDATE registry_instance SET last_heartbeat = now(); ALTER TABLE registry_instance ALTER last_heartbeat SET NOT NULL; ALTER TABLE registry_instance ADD theirs text").await;
    migrate::up(database.url(), "test").await.unwrap();
}

#[tokio::test]
async fn role_that_may_not_become_the_owner_is_refused_with_the_grant() {
    let registry = Registry::seed().await;
    let [owner, other] = ["o", "r"].map(|name| format!("{name}_{}", uuid::Uuid::new_v4().simple()));
    let roles = format!(
        "CREATE ROLE {owner}; CREATE ROLE {other} LOGIN; GRANT CREATE ON SCHEMA public TO {other};
         ALTER TABLE registry_instance OWNER TO {owner}; ALTER TABLE cluster_metadata OWNER TO {owner};
         GRANT SELECT, INSERT ON muster_migration TO {other}"
    );
    run(&registry.client, &roles).await;
    let url = registry.database.url().replace("//musterd@", &format!("//{other}@"));
    let error = migrate::up(&url, "test").await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 78, "{text}");
    assert!(
        text.ends_with(&format!("the tables belong to {owner}: GRANT {owner} TO {other}, or run it as {owner}")),
        "{text}"
    );
    run(&registry.client, &format!("DROP OWNED BY {owner}, {other} CASCADE; DROP ROLE {owner}, {other}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_that_times_out_names_the_blocking_session() {
    let registry = Registry::seed().await;
    let blocker = registry.connect().await;
    run(&blocker, "SET application_name = 'monthly report'; BEGIN; SELECT count(*) FROM registry_instance").await;
    let pid: i32 = get(&blocker, "SELECT pg_backend_pid()").await;
    // Beats of SQL callers queue up behind it for 2 s at a time; the bound leaves room for a loaded machine.
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(&registry.client, 1, "organ", 100).await;
    let caller = registry.connect().await;
    run(&caller, "SET lock_timeout = '8s'").await;
    let beats = tokio::spawn(async move {
        loop {
            if let Err(error) = caller.batch_execute(&format!("SELECT beat('{}')", id(1))).await {
                return error.to_string();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let error = migrate::up(registry.database.url(), "test").await.unwrap_err();
    assert!(!beats.is_finished(), "no beat has failed: {}", beats.await.unwrap());
    beats.abort();
    let recorded = "SELECT version FROM muster_migration ORDER BY 1";
    assert_eq!(column::<i32>(&registry.client, recorded).await, [11, 12], "whole migrations alone");
    let text = error.to_string();
    assert!(matches!(&error, Error::Busy { blocker: Some(found), .. } if found.pid == pid), "{text}");
    for part in [
        "gave up migration 13 (leases_and_revisions) because process ",
        "(role musterd, application monthly report, idle in transaction, transaction open for ",
        " s) holds a lock on registry_instance; ",
        &format!("SELECT pg_terminate_backend({pid})"),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(error.exit_code(), 1);
    run(&blocker, "COMMIT").await;
    migrate::up(registry.database.url(), "test").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_that_waits_for_its_turn_lets_an_index_be_built() {
    let registry = Registry::seed().await;
    let first = registry.connect().await;
    run(&first, MIGRATION_LOCK).await;
    let url = registry.database.url().to_owned();
    let waiting = tokio::spawn(async move { migrate::up(&url, "test").await });
    let asks = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'musterd' AND pid <> pg_backend_pid()";
    wait_until("it waits", BOUND, async || match get::<i64>(&registry.client, asks).await {
        0 => Err("no session"),
        _ => Ok(()),
    })
    .await;
    // Waits for every transaction that could see the table without it; a waiting migration must be none of them for long.
    for number in 0..3 {
        run(&first, &format!("CREATE INDEX CONCURRENTLY theirs_{number} ON registry_instance (started_at)")).await;
    }
    assert!(!waiting.is_finished(), "it is not its turn");
    drop(first);
    assert_eq!(waiting.await.unwrap().unwrap().applied.len(), MIGRATIONS - 2);
}
