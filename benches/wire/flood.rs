//! One address registers, deregisters and registers again with labels as large as they may be, as fast as it can; another
//! address registers and sends beats beside it. What the daemons take, what the other address is refused, and how long a
//! restart over the result takes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use musterd::proto::v1::{
    BeatRequest, DeregisterRequest, InstanceStatus, RegisterRequest, registry_service_client::RegistryServiceClient,
};
use tokio::{task::JoinSet, time::sleep};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use crate::{table::Table, world::World};

type Client = RegistryServiceClient<Channel>;

/// The budget of the daemons: it is used up within seconds, as a larger one is within minutes.
const BUDGET_MIB: u32 = 128;
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 16;
/// Leases of the other address that are kept alive, each by a beat every 100 ms.
const KEPT: usize = 50;
/// Instances of each task that floods which it ends and registers again.
const KNOWN: usize = 64;

/// What the clients count.
#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    full: AtomicU64,
    refused: AtomicU64,
}

pub(crate) async fn measure(world: &mut World, length: Duration, table: &mut Table) {
    println!("a flood of {} s", length.as_secs());
    let budget = format!("{BUDGET_MIB}MiB");
    let flags = ["--max-record-bytes", &budget, "--max-records", "2000000"];
    world.restart_daemons(&flags).await;
    let idle = [0, 1].map(|daemon| world.memory_mb(world.daemon_addr(daemon)));

    let counts = Arc::new(Counts::default());
    let until = Instant::now() + length;
    let mut flood = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = client(world.daemon_addr(0), "127.0.0.1").await;
        for _ in 0..IN_FLIGHT {
            flood.spawn(register_until(client.clone(), until, Arc::clone(&counts)));
        }
    }
    let other = client(world.daemon_addr(0), "127.0.0.2").await;
    let beats = tokio::spawn(beat_until(other.clone(), until, Arc::clone(&counts)));
    let others = tokio::spawn(join_until(other, until, Arc::clone(&counts)));
    let (mut peak, mut counted) = (0.0_f64, 0.0_f64);
    while Instant::now() < until {
        for (daemon, idle) in idle.iter().enumerate() {
            peak = peak.max(world.memory_mb(world.daemon_addr(daemon)) - idle);
        }
        counted = counted.max(world.metric(0, "musterd_record_bytes").await / 1e6);
        sleep(Duration::from_millis(250)).await;
    }
    while let Some(ended) = flood.join_next().await {
        ended.unwrap();
    }
    let (beats, others) = (beats.await.unwrap(), others.await.unwrap());
    let [calls, full, refused] = [&counts.calls, &counts.full, &counts.refused].map(|count| count.load(Relaxed));
    println!("{calls} calls of the address that floods, {full} of them REGISTRY_FULL; {counted:.0} MB counted");
    println!("{} beats and {} registrations of others, {refused} refused", beats.len(), others.len());
    table.add("flood memory MB", peak);
    table.add("flood memory share", peak / (f64::from(BUDGET_MIB) * 1.048_576));
    table.add("flood memory ratio", peak / counted);
    table.add("flood calls", rate(calls, length));
    table.add("flood refused", float(refused));
    table.add("flood other p99", p99_ms(others));
    table.add("flood beat p99", p99_ms(beats));
    table.add("flood restart s", world.restart_daemons(&flags).await.as_secs_f64());
}

/// A connection from an address of the loopback.
async fn client(addr: &str, from: &str) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    Client::new(endpoint.local_address(Some(from.parse().unwrap())).connect().await.unwrap())
}

fn registration(id: Uuid, name: &str, labels: HashMap<String, String>) -> RegisterRequest {
    RegisterRequest {
        instance_id: id.to_string(),
        logical_id: name.to_owned(),
        ip_address: "127.0.0.1".to_owned(),
        port: 7_000,
        ttl: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        initial_status: InstanceStatus::Alive.into(),
        labels,
        ..Default::default()
    }
}

/// Registers new instances, ends some of them, and registers those again.
async fn register_until(mut client: Client, until: Instant, counts: Arc<Counts>) {
    let labels: HashMap<_, _> = (0..32).map(|at| (format!("label-{at:02}"), "x".repeat(500))).collect();
    let mut known: Vec<Uuid> = Vec::new();
    let mut turn = 0;
    while Instant::now() < until {
        turn += 1;
        let id = if turn % 4 == 0 && known.len() == KNOWN { known[turn % KNOWN] } else { Uuid::new_v4() };
        counts.calls.fetch_add(1, Relaxed);
        match client.register(registration(id, "flood", labels.clone())).await {
            Ok(_) if turn % 4 == 1 => {
                let request = DeregisterRequest { instance_id: id.to_string(), ..Default::default() };
                client.deregister(request).await.unwrap();
                if known.len() < KNOWN {
                    known.push(id);
                }
            }
            Ok(_) => {}
            Err(status) if status.code() == Code::ResourceExhausted => {
                counts.full.fetch_add(1, Relaxed);
            }
            Err(status) => panic!("{status}"),
        }
    }
}

/// Keeps leases alive; returns how long each beat took.
async fn beat_until(mut client: Client, until: Instant, counts: Arc<Counts>) -> Vec<Duration> {
    let mut leases = Vec::new();
    for _ in 0..KEPT {
        let request = registration(Uuid::new_v4(), "kept", HashMap::new());
        leases.push(client.register(request).await.unwrap().into_inner().lease_id);
    }
    let mut took = Vec::new();
    while Instant::now() < until {
        for lease_id in &leases {
            let began = Instant::now();
            let answer = client.beat(BeatRequest { lease_id: *lease_id, ..Default::default() }).await;
            note(answer, began, &mut took, &counts);
        }
        sleep(Duration::from_millis(100)).await;
    }
    took
}

/// Registers one instance after the other; returns how long each took.
async fn join_until(mut client: Client, until: Instant, counts: Arc<Counts>) -> Vec<Duration> {
    let mut took = Vec::new();
    while Instant::now() < until {
        let began = Instant::now();
        let answer = client.register(registration(Uuid::new_v4(), "other", HashMap::new())).await;
        note(answer, began, &mut took, &counts);
        sleep(Duration::from_millis(50)).await;
    }
    took
}

fn note<T>(answer: Result<T, Status>, began: Instant, took: &mut Vec<Duration>, counts: &Counts) {
    took.push(began.elapsed());
    if let Err(status) = answer {
        println!("refused: {status}");
        counts.refused.fetch_add(1, Relaxed);
    }
}

fn p99_ms(mut took: Vec<Duration>) -> f64 {
    took.sort_unstable();
    took[(took.len() - 1) * 99 / 100].as_secs_f64() * 1_000.0
}

fn rate(calls: u64, length: Duration) -> f64 {
    float(calls) / length.as_secs_f64()
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}
