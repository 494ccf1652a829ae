//! RegistryService: actors register, beat, change status, leave.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    beat_stream,
    permit::{Claim, Permit},
    reader,
};
use crate::{
    access::{Access, Caller, Verb},
    audit::Audited,
    clock::Clock,
    connections::limits::{Peer, PeerAddress},
    gate::{self, standing::Standing},
    metrics::{RefusedMetrics, RegistrationMetrics},
    model::{
        DeathReason, InstanceId, InstanceStatus, LeaseId, Operation, Origin, Outcome, Registration, StatusChange,
        Verdict, input,
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
/// A view that was not confirmed for as long has lost its feed, which polls every second.
const FEED_AWAY: Duration = Duration::from_secs(2);

/// The service.
#[derive(Debug)]
pub struct Registry {
    writer: Writer,
    leases: Arc<Leases>,
    view: View,
    access: Access,
    stop: CancellationToken,
    metrics: RegistrationMetrics,
    refused: RefusedMetrics,
}

/// A call: its caller, and the address that it comes from.
#[derive(Debug)]
struct Call {
    caller: Caller,
    origin: Option<Origin>,
    address: Option<PeerAddress>,
}

impl Call {
    /// The identity that asks for a change; `None` without a policy.
    fn identity(&self) -> Option<Arc<str>> {
        self.caller.is_enforced().then(|| self.caller.identity().as_str().into())
    }

    /// That the caller may register this, and has not registered too often.
    fn admit(&self, registration: &Registration, clock: Clock) -> Result<(), Failure> {
        let name = registration.logical_id.as_str();
        self.caller.require(Verb::Register, name)?;
        if let Some(address) = registration.ip_address {
            let peer = self.address.and_then(PeerAddress::ip);
            self.caller.require_address(name, address, peer)?;
        }
        Ok(self.caller.count_registration(clock.now_ms())?)
    }
}

/// An instance named by a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    instance_id: InstanceId,
    /// The lease the caller means; `None`: whichever the instance has.
    lease_id: Option<LeaseId>,
}

impl Registry {
    /// The service on top of the write side; answers wait for `view`, callers are held to `access`, streams end on `stop`.
    #[must_use]
    pub fn new(writer: Writer, leases: Arc<Leases>, view: View, access: Access, stop: CancellationToken) -> Self {
        let (metrics, refused) = (RegistrationMetrics::new(), RefusedMetrics::new());
        Self { writer, leases, view, access, stop, metrics, refused }
    }

    fn call<T>(&self, request: &Request<T>) -> Result<Call, Failure> {
        let peer = request.extensions().get::<Peer>();
        let (origin, address) = (peer.map(|peer| peer.origin), peer.map(|peer| peer.address));
        Ok(Call { caller: gate::caller(&self.access, request.extensions())?, origin, address })
    }

    async fn register(&self, request: v1::RegisterRequest, call: &Call) -> Result<v1::RegisterResponse, Failure> {
        let registration = convert::registration(request)?;
        call.admit(&registration, self.view.clock())?;
        let records_max = call.caller.limits().map(|limits| limits.records);
        let registration = Registration { identity: call.identity(), records_max, ..registration };
        let (instance_id, ttl) = (registration.instance_id, registration.ttl);
        let outcome = self.apply(Operation::Register(Box::new(registration)), call.origin).await;
        let outcome = outcome.map_err(|failure| match failure {
            Failure::Write(crate::registry::Error::OwnerFull(limit)) => call.caller.records_exceeded(limit).into(),
            failure => failure,
        })?;
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

    async fn beat(&self, request: v1::BeatRequest, caller: &Caller) -> Result<v1::BeatResponse, Failure> {
        let permit = Permit::new(caller, &self.view);
        let lease_id = if request.instance_id.is_empty() && request.lease_id != 0 {
            LeaseId(request.lease_id)
        } else {
            self.current_lease(request.lease_id, &request.instance_id, permit).await?
        };
        let beat = || self.leases.beat_if(lease_id, |lease| permit.beat(lease));
        let mut verdict = beat();
        if verdict == Err(BeatError::Unknown) && reader::may_still_come(&self.view, lease_id) {
            reader::lease(&self.view, lease_id).await?;
            verdict = beat();
        }
        if verdict == Err(BeatError::Denied)
            && let Some(Claim::Lost(name)) = self.leases.get(lease_id).map(|lease| permit.claim(&lease, Verb::Beat))
        {
            return Err(permit.lost(&name));
        }
        beat_response(lease_id, verdict)
    }

    /// The lease to beat for a request that names an instance.
    async fn current_lease(&self, lease_id: u64, instance_id: &str, permit: Permit<'_>) -> Result<LeaseId, Failure> {
        let target = self.target(lease_id, instance_id, permit, Verb::Beat).await?;
        let snapshot = reader::snapshot(&self.view, 0).await?;
        let entry = snapshot.instance(target.instance_id);
        let entry = entry.filter(|entry| permit.claim(&entry.lease, Verb::Beat) != Claim::None);
        let current = entry.ok_or(Failure::UnknownInstance)?.instance.lease_id;
        match target.lease_id {
            Some(named) if named < current => Err(Failure::LeaseReplaced),
            Some(named) if named > current => Err(Failure::UnknownLease(named)),
            _ => Ok(current),
        }
    }

    /// Reads whom a request means. A lease that does not exist to the caller, where `verb` is the one for leases of others, is
    /// not looked at.
    async fn target(
        &self,
        lease_id: u64,
        instance_id: &str,
        permit: Permit<'_>,
        verb: Verb,
    ) -> Result<Target, Failure> {
        let (lease_id, instance_id) = convert::target(lease_id, instance_id)?;
        if let Some(lease_id) = lease_id
            && self.leases.get(lease_id).is_none()
            && reader::may_still_come(&self.view, lease_id)
        {
            reader::lease(&self.view, lease_id).await?;
        }
        let lease = lease_id.and_then(|lease_id| self.leases.get(lease_id));
        let lease = lease.filter(|lease| permit.claim(lease, verb) != Claim::None);
        let owner = lease.map(|lease| lease.instance_id);
        if instance_id.is_some_and(|named| owner.is_some_and(|owner| owner != named)) {
            input::invalid("lease_id", "is the lease of another instance; give one of the two, or its own")?;
        }
        let instance_id =
            instance_id.or(owner).ok_or(lease_id.map_or(Failure::UnknownInstance, Failure::UnknownLease))?;
        Ok(Target { instance_id, lease_id })
    }

    /// Changes the status of the instance that a request names.
    ///
    /// PostgreSQL decides whether the caller owns the instance, so that an instance of another owner and one that does not
    /// exist are refused after the same work. Only what does not depend on the owner is decided here: on the lease that it was
    /// decided for.
    async fn change_status(
        &self,
        (lease_id, instance_id): (u64, &str),
        (status, status_reason): (InstanceStatus, Option<Arc<str>>),
        call: &Call,
    ) -> Result<(Outcome, Audited), Failure> {
        let permit = Permit::new(&call.caller, &self.view);
        let Target { instance_id, mut lease_id } = self.target(lease_id, instance_id, permit, Verb::Operate).await?;
        let mut as_operator = false;
        if permit.is_enforced() {
            let snapshot = self.view.snapshot();
            let entry = snapshot.instance(instance_id);
            let entry = entry.filter(|entry| lease_id.is_none_or(|named| named == entry.instance.lease_id));
            match entry.map(|entry| (entry, permit.claim(&entry.lease, Verb::Operate))) {
                Some((_, Claim::Lost(name))) => return Err(permit.lost(&name)),
                Some((entry, Claim::Other)) => (as_operator, lease_id) = (true, Some(entry.instance.lease_id)),
                _ => {}
            }
        }
        let (reason, identity) = (DeathReason::Deregistered, call.identity());
        let change = StatusChange { instance_id, lease_id, status, reason, status_reason, identity, as_operator };
        let outcome = self.apply(Operation::SetStatus(change), call.origin).await?;
        let lease_id = outcome.lease_id.map(|lease_id| lease_id.0).unwrap_or_default();
        Ok((outcome, Audited { object: format!("instance {instance_id} lease {lease_id}"), as_operator }))
    }

    /// Makes a change, and waits for the view to show it.
    async fn apply(&self, operation: Operation, origin: Option<Origin>) -> Result<Outcome, Failure> {
        let named = match &operation {
            Operation::Register(_) => None,
            Operation::SetStatus(change) => change.lease_id,
        };
        let outcome = self.writer.apply(operation, origin).await?;
        refusal(&outcome, named)?;
        // Whether or not it is in time: the change is made. After a failover the writer is back before the feed has loaded the
        // registry, and what depends on the change waits for its revision.
        if self.view.stale_for() < FEED_AWAY {
            self.view.wait_for(outcome.revision, READ_YOUR_WRITES).await;
        }
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
            Failure::Invalid(_) | Failure::Denied(_) => self.metrics.invalid.increment(1),
            Failure::EpochFenced(_) => self.metrics.fenced.increment(1),
            Failure::InstanceIdTaken => self.metrics.taken.increment(1),
            Failure::Write(crate::registry::Error::Full(_)) => self.metrics.full.increment(1),
            Failure::QuotaExceeded(_) => {
                self.metrics.full.increment(1);
                self.refused.quota_exceeded.increment(1);
            }
            _ => self.metrics.failed.increment(1),
        }
    }
}

/// An answer with what is recorded of the call.
fn with<T>(answer: T, audited: Audited) -> Response<T> {
    let mut response = Response::new(answer);
    response.extensions_mut().insert(audited);
    response
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
        // The instance is gone again, whose name the refusal would tell.
        BeatError::Denied => Failure::UnknownLease(lease_id),
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
        let call = self.call(&request)?;
        let request = request.into_inner();
        let name = request.logical_id.clone();
        let registered = self.register(request, &call).await;
        let registered = registered.inspect_err(|failure| self.count_refused(failure))?;
        let object = format!("{name} instance {} lease {}", registered.instance_id, registered.lease_id);
        Ok(with(registered, Audited { object, as_operator: false }))
    }

    async fn beat(&self, request: Request<v1::BeatRequest>) -> Result<Response<v1::BeatResponse>, Status> {
        let caller = gate::caller(&self.access, request.extensions())?;
        Ok(Response::new(self.beat(request.into_inner(), &caller).await?))
    }

    type BeatStreamStream = beat_stream::Responses;

    async fn beat_stream(
        &self,
        request: Request<Streaming<v1::BeatStreamRequest>>,
    ) -> Result<Response<Self::BeatStreamStream>, Status> {
        let caller = gate::caller(&self.access, request.extensions())?;
        let (leases, view, stop) = (Arc::clone(&self.leases), self.view.clone(), self.stop.clone());
        let standing = Standing::new(&self.access, caller, view.clock());
        Ok(Response::new(beat_stream::serve(request.into_inner(), standing, leases, view, stop)))
    }

    async fn set_status(
        &self,
        request: Request<v1::SetStatusRequest>,
    ) -> Result<Response<v1::SetStatusResponse>, Status> {
        let call = self.call(&request)?;
        let request = request.into_inner();
        let asked = convert::set_status(&request)?;
        let target = (request.lease_id, request.instance_id.as_str());
        let (outcome, audited) = self.change_status(target, asked, &call).await?;
        let lease_id = outcome.lease_id.map(|lease_id| lease_id.0).unwrap_or_default();
        Ok(with(v1::SetStatusResponse { lease_id, revision: outcome.revision.0 }, audited))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Result<Response<v1::DeregisterResponse>, Status> {
        let call = self.call(&request)?;
        let request = request.into_inner();
        let target = (request.lease_id, request.instance_id.as_str());
        let (outcome, audited) = self.change_status(target, (InstanceStatus::Dead, None), &call).await?;
        let answer = v1::DeregisterResponse {
            lease_id: outcome.lease_id.map(|lease_id| lease_id.0).unwrap_or_default(),
            revision: outcome.revision.0,
            already_dead: outcome.verdict == Verdict::Set(false),
        };
        Ok(with(answer, audited))
    }
}
