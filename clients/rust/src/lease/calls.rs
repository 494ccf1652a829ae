//! The calls of a registration: to get a lease, and to give it back.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::{clock::Moment, register::Register, rules, state::Lease};
use crate::{
    connect::Channel,
    daemons::{Daemons, Limits},
    error::Error,
    wire::{
        self, DeregisterRequest, RegisterRequest, RegisterResponse, registry_service_client::RegistryServiceClient,
    },
};

/// How long one call may take before a pause.
const CALL: Duration = Duration::from_secs(5);
/// How long giving a lease back may take; it ends by itself anyway.
const LEAVE: Duration = Duration::from_secs(2);

/// Tells an application what became of a call that it has asked for.
pub(super) type Reply = oneshot::Sender<Result<(), Error>>;

/// A call for the registration of this key.
#[derive(Debug)]
pub(super) enum Call {
    /// Registers.
    Register(u64, Box<Register>),
    /// Registers again to change attributes of the lease that is held; the outcome is told to these.
    Update(u64, Box<Register>, Vec<Reply>),
    /// Gives a lease back.
    Deregister(u64, Given),
}

/// What is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// This lease.
    Lease(u64),
    /// Whatever lease the instance has.
    Instance(Uuid),
}

/// What became of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    Registered(u64, Result<(Lease, Moment), Error>),
    Updated(u64, Result<(Lease, Moment), Error>),
    Deregistered(u64, Result<(), Error>),
}

impl Call {
    /// The key of its registration.
    pub(super) const fn key(&self) -> u64 {
        match self {
            Self::Register(key, _) | Self::Update(key, ..) | Self::Deregister(key, _) => *key,
        }
    }

    /// Makes the call.
    pub(super) async fn make(self, daemons: Arc<Daemons>) -> Outcome {
        match self {
            Self::Register(key, wanted) => Outcome::Registered(key, register(*wanted, &daemons).await),
            Self::Update(key, wanted, replies) => {
                let outcome = register(*wanted, &daemons).await;
                for reply in replies {
                    let _ = reply.send(outcome.as_ref().map(|_| ()).map_err(Error::clone));
                }
                Outcome::Updated(key, outcome)
            }
            Self::Deregister(key, given) => Outcome::Deregistered(key, deregister(given, &daemons).await),
        }
    }
}

/// Registers once.
async fn register(mut wanted: Register, daemons: &Daemons) -> Result<(Lease, Moment), Error> {
    if wanted.finds_ip {
        daemons.reach(CALL).await?;
        wanted.ip = daemons.source();
    }
    let request = wanted.to_wire()?;
    let sent = Moment::now();
    let granted = daemons.call(Limits::once(CALL), |channel| send(channel, request.clone())).await?;
    daemons.seen().note(granted.revision);
    Ok((lease(&granted)?, sent))
}

async fn send(channel: Channel, request: RegisterRequest) -> Result<tonic::Response<RegisterResponse>, tonic::Status> {
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

/// Gives a lease back, within 2 s.
async fn deregister(given: Given, daemons: &Daemons) -> Result<(), Error> {
    let request = match given {
        Given::Lease(lease_id) => DeregisterRequest { lease_id, instance_id: String::new() },
        Given::Instance(instance_id) => DeregisterRequest { lease_id: 0, instance_id: instance_id.to_string() },
    };
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
