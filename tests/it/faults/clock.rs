//! Steps of the clock under running daemons: the database's goes forward, back, to and fro; a daemon's own stands still
//! for as long as it is stopped. No lease that beats expires by it, and each silent one does in the end.

use std::time::Duration;

use musterd_client::Status;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{proxy::Mode, world::database_link};
use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::Daemon,
    postgres::BOUND,
    registry::{Registry, get, id, run},
    wait::wait_until,
};

const TTL: Duration = Duration::from_secs(3);

/// The database clock shows this much more than it should.
async fn step(sql: &Registry, ahead: &str) {
    let replace = format!(
        "CREATE OR REPLACE FUNCTION muster_now() RETURNS timestamptz LANGUAGE sql VOLATILE
         AS $$ SELECT clock_timestamp() + interval '{ahead}' $$"
    );
    run(&sql.client, &replace).await;
}

/// So many more beats of every lease are accepted.
async fn go_on(actors: &[Actor], beats: u64) {
    let goals: Vec<_> = actors.iter().map(|actor| actor.told().accepted + beats).collect();
    for (actor, goal) in actors.iter().zip(goals) {
        actor.accepted(goal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stepped_database_clock_expires_no_lease_that_beats() {
    let sql = Registry::head().await;
    let url = sql.database.url();
    let flags = ["--database-url", url, "--no-migrate"];
    let daemons: [Daemon; 2] = tokio::join!(Daemon::start_as_asked(&flags), Daemon::start_as_asked(&flags)).into();
    let callers = [Caller::of(&daemons[0]), Caller::of(&daemons[1])];
    let mut actors = Vec::new();
    for number in 0..6 {
        let mut callers = callers.clone();
        callers.rotate_left(number % 2);
        actors.push(Actor::start(&callers, "kept", TTL).await);
    }
    let silent = callers[0].register(alive("silent", TTL)).await.unwrap();
    // To and fro faster than any reader polls; by less than a TTL and by far more; then back to the truth.
    for ahead in ["2 s", "-2 s", "1 h", "0", "-1 h", "1 day", "0", "5 s", "0", "5 s", "0", "5 s", "0", "-30 s"] {
        step(&sql, ahead).await;
        go_on(&actors, 1).await;
        assert_eq!(dead(&sql, "kept").await, 0, "{ahead}");
    }
    step(&sql, "0").await;
    let held = "SELECT hold_reason FROM cluster_metadata";
    wait_until("the steps were noticed", BOUND, async || match get::<Option<String>>(&sql.client, held).await {
        // A step of many seconds may look like the loss of a daemon first.
        Some(reason) if reason == "the database clock was stepped" || reason == "a daemon was lost" => Ok(()),
        other => Err(other),
    })
    .await;
    wait_until("the silent one is dead", BOUND * 2, async || {
        let instance = callers[1].instance(&silent.instance_id).await?;
        if instance.status == Status::Dead { Ok(()) } else { Err(format!("{instance:?}")) }
    })
    .await;
    go_on(&actors, 4).await;
    assert_eq!(dead(&sql, "kept").await, 0);
    assert!(actors.iter().all(|actor| actor.told().refused.is_empty()), "{:?}", actors[0].told());
}

async fn dead(sql: &Registry, logical_id: &str) -> i64 {
    let count = "SELECT count(*) FROM registry_instance WHERE status = 'dead' AND logical_id = ";
    get(&sql.client, &format!("{count}'{logical_id}'")).await
}

async fn reason_of_hold(sql: &Registry, expected: &str) {
    wait_until("the reason of the hold", BOUND, async || {
        let reason = get::<Option<String>>(&sql.client, "SELECT hold_reason FROM cluster_metadata").await;
        if reason.as_deref() == Some(expected) { Ok(()) } else { Err(reason) }
    })
    .await;
}

/// What a daemon logs that has found a request of its reaper late.
const LATE: &str = "the database was asked late";

/// Several tasks of the daemon wait for a lock, so that its pool has idle sessions afterwards.
async fn open_sessions(sql: &Registry, caller: &Caller) {
    let locker = sql.connect().await;
    // What the writer and the flusher need.
    run(&locker, "BEGIN; SELECT FROM cluster_metadata FOR UPDATE; SELECT FROM registry_instance FOR UPDATE").await;
    let registering = caller.register(alive("other", Duration::from_secs(300)));
    let waiting = wait_until("sessions that wait", BOUND, async || {
        let blocked = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name = 'musterd' AND wait_event_type = 'Lock'";
        match get::<i64>(&sql.client, blocked).await {
            2.. => {
                run(&locker, "COMMIT").await;
                Ok(())
            }
            few => Err(few),
        }
    });
    let (registered, ()) = tokio::join!(registering, waiting);
    // It may have waited for longer than a change may take.
    drop(registered);
}

/// The link to the database stands still for longer than any outage, while the reaper asks several times a second: a daemon
/// that saves nothing for others keeps an overdue lease alive. What the reaper has asked arrives late.
#[tokio::test(flavor = "multi_thread")]
async fn cut_link_to_postgresql_is_not_taken_for_a_stepped_clock() {
    let sql = Registry::head().await;
    let (url, link) = database_link(sql.database.url()).await;
    let daemon = Daemon::start_without_migrating(&url).await;
    let caller = Caller::of(&daemon);
    let mut actors = Vec::new();
    for _ in 0..4 {
        actors.push(Actor::start(std::slice::from_ref(&caller), "kept", TTL).await);
    }
    caller.register(alive("silent", Duration::from_secs(2))).await.unwrap();
    // Whether the request is on its way, or waits for a session, is a matter of the moment.
    for _ in 0..6 {
        if daemon.log().contains(LATE) {
            break;
        }
        run(&sql.client, "SELECT muster_release_expiry(1)").await;
        let other = format!(
            "DELETE FROM registry_daemon WHERE daemon_id = '{0}';
             INSERT INTO registry_daemon (daemon_id, address, version, started_at, last_flush, saved_up_to, host)
             VALUES ('{0}', 'elsewhere', '0.1.0', muster_now(),
                     muster_now() + interval '10 s', muster_now() - interval '1 h', '')",
            id(900)
        );
        run(&sql.client, &other).await;
        let looks = || daemon.log().matches("\"name\":\"reaper.stale\"").count();
        let looked = looks();
        wait_until("the reaper asks again and again", BOUND, async || match looks() - looked {
            4.. => Ok(()),
            few => Err(few),
        })
        .await;
        open_sessions(&sql, &caller).await;
        link.set(Mode::BlackHole { from_client: true, from_server: false });
        sleep(Duration::from_millis(4_500)).await;
        link.heal();
        reason_of_hold(&sql, "the database was away").await;
        go_on(&actors, 3).await;
        reason_of_hold(&sql, "the database was away").await;
    }
    assert_eq!(dead(&sql, "kept").await, 0);
    assert!(get::<bool>(&sql.client, "SELECT stepped_at IS NULL FROM cluster_metadata").await, "{}", daemon.log());
    assert!(daemon.log().contains(LATE), "no request was on its way when the link was cut: {}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_daemon_expires_no_lease_by_what_it_knew_before() {
    let sql = Registry::head().await;
    let url = sql.database.url();
    let flags = ["--database-url", url, "--no-migrate"];
    let daemons: [Daemon; 2] = tokio::join!(Daemon::start_as_asked(&flags), Daemon::start_as_asked(&flags)).into();
    let callers = [Caller::of(&daemons[1]), Caller::of(&daemons[0])];
    let mut actors = Vec::new();
    for _ in 0..4 {
        actors.push(Actor::start(&callers, "kept", TTL).await);
    }
    run(&sql.client, "SELECT muster_release_expiry(1)").await;
    for pause_ms in [1_500, 4_000, 17_000] {
        daemons[0].signal(Signal::SIGSTOP);
        sleep(Duration::from_millis(pause_ms)).await;
        daemons[0].signal(Signal::SIGCONT);
        go_on(&actors, 3).await;
        assert_eq!(dead(&sql, "kept").await, 0, "after {pause_ms} ms");
        if pause_ms > 3_000 {
            reason_of_hold(&sql, "a daemon was paused").await;
        }
    }
    wait_until("it is on the list again", BOUND, async || match callers[0].cluster().await?.daemons.len() {
        2 => Ok(()),
        count => Err(format!("{count} daemons")),
    })
    .await;
}
