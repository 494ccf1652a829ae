//! Databases that cannot be migrated: one clear line, the right exit code, nothing half-made.

use musterd::migrate::{self, Error};

use crate::harness::{
    postgres::{BOUND, OwnCluster, TestDatabase, connect},
    registry::{Registry, get, refusal, run},
    wait::wait_until,
};

/// Checks the form of a message and returns it with its exit code.
fn said(error: &Error) -> (String, u8) {
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.ends_with('.'), "one line without a full stop: {text}");
    assert!(!text.contains("secret"), "no secret: {text}");
    (text, error.exit_code())
}

async fn refused(url: &str) -> (String, u8) {
    said(&migrate::up(url, "test").await.unwrap_err())
}

#[tokio::test]
async fn a_database_that_is_newer_than_this_binary_is_refused() {
    let registry = Registry::head().await;
    let newer = "INSERT INTO muster_migration VALUES (99, 'from_the_future', 'c', now(), 'a later release', 1)";
    run(&registry.client, newer).await;
    let url = registry.database.url();
    let (text, code) = refused(url).await;
    assert!(
        text.starts_with("the database is newer than this binary: it has migration 99 (from_the_future)"),
        "{text}"
    );
    assert_eq!(code, 78);
    assert_eq!(said(&migrate::check(url).await.unwrap_err()), (text, code));
    let verified = migrate::verify(url).await.unwrap();
    assert_eq!(verified, ["migration 99 (from_the_future) is unknown to this binary"]);
    let last = migrate::status(url).await.unwrap().pop().unwrap();
    assert_eq!((last.version, last.name.as_str(), last.state), (99, "from_the_future", migrate::State::Unknown));
}

#[tokio::test]
async fn a_file_that_changed_after_it_was_applied_is_refused() {
    let registry = Registry::head().await;
    run(&registry.client, "UPDATE muster_migration SET checksum = 'another' WHERE version = 14").await;
    let url = registry.database.url();
    let (text, code) = refused(url).await;
    assert!(text.starts_with("migration 14 (epoch_functions) was applied with a different text"), "{text}");
    assert_eq!(code, 78);
    assert_eq!(said(&migrate::check(url).await.unwrap_err()), (text, code));
    assert_eq!(
        migrate::verify(url).await.unwrap(),
        ["migration 14 (epoch_functions) was applied with a different text"]
    );
}

#[tokio::test]
async fn daemon_that_must_not_migrate_names_what_is_missing() {
    let database = TestDatabase::create().await;
    migrate::up_to(database.url(), 12).await.unwrap();
    let (text, code) = said(&migrate::check(database.url()).await.unwrap_err());
    assert!(text.contains("the first is 13 (leases_and_revisions); run musterd migrate up"), "{text}");
    assert_eq!(code, 78);
    assert_eq!(migrate::verify(database.url()).await.unwrap()[0], "migration 13 (leases_and_revisions) is pending");
}

#[tokio::test]
async fn missing_rights_are_named_and_nothing_is_made() {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    let role = format!("r_{}", uuid::Uuid::new_v4().simple());
    // Every role may create in "public" up to version 14.
    run(&client, &format!("CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")).await;
    let url = database.url().replace("//musterd@", &format!("//{role}:secret@"));
    let (text, code) = refused(&url).await;
    assert!(
        text.starts_with("missing rights for creating the migration history: permission denied for schema public"),
        "{text}"
    );
    assert!(text.contains("grant CREATE"), "{text}");
    assert_eq!(code, 78);
    assert_eq!(refusal(&client, "SELECT FROM muster_migration").await, "42P01");

    run(&client, &format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", database.name())).await;
    let (text, code) = refused(&url).await;
    assert!(text.starts_with(&format!("{role} has no right to connect to ")), "{text}");
    assert_eq!(code, 78);
    run(&client, &format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn user_without_a_schema_is_refused_with_that_reason() {
    let database = TestDatabase::create().await;
    let client = connect(database.url()).await;
    run(&client, &format!("ALTER DATABASE {} SET search_path = nowhere", database.name())).await;
    let (text, code) = refused(database.url()).await;
    assert!(text.starts_with("the database user has no schema to work in"), "{text}");
    assert_eq!(code, 78);
}

#[tokio::test]
async fn an_unknown_database_is_named() {
    let database = TestDatabase::create().await;
    let (text, code) = refused(&database.url().replace(database.name(), "no_such_one")).await;
    assert!(
        text.ends_with("correct the name in the database url") && text.contains("/no_such_one has no such"),
        "{text}"
    );
    assert_eq!(code, 78);
}

#[tokio::test]
async fn a_server_that_is_not_there_cannot_be_reached() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (text, code) = refused(&format!("postgresql://me:secret@{free}/registry")).await;
    assert!(text.starts_with(&format!("cannot reach postgresql at {free}/registry: ")), "{text}");
    assert!(text.contains("connection refused"), "{text}");
    assert_eq!(code, 3);
    let (text, code) = refused("postgresql://me:secret@no.such.host.invalid/registry").await;
    assert!(text.starts_with("cannot reach postgresql at no.such.host.invalid:5432/registry: "), "{text}");
    assert_eq!(code, 3);
}

#[tokio::test]
async fn server_that_accepts_and_does_not_respond_times_out() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgresql://me:secret@{}/registry?connect_timeout=1", silent.local_addr().unwrap());
    let (text, code) = refused(&url).await;
    assert!(text.contains("no answer within 1 s"), "{text}");
    assert_eq!(code, 3);
}

#[tokio::test]
async fn wrong_or_missing_password_is_refused_and_not_printed() {
    let cluster = OwnCluster::create().await;
    let client = connect(cluster.url()).await;
    // PostgreSQL 13 stores passwords as MD5 if it is not told otherwise.
    run(&client, "SET password_encryption = 'scram-sha-256'; CREATE ROLE asked LOGIN PASSWORD 'right'").await;
    let rules: String = get(&client, "SHOW hba_file").await;
    let ask = format!(
        "COPY (VALUES ('local all asked scram-sha-256'), ('local all unwanted reject'), ('local all all trust')) TO '{rules}';
         SELECT pg_reload_conf()"
    );
    run(&client, &ask).await;
    let with = |user: &str| cluster.url().replace("//musterd@", &format!("//{user}@"));
    let wrong = wait_until("the new rules", BOUND, async || {
        let (text, code) = refused(&with("asked:secret")).await;
        if text.contains("missing rights") { Err(text) } else { Ok((text, code)) }
    })
    .await;
    for (text, code) in [wrong, refused(&with("asked")).await, refused(&with("unwanted:secret")).await] {
        assert!(text.contains("does not let") && text.contains("check user and password"), "{text}");
        assert_eq!(code, 78);
    }
    assert!(migrate::status(&with("asked:right")).await.is_ok());
}
