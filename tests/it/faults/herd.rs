//! A herd: ten thousand instances whose clients all lose their daemon at once and come back at once.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream;
use musterd::proto::v1::{BeatStreamRequest, registry_service_client::RegistryServiceClient};
use tokio::{task::JoinSet, time::sleep};
use tonic::Status;

use super::client::channel;
use crate::harness::{
    daemon::Daemon,
    postgres::BOUND,
    registry::{Registry, column, get},
    wait::wait_until,
    wire::Wire,
};

const INSTANCES: usize = 10_000;
/// Clients, each with a connection and a stream for its share of the instances.
const CLIENTS: usize = 250;
const TTL_MS: u32 = 12_000;
/// As a client should: a little more often than every third of the TTL.
const PAUSE: Duration = Duration::from_millis(3_500);

/// What the herd was told in all.
#[derive(Debug, Default)]
struct Told {
    renewed: AtomicU64,
    /// Leases that were said to be over or unknown.
    refused: AtomicU64,
    broken: AtomicU64,
}

/// Makes the instances, as their own clients would over some time.
async fn register(sql: &Registry) -> Vec<u64> {
    for _ in 0..INSTANCES / 1_000 {
        let apply = format!(
            "SELECT count(*) FROM muster_apply((
                 SELECT jsonb_agg(jsonb_build_object('op', 'register', 'instance_id', gen_random_uuid(),
                        'logical_id', 'organ-' || number % 100, 'status', 'alive', 'ttl_ms', {TTL_MS}))
                 FROM generate_series(1, 1000) AS number), 'the test')"
        );
        assert_eq!(get::<i64>(&sql.client, &apply).await, 1_000);
    }
    let leases = column::<i64>(&sql.client, "SELECT lease_id FROM registry_instance ORDER BY lease_id").await;
    leases.into_iter().map(|lease| u64::try_from(lease).unwrap()).collect()
}

/// One client: beats on a stream, and on another one as soon as that breaks.
async fn live(addr: String, leases: Vec<u64>, told: Arc<Told>) {
    let mut registry = Wire::over(channel(&addr)).registry;
    loop {
        if beat(&mut registry, &leases, &told).await.is_err() {
            told.broken.fetch_add(1, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn beat(
    registry: &mut RegistryServiceClient<tonic::transport::Channel>,
    leases: &[u64],
    told: &Told,
) -> Result<(), Status> {
    let request = BeatStreamRequest { lease_ids: leases.to_vec(), goodbye: false };
    let beats = stream::unfold(true, move |first| {
        let request = request.clone();
        async move {
            if !first {
                sleep(PAUSE).await;
            }
            Some((request, false))
        }
    });
    let mut answers = registry.beat_stream(beats).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        told.renewed.fetch_add(answer.renewed.into(), Ordering::Relaxed);
        told.refused.fetch_add(answer.exceptions.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits until the herd has beaten so many times more.
async fn beaten(told: &Told, times: usize) {
    let goal = told.renewed.load(Ordering::Relaxed) + (times * INSTANCES) as u64;
    wait_until("the herd beats", BOUND * 2, async || {
        if told.renewed.load(Ordering::Relaxed) >= goal { Ok(()) } else { Err(format!("{told:?}, {goal} wanted")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_instances_whose_daemon_is_killed_come_back_at_once_and_none_dies() {
    let sql = Registry::head().await;
    let daemon = Daemon::start(sql.database.url()).await;
    let addr = daemon.grpc_addr.clone();
    let leases = register(&sql).await;
    let told = Arc::new(Told::default());
    let mut herd = JoinSet::new();
    for share in leases.chunks(INSTANCES / CLIENTS) {
        herd.spawn(live(addr.clone(), share.to_vec(), Arc::clone(&told)));
    }
    beaten(&told, 1).await;

    daemon.kill9();
    let flags = ["--database-url", sql.database.url(), "--grpc-addr", &addr];
    let daemon = Daemon::start_with(&flags).await;
    beaten(&told, 6).await;
    assert!(told.broken.load(Ordering::Relaxed) >= CLIENTS as u64, "every client lost the daemon: {told:?}");
    assert_eq!(told.refused.load(Ordering::Relaxed), 0, "{told:?}");
    let held = "SELECT coalesce(hold_until > clock_timestamp(), false) FROM cluster_metadata";
    wait_until("nothing holds death back any more", BOUND, async || {
        if get::<bool>(&sql.client, held).await { Err("a hold") } else { Ok(()) }
    })
    .await;
    assert_eq!(get::<i64>(&sql.client, "SELECT count(*) FROM registry_instance WHERE status = 'dead'").await, 0);

    let connections = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name = 'musterd'";
    assert!(get::<i64>(&sql.client, connections).await <= 8);
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    assert!(files < CLIENTS + 64, "{files} files for {CLIENTS} clients");
    let memory = daemon.metric("process_resident_memory_bytes").await.unwrap();
    assert!(memory < 512e6, "{memory} bytes");
    assert!(!daemon.log().contains("panicked"));
}
