//! RegistryService: actors register, beat, change status, leave.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{beat_stream, reader};
use crate::{
    connections::limits::Peer,
    metrics::RegistrationMetrics,
    model::{
        DeathReason, InstanceId, InstanceStatus, LeaseId, Operation, Origin, Outcome, StatusChange, Verdict, input,
    },
    proto::v1::{self, registry_service_server::RegistryService},
    registry::{Accepted, BeatError, Leases, Writer},
    view::View,
    wire::{
        convert::{self, duration},
        failure::Failure,
    },
};

/// How long an answer waits for the view to show what it tells.
const READ_YOUR_WRITES: Duration = Duration::from_millis(500);

/// The service.
#[derive(Debug)]
pub struct Registry {
    writer: Writer,
    leases: Arc<Leases>,
    view: View,
    stop: CancellationToken,
    metrics: RegistrationMetrics,
}

/// An instance named by a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    instance_id: InstanceId,
    /// The lease the caller means; `None`: whichever the instance has.
    lease_id: Option<LeaseId>,
}

impl Registry {
    /// The service on top of the write side; answers wait for `view`, streams end on `stop`.
    #[must_use]
    pub fn new(writer: Writer, leases: Arc<Leases>, view: View, stop: CancellationToken) -> Self {
        Self { writer, leases, view, stop, metrics: RegistrationMetrics::new() }
    }

    async fn register(
        &self,
        request: v1::RegisterRequest,
        origin: Option<Origin>,
    ) -> Result<v1::RegisterResponse, Failure> {
        let registration = convert::registration(request)?;
        let (instance_id, ttl) = (registration.instance_id, registration.ttl);
        let outcome = self.apply(Operation::Register(Box::new(registration)), origin).await?;
        let lease_id = outcome.lease_id.ok_or(Failure::Write(crate::registry::Error::Internal))?;
        self.count_accepted(&outcome.verdict);
        let granted = outcome.verdict != Verdict::Renewed;
        if let Some(lease) = self.leases.get(lease_id) {
            lease.registered_here(self.view.clock().now_ms(), granted);
        }
        Ok(v1::RegisterResponse {
            instance_id: instance_id.to_string(),
            lease_id: lease_id.0,
            cluster_epoch: outcome.epoch.id.to_string(),
            epoch_number: outcome.epoch.number,
            revision: outcome.revision.0,
            ttl: Some(duration(ttl.as_duration())),
            beat_interval: Some(duration(Duration::from_millis(ttl.beat_interval_ms()))),
            status: outcome.status.map_or(v1::InstanceStatus::Unspecified, convert::status_code).into(),
        })
    }

    async fn beat(&self, request: v1::BeatRequest) -> Result<v1::BeatResponse, Failure> {
        let lease_id = if request.instance_id.is_empty() && request.lease_id != 0 {
            LeaseId(request.lease_id)
        } else {
            self.current_lease(request.lease_id, &request.instance_id).await?
        };
        let mut verdict = self.leases.beat(lease_id);
        if verdict == Err(BeatError::Unknown) && reader::may_still_come(&self.view, lease_id) {
            reader::lease(&self.view, lease_id).await?;
            verdict = self.leases.beat(lease_id);
        }
        beat_response(lease_id, verdict)
    }

    /// The lease to beat for a request that names an instance.
    async fn current_lease(&self, lease_id: u64, instance_id: &str) -> Result<LeaseId, Failure> {
        let target = self.target(lease_id, instance_id).await?;
        let snapshot = reader::snapshot(&self.view, 0).await?;
        let entry = snapshot.instance(target.instance_id).ok_or(Failure::UnknownInstance)?;
        let current = entry.instance.lease_id;
        match target.lease_id {
            Some(named) if named < current => Err(Failure::LeaseReplaced),
            Some(named) if named > current => Err(Failure::UnknownLease(named)),
            _ => Ok(current),
        }
    }

    /// Reads whom a request means.
    async fn target(&self, lease_id: u64, instance_id: &str) -> Result<Target, Failure> {
        let (lease_id, instance_id) = convert::target(lease_id, instance_id)?;
        if let Some(lease_id) = lease_id
            && self.leases.get(lease_id).is_none()
            && reader::may_still_come(&self.view, lease_id)
        {
            reader::lease(&self.view, lease_id).await?;
        }
        let owner = lease_id.and_then(|lease_id| self.leases.get(lease_id)).map(|lease| lease.instance_id);
        if instance_id.is_some_and(|named| owner.is_some_and(|owner| owner != named)) {
            input::invalid("lease_id", "is the lease of another instance; give one of the two, or its own")?;
        }
        let instance_id =
            instance_id.or(owner).ok_or(lease_id.map_or(Failure::UnknownInstance, Failure::UnknownLease))?;
        Ok(Target { instance_id, lease_id })
    }

    async fn change_status(
        &self,
        target: Target,
        status: InstanceStatus,
        origin: Option<Origin>,
    ) -> Result<Outcome, Failure> {
        let Target { instance_id, lease_id } = target;
        let reason = DeathReason::Deregistered;
        self.apply(
            Operation::SetStatus(StatusChange {
                instance_id,
                lease_id,
                status,
                reason,
                identity: None,
                as_operator: false,
            }),
            origin,
        )
        .await
    }

    /// Makes a change, and waits for the view to show it.
    async fn apply(&self, operation: Operation, origin: Option<Origin>) -> Result<Outcome, Failure> {
        let named = match &operation {
            Operation::Register(_) => None,
            Operation::SetStatus(change) => change.lease_id,
        };
        let outcome = self.writer.apply(operation, origin).await?;
        refusal(&outcome, named)?;
        // Whether or not it is in time: the change is made.
        self.view.wait_for(outcome.revision, READ_YOUR_WRITES).await;
        Ok(outcome)
    }

    fn count_accepted(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Created => self.metrics.created.increment(1),
            Verdict::Replaced => self.metrics.replaced.increment(1),
            _ => self.metrics.renewed.increment(1),
        }
    }

    fn count_refused(&self, failure: &Failure) {
        match failure {
            Failure::Invalid(_) => self.metrics.invalid.increment(1),
            Failure::EpochFenced(_) => self.metrics.fenced.increment(1),
            Failure::InstanceIdTaken => self.metrics.taken.increment(1),
            Failure::Write(crate::registry::Error::Full(_)) => self.metrics.full.increment(1),
            _ => self.metrics.failed.increment(1),
        }
    }
}

/// The address that a call comes from.
fn origin<T>(request: &Request<T>) -> Option<Origin> {
    request.extensions().get::<Peer>().map(|peer| peer.origin)
}

/// What a decision means to the caller, if it is a refusal.
fn refusal(outcome: &Outcome, named: Option<LeaseId>) -> Result<(), Failure> {
    match &outcome.verdict {
        Verdict::Created | Verdict::Renewed | Verdict::Replaced | Verdict::Set(_) => Ok(()),
        Verdict::EpochFenced => Err(Failure::EpochFenced(outcome.epoch)),
        Verdict::Taken => Err(Failure::InstanceIdTaken),
        Verdict::Unknown => Err(named.map_or(Failure::UnknownInstance, Failure::UnknownLease)),
        Verdict::Expired => Err(Failure::LeaseExpired),
        Verdict::LeaseReplaced => Err(Failure::LeaseReplaced),
        Verdict::InvalidTransition(from) => Err(Failure::InvalidTransition(*from)),
    }
}

fn beat_response(lease_id: LeaseId, verdict: Result<Accepted, BeatError>) -> Result<v1::BeatResponse, Failure> {
    let accepted = verdict.map_err(|error| match error {
        BeatError::Unknown => Failure::UnknownLease(lease_id),
        BeatError::Expired => Failure::LeaseExpired,
        BeatError::Replaced => Failure::LeaseReplaced,
        BeatError::Fenced(epoch) => Failure::EpochFenced(epoch),
        BeatError::NotSaved => Failure::BeatsNotSaved,
        BeatError::NotLoaded => Failure::NotYetSeen,
    })?;
    Ok(v1::BeatResponse {
        ttl: Some(duration(accepted.ttl.as_duration())),
        next_beat_in: Some(duration(Duration::from_millis(accepted.ttl.beat_interval_ms()))),
        cluster_epoch: accepted.epoch.id.to_string(),
        epoch_number: accepted.epoch.number,
        lease_id: accepted.lease_id.0,
    })
}

#[tonic::async_trait]
impl RegistryService for Registry {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let origin = origin(&request);
        let registered = self.register(request.into_inner(), origin).await;
        let registered = registered.inspect_err(|failure| self.count_refused(failure));
        Ok(Response::new(registered?))
    }

    async fn beat(&self, request: Request<v1::BeatRequest>) -> Result<Response<v1::BeatResponse>, Status> {
        Ok(Response::new(self.beat(request.into_inner()).await?))
    }

    type BeatStreamStream = beat_stream::Responses;

    async fn beat_stream(
        &self,
        request: Request<Streaming<v1::BeatStreamRequest>>,
    ) -> Result<Response<Self::BeatStreamStream>, Status> {
        let (leases, view, stop) = (Arc::clone(&self.leases), self.view.clone(), self.stop.clone());
        Ok(Response::new(beat_stream::serve(request.into_inner(), leases, view, stop)))
    }

    async fn set_status(
        &self,
        request: Request<v1::SetStatusRequest>,
    ) -> Result<Response<v1::SetStatusResponse>, Status> {
        let origin = origin(&request);
        let request = request.into_inner();
        let status = convert::set_status(&request)?;
        let target = self.target(request.lease_id, &request.instance_id).await?;
        let outcome = self.change_status(target, status, origin).await?;
        let lease_id = outcome.lease_id.map(|lease_id| lease_id.0).unwrap_or_default();
        Ok(Response::new(v1::SetStatusResponse { lease_id, revision: outcome.revision.0 }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let origin = origin(&request);
        let request = request.into_inner();
        let target = self.target(request.lease_id, &request.instance_id).await?;
        let outcome = self.change_status(target, InstanceStatus::Dead, origin).await?;
        Ok(Response::new(v1::DeregisterResponse {
            lease_id: outcome.lease_id.map(|lease_id| lease_id.0).unwrap_or_default(),
            revision: outcome.revision.0,
            already_dead: outcome.verdict == Verdict::Set(false),
        }))
    }
}
