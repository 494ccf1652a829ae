//! The doctor: each fault is induced for real, and `check` has to name it, with the fix.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio_postgres::error::SqlState;

use super::{Ended, musterd};
use crate::harness::{
    actor::{Caller, alive},
    daemon::{Daemon, program},
    postgres::{OwnCluster, TestDatabase, connect, try_connect},
    registry::{id, run},
    secured::Secured,
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(40);
/// The key under which migrations run.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_lock(120351215609202)";

/// What a check came to.
#[derive(Debug)]
struct Checked {
    ended: Ended,
    findings: Vec<Value>,
}

impl Checked {
    /// The first finding of a check that is not ok, as level, what was found, and the fix.
    fn trouble(&self, check: &str) -> Option<(String, String, String)> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let mut findings = self.findings.iter().filter(|finding| finding["check"] == check);
        let finding = findings.find(|finding| finding["severity"] != "ok")?;
        Some((text(finding, "severity"), text(finding, "found"), text(finding, "fix")))
    }
}

async fn check(arguments: &[&str]) -> Checked {
    let ended = musterd(&[arguments, &["check", "-o", "json"]].concat()).await;
    let json: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let findings = json["findings"].as_array().unwrap().clone();
    let critical = findings.iter().any(|finding| finding["severity"] == "critical");
    assert_eq!((ended.code, json["severity"] == "critical"), (Some(i32::from(critical)), critical), "{ended:?}");
    for finding in &findings {
        assert_eq!(finding["fix"] == "", finding["severity"] == "ok", "whatever is not ok has a fix: {finding}");
    }
    Checked { ended, findings }
}

/// Checks until the fault is named: at this level, in these words, with this in its fix.
async fn names(arguments: &[&str], check_name: &str, level: &str, found: &str, fix: &str) -> Checked {
    wait_until(&format!("{check_name}: {found}"), BOUND, async || {
        let checked = check(arguments).await;
        match checked.trouble(check_name) {
            Some((l, text, help)) if l == level && text.contains(found) && help.contains(fix) => Ok(checked),
            _ => Err(checked.findings),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_registry_passes_every_check() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    // On a loaded machine a save may be slow for a moment, which is worth a warning.
    let checked = wait_until("nothing to complain about", BOUND, async || {
        let checked = check(&["--addr", &daemon.grpc_addr]).await;
        if checked.findings.iter().all(|finding| finding["severity"] == "ok") { Ok(checked) } else { Err(checked) }
    })
    .await;
    for name in ["address", "protocol", "answer", "version", "health", "advertised", "clock", "http"] {
        assert!(checked.findings.iter().any(|finding| finding["check"] == name), "{name}: {:?}", checked.findings);
    }
    let all = ["--addr", &daemon.grpc_addr, "check", "--database-url", database.url()];
    let table = musterd(&all).await;
    for name in ["schema", "connections", "notify", "write", "same", "db clock"] {
        assert!(
            table.stdout.lines().any(|line| line.starts_with(&format!("ok        {name} "))),
            "{name} in {table:?}"
        );
    }
    // The clusters of tests are fast, and so not durable.
    let failing: Vec<&str> = table.stdout.lines().filter(|line| line.starts_with("critical")).collect();
    assert_eq!((failing.len(), table.code), (1, Some(1)), "{table:?}");
    assert!(failing[0].contains("fsync is off") && table.stdout.contains("fix: set fsync = on"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_identity_and_rights_have_rows_and_their_faults_a_fix() {
    let secured = Secured::enforced("", &["stranger"]).await;
    let (address, ca) = (secured.address(), secured.path("ca.pem"));
    let to = ["--addr", address.as_str(), "--ca", ca.as_str()];
    let with = |flags: &[&str]| -> Vec<String> { to.iter().chain(flags).map(|&word| word.to_owned()).collect() };
    let run = async |flags: &[&str]| {
        let words = with(flags);
        check(&words.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let found = |checked: &Checked, name: &str, text: &str| {
        let found = |row: &Value| row["check"] == name && row["found"].as_str().unwrap().contains(text);
        assert!(checked.findings.iter().any(found), "{name}: {text} in {:?}", checked.findings);
    };
    let (certificate, key) = (secured.path("operator.pem"), secured.path("operator.key"));
    let operator = run(&["--cert", &certificate, "--cert-key", &key]).await;
    for (name, text) in [
        ("certificate", "is good for another"),
        ("key", "is readable by its owner alone, written"),
        ("identity", "cert/operator, by certificate"),
        ("rights", "cluster on *"),
        ("daemon clock", "agree"),
    ] {
        found(&operator, name, text);
    }
    assert!(operator.trouble("identity").is_none() && operator.trouble("certificate").is_none());

    let (level, text, fix) =
        run(&["--cert", &certificate, "--cert-key", &secured.path("server.key")]).await.trouble("key").unwrap();
    assert!(
        level == "critical" && text.contains("is not the key of the certificate") && fix.contains("pair"),
        "{text}; {fix}"
    );

    let token = secured.path("stranger.token");
    let stranger = run(&["--token-file", &token]).await;
    found(&stranger, "identity", "token/stranger, by token");
    let (level, text, fix) = stranger.trouble("rights").unwrap();
    assert!(level == "warning" && text.contains("may do nothing") && fix.contains("policy"), "{text}; {fix}");
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (level, text, fix) = run(&["--token-file", &token]).await.trouble("token file").unwrap();
    assert!(level == "warning" && text.contains("mode 0644") && fix.contains("chmod 600"), "{text}; {fix}");
    std::fs::write(&token, "two words").unwrap();
    let faulty = run(&["--token-file", &token]).await;
    assert_eq!(faulty.trouble("token file").unwrap().0, "critical");
    let (_, _, fix) = run(&["--token-file", "/nonexistent"]).await.trouble("token file").unwrap();
    assert!(fix.contains("path"), "{fix}");
    assert_eq!(run(&[]).await.trouble("identity").unwrap().0, "critical", "no credential");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_address_is_reported_by_what_listens_there() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    names(&["--addr", "127.0.0.1:1"], "address", "critical", "cannot connect to 127.0.0.1:1", "musterd serve").await;
    names(&["--addr", &daemon.http_addr], "protocol", "critical", "speaks HTTP/1", "7717").await;
    let table = musterd(&["--addr", "127.0.0.1:1", "check"]).await;
    assert_eq!(table.complaint(), "1 check fails");
    assert!(
        table.stdout.starts_with("critical  address ") && table.stdout.contains("\n                           fix: "),
        "{table:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_that_is_not_ready_names_what_it_waits_for() {
    let database = TestDatabase::create().await;
    let locker = connect(database.url()).await;
    run(&locker, MIGRATION_LOCK).await;
    let daemon = Daemon::spawn(&["--database-url", database.url()]).await;
    let (grpc, http) = (daemon.grpc_addr.as_str(), daemon.http_addr.as_str());
    let health = async |words: &[&str]| musterd(&[&["healthcheck", "--http-addr", http], words].concat()).await;
    names(&["--addr", grpc, "--timeout", "1s"], "protocol", "critical", "does not respond", "/readyz").await;
    let ended = musterd(&["--addr", grpc, "--timeout", "1s", "check", "--http-addr", http]).await;
    assert!(ended.stdout.contains(" is not ready: database: not yet; schema: not yet"), "{ended:?}");
    assert!(ended.stdout.contains("fix: if the daemon is starting, wait"), "{ended:?}");
    let (ready, live) = (health(&[]).await, health(&["--live"]).await);
    assert_eq!((ready.code, ready.stdout.as_str()), (Some(1), ""));
    assert!(ready.complaint().starts_with("/readyz answers 503: database: not yet"), "{ready:?}");
    assert_eq!((live.code, live.stdout.as_str(), live.stderr.as_str()), (Some(0), "", ""));
    drop(locker);
    daemon.wait_ready().await;
    let ready = health(&[]).await;
    assert_eq!((ready.code, ready.stdout.as_str(), ready.stderr.as_str()), (Some(0), "", ""));
    let absent = musterd(&["healthcheck", "--http-addr", "127.0.0.1:1"]).await;
    assert_eq!(absent.code, Some(1), "Docker knows no other code");
    assert!(absent.complaint().starts_with("cannot ask 127.0.0.1:1: "), "{absent:?}");
    // The variable by which the daemon listens; a wildcard is no place to go to.
    let wildcard = http.replace("127.0.0.1", "0.0.0.0");
    let ended = program().args(["healthcheck"]).env("MUSTERD_HTTP_ADDR", wildcard).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reason_that_pauses_expiry_is_named() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let at = ["--addr", daemon.grpc_addr.as_str()];
    Caller::of(&daemon).register(alive("organ", Duration::from_secs(300))).await.unwrap();
    let hold = musterd(&["--addr", &daemon.grpc_addr, "hold", "--for", "10m", "--reason", "work on the network"]).await;
    assert_eq!(hold.code, Some(0), "{hold:?}");
    let held = names(&at, "hold", "warning", "on hold for ", "musterd release").await;
    assert!(held.ended.code == Some(0) && held.ended.stdout.contains("work on the network"), "a warning: {held:?}");

    // The reaper takes a brake off that is not due, so it is put on again until it is seen.
    let client = connect(database.url()).await;
    let brake = "SET brake = 'protect', brake_since = now(), brake_overdue = 51, brake_live = 100";
    let keep = async || {
        run(&client, &format!("UPDATE cluster_metadata {brake}, hold_until = NULL")).await;
        let checked = check(&at).await;
        match checked.trouble("brake_protect") {
            Some((level, found, fix)) if level == "critical" && found.contains("51 of 100") => Ok(fix),
            _ => Err(checked.findings),
        }
    };
    let fix = wait_until("the brake", BOUND, keep).await;
    assert!(fix.contains("Check the network") && fix.contains("musterd release"), "{fix}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_daemon_of_another_version_or_lost_is_named() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let at = ["--addr", daemon.grpc_addr.as_str()];
    let client = connect(database.url()).await;
    run(&client, &format!("SELECT muster_daemon_started('{}', '0.0.0.0:7717', '9.9.9')", id(900))).await;
    let beside = async |age: &str, check_name: &str| {
        let age =
            format!("UPDATE registry_daemon SET last_flush = muster_now() - interval '{age}' WHERE version = '9.9.9'");
        wait_until(check_name, BOUND, async || {
            run(&client, &age).await;
            let checked = check(&at).await;
            checked.trouble(check_name).ok_or(checked.findings)
        })
        .await
    };
    let (level, found, fix) = beside("0 s", "versions_differ").await;
    assert_eq!((level.as_str(), found.contains(", 9.9.9")), ("warning", true), "{found}");
    assert!(fix.contains("restart the daemons of the older version"), "{fix}");
    let (_, found, fix) = beside("0 s", "advertised").await;
    assert!(found.contains("0.0.0.0:7717") && fix.contains("--advertise-addr"), "{found}: {fix}");
    let (level, found, fix) = beside("8 s", "daemon_silent").await;
    assert_eq!(
        (level.as_str(), found.contains("0.0.0.0:7717 has not saved beats for ")),
        ("critical", true),
        "{found}"
    );
    assert!(fix.contains("restart it"), "{fix}");
    assert_eq!(musterd(&["--addr", &daemon.grpc_addr, "status"]).await.code, Some(1), "the registry is not well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_and_a_clock_that_were_changed_are_named() {
    let database = TestDatabase::create().await;
    musterd::migrate::up(database.url(), "test").await.unwrap();
    let daemon = Daemon::start_without_migrating(database.url()).await;
    let client = connect(database.url()).await;
    let look = async || {
        let ended =
            musterd(&["--addr", &daemon.grpc_addr, "check", "--database-url", database.url(), "-o", "json"]).await;
        let json: Value = serde_json::from_str(&ended.stdout).unwrap();
        Checked { ended, findings: json["findings"].as_array().unwrap().clone() }
    };
    run(
        &client,
        "CREATE OR REPLACE FUNCTION expire_old_epoch_instances() RETURNS integer LANGUAGE sql VOLATILE AS 'SELECT 0'",
    )
    .await;
    let (level, found, fix) = look().await.trouble("schema").unwrap();
    assert!(level == "critical" && found.contains("function expire_old_epoch_instances() differs from"), "{found}");
    assert!(fix.contains("musterd migrate up"), "{fix}");

    run(&client, "DELETE FROM muster_migration WHERE version = 18").await;
    let (_, found, fix) = look().await.trouble("schema").unwrap();
    assert!(found.contains("migration 18 (protection) is pending") && fix == "apply it: musterd migrate up", "{found}");

    run(
        &client,
        "CREATE OR REPLACE FUNCTION muster_now() RETURNS timestamptz LANGUAGE sql VOLATILE
         AS $$ SELECT clock_timestamp() + interval '1 h' $$",
    )
    .await;
    names(&["--addr", &daemon.grpc_addr], "clock", "warning", "ahead of that of this machine", "NTP").await;
    let (_, found, fix) = look().await.trouble("db clock").unwrap();
    assert!(found.contains("the database clock is 1h ahead") || found.contains("59m"), "{found}");
    assert!(fix.contains("NTP"), "{fix}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_full_frozen_or_away_is_named() {
    let mut cluster = OwnCluster::create().await;
    let url = cluster.url().to_owned();
    let daemon = Daemon::start(&url).await;
    let look = async || {
        let words = ["--addr", &daemon.grpc_addr, "--timeout", "2s", "check", "--database-url", &url, "-o", "json"];
        let ended = musterd(&words).await;
        let json: Value = serde_json::from_str(&ended.stdout).unwrap();
        Checked { ended, findings: json["findings"].as_array().unwrap().clone() }
    };
    let well = look().await;
    assert_eq!(well.ended.code, Some(0), "a durable cluster has nothing wrong: {well:?}");

    let mut held = Vec::new();
    loop {
        match try_connect(&url).await {
            Ok(client) => held.push(client),
            Err(error) => {
                assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
                break;
            }
        }
    }
    let (level, _, fix) = look().await.trouble("connections").unwrap();
    assert!(level == "critical" && fix.contains("raise max_connections"), "{fix}");
    drop(held);

    let at = ["--addr", daemon.grpc_addr.as_str(), "--timeout", "2s"];
    wait_until("room again", BOUND, async || try_connect(&url).await.map_err(|error| error.to_string())).await;
    cluster.signal_all(Signal::SIGSTOP);
    names(&at, "beats_not_saved", "critical", "saving is ", "connections of PostgreSQL").await;
    names(&at, "database_away", "critical", "PostgreSQL has not answered for ", "Check PostgreSQL and the network")
        .await;
    cluster.signal_all(Signal::SIGCONT);
    wait_until("all is well again", BOUND, async || {
        let checked = check(&at).await;
        if checked.trouble("beats_not_saved").is_none() { Ok(()) } else { Err(checked.findings) }
    })
    .await;

    cluster.kill9();
    names(&at, "database_away", "critical", "PostgreSQL has not answered for ", "Check PostgreSQL and the network")
        .await;
    let (level, found, fix) = look().await.trouble("connect").unwrap();
    assert!(level == "critical" && found.contains("cannot reach postgresql"), "{found}");
    assert!(fix.contains("that the server is running"), "{fix}");
}
