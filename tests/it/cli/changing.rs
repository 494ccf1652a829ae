//! Commands that speak in an owner's name (`drain`, `undrain`, `deregister`), `wait` for what comes of it, and `--watch`.

use std::{process::Stdio, time::Duration};

use musterd::proto::v1;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    task::JoinHandle,
    time::timeout,
};

use super::{Ended, musterd};
use crate::harness::{
    actor::{Caller, alive},
    daemon::{Daemon, program},
    postgres::TestDatabase,
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(30);
const UNKNOWN: &str = "6f1e7a52-3c1b-4c57-9e0e-2b8a4a7d9c10";

async fn scene(database: &TestDatabase) -> (Daemon, Caller) {
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    (daemon, caller)
}

async fn register(caller: &Caller, name: &str) -> v1::RegisterResponse {
    caller.register(alive(name, Duration::from_secs(300))).await.unwrap()
}

async fn ask(daemon: &Daemon, arguments: &[&str]) -> Ended {
    musterd(&[&["--addr", &daemon.grpc_addr], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_instance_is_not_resolved_and_an_undrained_one_is() {
    let database = TestDatabase::create().await;
    let (daemon, caller) = scene(&database).await;
    let (one, other) = (register(&caller, "web").await.instance_id, register(&caller, "web").await.instance_id);
    let drained = ask(&daemon, &["drain", &one, &other]).await;
    assert_eq!((drained.code, drained.stderr.as_str()), (Some(0), ""), "{drained:?}");
    let rows: Vec<Vec<&str>> =
        drained.stdout.lines().skip(1).map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(rows, [[one.as_str(), "draining"], [&other, "draining"]], "in the order they were given");
    assert_eq!(ask(&daemon, &["resolve", "web"]).await.code, Some(4));
    assert_eq!(ask(&daemon, &["undrain", &other, "-o", "name"]).await.stdout, format!("{other}\n"));
    assert_eq!(caller.best("web").await, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_several_has_its_own_result() {
    let database = TestDatabase::create().await;
    let (daemon, caller) = scene(&database).await;
    let lease = register(&caller, "web").await;
    let id = lease.instance_id.as_str();
    let mixed = ask(&daemon, &["deregister", id, UNKNOWN, "-o", "json"]).await;
    assert_eq!(mixed.code, Some(4), "{mixed:?}");
    assert!(mixed.complaint().starts_with(UNKNOWN) && mixed.complaint().ends_with("(UNKNOWN_INSTANCE)"), "{mixed:?}");
    let results: Value = serde_json::from_str(&mixed.stdout).unwrap();
    assert_eq!(results["results"][0]["leaseId"], lease.lease_id.to_string());
    assert_eq!((&results["results"][0]["error"], &results["results"][0]["alreadyDead"]), (&Value::Null, &false.into()));
    assert_eq!(results["results"][1]["error"]["reason"], "UNKNOWN_INSTANCE");

    let again = ask(&daemon, &["deregister", id]).await;
    assert!(again.code == Some(0) && again.stdout.contains("dead before"), "{again:?}");
    let dead = ask(&daemon, &["drain", id]).await;
    assert_eq!((dead.code, dead.stdout.as_str()), (Some(5), ""), "{dead:?}");
    assert!(dead.complaint().ends_with("(LEASE_EXPIRED)"), "{dead:?}");
    let both = ask(&daemon, &["undrain", id, UNKNOWN]).await;
    assert_eq!(both.code, Some(1), "two failures of different kinds: {both:?}");
    for bad in [&["drain"][..], &["drain", "web"]] {
        assert_eq!(ask(&daemon, bad).await.code, Some(2), "{bad:?}");
    }
}

/// Begins to wait; returns once the daemon has the watch.
async fn begin(daemon: &Daemon, goal: &str) -> JoinHandle<Ended> {
    const WATCHES: &str =
        "grpc_server_started_total{grpc_service=\"muster.v1.DiscoveryService\",grpc_method=\"Watch\"}";
    let before = daemon.metric(WATCHES).await.unwrap_or_default();
    let addr = daemon.grpc_addr.clone();
    let goal = goal.to_owned();
    let waiting = tokio::spawn(async move {
        musterd(&["--addr", &addr, "wait", "web", "--for", &goal, "--timeout", "60s", "-o", "name"]).await
    });
    wait_until("a watch", BOUND, async || match daemon.metric(WATCHES).await {
        Some(now) if now > before => Ok(()),
        other => Err(other),
    })
    .await;
    waiting
}

async fn end(waiting: JoinHandle<Ended>) -> Ended {
    timeout(BOUND, waiting).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_the_change_that_was_waited_for() {
    let database = TestDatabase::create().await;
    let (daemon, caller) = scene(&database).await;
    let two = begin(&daemon, "count=2").await;
    let first = register(&caller, "web").await.instance_id;
    assert!(!two.is_finished(), "one is not two");
    register(&caller, "web-admin").await;
    let second = register(&caller, "web").await.instance_id;
    let ended = end(two).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let mut ids: Vec<_> = ended.stdout.lines().collect();
    ids.sort_unstable();
    let mut expected = [first.as_str(), &second];
    expected.sort_unstable();
    assert_eq!(ids, expected);

    let gone = begin(&daemon, "gone").await;
    assert_eq!(ask(&daemon, &["drain", &first]).await.code, Some(0));
    assert_eq!(ask(&daemon, &["deregister", &second]).await.code, Some(0));
    assert!(!gone.is_finished(), "a draining instance is still there");
    caller.rotate("a new life").await.unwrap();
    let ended = end(gone).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "a rotation ends them all");
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_that_times_out_reports_the_counts() {
    let database = TestDatabase::create().await;
    let (daemon, caller) = scene(&database).await;
    let id = register(&caller, "web").await.instance_id;
    let vain = ask(&daemon, &["wait", "web", "--for", "count=3", "--timeout", "1s"]).await;
    assert_eq!((vain.code, vain.stdout.as_str()), (Some(1), ""));
    let expected = format!("`web` is not served by 3 after 1s: 1 alive, 0 starting, 0 draining ({id} alive)");
    assert_eq!(vain.complaint(), expected);
    let absent = ask(&daemon, &["wait", "absent", "--timeout", "1s"]).await;
    assert_eq!(absent.complaint(), "`absent` is not live after 1s: 0 alive, 0 starting, 0 draining");
    assert_eq!(ask(&daemon, &["wait", "absent", "--for", "gone"]).await.code, Some(0));
    assert_eq!(musterd(&["--addr", "127.0.0.1:1", "wait", "web"]).await.code, Some(3));
    let bad = ask(&daemon, &["wait", "web", "--for", "ready"]).await;
    assert!(bad.code == Some(2) && bad.stderr.contains("expected live, gone, or count=N"), "{bad:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_list_is_shown_again_and_survives_its_daemon() {
    let database = TestDatabase::create().await;
    let (daemon, caller) = scene(&database).await;
    let id = register(&caller, "web").await.instance_id;
    let mut command = tokio::process::Command::from(program());
    command.args(["--addr", &daemon.grpc_addr, "--timeout", "1s", "list", "--watch=100ms", "-o", "name"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    for _ in 0..3 {
        assert_eq!(timeout(BOUND, lines.next_line()).await.unwrap().unwrap().unwrap(), id);
    }
    daemon.kill9();
    let note = timeout(BOUND, notes.next_line()).await.unwrap().unwrap().unwrap();
    assert!(note.starts_with("musterd: ") && child.try_wait().unwrap().is_none(), "{note}");
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let status = timeout(BOUND, child.wait()).await.unwrap().unwrap();
    assert!(status.code().is_some(), "it ends by itself: {status}");
    let never = musterd(&["--addr", "127.0.0.1:1", "status", "--watch"]).await;
    assert_eq!(never.code, Some(3), "an address that was never right");
}
