//! Daemons that are killed, a PostgreSQL that is unreachable: what was acknowledged stays, and no lease expires by it.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use musterd::proto::v1;
use musterd_client::{Filter, Status};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::harness::{
    actor::{Actor, Caller, TRANSPORT, alive},
    daemon::{DAEMON_BOUND, Daemon},
    postgres::{MIGRATIONS, OwnCluster, TestDatabase, connect},
    registry::{column, get, run},
    wait::wait_until,
};

const BOUND: Duration = Duration::from_secs(30);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Waits until so many beats of an actor were accepted.
async fn accepted(actor: &Actor, count: u64) {
    wait_until("beats are accepted", BOUND, async || match actor.told() {
        told if told.accepted >= count => Ok(()),
        told => Err(told),
    })
    .await;
}

async fn assert_alive(caller: &Caller, actor: &Actor) {
    let instance = caller.instance(actor.id()).await.unwrap();
    assert_eq!((instance.status, instance.lease_id), (Status::Alive, actor.lease.lease_id), "{instance:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_of_a_killed_daemon_continue_at_another() {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let callers = [Caller::of(&first), Caller::of(&second)];
    let [here, there] = &callers;
    let mut actors = Vec::new();
    for _ in 0..10 {
        actors.push(Actor::start(&callers, "organ", seconds(3)).await);
    }
    let last = actors.last().unwrap().lease.revision;
    let resolved = there.resolve_at("organ", last).await.unwrap();
    assert_eq!((resolved.instance.instance_id.to_string().as_str(), resolved.alternatives), (actors[0].id(), 9));
    assert_eq!(here.best("organ").await, actors[0].id());
    accepted(&actors[0], 2).await;

    first.kill9();
    // Ten beats are three TTLs.
    let goals: Vec<_> = actors.iter().map(|actor| actor.told().accepted + 10).collect();
    for (actor, goal) in actors.iter().zip(goals) {
        accepted(actor, goal).await;
    }
    for actor in &actors {
        assert_alive(there, actor).await;
        assert!(actor.told().refused.iter().all(|reason| reason == TRANSPORT), "{:?}", actor.told());
    }
    let client = connect(database.url()).await;
    assert_eq!(get::<i64>(&client, "SELECT count(*) FROM registry_instance WHERE status = 'dead'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_start_together_on_an_empty_database_agree_on_one_epoch() {
    let database = TestDatabase::create().await;
    let daemons =
        tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()), Daemon::start(database.url()));
    let client = connect(database.url()).await;
    let epochs = column::<uuid::Uuid>(&client, "SELECT cluster_epoch FROM registry_epoch").await;
    assert_eq!(epochs.len(), 1);
    for daemon in [&daemons.0, &daemons.1, &daemons.2] {
        let caller = Caller::of(daemon);
        let cluster = wait_until("all three are listed", BOUND, async || match caller.cluster().await {
            Ok(cluster) if cluster.daemons.len() == 3 => Ok(cluster),
            other => Err(other),
        })
        .await;
        assert_eq!((cluster.cluster_epoch, cluster.epoch_number), (epochs[0], 1));
    }
    assert_eq!(get::<i64>(&client, "SELECT count(*) FROM muster_migration").await, i64::try_from(MIGRATIONS).unwrap());
}

/// Eight clients that register, each until it has an acknowledgement, whatever goes on meanwhile.
struct Storm {
    clients: JoinSet<Vec<v1::RegisterResponse>>,
    acknowledged: Arc<AtomicUsize>,
}

impl Storm {
    const CLIENTS: usize = 8;
    const EACH: usize = 50;

    /// Begins, and waits for the first acknowledgements.
    async fn begin(callers: &[Caller]) -> Self {
        let mut storm = Self { clients: JoinSet::new(), acknowledged: Arc::default() };
        for client in 0..Self::CLIENTS {
            let (callers, acknowledged) = (callers.to_vec(), Arc::clone(&storm.acknowledged));
            storm.clients.spawn(async move {
                let mut granted = Vec::new();
                for _ in 0..Self::EACH {
                    granted.push(register_until_granted(&callers, &format!("storm-{client}")).await);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                granted
            });
        }
        wait_until("a quarter is acknowledged", BOUND, async || match storm.acknowledged.load(Ordering::Relaxed) {
            count if count >= Self::CLIENTS * Self::EACH / 4 => Ok(()),
            count => Err(count),
        })
        .await;
        assert!(storm.acknowledged.load(Ordering::Relaxed) < Self::CLIENTS * Self::EACH, "it is still blowing");
        storm
    }

    /// Waits for all, and checks each against PostgreSQL.
    async fn check(self, client: &Client) {
        let granted = tokio::time::timeout(seconds(60), self.clients.join_all()).await.unwrap();
        let granted: HashMap<_, _> =
            granted.into_iter().flatten().map(|one| (one.instance_id, i64::try_from(one.lease_id).unwrap())).collect();
        assert_eq!(granted.len(), Self::CLIENTS * Self::EACH);
        let rows = client.query("SELECT instance_id::text, lease_id, status::text FROM registry_instance", &[]).await;
        let rows: HashMap<String, (i64, String)> =
            rows.unwrap().iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        for (instance_id, lease_id) in &granted {
            assert_eq!(rows.get(instance_id), Some(&(*lease_id, "alive".to_owned())), "{instance_id}");
        }
        assert_eq!(rows.len(), granted.len(), "nothing without a request");
        // One revision began the epoch; each other one is a registration, so none took effect twice.
        let revisions = get::<i64>(client, "SELECT revision - 1 FROM cluster_metadata").await;
        assert_eq!(usize::try_from(revisions).unwrap(), granted.len());
    }
}

/// Registers under one instance id, at any daemon that answers, until one acknowledges.
async fn register_until_granted(callers: &[Caller], logical_id: &str) -> v1::RegisterResponse {
    let request = alive(logical_id, seconds(300));
    let mut turn = 0;
    loop {
        match callers[turn % callers.len()].register(request.clone()).await {
            Ok(granted) => return granted,
            Err(reason) => {
                let passing = ["MAYBE_APPLIED", "DATABASE_UNAVAILABLE", "SHUTTING_DOWN", TRANSPORT];
                assert!(passing.contains(&reason.as_str()), "{reason}");
            }
        }
        turn += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_changes_survive_a_killed_daemon() {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let callers = [Caller::of(&first), Caller::of(&second)];
    let storm = Storm::begin(&callers).await;
    first.kill9();
    storm.check(&connect(database.url()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_changes_survive_a_killed_postgresql() {
    let mut cluster = OwnCluster::create().await;
    let daemon = Daemon::start(cluster.url()).await;
    let caller = Caller::of(&daemon);
    let storm = Storm::begin(std::slice::from_ref(&caller)).await;
    cluster.kill9();
    cluster.start().await;
    storm.check(&connect(cluster.url()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_under_load_is_clean() {
    let database = TestDatabase::create().await;
    let (first, second) = tokio::join!(Daemon::start(database.url()), Daemon::start(database.url()));
    let address = first.grpc_addr.clone();
    let callers = [Caller::of(&first), Caller::of(&second)];
    let storm = Storm::begin(&callers).await;
    let status = first.terminate().await;
    assert!(status.success(), "{status}");
    let client = connect(database.url()).await;
    let left = column::<String>(&client, "SELECT address FROM registry_daemon").await;
    assert_eq!(left, std::slice::from_ref(&second.grpc_addr), "{address} has left");
    storm.check(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_without_postgresql_answers_from_memory_and_recovers() {
    let mut cluster = OwnCluster::create().await;
    let daemon = Daemon::start(cluster.url()).await;
    let caller = Caller::of(&daemon);
    let actor = Actor::start(std::slice::from_ref(&caller), "organ", seconds(6)).await;
    let silent = caller.register(alive("silent", seconds(6))).await.unwrap();
    accepted(&actor, 1).await;
    cluster.stop_immediate();

    let before = actor.told().accepted;
    let asked = Instant::now();
    let refused = caller.register(alive("late", seconds(6))).await.unwrap_err();
    assert!(["DATABASE_UNAVAILABLE", "MAYBE_APPLIED"].contains(&refused.as_str()), "{refused}");
    assert!(asked.elapsed() < seconds(4), "it takes 2 s, here {:?}", asked.elapsed());
    accepted(&actor, before + 1).await;
    wait_until("beats are refused", BOUND, async || match actor.told().refused {
        reasons if reasons.contains(&"BEATS_NOT_SAVED".to_owned()) => Ok(()),
        reasons => Err(reasons),
    })
    .await;
    // Longer than the TTL, so that every lease is overdue by the rows of PostgreSQL.
    let stale_for = wait_until("an answer that is 8 s old", BOUND, async || {
        let answer = caller.resolve("organ").await?;
        assert_eq!(answer.instance.instance_id.to_string(), actor.id());
        if answer.stale_for >= seconds(8) { Ok(answer.stale_for) } else { Err(format!("{:?}", answer.stale_for)) }
    })
    .await;
    let listed = pin!(caller.client().pages(Filter::all())).next().await.unwrap().unwrap();
    assert_eq!(listed.instances.len(), 2);
    assert!(listed.stale_for >= stale_for);
    assert_alive(&caller, &actor).await;
    assert_eq!(daemon.http_get("/readyz").await.unwrap().0, 200, "degraded, not down");

    cluster.start().await;
    let hold =
        wait_until("the outage holds expiry", BOUND, async || caller.cluster().await?.hold.ok_or("none".to_owned()))
            .await;
    assert_eq!(hold.reason, "the database was away");
    accepted(&actor, actor.told().accepted + 1).await;
    wait_until("registrations are accepted", BOUND, async || caller.register(alive("late", seconds(60))).await).await;
    wait_until("the silent one is dead", BOUND, async || {
        let instance = caller.instance(&silent.instance_id).await?;
        if instance.status == Status::Dead { Ok(()) } else { Err(format!("{instance:?}")) }
    })
    .await;
    assert!(caller.cluster().await.unwrap().hold.is_none());
    assert_alive(&caller, &actor).await;
    assert!(actor.told().refused.iter().all(|reason| reason == "BEATS_NOT_SAVED"), "{:?}", actor.told());
    let client = connect(cluster.url()).await;
    let sql =
        "SELECT logical_id FROM registry_instance, cluster_metadata WHERE status = 'dead' AND stopped_at >= hold_until";
    assert_eq!(column::<String>(&client, sql).await, ["silent"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_whose_connections_are_cut_reconnects_and_misses_no_change() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let actor = Actor::start(std::slice::from_ref(&caller), "organ", seconds(3)).await;
    let client = connect(database.url()).await;
    for round in 1..=3 {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'musterd'";
        assert!(get::<i64>(&client, cut).await >= 1);
        let name = format!("cut-{round}");
        let sql = format!(
            "SELECT register_instance('{0}', '{name}', current_epoch, '', '', 'n', NULL, 1) FROM cluster_metadata;
             SELECT set_instance_status('{0}', 'alive')",
            uuid::Uuid::from_u128(round)
        );
        run(&client, &sql).await;
        wait_until("the change shows", BOUND, async || caller.resolve(&name).await).await;
        wait_until("the feed has reconnected", BOUND, async || {
            match daemon.metric("musterd_feed_resyncs_total{cause=\"connection\"}").await {
                Some(count) if count >= f64::from(u32::try_from(round).unwrap()) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        caller.register(alive("after", seconds(60))).await.unwrap();
    }
    accepted(&actor, actor.told().accepted + 4).await;
    assert_alive(&caller, &actor).await;
    assert_eq!(actor.told().refused, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_notifications_changes_show_by_polling() {
    let database = TestDatabase::create().await;
    musterd::migrate::up(database.url(), "test").await.unwrap();
    let daemon = Daemon::start_without_migrating(database.url()).await;
    let caller = Caller::of(&daemon);
    let client = connect(database.url()).await;
    let mute = "CREATE OR REPLACE FUNCTION muster_advance(p_revision bigint) RETURNS void LANGUAGE plpgsql AS $$
                BEGIN UPDATE cluster_metadata SET revision = p_revision WHERE id = 1; END $$;
                LISTEN muster";
    run(&client, mute).await;
    let lease = caller.register(alive("organ", seconds(60))).await.unwrap();
    wait_until("the registration shows", BOUND, async || caller.resolve("organ").await).await;
    assert_eq!(daemon.metric("musterd_feed_resyncs_total{cause=\"connection\"}").await.unwrap_or_default(), 0.0);
    assert_eq!(caller.best("organ").await, lease.instance_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_notifications_do_no_harm() {
    let database = TestDatabase::create().await;
    let daemon = Daemon::start(database.url()).await;
    let caller = Caller::of(&daemon);
    let client = connect(database.url()).await;
    let long = "9".repeat(7_000);
    for payload in ["", "-1", "0", "no number", "9223372036854775808", "'' OR 1=1", long.as_str()] {
        run(&client, &format!("SELECT pg_notify('muster', $payload${payload}$payload$)")).await;
    }
    run(&client, "SELECT pg_notify('muster', number::text) FROM generate_series(1, 20000) AS number").await;
    let lease = caller.register(alive("organ", seconds(60))).await.unwrap();
    assert_eq!(caller.best("organ").await, lease.instance_id);
    let cluster = caller.cluster().await.unwrap();
    assert_eq!(cluster.revision, lease.revision, "not what the forger said");
    assert_eq!(daemon.metric("musterd_feed_resyncs_total{cause=\"start\"}").await, Some(1.0));
    for cause in ["connection", "history", "gap"] {
        let name = format!("musterd_feed_resyncs_total{{cause=\"{cause}\"}}");
        assert_eq!(daemon.metric(&name).await.unwrap_or_default(), 0.0, "{cause}");
    }
    assert!(tokio::time::timeout(DAEMON_BOUND, daemon.terminate()).await.unwrap().success());
}
