//! The channel of the Rust client for clients of tonic, against servers that stop, hang, never ran, or ask for TLS.

mod hanging;
mod tls;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use musterd_client::{ChannelSettings, Client, MusterChannel, Register, Registration, Router};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::timeout,
};
use tonic::{
    Code, Request,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{daemon::Daemon, postgres::TestDatabase, wait::wait_until};

/// How long an event may take on a loaded machine.
const BOUND: Duration = Duration::from_secs(40);
const NAME: &str = "greeter";
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How often each call has come to a server, by the number that it carries.
type Arrivals = Arc<Mutex<HashMap<u32, u32>>>;

/// A server of stock gRPC on a runtime of its own, so that it ends as a process that is killed: its connections break.
struct Greeter {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Greeter {
    fn start() -> Self {
        Self::counting(&Arrivals::default())
    }

    fn counting(arrivals: &Arrivals) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let incoming = {
            let _on = runtime.enter();
            TcpIncoming::bind((LOCAL, 0).into()).unwrap()
        };
        let address = incoming.local_addr().unwrap();
        let (arrivals, (_, health)) = (Arc::clone(arrivals), tonic_health::server::health_reporter());
        let counted = InterceptedService::new(health, move |request: Request<()>| {
            let number = request.metadata().get("number").map_or(0, |number| number.to_str().unwrap().parse().unwrap());
            *arrivals.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
            Ok(request)
        });
        drop(runtime.spawn(Server::builder().add_service(counted).serve_with_incoming(incoming)));
        Self { address, runtime: Some(runtime) }
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// A registry, with a client of it.
struct Place {
    client: Client,
    kept: Vec<Registration>,
    _daemon: Daemon,
    _database: TestDatabase,
}

impl Place {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        let daemon = Daemon::start(database.url()).await;
        let addresses = [daemon.grpc_addr.clone()];
        let client = Client::builder().daemons(addresses).timeout(Duration::from_secs(20)).build().unwrap();
        Self { client, kept: Vec::new(), _daemon: daemon, _database: database }
    }

    async fn register(&mut self, address: SocketAddr) {
        let wanted = Register::new(NAME).address(address.ip(), address.port()).ttl(Duration::from_secs(300));
        self.kept.push(self.client.register(wanted).await.unwrap());
    }

    fn router(&self) -> Router {
        Router::new(&self.client)
    }

    fn channel(&self) -> MusterChannel {
        MusterChannel::new(&self.router(), NAME)
    }
}

async fn greet(channel: MusterChannel) -> Result<(), tonic::Status> {
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop)
}

/// A call with a number, and with a deadline.
async fn numbered(channel: MusterChannel, number: u32, within: Duration) -> Result<(), tonic::Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("number", number.into());
    request.set_timeout(within);
    HealthClient::new(channel).check(request).await.map(drop)
}

async fn connected(channel: &MusterChannel, count: usize) {
    wait_until("instances are connected", BOUND, async || {
        let now = channel.connected();
        if now == count { Ok(()) } else { Err(now) }
    })
    .await;
}

/// Makes so many calls, some at a time, while `disturb` runs each time that a share of them has begun. Returns those that have
/// failed.
async fn calls(
    channel: &MusterChannel,
    count: u32,
    shares: u32,
    mut disturb: impl AsyncFnMut(u32),
) -> Vec<(u32, tonic::Status)> {
    const AT_A_TIME: u32 = 8;
    let (next, mut callers) = (Arc::new(AtomicU32::new(0)), JoinSet::new());
    for _ in 0..AT_A_TIME {
        let (channel, next) = (channel.clone(), Arc::clone(&next));
        callers.spawn(async move {
            let mut failed = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return failed;
                }
                if let Err(status) = numbered(channel.clone(), number, BOUND).await {
                    failed.push((number, status));
                }
            }
        });
    }
    for share in 1..shares {
        wait_until("a share of the calls has begun", BOUND, async || {
            let begun = next.load(Ordering::Relaxed);
            if begun >= count / shares * share { Ok(()) } else { Err(begun) }
        })
        .await;
        disturb(share).await;
    }
    callers.join_all().await.into_iter().flatten().collect()
}

/// Three servers, of which one is killed and replaced with each share of the calls. Returns what has failed.
async fn calls_while_servers_are_killed(is_idempotent: bool, arrivals: &Arrivals) -> Vec<(u32, tonic::Status)> {
    let (mut place, mut greeters) = (Place::new().await, Vec::new());
    for _ in 0..3 {
        let greeter = Greeter::counting(arrivals);
        place.register(greeter.address).await;
        greeters.push(greeter);
    }
    let channel = if is_idempotent { place.channel().idempotent() } else { place.channel() };
    connected(&channel, 3).await;
    calls(&channel, 10_000, 5, async |_| {
        // The registry does not know that it is gone until it is given back.
        drop(greeters.remove(0));
        connected(&channel, 2).await;
        let greeter = Greeter::counting(arrivals);
        place.register(greeter.address).await;
        place.kept.remove(0).close(Duration::ZERO).await.unwrap();
        greeters.push(greeter);
        connected(&channel, 3).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_10_000_idempotent_calls_fails_while_servers_are_killed() {
    let arrivals = Arrivals::default();
    let failed = calls_while_servers_are_killed(true, &arrivals).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(arrivals.lock().unwrap().len(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_10_000_calls_is_repeated_and_only_sent_ones_fail_with_a_killed_server() {
    let arrivals = Arrivals::default();
    let failed = calls_while_servers_are_killed(false, &arrivals).await;
    let arrivals = arrivals.lock().unwrap();
    assert!(arrivals.values().all(|times| *times == 1), "a call that was sent is not repeated");
    // At most those that were under way when one of the four was killed.
    assert!(failed.len() <= 4 * 8, "{failed:?}");
    for (number, status) in &failed {
        let told = (status.code(), status.message().contains("has broken"));
        assert_eq!(told, (Code::Unavailable, true), "{number}: {status:?}");
    }
    let lost = (0..10_000).filter(|number| !arrivals.contains_key(number));
    let unknown: Vec<_> = lost.filter(|number| !failed.iter().any(|(one, _)| one == number)).collect();
    assert!(unknown.is_empty(), "calls that were answered have arrived: {unknown:?}");
}

#[tokio::test]
async fn channel_of_tonic_fails_calls_to_a_server_that_never_ran() {
    // The proof that the tests above can fail: tonic's own balancer takes an endpoint for ready that no server listens at.
    let (channel, endpoints) = Channel::balance_channel::<usize>(4);
    let greeter = Greeter::start();
    let unused = TcpListener::bind((LOCAL, 0)).await.unwrap().local_addr().unwrap();
    for (key, address) in [greeter.address, unused].into_iter().enumerate() {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        endpoints.send(tonic::transport::channel::Change::Insert(key, endpoint)).await.unwrap();
    }
    let mut failed = 0;
    for _ in 0..200 {
        let mut health = HealthClient::new(channel.clone());
        failed += usize::from(health.check(HealthCheckRequest::default()).await.is_err());
    }
    assert!(failed > 0);

    let mut place = Place::new().await;
    for address in [greeter.address, unused] {
        place.register(address).await;
    }
    let ours = place.channel();
    for _ in 0..200 {
        greet(ours.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn channel_without_an_instance_fails_with_the_reason_and_waits_for_the_first() {
    let mut place = Place::new().await;
    let router = place.router();
    let mut settings = ChannelSettings::default();
    settings.wait = Duration::from_millis(100);
    let refused = greet(MusterChannel::with(&router, NAME, settings)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let details = tonic_types::StatusExt::get_details_error_info(&refused).unwrap();
    assert_eq!((details.reason.as_str(), details.domain.as_str()), ("NO_LIVE_INSTANCE", "musterd"));

    settings.wait = BOUND;
    let waiting = tokio::spawn(greet(MusterChannel::with(&router, NAME, settings)));
    let greeter = Greeter::start();
    place.register(greeter.address).await;
    timeout(BOUND, waiting).await.unwrap().unwrap().unwrap();
}

/// A server whose process hangs: the kernel accepts connections for it.
async fn hanging() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
