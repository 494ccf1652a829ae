//! Every surface tells the same problems: `GetCluster` by `musterd status`, `musterd check`, `/readyz` and `/api/v1`.

use std::{collections::BTreeSet, time::Duration};

use musterd::status::Code;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::musterd;
use crate::harness::{
    actor::{Caller, alive},
    daemon::{DAEMON_BOUND, Daemon},
    postgres::{OwnCluster, TestDatabase, connect},
    registry::{id, run},
    secured::Secured,
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(60);

/// Codes and severities.
type Told = BTreeSet<(String, String)>;

/// The elements of a list whose `key` is a code of a problem.
fn told(list: &Value, key: &str) -> Told {
    let problems = list.as_array().unwrap().iter().filter(|row| Code::ALL.iter().any(|code| row[key] == code.as_str()));
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    problems.map(|row| (text(row, key), text(row, "severity"))).collect()
}

/// What each surface tells, with the exit code of `status`.
async fn surfaces(daemon: &Daemon) -> ([Told; 4], Option<i32>) {
    let run = async |words: &[&str]| {
        let addr = ["--addr", daemon.grpc_addr.as_str(), "--timeout", "10s"];
        let ended = musterd(&[&addr[..], words, &["-o", "json"]].concat()).await;
        let json: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        (json, ended.code)
    };
    let ((status, code), (check, _)) = (run(&["status"]).await, run(&["check"]).await);
    let (_, readyz) = daemon.http_get("/readyz").await.unwrap();
    let marked = |line: &str| {
        let (mark, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
        Some((rest.trim_start().split(':').next()?.to_owned(), mark.to_owned()))
    };
    let lines = readyz.lines().filter_map(marked).filter(|(_, mark)| ["warning", "critical"].contains(&mark.as_str()));
    let (_, summary) = daemon.http_get("/api/v1/summary").await.unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let all = [
        told(&status["problems"], "code"),
        told(&check["findings"], "check"),
        lines.collect(),
        told(&summary["problems"], "code"),
    ];
    (all, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn status_page_and_api_tell_how_open_the_ports_are() {
    let database = TestDatabase::create().await;
    let open = Daemon::start(database.url()).await;
    let (_, summary) = open.http_get("/api/v1/summary").await.unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["ports"], json!({"grpc": "machine", "http": "machine", "summary": "open to this machine"}));
    let status = musterd(&["--addr", &open.grpc_addr, "status"]).await;
    assert!(status.stdout.contains("PORTS      open to this machine\n"), "{status:?}");

    let secured = Secured::enforced("", &[]).await;
    let status = secured.operator(&["status"]).await;
    assert!(status.stdout.contains("PORTS      secured (TLS, policy)\n"), "{status:?}");
}

/// Waits until every surface tells this problem, and all of them the same ones. `sql` is run before each look.
async fn agree(daemon: &Daemon, client: Option<&Client>, sql: &str, code: &str, severity: &str) {
    let expected = (code.to_owned(), severity.to_owned());
    wait_until(&format!("all tell of {code}"), BOUND, async || {
        if let Some(client) = client {
            run(client, sql).await;
        }
        let (all, exit_code) = surfaces(daemon).await;
        let critical = all[0].iter().any(|(_, severity)| severity == "critical");
        let agreed = all.iter().all(|told| *told == all[0] && told.contains(&expected));
        if agreed && exit_code == Some(i32::from(critical)) { Ok(()) } else { Err((all, exit_code)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_surfaces_agree_on_each_induced_problem() {
    let cluster = OwnCluster::create().await;
    musterd::migrate::up(cluster.url(), "test").await.unwrap();
    let daemon = Daemon::start_without_migrating(cluster.url()).await;
    let client = connect(cluster.url()).await;
    let caller = Caller::of(&daemon);
    for (name, ttl) in [("kept", 300), ("also", 300), ("third", 300), ("gone", 300), ("silent", 2)] {
        caller.register(alive(name, Duration::from_secs(ttl))).await.unwrap();
    }
    let database = Some(&client);
    let hold = "SELECT muster_hold_expiry('work on the network', 3000000)";
    agree(&daemon, database, hold, "hold", "warning").await;
    agree(&daemon, database, hold, "all_suspect", "warning").await;
    let gone = "SELECT instance_id::text FROM registry_instance WHERE logical_id = 'gone'";
    let gone: String = crate::harness::registry::get(&client, gone).await;
    let addr = ["--addr", daemon.grpc_addr.as_str(), "expire", gone.as_str()];
    assert_eq!(musterd(&addr).await.code, Some(0));
    agree(&daemon, database, "", "unserved", "warning").await;
    let beside = |age: u32| {
        format!(
            "INSERT INTO registry_daemon (daemon_id, address, version, started_at, last_flush) \
             VALUES ('{}', '10.9.9.9:7717', '9.9.9', now(), now()) ON CONFLICT DO NOTHING; \
             UPDATE registry_daemon SET last_flush = now() - interval '{age} s' WHERE version = '9.9.9'",
            id(900)
        )
    };
    agree(&daemon, database, &beside(0), "versions_differ", "warning").await;
    agree(&daemon, database, &beside(8), "daemon_silent", "critical").await;
    agree(&daemon, database, "", "daemon_lost", "warning").await;
    for (mode, severity) in [("protect", "critical"), ("pace", "warning")] {
        let brake = format!(
            "UPDATE cluster_metadata SET hold_until = NULL, brake = '{mode}', brake_since = now(), \
             brake_overdue = 51, brake_live = 100"
        );
        agree(&daemon, database, &brake, &format!("brake_{mode}"), severity).await;
    }
    agree_on_faults_of_the_daemon(&cluster, &daemon, &client, &beside(0)).await;
}

/// It cannot enter the list of daemons, its reaper fails, PostgreSQL stands still.
async fn agree_on_faults_of_the_daemon(cluster: &OwnCluster, daemon: &Daemon, client: &Client, beside: &str) {
    // Once it is deleted it cannot enter again.
    let keep_out = "CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER keep_out BEFORE INSERT ON registry_daemon FOR EACH ROW EXECUTE FUNCTION keep_out()";
    run(client, &format!("SELECT muster_hold_expiry('work', 3000000); {beside}; {keep_out}")).await;
    let unlisted = "DELETE FROM registry_daemon WHERE version <> '9.9.9'; \
        UPDATE registry_daemon SET last_flush = now()";
    agree(daemon, Some(client), unlisted, "daemon_unlisted", "critical").await;
    run(client, "DROP TRIGGER keep_out ON registry_daemon").await;
    let broken = "CREATE OR REPLACE FUNCTION muster_notice_disruption(
            p_now timestamptz, p_expected_now timestamptz, p_tolerance_ms bigint
        ) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken by the test'; END $$";
    run(client, broken).await;
    agree(daemon, Some(client), "", "reaper_failing", "critical").await;
    let reaper = daemon.metric("musterd_reaper_consecutive_failures{reaper=\"stale\"}").await;
    assert!(reaper.is_some_and(|failures| failures >= 3.0), "{reaper:?}");
    cluster.signal_all(Signal::SIGSTOP);
    agree(daemon, None, "", "beats_not_saved", "critical").await;
    agree(daemon, None, "", "database_away", "critical").await;
    let (status, text) = daemon.http_get("/readyz").await.unwrap();
    assert_eq!(status, 200, "lookups go on: {text}");
    for line in ["[degraded] database: away for ", "[degraded] flush: saving is ", "[degraded] expiry: unknown"] {
        assert!(text.lines().any(|it| it.starts_with(line)), "{line} in {text}");
    }
    cluster.signal_all(Signal::SIGCONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_unserved_is_critical_and_a_name_that_left_is_not_unserved() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let granted = caller.register(alive("left", Duration::from_secs(300))).await.unwrap();
    caller.deregister(&granted.instance_id).await.unwrap();
    let client = connect(database.url()).await;
    run(&client, "SELECT muster_release_expiry(300000)").await;
    wait_until("the name has left, everywhere", DAEMON_BOUND, async || {
        let cluster = caller.cluster().await.unwrap();
        let counts = cluster.counts;
        let metric = daemon.metric("musterd_logical_ids{served=\"false\"}").await;
        let seen = (counts.logical_ids_unserved, counts.logical_ids_left, metric, cluster.problems);
        if (seen.0, seen.1, seen.2) == (0, 1, Some(0.0)) && seen.3.is_empty() { Ok(()) } else { Err(seen) }
    })
    .await;
    caller.register(alive("gone", Duration::from_secs(2))).await.unwrap();
    agree(&daemon, None, "", "unserved", "critical").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_daemon_is_reported_after_a_restart_until_its_address_is_served() {
    let database = TestDatabase::create().await;
    let (first, second) = (Daemon::start(database.url()).await, Daemon::start(database.url()).await);
    let lost = second.grpc_addr.clone();
    second.kill9();
    agree(&first, None, "", "daemon_lost", "warning").await;
    first.kill9();
    let again = Daemon::start(database.url()).await;
    agree(&again, None, "", "daemon_lost", "warning").await;
    let status = musterd(&["--addr", &again.grpc_addr, "status"]).await;
    assert!(status.stdout.contains(&format!("{lost} (lost ")), "{status:?}");
    let back = Daemon::start_with(&["--database-url", database.url(), "--grpc-addr", &lost]).await;
    wait_until("the loss is forgotten", DAEMON_BOUND, async || {
        let (all, _) = surfaces(&again).await;
        let told = all.iter().flatten().any(|(code, _)| code == "daemon_lost");
        let (_, page) = again.http_get("/api/v1/summary").await.unwrap();
        // The first daemon, which was killed as well, may be reported; this one is not.
        if told && page.contains(&format!("{lost} was lost")) || page.contains(&format!("at {lost} was lost")) {
            Err(all)
        } else {
            Ok(())
        }
    })
    .await;
    drop(back);
}
