//! SeedCore's way of use: SQL alone, on a database that a daemon is serving.
//!
//! What SQL callers change shows in the daemon's answers within a second when nothing else is going on. Machines under
//! load are given [`BOUND`].

use std::time::Duration;

use musterd_client::{Counts, DeathReason, Filter, Instance, Status};
use tokio_postgres::Client;

use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::Daemon,
    postgres::{TestDatabase, connect},
    registry::{SQL_CALLER, column, field, get, id, make_alive, refusal, register, run, silence},
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(10);

/// A daemon in epoch 100, a client of it, and an SQL caller.
struct Scene {
    daemon: Daemon,
    caller: Caller,
    client: Client,
    _database: TestDatabase,
}

impl Scene {
    async fn set() -> Self {
        let database = TestDatabase::create().await;
        let daemon = Daemon::start(database.url()).await;
        let client = connect(database.url()).await;
        run(&client, &format!("SELECT set_current_epoch('{}')", id(100))).await;
        Self { caller: Caller::of(&daemon), daemon, client, _database: database }
    }

    /// Waits until an instance is as it has to be.
    async fn shows(&self, instance: u128, what: &str, expected: impl Fn(&Instance) -> bool) -> Instance {
        let instance_id = id(instance).to_string();
        wait_until(what, BOUND, async || match self.caller.instance(&instance_id).await {
            Ok(instance) if expected(&instance) => Ok(instance),
            other => Err(other),
        })
        .await
    }

    async fn shows_status(&self, instance: u128, status: Status) -> Instance {
        self.shows(instance, status.as_str(), |instance| instance.status == status).await
    }

    /// Waits until a name resolves to an instance, or not for a reason.
    async fn resolves(&self, logical_id: &str, expected: &str) {
        wait_until("the best instance", BOUND, async || match self.caller.best(logical_id).await {
            best if best == expected => Ok(()),
            other => Err(other),
        })
        .await;
    }
}

fn set_status(instance: u128, status: &str) -> String {
    format!("SELECT set_instance_status('{}', '{status}')", id(instance))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_through_sql_shows_in_every_answer() {
    let scene = Scene::set().await;
    wait_until("the epoch", BOUND, async || match scene.caller.cluster().await {
        Ok(cluster) if cluster.cluster_epoch == id(100) => Ok(()),
        other => Err(other),
    })
    .await;
    run(&scene.client, &register(1, "organ", 100)).await;
    let starting = scene.shows_status(1, Status::Starting).await;
    assert_eq!((starting.logical_id.as_str(), starting.actor_name.as_str()), ("organ", "actor"));
    assert_eq!((starting.serve_route.as_str(), starting.node_id.as_str()), ("/route", "node"));
    let address = "10.0.0.1".parse().ok();
    assert_eq!((starting.ip, starting.pid, starting.ttl.as_secs()), (address, Some(1), 15));
    assert_eq!(scene.caller.best("organ").await, "NO_LIVE_INSTANCE");
    run(&scene.client, &set_status(1, "alive")).await;
    scene.resolves("organ", &id(1).to_string()).await;
    run(&scene.client, &set_status(1, "draining")).await;
    scene.resolves("organ", "NO_LIVE_INSTANCE").await;
    scene.shows_status(1, Status::Draining).await;
    run(&scene.client, &set_status(1, "dead")).await;
    let death = scene.shows_status(1, Status::Dead).await.death.unwrap();
    assert_eq!((death.reason, death.decided_by.as_str()), (DeathReason::Deregistered, SQL_CALLER));
    assert_eq!(scene.caller.beat(starting.lease_id).await.unwrap_err(), "LEASE_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_through_sql_fences_actors_of_the_daemon() {
    let scene = Scene::set().await;
    make_alive(&scene.client, 1, "organ", 100).await;
    scene.resolves("organ", &id(1).to_string()).await;
    let lease = scene.caller.register(alive("organ", Duration::from_secs(60))).await.unwrap();
    run(&scene.client, &format!("SELECT set_current_epoch('{}')", id(101))).await;
    scene.resolves("organ", "NO_LIVE_INSTANCE").await;
    let instance = scene.shows_status(1, Status::Dead).await;
    assert_eq!(instance.death.unwrap().reason, DeathReason::OldEpoch);
    assert_eq!(scene.caller.beat(lease.lease_id).await.unwrap_err(), "EPOCH_FENCED");
    // The daemon's reaper and the SQL caller share the work; together they leave no lease out.
    get::<i32>(&scene.client, "SELECT expire_old_epoch_instances()").await;
    wait_until("both deaths are written down", BOUND, async || {
        let sql = "SELECT death_reason FROM registry_instance WHERE status = 'dead'";
        match column::<String>(&scene.client, sql).await {
            reasons if reasons == ["old_epoch", "old_epoch"] => Ok(()),
            reasons => Err(reasons),
        }
    })
    .await;
    assert_eq!(get::<i32>(&scene.client, "SELECT expire_old_epoch_instances()").await, 0);
    run(&scene.client, &register(1, "organ", 101)).await;
    run(&scene.client, &set_status(1, "alive")).await;
    scene.resolves("organ", &id(1).to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_through_sql_shows_and_spares_those_with_a_longer_ttl() {
    let scene = Scene::set().await;
    make_alive(&scene.client, 1, "silent", 100).await;
    let patient = scene.caller.register(alive("patient", Duration::from_secs(300))).await.unwrap();
    silence(&scene.client, 1, 10).await;
    let sql = format!(
        "UPDATE registry_instance SET last_heartbeat = now() - interval '60 s' WHERE instance_id = '{}'",
        patient.instance_id
    );
    run(&scene.client, &sql).await;
    assert_eq!(get::<i32>(&scene.client, "SELECT expire_stale_instances()").await, 0, "15 s have not passed");
    assert_eq!(get::<i32>(&scene.client, "SELECT expire_stale_instances(5)").await, 1);
    let death = scene.shows_status(1, Status::Dead).await.death.unwrap();
    assert_eq!((death.reason, death.decided_by.as_str()), (DeathReason::Stale, SQL_CALLER));
    assert_eq!(scene.caller.best("patient").await, patient.instance_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_that_beats_through_sql_lives_beside_grpc_instances() {
    let scene = Scene::set().await;
    make_alive(&scene.client, 1, "mixed", 100).await;
    run(&scene.client, "UPDATE registry_instance SET ttl_ms = 3000").await;
    scene.shows(1, "the TTL that was set by hand", |instance| instance.ttl.as_secs() == 3).await;
    make_alive(&scene.client, 2, "silent", 100).await;
    run(&scene.client, &format!("UPDATE registry_instance SET ttl_ms = 3000 WHERE instance_id = '{}'", id(2))).await;
    let actor = Actor::start(std::slice::from_ref(&scene.caller), "mixed", Duration::from_secs(3)).await;

    // Sixteen beats, a second apart at most: five TTLs.
    let mut suspected = 0;
    for _ in 0..16 {
        run(&scene.client, &format!("SELECT beat('{}')", id(1))).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        let instance = scene.caller.instance(&id(1).to_string()).await.unwrap();
        assert_eq!(instance.status, Status::Alive, "{instance:?}");
        suspected += u32::from(instance.suspect);
    }
    assert!(suspected <= 1, "suspected {suspected} times of 16");
    scene.resolves("mixed", &id(1).to_string()).await;
    assert_eq!(actor.told().refused, Vec::<String>::new());
    assert!(actor.told().accepted >= 12, "{:?}", actor.told());
    scene.shows_status(2, Status::Dead).await;
    assert_eq!(scene.caller.resolve("mixed").await.unwrap().alternatives, 1);
    let best: uuid::Uuid = get(&scene.client, "SELECT instance_id FROM active_instance").await;
    assert_eq!(best, id(1));
    assert_eq!(get::<i64>(&scene.client, "SELECT count(*) FROM active_instances").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_views_agree_with_the_daemon_for_every_way_to_register() {
    let scene = Scene::set().await;
    make_alive(&scene.client, 1, "a", 100).await;
    make_alive(&scene.client, 2, "b", 100).await;
    let third = scene.caller.register(alive("a", Duration::from_secs(60))).await.unwrap();
    let fourth = scene.caller.register(alive("c", Duration::from_secs(60))).await.unwrap();
    run(&scene.client, &set_status(2, "draining")).await;
    scene.shows_status(2, Status::Draining).await;
    for expected in [id(1).to_string(), third.instance_id.clone()] {
        scene.resolves("a", &expected).await;
        let best: Vec<uuid::Uuid> =
            column(&scene.client, "SELECT instance_id FROM active_instance ORDER BY logical_id").await;
        assert_eq!(
            best.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [expected.clone(), fourth.instance_id.clone()]
        );
        let listed = scene.caller.list(Filter::all().status(Status::Alive)).await.unwrap();
        let mut listed: Vec<_> = listed.into_iter().map(|one| one.instance_id.to_string()).collect();
        listed.sort_unstable();
        let sql = "SELECT instance_id::text FROM active_instances ORDER BY instance_id::text";
        assert_eq!(column::<String>(&scene.client, sql).await, listed);
        run(&scene.client, &set_status(1, "draining")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_by_hand_show_like_any_other() {
    let scene = Scene::set().await;
    let insert = format!(
        "INSERT INTO registry_instance (instance_id, logical_id, cluster_epoch, status, ip_address)
         VALUES ('{}', 'by-hand', '{}', 'alive', '10.0.0.7')",
        id(1),
        id(100)
    );
    run(&scene.client, &insert).await;
    scene.resolves("by-hand", &id(1).to_string()).await;
    let before = scene.shows_status(1, Status::Alive).await;
    run(&scene.client, "UPDATE registry_instance SET logical_id = 'renamed', serve_route = '/new'").await;
    scene.resolves("renamed", &id(1).to_string()).await;
    scene.resolves("by-hand", "UNKNOWN_LOGICAL_ID").await;
    let after = scene.caller.instance(&id(1).to_string()).await.unwrap();
    assert_eq!((after.serve_route.as_str(), after.lease_id), ("/new", before.lease_id));
    assert!(after.revision > before.revision);
    assert!(scene.caller.beat(after.lease_id).await.is_ok(), "it can beat at the daemon");
    run(&scene.client, "UPDATE registry_instance SET status = 'dead'").await;
    let death = scene.shows_status(1, Status::Dead).await.death.unwrap();
    assert_eq!((death.reason, death.decided_by.as_str()), (DeathReason::Operator, SQL_CALLER));
    let revive = format!("UPDATE registry_instance SET status = 'alive' WHERE instance_id = '{}'", id(1));
    assert_eq!(refusal(&scene.client, &revive).await, "MU005");
    assert_eq!(field(&scene.client, 1, "status").await, "dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_deleted_by_hand_vanish_from_every_answer() {
    let scene = Scene::set().await;
    for instance in 1..=3 {
        make_alive(&scene.client, instance, "organ", 100).await;
    }
    scene.resolves("organ", &id(1).to_string()).await;
    let lease = scene.shows_status(1, Status::Alive).await.lease_id;
    run(&scene.client, &format!("DELETE FROM registry_instance WHERE instance_id = '{}'", id(1))).await;
    scene.resolves("organ", &id(2).to_string()).await;
    assert_eq!(scene.caller.instance(&id(1).to_string()).await.unwrap_err(), "UNKNOWN_INSTANCE");
    assert_eq!(scene.caller.beat(lease).await.unwrap_err(), "UNKNOWN_LEASE");
    assert_eq!(scene.daemon.metric("musterd_feed_resyncs_total{cause=\"history\"}").await, Some(1.0));

    run(&scene.client, "TRUNCATE registry_instance").await;
    scene.resolves("organ", "UNKNOWN_LOGICAL_ID").await;
    let counts = scene.caller.cluster().await.unwrap().counts;
    assert_eq!(format!("{counts:?}"), format!("{:?}", Counts::default()));
    make_alive(&scene.client, 1, "organ", 100).await;
    scene.resolves("organ", &id(1).to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_row_deleted_by_hand_takes_no_other_with_it() {
    let scene = Scene::set().await;
    for instance in 1..=3 {
        make_alive(&scene.client, instance, &format!("organ-{instance}"), 100).await;
        run(&scene.client, &set_status(instance, "dead")).await;
    }
    scene.shows_status(3, Status::Dead).await;
    run(&scene.client, &format!("DELETE FROM registry_instance WHERE instance_id = '{}'", id(2))).await;
    scene.resolves("organ-2", "UNKNOWN_LOGICAL_ID").await;
    for (instance, name) in [(1, "organ-1"), (3, "organ-3")] {
        scene.resolves(name, "NO_LIVE_INSTANCE").await;
        scene.shows_status(instance, Status::Dead).await;
    }
}
