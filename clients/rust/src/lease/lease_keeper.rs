//! Keeps one registration: registers, watches over the lease by the client's own clock, registers again after a loss.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
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
    connect::Channel,
    daemons::{Daemons, Limits},
    error::Error,
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
pub(super) struct LeaseKeeper {
    /// As the application wants it now; a registration after a loss takes it over.
    pub(super) desired: Arc<Mutex<Register>>,
    pub(super) cell: Arc<Cell>,
    /// Closed when the application has dropped its handle.
    pub(super) leave: mpsc::Receiver<Leave>,
    /// Learns of the first outcome; a refusal is then final.
    pub(super) first: Option<oneshot::Sender<Result<(), Error>>>,
    /// Whether there was a lease.
    pub(super) was_registered: bool,
    /// Whether a registration may have been applied although its answer did not come.
    pub(super) may_be_registered: bool,
}

impl LeaseKeeper {
    /// Keeps the registration until the application leaves or the lease is lost for good.
    pub(super) async fn run(mut self, leases: Leases, daemons: Arc<Daemons>) {
        let left = loop {
            let held = match self.register(&daemons).await {
                Registered::Held(lease, granted) => (lease, granted),
                Registered::Refused => break None,
                Registered::Left(reply) => {
                    let outcome = if self.may_be_registered { self.deregister(&daemons, None).await } else { Ok(()) };
                    break Some((reply, outcome));
                }
            };
            let (lease, granted) = held;
            let ended = self.hold(&leases, lease, granted).await;
            leases.release(lease.lease_id);
            match ended {
                Ended::Left(reply) => break Some((reply, self.deregister(&daemons, Some(lease.lease_id)).await)),
                Ended::Lost(reason) => {
                    self.cell.lose(reason);
                    if !self.prepare(reason) {
                        break None;
                    }
                }
            }
        };
        self.cell.end();
        if let Some((Some(reply), outcome)) = left {
            let _ = reply.send(outcome);
        }
    }

    /// Registers, for as long as it takes. Returns early if the application leaves, or if it was refused for good.
    async fn register(&mut self, daemons: &Daemons) -> Registered {
        let mut backoff = Backoff::default();
        loop {
            let before = std::mem::replace(&mut self.may_be_registered, true);
            let attempt = attempt(self.wanted(), daemons);
            let outcome = tokio::select! {
                outcome = attempt => outcome,
                reply = self.leave.recv() => return Registered::Left(reply),
            };
            match outcome {
                Ok((lease, sent)) => {
                    (self.may_be_registered, self.was_registered) = (false, true);
                    self.cell.renew(lease, sent);
                    self.tell_first(Ok(()));
                    return Registered::Held(lease, sent);
                }
                Err(error) => {
                    self.may_be_registered = before || error.may_be_applied();
                    self.cell.fail(error.clone());
                    if !error.is_retryable() && self.first.is_some() {
                        self.tell_first(Err(error));
                        return Registered::Refused;
                    }
                    if !error.is_retryable() && !self.goes_on_after(&error) {
                        return Registered::Refused;
                    }
                }
            }
            tokio::select! {
                () = sleep(backoff.pause()) => {}
                reply = self.leave.recv() => return Registered::Left(reply),
            }
        }
    }

    /// Whether to go on after a refusal, and if so makes ready for it.
    fn goes_on_after(&self, refusal: &Error) -> bool {
        match rules::loss(refusal.reason()) {
            // The epoch that the application named.
            Some(LossReason::Fenced) if !self.was_registered => false,
            Some(loss) => self.prepare(loss),
            None => true,
        }
    }

    /// Watches over a lease until it is lost or the application leaves.
    async fn hold(&mut self, leases: &Leases, lease: Lease, granted: Moment) -> Ended {
        let mut verdicts = leases.hold(lease.lease_id, lease.ttl, granted, &self.cell);
        let until_told = self.wanted().until_told;
        let mut renewed = granted;
        loop {
            let now = Moment::now();
            let (doubtful, lost) = (renewed.after(lease.ttl * 2 / 3), renewed.after(lease.ttl));
            if lost <= now && !until_told {
                return Ended::Lost(LossReason::Deadline);
            }
            if doubtful <= now {
                self.cell.doubt(lease);
            }
            let next = match (doubtful > now, until_told) {
                (true, _) => doubtful.since(now),
                (false, false) => lost.since(now),
                (false, true) => Duration::MAX,
            };
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
            Next::UnderNewId => {
                self.change(|wanted| wanted.instance_id = Uuid::new_v4());
                true
            }
            Next::InCurrentEpoch => {
                self.change(|wanted| wanted.cluster_epoch = None);
                true
            }
            Next::End => false,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Register)) {
        change(&mut self.desired.lock().unwrap_or_else(PoisonError::into_inner));
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

    /// Gives the lease back, within 2 s; it ends by itself anyway. Without a lease id, whatever the instance id has.
    async fn deregister(&self, daemons: &Daemons, lease_id: Option<u64>) -> Result<(), Error> {
        let instance_id = lease_id.map_or_else(|| self.wanted().instance_id.to_string(), |_| String::new());
        let request = DeregisterRequest { lease_id: lease_id.unwrap_or_default(), instance_id };
        let call = |channel| {
            let request = request.clone();
            async move { RegistryServiceClient::new(channel).deregister(request).await }
        };
        match daemons.call(Limits::once(LEAVE), call).await {
            Ok(answer) => {
                daemons.seen().note(answer.revision);
                Ok(())
            }
            // It has ended already.
            Err(error) if rules::loss(error.reason()).is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

enum Registered {
    Held(Lease, Moment),
    Refused,
    Left(Option<Leave>),
}

enum Ended {
    Lost(LossReason),
    Left(Option<Leave>),
}

/// Registers once.
async fn attempt(mut wanted: Register, daemons: &Daemons) -> Result<(Lease, Moment), Error> {
    if wanted.finds_ip {
        daemons.reach(CALL).await?;
        wanted.ip = daemons.source();
    }
    let request = wanted.to_wire()?;
    let sent = Moment::now();
    let granted = daemons.call(Limits::once(CALL), |channel| register(channel, request.clone())).await?;
    daemons.seen().note(granted.revision);
    Ok((lease(&granted)?, sent))
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
    Ok(Lease {
        lease_id: granted.lease_id,
        instance_id: wire::uuid(&granted.instance_id, "instance id")?,
        cluster_epoch: wire::uuid(&granted.cluster_epoch, "cluster epoch")?,
        epoch_number: granted.epoch_number,
        ttl: wire::duration(granted.ttl.as_ref()),
    })
}
