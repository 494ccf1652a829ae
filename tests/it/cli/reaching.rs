//! Which daemon a command asks: one that comes later, and one of several.

use std::{net::TcpListener, process::Stdio, time::Duration};

use super::{BOUND, Ended, musterd};
use crate::harness::{
    actor::{Caller, alive},
    daemon::{Daemon, program},
    postgres::TestDatabase,
    wait::wait_until,
};

/// Where nothing listens.
const DEAD: &str = "127.0.0.1:1";

/// Starts a command that waits as it does by itself.
fn patient(arguments: &[&str]) -> tokio::process::Child {
    let mut command = tokio::process::Command::from(program());
    command.env_remove("MUSTERD_WAIT").args(arguments).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn ended(child: tokio::process::Child) -> Ended {
    tokio::time::timeout(BOUND, child.wait_with_output()).await.unwrap().unwrap().into()
}

/// A port that is free now; the system gives it to no other process so soon.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_a_loopback_daemon_that_starts_later() {
    let database = TestDatabase::create().await;
    let addr = free();
    // With time enough for a loaded machine; that the default also waits is seen below.
    let commands: [&[&str]; 5] =
        [&["epoch", "show"], &["list"], &["status"], &["watch", "--until-synced"], &["wait", "web", "--for", "gone"]];
    let all =
        commands.map(|command| patient(&[command, &["--addr", &addr, "--wait", "50s", "--timeout", "50s"]].concat()));
    let daemon = Daemon::start_with(&["--database-url", database.url(), "--grpc-addr", &addr]).await;
    for (command, child) in commands.iter().zip(all) {
        let ended = ended(child).await;
        assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
    }
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_loopback_address_is_retried_for_seconds_and_reported() {
    let ended = ended(patient(&["list", "--addr", DEAD, "--timeout", "30s"])).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.starts_with("musterd: waiting up to 5s for a daemon at http://127.0.0.1:1\n"), "{ended:?}");
    let ended = musterd(&["list", "--addr", DEAD, "--wait", "0s"]).await;
    assert!(ended.complaint().starts_with("cannot reach the registry at http://127.0.0.1:1: "), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_addresses_goes_on_to_the_next_daemon() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    Caller::of(&daemon).register(alive("web", Duration::from_secs(300))).await.unwrap();
    let list = format!("{DEAD},{}", daemon.grpc_addr);
    for command in [
        &["resolve", "web"][..],
        &["list"],
        &["status"],
        &["epoch", "show"],
        &["describe", "web"],
        &["explain", "web"],
        &["wait", "web"],
        &["watch", "--until-synced"],
        &["hold"],
        &["release"],
        &["run", "--logical-id", "job", "--", "true"],
    ] {
        let ended = musterd(&[&["--addr", &list], command].concat()).await;
        assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
    }
    let status = musterd(&["--addr", &list, "status"]).await;
    assert!(status.stdout.starts_with(&format!("The registry at http://{} ", daemon.grpc_addr)), "{status:?}");
    let check = musterd(&["--addr", &list, "check"]).await;
    assert_eq!(check.code, Some(0), "one of two is enough: {check:?}");
    assert!(check.stdout.starts_with("warning   address"), "{check:?}");
    assert!(check.stdout.contains(&format!("http://{} answers GetCluster", daemon.grpc_addr)), "{check:?}");

    let none = musterd(&["--addr", "127.0.0.1:1,127.0.0.1:2", "list"]).await;
    assert_eq!(none.code, Some(3));
    assert!(none.complaint().starts_with("cannot reach the registry at http://127.0.0.1:1, http://127.0.0.1:2: "));
    let none = musterd(&["--addr", "127.0.0.1:1,127.0.0.1:2", "check"]).await;
    assert_eq!((none.code, none.stdout.matches("critical  address").count()), (Some(1), 2), "{none:?}");
    let hole = musterd(&["--addr", "127.0.0.1:1,,b", "list"]).await;
    assert_eq!(hole.code, Some(2), "{hole:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_of_run_survives_the_end_of_its_daemon() {
    let database = TestDatabase::create().await;
    let (first, second) = (Daemon::start(database.url()).await, Daemon::start(database.url()).await);
    let list = format!("{},{}", first.grpc_addr, second.grpc_addr);
    let run = ["run", "--logical-id", "job", "--ttl", "2s", "--addr", &list, "--", "sleep", "60"];
    let mut child = patient(&run);
    let seen = musterd(&["wait", "job", "--addr", &first.grpc_addr, "--timeout", "30s", "-o", "json"]).await.json();
    let lease = seen["instances"][0]["leaseId"].as_str().unwrap().to_owned();
    let last_beat = async || {
        let checked = musterd(&["check-lease", &lease, "--addr", &second.grpc_addr, "-o", "json"]).await;
        assert_eq!(checked.code, Some(0), "the lease must not end: {checked:?}");
        let text = checked.json()["instance"]["lastBeat"].as_str().unwrap().to_owned();
        chrono::DateTime::parse_from_rfc3339(&text).unwrap()
    };
    let before = last_beat().await;
    first.kill9();
    wait_until("beats for twice the TTL at the second daemon", BOUND, async || match last_beat().await {
        now if now - before > chrono::TimeDelta::seconds(4) => Ok(()),
        now => Err(now),
    })
    .await;
    child.start_kill().unwrap();
    child.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_run_is_registered_where_its_connection_comes_from() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let registered = async |flags: &[&str]| {
        let run = [&["run", "--logical-id", "job", "--port", "8000", "--addr", &daemon.grpc_addr], flags].concat();
        let run = [&run[..], &["--", env!("CARGO_BIN_EXE_musterd"), "list", "-o", "json"]].concat();
        let mut command = tokio::process::Command::from(program());
        command.env("MUSTERD_ADDR", &daemon.grpc_addr).args(run).kill_on_drop(true);
        let ended = Ended::from(tokio::time::timeout(BOUND, command.output()).await.unwrap().unwrap());
        (ended.json()["instances"][0]["ipAddress"].as_str().unwrap().to_owned(), ended.stderr)
    };
    let (ip, said) = registered(&[]).await;
    assert_eq!(ip, "127.0.0.1");
    assert!(
        said.starts_with("musterd: registering job at 127.0.0.1:8000, which only this machine can reach;"),
        "{said}"
    );
    assert_eq!(registered(&["--ip", "none"]).await, (String::new(), String::new()));
    assert_eq!(registered(&["--ip", "10.0.0.7"]).await, ("10.0.0.7".to_owned(), String::new()));
}
