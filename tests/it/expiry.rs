//! Deaths without a request, as daemons and their callers see them: stale leases, old epochs, the hold, the purge.
//!
//! Time is real here, and TTLs are short. Whatever has to happen is waited for with a bound; what must not happen is
//! looked for once something that comes later has happened.

use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, future::join_all, stream};
use musterd::proto::v1;
use musterd_client::{DeathReason, Filter, Instance, Status};

use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::{DAEMON_BOUND, Daemon},
    postgres::{TestDatabase, connect},
    registry::{column, get, run},
    wait::wait_until,
};

/// Within this a death or a change must show; many times what is promised, for machines under load.
const BOUND: Duration = Duration::from_secs(20);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Waits until an instance is dead in a daemon's answers.
async fn dead(caller: &Caller, instance_id: &str) -> Instance {
    wait_until("the instance is dead", BOUND, async || {
        let instance = caller.instance(instance_id).await?;
        if instance.status == Status::Dead { Ok(instance) } else { Err(format!("{instance:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_instance_is_suspect_ranks_last_and_dies_on_every_daemon() {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let callers = [Caller::of(&first), Caller::of(&second)];
    let [here, there] = &callers;
    let best = Actor::start(&callers[..1], "organ", seconds(4)).await;
    let other = Actor::start(&callers[..1], "organ", seconds(4)).await;
    assert_eq!(here.best("organ").await, best.id(), "the longest serving");
    wait_until("a beat", BOUND, async || if best.told().accepted > 0 { Ok(()) } else { Err("none") }).await;

    let silent = best.fall_silent().await;
    wait_until("another one is resolved", BOUND, async || match here.best("organ").await {
        best if best == silent.instance_id => Err(best),
        best => Ok(best),
    })
    .await;
    let suspect = here.instance(&silent.instance_id).await.unwrap();
    assert!(suspect.suspect && suspect.status == Status::Alive, "{suspect:?}");
    let resolved = here.resolve("organ").await.unwrap();
    assert_eq!((resolved.instance.instance_id.to_string().as_str(), resolved.alternatives), (other.id(), 1));

    let (dead_here, dead_there) = (dead(here, &silent.instance_id).await, dead(there, &silent.instance_id).await);
    let death = dead_here.death.clone().unwrap();
    assert_eq!(dead_there.death.unwrap(), death, "every daemon tells the same");
    assert_eq!(death.reason, DeathReason::Stale);
    let deciders = [&first.grpc_addr, &second.grpc_addr];
    assert!(deciders.iter().any(|address| death.decided_by.starts_with(address.as_str())), "{}", death.decided_by);
    let client = connect(database.url()).await;
    let sql = "SELECT death_deadline = last_heartbeat + interval '4 s' AND stopped_at > death_deadline
               FROM registry_instance WHERE status = 'dead'";
    assert_eq!(column::<bool>(&client, sql).await, [true], "one death, at its deadline and not before");
    let deadline: i64 =
        get(&client, "SELECT extract(epoch FROM max(death_deadline))::bigint FROM registry_instance").await;
    let told = death.deadline.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(told.abs_diff(deadline.try_into().unwrap()) <= 1, "{deadline}");
    assert_eq!(here.beat(silent.lease_id).await.unwrap_err(), "LEASE_EXPIRED");
    assert_eq!(there.beat(silent.lease_id).await.unwrap_err(), "LEASE_EXPIRED");
    assert_eq!((there.best("organ").await.as_str(), other.told().refused), (other.id(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn beating_lease_lives_while_silent_ones_die_by_their_own_ttl() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    // More that beat than that are silent at any time: fewer would be protected.
    let callers = [caller.clone()];
    let _others = join_all((0..4).map(|_| Actor::start(&callers, "other", seconds(2)))).await;
    let actor = Actor::start(std::slice::from_ref(&caller), "beating", seconds(2)).await;
    let mut silent = Vec::new();
    for ttl in [300, 4, 2] {
        silent.push(caller.register(alive("silent", seconds(ttl))).await.unwrap().instance_id);
    }
    dead(&caller, &silent[2]).await;
    assert_eq!(caller.instance(&silent[1]).await.unwrap().status, Status::Alive, "the longer TTL");
    dead(&caller, &silent[1]).await;
    wait_until("15 beats, which are five TTLs", BOUND, async || match actor.told() {
        told if told.accepted >= 15 || !told.refused.is_empty() => Ok(()),
        told => Err(told),
    })
    .await;

    assert_eq!(actor.told().refused, Vec::<String>::new());
    let lives = caller.instance(actor.id()).await.unwrap();
    assert!(lives.status == Status::Alive && !lives.suspect, "{lives:?}");
    assert_eq!(caller.best("silent").await, silent[0]);
    let client = connect(database.url()).await;
    let sql = "SELECT ttl_ms FROM registry_instance WHERE death_deadline = last_heartbeat + ttl_ms * interval '1 ms'
               AND stopped_at > death_deadline ORDER BY stopped_at";
    assert_eq!(column::<i32>(&client, sql).await, [2_000, 4_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_lease_expires_in_time_while_the_reaper_sleeps_longer() {
    // Without a live instance the reaper runs every 30 s, which is longer than the bound.
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    for _ in 0..5 {
        let lease = caller.register(alive("short", seconds(2))).await.unwrap();
        dead(&caller, &lease.instance_id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_ends_all_at_once_and_is_written_down_in_batches() {
    const COUNT: u64 = 1_200;
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let (here, there) = (Caller::of(&first), Caller::of(&second));
    let registrations = stream::iter(0..COUNT).map(|_| here.register(alive("organ", seconds(300))));
    let leases: Vec<_> = registrations.buffer_unordered(64).map(Result::unwrap).collect().await;
    let last = leases.iter().map(|lease| lease.revision).max().unwrap();
    assert_eq!(u64::from(there.resolve_at("organ", last).await.unwrap().alternatives), COUNT - 1);

    let rotated = here.rotate("a test").await.unwrap();
    for caller in [&here, &there] {
        assert_eq!(caller.resolve_at("organ", rotated.revision).await.unwrap_err(), "NO_LIVE_INSTANCE");
        let instance = caller.instance(&leases[0].instance_id).await.unwrap();
        assert_eq!(instance.status, Status::Dead);
        assert_eq!(instance.death.unwrap().reason, DeathReason::OldEpoch);
        assert_eq!(caller.list(Filter::all()).await.unwrap().len(), 0, "none is live");
        let counts = caller.cluster().await.unwrap().counts;
        assert_eq!((counts.alive, counts.dead, counts.logical_ids_live), (0, COUNT, 0));
        assert_eq!(caller.beat(leases[7].lease_id).await.unwrap_err(), "EPOCH_FENCED");
        let cluster_epoch = rotated.previous_epoch.unwrap().to_string();
        let old = v1::RegisterRequest { cluster_epoch, ..alive("organ", seconds(9)) };
        assert_eq!(caller.register(old).await.unwrap_err(), "EPOCH_FENCED");
    }

    let client = connect(database.url()).await;
    wait_until("all deaths are written down", BOUND, async || {
        match get::<i64>(&client, "SELECT count(*) FROM registry_instance WHERE status <> 'dead'").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let sql = "SELECT count(*) FROM registry_instance WHERE death_reason = 'old_epoch' AND death_decided_by IS NOT NULL
               AND death_deadline IS NOT NULL AND stopped_at IS NOT NULL";
    assert_eq!(u64::try_from(get::<i64>(&client, sql).await).unwrap(), COUNT);
    let batches = column::<i64>(&client, "SELECT count(*) FROM registry_instance GROUP BY xmin").await;
    assert!(batches.len() >= 3 && batches.iter().all(|count| *count <= 500), "{batches:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn purged_instance_leaves_the_view_of_every_daemon() {
    let database = TestDatabase::create().await;
    let first = Daemon::start(database.url()).await;
    let here = Caller::of(&first);
    let mut leases = Vec::new();
    for name in ["old", "old", "recent", "living"] {
        leases.push(here.register(alive(name, seconds(300))).await.unwrap());
    }
    for lease in &leases[..3] {
        here.deregister(&lease.instance_id).await.unwrap();
    }
    let client = connect(database.url()).await;
    run(&client, "UPDATE registry_instance SET stopped_at = now() - interval '25 h' WHERE logical_id = 'old'").await;
    // A daemon purges at its start, and once a minute.
    let second = Daemon::start(database.url()).await;
    for caller in [&here, &Caller::of(&second)] {
        for lease in &leases[..2] {
            wait_until("a purged instance is gone", BOUND, async || match caller.instance(&lease.instance_id).await {
                Err(reason) if reason == "UNKNOWN_INSTANCE" => Ok(()),
                other => Err(other),
            })
            .await;
            assert_eq!(caller.beat(lease.lease_id).await.unwrap_err(), "UNKNOWN_LEASE");
        }
        assert_eq!(caller.best("old").await, "UNKNOWN_LOGICAL_ID");
        assert_eq!(caller.best("recent").await, "NO_LIVE_INSTANCE");
        assert_eq!(caller.best("living").await, leases[3].instance_id);
        let counts = caller.cluster().await.unwrap().counts;
        assert_eq!((counts.alive, counts.dead), (1, 1));
    }
    assert_eq!(
        column::<String>(&client, "SELECT logical_id FROM registry_instance ORDER BY 1").await,
        ["living", "recent"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_over_live_instances_holds_expiry_until_they_had_time_to_come_back() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    assert!(caller.cluster().await.unwrap().hold.is_none(), "no instance was alive when it started");
    let back = Actor::start(std::slice::from_ref(&caller), "back", seconds(2)).await.fall_silent().await;
    let gone = Actor::start(std::slice::from_ref(&caller), "gone", seconds(2)).await.fall_silent().await;
    // Started again at the same address, it is known to be the former one.
    let address = daemon.grpc_addr.clone();
    daemon.kill9();
    let client = connect(database.url()).await;
    wait_until("both are overdue", BOUND, async || {
        let sql = "SELECT count(*) FROM registry_instance
                   WHERE status = 'alive' AND last_heartbeat + ttl_ms * interval '1 ms' < now()";
        if get::<i64>(&client, sql).await == 2 { Ok(()) } else { Err("not yet") }
    })
    .await;

    let flags = ["--database-url", database.url(), "--grpc-addr", &address];
    let daemon = Daemon::start_with(&flags).await;
    let caller = Caller::of(&daemon);
    let hold =
        wait_until("expiry is on hold", BOUND, async || caller.cluster().await?.hold.ok_or("none".to_owned())).await;
    assert_eq!(hold.reason, "no daemon was running");
    assert!(hold.remaining.unwrap() < seconds(8), "the longest TTL and 5 s: {hold:?}");
    wait_until("the metric says so", BOUND, async || match daemon.metric("musterd_expiry_held").await {
        Some(1.0) => Ok(()),
        other => Err(other),
    })
    .await;
    let actor = Actor::resume(std::slice::from_ref(&caller), back);
    dead(&caller, &gone.instance_id).await;
    let sql = "SELECT stopped_at >= hold_until FROM registry_instance, cluster_metadata WHERE status = 'dead'";
    assert_eq!(column::<bool>(&client, sql).await, [true], "one death, after the hold");
    assert!(caller.cluster().await.unwrap().hold.is_none());
    wait_until("the metric says so", DAEMON_BOUND, async || match daemon.metric("musterd_expiry_held").await {
        Some(0.0) => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(caller.best("back").await, actor.id());
    assert_eq!(actor.told().refused, Vec::<String>::new());
}
