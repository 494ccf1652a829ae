//! `deploy/roles.sql`: each role does its work, and nothing else.

use std::time::Duration;

use musterd::{
    migrate::{self, Error},
    proto::v1,
};
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Client;

use super::text;
use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::{DAEMON_BOUND, Daemon},
    postgres::{TestDatabase, connect},
    registry::{Registry, column, get, id, make_alive, refusal, register, run},
    wait::wait_until,
};

pub(super) const NOT_ALLOWED: &str = "42501";

/// The owners of the objects in the schema.
pub(super) const OWNERS: &str = "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class
                      WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
                      UNION SELECT pg_get_userbyid(proowner)::text FROM pg_proc
                      WHERE pronamespace = 'public'::regnamespace";

/// Roles belong to the cluster that all tests share: one database at a time is given them.
pub(super) static TURN: Mutex<()> = Mutex::const_new(());

/// The address of a database for another role.
pub(super) fn url_for(database: &TestDatabase, role: &str) -> String {
    database.url().replace("//musterd@", &format!("//{role}@"))
}

async fn give_roles(client: &Client) {
    let _turn: MutexGuard<'_, ()> = TURN.lock().await;
    run(client, &text("deploy/roles.sql")).await;
}

/// The newest schema, with the roles.
pub(super) async fn with_roles() -> Registry {
    let registry = Registry::head().await;
    give_roles(&registry.client).await;
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_does_all_of_its_work_as_the_role_with_the_fewest_rights() {
    let registry = with_roles().await;
    let url = url_for(&registry.database, "musterd_daemon");
    // What the purge will find.
    let epoch: uuid::Uuid = get(&registry.client, "SELECT muster_ensure_epoch('test')").await;
    run(&registry.client, &register(7, "old", epoch.as_u128())).await;
    let died = format!(
        "SELECT set_instance_status('{0}', 'dead');
         UPDATE registry_instance SET stopped_at = now() - interval '1 hour' WHERE instance_id = '{0}'",
        id(7)
    );
    run(&registry.client, &died).await;

    let flags = ["--database-url", &url, "--no-migrate", "--keep-dead", "1m"];
    let daemon = Daemon::start_with(&flags).await;
    let caller = Caller::of(&daemon);
    let mut watch = caller.wire.discovery.clone().watch(v1::WatchRequest::default()).await.unwrap().into_inner();

    // Register, beat, resolve.
    let actor = Actor::start(std::slice::from_ref(&caller), "organ", Duration::from_secs(2)).await;
    assert_eq!(caller.best("organ").await, actor.id());
    wait_until("a beat that is saved", DAEMON_BOUND, async || {
        let beaten = "SELECT coalesce(bool_and(last_heartbeat > started_at), false) FROM registry_instance WHERE logical_id = 'organ'";
        if get::<bool>(&registry.client, beaten).await { Ok(()) } else { Err("no beat") }
    })
    .await;
    // Watch.
    let seen = wait_until("the registration is watched", DAEMON_BOUND, async || {
        let event = format!("{:?}", watch.message().await.unwrap());
        if event.contains(actor.id()) { Ok(event) } else { Err(event) }
    })
    .await;
    assert!(seen.contains("organ"));
    // Hold, release, expire.
    caller.client().hold_expiry(None, "test").await.unwrap();
    caller.client().release_expiry(None).await.unwrap();
    let silent = actor.fall_silent().await;
    wait_until("a death of silence", DAEMON_BOUND, async || match caller.instance(&silent.instance_id).await {
        Ok(instance) if instance.death.is_some() => Ok(()),
        other => Err(other),
    })
    .await;
    // Rotate, and the reaper of older epochs.
    let left = Actor::start(std::slice::from_ref(&caller), "organ", Duration::from_secs(2)).await;
    caller.rotate("test").await.unwrap();
    wait_until("a death of old age", DAEMON_BOUND, async || {
        let reason =
            format!("SELECT coalesce(death_reason, '') FROM registry_instance WHERE instance_id = '{}'", left.id());
        let reason: String = get(&registry.client, &reason).await;
        if reason == "old_epoch" { Ok(()) } else { Err(reason) }
    })
    .await;
    // Purge.
    wait_until("the purge", DAEMON_BOUND, async || {
        let old =
            column::<String>(&registry.client, "SELECT logical_id FROM registry_instance WHERE logical_id = 'old'");
        let old = old.await;
        if old.is_empty() { Ok(()) } else { Err(old) }
    })
    .await;

    let log = daemon.log();
    assert!(!log.contains("permission denied"), "{log}");
    assert!(daemon.terminate().await.success());
    assert_eq!(
        get::<i64>(&registry.client, "SELECT count(*) FROM registry_daemon").await,
        0,
        "it took itself off the list"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_of_few_rights_names_the_session_that_blocks_changes() {
    let registry = with_roles().await;
    let epoch: uuid::Uuid = get(&registry.client, "SELECT muster_ensure_epoch('test')").await;
    let url = url_for(&registry.database, "musterd_daemon");
    let daemon = Daemon::start_with(&["--database-url", &url, "--no-migrate"]).await;
    let caller = Caller::of(&daemon);
    let pid: i32 = get(&registry.client, "SELECT pg_backend_pid()").await;
    run(&registry.client, "SET application_name = 'trainer'").await;
    run(&registry.client, &format!("BEGIN; {}", register(7, "sql", epoch.as_u128()))).await;
    let problem = async || {
        let problems = caller.cluster().await.unwrap().problems;
        problems.into_iter().find(|problem| problem.code == "changes_blocked")
    };
    let told = wait_until("changes_blocked", DAEMON_BOUND, async || {
        let refused = caller.register(alive("organ", Duration::from_secs(60))).await;
        problem().await.ok_or((refused, daemon.log()))
    })
    .await;
    let seen = format!("session {pid} (user musterd, application trainer; client and state are hidden");
    assert!(told.summary.contains(&seen), "{told:?}");
    assert!(told.action.contains("pg_read_all_stats"), "{told:?}");
    run(&registry.client, "ROLLBACK").await;
    wait_until("its end", DAEMON_BOUND, async || problem().await.map_or(Ok(()), Err)).await;
}

#[tokio::test]
async fn daemon_password_permits_no_delete_forgery_or_manual_change() {
    let registry = with_roles().await;
    run(&registry.client, "SELECT muster_ensure_epoch('test')").await;
    let client = connect(&url_for(&registry.database, "musterd_daemon")).await;
    for statement in [
        "DELETE FROM registry_instance",
        "TRUNCATE registry_instance",
        "UPDATE registry_instance SET status = 'dead'",
        "UPDATE cluster_metadata SET revision = 0",
        "INSERT INTO registry_epoch VALUES (9, gen_random_uuid(), now(), 9)",
        "DELETE FROM registry_daemon",
        "UPDATE muster_migration SET checksum = ''",
        "DROP TABLE registry_instance",
        "ALTER TABLE registry_instance ADD COLUMN theirs text",
        "DROP FUNCTION beat(uuid)",
        "CREATE OR REPLACE FUNCTION muster_now() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'",
        "CREATE TABLE mine ()",
        "CREATE FUNCTION mine() RETURNS void LANGUAGE sql AS ''",
        "SET ROLE musterd_owner",
        // Not even by what the functions themselves are made of.
        "SELECT muster_lock_cluster()",
        "SELECT muster_advance(1000)",
        "SELECT muster_new_history(c, 0, 'x') FROM cluster_metadata AS c",
    ] {
        assert_eq!(refusal(&client, statement).await, NOT_ALLOWED, "{statement}");
    }
}

#[tokio::test]
async fn a_reader_reads_everything_and_changes_nothing() {
    let registry = with_roles().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(&registry.client, 1, "organ", 100).await;
    let client = connect(&url_for(&registry.database, "musterd_reader")).await;
    for relation in [
        "cluster_metadata",
        "registry_instance",
        "registry_epoch",
        "active_instances",
        "active_instance",
        "alive_at(now())",
    ] {
        assert_eq!(get::<i64>(&client, &format!("SELECT count(*) FROM {relation}")).await, 1, "{relation}");
    }
    get::<i64>(&client, "SELECT count(*) FROM registry_daemon").await;
    // What is set for the role it could set back; what it may not do, not.
    run(&client, "SET default_transaction_read_only = off").await;
    for statement in [
        "DELETE FROM registry_instance",
        "SELECT * FROM registry_instance FOR UPDATE",
        "SELECT muster_purge_dead(0, 1000)",
        "SELECT muster_apply('[]', 'me')",
        "SELECT muster_hold_expiry('x')",
        "SELECT muster_rotate_epoch(gen_random_uuid(), NULL, '', '')",
        "SELECT set_current_epoch(gen_random_uuid())",
        "SELECT expire_stale_instances()",
        "SELECT expire_old_epoch_instances()",
        "CREATE TABLE mine ()",
    ] {
        assert_eq!(refusal(&client, statement).await, NOT_ALLOWED, "{statement}");
    }
    for statement in [
        format!("SELECT beat('{}')", id(1)),
        format!("SELECT set_instance_status('{}', 'dead')", id(1)),
        register(2, "organ", 100),
    ] {
        assert_eq!(refusal(&client, &statement).await, NOT_ALLOWED, "{statement}");
    }
}

#[tokio::test]
async fn an_application_asserts_leases_and_sees_nothing_else() {
    let registry = with_roles().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(&registry.client, 1, "organ", 100).await;
    let lease: i64 = get(&registry.client, "SELECT lease_id FROM registry_instance").await;
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    run(&registry.client, &format!("CREATE ROLE {role} LOGIN; GRANT musterd_application TO {role}")).await;
    let client = connect(&url_for(&registry.database, &role)).await;
    run(&client, &format!("SELECT assert_lease({lease})")).await;
    assert_eq!(refusal(&client, "SELECT assert_lease(12345)").await, "MU004");
    for statement in ["SELECT FROM registry_instance", "SELECT set_current_epoch(gen_random_uuid())"] {
        assert_eq!(refusal(&client, statement).await, NOT_ALLOWED, "{statement}");
    }
    drop(client);
    run(&registry.client, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn objects_of_the_migrator_belong_to_the_owner_and_serve_the_daemon() {
    let registry = Registry::seed().await;
    give_roles(&registry.client).await;
    let url = url_for(&registry.database, "musterd_migrator");
    let report = migrate::up(&url, "test").await.unwrap();
    assert!(!report.applied.is_empty());
    assert_eq!(column::<String>(&registry.client, OWNERS).await, ["musterd_owner"]);
    assert_eq!(migrate::verify(&url).await.unwrap(), [""; 0]);
    // The roles were handed out before these tables and functions were there.
    let daemon = url_for(&registry.database, "musterd_daemon");
    migrate::check(&daemon).await.unwrap();
    let client = connect(&daemon).await;
    run(&client, "SELECT muster_ensure_epoch('d'); SELECT * FROM muster_reap_stale(15000, 10, 'd')").await;
    assert_eq!(refusal(&client, "DELETE FROM registry_instance").await, NOT_ALLOWED);
}

#[tokio::test]
async fn the_daemon_must_not_migrate() {
    let registry = Registry::seed().await;
    give_roles(&registry.client).await;
    let error = migrate::up(&url_for(&registry.database, "musterd_daemon"), "test").await.unwrap_err();
    assert!(matches!(error, Error::MissingRights { .. }), "{error}");
    assert_eq!(error.exit_code(), 78);
}

#[tokio::test]
async fn to_hand_out_the_roles_again_changes_nothing() {
    let registry = with_roles().await;
    let rights = "SELECT coalesce(string_agg(entry, ' ' ORDER BY entry), '') FROM (
                      SELECT relname || relacl::text AS entry FROM pg_class WHERE relnamespace = 'public'::regnamespace
                      UNION ALL SELECT proname || proacl::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                      UNION ALL SELECT nspname || nspacl::text FROM pg_namespace WHERE nspname = 'public'
                      UNION ALL SELECT defaclobjtype::text || defaclacl::text FROM pg_default_acl
                  ) AS rights WHERE entry IS NOT NULL";
    let before: String = get(&registry.client, rights).await;
    assert!(before.contains("musterd_daemon=r/musterd_owner"), "{before}");
    assert_eq!(column::<String>(&registry.client, OWNERS).await, ["musterd_owner"], "nothing was forgotten");
    give_roles(&registry.client).await;
    assert_eq!(get::<String>(&registry.client, rights).await, before);
    assert_eq!(migrate::verify(registry.database.url()).await.unwrap(), [""; 0]);
}

/// A database that SeedCore has made as a user without special rights, with rows.
async fn seedcore(owner: &str) -> TestDatabase {
    let database = TestDatabase::create().await;
    let admin = connect(database.url()).await;
    run(&admin, &format!("CREATE ROLE {owner} LOGIN; GRANT CREATE ON SCHEMA public TO {owner}")).await;
    let theirs = connect(&url_for(&database, owner)).await;
    for file in ["migrations/011_add_runtime_registry.sql", "migrations/012_runtime_registry_functions.sql"] {
        run(&theirs, &text(file)).await;
    }
    run(&theirs, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    make_alive(&theirs, 1, "organ", 100).await;
    database
}

#[tokio::test]
async fn callers_of_seedcore_keep_their_rights_for_any_migrating_role() {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let (owner, writer, stranger) = (format!("seed_{unique}"), format!("actor_{unique}"), format!("other_{unique}"));
    let database = seedcore(&owner).await;
    let admin = connect(database.url()).await;
    let grants = format!(
        "CREATE ROLE {writer} LOGIN; CREATE ROLE {stranger} LOGIN;
         GRANT SELECT, INSERT, UPDATE ON registry_instance, cluster_metadata TO {writer}"
    );
    run(&admin, &grants).await;

    // A superuser migrates, the tables are another's: what is made must work together all the same.
    migrate::up(database.url(), "test").await.unwrap();
    for role in [&owner, &writer] {
        let client = connect(&url_for(&database, role)).await;
        run(&client, &format!("SELECT beat('{}'); SELECT expire_stale_instances()", id(1))).await;
        run(&client, "UPDATE registry_instance SET actor_name = 'by hand'").await;
    }
    for role in [&owner, &writer] {
        let client = connect(&url_for(&database, role)).await;
        run(&client, "SELECT set_current_epoch(gen_random_uuid()); SELECT expire_old_epoch_instances()").await;
    }
    let client = connect(&url_for(&database, &stranger)).await;
    assert_eq!(refusal(&client, "SELECT set_current_epoch(gen_random_uuid())").await, NOT_ALLOWED);

    // With the roles on top, SeedCore can still deploy, and its faults are repaired as before.
    give_roles(&admin).await;
    let theirs = connect(&url_for(&database, &owner)).await;
    run(&theirs, &text("migrations/012_runtime_registry_functions.sql")).await;
    let report = migrate::up(&url_for(&database, "musterd_migrator"), "test").await.unwrap();
    assert!(report.repaired.contains(&"function beat(uuid): put back".to_owned()), "{:?}", report.repaired);
    assert_eq!(migrate::verify(database.url()).await.unwrap(), [""; 0]);
    let client = connect(&url_for(&database, &writer)).await;
    run(&client, "SELECT set_current_epoch(gen_random_uuid())").await;
    drop((client, theirs));
    run(&admin, &format!("DROP OWNED BY {owner}, {writer}, {stranger}; DROP ROLE {owner}, {writer}, {stranger}")).await;
}

#[tokio::test]
async fn writers_keep_their_calls_and_strangers_gain_none_between_migrations() {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let (owner, writer, stranger) = (format!("seed_{unique}"), format!("actor_{unique}"), format!("other_{unique}"));
    let database = seedcore(&owner).await;
    let admin = connect(database.url()).await;
    let grants = format!(
        "CREATE ROLE {writer} LOGIN; CREATE ROLE {stranger} LOGIN;
         GRANT SELECT, INSERT, UPDATE ON registry_instance, cluster_metadata TO {writer}"
    );
    run(&admin, &grants).await;
    let callable = |role: &str| {
        format!(
            "SELECT count(*) FROM pg_proc AS proc WHERE proc.pronamespace = 'public'::regnamespace
             AND proc.proname IN ('beat', 'expire_old_epoch_instances', 'expire_stale_instances', 'register_instance',
                 'set_current_epoch', 'set_instance_status')
             AND has_function_privilege('{role}', proc.oid, 'EXECUTE') AND ({})",
            if role.starts_with("other") { "proc.prosecdef" } else { "true" }
        )
    };
    for version in 13..=19 {
        migrate::up_to(database.url(), version).await.unwrap();
        assert_eq!(get::<i64>(&admin, &callable(&writer)).await, 6, "after {version}");
        assert_eq!(get::<i64>(&admin, &callable(&stranger)).await, 0, "after {version}");
    }
    run(&admin, &format!("DROP OWNED BY {owner}, {writer}, {stranger}; DROP ROLE {owner}, {writer}, {stranger}")).await;
}

#[tokio::test]
async fn security_definer_functions_are_pinned_and_not_public() {
    let registry = Registry::head().await;
    let definers = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef";
    assert!(get::<i64>(&registry.client, definers).await >= 20);
    let loose = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef
                 AND (NOT 'search_path=public, pg_temp' = ANY (coalesce(proconfig, '{}'))
                      OR EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0))";
    assert_eq!(column::<String>(&registry.client, loose).await, [""; 0]);

    // In a dump without privileges that is lost; it is noticed and put back.
    run(&registry.client, "GRANT EXECUTE ON FUNCTION muster_purge_dead(bigint, integer) TO PUBLIC").await;
    let url = registry.database.url();
    let differs = "function muster_purge_dead(bigint, integer) differs from the expected definition";
    assert_eq!(migrate::verify(url).await.unwrap(), [differs]);
    migrate::up(url, "test").await.unwrap();
    assert_eq!(column::<String>(&registry.client, loose).await, [""; 0]);
}

#[tokio::test]
async fn every_function_that_a_daemon_calls_runs_with_the_rights_of_its_owner() {
    let registry = Registry::head().await;
    let definers = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef";
    let definers = column::<String>(&registry.client, definers).await;
    let sources = std::fs::read_dir(super::path("src/store")).unwrap().map(|entry| entry.unwrap().path());
    let sources: Vec<String> = sources.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    let mut called = std::collections::BTreeSet::new();
    for source in &sources {
        for (at, _) in source.match_indices("muster_") {
            let name = source[at..].split(|c: char| !(c.is_ascii_lowercase() || c == '_')).next().unwrap();
            if source[at + name.len()..].starts_with('(') {
                called.insert(name);
            }
        }
    }
    assert!(called.len() >= 12, "{called:?}");
    // A clock and arithmetic read nothing and write nothing; any role may read the catalogs.
    called.retain(|name| !["muster_now", "muster_ms_until", "muster_deadline", "muster_hook_refusal"].contains(name));
    called.retain(|name| !definers.iter().any(|definer| definer == name));
    assert!(called.is_empty(), "without SECURITY DEFINER in their files: {called:?}");
}
