//! A registry that a daemon serves: the database, the daemon, clients of every service, and what tests ask of them.
//!
//! What must succeed is unwrapped here; what must fail is read as a [`Refusal`], the whole of what a caller is told.

use std::{collections::HashMap, fmt::Debug, time::Duration};

use musterd::{
    model::InstanceStatus as Status,
    proto::v1::{
        self, cluster_service_client::ClusterServiceClient, discovery_service_client::DiscoveryServiceClient,
        registry_service_client::RegistryServiceClient,
    },
};
use tonic::{Code, Response, transport::Channel};
use tonic_types::StatusExt;

use super::{
    daemon::Daemon,
    registry::{Registry, get, id},
};

/// One connection to a daemon with a client for each service. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// For actors.
    pub(crate) registry: RegistryServiceClient<Channel>,
    /// For routers.
    pub(crate) discovery: DiscoveryServiceClient<Channel>,
    /// For operators.
    pub(crate) cluster: ClusterServiceClient<Channel>,
}

impl Clients {
    /// Connects.
    pub(crate) async fn of(daemon: &Daemon) -> Self {
        let channel = daemon.channel().await;
        Self {
            registry: RegistryServiceClient::new(channel.clone()),
            discovery: DiscoveryServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel),
        }
    }

    /// Registers.
    pub(crate) async fn register(&self, request: v1::RegisterRequest) -> v1::RegisterResponse {
        self.registry.clone().register(request).await.unwrap().into_inner()
    }

    /// Sets the status of an instance. Returns the revision.
    pub(crate) async fn set_status(&self, instance: u128, status: Status) -> u64 {
        let request = v1::SetStatusRequest {
            instance_id: id(instance).to_string(),
            status: wire(status).into(),
            ..Default::default()
        };
        self.registry.clone().set_status(request).await.unwrap().into_inner().revision
    }

    /// Ends the lease of an instance.
    pub(crate) async fn deregister(&self, instance: u128) -> v1::DeregisterResponse {
        let request = v1::DeregisterRequest { instance_id: id(instance).to_string(), ..Default::default() };
        self.registry.clone().deregister(request).await.unwrap().into_inner()
    }

    /// Beats for an instance.
    pub(crate) async fn beat(&self, instance: u128) -> v1::BeatResponse {
        let request = v1::BeatRequest { instance_id: id(instance).to_string(), ..Default::default() };
        self.registry.clone().beat(request).await.unwrap().into_inner()
    }

    /// What is on record of an instance.
    pub(crate) async fn instance(&self, instance: u128) -> v1::Instance {
        let request = v1::GetInstanceRequest { instance_id: id(instance).to_string(), min_revision: 0 };
        self.discovery.clone().get_instance(request).await.unwrap().into_inner().instance.unwrap()
    }

    /// Resolves a name at a revision or later.
    pub(crate) async fn resolve(
        &self,
        logical_id: &str,
        min_revision: u64,
    ) -> Result<v1::ResolveResponse, tonic::Status> {
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
        self.cluster.clone().rotate_epoch(v1::RotateEpochRequest::default()).await.unwrap().into_inner()
    }

    /// Every instance on record, dead ones included, by logical id and instance id.
    pub(crate) async fn everything(&self) -> Vec<v1::Instance> {
        self.everything_at(0).await
    }

    /// As [`Clients::everything`], at this revision or later.
    pub(crate) async fn everything_at(&self, min_revision: u64) -> Vec<v1::Instance> {
        let statuses = Status::ALL.map(|status| wire(status).into()).to_vec();
        let request = v1::ListInstancesRequest { statuses, page_size: 1_000, min_revision, ..Default::default() };
        let page = self.discovery.clone().list_instances(request).await.unwrap().into_inner();
        assert_eq!(page.next_page_token, "", "more than a thousand instances");
        page.instances
    }
}

/// A registry in a database of its own, and a daemon that serves it.
#[derive(Debug)]
pub(crate) struct Served {
    /// The database.
    pub(crate) sql: Registry,
    /// The daemon.
    pub(crate) daemon: Daemon,
    /// A connection to the daemon.
    pub(crate) clients: Clients,
}

impl Served {
    /// Makes an empty registry and serves it.
    pub(crate) async fn start() -> Self {
        let sql = Registry::head().await;
        let daemon = Daemon::start(sql.database.url()).await;
        let clients = Clients::of(&daemon).await;
        Self { sql, daemon, clients }
    }

    /// The latest revision, as PostgreSQL has it.
    pub(crate) async fn revision(&self) -> u64 {
        let revision: i64 = get(&self.sql.client, "SELECT revision FROM cluster_metadata").await;
        u64::try_from(revision).unwrap()
    }
}

/// The registration of an alive instance of a process of its own.
pub(crate) fn registration(instance: u128, logical_id: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        instance_id: id(instance).to_string(),
        logical_id: logical_id.to_owned(),
        node_id: "node".to_owned(),
        ip_address: "10.0.0.1".to_owned(),
        pid: i64::try_from(instance).unwrap(),
        ttl: Some(seconds(300)),
        initial_status: v1::InstanceStatus::Alive.into(),
        ..Default::default()
    }
}

/// A duration on the wire.
pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// A status on the wire.
pub(crate) fn wire(status: Status) -> v1::InstanceStatus {
    match status {
        Status::Starting => v1::InstanceStatus::Starting,
        Status::Alive => v1::InstanceStatus::Alive,
        Status::Draining => v1::InstanceStatus::Draining,
        Status::Dead => v1::InstanceStatus::Dead,
    }
}

/// What a caller is told by an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The status code.
    pub(crate) code: Code,
    /// The reason in `ErrorInfo`; empty if there is none.
    pub(crate) reason: String,
    /// The metadata in `ErrorInfo`.
    pub(crate) metadata: HashMap<String, String>,
    /// The message.
    pub(crate) message: String,
    /// Fields and descriptions in `BadRequest`.
    pub(crate) fields: Vec<(String, String)>,
    /// The delay in `RetryInfo`.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// Code and reason.
    pub(crate) fn verdict(&self) -> (Code, &str) {
        (self.code, &self.reason)
    }
}

/// Reads the error that a call must end with.
pub(crate) fn refusal<T: Debug>(result: Result<T, tonic::Status>) -> Refusal {
    let status = result.unwrap_err();
    let details = status.get_error_details();
    let info = details.error_info();
    if let Some(info) = info {
        assert_eq!(info.domain, "musterd");
    }
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    Refusal {
        code: status.code(),
        reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
        metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
        message: status.message().to_owned(),
        fields: violations.into_iter().map(|violation| (violation.field, violation.description)).collect(),
        retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
    }
}
