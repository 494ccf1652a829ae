//! DiscoveryService: routers resolve, get and list, from memory; and the history of leases, from PostgreSQL.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prost::Message as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{reader, watch};
use crate::{
    access::{Access, Caller, Verb},
    gate::{self, standing::Standing},
    metrics::{RefusedMetrics, ResolveMetrics},
    model::{Epoch, Holder, LeaseId, input, lease::LeaseStanding, spread::mix},
    proto::{
        encoded,
        v1::{self, discovery_service_server::DiscoveryService},
    },
    registry::{History, Leases},
    view::{
        Entry, Snapshot, View,
        list::{Cursor, page},
        resolve::{Choice, Chosen, Policy, ResolveError, resolve},
    },
    wire::{
        answer_size::Room,
        convert::{self, duration},
        failure::Failure,
        page_token, selection,
    },
};

/// The service.
#[derive(Debug)]
pub struct Discovery {
    view: View,
    leases: Arc<Leases>,
    history: History,
    access: Access,
    draws: AtomicU64,
    watchers: Arc<Semaphore>,
    stop: CancellationToken,
    metrics: ResolveMetrics,
    refused: RefusedMetrics,
}

impl Discovery {
    /// The service on top of the view and the history; callers are held to `access`, streams end on `stop`.
    #[must_use]
    pub fn new(view: View, leases: Arc<Leases>, history: History, access: Access, stop: CancellationToken) -> Self {
        let draws = AtomicU64::new(Uuid::new_v4().as_u64_pair().0);
        let watchers = Arc::new(Semaphore::new(watch::WATCHERS_MAX));
        let (metrics, refused) = (ResolveMetrics::new(), RefusedMetrics::new());
        Self { view, leases, history, access, draws, watchers, stop, metrics, refused }
    }

    async fn resolve(&self, request: v1::ResolveRequest, caller: &Caller) -> Result<v1::ResolveResponse, Failure> {
        input::required_text("logical_id", &request.logical_id, input::LOGICAL_ID_MAX_BYTES)?;
        caller.require(Verb::Resolve, &request.logical_id)?;
        let choice = selection::choice(request.choice, self.draw())?;
        let snapshot = reader::snapshot(&self.view, request.min_revision).await?;
        let epoch = epoch(&snapshot)?;
        let now_ms = self.view.clock().now_ms();
        let chosen = resolve(&snapshot, &request.logical_id, &choice, now_ms).map_err(|error| match error {
            ResolveError::UnknownLogicalId => Failure::UnknownLogicalId(request.logical_id),
            ResolveError::NoLiveInstance(count) => Failure::NoLiveInstance(request.logical_id, count),
        })?;
        Ok(v1::ResolveResponse {
            instance: Some(convert::instance(&chosen.entry, epoch, &self.view)),
            cluster_epoch: convert::uuid_text(epoch.id.0),
            epoch_number: epoch.number,
            revision: snapshot.revision().0,
            alternatives: u32::try_from(chosen.alternatives).unwrap_or(u32::MAX),
            stale_for: Some(duration(self.view.stale_for())),
        })
    }

    async fn batch_resolve(
        &self,
        request: v1::BatchResolveRequest,
        caller: &Caller,
    ) -> Result<encoded::BatchResolveResponse, Failure> {
        selection::names("logical_ids", &request.logical_ids)?;
        let mut choice = selection::choice(request.choice, 0)?;
        let snapshot = reader::snapshot(&self.view, request.min_revision).await?;
        let epoch = epoch(&snapshot)?;
        let now_ms = self.view.clock().now_ms();
        let mut room = Room::new();
        let left_out = without_instance(v1::ErrorReason::AnswerTooLarge).encode_to_vec();
        room.reserve(request.logical_ids.len(), left_out.len());
        let results = request.logical_ids.iter().map(|name| {
            self.redraw(&mut choice);
            let result = if caller.may(Verb::Resolve, name) {
                let chosen = resolve(&snapshot, name, &choice, now_ms);
                self.count(chosen.as_ref().map(drop).map_err(|error| *error));
                self.result(chosen, epoch).encode_to_vec()
            } else {
                self.metrics.invalid.increment(1);
                without_instance(v1::ErrorReason::PermissionDenied).encode_to_vec()
            };
            if room.take(result.len()) { result.into() } else { left_out.clone().into() }
        });
        Ok(encoded::BatchResolveResponse {
            results: results.collect(),
            cluster_epoch: convert::uuid_text(epoch.id.0),
            epoch_number: epoch.number,
            revision: snapshot.revision().0,
            stale_for: Some(duration(self.view.stale_for())),
        })
    }

    fn result(&self, chosen: Result<Chosen, ResolveError>, epoch: Epoch) -> v1::BatchResolveResult {
        match chosen {
            Ok(Chosen { entry, alternatives }) => v1::BatchResolveResult {
                instance: Some(convert::instance(&entry, epoch, &self.view)),
                reason: v1::ErrorReason::Unspecified.into(),
                alternatives: u32::try_from(alternatives).unwrap_or(u32::MAX),
            },
            Err(error) => v1::BatchResolveResult {
                instance: None,
                reason: match error {
                    ResolveError::UnknownLogicalId => v1::ErrorReason::UnknownLogicalId,
                    ResolveError::NoLiveInstance(_) => v1::ErrorReason::NoLiveInstance,
                }
                .into(),
                alternatives: 0,
            },
        }
    }

    /// A random number: the sequence of splitmix64, whose seed differs from daemon to daemon.
    fn draw(&self) -> u64 {
        mix(self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }

    fn redraw(&self, choice: &mut Choice) {
        if let Policy::Random(draw) = &mut choice.policy {
            *draw = self.draw();
        }
    }

    async fn get(&self, request: v1::GetInstanceRequest, caller: &Caller) -> Result<v1::GetInstanceResponse, Failure> {
        let instance_id = input::instance_id("instance_id", &request.instance_id)?;
        let snapshot = reader::snapshot(&self.view, request.min_revision).await?;
        let entry = snapshot.instance(instance_id).filter(|entry| may_read(caller, entry));
        let entry = entry.ok_or(Failure::UnknownInstance)?;
        Ok(v1::GetInstanceResponse {
            instance: Some(convert::instance(entry, epoch(&snapshot)?, &self.view)),
            revision: snapshot.revision().0,
            stale_for: Some(duration(self.view.stale_for())),
        })
    }

    async fn check_lease(
        &self,
        request: v1::CheckLeaseRequest,
        caller: &Caller,
    ) -> Result<v1::CheckLeaseResponse, Failure> {
        if request.lease_id == 0 {
            input::invalid("lease_id", "is 0; give the lease to check")?;
        }
        let lease_id = LeaseId(request.lease_id);
        // A lease is a revision: a client that is handed one may be ahead of this daemon.
        let asked_ms = self.view.clock().now_ms();
        let snapshot = match reader::snapshot(&self.view, request.min_revision.max(request.lease_id)).await {
            Err(Failure::NotYetSeen) => {
                // If PostgreSQL has confirmed since that there is nothing newer, no instance has that lease.
                reader::confirmed_after(&self.view, asked_ms).await?;
                reader::snapshot(&self.view, request.min_revision).await?
            }
            seen => seen?,
        };
        let epoch = epoch(&snapshot)?;
        let lease = self.leases.get(lease_id).ok_or(Failure::UnknownLease(lease_id))?;
        let entry = snapshot.instance(lease.instance_id).filter(|entry| may_read(caller, entry));
        let entry = entry.ok_or(Failure::UnknownLease(lease_id))?;
        match lease.standing(epoch) {
            LeaseStanding::Live if entry.instance.lease_id == lease_id => {}
            LeaseStanding::Live | LeaseStanding::Replaced => return Err(Failure::LeaseReplaced),
            LeaseStanding::Fenced => return Err(Failure::EpochFenced(epoch)),
            LeaseStanding::Dead => return Err(Failure::LeaseExpired),
            LeaseStanding::Gone => return Err(Failure::UnknownLease(lease_id)),
        }
        Ok(v1::CheckLeaseResponse {
            instance: Some(convert::instance(entry, epoch, &self.view)),
            revision: snapshot.revision().0,
            stale_for: Some(duration(self.view.stale_for())),
        })
    }

    async fn list(
        &self,
        request: v1::ListInstancesRequest,
        caller: &Caller,
    ) -> Result<v1::ListInstancesResponse, Failure> {
        let (mut filter, page_size, after) = selection::list(&request)?;
        let filtered = selection::restrict(&mut filter, caller)?;
        let snapshot = reader::snapshot(&self.view, request.min_revision).await?;
        let epoch = epoch(&snapshot)?;
        let page = page(&snapshot, &filter, after.as_ref(), page_size);
        let instances = page.entries.iter().map(|entry| convert::instance(entry, epoch, &self.view));
        let instances = Room::new().fill(instances);
        let ended_early = page.entries.get(..instances.len()).filter(|taken| taken.len() < page.entries.len());
        let next = match ended_early {
            Some(taken) => taken.last().map(|last| Cursor::of(last)),
            None => page.next,
        };
        Ok(v1::ListInstancesResponse {
            instances,
            next_page_token: next.map(|next| page_token::encode(&filter, &next)).unwrap_or_default(),
            revision: snapshot.revision().0,
            stale_for: Some(duration(self.view.stale_for())),
            filtered,
        })
    }

    async fn ended(
        &self,
        request: v1::ListEndedLeasesRequest,
        caller: &Caller,
    ) -> Result<v1::ListEndedLeasesResponse, Failure> {
        let ended = selection::ended(&request)?;
        if let Holder::LogicalId(name) = &ended.holder {
            caller.require(Verb::Read, name)?;
        }
        let leases = self.history.ended(&ended, |name| caller.may(Verb::Read, name)).await?;
        Ok(v1::ListEndedLeasesResponse { leases: Room::new().fill(leases.into_iter().map(convert::ended_lease)) })
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Failure> {
        gate::caller(&self.access, request.extensions())
    }

    fn count(&self, result: Result<(), ResolveError>) {
        let counter = match result {
            Ok(()) => &self.metrics.found,
            Err(ResolveError::UnknownLogicalId) => &self.metrics.unknown_logical_id,
            Err(ResolveError::NoLiveInstance(_)) => &self.metrics.no_live_instance,
        };
        counter.increment(1);
    }

    /// Counts the call of Resolve that came to nothing before or at its choice.
    fn count_failure(&self, failure: &Failure) {
        match failure {
            Failure::UnknownLogicalId(_) => self.count(Err(ResolveError::UnknownLogicalId)),
            Failure::NoLiveInstance(..) => self.count(Err(ResolveError::NoLiveInstance(0))),
            Failure::Invalid(_) | Failure::Denied(_) => self.metrics.invalid.increment(1),
            _ => self.metrics.not_yet_seen.increment(1),
        }
    }
}

/// The result of a name that was not resolved.
fn without_instance(reason: v1::ErrorReason) -> v1::BatchResolveResult {
    v1::BatchResolveResult { reason: reason.into(), ..Default::default() }
}

fn may_read(caller: &Caller, entry: &Entry) -> bool {
    caller.may(Verb::Read, entry.instance.logical_id.as_str())
}

fn epoch(snapshot: &Snapshot) -> Result<Epoch, Failure> {
    snapshot.cluster().map(|cluster| cluster.epoch).ok_or(Failure::NotYetSeen)
}

#[tonic::async_trait]
impl DiscoveryService for Discovery {
    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let caller = self.caller(&request)?;
        let result = self.resolve(request.into_inner(), &caller).await;
        match &result {
            Ok(_) => self.count(Ok(())),
            Err(failure) => self.count_failure(failure),
        }
        Ok(Response::new(result?))
    }

    async fn batch_resolve(
        &self,
        request: Request<v1::BatchResolveRequest>,
    ) -> Result<Response<encoded::BatchResolveResponse>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.batch_resolve(request.into_inner(), &caller).await?))
    }

    async fn get_instance(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.get(request.into_inner(), &caller).await?))
    }

    async fn check_lease(
        &self,
        request: Request<v1::CheckLeaseRequest>,
    ) -> Result<Response<v1::CheckLeaseResponse>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.check_lease(request.into_inner(), &caller).await?))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.list(request.into_inner(), &caller).await?))
    }

    async fn list_ended_leases(
        &self,
        request: Request<v1::ListEndedLeasesRequest>,
    ) -> Result<Response<v1::ListEndedLeasesResponse>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.ended(request.into_inner(), &caller).await?))
    }

    type WatchStream = watch::Responses;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = self.caller(&request)?;
        let permit = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| {
            self.refused.watchers.increment(1);
            Failure::TooManyWatchers
        })?;
        let held = caller.open_watch().map_err(|exceeded| {
            self.refused.quota_exceeded.increment(1);
            Failure::from(exceeded)
        })?;
        let standing = Standing::new(&self.access, caller, self.view.clock());
        let places = (permit, held);
        let watching = watch::begin(request.into_inner(), standing, self.view.clone(), self.stop.clone(), places);
        Ok(Response::new(watching.await?))
    }
}
