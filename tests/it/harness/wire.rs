//! The wire itself: generated types, for tests of requests and answers as they are sent, of streams, and of leases that
//! nothing renews. All that `musterd-client` offers and a test is not about goes through [`super::actor::Caller`].
//!
//! This is the one place that makes generated clients, but for those that carry tokens (`tests/it/architecture.rs:
//! GENERATED_CLIENTS_IN`).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::stream;
use musterd::{
    model::InstanceStatus as InstanceState,
    proto::{
        encoded::WatchResponse,
        v1::{
            self, BeatStreamRequest, BeatStreamResponse, DeregisterRequest, Instance, InstanceStatus, RegisterRequest,
            RegisterResponse, SetStatusRequest, WatchEvent, WatchEventType,
            cluster_service_client::ClusterServiceClient, discovery_service_client::DiscoveryServiceClient,
            registry_service_client::RegistryServiceClient,
        },
    },
};
use prost::Message as _;
use tokio::{sync::mpsc, time::sleep};
use tonic::{Response, Status, Streaming, transport::Channel};

use super::{daemon::Daemon, registry::id};

/// One connection to a daemon with a client for each service. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// For actors.
    pub(crate) registry: RegistryServiceClient<Channel>,
    /// For routers.
    pub(crate) discovery: DiscoveryServiceClient<Channel>,
    /// For operators.
    pub(crate) cluster: ClusterServiceClient<Channel>,
}

impl Wire {
    /// Connects.
    pub(crate) async fn of(daemon: &Daemon) -> Self {
        Self::over(daemon.channel().await)
    }

    /// Over a connection that exists or is made at the first call.
    pub(crate) fn over(channel: Channel) -> Self {
        Self {
            registry: RegistryServiceClient::new(channel.clone()),
            discovery: DiscoveryServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel),
        }
    }

    /// Registers.
    pub(crate) async fn register(&self, request: RegisterRequest) -> RegisterResponse {
        self.registry.clone().register(request).await.unwrap().into_inner()
    }

    /// Sets the status of an instance. Returns the revision.
    pub(crate) async fn set_status(&self, instance: u128, status: InstanceState) -> u64 {
        let request = SetStatusRequest {
            instance_id: id(instance).to_string(),
            status: wire(status).into(),
            ..Default::default()
        };
        self.registry.clone().set_status(request).await.unwrap().into_inner().revision
    }

    /// Ends the lease of an instance.
    pub(crate) async fn deregister(&self, instance: u128) -> v1::DeregisterResponse {
        let request = DeregisterRequest { instance_id: id(instance).to_string(), ..Default::default() };
        self.registry.clone().deregister(request).await.unwrap().into_inner()
    }

    /// Beats for an instance.
    pub(crate) async fn beat(&self, instance: u128) -> v1::BeatResponse {
        let request = v1::BeatRequest { instance_id: id(instance).to_string(), ..Default::default() };
        self.registry.clone().beat(request).await.unwrap().into_inner()
    }

    /// What is on record of an instance.
    pub(crate) async fn instance(&self, instance: u128) -> Instance {
        let request = v1::GetInstanceRequest { instance_id: id(instance).to_string(), min_revision: 0 };
        self.discovery.clone().get_instance(request).await.unwrap().into_inner().instance.unwrap()
    }

    /// Resolves a name at a revision or later.
    pub(crate) async fn resolve(&self, logical_id: &str, min_revision: u64) -> Result<v1::ResolveResponse, Status> {
        let request = v1::ResolveRequest { logical_id: logical_id.to_owned(), min_revision, choice: None };
        self.discovery.clone().resolve(request).await.map(Response::into_inner)
    }

    /// The instance id that a name resolves to, and how many alternatives there are.
    pub(crate) async fn best(&self, logical_id: &str) -> (String, u32) {
        let resolved = self.resolve(logical_id, 0).await.unwrap();
        (resolved.instance.unwrap().instance_id, resolved.alternatives)
    }

    /// Begins a new epoch.
    pub(crate) async fn rotate(&self) -> v1::RotateEpochResponse {
        self.cluster
            .clone()
            .rotate_epoch(v1::RotateEpochRequest { force: true, ..Default::default() })
            .await
            .unwrap()
            .into_inner()
    }

    /// Every instance on record, dead ones included, by logical id and instance id.
    pub(crate) async fn everything(&self) -> Vec<Instance> {
        self.everything_at(0).await
    }

    /// As [`Wire::everything`], at this revision or later.
    pub(crate) async fn everything_at(&self, min_revision: u64) -> Vec<Instance> {
        let statuses = InstanceState::ALL.map(|status| wire(status).into()).to_vec();
        let request = v1::ListInstancesRequest { statuses, page_size: 1_000, min_revision, ..Default::default() };
        let page = self.discovery.clone().list_instances(request).await.unwrap().into_inner();
        assert_eq!(page.next_page_token, "", "more than a thousand instances");
        page.instances
    }
}

/// A status on the wire.
pub(crate) fn wire(status: InstanceState) -> InstanceStatus {
    match status {
        InstanceState::Starting => InstanceStatus::Starting,
        InstanceState::Alive => InstanceStatus::Alive,
        InstanceState::Draining => InstanceStatus::Draining,
        InstanceState::Dead => InstanceStatus::Dead,
    }
}

/// A registration that is alive at once.
pub(crate) fn alive(logical_id: &str) -> RegisterRequest {
    RegisterRequest {
        logical_id: logical_id.into(),
        initial_status: InstanceStatus::Alive.into(),
        ..Default::default()
    }
}

/// Registers and expects a lease.
pub(crate) async fn register(
    registry: &mut RegistryServiceClient<Channel>,
    request: RegisterRequest,
) -> RegisterResponse {
    registry.register(request).await.unwrap().into_inner()
}

/// Ends a lease.
pub(crate) async fn deregister(registry: &mut RegistryServiceClient<Channel>, lease_id: u64) -> u64 {
    let request = DeregisterRequest { lease_id, ..Default::default() };
    registry.deregister(request).await.unwrap().into_inner().revision
}

/// Changes a status.
pub(crate) async fn set_status(
    registry: &mut RegistryServiceClient<Channel>,
    lease_id: u64,
    status: InstanceStatus,
) -> u64 {
    let request = SetStatusRequest { lease_id, status: status.into(), ..Default::default() };
    registry.set_status(request).await.unwrap().into_inner().revision
}

/// A TTL for a request.
pub(crate) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// An open stream of beats.
#[derive(Debug)]
pub(crate) struct BeatStream {
    pub(crate) requests: mpsc::Sender<BeatStreamRequest>,
    pub(crate) responses: Streaming<BeatStreamResponse>,
}

impl BeatStream {
    /// Opens a stream.
    pub(crate) async fn open(daemon: &Daemon) -> Self {
        let (requests, queue) = mpsc::channel(1_000);
        let queue = stream::unfold(queue, async |mut queue| queue.recv().await.map(|request| (request, queue)));
        let responses = daemon.registry().await.beat_stream(queue).await.unwrap().into_inner();
        Self { requests, responses }
    }

    /// Sends one request and waits for its answer.
    pub(crate) async fn beat(&mut self, lease_ids: &[u64]) -> Result<BeatStreamResponse, Status> {
        let request = BeatStreamRequest { lease_ids: lease_ids.to_vec(), goodbye: false };
        self.requests.send(request).await.unwrap();
        self.responses.message().await?.ok_or_else(|| Status::aborted("ended"))
    }

    /// Beats until the stream has renewed these leases for longer than a beat interval, so that its end counts.
    pub(crate) async fn beat_for_an_interval(&mut self, lease_ids: &[u64]) {
        let started = Instant::now();
        let answer = self.beat(lease_ids).await.unwrap();
        let interval = Duration::try_from(answer.next_beat_in.unwrap()).unwrap();
        while started.elapsed() < interval + Duration::from_millis(200) {
            sleep(interval / 5).await;
            assert!(self.beat(lease_ids).await.unwrap().renewed > 0);
        }
    }
}

/// What a watcher knows, kept as a client would keep it, and checked against the promises of a watch on the way.
#[derive(Debug)]
pub(crate) struct Watcher {
    stream: Streaming<WatchResponse>,
    /// The instances known, by instance id.
    pub(crate) known: BTreeMap<String, Instance>,
    /// Ids for which the last hint was that they are suspect.
    pub(crate) suspects: Vec<String>,
    /// How often an instance was told to be suspect.
    pub(crate) suspected: usize,
    /// The largest response, in bytes.
    pub(crate) largest: usize,
    /// Where to resume.
    pub(crate) revision: u64,
    /// The history that belongs to.
    pub(crate) history_id: String,
    /// The current epoch as last told.
    pub(crate) epoch_number: u64,
    /// How often the watcher received a reset.
    pub(crate) resets: u32,
    /// Whether the snapshot is complete.
    pub(crate) complete: bool,
    /// Revisions of all changes seen after the snapshot, in the order they came.
    pub(crate) seen: Vec<u64>,
}

impl Watcher {
    /// Begins to watch.
    pub(crate) async fn open(daemon: &Daemon, request: v1::WatchRequest) -> Result<Self, Status> {
        let complete = request.resume_after != 0;
        let stream = daemon.discovery().await.watch(request).await?.into_inner();
        Ok(Self {
            stream,
            known: BTreeMap::new(),
            suspects: Vec::new(),
            suspected: 0,
            largest: 0,
            revision: 0,
            history_id: String::new(),
            epoch_number: 0,
            resets: 0,
            complete,
            seen: Vec::new(),
        })
    }

    /// Takes over one response; fails with the status that ended the stream.
    pub(crate) async fn step(&mut self) -> Result<(), Status> {
        let response = tokio::time::timeout(Duration::from_secs(20), self.stream.message()).await;
        let response = response.unwrap()?;
        let response = response.ok_or_else(|| Status::aborted("the stream ended without a reason"))?;
        self.largest = self.largest.max(response.encoded_len());
        if response.reset {
            self.resets += 1;
            self.known.clear();
            self.complete = false;
        }
        for event in &response.events {
            self.take(WatchEvent::decode(event.clone()).unwrap());
        }
        if response.snapshot_complete {
            self.complete = true;
        }
        if self.complete {
            assert!(response.revision >= self.revision || response.reset, "revisions never go back");
            self.revision = response.revision;
        }
        self.history_id = response.history_id;
        self.epoch_number = response.epoch_number;
        Ok(())
    }

    fn take(&mut self, event: WatchEvent) {
        let kind = event.r#type();
        let instance = event.instance.unwrap();
        match kind {
            WatchEventType::Put | WatchEventType::Gone => {
                if self.complete {
                    assert!(self.seen.last().is_none_or(|last| *last < instance.revision), "in order, none twice");
                    assert!(instance.revision > self.revision, "not again what was seen");
                    self.seen.push(instance.revision);
                }
                if kind == WatchEventType::Put {
                    self.known.insert(instance.instance_id.clone(), instance);
                } else {
                    self.known.remove(&instance.instance_id);
                }
            }
            WatchEventType::Suspect => {
                self.suspected += 1;
                self.suspects.push(instance.instance_id);
            }
            WatchEventType::Recovered => self.suspects.retain(|id| *id != instance.instance_id),
            WatchEventType::Unspecified => panic!("an event without a type"),
        }
    }

    /// Takes over responses until the snapshot is complete and everything up to `revision` was seen.
    pub(crate) async fn reach(&mut self, revision: u64) {
        while !self.complete || self.revision < revision {
            self.step().await.unwrap();
        }
    }

    /// Takes over responses until `done`.
    pub(crate) async fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            self.step().await.unwrap();
        }
    }

    /// The request that goes on where this one is.
    pub(crate) fn resumption(&self, request: v1::WatchRequest) -> v1::WatchRequest {
        v1::WatchRequest { resume_after: self.revision, history_id: self.history_id.clone(), ..request }
    }
}
