//! Users of a registry: callers that ask, and actors that register and beat.
//!
//! An [`Actor`] keeps to the protocol: it beats a little more often than every third of its TTL, stays with a daemon
//! that accepts, goes to the next one when it does not, and ends when it is told that its lease is over. What it was
//! told is kept for the test to see.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use musterd::proto::v1::{self, InstanceStatus};
use musterd_client::{Builder, Choice, Client, Cluster, Filter, Instance, Reason, Resolved, Rotated};
use tokio::task::JoinHandle;
use tonic::{Code, Status, transport::Endpoint};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::{daemon::Daemon, postgres::BOUND, secured::connector, wait::wait_until, wire::Wire};

/// What [`reason`] calls all that no daemon has said: the transport has many codes for a connection that ends.
pub(crate) const TRANSPORT: &str = "transport";

/// The reason in the details of a refusal.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(|| TRANSPORT.to_owned(), |info| info.reason)
}

/// A registration of an instance that is alive at once; node and pid make it the same owner when it is repeated.
pub(crate) fn alive(logical_id: &str, ttl: Duration) -> v1::RegisterRequest {
    v1::RegisterRequest {
        instance_id: Uuid::new_v4().to_string(),
        logical_id: logical_id.into(),
        node_id: "node".into(),
        pid: 1,
        ttl: Some(ttl.try_into().unwrap()),
        initial_status: InstanceStatus::Alive.into(),
        ..Default::default()
    }
}

/// A client of one daemon, for all that a test is not about; refusals come as their reasons.
///
/// What `musterd-client` offers goes through it, with one attempt for each call, and without the memory of revisions that an
/// application wants: an answer is what the daemon knows by itself. That crate keeps every lease that it registers
/// (`docs/decisions/0020-no-lease-without-its-keeper.md`), so leases without beats, and single beats, are calls of the wire.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    settings: Builder,
    /// For what the crate does not offer.
    pub(crate) wire: Wire,
}

impl Caller {
    /// Connects at the first call, and again after the daemon was away.
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let limit = Duration::from_secs(10);
        let endpoint = Endpoint::from_shared(format!("http://{}", daemon.grpc_addr)).unwrap();
        let endpoint = endpoint.connect_timeout(Duration::from_secs(2)).timeout(limit);
        let settings = Client::builder().timeout(limit).retry_for(Duration::ZERO);
        match daemon.tls() {
            Some(tls) => Self {
                settings: settings.daemons([format!("https://{}", daemon.grpc_addr)]).tls(tls.clone()),
                wire: Wire::over(endpoint.connect_with_connector_lazy(connector(tls, &daemon.grpc_addr))),
            },
            None => Self { settings: settings.daemons([&daemon.grpc_addr]), wire: Wire::over(endpoint.connect_lazy()) },
        }
    }

    /// A client that has seen nothing yet.
    pub(crate) fn client(&self) -> Client {
        self.settings.clone().build().unwrap()
    }

    /// Registers a lease that is not kept.
    pub(crate) async fn register(&self, request: v1::RegisterRequest) -> Result<v1::RegisterResponse, String> {
        answer(self.wire.registry.clone().register(request).await)
    }

    /// Renews a lease once.
    pub(crate) async fn beat(&self, lease_id: u64) -> Result<v1::BeatResponse, String> {
        answer(self.wire.registry.clone().beat(v1::BeatRequest { lease_id, instance_id: String::new() }).await)
    }

    pub(crate) async fn instance(&self, instance_id: impl ToString) -> Result<Instance, String> {
        let found = self.client().instance(instance_id.to_string().parse().unwrap()).await;
        Ok(found.map_err(|error| name(&error))?.instance)
    }

    pub(crate) async fn resolve(&self, logical_id: &str) -> Result<Resolved, String> {
        self.resolve_at(logical_id, 0).await
    }

    /// As [`Self::resolve`], at this revision or later.
    pub(crate) async fn resolve_at(&self, logical_id: &str, min_revision: u64) -> Result<Resolved, String> {
        let client = self.client();
        client.require_revision(min_revision);
        client.resolve(logical_id, &Choice::best()).await.map_err(|error| name(&error))
    }

    /// The id of the instance that a name resolves to, or the reason why there is none.
    pub(crate) async fn best(&self, logical_id: &str) -> String {
        match self.resolve(logical_id).await {
            Ok(resolved) => resolved.instance.instance_id.to_string(),
            Err(reason) => reason,
        }
    }

    /// All instances that match, by logical id and instance id.
    pub(crate) async fn list(&self, filter: Filter) -> Result<Vec<Instance>, String> {
        self.client().list(filter).try_collect().await.map_err(|error| name(&error))
    }

    pub(crate) async fn cluster(&self) -> Result<Cluster, String> {
        self.client().cluster(0).await.map_err(|error| name(&error))
    }

    /// Rotates the epoch, however soon after another rotation.
    pub(crate) async fn rotate(&self, reason: &str) -> Result<Rotated, String> {
        self.client().force_rotate_epoch(Uuid::new_v4(), None, reason).await.map_err(|error| name(&error))
    }

    /// Changes the status of an instance. Returns the revision.
    pub(crate) async fn set_status(&self, instance_id: &str, status: musterd_client::Status) -> Result<u64, String> {
        let changed = self.client().set_status(instance_id.parse().unwrap(), status).await;
        Ok(changed.map_err(|error| name(&error))?.revision)
    }

    /// Ends the lease of an instance. Returns the revision.
    pub(crate) async fn deregister(&self, instance_id: &str) -> Result<u64, String> {
        let changed = self.client().deregister(instance_id.parse().unwrap()).await;
        Ok(changed.map_err(|error| name(&error))?.revision)
    }
}

fn answer<T>(answered: Result<tonic::Response<T>, Status>) -> Result<T, String> {
    answered.map(tonic::Response::into_inner).map_err(|status| reason(&status))
}

/// The reason of an error, in the words of [`reason`].
fn name(error: &musterd_client::Error) -> String {
    match error.reason() {
        Reason::Unavailable | Reason::Other => TRANSPORT.to_owned(),
        reason => reason.name().to_owned(),
    }
}

/// What an actor was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Beats that were accepted.
    pub(crate) accepted: u64,
    /// Reasons of those that were not, in order.
    pub(crate) refused: Vec<String>,
}

/// A registered instance that beats in the background until it is dropped.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) lease: v1::RegisterResponse,
    told: Arc<Mutex<Told>>,
    task: JoinHandle<()>,
}

impl Actor {
    /// Registers at the first daemon, and beats at the first that accepts.
    pub(crate) async fn start(callers: &[Caller], logical_id: &str, ttl: Duration) -> Self {
        let lease = callers[0].register(alive(logical_id, ttl)).await.unwrap();
        Self::resume(callers, lease)
    }

    /// Beats for a lease that was granted before.
    pub(crate) fn resume(callers: &[Caller], lease: v1::RegisterResponse) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let interval: Duration = lease.beat_interval.unwrap().try_into().unwrap();
        let task = tokio::spawn(live(callers.to_vec(), lease.lease_id, interval, Arc::clone(&told)));
        Self { lease, told, task }
    }

    /// The id of its instance.
    pub(crate) fn id(&self) -> &str {
        &self.lease.instance_id
    }

    /// What it was told so far.
    pub(crate) fn told(&self) -> Told {
        self.told.lock().unwrap().clone()
    }

    /// Waits until so many of its beats in all were accepted.
    pub(crate) async fn accepted(&self, goal: u64) {
        wait_until("beats are accepted", BOUND, async || match self.told() {
            told if told.accepted >= goal => Ok(()),
            told => Err(told),
        })
        .await;
    }

    /// Falls silent; returns the lease it had.
    pub(crate) async fn fall_silent(self) -> v1::RegisterResponse {
        self.task.abort();
        // A beat that is under way would be heard later.
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        self.lease.clone()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn live(callers: Vec<Caller>, lease_id: u64, interval: Duration, told: Arc<Mutex<Told>>) {
    let mut at = 0;
    loop {
        let mut heard = false;
        for _ in 0..callers.len() {
            let request = v1::BeatRequest { lease_id, instance_id: String::new() };
            match callers[at].wire.registry.clone().beat(request).await {
                Ok(_) => {
                    told.lock().unwrap().accepted += 1;
                    heard = true;
                    break;
                }
                Err(status) => {
                    told.lock().unwrap().refused.push(reason(&status));
                    if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) {
                        return;
                    }
                    at = (at + 1) % callers.len();
                }
            }
        }
        let pause = if heard { interval.mul_f64(0.9) } else { Duration::from_millis(200) };
        tokio::time::sleep(pause).await;
    }
}
