//! Hooks as daemons run them: what is broken delays nothing else, is told, and is made up for.

use std::time::Duration;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    registry::{get, run},
    wait::wait_until,
};

use super::{BOUND, define, failure, held, hook, registry, unreleased};

/// Registers an instance that holds a row, and takes it off through a daemon.
async fn die(client: &tokio_postgres::Client, caller: &Caller) {
    let registered = caller.register(alive("organ", Duration::from_secs(300))).await.unwrap();
    run(client, &format!("INSERT INTO held VALUES ({})", registered.lease_id)).await;
    caller.deregister(&registered.instance_id).await.unwrap();
}

async fn freed(client: &tokio_postgres::Client, daemon: &Daemon) {
    wait_until("everything is freed", BOUND, async || match (held(client).await, unreleased(client).await) {
        (0, 0) => Ok(()),
        left => Err((left, failure(client).await, daemon.log())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_hook_is_reported_delays_nothing_and_is_retried() {
    let registry = registry().await;
    let client = &registry.client;
    let daemon = Daemon::start(registry.database.url()).await;
    let caller = Caller::of(&daemon);
    // A hook that is set while the daemon runs is found.
    hook(client, "free_rows", "").await;
    die(client, &caller).await;
    freed(client, &daemon).await;

    for broken in ["PERFORM 1 / 0;", "PERFORM pg_sleep(600);"] {
        define(client, "free_rows", broken).await;
        // Deaths and registrations go through, one after the other, while it fails or runs.
        for _ in 0..3 {
            die(client, &caller).await;
        }
        wait_until("the metric tells", BOUND, async || match daemon.metric("musterd_deaths_unreleased").await {
            Some(3.0) => Ok(()),
            other => Err((other, daemon.log())),
        })
        .await;
        wait_until("the problem names the hook", BOUND, async || {
            let problems = caller.cluster().await?.problems;
            let told = problems.iter().find(|problem| problem.code == "deaths_unreleased");
            told.filter(|problem| problem.summary.contains("hook free_rows: ")).map(drop).ok_or(format!("{problems:?}"))
        })
        .await;
        assert!(daemon.metric("musterd_hook_failures_total").await > Some(0.0));
        define(client, "free_rows", "").await;
        freed(client, &daemon).await;
        wait_until("it is over", BOUND, async || {
            let problems = caller.cluster().await?.problems;
            if problems.is_empty() { Ok(()) } else { Err(format!("{problems:?}")) }
        })
        .await;
    }
    assert_eq!(get::<i64>(client, "SELECT sum(freed)::bigint FROM registry_death").await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn death_outlives_the_daemons_that_were_killed_before_its_release() {
    let registry = registry().await;
    let client = &registry.client;
    let url = registry.database.url();
    hook(client, "free_rows", "PERFORM pg_sleep(600);").await;
    let (first, second) = tokio::join!(Daemon::start(url), Daemon::start(url));
    die(client, &Caller::of(&first)).await;
    wait_until("the hook runs", BOUND, async || {
        let running =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
        if get::<i64>(client, running).await > 0 { Ok(()) } else { Err(first.log()) }
    })
    .await;
    first.kill9();
    second.kill9();
    assert_eq!((held(client).await, unreleased(client).await), (1, 1));
    define(client, "free_rows", "").await;
    let third = Daemon::start(url).await;
    freed(client, &third).await;
    assert_eq!(get::<i64>(client, "SELECT sum(freed)::bigint FROM registry_death").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_runs_a_hook_of_mode_commit_with_the_death() {
    let registry = registry().await;
    let client = &registry.client;
    let daemon = Daemon::start(registry.database.url()).await;
    let caller = Caller::of(&daemon);
    hook(client, "free_rows", "").await;
    run(client, "SELECT muster_hook_set('free_rows', 'public.free_rows', 'commit')").await;
    // The daemon learns of it with the first death.
    die(client, &caller).await;
    freed(client, &daemon).await;
    let silent = caller.register(alive("organ", Duration::from_secs(2))).await.unwrap();
    run(client, &format!("INSERT INTO held VALUES ({})", silent.lease_id)).await;
    freed(client, &daemon).await;
    let same = format!(
        "SELECT death.xmin = instance.xmin FROM registry_death AS death JOIN registry_instance AS instance USING (lease_id)
         WHERE lease_id = {}",
        silent.lease_id
    );
    assert!(get::<bool>(client, &same).await, "the transaction of the death has marked its release");
}
