//! ClusterService: the epoch, and how the registry itself is doing.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::timeout;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{decisions, reader, who_am_i};
use crate::{
    access::{Access, Caller, Verb},
    audit::Audited,
    gate,
    model::{EpochId, InstanceId, InvalidInput, LeaseId, LogicalId, Revision, Rotation, Verdict, input},
    proto::v1::{self, cluster_service_server::ClusterService},
    registry::{Epochs, Leases, operators::Operators},
    stats::StatsCache,
    status::{Facts, Gather, Port, Ports, judge},
    view::{Snapshot, View, list::unserved},
    wire::{
        answer_size::Room,
        convert::{self, Violations, duration},
        failure::Failure,
        page_token,
    },
};

/// How long an operator's call waits for the view to show what it did.
const READ_YOUR_WRITES: Duration = Duration::from_secs(1);

/// For how long a released brake stays off.
const RELEASE_DEFAULT: Duration = Duration::from_secs(300);

/// Most logical ids without an instance that one answer names.
const UNSERVED_MAX: usize = 1_000;

/// How long statistics that are due are waited for; then the former ones are used.
const STATS_BOUND: Duration = Duration::from_millis(500);

/// What the daemon that serves this knows of itself.
#[derive(Debug)]
pub struct ThisDaemon {
    /// This run of it.
    pub daemon_id: Uuid,
    /// Where metrics and probes are served.
    pub http_addr: SocketAddr,
    /// How many instances are suspect.
    pub leases: Arc<Leases>,
    /// What its health is judged by.
    pub facts: Gather,
    /// Finds the names whose every instance is suspect.
    pub stats: StatsCache,
}

/// The service.
#[derive(Debug)]
pub struct Cluster {
    view: View,
    epochs: Epochs,
    operators: Operators,
    daemon: ThisDaemon,
    access: Access,
}

impl Cluster {
    /// The service of a daemon; callers are held to `access`.
    #[must_use]
    pub fn new(view: View, epochs: Epochs, operators: Operators, daemon: ThisDaemon, access: Access) -> Self {
        Self { view, epochs, operators, daemon, access }
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Failure> {
        gate::caller(&self.access, request.extensions())
    }

    /// The caller of what concerns every instance.
    fn operator<T>(&self, request: &Request<T>) -> Result<Caller, Failure> {
        let caller = self.caller(request)?;
        caller.require_everywhere(Verb::Cluster)?;
        Ok(caller)
    }

    async fn get(&self, request: v1::GetClusterRequest, caller: &Caller) -> Result<v1::GetClusterResponse, Failure> {
        let unserved_limit = unserved_limit("unserved_limit", request.unserved_limit)?;
        let snapshot = reader::snapshot(&self.view, request.min_revision).await?;
        let cluster = snapshot.cluster().ok_or(Failure::NotYetSeen)?;
        let _ = timeout(STATS_BOUND, self.daemon.stats.current()).await;
        let facts = self.daemon.facts.facts();
        let (mut status, stale_for) = (judge(&facts), facts.stale_for);
        // How many instances there are, of which names, is for callers that may read all of them.
        let reads_all = caller.may_everywhere(Verb::Read);
        let readable = caller.names(Verb::Read);
        if !reads_all {
            status = status.without_counts();
        }
        let hold = facts.hold.as_ref();
        let hold = hold.map(|hold| v1::Hold { remaining: Some(duration(hold.remaining)), reason: hold.reason.clone() });
        let mut room = Room::new();
        let daemons = room.fill(facts.daemons.iter().map(|daemon| convert::daemon(daemon, stale_for)));
        let lost = facts.lost_daemons.iter().map(|lost| convert::lost_daemon(lost, stale_for));
        let lost_daemons = room.fill(lost);
        let unserved = unserved(&snapshot, &readable, unserved_limit);
        let unserved = unserved.iter().take_while(|name| room.take(name.as_str().len()));
        Ok(v1::GetClusterResponse {
            cluster_epoch: cluster.epoch.id.to_string(),
            epoch_number: cluster.epoch.number,
            revision: cluster.revision.0,
            history_id: cluster.history_id.to_string(),
            daemons,
            hold,
            counts: reads_all.then(|| self.counts(&snapshot)),
            stale_for: Some(duration(stale_for)),
            daemon_id: self.daemon.daemon_id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            brake: facts.brake.as_ref().map(|brake| convert::brake(brake, reads_all)),
            health: Some(self.health(&facts)),
            database_time: Some(convert::timestamp(self.view.database_time(self.view.clock().now_ms()))),
            unserved_logical_ids: unserved.map(LogicalId::to_string).collect(),
            severity: convert::severity(status.severity).into(),
            problems: status.problems.iter().map(convert::problem).collect(),
            expiry: convert::expiry(status.expiry).into(),
            lost_daemons,
        })
    }

    fn counts(&self, snapshot: &Snapshot) -> v1::InstanceCounts {
        let counts = snapshot.counts();
        v1::InstanceCounts {
            starting: counts.starting,
            alive: counts.alive,
            draining: counts.draining,
            dead: counts.dead,
            logical_ids_live: counts.logical_ids_live,
            logical_ids_unserved: counts.logical_ids_unserved,
            suspect: self.daemon.leases.suspects(),
            logical_ids_left: counts.logical_ids_left,
        }
    }

    fn health(&self, facts: &Facts) -> v1::DaemonHealth {
        let missing = facts.conditions.iter().filter(|condition| !condition.ok);
        let missing: Vec<_> = missing.map(|condition| format!("{}: {}", condition.name, condition.detail)).collect();
        v1::DaemonHealth {
            ready: missing.is_empty(),
            missing,
            flush_lag: Some(duration(facts.flush_lag)),
            database_latency: facts.database_latency.map(duration),
            last_reap_age: facts.last_reap_age.map(duration),
            http_address: self.daemon.http_addr.to_string(),
            ports: ports(facts.ports),
            ports_summary: facts.ports.words(),
        }
    }

    async fn rotate(
        &self,
        request: v1::RotateEpochRequest,
        caller: &Caller,
    ) -> Result<v1::RotateEpochResponse, Failure> {
        let mut violations = Violations::default();
        let expected = violations.take(input::optional_epoch("expected_epoch", &request.expected_epoch));
        let new = violations.take(input::optional_epoch("new_epoch", &request.new_epoch));
        violations.take(input::plain_text("reason", &request.reason, input::REASON_MAX_BYTES));
        violations.into_result()?;
        let new = new.unwrap_or_else(|| EpochId(Uuid::new_v4()));
        let (reason, force) = (&request.reason, request.force);
        let rotation = self.epochs.rotate(new, expected, reason, identity(caller), force).await?;
        let (epoch, revision, previous, rotated) = match rotation {
            Rotation::Rotated { epoch, revision, previous } => (epoch, revision, previous, true),
            Rotation::Unchanged { epoch, revision } => (epoch, revision, None, false),
            Rotation::Mismatch { current } => return Err(Failure::EpochMismatch(current)),
            Rotation::Reused => return Err(Failure::EpochReused),
            Rotation::TooSoon { retry_after } => return Err(Failure::RotatedTooSoon(retry_after)),
        };
        // Fencing holds here from the moment the answer is on its way.
        self.fenced(revision).await?;
        Ok(v1::RotateEpochResponse {
            cluster_epoch: epoch.id.to_string(),
            epoch_number: epoch.number,
            revision: revision.0,
            previous_epoch: previous.map(|epoch| epoch.to_string()).unwrap_or_default(),
            rotated,
        })
    }

    async fn hold(&self, request: v1::HoldExpiryRequest, caller: &Caller) -> Result<v1::HoldExpiryResponse, Failure> {
        let mut violations = Violations::default();
        let for_ = violations.take(convert::operator_duration("duration", request.duration));
        violations.take(input::plain_text("reason", &request.reason, input::REASON_MAX_BYTES));
        violations.into_result()?;
        let reason = if request.reason.is_empty() { "an operator asked for it" } else { &request.reason };
        let held = self.operators.hold(reason, for_, identity(caller)).await?;
        self.shown().await?;
        let identity = identity(caller);
        tracing::info!(reason, held_ms = held.as_millis(), identity, "an operator holds expiry");
        Ok(v1::HoldExpiryResponse { remaining: Some(duration(held)) })
    }

    async fn release(
        &self,
        request: v1::ReleaseExpiryRequest,
        caller: &Caller,
    ) -> Result<v1::ReleaseExpiryResponse, Failure> {
        let for_ = convert::operator_duration("duration", request.duration)?.unwrap_or(RELEASE_DEFAULT);
        self.operators.release(for_, identity(caller)).await?;
        self.shown().await?;
        let identity = identity(caller);
        tracing::info!(released_ms = for_.as_millis(), identity, "an operator releases expiry");
        Ok(v1::ReleaseExpiryResponse {})
    }

    async fn expire(
        &self,
        request: v1::ExpireInstanceRequest,
        caller: &Caller,
    ) -> Result<v1::ExpireInstanceResponse, Failure> {
        let instance_id = input::instance_id("instance_id", &request.instance_id)?;
        let lease_id = Some(LeaseId(request.lease_id)).filter(|lease_id| lease_id.0 != 0);
        let lease_id = self.lease_to_expire(instance_id, lease_id, caller).await?;
        let identity = identity(caller).map(Arc::from);
        let outcome = self.operators.expire(instance_id, lease_id, identity).await?;
        let already_dead = match outcome.verdict {
            Verdict::Set(changed) => !changed,
            _ => return Err(Failure::UnknownInstance),
        };
        self.fenced(outcome.revision).await?;
        Ok(v1::ExpireInstanceResponse { revision: outcome.revision.0, already_dead })
    }

    /// The lease to end: the one that is named, or under a policy the one of which it is known that the caller may end it. An
    /// instance of which it may not is as unknown as one that does not exist, after the same wait.
    async fn lease_to_expire(
        &self,
        instance_id: InstanceId,
        lease_id: Option<LeaseId>,
        caller: &Caller,
    ) -> Result<Option<LeaseId>, Failure> {
        if caller.may_everywhere(Verb::Operate) {
            return Ok(lease_id);
        }
        let found = || {
            let snapshot = self.view.snapshot();
            let instance = &snapshot.instance(instance_id)?.instance;
            let may = caller.may(Verb::Operate, instance.logical_id.as_str());
            may.then(|| lease_id.unwrap_or(instance.lease_id))
        };
        if let Some(lease_id) = found() {
            return Ok(Some(lease_id));
        }
        // It may have been registered elsewhere a moment ago.
        if !self.view.wait_for_now(READ_YOUR_WRITES).await {
            return Err(Failure::NotYetSeen);
        }
        Ok(Some(found().ok_or(Failure::UnknownInstance)?))
    }

    /// Waits until this daemon shows a change that took no revision.
    async fn shown(&self) -> Result<(), Failure> {
        if self.view.wait_for_now(READ_YOUR_WRITES).await {
            Ok(())
        } else {
            // It is made, but this daemon may still show what was before; repeating it is safe.
            Err(Failure::Write(crate::registry::Error::MaybeApplied))
        }
    }

    async fn fenced(&self, revision: Revision) -> Result<(), Failure> {
        if self.view.wait_for(revision, READ_YOUR_WRITES).await {
            Ok(())
        } else {
            // It is made, but this daemon may still answer for what was before.
            Err(Failure::Write(crate::registry::Error::MaybeApplied))
        }
    }

    async fn list(&self, request: v1::ListEpochsRequest) -> Result<v1::ListEpochsResponse, Failure> {
        let mut violations = Violations::default();
        let before = violations.take(page_token::decode_number("page_token", &request.page_token));
        let page_size = violations.take(convert::page_size(request.page_size));
        violations.into_result()?;
        let epochs = self.epochs.list(before, u32::try_from(page_size).unwrap_or(u32::MAX)).await?;
        let epochs = epochs.into_iter().map(convert::epoch);
        let (epochs, next_page_token) = page_token::numbered(epochs, page_size, |epoch| epoch.epoch_number);
        Ok(v1::ListEpochsResponse { epochs, next_page_token })
    }
}

/// An answer with what is recorded of the call.
fn audited<T>(answer: T, object: String) -> Response<T> {
    let mut response = Response::new(answer);
    response.extensions_mut().insert(Audited { object, as_operator: true });
    response
}

/// The identity that asks; `None` without a policy.
fn identity(caller: &Caller) -> Option<&str> {
    caller.is_enforced().then(|| caller.identity().as_str())
}

fn ports(ports: Ports) -> Vec<v1::Port> {
    let port =
        |name: &str, port: Port| v1::Port { name: name.to_owned(), open_to: port.openness().as_str().to_owned() };
    vec![port("grpc", ports.grpc), port("http", ports.http)]
}

/// Accepts how many logical ids to name.
fn unserved_limit(field: &str, limit: i32) -> Result<usize, InvalidInput> {
    match usize::try_from(limit) {
        Ok(limit) if limit <= UNSERVED_MAX => Ok(limit),
        _ => input::invalid(field, format!("is {limit}; choose 0 to {UNSERVED_MAX}")),
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_cluster(
        &self,
        request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.get(request.into_inner(), &caller).await?))
    }

    async fn rotate_epoch(
        &self,
        request: Request<v1::RotateEpochRequest>,
    ) -> Result<Response<v1::RotateEpochResponse>, Status> {
        let caller = self.operator(&request)?;
        let answer = self.rotate(request.into_inner(), &caller).await?;
        let object = format!("epoch {} ({})", answer.epoch_number, answer.cluster_epoch);
        Ok(audited(answer, object))
    }

    async fn hold_expiry(
        &self,
        request: Request<v1::HoldExpiryRequest>,
    ) -> Result<Response<v1::HoldExpiryResponse>, Status> {
        let caller = self.operator(&request)?;
        Ok(audited(self.hold(request.into_inner(), &caller).await?, "expiry".to_owned()))
    }

    async fn release_expiry(
        &self,
        request: Request<v1::ReleaseExpiryRequest>,
    ) -> Result<Response<v1::ReleaseExpiryResponse>, Status> {
        let caller = self.operator(&request)?;
        Ok(audited(self.release(request.into_inner(), &caller).await?, "expiry".to_owned()))
    }

    async fn expire_instance(
        &self,
        request: Request<v1::ExpireInstanceRequest>,
    ) -> Result<Response<v1::ExpireInstanceResponse>, Status> {
        let caller = self.caller(&request)?;
        let object = format!("instance {}", request.get_ref().instance_id);
        Ok(audited(self.expire(request.into_inner(), &caller).await?, object))
    }

    async fn list_epochs(
        &self,
        request: Request<v1::ListEpochsRequest>,
    ) -> Result<Response<v1::ListEpochsResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn list_decisions(
        &self,
        request: Request<v1::ListDecisionsRequest>,
    ) -> Result<Response<v1::ListDecisionsResponse>, Status> {
        self.operator(&request)?;
        Ok(Response::new(decisions::list(&self.operators, request.into_inner()).await?))
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        Ok(Response::new(who_am_i::answer(&self.caller(&request)?, &self.view)))
    }
}
