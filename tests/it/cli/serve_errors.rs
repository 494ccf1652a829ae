//! A daemon that cannot start says why in one line, with the right exit code, and leaves nothing behind.

use std::{fs, net::TcpListener};

use super::{Ended, musterd};
use crate::harness::{
    postgres::{MIGRATIONS, TestDatabase},
    registry::{Registry, get, run},
    scratch::Scratch,
};

async fn serve(flags: &[&str]) -> Ended {
    let ended = musterd(
        &[&["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--log-format", "json"], flags]
            .concat(),
    )
    .await;
    assert_eq!(ended.stdout, "");
    ended
}

/// As [`serve`], and checks the exit code and how the complaint begins.
async fn refused(flags: &[&str], code: i32, beginning: &str) -> String {
    let ended = serve(flags).await;
    let complaint = ended.complaint().to_owned();
    assert_eq!(ended.code, Some(code), "{complaint}");
    assert!(complaint.starts_with(beginning), "{complaint}");
    complaint
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_found_before_anything_is_made() {
    let scratch = Scratch::on_disk();
    let data_dir = scratch.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--grpc-addr", "--http-addr"] {
        let other = if flag == "--grpc-addr" { "--http-addr" } else { "--grpc-addr" };
        let arguments = ["serve", flag, &address, other, "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()];
        let ended = musterd(&arguments).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.complaint().starts_with(&format!("cannot listen on {address}; is another musterd running?")));
        assert!(!data_dir.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_reached_ends_with_3() {
    let complaint = refused(
        &["--start-timeout", "0", "--database-url", "postgres://user:secret@127.0.0.1:1/registry"],
        3,
        "cannot reach postgresql at 127.0.0.1:1/registry: ",
    )
    .await;
    assert!(!complaint.contains("secret"), "{complaint}");
    // A listener that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://user:secret@{}/registry?connect_timeout=1", silent.local_addr().unwrap());
    let complaint = refused(&["--start-timeout", "0", "--database-url", &url], 3, "cannot reach postgresql at ").await;
    assert!(complaint.contains("no answer within 1 s") && !complaint.contains("secret"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_exist_ends_with_78() {
    let database = TestDatabase::create().await;
    let url = database.url().replace(database.name(), "no_such_database");
    let complaint = refused(&["--database-url", &url], 78, "postgresql at ").await;
    assert!(complaint.contains("no_such_database has no such database; create it"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_cannot_be_read_ends_with_78_and_is_not_quoted() {
    for url in
        ["", "postgres://", "mysql://u:secret@h/db", "postgres://u:sec@ret:secret@h/db", "host=h password=a secret=1"]
    {
        let complaint = refused(&["--database-url", url], 78, "--database-url: ").await;
        assert!(!complaint.contains("secret"), "{complaint}");
    }
    refused(&["--database-url", "postgres://u@h/db?sslmode=verify-ca"], 78, "--database-url: says sslmode=verify-ca")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_newer_is_refused_and_left_alone() {
    let registry = Registry::head().await;
    run(
        &registry.client,
        "INSERT INTO muster_migration VALUES (99, 'from_the_future', 'c', now(), 'a later release', 1)",
    )
    .await;
    refused(&["--database-url", registry.database.url()], 78, "the database is newer than this binary: ").await;
    for table in ["registry_daemon", "cluster_metadata", "registry_epoch"] {
        assert_eq!(get::<i64>(&registry.client, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_must_not_migrate_leaves_an_empty_database_empty() {
    let database = TestDatabase::create().await;
    let beginning = format!("the database lacks {MIGRATIONS} migration(s)");
    let complaint = refused(&["--no-migrate", "--database-url", database.url()], 78, &beginning).await;
    assert!(complaint.ends_with("run musterd migrate up"), "{complaint}");
    let client = crate::harness::postgres::connect(database.url()).await;
    let sql = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(get::<i64>(&client, sql).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_used_is_left_as_it_is() {
    let scratch = Scratch::on_disk();
    let file = scratch.path().join("file");
    fs::write(&file, "precious").unwrap();
    let within = file.join("data");
    for data_dir in [&file, &within] {
        let complaint = refused(&["--data-dir", data_dir.to_str().unwrap()], 78, "").await;
        assert!(complaint.contains(file.to_str().unwrap()), "{complaint}");
    }
    let theirs = scratch.path().join("theirs");
    fs::create_dir_all(theirs.join("postgres")).unwrap();
    fs::write(theirs.join("postgres/notes.txt"), "precious").unwrap();
    let complaint = refused(&["--data-dir", theirs.to_str().unwrap()], 78, "").await;
    // As root, PostgreSQL runs as another user, which does not own the directory.
    let reasons = ["is no PostgreSQL cluster; move it away", "run musterd as that user, or `chown -R` the directory"];
    assert!(reasons.iter().any(|reason| complaint.contains(reason)), "{complaint}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(fs::read_dir(theirs.join("postgres")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_out_of_bounds_are_named_with_their_limits() {
    for (flag, value, beginning) in [
        ("--keep-dead", "1s", "--keep-dead 1s is outside 1m to 30days"),
        ("--log-level", "a=b=c", "--log-level \"a=b=c\": "),
        ("--advertise-addr", "a b", "--advertise-addr needs 1 to 253 bytes"),
    ] {
        refused(&[flag, value], 78, beginning).await;
    }
}
