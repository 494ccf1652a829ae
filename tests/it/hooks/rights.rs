//! A hook runs with the rights of the application, whatever its owner makes of it, and leaves nothing behind.

use crate::harness::registry::{get, refusal, run};

use super::{define, die, failure, hook, registry, released, unreleased};

const INVALID: &str = "22023";

#[tokio::test]
async fn function_that_would_have_other_rights_is_no_hook() {
    let registry = registry().await;
    let client = &registry.client;
    let set = "SELECT muster_hook_set('f', 'public.f')";
    for (change, cause) in [
        ("ALTER FUNCTION f(bigint[]) SECURITY INVOKER", "is not SECURITY DEFINER"),
        ("ALTER FUNCTION f(bigint[]) RESET search_path", "no fixed search path"),
        ("ALTER FUNCTION f(bigint[]) SET search_path = public", "no fixed search path"),
        ("ALTER FUNCTION f(bigint[]) SET search_path = 'public, pg_temp'", "no fixed search path"),
        ("ALTER FUNCTION f(bigint[]) SET search_path = \"$user\", pg_temp", "no fixed search path"),
        ("ALTER FUNCTION f(bigint[]) OWNER TO current_user", "has the rights of the owner of the registry"),
        (
            "CREATE CONSTRAINT TRIGGER late AFTER DELETE ON held DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "deferrable trigger late on held",
        ),
    ] {
        define(client, "f", "").await;
        assert_eq!(refusal(client, set).await, "", "before {change}");
        run(client, change).await;
        let told = client.batch_execute(set).await.unwrap_err();
        let told = told.as_db_error().unwrap();
        assert_eq!(told.code().code(), INVALID, "{change}");
        assert!(told.message().contains(cause) && told.hint().is_some(), "{change}: {told:?}");
        // The same at each run.
        die(client, 1).await;
        assert_eq!(released(client, 10).await, 0, "{change}");
        assert!(failure(client).await.contains(cause), "{change}: {}", failure(client).await);
        run(client, "DROP TRIGGER IF EXISTS late ON held; DELETE FROM registry_death; DELETE FROM registry_instance")
            .await;
    }
    for (other, cause) in [("public.missing", "does not exist"), ("public.wrong", "does not return bigint")] {
        run(client, "CREATE OR REPLACE FUNCTION wrong(bigint[]) RETURNS integer LANGUAGE sql AS 'SELECT 1'").await;
        let told = client.batch_execute(&format!("SELECT muster_hook_set('f', '{other}')")).await.unwrap_err();
        assert!(told.as_db_error().unwrap().message().contains(cause), "{told:?}");
    }
}

#[tokio::test]
async fn hook_that_leaves_something_in_the_session_has_failed() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "f", "").await;
    die(client, 1).await;
    for (leaves, cause) in [
        ("SET search_path = pg_temp, public;", "search path"),
        ("PERFORM set_config('synchronous_commit', 'off', false);", "settings"),
        ("EXECUTE 'PREPARE p AS SELECT 1';", "statements"),
        ("EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1';", "cursors"),
        ("CREATE TEMP TABLE registry_instance (x integer);", "temporary objects"),
    ] {
        hook(client, "f", leaves).await;
        assert_eq!(released(client, 10).await, 0, "{leaves}");
        assert!(failure(client).await.contains(cause), "{leaves}: {}", failure(client).await);
        // What is prepared stays: a daemon closes the session.
        run(client, "DO $$ BEGIN EXECUTE 'DEALLOCATE p'; EXCEPTION WHEN OTHERS THEN NULL; END $$").await;
    }
    hook(client, "f", "CREATE TEMP TABLE own (x integer); DROP TABLE own;").await;
    assert_eq!((released(client, 10).await, unreleased(client).await), (1, 0));
}

#[tokio::test]
async fn hook_cannot_read_or_change_the_registry() {
    let registry = registry().await;
    let client = &registry.client;
    hook(client, "f", "").await;
    die(client, 1).await;
    for attempt in [
        "PERFORM FROM registry_instance;",
        "UPDATE cluster_metadata SET revision = 0;",
        "PERFORM muster_release_expiry(1000);",
        "SET ROLE musterd;",
    ] {
        hook(client, "f", attempt).await;
        assert_eq!(released(client, 10).await, 0, "{attempt}");
        let told = failure(client).await;
        assert!(told.contains("42501"), "{attempt}: {told}");
    }
    // What it is called for, it may know.
    hook(client, "f", "IF (SELECT count(*) FROM muster_dead_leases(p_lease_ids)) <> 1 THEN RAISE 'unknown'; END IF;")
        .await;
    assert_eq!(released(client, 10).await, 1);
    let after = "SELECT count(*) FROM muster_dead_leases(ARRAY(SELECT lease_id FROM registry_death))";
    assert_eq!(get::<i64>(client, after).await, 0, "a released death is not told");
}
