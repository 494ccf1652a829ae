//! Settings, rights, encoding and search path that a session inherits.

use std::time::Duration;

use super::{as_role, owned_by_app, with_database};
use crate::{
    cli::musterd,
    deploy::{scripts::script, tools::tool},
    harness::{
        actor::{Caller, alive},
        daemon::{DAEMON_BOUND, Daemon},
        postgres::{TestDatabase, connect},
        registry::{column, get, run},
        wait::wait_until,
    },
};

const TTL: Duration = Duration::from_secs(300);

/// Ends every session of the daemons, so that the next ones inherit what was set since.
async fn end_sessions(url: &str) {
    let client = connect(url).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'musterd'";
    column::<i64>(&client, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_role_settings_do_not_reach_the_daemon_and_check_names_them() {
    let (cluster, url) = owned_by_app().await;
    let admin = connect(&with_database(cluster.url(), "registry")).await;
    for setting in [
        "default_transaction_read_only = on",
        "statement_timeout = '5ms'",
        "default_transaction_isolation = 'serializable'",
        "row_security = on",
        "jit = on",
        "jit_above_cost = 0",
        "\"DateStyle\" = 'German'",
        "\"IntervalStyle\" = 'sql_standard'",
        "bytea_output = 'escape'",
        "standard_conforming_strings = off",
        "quote_all_identifiers = on",
        "synchronous_commit = off",
    ] {
        run(&admin, &format!("ALTER ROLE app SET {setting}")).await;
    }
    let up = musterd(&["migrate", "up", "--database-url", &url]).await;
    assert_eq!(up.code, Some(0), "{up:?}");
    let verified = musterd(&["migrate", "verify", "--database-url", &url]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let daemon = Daemon::start(&url).await;
    let caller = Caller::of(&daemon);
    caller.register(alive("organ", TTL)).await.unwrap();
    caller.register(alive("silent", Duration::from_secs(2))).await.unwrap();
    wait_until("the reaper works", DAEMON_BOUND, async || {
        let dead: i64 = get(&admin, "SELECT count(*) FROM registry_instance WHERE status = 'dead'").await;
        if dead == 1 { Ok(()) } else { Err(dead) }
    })
    .await;
    end_sessions(&with_database(cluster.url(), "registry")).await;
    wait_until("a registration after all sessions are new", DAEMON_BOUND, async || {
        caller.register(alive("later", TTL)).await.map(drop)
    })
    .await;

    let checked = musterd(&["--addr", &daemon.grpc_addr, "check", "--database-url", &url]).await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    for fix in [
        "ALTER ROLE app IN DATABASE registry SET default_transaction_read_only = off",
        "ALTER ROLE app IN DATABASE registry SET statement_timeout = '10s'",
        "ALTER ROLE app IN DATABASE registry SET default_transaction_isolation = 'read committed'",
    ] {
        assert!(checked.stdout.contains(fix), "{fix}: {checked:?}");
        run(&admin, fix).await;
    }
    let repaired = musterd(&["--addr", &daemon.grpc_addr, "check", "--database-url", &url]).await;
    assert!(!repaired.stdout.contains("sessions of app inherit"), "{repaired:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_is_not_taken_for_an_empty_registry() {
    let (cluster, owner) = owned_by_app().await;
    let admin = connect(&with_database(cluster.url(), "registry")).await;
    assert_eq!(musterd(&["migrate", "up", "--database-url", &owner]).await.code, Some(0));
    run(
        &admin,
        "CREATE ROLE daemon_ LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO daemon_;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO daemon_",
    )
    .await;
    let url = as_role(&cluster, "daemon_");
    let flags = ["--no-migrate", "--database-url", url.as_str()];
    let first = Daemon::start_with(&flags).await;
    Caller::of(&first).register(alive("organ", TTL)).await.unwrap();
    run(&admin, "ALTER TABLE registry_instance ENABLE ROW LEVEL SECURITY").await;

    let second = Daemon::spawn(&flags).await;
    for daemon in [&second, &first] {
        wait_until("the table is named", DAEMON_BOUND, async || match daemon.http_get("/readyz").await {
            Ok((_, body)) if body.contains("\"registry_instance\"") && body.contains("BYPASSRLS") => Ok(()),
            other => Err(other),
        })
        .await;
    }
    assert_eq!(second.http_get("/readyz").await.unwrap().0, 503);
    assert_eq!(second.http_get("/sd/prometheus").await.unwrap().0, 503, "no empty list");

    let verified = musterd(&["migrate", "verify", "--database-url", &owner]).await;
    assert_eq!(verified.code, Some(1), "{verified:?}");
    let fix = "ALTER TABLE registry_instance DISABLE ROW LEVEL SECURITY";
    assert!(verified.stdout.contains(fix), "{verified:?}");
    let checked = musterd(&["--addr", &first.grpc_addr, "check", "--database-url", &url]).await;
    assert!(checked.code == Some(1) && checked.stdout.contains(&format!("fix: {fix}")), "{checked:?}");
    run(&admin, fix).await;
    second.wait_ready().await;
    assert_eq!(second.http_get("/sd/prometheus").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_is_not_utf8_is_refused_everywhere_with_78() {
    let (cluster, url) = owned_by_app().await;
    let admin = connect(cluster.url()).await;
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let name = encoding.to_lowercase();
        let make = format!("CREATE DATABASE {name} OWNER app TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        run(&admin, &make).await;
        let url = with_database(&url, &name);
        let at = ["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
        let serve = [&["serve"][..], &at, &["--database-url", &url]].concat();
        for words in [&serve[..], &["migrate", "up", "--database-url", &url]] {
            let ended = musterd(words).await;
            assert_eq!(ended.code, Some(78), "{ended:?}");
            let complaint = ended.complaint();
            assert!(complaint.contains(&format!("has the encoding {encoding}")), "{complaint}");
            assert!(complaint.contains("; the registry needs UTF8: create the database with ENCODING 'UTF8'"));
        }
        let checked = musterd(&["--addr", "127.0.0.1:1", "check", "--database-url", &url]).await;
        assert!(checked.code == Some(1) && checked.stdout.contains(encoding), "{checked:?}");
        let made: i64 = get(&connect(&url).await, "SELECT count(*) FROM pg_class WHERE relname ~ 'muster'").await;
        assert_eq!(made, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_named_like_the_role_does_not_become_a_second_registry() {
    let (cluster, url) = owned_by_app().await;
    let first = Daemon::start(&url).await;
    let organ = Caller::of(&first).register(alive("organ", TTL)).await.unwrap();
    let admin = connect(&with_database(cluster.url(), "registry")).await;
    run(&admin, "CREATE SCHEMA app AUTHORIZATION app").await;

    let second = Daemon::start(&url).await;
    end_sessions(&with_database(cluster.url(), "registry")).await;
    for daemon in [&first, &second] {
        let caller = Caller::of(daemon);
        wait_until("a registration", DAEMON_BOUND, async || caller.register(alive("later", TTL)).await.map(drop)).await;
        let known = wait_until("the first instance is known", DAEMON_BOUND, async || {
            caller.resolve("organ").await.map_err(|error| format!("{error:?}"))
        })
        .await;
        assert_eq!(known.instance.lease_id, organ.lease_id);
    }
    let schemas = "SELECT schemaname::text FROM pg_tables WHERE tablename = 'registry_instance'";
    assert_eq!(column::<String>(&admin, schemas).await, ["public"]);

    // The functions carry the same path as the sessions.
    let paths = "SELECT DISTINCT setting FROM pg_proc CROSS JOIN unnest(proconfig) AS setting
                 WHERE pronamespace = 'public'::regnamespace AND setting LIKE 'search_path=%'";
    assert_eq!(column::<String>(&admin, paths).await, ["search_path=public, pg_temp"]);
}

#[tokio::test]
async fn registry_that_the_search_path_does_not_lead_to_is_refused_with_78() {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    // SeedCore's tables behind a schema where new objects would go.
    run(
        &client,
        &format!(
            "CREATE TABLE public.registry_instance (a int); CREATE TABLE public.cluster_metadata (a int);
             CREATE SCHEMA mine; ALTER DATABASE {} SET search_path = mine, public",
            database.name()
        ),
    )
    .await;
    let up = ["migrate", "up", "--database-url", database.url()];
    let serve = ["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--database-url", database.url()];
    for words in [&up[..], &serve] {
        let ended = musterd(words).await;
        assert_eq!(ended.code, Some(78), "{ended:?}");
        let complaint = ended.complaint();
        assert!(complaint.contains("in schema public") && complaint.contains("schema mine"), "{complaint}");
        assert!(complaint.contains("; set the search path to public"), "{complaint}");
    }
    if tool(&["psql"]).is_some() {
        let (code, printed) = script("deploy/init-db.sh", database.url(), &[]).await;
        assert_eq!(code, Some(78), "{printed}");
        assert!(printed.contains("in schema public") && printed.contains("schema mine"), "{printed}");
    }
    let made: i64 = get(&client, "SELECT count(*) FROM pg_class WHERE relnamespace = 'mine'::regnamespace").await;
    assert_eq!(made, 0, "nothing was made");

    run(&client, "CREATE TABLE mine.registry_instance (a int); CREATE TABLE mine.cluster_metadata (a int)").await;
    let ended = musterd(&up).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.complaint().contains("2 registries, in the schemas mine, public"), "{ended:?}");
}
