//! What is done to the schema and to its rows while the registry is in use: functions that are overwritten and put back,
//! and an application that asserts a lease and then takes its time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use musterd::migrate;
use tokio::task::JoinSet;

use crate::harness::{
    actor::{Actor, Caller, alive},
    daemon::Daemon,
    postgres::BOUND,
    registry::{Registry, get, run},
    wait::wait_until,
};

const TTL: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(300);
const DEAD: &str = "SELECT count(*) FROM registry_instance WHERE status = 'dead'";

/// The clients of a registry while something is done to it.
struct Traffic {
    sql: Registry,
    _daemons: [Daemon; 2],
    callers: [Caller; 2],
    actors: Vec<Actor>,
    granted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<String>>,
}

impl Traffic {
    async fn begin() -> Self {
        let sql = Registry::head().await;
        let url = sql.database.url();
        let flags = ["--database-url", url];
        let daemons: [Daemon; 2] = tokio::join!(Daemon::start_as_asked(&flags), Daemon::start_as_asked(&flags)).into();
        let callers = [Caller::of(&daemons[0]), Caller::of(&daemons[1])];
        let mut actors = Vec::new();
        for _ in 0..6 {
            actors.push(Actor::start(&callers, "kept", TTL).await);
        }
        let (granted, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for number in 0..4 {
            let (caller, granted, stop) = (callers[number % 2].clone(), Arc::clone(&granted), Arc::clone(&stop));
            clients.spawn(async move {
                let mut refused = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match caller.register(alive("load", LONG)).await {
                        Ok(_) => drop(granted.fetch_add(1, Ordering::Relaxed)),
                        Err(reason) => {
                            refused.push(reason);
                            // As a client does; and a task that never waits could not be ended.
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
                refused
            });
        }
        Self { sql, _daemons: daemons, callers, actors, granted, stop, clients }
    }

    /// So many more registrations are granted and every actor's beats accepted.
    async fn flows(&self, registrations: u64, beats: u64) {
        let goal = self.granted.load(Ordering::Relaxed) + registrations;
        wait_until("registrations are granted", BOUND, async || match self.granted.load(Ordering::Relaxed) {
            granted if granted >= goal => Ok(()),
            granted => Err(granted),
        })
        .await;
        let goals: Vec<_> = self.actors.iter().map(|actor| actor.told().accepted + beats).collect();
        for (actor, goal) in self.actors.iter().zip(goals) {
            actor.accepted(goal).await;
            assert_eq!(actor.told().refused, Vec::<String>::new());
        }
    }

    /// Ends it. No lease has expired, and nothing was refused but what may be repeated.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let refused: Vec<String> = self.clients.join_all().await.into_iter().flatten().collect();
        let passing = ["MAYBE_APPLIED", "DATABASE_UNAVAILABLE"];
        assert!(refused.iter().all(|reason| passing.contains(&reason.as_str())), "{refused:?}");
        assert_eq!(get::<i64>(&self.sql.client, DEAD).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_restored_under_load_disturb_no_caller() {
    let traffic = Traffic::begin().await;
    let url = traffic.sql.database.url();
    for round in 0..5 {
        // As when SeedCore runs its own migrations again, and worse: also those that every change goes through.
        for function in ["muster_apply", "muster_flush_beats", "muster_reap_stale", "beat"] {
            let definition: String =
                get(&traffic.sql.client, &format!("SELECT pg_get_functiondef('{function}'::regproc)")).await;
            let (head, body) = definition.split_once("BEGIN").unwrap();
            run(&traffic.sql.client, &format!("{head}BEGIN /* overwritten in round {round} */{body}")).await;
        }
        traffic.flows(10, 1).await;
        // Unless a running daemon is first.
        migrate::up(url, "the test").await.unwrap();
        let left = "SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%overwritten in round%'";
        assert_eq!(get::<i64>(&traffic.sql.client, left).await, 0);
        traffic.flows(10, 1).await;
    }
    traffic.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_asserts_a_lease_and_idles_keeps_only_rotations_waiting() {
    let traffic = Traffic::begin().await;
    let application = traffic.sql.connect().await;
    let lease_id = traffic.actors[0].lease.lease_id;
    run(&application, &format!("BEGIN; SELECT assert_lease({lease_id})")).await;
    let silent = traffic.callers[0].register(alive("silent", Duration::from_secs(2))).await.unwrap();
    // Longer than a TTL.
    traffic.flows(20, 4).await;
    let refused = traffic.callers[0].rotate("while a lease is asserted").await.unwrap_err();
    assert!(["DATABASE_UNAVAILABLE", "MAYBE_APPLIED"].contains(&refused.as_str()), "{refused}");
    traffic.flows(20, 2).await;
    run(&traffic.sql.client, "SELECT muster_release_expiry(600000)").await;
    wait_until("others die meanwhile", BOUND, async || {
        let instance = traffic.callers[1].instance(&silent.instance_id).await?;
        if instance.death.is_some() { Ok(()) } else { Err(format!("{instance:?}")) }
    })
    .await;
    assert_eq!(get::<i64>(&traffic.sql.client, DEAD).await, 1, "the silent lease and no other");
    assert_eq!(get::<i64>(&traffic.sql.client, "SELECT epoch_number FROM cluster_metadata").await, 1);
    run(&application, "COMMIT").await;
    let began = traffic.granted.load(Ordering::Relaxed);
    assert_eq!(traffic.callers[0].rotate("nothing is asserted any more").await.unwrap().epoch_number, 2);
    assert!(began > 60, "there was traffic");
}
