//! Keeps one registration: registers, watches over the lease by the client's own clock, registers again after a loss.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tonic::transport::Channel;
use uuid::Uuid;

use super::{
    beats::{Leases, Verdict},
    clock::Moment,
    register::Register,
    rules::{self, Next},
    state::{Cell, Lease, LossReason},
};
use crate::{
    backoff::Backoff,
    daemons::Daemons,
    error::{Error, Reason},
    model::Status,
    wire::{
        self, DeregisterRequest, RegisterRequest, RegisterResponse, registry_service_client::RegistryServiceClient,
    },
};

/// How long one call may take before a pause.
const CALL: Duration = Duration::from_secs(5);
/// How long giving a lease back may take; it ends by itself anyway.
const LEAVE: Duration = Duration::from_secs(2);

/// What the application tells a keeper: to leave. The answer comes when the lease is given back.
pub(super) type Leave = oneshot::Sender<Result<(), Error>>;

/// Keeps one registration.
#[derive(Debug)]
pub(super) struct Keeper {
    /// As the application wants it now; a registration after a loss takes it over.
    pub(super) desired: Arc<Mutex<Register>>,
    pub(super) cell: Arc<Cell>,
    /// Closed when the application has dropped its handle.
    pub(super) leave: mpsc::Receiver<Leave>,
    /// Learns of the first outcome.
    pub(super) first: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Keeper {
    /// Keeps the registration until the application leaves or the lease is lost for good.
    pub(super) async fn run(mut self, leases: Leases, daemons: Arc<Daemons>) {
        let reply = loop {
            let (leaving, registered) = self.register(&daemons).await;
            if let Some(reply) = leaving {
                // A registration whose answer was not awaited may have been applied.
                self.deregister(&daemons, None).await;
                break reply;
            }
            let Some((lease, granted)) = registered else { break None };
            let ended = self.hold(&leases, lease, granted).await;
            leases.release(lease.lease_id);
            match ended {
                Ended::Left(reply) => {
                    self.deregister(&daemons, Some(lease.lease_id)).await;
                    break reply;
                }
                Ended::Lost(reason) => {
                    self.cell.lose(reason);
                    if !self.prepare(reason) {
                        break None;
                    }
                }
            }
        };
        self.cell.end();
        if let Some(reply) = reply {
            let _ = reply.send(Ok(()));
        }
    }

    /// Registers, for as long as it takes. Returns early if the application leaves, or if it was refused for good.
    async fn register(&mut self, daemons: &Daemons) -> (Option<Option<Leave>>, Option<(Lease, Moment)>) {
        let mut backoff = Backoff::default();
        loop {
            let request = self.wanted().to_wire();
            let attempt = async {
                let request = request?;
                let sent = Moment::now();
                let granted = daemons.call(CALL, |channel| register(channel, request.clone())).await?;
                daemons.seen().note(granted.revision);
                Ok::<_, Error>((lease(&granted)?, sent))
            };
            let outcome = tokio::select! {
                outcome = attempt => outcome,
                reply = self.leave.recv() => return (Some(reply), None),
            };
            match outcome {
                Ok((lease, sent)) => {
                    self.cell.renew(lease, sent);
                    self.tell_first(Ok(()));
                    return (None, Some((lease, sent)));
                }
                Err(error) => {
                    let is_first = self.first.is_some();
                    let taken = matches!(error.reason(), Reason::InstanceIdTaken | Reason::LeaseReplaced);
                    if is_first && !error.is_retryable() {
                        self.tell_first(Err(error));
                        return (None, None);
                    }
                    if taken {
                        self.take_new_id();
                    } else if !error.is_retryable() && !self.prepare(LossReason::Fenced) {
                        return (None, None);
                    }
                }
            }
            tokio::select! {
                () = sleep(backoff.pause()) => {}
                reply = self.leave.recv() => return (Some(reply), None),
            }
        }
    }

    /// Watches over a lease until it is lost or the application leaves.
    async fn hold(&mut self, leases: &Leases, lease: Lease, granted: Moment) -> Ended {
        let mut verdicts = leases.hold(lease.lease_id, lease.ttl, granted);
        let mut renewed = granted;
        loop {
            let now = Moment::now();
            let (doubtful, lost) = (renewed.after(lease.ttl * 2 / 3), renewed.after(lease.ttl));
            if lost <= now {
                return Ended::Lost(LossReason::Deadline);
            }
            if doubtful <= now {
                self.cell.doubt(lease);
            }
            let next = if doubtful > now { doubtful.since(now) } else { lost.since(now) };
            tokio::select! {
                changed = verdicts.changed() => match changed.ok().and_then(|()| *verdicts.borrow_and_update()) {
                    Some(Verdict::Renewed(sent)) => {
                        renewed = renewed.max(sent);
                        self.cell.renew(lease, renewed);
                    }
                    Some(Verdict::Lost(reason)) => return Ended::Lost(reason),
                    None => return Ended::Lost(LossReason::Unknown),
                },
                reply = self.leave.recv() => return Ended::Left(reply),
                // The timer stands still while the machine sleeps; the clock that is read after it does not.
                () = sleep(next) => {}
            }
        }
    }

    /// Makes ready for what follows a loss. Returns false if nothing does.
    fn prepare(&self, reason: LossReason) -> bool {
        let wanted = self.wanted();
        let drains = wanted.status == Status::Draining;
        match rules::after(reason, wanted.on_lost, wanted.cluster_epoch.is_some(), drains) {
            Next::Again => true,
            Next::AgainAnew => {
                self.take_new_id();
                true
            }
            Next::End => false,
        }
    }

    fn take_new_id(&self) {
        self.desired.lock().unwrap_or_else(PoisonError::into_inner).instance_id = Uuid::new_v4();
    }

    fn wanted(&self) -> Register {
        self.desired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tell_first(&mut self, outcome: Result<(), Error>) {
        if let Some(first) = self.first.take() {
            // A caller that no longer waits has dropped its handle, which ends this keeper.
            let _ = first.send(outcome);
        }
    }

    /// Gives the lease back, as well as that can be done in 2 s. Without a lease id, whatever the instance id has.
    async fn deregister(&self, daemons: &Daemons, lease_id: Option<u64>) {
        let instance_id = lease_id.map_or_else(|| self.wanted().instance_id.to_string(), |_| String::new());
        let request = DeregisterRequest { lease_id: lease_id.unwrap_or_default(), instance_id };
        let answer = daemons
            .call(LEAVE, |channel| {
                let request = request.clone();
                async move { RegistryServiceClient::new(channel).deregister(request).await }
            })
            .await;
        if let Ok(answer) = answer {
            daemons.seen().note(answer.revision);
        }
    }
}

enum Ended {
    Lost(LossReason),
    Left(Option<Leave>),
}

async fn register(
    channel: Channel,
    request: RegisterRequest,
) -> Result<tonic::Response<RegisterResponse>, tonic::Status> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(CALL);
    RegistryServiceClient::new(channel).register(request).await
}

fn lease(granted: &RegisterResponse) -> Result<Lease, Error> {
    wire::granted_status(granted)?;
    Ok(Lease {
        lease_id: granted.lease_id,
        instance_id: wire::uuid(&granted.instance_id, "instance id")?,
        cluster_epoch: wire::uuid(&granted.cluster_epoch, "cluster epoch")?,
        epoch_number: granted.epoch_number,
        ttl: wire::duration(granted.ttl.as_ref()),
    })
}
