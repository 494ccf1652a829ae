//! A run: its connections, its own names, what it registers, and that this goes away again.
//!
//! Everything is registered through many calls at the same time, so that the daemon puts hundreds into one commit, and
//! under an instance id that is chosen here, so that a call without an answer can be repeated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use musterd_client::Client;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{
    error::Error,
    options::RunArgs,
    progress::{Progress, Stop},
    used,
    wire::{Channel, Wire},
};
use crate::{
    proto::v1::{self, InstanceStatus, registry_service_client::RegistryServiceClient},
    terminal::output,
};

/// Most registrations at the same time, below what the daemon queues.
const PARALLEL_MAX: usize = 512;
/// Most of them on one connection, below what the daemon takes.
const PARALLEL_PER_CONNECTION: usize = 128;
/// How often a registration is tried.
const TRIES: u32 = 6;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(300);
/// How long cleaning up may take: this, and a millisecond for each instance.
const CLEANUP_TIME: Duration = Duration::from_secs(10);
/// The TTL of what is held while other calls are measured: the longest there is.
pub(super) const HELD_TTL: Duration = Duration::from_secs(300);

/// One run of a benchmark.
#[derive(Debug)]
pub(super) struct Run {
    /// For what is not measured.
    pub(super) client: Client,
    wires: Vec<Wire>,
    /// Begins every logical id of the run.
    pub(super) prefix: String,
    /// Whether the user wants the end.
    pub(super) stop: Stop,
    /// How long an answer may take.
    pub(super) grace: Duration,
}

impl Run {
    /// Connects so many times, for names that begin with `prefix`, or with one of its own.
    ///
    /// # Errors
    ///
    /// No connection, or [`Error::Precondition`] if others use the registry and `run` does not accept that.
    pub(super) async fn open(client: &Client, connections: u32, run: &RunArgs) -> Result<Self, Error> {
        client.ready(client.timeout()).await?;
        let mut wires = Vec::new();
        for _ in 0..connections {
            wires.push(Wire::connect(client).await?);
        }
        if !run.yes {
            used::refuse(client).await?;
        }
        let prefix = run
            .prefix
            .as_deref()
            .map_or_else(|| format!("bench-{}", &Uuid::new_v4().simple().to_string()[..12]), str::to_owned);
        let (client, grace) = (client.clone(), client.timeout());
        Ok(Self { client, wires, prefix, stop: Stop::on_signals(), grace })
    }

    /// The connections.
    pub(super) fn wires(&self) -> &[Wire] {
        &self.wires
    }

    /// A connection, each in its turn.
    pub(super) fn wire(&self, number: usize) -> &Wire {
        &self.wires[number % self.wires.len()]
    }

    /// For actors, on a connection in its turn.
    pub(super) fn registry(&self, number: usize) -> RegistryServiceClient<Channel> {
        self.wire(number).registry()
    }

    /// One value for each caller, spread over the connections.
    pub(super) fn callers<T>(&self, in_flight: u32, mut make: impl FnMut(&Wire) -> T) -> Vec<T> {
        (0..in_flight).flat_map(|_| &self.wires).map(&mut make).collect()
    }

    /// What to register under a number.
    pub(super) fn registration(&self, number: u64, ttl: Duration) -> v1::RegisterRequest {
        registration(&self.prefix, number, ttl)
    }

    /// Registers so many instances, alive, and returns their leases by number.
    pub(super) async fn register(&self, count: u64, ttl: Duration) -> Result<Vec<u64>, Error> {
        let progress = Progress::start("registering", Some(count));
        let registered = self.register_each(0..count, ttl, &progress.counter(), |_, _| {}).await;
        drop(progress);
        match registered {
            Ok(leases) => Ok(leases),
            Err((leases, status)) => {
                self.clean_up(&leases, false).await;
                Err(status.into())
            }
        }
    }

    /// Registers a range of numbers; `granted` hears of each lease at once. On failure: what was registered, and why.
    pub(super) async fn register_each(
        &self,
        numbers: std::ops::Range<u64>,
        ttl: Duration,
        done: &Arc<AtomicU64>,
        granted: impl Fn(u64, u64) + Clone + Send + 'static,
    ) -> Result<Vec<u64>, (Vec<u64>, Status)> {
        let next = Arc::new(AtomicU64::new(numbers.start));
        let mut tasks = JoinSet::new();
        for caller in 0..self.width(numbers.end - numbers.start) {
            let (mut registry, next, done) = (self.registry(caller), Arc::clone(&next), Arc::clone(done));
            let (prefix, stop, end, granted) = (self.prefix.clone(), self.stop.clone(), numbers.end, granted.clone());
            tasks.spawn(async move {
                let mut leases = Vec::new();
                while !stop.is_wanted() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        break;
                    }
                    match register_one(&mut registry, registration(&prefix, number, ttl)).await {
                        Ok(response) => {
                            granted(number, response.lease_id);
                            leases.push((number, response.lease_id));
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(status) => {
                            next.store(end, Ordering::Relaxed);
                            return (leases, Some(status));
                        }
                    }
                }
                (leases, None)
            });
        }
        let (mut leases, mut failure) = (Vec::new(), None);
        while let Some(Ok((more, status))) = tasks.join_next().await {
            leases.extend(more);
            failure = failure.or(status);
        }
        leases.sort_unstable();
        let leases = leases.into_iter().map(|(_, lease_id)| lease_id).collect();
        failure.map_or(Ok(()), Err).map_or_else(|status| Err((Vec::clone(&leases), status)), |()| Ok(leases.clone()))
    }

    /// Deregisters leases unless they are to be kept. Returns how many are left.
    pub(super) async fn clean_up(&self, leases: &[u64], keep: bool) -> u64 {
        let count = u64::try_from(leases.len()).unwrap_or(u64::MAX);
        if keep {
            return count;
        }
        if leases.is_empty() {
            return self.sweep().await;
        }
        let progress = Progress::start("deregistering", Some(count));
        let done = progress.counter();
        let bound = CLEANUP_TIME + Duration::from_millis(count);
        let _ = timeout(bound, self.deregister(leases, &done)).await;
        drop(progress);
        let missed = count - done.load(Ordering::Relaxed).min(count);
        // Also what was registered by calls whose answer was lost.
        let left = missed.max(self.sweep().await);
        if left > 0 {
            output::note(&format!(
                "{left} instances named {}-* could not be deregistered; their leases end",
                self.prefix
            ));
        }
        left
    }

    /// Cleans up after a run that failed on its way; what was registered is then known from the registry alone.
    pub(super) async fn tidy<T>(&self, outcome: Result<T, Error>, keep: bool) -> Result<T, Error> {
        if outcome.is_err() && !keep {
            self.sweep().await;
        }
        outcome
    }

    /// Deregisters what is still on record of this run. Returns how many are left.
    async fn sweep(&self) -> u64 {
        let Ok(leases) = used::of_run(&self.client, &self.prefix).await else { return 0 };
        let count = u64::try_from(leases.len()).unwrap_or(u64::MAX);
        if leases.is_empty() {
            return 0;
        }
        let done = Arc::new(AtomicU64::new(0));
        let _ = timeout(CLEANUP_TIME + Duration::from_millis(count), self.deregister(&leases, &done)).await;
        count - done.load(Ordering::Relaxed).min(count)
    }

    async fn deregister(&self, leases: &[u64], done: &Arc<AtomicU64>) {
        let mut tasks = JoinSet::new();
        let width = self.width(u64::try_from(leases.len()).unwrap_or(u64::MAX));
        for (caller, share) in leases.chunks(leases.len().div_ceil(width)).enumerate() {
            let (mut registry, share, done) = (self.registry(caller), share.to_vec(), Arc::clone(done));
            tasks.spawn(async move {
                for lease_id in share {
                    if deregister_one(&mut registry, lease_id).await {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// How many calls at the same time are worth it.
    fn width(&self, count: u64) -> usize {
        let most = (self.wires.len() * PARALLEL_PER_CONNECTION).min(PARALLEL_MAX);
        usize::try_from(count).unwrap_or(usize::MAX).clamp(1, most)
    }
}

/// What a run registers under a number.
pub(super) fn registration(prefix: &str, number: u64, ttl: Duration) -> v1::RegisterRequest {
    v1::RegisterRequest {
        instance_id: Uuid::new_v4().to_string(),
        logical_id: name(prefix, number),
        node_id: format!("{}{}", used::NODE, number % 16),
        ip_address: "127.0.0.1".to_owned(),
        port: 1 + u32::try_from(number % 65_535).unwrap_or_default(),
        pid: std::process::id().into(),
        ttl: prost_types::Duration::try_from(ttl).ok(),
        initial_status: InstanceStatus::Alive.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    }
}

/// The logical id of a number.
pub(super) fn name(prefix: &str, number: u64) -> String {
    format!("{prefix}-{number}")
}

async fn register_one(
    registry: &mut RegistryServiceClient<Channel>,
    request: v1::RegisterRequest,
) -> Result<v1::RegisterResponse, Status> {
    let mut tries = 1;
    loop {
        match registry.register(request.clone()).await.map(Response::into_inner) {
            Err(status) if tries < TRIES && may_pass(&status) => {
                sleep(PAUSE * tries).await;
                tries += 1;
            }
            answer => return answer,
        }
    }
}

async fn deregister_one(registry: &mut RegistryServiceClient<Channel>, lease_id: u64) -> bool {
    for _ in 1..TRIES {
        match registry.deregister(v1::DeregisterRequest { lease_id, instance_id: String::new() }).await {
            Ok(_) => return true,
            Err(status) if may_pass(&status) => sleep(PAUSE).await,
            // Dead and purged, or taken over: either way not ours any more.
            Err(status) => return matches!(status.code(), tonic::Code::NotFound | tonic::Code::FailedPrecondition),
        }
    }
    false
}

fn may_pass(status: &Status) -> bool {
    use tonic::Code;
    matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Cancelled)
}
