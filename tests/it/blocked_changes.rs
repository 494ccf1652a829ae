//! A session that keeps the row which orders all changes: the daemon names it while changes wait, and no longer.

use std::time::Duration;

use musterd_client::{Problem, Severity, Status};
use tokio_postgres::Client;

use crate::harness::{
    actor::{Caller, alive},
    daemon::{DAEMON_BOUND, Daemon},
    postgres::connect,
    registry::{Registry, get, id, register, run},
    wait::wait_until,
};

/// Registers in vain until the problem is reported.
async fn reported(caller: &Caller) -> Problem {
    wait_until("changes_blocked", DAEMON_BOUND, async || {
        // What it answers depends on when its call meets the lock.
        let refused = caller.register(alive("organ", Duration::from_secs(60))).await;
        problem(caller).await.ok_or(refused)
    })
    .await
}

async fn problem(caller: &Caller) -> Option<Problem> {
    caller.cluster().await.unwrap().problems.into_iter().find(|problem| problem.code == "changes_blocked")
}

async fn gone(caller: &Caller) {
    wait_until("the end of changes_blocked", DAEMON_BOUND, async || problem(caller).await.map_or(Ok(()), Err)).await;
}

/// A session with this application name, and its pid.
async fn session(url: &str, application: &str) -> (Client, i32) {
    let client = connect(url).await;
    run(&client, &format!("SET application_name = '{application}'")).await;
    let pid = get(&client, "SELECT pg_backend_pid()").await;
    (client, pid)
}

async fn with_epoch() -> Registry {
    let registry = Registry::head().await;
    run(&registry.client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn open_transaction_that_blocks_changes_is_named_until_it_ends() {
    let registry = with_epoch().await;
    let url = registry.database.url();
    let daemon = Daemon::start(url).await;
    let caller = Caller::of(&daemon);
    let (client, pid) = session(url, "trainer").await;
    run(&client, &format!("BEGIN; {}", register(1, "sql", 100))).await;

    let told = reported(&caller).await;
    assert_eq!(told.severity, Severity::Critical);
    for part in [&format!("session {pid} "), "application trainer", "idle in transaction"] {
        assert!(told.summary.contains(part), "{part}: {told:?}");
    }
    assert!(told.action.contains(&format!("pg_terminate_backend({pid})")), "{told:?}");
    // While no change waits, the row is still held.
    let (_, summary) = daemon.http_get("/api/v1/summary").await.unwrap();
    assert!(summary.contains("changes_blocked") && summary.contains(&format!("session {pid} ")), "{summary}");

    run(&client, "ROLLBACK").await;
    gone(&caller).await;
    caller.register(alive("organ", Duration::from_secs(60))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_of_a_savepoint_or_a_beat_is_named_too() {
    let registry = with_epoch().await;
    let url = registry.database.url();
    let daemon = Daemon::start(url).await;
    let caller = Caller::of(&daemon);
    let (client, pid) = session(url, "trainer").await;
    run(&client, &format!("BEGIN; SAVEPOINT a; {}; RELEASE a", register(1, "sql", 100))).await;
    assert!(reported(&caller).await.summary.contains(&format!("session {pid} ")));
    run(&client, "COMMIT").await;
    gone(&caller).await;

    // The row of one instance, which a change waits for while it holds the cluster row.
    let lease = caller.register(alive("organ", Duration::from_secs(60))).await.unwrap();
    run(&client, &format!("BEGIN; SELECT beat('{}')", lease.instance_id)).await;
    let told = wait_until("changes_blocked", DAEMON_BOUND, async || {
        let refused = caller.set_status(&lease.instance_id, Status::Draining).await;
        problem(&caller).await.ok_or(refused)
    })
    .await;
    assert!(told.summary.contains(&format!("session {pid} ")), "{told:?}");
    run(&client, "ROLLBACK").await;
    gone(&caller).await;
}
