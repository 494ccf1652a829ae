//! How a daemon comes by its sessions: at the start, and after a password was changed.

use nix::sys::signal::Signal;
use std::{fs, net::TcpListener, time::Duration};

use super::{owned_by_app, with_database};
use crate::{
    cli::musterd,
    harness::{
        actor::{Caller, alive},
        daemon::{DAEMON_BOUND, Daemon, program},
        postgres::{OwnCluster, connect},
        registry::{get, run},
        wait::wait_until,
    },
};

const TTL: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn daemon_waits_for_a_database_that_is_away_and_answers_its_probes() {
    let mut cluster = OwnCluster::create().await;
    cluster.stop_immediate();
    let daemon = Daemon::spawn(&["--database-url", cluster.url()]).await;
    let waits = wait_until("the daemon says what it waits for", DAEMON_BOUND, async || {
        match daemon.http_get("/readyz").await {
            Ok((503, body)) if body.contains("waiting for the database: cannot reach postgresql at ") => Ok(body),
            other => Err(other),
        }
    })
    .await;
    assert!(waits.contains("database"), "{waits}");
    assert_eq!(daemon.http_get("/livez").await.unwrap().0, 200);
    assert_eq!(daemon.log().matches("database unavailable at start, waiting").count(), 1, "{}", daemon.log());
    cluster.start().await;
    daemon.wait_ready().await;
    Caller::of(&daemon).register(alive("organ", TTL)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_waits_ends_on_a_signal() {
    let daemon = Daemon::spawn(&["--database-url", "postgres://u@127.0.0.1:1/registry"]).await;
    wait_until("it waits", DAEMON_BOUND, async || {
        let log = daemon.log();
        if log.contains("database unavailable at start, waiting") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_password_is_read_again_from_its_file() {
    let (cluster, url) = owned_by_app().await;
    let admin = connect(&with_database(cluster.url(), "registry")).await;
    // PostgreSQL 13 stores passwords as MD5 if it is not told otherwise.
    run(&admin, "SET password_encryption = 'scram-sha-256'; ALTER ROLE app PASSWORD 'old'").await;
    let rules: String = get(&admin, "SHOW hba_file").await;
    let ask = format!(
        "COPY (VALUES ('local all app scram-sha-256'), ('local all all trust')) TO '{rules}'; SELECT pg_reload_conf()"
    );
    run(&admin, &ask).await;
    let secret = cluster.data_dir().join("url");
    let with_password = |password: &str| url.replace("//app@", &format!("//app:{password}@"));
    fs::write(&secret, with_password("old") + "\n").unwrap();
    let daemon = Daemon::start_with(&["--database-url-file", secret.to_str().unwrap()]).await;
    let caller = Caller::of(&daemon);
    caller.register(alive("organ", TTL)).await.unwrap();

    run(&admin, "ALTER ROLE app PASSWORD 'new'").await;
    fs::write(&secret, with_password("new") + "\n").unwrap();
    run(&admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'").await;
    wait_until("registrations go on with the new password", DAEMON_BOUND, async || {
        caller.register(alive("later", TTL)).await.map(drop)
    })
    .await;
    daemon.wait_ready().await;
    assert!(daemon.log().contains("database url reloaded"), "{}", daemon.log());
    assert!(!daemon.log().contains("app:new"), "no password in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn hangup_rereads_the_url_and_keeps_the_former_one_if_it_cannot() {
    let (cluster, url) = owned_by_app().await;
    let secret = cluster.data_dir().join("url");
    fs::write(&secret, &url).unwrap();
    let daemon = Daemon::start_with(&["--database-url-file", secret.to_str().unwrap()]).await;
    let logged = async |message: &str| {
        wait_until("the outcome is logged", DAEMON_BOUND, async || {
            if daemon.log().contains(message) { Ok(()) } else { Err(daemon.log()) }
        })
        .await;
    };
    daemon.signal(Signal::SIGHUP);
    logged("received SIGHUP, unchanged").await;
    fs::write(&secret, url.replace("//app@", "//app:new@")).unwrap();
    daemon.signal(Signal::SIGHUP);
    logged("received SIGHUP, reloaded").await;
    fs::remove_file(&secret).unwrap();
    daemon.signal(Signal::SIGHUP);
    logged("received SIGHUP, not reloaded, the previous value stays").await;
    Caller::of(&daemon).register(alive("organ", TTL)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_first_host_does_not_keep_sessions_from_the_next() {
    let cluster = OwnCluster::create().await;
    // Accepts connections and never answers.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = frozen.local_addr().unwrap().port();
    let socket = cluster.data_dir().join("run").display().to_string();
    let url = format!("host=127.0.0.1,{socket} port={port},5432 user=musterd dbname=musterd");
    let database: String = get(&connect(cluster.url()).await, "SELECT current_database()::text").await;
    let url = url.replace("dbname=musterd", &format!("dbname={database}"));
    let up = musterd(&["migrate", "up", "--database-url", &url]).await;
    assert_eq!(up.code, Some(0), "{up:?}");
    let daemon = Daemon::start(&url).await;
    Caller::of(&daemon).register(alive("organ", TTL)).await.unwrap();
    let named = format!("127.0.0.1:{port}/");
    assert!(daemon.log().contains("hosts of the database url cannot be used") && daemon.log().contains(&named));
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_find_the_primary_behind_a_standby() {
    let cluster = OwnCluster::create().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    drop(listener);
    let socket = |cluster: &OwnCluster| cluster.data_dir().join("run").display().to_string();
    let standby = cluster.standby(&format!("{}:5432", socket(&cluster))).await;
    let database: String = get(&connect(cluster.url()).await, "SELECT current_database()::text").await;
    let url = |hosts: &str| format!("host={hosts} user=musterd dbname={database}");
    let both = url(&format!("{},{}", socket(&standby), socket(&cluster)));
    let up = musterd(&["migrate", "up", "--database-url", &both]).await;
    assert_eq!(up.code, Some(0), "{up:?}");
    Caller::of(&Daemon::start(&both).await).register(alive("organ", TTL)).await.unwrap();
    let alone = musterd(&["migrate", "up", "--database-url", &url(&socket(&standby))]).await;
    assert_eq!(alone.code, Some(3), "{alone:?}");
    assert!(alone.complaint().contains("is a standby (in recovery) and takes no changes; wait for its promotion"));
}

#[tokio::test]
async fn blanks_around_variables_do_not_count_and_empty_ones_are_unset() {
    let run = |name: &str, value: &str, words: &[&str]| {
        let output = program().args(words).env(name, value).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text, String::from_utf8(output.stderr).unwrap())
    };
    let show = ["config", "show", "--config", "/dev/null", "-o", "json"];
    let (code, text, error) = run("MUSTERD_DATABASE_URL", "\u{feff}postgres://u@h/d\r\n", &show);
    assert!(code == Some(0) && text.contains("\"postgres://u@h:5432/d\""), "{text}{error}");
    let (code, text, error) = run("MUSTERD_GRPC_ADDR", " 127.0.0.1:7000\n", &show);
    assert!(code == Some(0) && text.contains("\"127.0.0.1:7000\""), "{text}{error}");
    for name in ["MUSTERD_DATABASE_URL", "MUSTERD_KEEP_DEAD", "MUSTERD_START_TIMEOUT"] {
        let (code, text, error) = run(name, "", &show);
        assert!(code == Some(0) && !text.contains("\"environment\""), "{name}: {text}{error}");
    }
    // A client command: an empty address is the default address, a blank after it does not count.
    let (code, _, error) = run("MUSTERD_ADDR", "127.0.0.1:1 \n", &["list"]);
    assert!(code == Some(3) && error.contains("127.0.0.1:1"), "{error}");
    let (code, _, error) = run("MUSTERD_TIMEOUT", "", &["--addr", "127.0.0.1:1", "list"]);
    assert_eq!(code, Some(3), "{error}");
}
