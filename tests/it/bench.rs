//! `musterd bench` against a daemon: each question gets an answer, and nothing is left of it.

use std::{process::Stdio, time::Duration};

use musterd::proto::v1::{self, InstanceStatus};
use musterd_client::Status;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::{
    actor::{Caller, alive},
    daemon::{Daemon, program},
    postgres::TestDatabase,
    wait::wait_until,
};

/// How long a benchmark of a second may take on a loaded machine.
const BOUND: Duration = Duration::from_secs(90);

/// Runs a benchmark and returns its exit code and report.
async fn bench(daemon: &Daemon, flags: &[&str]) -> (Option<i32>, Value) {
    let mut command = tokio::process::Command::from(program());
    command.arg("bench").args(flags).args(["-o", "json", "--timeout", "20s", "--addr", &daemon.grpc_addr]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(BOUND, command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{flags:?}: {said}"));
    (output.status.code(), report)
}

/// Runs a benchmark that must succeed, and checks what all have in common.
async fn report(daemon: &Daemon, flags: &[&str]) -> Value {
    let (code, report) = bench(daemon, flags).await;
    assert_eq!((code, &report["errorCount"]), (Some(0), &Value::from(0)), "{report}");
    assert_eq!(report["bench"], flags[0], "{report}");
    assert!(report["calls"].as_u64().unwrap() > 0, "{report}");
    assert!(report["callsPerSecond"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(report["leftRegistered"], 0, "{report}");
    assert_eq!(live(daemon, report["prefix"].as_str().unwrap()).await, 0, "{report}");
    report
}

/// How many instances of a run are not dead.
async fn live(daemon: &Daemon, prefix: &str) -> usize {
    assert!(prefix.starts_with("bench-") && prefix.len() > 12, "{prefix}");
    live_of(daemon, prefix).await
}

async fn live_of(daemon: &Daemon, prefix: &str) -> usize {
    let request = v1::ListInstancesRequest { logical_id_prefix: prefix.to_owned(), ..Default::default() };
    daemon.discovery().await.list_instances(request).await.unwrap().into_inner().instances.len()
}

/// The quantiles are there and in order.
fn assert_latency(report: &Value, field: &str) {
    let at =
        |quantile: &str| report[field][quantile].as_u64().unwrap_or_else(|| panic!("{field}.{quantile}: {report}"));
    let quantiles = [at("p50"), at("p90"), at("p99"), at("p999"), at("max")];
    assert!(quantiles.is_sorted() && quantiles[0] > 0 && at("count") > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_call_is_measured_and_nothing_is_left_registered() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let small = ["--duration", "500ms", "--connections", "2", "--in-flight", "4"];
    let held = [&small[..], &["--instances", "50"]].concat();
    for (bench, flags) in [("register", &small[..]), ("beat", &held), ("resolve", &held), ("batch-resolve", &held)] {
        let report = report(&daemon, &[&[bench], flags].concat()).await;
        assert_latency(&report, "latencyUs");
    }
    let beats = report(&daemon, &[&["beat-stream", "--batch", "20"], &held[..]].concat()).await;
    assert_latency(&beats, "latencyUs");
    let (calls, renewed) = (beats["calls"].as_u64().unwrap(), beats["items"].as_u64().unwrap());
    assert!((calls * 5..=calls * 20).contains(&renewed), "{beats}");
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_makes_the_calls_that_are_due_and_a_count_ends_it() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let flags = ["resolve", "--instances", "10", "--rate", "200", "--count", "40", "--duration", "60s"];
    let resolved = report(&daemon, &flags).await;
    assert_eq!((&resolved["calls"], &resolved["notSent"]), (&Value::from(40), &Value::from(0)));
    assert!(resolved["seconds"].as_f64().unwrap() >= 0.1, "{resolved}");
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_watcher_sees_every_change_and_a_fleet_lives() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let watched = report(&daemon, &["watch", "--watchers", "20", "--rate", "20", "--count", "10"]).await;
    assert_latency(&watched, "eventUs");
    assert_eq!((&watched["items"], &watched["missingEvents"]), (&Value::from(200), &Value::from(0)));

    let flags = ["fleet", "--instances", "60", "--streams", "2", "--batch", "20", "--duration", "2s"];
    let fleet = report(&daemon, &[&flags[..], &["--ttl", "6s", "--interval", "500ms"]].concat()).await;
    assert_eq!((&fleet["deaths"], &fleet["brokenStreams"]), (&Value::from(0), &Value::from(0)), "{fleet}");
    assert!(fleet["items"].as_u64().unwrap() >= 60, "{fleet}");
    assert!(fleet["resolved"].as_u64().unwrap() > 0, "{fleet}");
    assert_latency(&fleet, "betweenBeatsUs");
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_serves_others_is_refused_unless_it_is_accepted() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let web = caller.register(alive("web", Duration::from_secs(300))).await.unwrap();
    let flags = ["bench", "register", "--count", "3", "--duration", "5s", "--addr", &daemon.grpc_addr];
    let refused = program().args(flags).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{said}");
    assert!(said.contains("serves others, `web` among them") && said.contains("--yes"), "{said}");
    report(&daemon, &["register", "--count", "3", "--duration", "5s", "--yes"]).await;
    assert_eq!(caller.instance(&web.instance_id).await.unwrap().status, Status::Alive);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_interrupted_or_fails_leaves_nothing_registered() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let flags = ["bench", "resolve", "--instances", "20", "--duration", "5m", "-o", "json", "--addr"];
        let mut child = tokio::process::Command::from(program());
        child.args(flags).arg(&daemon.grpc_addr).stdout(Stdio::piped());
        let child = child.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        wait_until("the instances of the run", BOUND, async || match live_of(&daemon, "bench-").await {
            20 => Ok(()),
            live => Err(live),
        })
        .await;
        kill(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), signal).unwrap();
        let ended = tokio::time::timeout(BOUND, child.wait_with_output()).await.unwrap().unwrap();
        let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!((&report["leftRegistered"], live_of(&daemon, "bench-").await), (&Value::from(0), 0), "{signal}");
    }
    // The other daemon is not there: the run fails before its load.
    let flags = ["bench", "propagate", "--other-addr", "127.0.0.1:1", "--addr", &daemon.grpc_addr];
    assert_eq!(program().args(flags).output().unwrap().status.code(), Some(3));
    assert_eq!(live_of(&daemon, "bench-").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_followed_to_the_other_daemon() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let other = Daemon::start(database.url()).await;
    let flags = ["propagate", "--other-addr", &other.grpc_addr, "--count", "5", "--duration", "30s"];
    let propagated = report(&daemon, &flags).await;
    assert_eq!(propagated["calls"], 5);
    assert_latency(&propagated, "fromCallUs");
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_fleet_stays_and_a_fleet_without_beats_expires() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let (code, kept) = bench(&daemon, &["beat", "--instances", "7", "--count", "5", "--keep"]).await;
    assert_eq!((code, &kept["leftRegistered"]), (Some(0), &Value::from(7)), "{kept}");
    let prefix = kept["prefix"].as_str().unwrap();
    assert_eq!(live(&daemon, prefix).await, 7);

    // Other runs call about them, register none, and leave them alone.
    for kind in ["beat", "resolve", "batch-resolve", "beat-stream"] {
        let flags = [kind, "--registered", "--prefix", prefix, "--instances", "7", "--count", "5"];
        let (code, report) = bench(&daemon, &flags).await;
        assert_eq!(
            (code, &report["errorCount"], &report["leftRegistered"]),
            (Some(0), &0.into(), &0.into()),
            "{report}"
        );
        assert_eq!((&report["instances"], &report["prefix"]), (&7.into(), &prefix.into()), "{report}");
    }
    assert_eq!(live(&daemon, prefix).await, 7);
    let more = ["resolve", "--registered", "--prefix", prefix, "--instances", "8"];
    let refused = program().arg("bench").args(more).args(["--addr", &daemon.grpc_addr]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&format!("{prefix}-7 has no live instance")), "{said}");

    // A client that breaks its side of the promise sees that deaths are found.
    // Most of the fleet is silent at once then, and the brake would protect it.
    let client = crate::harness::postgres::connect(database.url()).await;
    crate::harness::registry::run(&client, "SELECT muster_release_expiry(60000)").await;
    let flags = ["fleet", "--instances", "5", "--streams", "1", "--ttl", "2s", "--interval", "1h", "--duration", "6s"];
    let (code, fleet) = bench(&daemon, &flags).await;
    assert_eq!((code, &fleet["deaths"]), (Some(1), &Value::from(5)), "{fleet}");
    assert_eq!(fleet["deathReasons"]["STALE"], 5, "{fleet}");
    let request = v1::ListInstancesRequest {
        logical_id_prefix: fleet["prefix"].as_str().unwrap().to_owned(),
        statuses: vec![InstanceStatus::Dead.into()],
        ..Default::default()
    };
    assert_eq!(daemon.discovery().await.list_instances(request).await.unwrap().into_inner().instances.len(), 5);
    assert!(daemon.terminate().await.success());
}
