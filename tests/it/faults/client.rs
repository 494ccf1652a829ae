//! A client of several daemons, whose every call is on record.
//!
//! A call waits half a second for its answer, so that ambiguity happens. What comes back without a reason of the
//! daemon's own is unknown: the transport cannot tell what became of a request.

use std::time::Duration;

use musterd::proto::v1::{self, InstanceStatus};
use musterd_client::{Beat, Kind, Tls};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::history::{Answer, History, Op, Outcome, Row};
use crate::harness::wire::Wire;

/// How long a call waits for its answer.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// How long a call of the client crate may take, all attempts included.
const MEMBER_PATIENCE: Duration = Duration::from_secs(3);

/// A registration asked for.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) instance: Uuid,
    pub(crate) logical_id: String,
    /// Unique; goes into the name of the actor.
    pub(crate) content: String,
    pub(crate) epoch: Option<Uuid>,
    pub(crate) status: InstanceStatus,
    pub(crate) ttl: Duration,
}

impl Registration {
    /// One of a probe, that a daemon acknowledges changes.
    pub(crate) fn probe(instance: Uuid, ttl: Duration) -> Self {
        let (logical_id, content) = ("probe".to_owned(), format!("probe-{instance}"));
        Self { instance, logical_id, content, epoch: None, status: InstanceStatus::Alive, ttl }
    }
}

/// One sequential client with a connection to each daemon.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: u32,
    pub(crate) history: History,
    channels: Vec<Channel>,
}

/// A connection that is made at the first call, and again when it breaks or stalls.
pub(crate) fn channel(addr: &str) -> Channel {
    endpoint(addr).connect_lazy()
}

/// How connections are made.
pub(crate) fn endpoint(addr: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .connect_timeout(PATIENCE)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(1))
}

/// What an error says of the call: whether it definitely had no effect.
pub(crate) fn failure(status: &Status) -> Outcome {
    match status.get_details_error_info() {
        Some(info) if info.reason != "MAYBE_APPLIED" => Outcome::Fail(info.reason),
        Some(info) => Outcome::Unknown(info.reason),
        None => Outcome::Unknown(format!("{:?}: {}", status.code(), status.message())),
    }
}

/// An instance as rows of the history tell it.
pub(crate) fn row(instance: &v1::Instance) -> Row {
    Row {
        instance: instance.instance_id.parse().unwrap(),
        lease: instance.lease_id,
        revision: instance.revision,
        epoch: instance.epoch_number,
        status: instance.status().as_str_name().trim_start_matches("INSTANCE_STATUS_").to_lowercase(),
    }
}

/// An instance of the client crate as rows of the history tell it.
pub(crate) fn row_of(instance: &musterd_client::Instance) -> Row {
    Row {
        instance: instance.instance_id,
        lease: instance.lease_id,
        revision: instance.revision,
        epoch: instance.epoch_number,
        status: instance.status.as_str().to_owned(),
    }
}

/// What an error of the client crate says of a read.
pub(crate) fn failed_read(error: &musterd_client::Error) -> Outcome {
    match error.kind() {
        Kind::NotFound => Outcome::Fail(error.reason().name().to_owned()),
        _ => Outcome::Unknown(error.to_string()),
    }
}

/// The client crate, as a process of an application has it: it knows all daemons behind these addresses, begins with the
/// one at `first`, and its beats are on record.
pub(crate) fn member(
    id: u32,
    addrs: &[String],
    first: usize,
    history: &History,
    tls: Option<Tls>,
) -> musterd_client::Client {
    let (known, history) = (addrs.to_vec(), history.clone());
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut order: Vec<_> = addrs.iter().map(|addr| format!("{scheme}://{addr}")).collect();
    order.rotate_left(first % addrs.len());
    let record = move |beat: &Beat<'_>| {
        let daemon = place(&known, beat.daemon);
        for lease in beat.leases {
            let refused = beat.outcome.map(|refused| refused.iter().find(|(refused, _)| refused == lease));
            let outcome = match refused {
                Ok(None) => Outcome::Ok(Answer::Beaten),
                Ok(Some((_, reason))) => Outcome::Fail(reason.name().to_owned()),
                Err(error) => Outcome::Unknown(error.to_string()),
            };
            history.record(id, daemon, beat.sent, Op::Beat { lease: *lease }, outcome);
        }
    };
    let builder = musterd_client::Client::builder().daemons(order).timeout(MEMBER_PATIENCE).beat_observer(record);
    builder.tls(tls.unwrap_or_default()).build().unwrap()
}

/// Which of these addresses it is.
pub(crate) fn place(addrs: &[String], daemon: &musterd_client::Address) -> usize {
    let daemon = daemon.to_string();
    addrs.iter().position(|addr| daemon.ends_with(addr.as_str())).unwrap()
}

impl Client {
    /// A client with these connections, one to each daemon.
    pub(crate) fn new(id: u32, channels: Vec<Channel>, history: &History) -> Self {
        Self { id, history: history.clone(), channels }
    }

    /// How many daemons there are.
    pub(crate) fn daemons(&self) -> usize {
        self.channels.len()
    }

    /// For what is not a plain call.
    pub(crate) fn wire(&self, daemon: usize) -> Wire {
        Wire::over(self.channels[daemon].clone())
    }

    async fn call<T>(
        &self,
        daemon: usize,
        attempt: u32,
        op: Op,
        answering: impl Future<Output = Result<Response<T>, Status>>,
        read: impl FnOnce(T) -> Answer,
    ) -> Outcome {
        let call = self.history.invoke(self.id, daemon, attempt, op);
        let outcome = match tokio::time::timeout(PATIENCE, answering).await {
            Ok(Ok(response)) => Outcome::Ok(read(response.into_inner())),
            Ok(Err(status)) => failure(&status),
            Err(_) => Outcome::Unknown("no answer in time".to_owned()),
        };
        self.history.complete(call, outcome.clone());
        outcome
    }

    pub(crate) async fn register(&self, daemon: usize, attempt: u32, asked: &Registration) -> Outcome {
        let request = v1::RegisterRequest {
            instance_id: asked.instance.to_string(),
            logical_id: asked.logical_id.clone(),
            cluster_epoch: asked.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
            actor_name: asked.content.clone(),
            node_id: "node".to_owned(),
            pid: 1 + i64::from(self.id),
            ttl: Some(asked.ttl.try_into().unwrap()),
            initial_status: asked.status.into(),
            ..Default::default()
        };
        let op = Op::Register { instance: asked.instance, content: asked.content.clone(), epoch: asked.epoch };
        let mut registry = self.wire(daemon).registry;
        let read = |granted: v1::RegisterResponse| Answer::Registered {
            lease: granted.lease_id,
            revision: granted.revision,
            epoch: granted.epoch_number,
        };
        self.call(daemon, attempt, op, registry.register(request), read).await
    }

    pub(crate) async fn beat(&self, daemon: usize, lease: u64) -> Outcome {
        let request = v1::BeatRequest { lease_id: lease, instance_id: String::new() };
        let mut registry = self.wire(daemon).registry;
        self.call(daemon, 1, Op::Beat { lease }, registry.beat(request), |_| Answer::Beaten).await
    }

    pub(crate) async fn set_status(&self, daemon: usize, attempt: u32, lease: u64, status: InstanceStatus) -> Outcome {
        let request = v1::SetStatusRequest { lease_id: lease, status: status.into(), ..Default::default() };
        let word = status.as_str_name().trim_start_matches("INSTANCE_STATUS_").to_lowercase();
        let mut registry = self.wire(daemon).registry;
        let read = |set: v1::SetStatusResponse| Answer::Set {
            lease: set.lease_id,
            revision: set.revision,
            already_dead: false,
        };
        self.call(daemon, attempt, Op::SetStatus { lease, status: word }, registry.set_status(request), read).await
    }

    pub(crate) async fn deregister(&self, daemon: usize, attempt: u32, lease: u64) -> Outcome {
        let request = v1::DeregisterRequest { lease_id: lease, ..Default::default() };
        let mut registry = self.wire(daemon).registry;
        let read = |ended: v1::DeregisterResponse| Answer::Set {
            lease: ended.lease_id,
            revision: ended.revision,
            already_dead: ended.already_dead,
        };
        self.call(daemon, attempt, Op::Deregister { lease }, registry.deregister(request), read).await
    }

    pub(crate) async fn rotate(&self, daemon: usize, attempt: u32, epoch: Uuid) -> Outcome {
        let request = v1::RotateEpochRequest { new_epoch: epoch.to_string(), force: true, ..Default::default() };
        let mut cluster = self.wire(daemon).cluster;
        let read = |rotated: v1::RotateEpochResponse| Answer::Rotated {
            epoch: rotated.epoch_number,
            revision: rotated.revision,
        };
        self.call(daemon, attempt, Op::Rotate { epoch }, cluster.rotate_epoch(request), read).await
    }

    pub(crate) async fn resolve(&self, daemon: usize, logical_id: &str, min_revision: u64) -> Outcome {
        let request = v1::ResolveRequest { logical_id: logical_id.to_owned(), min_revision, choice: None };
        let op = Op::Resolve { logical_id: logical_id.to_owned(), min_revision };
        let mut discovery = self.wire(daemon).discovery;
        let read = |found: v1::ResolveResponse| Answer::Resolved {
            revision: found.revision,
            epoch: found.epoch_number,
            row: row(&found.instance.unwrap()),
        };
        self.call(daemon, 1, op, discovery.resolve(request), read).await
    }

    pub(crate) async fn list(&self, daemon: usize, min_revision: u64) -> Outcome {
        let request = v1::ListInstancesRequest { page_size: 1_000, min_revision, ..Default::default() };
        let mut discovery = self.wire(daemon).discovery;
        let read = |page: v1::ListInstancesResponse| Answer::Listed {
            revision: page.revision,
            rows: page.instances.iter().map(row).collect(),
        };
        self.call(daemon, 1, Op::List { min_revision }, discovery.list_instances(request), read).await
    }
}
