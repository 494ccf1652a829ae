//! Three daemons over one database: any of them serves any call, all know of each other, and doing the same work three
//! times does no harm.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::harness::{
    actor::{Caller, alive},
    daemon::Daemon,
    postgres::BOUND,
    registry::{Registry, column, get, run},
    wait::wait_until,
};

const TTL: Duration = Duration::from_secs(300);

async fn three() -> (Registry, [Daemon; 3], [Caller; 3]) {
    let sql = Registry::head().await;
    let url = sql.database.url();
    let daemons = tokio::join!(Daemon::start(url), Daemon::start(url), Daemon::start(url));
    let daemons: [Daemon; 3] = daemons.into();
    let callers = [Caller::of(&daemons[0]), Caller::of(&daemons[1]), Caller::of(&daemons[2])];
    (sql, daemons, callers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_one_daemon_is_resolved_at_the_others() {
    let (_sql, _daemons, callers) = three().await;
    for (at, caller) in callers.iter().enumerate() {
        let asked_for = caller.register(alive(&format!("asked-{at}"), TTL)).await.unwrap();
        for other in &callers {
            let resolved = other.resolve_at(&format!("asked-{at}"), asked_for.revision).await.unwrap();
            assert_eq!(resolved.instance.instance_id.to_string(), asked_for.instance_id);
            assert!(resolved.revision >= asked_for.revision);
        }
        let unasked = caller.register(alive(&format!("unasked-{at}"), TTL)).await.unwrap();
        for other in &callers {
            wait_until("it arrives by itself", BOUND, async || match other.best(&format!("unasked-{at}")).await {
                best if best == unasked.instance_id => Ok(()),
                other => Err(other),
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_daemon_lists_all_of_them_with_what_they_saved_last_until_one_leaves() {
    let (_sql, daemons, callers) = three().await;
    let listed = async |caller: &Caller, count: usize| {
        wait_until("all daemons are listed and well", BOUND, async || {
            let daemons = caller.cluster().await?.daemons;
            let age = |daemon: &musterd_client::Daemon| daemon.last_flush_age.unwrap().as_secs();
            let fresh = daemons.len() == count && daemons.iter().all(|daemon| age(daemon) < 5);
            if fresh { Ok(daemons) } else { Err(format!("{daemons:?}")) }
        })
        .await
    };
    let mut addresses: Vec<_> = daemons.iter().map(|daemon| daemon.grpc_addr.clone()).collect();
    addresses.sort();
    for caller in &callers {
        let daemons = listed(caller, 3).await;
        let mut listed: Vec<_> = daemons.iter().map(|daemon| daemon.address.clone()).collect();
        listed.sort();
        assert_eq!(listed, addresses);
        assert!(daemons.iter().all(|daemon| daemon.version == env!("CARGO_PKG_VERSION")));
    }
    let [first, _second, _third] = daemons;
    assert!(first.terminate().await.success());
    listed(&callers[1], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_that_three_daemons_and_sql_callers_declare_at_once_are_each_declared_once() {
    let (sql, _daemons, callers) = three().await;
    let mut registered = JoinSet::new();
    for at in 0..60 {
        let caller = callers[at % 3].clone();
        registered.spawn(async move { caller.register(alive("organ", Duration::from_secs(300))).await.unwrap() });
    }
    assert_eq!(registered.join_all().await.len(), 60);
    run(&sql.client, "SELECT muster_release_expiry(600000)").await;
    let before: i64 = get(&sql.client, "SELECT revision FROM cluster_metadata").await;
    run(&sql.client, "UPDATE registry_instance SET last_heartbeat = last_heartbeat - interval '1 h'").await;
    let mut reapers = JoinSet::new();
    for _ in 0..6 {
        let client = sql.connect().await;
        reapers.spawn(async move { get::<i32>(&client, "SELECT expire_stale_instances()").await });
    }
    let by_sql: i32 = reapers.join_all().await.into_iter().sum();
    wait_until("all are dead", BOUND, async || {
        match get::<i64>(&sql.client, "SELECT count(*) FROM registry_instance WHERE status = 'dead'").await {
            60 => Ok(()),
            dead => Err(dead),
        }
    })
    .await;
    let sql_deaths = "SELECT count(*) FROM registry_instance WHERE death_decided_by = 'sql/musterd'";
    assert_eq!(get::<i64>(&sql.client, sql_deaths).await, i64::from(by_sql), "no death is counted twice");
    let revisions = column::<i64>(&sql.client, "SELECT revision FROM registry_instance ORDER BY revision").await;
    assert_eq!(revisions, (before + 1..=before + 60).collect::<Vec<_>>(), "none is written twice");
    for caller in &callers {
        wait_until("every daemon knows", BOUND, async || match caller.best("organ").await {
            reason if reason == "NO_LIVE_INSTANCE" => Ok(()),
            other => Err(other),
        })
        .await;
    }
}
