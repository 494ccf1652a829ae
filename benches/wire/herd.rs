//! A herd with client certificates: each of ten thousand connections has an instance of its own. Their daemon is killed and
//! started again, and all handshakes come at once. None of the instances may be declared dead.
//!
//! Connections of the client and of the daemon are files: `ulimit -n` must allow for as many and some more.

use std::{
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use musterd::proto::v1::{
    BeatRequest, InstanceStatus, RegisterRequest, registry_service_client::RegistryServiceClient,
};
use musterd_client::Tls;
use tokio::{net::TcpSocket, sync::Semaphore, task::JoinSet, time::sleep};
use tonic::transport::{Channel, Endpoint};

use crate::{
    secured::Files,
    table::{Goal, Table},
    world::World,
};

/// The default of musterd, whose herd this is.
const TTL_SECONDS: i64 = 15;
/// As a client should: a little more often than every third of the TTL.
const PAUSE: Duration = Duration::from_millis(4_500);
/// Handshakes that the client makes at once at the beginning, which is not what is measured.
const AT_ONCE: usize = 200;

#[derive(Debug, Default)]
struct Told {
    registered: AtomicU64,
    beaten: AtomicU64,
    broken: AtomicU64,
    refused: AtomicU64,
}

async fn connect(
    addr: SocketAddr,
    tls: &Tls,
    from: u8,
) -> Result<RegistryServiceClient<Channel>, tonic::transport::Error> {
    let (to, tls) = (addr, tls.clone());
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            // No address reaches its limit of connections.
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from(([127, 0, 2, 1 + from], 0)))?;
            let stream = socket.connect(to).await?;
            let stream = tls.connect(stream, "127.0.0.1", "h2").await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.timeout(Duration::from_secs(5));
    Ok(RegistryServiceClient::new(endpoint.connect_with_connector(connector).await?))
}

/// One client: registers, then beats, on a new connection when the old one is gone.
async fn live(number: usize, addr: SocketAddr, tls: Tls, told: Arc<Told>, begin: Arc<Semaphore>) {
    let (mut lease, from) = (0, u8::try_from(number % 40).unwrap());
    // The same pause for none of them, without a source of chance.
    let jitter = Duration::from_millis((number as u64 * 7_919) % 500);
    loop {
        let place = if lease == 0 { begin.acquire().await.ok() } else { None };
        let Ok(mut registry) = connect(addr, &tls, from).await else {
            told.broken.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(200) + jitter).await;
            continue;
        };
        if lease == 0 {
            let request = RegisterRequest {
                logical_id: format!("herd-{}", number % 100),
                initial_status: InstanceStatus::Alive.into(),
                ttl: Some(prost_types::Duration { seconds: TTL_SECONDS, nanos: 0 }),
                ..Default::default()
            };
            let Ok(granted) = registry.register(request).await else { continue };
            lease = granted.into_inner().lease_id;
            told.registered.fetch_add(1, Ordering::Relaxed);
        }
        drop(place);
        loop {
            match registry.beat(BeatRequest { lease_id: lease, ..Default::default() }).await {
                Ok(_) => drop(told.beaten.fetch_add(1, Ordering::Relaxed)),
                Err(status)
                    if status.code() == tonic::Code::NotFound || status.code() == tonic::Code::FailedPrecondition =>
                {
                    told.refused.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(_) => break,
            }
            sleep(PAUSE).await;
        }
        told.broken.fetch_add(1, Ordering::Relaxed);
        sleep(jitter).await;
    }
}

/// Waits until a count is reached; returns how long that took.
async fn until(count: &AtomicU64, goal: u64, what: &str) -> Duration {
    let began = Instant::now();
    while count.load(Ordering::Relaxed) < goal {
        assert!(began.elapsed() < Duration::from_secs(300), "{what}: {} of {goal}", count.load(Ordering::Relaxed));
        sleep(Duration::from_millis(100)).await;
    }
    began.elapsed()
}

pub(crate) async fn measure(world: &mut World, table: &mut Table) {
    let clients = env::var("MUSTERD_WIRE_HERD").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000_usize);
    let files = Files::make(world, "herd");
    let directory = files.directory();
    let flags = ["--security-dir", directory.as_str()];
    let addr = world.add_daemon(&flags);
    let tls = Tls::new().ca(files.at("ca.pem")).identity(files.at("operator.pem"), files.at("operator.key"));
    let (told, begin) = (Arc::new(Told::default()), Arc::new(Semaphore::new(AT_ONCE)));
    let mut herd = JoinSet::new();
    for number in 0..clients {
        herd.spawn(live(number, addr.parse().unwrap(), tls.clone(), Arc::clone(&told), Arc::clone(&begin)));
    }
    println!("a herd of {clients} connections");
    until(&told.registered, clients as u64, "registered").await;
    until(&told.beaten, 2 * clients as u64, "beaten").await;
    let before = told.beaten.load(Ordering::Relaxed);
    world.kill_and_restart(&addr, &flags);
    let back = until(&told.beaten, before + clients as u64, "back").await;
    // Long enough for every lease that was not renewed to end.
    sleep(Duration::from_secs(2 * TTL_SECONDS.unsigned_abs())).await;
    let dead =
        world.count("SELECT count(*) FROM registry_instance WHERE logical_id LIKE 'herd-%' AND status = 'dead'").await;
    table.add("herd mtls connections", clients as f64);
    table.add("herd mtls back s", back.as_secs_f64());
    table.add("herd mtls memory MB", world.memory_mb(&addr));
    table.add("herd mtls dead", dead as f64);
    table.add("herd mtls refused", told.refused.load(Ordering::Relaxed) as f64);
}

pub(crate) fn goals() -> Vec<Goal> {
    vec![
        Goal::at_most("Herd with client certificates, connections", "herd mtls connections", None),
        Goal::at_most("Herd with client certificates, as many beats again after, s", "herd mtls back s", None),
        Goal::at_most("Herd with client certificates, memory of the daemon, MB", "herd mtls memory MB", None),
        Goal::at_most("Herd with client certificates, declared dead", "herd mtls dead", Some(1.0)),
        Goal::at_most("Herd with client certificates, refused beats", "herd mtls refused", Some(1.0)),
    ]
}
